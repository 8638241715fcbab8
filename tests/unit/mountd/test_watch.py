"""No request is at work for ever: its deadline answers it, and a handler that cannot be ended ends the server."""

from __future__ import annotations

import errno
import logging
from typing import Any, NoReturn

import pyfuse3
import pytest
import trio
from support.worlds import World, remote
from trio.testing import MockClock

from aliasfs.errors import StoreUnavailable
from mountd.ops import Ops
from mountd.watch import EXIT_HANGS, watch_requests

HANG_TIMEOUT_S = 30.0
BY_KERNEL: Any = None


class Ended(Exception):
    """The server would be gone now."""


def _end(code: int) -> NoReturn:
    raise Ended(code)


@pytest.fixture
async def world() -> World:
    world = World(remote(ttl_s=0.0))
    world.store().put("file", b"0123456789")
    await world.mount()
    return world


@pytest.fixture
async def ops(world: World) -> Ops:
    return Ops(world.vfs, HANG_TIMEOUT_S * 0.9)


async def _attempt(ops: Ops, parent: int, name: bytes, codes: list[int]) -> None:
    """Look *name* up and add the errno that the kernel is given to *codes*."""
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await ops.lookup(pyfuse3.InodeT(parent), name, BY_KERNEL)
    codes.append(caught.value.errno)


def _shield(world: World, monkeypatch: pytest.MonkeyPatch) -> trio.Event:
    """Have every stat of the store wait where no cancellation reaches it; return the event that has it fail."""
    go_on = trio.Event()

    async def stat(key: str) -> NoReturn:
        with trio.CancelScope(shield=True):
            await go_on.wait()
        raise StoreUnavailable("it hung for too long")

    monkeypatch.setattr(world.store(), "stat", stat)
    return go_on


async def test_a_request_that_takes_too_long_is_answered_with_a_time_out_that_names_it(
    ops: Ops, world: World, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    world.store().faults.hang("stat")
    parent = await world.number("R")
    codes: list[int] = []
    start_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_requests, ops, HANG_TIMEOUT_S, _end)
        await _attempt(ops, parent, b"file", codes)
        nursery.cancel_scope.cancel()
    assert codes == [errno.ETIMEDOUT]
    assert HANG_TIMEOUT_S * 0.9 <= trio.current_time() - start_s < HANG_TIMEOUT_S
    assert ops.errors == {"ETIMEDOUT": 1}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "lookup 'file' of memory://r had no answer after" in caplog.text
    assert not ops.at_work()


async def test_those_who_ask_later_have_the_same_time(
    ops: Ops, world: World, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    world.store().faults.hang("stat")
    parent = await world.number("R")
    codes: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_requests, ops, HANG_TIMEOUT_S, _end)
        nursery.start_soon(_attempt, ops, parent, b"early", codes)
        await trio.sleep(10)
        nursery.start_soon(_attempt, ops, parent, b"late", codes)
        await trio.sleep(19)
        assert codes == [errno.ETIMEDOUT]
        [late] = ops.at_work()
        assert (late.operation, late.arguments[1], late.given_up_s) == ("lookup", b"late", None)
        await trio.sleep(10)
        assert codes == [errno.ETIMEDOUT] * 2
        nursery.cancel_scope.cancel()


async def test_a_handler_that_cannot_be_ended_ends_the_server_with_all_stacks_in_the_log(
    ops: Ops, world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    go_on = _shield(world, monkeypatch)
    parent = await world.number("R")
    start_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_attempt, ops, parent, b"file", [])
        try:
            with pytest.raises(Ended) as ended:
                await watch_requests(ops, HANG_TIMEOUT_S, _end)
        finally:
            go_on.set()
    assert ended.value.args == (EXIT_HANGS,)
    assert HANG_TIMEOUT_S <= trio.current_time() - start_s < HANG_TIMEOUT_S + 2
    assert "lookup 'file' of memory://r; this server ends" in caplog.text
    assert "test_watch.py" in caplog.text


async def test_a_server_that_was_stopped_for_a_while_does_not_take_that_for_a_hang(
    ops: Ops, world: World, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    world.store().faults.hang("stat")
    parent = await world.number("R")
    codes: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_requests, ops, HANG_TIMEOUT_S, _end)
        nursery.start_soon(_attempt, ops, parent, b"file", codes)
        await trio.sleep(0.5)
        autojump_clock.jump(1000)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert codes == [errno.ETIMEDOUT]


async def test_without_a_deadline_nothing_is_given_up(world: World, autojump_clock: MockClock) -> None:
    ops = Ops(world.vfs)
    world.store().faults.hang("stat")
    parent = await world.number("R")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_requests, ops, HANG_TIMEOUT_S, _end)
        nursery.start_soon(ops.lookup, pyfuse3.InodeT(parent), b"file", BY_KERNEL)
        await trio.sleep(1000)
        [request] = ops.at_work()
        assert request.given_up_s is None
        nursery.cancel_scope.cancel()
    assert not ops.at_work()
