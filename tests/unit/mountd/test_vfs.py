"""The file system of object stores as a kernel would ask it: names, versions, listings, aliases that come and go."""

from __future__ import annotations

import errno
import os
import stat

import pytest
import trio
from support.worlds import SETTINGS, World, remote
from trio.testing import MockClock

from aliasfs.errors import (
    AccessDenied,
    AliasfsError,
    ConfigError,
    CorruptObject,
    InvalidName,
    IsADirectory,
    NameTooLong,
    NoAttribute,
    NotADirectory,
    NotALink,
    NotFound,
    NotSupported,
    ReadOnly,
    StaleObject,
    StoreUnavailable,
)
from aliasfs.registry import Alias, Registry
from mountd.catalog import Catalog
from mountd.errnos import errno_of
from mountd.inodes import ROOT_INODE, InodeNo
from mountd.vfs import HandleNo, Vfs
from mountd.volumes import Volume

TTL_S = 60.0


@pytest.fixture
async def world(autojump_clock: MockClock) -> World:
    world = World(remote(ttl_s=TTL_S))
    world.store().put("d/a", b"first")
    world.store().put("top", b"0123456789")
    await world.mount()
    return world


# names


async def test_a_tree_of_keys_is_a_tree_of_files(world: World) -> None:
    assert await world.names() == ["R"]
    assert await world.names("R") == ["d", "top"]
    assert await world.names("R/d") == ["a"]
    assert await world.read("R/d/a") == b"first"


async def test_how_things_look_that_a_store_says_nothing_about(world: World) -> None:
    file, directory = (await world.walk("R/top")).attr, (await world.walk("R/d")).attr
    assert file.mode == stat.S_IFREG | 0o444
    assert directory.mode == stat.S_IFDIR | 0o555
    assert (file.size, directory.size) == (10, 0)
    assert (file.uid, file.gid) == (SETTINGS.uid, SETTINGS.gid)
    assert file.mtime_ns > 0
    assert directory.mtime_ns > 0
    root = await world.vfs.getattr(ROOT_INODE)
    assert stat.S_ISDIR(root.mode)
    assert root.number == ROOT_INODE


async def test_a_link_in_a_store_looks_like_a_link(world: World) -> None:
    world.store().put_link("link", "d/a")
    attr = (await world.walk("R/link")).attr
    assert stat.S_ISLNK(attr.mode)
    assert attr.size == len("d/a")
    assert await world.vfs.readlink(attr.number) == b"d/a"


async def test_a_name_is_valid_as_long_as_its_ttl_has_left(world: World, autojump_clock: MockClock) -> None:
    assert (await world.walk("R/top")).name_valid_s == TTL_S
    autojump_clock.jump(20)
    assert (await world.walk("R/top")).name_valid_s == TTL_S - 20
    number = await world.number("R")
    for entry in await world.vfs.readdir(await world.vfs.opendir(number), 0):
        assert 0 <= entry.name_valid_s <= TTL_S


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (b"none", NotFound),
        (b"n" * 255, NotFound),
        (b"n" * 256, NameTooLong),
        ("ü".encode() * 128, NameTooLong),
        (b"\xff\xfe", NotFound),
        (b".", InvalidName),
        (b"..", InvalidName),
        (b"", InvalidName),
        (b"d/a", InvalidName),
        (b"d\0a", InvalidName),
    ],
)
async def test_names_that_cannot_be_there(world: World, name: bytes, error: type[AliasfsError]) -> None:
    with pytest.raises(error):
        await world.vfs.lookup(await world.number("R"), name)


async def test_in_the_root_there_are_aliases_and_nothing_else(world: World) -> None:
    for name in (b"none", b"\xff", b".", b"..", b""):
        with pytest.raises((NotFound, InvalidName)):
            await world.vfs.lookup(ROOT_INODE, name)
    with pytest.raises(NameTooLong):
        await world.vfs.lookup(ROOT_INODE, b"N" * 256)


async def test_nothing_is_below_a_file(world: World) -> None:
    number = await world.number("R/top")
    with pytest.raises(NotADirectory):
        await world.vfs.lookup(number, b"x")
    with pytest.raises(NotADirectory):
        await world.vfs.opendir(number)
    with pytest.raises(NotALink):
        await world.vfs.readlink(number)


async def test_a_directory_is_not_read_as_a_file(world: World) -> None:
    for number in (ROOT_INODE, await world.number("R"), await world.number("R/d")):
        with pytest.raises(IsADirectory):
            await world.vfs.open(number, os.O_RDONLY)
        with pytest.raises(IsADirectory):
            await world.vfs.read(HandleNo(number), 0, 1)
        with pytest.raises(NotALink):
            await world.vfs.readlink(number)


