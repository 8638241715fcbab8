"""Local files after a server has died: what is on the disk now decides, and what is not looked at yet says nothing."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.restarts import bytes_of, check_stale
from support.worlds import World, local


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "dir").mkdir(parents=True)
    (root / "file").write_bytes(b"0123456789")
    (root / "dir" / os.fsdecode(b"\xff\n")).write_bytes(b"odd")
    return root


@pytest.fixture
async def on_disk(root: Path, tmp_path: Path) -> AsyncIterator[World]:
    world = World(local("L", root, ttl_s=1000), nodes=tmp_path / "table.nodes")
    await world.mount()
    yield world
    await world.vfs.aclose()


async def test_an_open_local_file_reads_on(on_disk: World) -> None:
    paths = ("L/file", os.fsdecode(b"L/dir/\xff\n"))
    numbers = [await on_disk.number(path) for path in paths]
    attrs = [await on_disk.vfs.getattr(number) for number in numbers]
    await on_disk.crash()
    assert [await bytes_of(on_disk, number) for number in numbers] == [b"0123456789", b"odd"]
    assert [(await on_disk.vfs.getattr(number))._replace(valid_s=0) for number in numbers] == [
        attr._replace(valid_s=0) for attr in attrs
    ]
    assert [await on_disk.number(path) for path in paths] == numbers


async def test_a_local_file_that_grew_meanwhile_is_read_to_its_new_end(on_disk: World, root: Path) -> None:
    number = await on_disk.number("L/file")
    with (root / "file").open("ab") as file:
        file.write(b"abc")
    await on_disk.crash()
    assert await bytes_of(on_disk, number) == b"0123456789abc"
    with (root / "file").open("ab") as file:
        file.write(b"def")
    await on_disk.crash()
    assert (await on_disk.vfs.getattr(number)).size == 16


async def test_a_local_file_that_was_replaced_meanwhile_is_stale(on_disk: World, root: Path) -> None:
    number = await on_disk.number("L/file")
    (root / "fresh").write_bytes(b"abcdefghij")
    (root / "fresh").rename(root / "file")
    await on_disk.crash()
    await check_stale(on_disk, number)
    assert await on_disk.read("L/file") == b"abcdefghij"


async def test_a_local_file_or_directory_that_was_deleted_meanwhile_is_stale(on_disk: World, root: Path) -> None:
    number, directory = await on_disk.number("L/file"), await on_disk.number("L/dir")
    (root / "file").unlink()
    (root / "dir").rename(root / "moved")
    await on_disk.crash()
    await check_stale(on_disk, number)
    await check_stale(on_disk, directory)


async def test_a_local_file_that_was_renamed_and_seen_is_found_again(on_disk: World, root: Path) -> None:
    number = await on_disk.number("L/file")
    (root / "file").rename(root / "renamed")
    assert await on_disk.number("L/renamed") == number
    await on_disk.crash()
    assert await bytes_of(on_disk, number) == b"0123456789"


async def test_two_names_of_one_local_file_are_forgotten_together(on_disk: World, root: Path) -> None:
    (root / "dir" / "one").write_bytes(b"1")
    (root / "dir" / "two").hardlink_to(root / "dir" / "one")
    await on_disk.names("L/dir")
    number = await on_disk.number("L/dir/one")
    await on_disk.crash()
    on_disk.vfs.forget([(number, 2)])
    assert await bytes_of(on_disk, number) == b"1"
    on_disk.vfs.forget([(number, 1)])
    await check_stale(on_disk, number)
