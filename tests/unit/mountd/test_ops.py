"""The kernel's door: whatever happens behind it is an errno in front of it, counted, and logged where it should be."""

from __future__ import annotations

import errno
import inspect
import logging
import os
import stat
from typing import Any, NoReturn, cast

import pyfuse3
import pytest
import trio
from support.worlds import World, remote
from trio.testing import MockClock

from aliasfs.errors import StoreTimeout, StoreUnavailable
from mountd.blocks import BlockCache
from mountd.inodes import ROOT_INODE
from mountd.ops import Ops, replies
from mountd.vfs import Vfs

ROOT = pyfuse3.InodeT(ROOT_INODE)


@pytest.fixture
async def world(autojump_clock: MockClock) -> World:
    world = World(remote())
    world.store().put("file", b"0123456789")
    await world.mount()
    return world


@pytest.fixture
async def ops(world: World) -> Ops:
    return Ops(world.vfs)


async def _lookup(ops: Ops, *names: bytes) -> pyfuse3.EntryAttributes:
    number = ROOT
    for name in names:
        entry = await ops.lookup(number, name, None)  # type: ignore[arg-type]
        number = pyfuse3.InodeT(entry.st_ino)
    return entry


async def test_a_file_is_looked_up_opened_and_read(ops: Ops) -> None:
    entry = await _lookup(ops, b"R", b"file")
    assert entry.st_mode == stat.S_IFREG | 0o444
    assert (entry.st_size, entry.st_blocks, entry.st_nlink, entry.generation) == (10, 1, 1, 0)
    assert 59 < entry.entry_timeout <= 60
    assert entry.attr_timeout > 3600
    opened = await ops.open(pyfuse3.InodeT(entry.st_ino), os.O_RDONLY, None)  # type: ignore[arg-type]
    assert opened.fh == entry.st_ino
    assert opened.keep_cache
    assert bytes(memoryview(await ops.read(opened.fh, 3, 100))) == b"3456789"
    assert ops.requests == {"lookup": 2, "open": 1, "read": 1}
    assert not ops.errors


async def test_what_is_not_there_is_neither_an_error_nor_logged(ops: Ops, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await _lookup(ops, b"R", b"none")
    assert caught.value.errno == errno.ENOENT
    assert not ops.errors
    assert not caplog.records


@pytest.mark.parametrize(("error", "code"), [(StoreUnavailable, "EIO"), (StoreTimeout, "ETIMEDOUT")])
async def test_trouble_of_a_store_is_its_errno_counted_by_name_and_a_warning(
    ops: Ops, world: World, caplog: pytest.LogCaptureFixture, error: type[StoreUnavailable], code: str
) -> None:
    entry = await _lookup(ops, b"R", b"file")
    world.store().faults.fail("read", error)
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await ops.read(pyfuse3.FileHandleT(entry.st_ino), 0, 5)
    assert errno.errorcode[caught.value.errno] == code
    assert ops.errors == {code: 1}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_a_bug_of_ours_is_eio_with_a_traceback_in_the_log(
    ops: Ops, world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(key: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(world.store(), "stat", broken)
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await _lookup(ops, b"R", b"file")
    assert caught.value.errno == errno.EIO
    assert ops.errors == {"EIO": 1}
    assert "ZeroDivisionError" in caplog.text


class Ended(Exception):
    """The server would be gone now."""


def _end() -> NoReturn:
    raise Ended


@pytest.mark.parametrize("operation", ["stat", "read"])
async def test_a_request_that_finds_no_memory_is_not_answered_but_ends_the_server(
    world: World, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    async def starved(*_: object) -> NoReturn:
        try:
            raise MemoryError
        except MemoryError as exc:
            raise StoreUnavailable("R/file: the connection broke") from exc

    ops = Ops(world.vfs, out_of_memory=_end)
    number = (await _lookup(ops, b"R", b"file")).st_ino
    monkeypatch.setattr(world.store(), operation, starved)
    with pytest.raises(Ended):
        await (ops.read(pyfuse3.FileHandleT(number), 0, 5) if operation == "read" else _lookup(ops, b"R", b"other"))
    assert not ops.errors


async def test_the_kernel_is_not_told_of_a_lack_of_memory_behind_the_cache(caplog: pytest.LogCaptureFixture) -> None:
    """Nor where a block is fetched by a task of the cache for several readers."""
    async with trio.open_nursery() as nursery:
        cache = BlockCache(None)
        await nursery.start(cache.run)
        world = World(remote(), wrap=cache.wrap)
        world.store().put("file", b"0123456789")
        await world.mount()
        ops = Ops(world.vfs, out_of_memory=_end)
        number = (await _lookup(ops, b"R", b"file")).st_ino
        world.store().read = _no_thread  # type: ignore[assignment, method-assign]
        with pytest.raises(Ended):
            await ops.read(pyfuse3.FileHandleT(number), 0, 5)
        nursery.cancel_scope.cancel()
    assert not ops.errors


async def _no_thread(*_: object) -> NoReturn:
    raise RuntimeError("can't start new thread")


async def test_an_inode_that_nobody_knows_is_stale(ops: Ops, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await ops.getattr(pyfuse3.InodeT(4711), None)  # type: ignore[arg-type]
    assert caught.value.errno == errno.ESTALE


async def test_forget_never_raises(ops: Ops) -> None:
    await ops.forget([(pyfuse3.InodeT(4711), 3), (ROOT, 99)])
    assert (await ops.getattr(ROOT, None)).st_ino == ROOT_INODE  # type: ignore[arg-type]


async def test_flush_alone_says_enosys(ops: Ops) -> None:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await ops.flush(pyfuse3.FileHandleT(1))
    assert caught.value.errno == errno.ENOSYS


async def test_statfs_has_room_for_tools_that_look_for_it(ops: Ops) -> None:
    facts = await ops.statfs(None)  # type: ignore[arg-type]
    assert facts.f_bfree == facts.f_bavail == facts.f_blocks > 0
    assert facts.f_namemax == 255


async def test_extended_attributes(ops: Ops) -> None:
    number = pyfuse3.InodeT((await _lookup(ops, b"R", b"file")).st_ino)
    assert await ops.getxattr(number, b"user.aliasfs.alias", None) == b"R"  # type: ignore[arg-type]
    for name, code in ((b"user.none", errno.ENODATA), (b"security.capability", errno.EOPNOTSUPP)):
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await ops.getxattr(number, name, None)  # type: ignore[arg-type]
        assert caught.value.errno == code
    assert not ops.errors


def test_every_handler_that_may_fail_turns_errors_into_replies() -> None:
    bare = {
        name
        for name, handler in vars(Ops).items()
        if hasattr(pyfuse3.Operations, name) and inspect.iscoroutinefunction(handler)
        if not hasattr(handler, "__wrapped__")
    }
    assert bare == {"forget", "flush", "release", "releasedir"}
    assert callable(replies)


class _Falling:
    """A file system that comes down while it is asked, and says so in its own words."""

    async def getattr(self, number: int) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise StoreUnavailable("the cache is closing")


async def test_a_server_that_comes_down_answers_nothing() -> None:
    ops = Ops(cast(Vfs, _Falling()))
    with trio.CancelScope() as server:
        server.cancel()
        await ops.getattr(cast(Any, 2), cast(Any, None))
    assert server.cancelled_caught, "an answer is an error to whoever asked, where the next server has a better one"
    assert not ops.errors
