"""Local aliases behave as the disk below them does: changes, replacements, links, permission bits, odd names."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from support.worlds import World, local

from aliasfs.errors import AccessDenied, AliasfsError, NotFound, StaleObject
from mountd.inodes import ROOT_INODE
from mountd.vfs import HandleNo

# Threads and the autojump clock do not go together: `ttl` is 0 here, or so long that it never passes.


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_bytes(b"0123456789")
    (root / "dir").mkdir()
    (root / "dir" / "inner").write_bytes(b"inner")
    return root


@pytest.fixture
async def world(root: Path) -> AsyncIterator[World]:
    world = World(local("L", root, ttl_s=0))
    await world.mount()
    yield world
    await world.vfs.aclose()


async def _bytes(world: World, handle: int, offset: int = 0, size: int = 100) -> bytes:
    return bytes(memoryview(await world.vfs.read(HandleNo(handle), offset, size)))


async def test_a_local_tree_is_shown_as_it_is(world: World, root: Path) -> None:
    assert sorted(await world.names("L")) == ["dir", "file"]
    assert await world.read("L/dir/inner") == b"inner"
    assert await world.vfs.getxattr(await world.number("L/dir/inner"), b"user.aliasfs.url") == os.fsencode(
        root / "dir/inner"
    )


async def test_owner_bits_and_times_are_those_of_the_disk(world: World, root: Path) -> None:
    os.utime(root / "file", ns=(1, 1_600_000_000_123_456_789))
    for path, bits in (("file", 0o4640), ("dir", 0o1711)):
        (root / path).chmod(bits)
        attr, real = (await world.walk(f"L/{path}")).attr, (root / path).stat()
        assert (attr.mode, attr.uid, attr.gid) == (real.st_mode, real.st_uid, real.st_gid)
        assert attr.mtime_ns == real.st_mtime_ns
    root.chmod(0o700)
    assert (await world.walk("L")).attr.mode == stat.S_IFDIR | 0o700


async def test_before_a_local_root_was_looked_at_it_lets_nobody_else_in(world: World) -> None:
    entries = list(await world.vfs.readdir(await world.vfs.opendir(ROOT_INODE), 0))
    attr = world.vfs.attr(entries[0].inode)
    assert stat.S_IMODE(attr.mode) & 0o077 == 0
    assert (attr.valid_s, entries[0].name_valid_s) == (0, 0)


async def test_a_file_that_grows_while_it_is_open_is_seen_to_grow(world: World, root: Path) -> None:
    number = await world.number("L/file")
    assert await _bytes(world, number) == b"0123456789"
    with (root / "file").open("ab") as file:
        file.write(b"abc")
    assert (await world.vfs.getattr(number)).size == 13
    assert await _bytes(world, number) == b"0123456789abc"


async def test_a_file_that_is_written_to_gives_what_is_there_now(world: World, root: Path) -> None:
    number = await world.number("L/file")
    assert await _bytes(world, number) == b"0123456789"
    with (root / "file").open("r+b") as file:
        file.write(b"XXXXX")
    assert await _bytes(world, number) == b"XXXXX56789"
    os.truncate(root / "file", 3)
    assert await _bytes(world, number) == b"XXX"
    assert await _bytes(world, number, 5, 5) == b""


async def test_a_file_that_was_replaced_keeps_its_bytes_for_those_who_read_it(world: World, root: Path) -> None:
    number = await world.number("L/file")
    assert await _bytes(world, number, 0, 4) == b"0123"
    (root / "fresh").write_bytes(b"abcdefghij")
    (root / "fresh").rename(root / "file")
    assert await _bytes(world, number, 4, 6) == b"456789"
    assert await world.number("L/file") != number
    assert await world.read("L/file") == b"abcdefghij"
    assert await _bytes(world, number, 4, 6) == b"456789"


async def test_a_file_that_was_replaced_before_its_first_read_is_stale_not_mixed(world: World, root: Path) -> None:
    number = await world.number("L/file")
    handle = await world.vfs.open(number, os.O_RDONLY)
    (root / "fresh").write_bytes(b"abcdefghij")
    (root / "fresh").rename(root / "file")
    with pytest.raises(StaleObject):
        await _bytes(world, handle)


async def test_a_file_that_was_deleted_keeps_its_bytes_for_those_who_read_it(world: World, root: Path) -> None:
    number = await world.number("L/file")
    assert await _bytes(world, number, 0, 4) == b"0123"
    (root / "file").unlink()
    assert await _bytes(world, number, 4, 6) == b"456789"
    assert (await world.vfs.getattr(number)).size == 10
    with pytest.raises(NotFound):
        await world.walk("L/file")


async def test_a_file_that_was_renamed_stays_the_same_file(world: World, root: Path) -> None:
    number = await world.number("L/file")
    assert await _bytes(world, number, 0, 4) == b"0123"
    (root / "file").rename(root / "dir" / "moved")
    assert await world.number("L/dir/moved") == number
    assert await _bytes(world, number, 4, 6) == b"456789"


async def test_two_names_of_one_file_are_one_inode(world: World, root: Path) -> None:
    (root / "other").hardlink_to(root / "file")
    assert await world.number("L/file") == await world.number("L/other")
    (root / "other").unlink()
    assert await world.read("L/file") == b"0123456789"


async def test_a_directory_in_the_place_of_a_file(world: World, root: Path) -> None:
    number = await world.number("L/file")
    (root / "file").unlink()
    (root / "file").mkdir()
    (root / "file" / "below").write_bytes(b"x")
    with pytest.raises(AliasfsError):
        await _bytes(world, number)
    assert await world.names("L/file") == ["below"]


async def test_links_within_the_root_are_shown_and_lead_where_they_lead(world: World, root: Path) -> None:
    for name, target in (
        ("near", "dir/inner"),
        ("dir/up", "../file"),
        ("absolute", str(root / "file")),
        ("loop", "loop"),
    ):
        (root / name).symlink_to(target)
    assert stat.S_ISLNK((await world.walk("L/near")).attr.mode)
    assert await world.vfs.readlink(await world.number("L/near")) == b"dir/inner"
    assert await world.vfs.readlink(await world.number("L/dir/up")) == b"../file"
    assert await world.vfs.readlink(await world.number("L/absolute")) == b"file"
    assert (await world.walk("L/near")).attr.size == len("dir/inner")


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../etc/passwd", "..", "/", "dir/../../root/file"])
async def test_links_out_of_the_root_are_refused(world: World, root: Path, target: str) -> None:
    (root / "out").symlink_to(target)
    assert "out" in await world.names("L")
    with pytest.raises(AccessDenied):
        await world.vfs.readlink(await world.number("L/out"))


async def test_a_directory_that_turns_into_a_link_out_shows_nothing_of_outside(
    world: World, root: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "inner").write_bytes(b"secret")
    number = await world.number("L/dir")
    (root / "dir" / "inner").unlink()
    (root / "dir").rmdir()
    (root / "dir").symlink_to(outside)
    with pytest.raises(AliasfsError):
        await world.vfs.lookup(number, b"inner")
    with pytest.raises(AliasfsError):
        await world.vfs.readdir(await world.vfs.opendir(number), 0)


@pytest.mark.parametrize("name", [b"\xff\xfe", b"new\nline", b"n" * 255, "ü".encode() * 127, b" ", b"-rf", b"a\\b"])
async def test_any_name_of_a_disk_is_shown(world: World, root: Path, name: bytes) -> None:
    (root / os.fsdecode(name)).write_bytes(b"odd")
    assert os.fsdecode(name) in await world.names("L")
    assert await world.read(f"L/{os.fsdecode(name)}") == b"odd"


async def test_sockets_pipes_and_devices_are_left_out(
    world: World, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(root / "pipe")
    assert sorted(await world.names("L")) == ["dir", "file"]
    with pytest.raises(NotFound):
        await world.walk("L/pipe")
    caplog.clear()


async def test_a_root_that_is_not_there_yet_appears(tmp_path: Path) -> None:
    world = World(local("L", tmp_path / "later", ttl_s=0))
    await world.mount()
    assert await world.names() == ["L"]
    with pytest.raises(NotFound):
        await world.walk("L")
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "x").write_bytes(b"x")
    assert await world.read("L/x") == b"x"
    await world.vfs.aclose()


async def test_a_root_that_was_replaced_is_the_new_one(world: World, root: Path) -> None:
    await world.read("L/file")
    root.rename(root.with_name("old"))
    root.mkdir()
    (root / "file").write_bytes(b"new")
    assert await world.read("L/file") == b"new"


async def test_a_shorter_ttl_is_obeyed_at_once_by_what_is_open(root: Path) -> None:
    world = World(local("L", root, ttl_s=3600))
    await world.mount()
    number = await world.number("L/file")
    with (root / "file").open("ab") as file:
        file.write(b"abc")
    assert (await world.vfs.getattr(number)).size == 10
    await world.mount(local("L", root, ttl_s=0))
    assert (await world.vfs.getattr(number)).size == 13
    assert (await world.walk("L/file")).attr.size == 13
    assert await world.read("L/file") == b"0123456789abc"
    await world.vfs.aclose()


async def test_many_read_one_local_file_at_once(world: World, root: Path) -> None:
    (root / "big").write_bytes(os.urandom(1 << 20))
    content = (root / "big").read_bytes()
    number = await world.number("L/big")

    async def read(offset: int) -> None:
        assert await _bytes(world, number, offset, 10_000) == content[offset : offset + 10_000]

    async with trio.open_nursery() as nursery:
        for index in range(64):
            nursery.start_soon(read, index * 16_000)


async def test_a_file_that_is_written_to_all_the_time_gives_bytes_or_an_error_but_no_wrong_length(
    world: World, root: Path
) -> None:
    number = await world.number("L/file")
    for round_ in range(50):
        (root / "file").write_bytes(bytes([round_]) * (round_ + 1))
        try:
            content = await _bytes(world, number)
        except AliasfsError:
            continue
        assert content == bytes([round_]) * (round_ + 1)
