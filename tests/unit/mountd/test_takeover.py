"""A server dies without a word; the next one goes on with its numbers, versions and places in directories."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
from support.restarts import bytes_of, check_stale
from support.worlds import SETTINGS, World, remote
from trio.testing import MockClock

from aliasfs.errors import ConfigError, NotFound, StaleObject
from aliasfs.registry import Alias
from mountd.inodes import ROOT_INODE, InodeNo
from mountd.nodelog import MIN_COMPACTED_BYTES, NodeLog
from mountd.snapshots import END
from mountd.takeover import LOOK_EVERY_S, SLICE_NODES
from mountd.vfs import HandleNo, Vfs
from mountd.volumes import Volume


@pytest.fixture
async def world(tmp_path: Path, autojump_clock: MockClock) -> World:
    world = World(remote("R"), remote("S"), nodes=tmp_path / "table.nodes")
    for name in ("R", "S"):
        world.store(name).put("d/a", b"first")
        world.store(name).put("top", b"0123456789")
    await world.mount()
    return world


# files


async def test_an_open_file_reads_on(world: World) -> None:
    paths = ("R/top", "R/d/a", "S/top")
    numbers = [await world.number(path) for path in paths]
    for _ in range(3):
        await world.crash()
        assert [await bytes_of(world, number) for number in numbers] == [b"0123456789", b"first", b"0123456789"]
        assert [await world.number(path) for path in paths] == numbers
        assert world.vfs.statistics().restored == 6


async def test_an_open_file_is_the_version_that_was_opened(world: World) -> None:
    number = await world.number("R/top")
    world.store().put("top", b"other bytes")
    await world.crash()
    with pytest.raises(StaleObject):
        await bytes_of(world, number)
    assert await world.number("R/top") != number
    assert await world.read("R/top") == b"other bytes"


async def test_things_look_as_before(world: World) -> None:
    paths = ("R", "R/d", "R/top", "S")
    before = [(await world.walk(path)).attr for path in paths] + [await world.vfs.getattr(ROOT_INODE)]
    await world.crash()
    numbers = [attr.number for attr in before]
    assert [await world.vfs.getattr(number) for number in numbers] == before
    assert [(await world.walk(path)).attr for path in paths] == before[:-1]


async def test_numbers_of_two_servers_are_never_the_same(world: World) -> None:
    old = await world.number("R/top")
    await world.crash()
    new = await world.number("R/d/a")
    assert new >> 40 == 1
    assert old >> 40 == 0
    await world.crash()
    assert await world.number("S/d") >> 40 == 2


async def test_without_the_file_what_was_open_is_stale_and_no_other_file(world: World) -> None:
    number = await world.number("R/top")
    assert world.nodes is not None
    world.nodes.unlink()
    await world.crash()
    await check_stale(world, number)
    assert await world.number("R/top") != number


async def test_another_mount_takes_nothing_over(world: World) -> None:
    number = await world.number("R/top")
    world.begin(session="another")
    await world.mount()
    await check_stale(world, number)


async def test_what_the_kernel_has_forgotten_is_not_taken_over(world: World) -> None:
    number = await world.number("R/top")
    assert await world.number("R/top") == number
    await world.crash()
    world.vfs.forget([(number, 1), (999, 1)])
    await world.crash()
    assert await bytes_of(world, number) == b"0123456789"
    world.vfs.forget([(number, 1), (number, 1)])
    await world.crash()
    await check_stale(world, number)


async def test_a_clean_end_leaves_as_much_as_a_crash(world: World) -> None:
    number = await world.number("R/top")
    await world.vfs.aclose()
    world.begin()
    await world.mount()
    assert await bytes_of(world, number) == b"0123456789"


async def test_without_a_file_nothing_is_written_and_nothing_taken_over(autojump_clock: MockClock) -> None:
    world = World(remote())
    world.store().put("a", b"1")
    await world.mount()
    await world.names("R")
    assert (world.vfs.statistics().restored, world.vfs.statistics().node_bytes) == (0, 0)
    with trio.move_on_after(3 * LOOK_EVERY_S):
        await world.vfs.compact_nodes()


# aliases


async def test_an_alias_that_points_elsewhere_now_takes_nothing_over(world: World) -> None:
    number, other = await world.number("R/top"), await world.number("S/top")
    world.store("T").put("top", b"elsewhere!")
    await world.crash(remote("R", url="memory://t"), remote("S"))
    await check_stale(world, number)
    assert await bytes_of(world, other) == b"0123456789"
    assert await world.read("R/top") == b"elsewhere!"
    await world.crash()
    await check_stale(world, number)
    assert await bytes_of(world, other) == b"0123456789"


async def test_an_alias_that_pointed_elsewhere_meanwhile_takes_nothing_over(world: World) -> None:
    number = await world.number("R/top")
    await world.mount(remote("R", url="memory://t"), remote("S"))
    await world.mount(remote("R"), remote("S"))
    again = await world.number("R/top")
    with pytest.raises(StaleObject):
        await bytes_of(world, number)
    await world.crash()
    await check_stale(world, number)
    assert await bytes_of(world, again) == b"0123456789"


async def test_an_alias_that_is_set_back_between_two_servers_takes_nothing_over(world: World) -> None:
    number = await world.number("R/top")
    await world.mount(remote("R", url="memory://t"), remote("S"))
    await world.crash()
    await check_stale(world, number)
    assert await world.read("R/top") == b"0123456789"


async def test_an_alias_that_is_gone_takes_nothing_over_even_when_it_comes_back(world: World) -> None:
    number = await world.number("R/top")
    await world.crash(remote("S"))
    await check_stale(world, number)
    await world.mount(remote("R"), remote("S"))
    await check_stale(world, number)
    await world.crash()
    await check_stale(world, number)


async def test_an_alias_with_another_ttl_is_the_same(world: World) -> None:
    number = await world.number("R/top")
    await world.crash(remote("R", ttl_s=5), remote("S"))
    assert await bytes_of(world, number) == b"0123456789"


# directories


async def _read_some(
    world: World, number: int, cookie: int, at_once: int, *, lost: bool = False
) -> tuple[list[str], int]:
    """Return the next names and the cookie after them; of a reply that is *lost* the kernel hears nothing."""
    names = []
    start = cookie
    for entry in await world.vfs.readdir(HandleNo(number), cookie):
        if len(names) == at_once:
            world.vfs.drop_unused(entry)
            break
        world.vfs.count_lookup(entry)
        names.append(os.fsdecode(entry.name))
        cookie = entry.cookie
    world.vfs.record_told(HandleNo(number), cookie)
    return ([], start) if lost else (names, cookie)


async def _read_rest(world: World, number: int, cookie: int) -> list[str]:
    found: list[str] = []
    while names := (answer := await _read_some(world, number, cookie, 2))[0]:
        found += names
        cookie = answer[1]
    return found


@pytest.fixture
async def letters(world: World) -> InodeNo:
    """A directory of eight files."""
    for letter in "abcdefgh":
        world.store().put(f"letters/{letter}", letter.encode())
    return await world.number("R/letters")


@pytest.mark.parametrize("lost", [False, True])
async def test_a_reader_of_a_directory_that_changes_goes_on_by_name(world: World, letters: InodeNo, lost: bool) -> None:
    first, cookie = await _read_some(world, letters, 0, 3)
    await _read_some(world, letters, cookie, 2, lost=True)
    if not lost:
        more, cookie = await _read_some(world, letters, cookie, 2)
        first += more
    for key in ("0", "1", "2", "b2"):
        world.store().put(f"letters/{key}", b"new")
    world.store().remove("letters/a")
    await world.crash()
    more, cookie = await _read_some(world, letters, cookie, 1)
    world.store().remove("letters/b")
    await world.crash()
    rest = await _read_rest(world, letters, cookie)
    old = [name for name in (*first, *more, *rest) if name in "abcdefgh"]
    assert old == list("abcdefgh")


async def test_a_reader_who_has_all_but_does_not_know_it_gets_only_what_is_new(world: World, letters: InodeNo) -> None:
    names, cookie = await _read_some(world, letters, 0, 3)
    more, cookie = await _read_some(world, letters, cookie, 100)
    world.store().put("letters/0", b"new")
    await world.crash()
    last, cookie = await _read_some(world, letters, cookie, 100)
    assert [*names, *more] == list("abcdefgh")
    assert last == ["0"]
    assert (await _read_some(world, letters, cookie, 100))[0] == []


async def test_a_complete_listing_ends_with_a_cookie_that_says_so(world: World, letters: InodeNo) -> None:
    await world.names("R/letters")
    _, cookie = await _read_some(world, letters, 0, 100)
    assert cookie & END == END
    world.store().put("letters/0", b"new")
    await world.crash()
    assert (await _read_some(world, letters, cookie, 100))[0] == []


async def test_a_reader_of_the_root_goes_on_by_name(tmp_path: Path, autojump_clock: MockClock) -> None:
    aliases = [remote(name) for name in "ABCDEF"]
    world = World(*aliases, nodes=tmp_path / "table.nodes")
    await world.mount()
    names, cookie = await _read_some(world, ROOT_INODE, 0, 2)
    await world.crash(remote("X"), *reversed(aliases[1:]))
    assert sorted(names + await _read_rest(world, ROOT_INODE, cookie)) == list("ABCDEFX")


async def test_a_directory_that_is_gone_is_said_to_be_gone(world: World, letters: InodeNo) -> None:
    _, cookie = await _read_some(world, letters, 0, 3)
    for letter in "abcdefgh":
        world.store().remove(f"letters/{letter}")
    await world.crash()
    with pytest.raises(NotFound):
        await _read_some(world, letters, cookie, 3)


# the file stays small


async def _compacted(world: World) -> None:
    """Let the mover run until the file has been written anew once."""
    assert world.nodes is not None
    before = world.nodes.stat().st_ino
    with trio.move_on_after(1.5 * LOOK_EVERY_S):
        await world.vfs.compact_nodes()
    assert world.nodes.stat().st_ino != before


async def test_it_is_written_anew_with_all_that_lives(world: World, autojump_clock: MockClock) -> None:
    assert world.log is not None
    count = 2 * SLICE_NODES
    for at in range(count):
        world.store().put(f"many/{at:05}", b"%d" % at)
    many = await world.number("R/many")
    first, cookie = await _read_some(world, many, 0, count - 10)
    number = await world.number("R/top")
    world.log.append({"of a later version": "x" * MIN_COMPACTED_BYTES})
    await world.mount(remote("R"))
    await _compacted(world)
    assert world.vfs.statistics().node_bytes < MIN_COMPACTED_BYTES // 2
    inodes = len(world.vfs._inodes)
    world.store().remove("many/00000")
    await world.crash()
    assert world.vfs.statistics().inodes == inodes
    assert await bytes_of(world, number) == b"0123456789"
    assert first + await _read_rest(world, many, cookie) == [f"{at:05}" for at in range(count)]
    world.vfs.forget([(number, 1)])
    await check_stale(world, number)


async def test_what_happens_while_it_is_written_anew_is_not_lost(world: World) -> None:
    for at in range(3 * SLICE_NODES):
        world.store().put(f"many/{at:05}", b"%d" % at)
    await world.names("R/many")
    numbers = [await world.number(f"R/many/{at:05}") for at in range(3 * SLICE_NODES)]
    log = world.log
    assert log is not None

    async def meanwhile() -> None:
        await trio.lowlevel.checkpoint()
        world.vfs.forget([(numbers[0], 2), (numbers[-1], 2), (numbers[1], 1)])
        await world.number("R/many/00001")
        await world.number("S/top")
        await world.mount(remote("S"), remote("R"), remote("T"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.vfs._takeover._write_anew, log)
        nursery.start_soon(meanwhile)
    known = {inode.number: inode.lookups for inode in world.vfs._inodes.in_slices(9999).__next__()}
    await world.crash(remote("S"), remote("R"), remote("T"))
    assert {inode.number: inode.lookups for inode in world.vfs._inodes.in_slices(9999).__next__()} == known
    assert numbers[0] not in known
    assert known[numbers[1]] == 2


async def test_a_file_that_could_not_be_written_is_written_when_there_is_room(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    world = World(remote(), nodes=folder / "table.nodes")
    world.store().put("a", b"1")
    await world.mount()
    number = await world.number("R/a")
    folder.mkdir()
    with trio.move_on_after(2.5 * LOOK_EVERY_S):
        await world.vfs.compact_nodes()
    await world.crash()
    assert await bytes_of(world, number) == b"1"
    assert caplog.text.count("cannot be written") == 1


# who serves


async def test_the_root_says_who_serves_and_does_not_list_it(world: World) -> None:
    assert await world.vfs.getxattr(ROOT_INODE, b"user.aliasfs.server") == str(os.getpid()).encode()
    assert b"user.aliasfs.server" not in world.vfs.listxattr(ROOT_INODE)


async def test_a_configuration_that_cannot_be_mounted_takes_nothing_from_the_next_attempt(world: World) -> None:
    number = await world.number("R/top")
    assert world.nodes is not None

    def open_volume(alias: Alias) -> Volume:
        if alias.name == "BAD":
            raise ConfigError("no such thing")
        return world._open_volume(alias)

    world.vfs = Vfs(open_volume, SETTINGS, NodeLog.open(world.nodes, "session", 1))
    with pytest.raises(ConfigError):
        await world.mount(remote("R"), remote("BAD"))
    await world.mount()
    assert await bytes_of(world, number) == b"0123456789"