@pytest.mark.parametrize(
    "key",
    [
        "with space",
        "new\nline",
        "tab\t",
        "ünï/ç",
        "-rf",
        "*",
        "😀",
        "a\\b",
        "x" * 255,
        "ü" * 127,
        "%2e%2e",
        "~",
        ".hidden",
        "...",
    ],
)
async def test_odd_keys_are_files_like_others(world: World, key: str) -> None:
    world.store().put(f"odd/{key}", key.encode())
    assert await world.names("R/odd") == [key.partition("/")[0]]
    assert await world.read(f"R/odd/{key}") == key.encode()


@pytest.mark.parametrize("key", ["a//b", "./a", "a/./b", "../a", "a/../../b", "nul\0", "x" * 256, "ü" * 128, "/abs"])
async def test_keys_that_no_path_can_say_are_left_out_and_break_nothing(
    world: World, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    world.store().put(f"odd/{key}", b"x")
    world.store().put("odd/good", b"y")
    names = await world.names("R/odd")
    assert set(names) <= {"good", "a"}
    assert await world.read("R/odd/good") == b"y"
    if "a" in names:
        await world.names("R/odd/a")
    assert "left out" in caplog.text
    caplog.clear()


async def test_a_key_beside_keys_below_it_is_hidden_by_the_directory(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.store().put("d", b"an object of the same name")
    world.store().put("d.txt", b"sorts between d and d/")
    assert await world.names("R") == ["d", "d.txt", "top"]
    assert stat.S_ISDIR((await world.walk("R/d")).attr.mode)
    assert await world.read("R/d/a") == b"first"
    caplog.clear()


async def test_an_empty_object_is_an_empty_file(world: World) -> None:
    world.store().put("empty", b"")
    assert await world.read("R/empty") == b""


async def test_an_alias_whose_place_is_empty_is_an_empty_directory(autojump_clock: MockClock) -> None:
    world = World(remote("E"))
    await world.mount()
    assert await world.names("E") == []


# reading


@pytest.mark.parametrize(
    ("offset", "size", "content"),
    [
        (0, 10, b"0123456789"),
        (0, 1, b"0"),
        (9, 1, b"9"),
        (9, 100, b"9"),
        (10, 1, b""),
        (11, 5, b""),
        (1 << 60, 1, b""),
        (3, 0, b""),
    ],
)
async def test_a_read_gives_what_is_there_and_less_only_at_the_end(
    world: World, offset: int, size: int, content: bytes
) -> None:
    handle = await world.vfs.open(await world.number("R/top"), os.O_RDONLY)
    assert bytes(memoryview(await world.vfs.read(handle, offset, size))) == content


@pytest.mark.parametrize(
    "flags", [os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_CREAT]
)
async def test_nothing_is_opened_for_writing(world: World, flags: int) -> None:
    with pytest.raises(ReadOnly):
        await world.vfs.open(await world.number("R/top"), flags)


async def test_flags_that_do_not_write_are_no_matter(world: World) -> None:
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_LARGEFILE | os.O_DIRECT | os.O_NOATIME
    assert await world.vfs.open(await world.number("R/top"), flags)


async def test_an_open_file_is_one_version_for_ever(world: World, autojump_clock: MockClock) -> None:
    number = await world.number("R/top")
    handle = await world.vfs.open(number, os.O_RDONLY)
    world.store().put("top", b"abcdefghij")
    with pytest.raises(StaleObject):
        await world.vfs.read(handle, 0, 10)
    with pytest.raises(StaleObject):
        await world.vfs.open(number, os.O_RDONLY)
    assert await world.number("R/top") != number
    assert await world.read("R/top") == b"abcdefghij"
    with pytest.raises(StaleObject):
        await world.vfs.read(handle, 0, 10)


async def test_a_version_that_comes_back_can_be_opened_again(world: World) -> None:
    number = await world.number("R/top")
    world.store().put("top", b"other")
    with pytest.raises(StaleObject):
        await world.vfs.read(HandleNo(number), 0, 10)
    world.store().put("top", b"0123456789")
    assert await world.number("R/top") == number
    assert await world.read("R/top") == b"0123456789"


async def test_an_object_that_was_removed_is_stale_and_then_not_there(world: World) -> None:
    number = await world.number("R/top")
    world.store().remove("top")
    with pytest.raises(StaleObject):
        await world.vfs.read(HandleNo(number), 0, 10)
    with pytest.raises(NotFound):
        await world.walk("R/top")


async def test_an_object_that_became_a_directory(world: World) -> None:
    number = await world.number("R/top")
    world.store().remove("top")
    world.store().put("top/below", b"x")
    with pytest.raises(StaleObject):
        await world.vfs.read(HandleNo(number), 0, 10)
    assert await world.names("R/top") == ["below"]


async def test_a_replacement_in_the_middle_of_a_read_gives_no_byte_of_either(world: World) -> None:
    handle = HandleNo(await world.number("R/top"))
    world.store().replace_during_read("top", b"abcdefghij")
    with pytest.raises(StaleObject):
        await world.vfs.read(handle, 0, 10)


async def test_a_store_that_is_away_does_not_make_a_version_stale(world: World) -> None:
    number = await world.number("R/top")
    for error in (StoreUnavailable, CorruptObject, AccessDenied):
        world.store().faults.fail("read", error)
        with pytest.raises(error):
            await world.vfs.read(HandleNo(number), 0, 10)
        assert bytes(memoryview(await world.vfs.read(HandleNo(number), 0, 10))) == b"0123456789"


async def test_a_name_is_at_most_ttl_old(world: World, autojump_clock: MockClock) -> None:
    await world.read("R/top")
    world.store().put("top", b"new")
    autojump_clock.jump(TTL_S)
    assert await world.read("R/top") == b"new"


async def test_bytes_are_counted(world: World) -> None:
    await world.read("R/top")
    assert world.vfs.statistics().bytes_read == 10


# listings


async def test_a_big_directory_is_read_in_pieces_of_any_size(autojump_clock: MockClock) -> None:
    world = World(remote())
    names = [f"{index:04}" for index in range(2500)]
    for name in names:
        world.store().put(f"d/{name}", b"")
    await world.mount()
    for at_once in (1, 7, 999, 1000, 1001, 10_000):
        assert await world.names("R/d", at_once=at_once) == names


async def test_a_reader_sees_one_state_of_a_directory_though_it_changes_and_is_listed_anew(
    world: World, autojump_clock: MockClock
) -> None:
    store = world.store()
    for name in "bcdef":
        store.put(f"d/{name}", b"")
    handle = await world.vfs.opendir(await world.number("R/d"))
    seen: list[str] = []
    cookie = 0
    while True:
        entry = next(iter(await world.vfs.readdir(handle, cookie)), None)
        if entry is None:
            break
        seen.append(os.fsdecode(entry.name))
        cookie = entry.cookie
        if len(seen) == 2:
            for name in "ade":
                store.remove(f"d/{name}")
            store.put("d/0", b"")
            autojump_clock.jump(TTL_S)
            assert await world.names("R/d") == ["0", "b", "c", "f"]
    assert seen == list("abcdef")
    assert await world.names("R/d") == ["0", "b", "c", "f"]


async def test_a_cookie_can_be_used_again(world: World) -> None:
    for name in "bcdef":
        world.store().put(f"d/{name}", b"")
    handle = await world.vfs.opendir(await world.number("R/d"))
    cookies = [entry.cookie for entry in await world.vfs.readdir(handle, 0)]
    for index, cookie in enumerate(cookies):
        assert [entry.name for entry in await world.vfs.readdir(handle, cookie)] == [
            name.encode() for name in "abcdef"[index + 1 :]
        ]


async def test_a_cookie_of_one_directory_shows_nothing_of_it_in_another(world: World) -> None:
    world.store().put("secret/hidden", b"")
    world.store().put("secret/hidden2", b"")
    secret = await world.vfs.opendir(await world.number("R/secret"))
    first = next(iter(await world.vfs.readdir(secret, 0)))
    public = await world.vfs.opendir(await world.number("R/d"))
    assert b"hidden2" not in [entry.name for entry in await world.vfs.readdir(public, first.cookie)]
    assert b"hidden2" not in [entry.name for entry in await world.vfs.readdir(HandleNo(ROOT_INODE), first.cookie)]


async def test_a_cookie_from_nowhere_is_no_matter(world: World) -> None:
    handle = await world.vfs.opendir(await world.number("R/d"))
    names = {entry.name for entry in await world.vfs.readdir(handle, 0)}
    aliases = {os.fsencode(name) for name in world.vfs.volumes}
    for cookie in (1, 5 << 32, (1 << 62) + 7, 0xFFFF_FFFF):
        assert {entry.name for entry in await world.vfs.readdir(handle, cookie)} <= names
        assert {entry.name for entry in await world.vfs.readdir(HandleNo(ROOT_INODE), cookie)} <= aliases


async def test_listing_leaves_no_inodes_behind_that_the_kernel_does_not_know(world: World) -> None:
    for index in range(100):
        world.store().put(f"d/{index}", b"")
    before = world.vfs.statistics().inodes
    handle = await world.vfs.opendir(await world.number("R/d"))
    for entry in await world.vfs.readdir(handle, 0):
        world.vfs.drop_unused(entry)
    assert world.vfs.statistics().inodes == before + 2


async def test_what_the_kernel_forgets_is_gone(world: World) -> None:
    counts = {InodeNo(ROOT_INODE): 1}
    for path in ("R", "R/d", "R/d/a"):
        number = await world.number(path)
        counts[number] = counts.get(number, 0) + 3
    world.vfs.forget(counts.items())
    assert world.vfs.statistics().inodes == 1
    assert await world.read("R/d/a") == b"first"


async def test_the_root_is_listed_while_every_store_hangs(world: World) -> None:
    for operation in ("stat", "list", "read"):
        world.store().faults.hang(operation)  # type: ignore[arg-type]
    with trio.fail_after(1):
        assert await world.names() == ["R"]
        await world.vfs.getattr(await world.number("R"))


async def test_an_error_of_the_store_is_said_not_shown_as_an_empty_directory(world: World) -> None:
    world.store().faults.fail("list", StoreUnavailable)
    with pytest.raises(StoreUnavailable):
        await world.names("R/d")
    world.store().faults.fail("stat", StoreUnavailable)
    with pytest.raises(StoreUnavailable):
        await world.walk("R/nothing")
    assert await world.names("R/d") == ["a"]


async def test_a_missing_bucket_is_said(world: World) -> None:
    world.store().remove_root()
    with pytest.raises(NotFound):
        await world.names("R")
    with pytest.raises(NotFound):
        await world.walk("R/d")


async def test_while_the_store_is_away_what_was_seen_stays_and_the_other_alias_is_untouched(
    autojump_clock: MockClock,
) -> None:
    world = World(remote("R"), remote("S"))
    for name in "RS":
        world.store(name).put("d/a", name.encode())
    await world.mount()
    assert await world.names("R/d") == ["a"]
    autojump_clock.jump(10 * TTL_S)
    for operation in ("stat", "list", "read"):
        world.store("R").faults.fail(operation, StoreUnavailable, times=1000)  # type: ignore[arg-type]
    assert await world.names() == ["R", "S"]
    assert await world.names("R/d") == ["a"]
    number = await world.number("R/d/a")
    with pytest.raises(StoreUnavailable) as caught:
        await world.vfs.read(HandleNo(number), 0, 1)
    assert errno_of(caught.value) == errno.EIO
    assert await world.read("S/d/a") == b"S"
    world.store("R").faults.clear()
    assert await world.read("R/d/a") == b"R"


# extended attributes


async def test_extended_attributes_say_where_a_file_comes_from(world: World) -> None:
    number = await world.number("R/d/a")
    facts = {name: await world.vfs.getxattr(number, name) for name in world.vfs.listxattr(number)}
    assert facts == {
        b"user.aliasfs.alias": b"R",
        b"user.aliasfs.url": b"memory://r/d/a",
        b"user.aliasfs.etag": world.store().object_id("d/a").etag.encode(),
        b"user.aliasfs.cached_bytes": b"0",
    }
    root = await world.number("R")
    assert await world.vfs.getxattr(root, b"user.aliasfs.url") == b"memory://r"
    assert set(world.vfs.listxattr(root)) == {b"user.aliasfs.alias", b"user.aliasfs.url"}
    assert list(world.vfs.listxattr(ROOT_INODE)) == []


async def test_other_attributes_are_absent_or_not_supported(world: World) -> None:
    for number in (ROOT_INODE, await world.number("R"), await world.number("R/top")):
        with pytest.raises(NoAttribute):
            await world.vfs.getxattr(number, b"user.none")
        with pytest.raises(NotSupported):
            await world.vfs.getxattr(number, b"security.capability")
        with pytest.raises((NotSupported, NoAttribute)):
            await world.vfs.getxattr(number, b"\xff\xfe")


# aliases that come and go


async def test_an_alias_appears_and_vanishes(world: World) -> None:
    handle = HandleNo(await world.number("R/top"))
    directory = await world.vfs.opendir(await world.number("R/d"))
    world.store("N").put("x", b"new")
    assert await world.mount(remote("R"), remote("N")) == []
    assert await world.names() == ["R", "N"]
    assert await world.read("N/x") == b"new"
    assert bytes(memoryview(await world.vfs.read(handle, 0, 3))) == b"012"
    assert await world.mount(remote("N")) == ["R"]
    assert await world.names() == ["N"]
    with pytest.raises(NotFound):
        await world.walk("R")
    with pytest.raises(StaleObject):
        await world.vfs.read(handle, 0, 3)
    with pytest.raises(StaleObject):
        await world.vfs.readdir(directory, 0)


async def test_an_inode_of_an_alias_that_is_gone_is_stale_in_every_way(world: World) -> None:
    file, directory = await world.number("R/top"), await world.number("R/d")
    world.store("N")
    await world.mount(remote("N"))
    with pytest.raises(StaleObject):
        await world.vfs.open(file, os.O_RDONLY)
    with pytest.raises(StaleObject):
        await world.vfs.opendir(directory)
    with pytest.raises(StaleObject):
        await world.vfs.lookup(directory, b"a")
    assert (await world.vfs.getattr(file)).size == 10
    world.vfs.forget([(file, 1), (directory, 1)])


async def test_an_alias_that_points_elsewhere_shows_nothing_of_before(world: World) -> None:
    before = [await world.number(path) for path in ("R", "R/d", "R/top")]
    elsewhere = remote("R", url="memory://elsewhere")
    assert await world.mount(elsewhere) == ["R"]
    world.store("R").put("d/a", b"first")
    world.store("R").put("top", b"0123456789")
    after = [await world.number(path) for path in ("R", "R/d", "R/top")]
    assert not set(before) & set(after)
    assert await world.names("R") == ["d", "top"]
    for number in before[1:]:
        with pytest.raises((StaleObject, IsADirectory)):
            await world.vfs.read(HandleNo(number), 0, 1)


async def test_an_alias_that_comes_back_is_another_volume(world: World) -> None:
    handle = HandleNo(await world.number("R/top"))
    world.store("N")
    await world.mount(remote("N"))
    await world.mount(remote("R"))
    with pytest.raises(StaleObject):
        await world.vfs.read(handle, 0, 3)
    assert await world.read("R/top") == b"0123456789"


async def test_a_new_ttl_keeps_open_files_open(world: World) -> None:
    handle = HandleNo(await world.number("R/top"))
    world.store().put("d/b", b"")
    assert await world.names("R/d") == ["a", "b"]
    world.store().put("d/c", b"")
    assert await world.mount(remote("R", ttl_s=1)) == ["R"]
    assert await world.names("R/d") == ["a", "b", "c"]
    assert bytes(memoryview(await world.vfs.read(handle, 0, 3))) == b"012"


async def test_mounting_the_same_again_changes_nothing(world: World) -> None:
    number = await world.number("R/top")
    assert await world.mount(remote("R")) == []
    assert await world.number("R/top") == number


async def test_an_alias_goes_at_once_though_its_store_hangs(world: World) -> None:
    world.store().faults.hang("list")
    world.store().faults.hang("read")
    number = await world.number("R/top")
    directory = await world.number("R/d")

    async def expect_stale(function: object, *args: object) -> None:
        with pytest.raises(AliasfsError):
            await function(*args)  # type: ignore[operator]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_stale, world.vfs.readdir, await world.vfs.opendir(directory), 0)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(5):
            assert await world.mount(remote("N")) == ["R"]
        nursery.cancel_scope.deadline = trio.current_time() + 5
    assert await world.names() == ["N"]
    with pytest.raises(StaleObject):
        await world.vfs.read(HandleNo(number), 0, 1)


async def test_a_registry_that_cannot_be_opened_changes_nothing_and_leaves_nothing_open(
    autojump_clock: MockClock,
) -> None:
    closed: list[str] = []
    world = World(remote("R"))
    world.store("R").put("a", b"x")

    class NotedVolume(Volume):
        async def aclose(self) -> None:
            closed.append(self.alias.name)
            await super().aclose()

    def open_volume(alias: Alias) -> Volume:
        if alias.name == "Z":
            raise ConfigError("nothing opens this")
        store = world.store(alias.name)
        return NotedVolume(alias, store, store, Catalog(store, alias.ttl_s))

    vfs = Vfs(open_volume, SETTINGS)
    await vfs.refresh(Registry([remote("R")]))
    with pytest.raises(ConfigError):
        await vfs.refresh(Registry([remote("B"), remote("C"), remote("Z")]))
    assert list(vfs.volumes) == ["R"]
    assert set(closed) <= {"B", "C"}
    assert await vfs.refresh(Registry([remote("B")])) == ["R"]
    await vfs.aclose()
    assert closed.count("R") == 1
    assert sorted(closed)[-1] == "R"


async def test_the_end_retires_every_alias(world: World) -> None:
    await world.vfs.aclose()
    assert await world.names() == []
