"""The crossing between trio and asyncio: results, errors and cancellation arrive on the other side."""

from __future__ import annotations

import asyncio
import threading

import pytest
import trio

from aliasfs.errors import StoreUnavailable
from aliasfs.store.aio import AsyncioBridge


async def test_a_result_comes_back() -> None:
    async def double(number: int) -> int:
        await asyncio.sleep(0)
        return 2 * number

    bridge = AsyncioBridge()
    assert await bridge.call(double, 21) == 42
    await bridge.aclose()


async def test_an_error_comes_back() -> None:
    async def fail() -> None:
        raise KeyError("x")

    bridge = AsyncioBridge()
    with pytest.raises(KeyError):
        await bridge.call(fail)
    await bridge.aclose()


async def test_cancelling_waits_for_the_asyncio_task_to_end() -> None:
    events: list[str] = []
    started = threading.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0.01)
            events.append("cleaned up")

    bridge = AsyncioBridge()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bridge.call, work)
        await trio.to_thread.run_sync(started.wait)
        nursery.cancel_scope.cancel()
    assert events == ["cleaned up"]
    await bridge.aclose()


async def test_a_result_that_overtakes_the_cancellation_is_kept() -> None:
    async def stubborn() -> str:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            return "done anyway"
        return "never"

    bridge = AsyncioBridge()
    with trio.move_on_after(0.05):
        assert await bridge.call(stubborn) == "done anyway"
    await bridge.aclose()


async def test_a_cancellation_that_nobody_asked_for_is_an_error_of_the_store() -> None:
    async def give_up() -> None:
        raise asyncio.CancelledError

    bridge = AsyncioBridge()
    with pytest.raises(StoreUnavailable):
        await bridge.call(give_up)
    await bridge.aclose()


async def test_many_calls_share_one_thread() -> None:
    names: set[str] = set()

    async def note() -> None:
        names.add(threading.current_thread().name)

    bridge = AsyncioBridge()
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(bridge.call, note)
    assert names == {"aliasfs-asyncio"}
    await bridge.aclose()


async def test_closing_ends_the_thread_and_what_runs_in_it() -> None:
    bridge = AsyncioBridge()

    async def note() -> threading.Thread:
        return threading.current_thread()

    thread = await bridge.call(note)
    await bridge.aclose()
    await bridge.aclose()
    assert not thread.is_alive()
    with pytest.raises(StoreUnavailable, match="closed"):
        await bridge.call(note)
