"""Deadlines, quick failing and health, on a virtual clock."""

from __future__ import annotations

from contextlib import aclosing

import pytest
import trio
from trio.testing import MockClock

from aliasfs.errors import AccessDenied, NotFound, StoreTimeout, StoreUnavailable
from aliasfs.extents import Extent
from aliasfs.store.base import ObjectId, Store
from aliasfs.store.guard import GuardConfig, GuardedStore
from aliasfs.store.memory import MemoryStore


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore()
    made.put("d/f", b"12345")
    return made


@pytest.fixture
def guarded(store: MemoryStore) -> GuardedStore:
    return GuardedStore(store, "A", GuardConfig(request_timeout_s=10, concurrency=2))


async def break_down(store: MemoryStore, guarded: GuardedStore, times: int = 3) -> None:
    store.faults.fail("stat", StoreUnavailable, times=times)
    for _ in range(times):
        with pytest.raises(StoreUnavailable):
            await guarded.stat("d/f")


async def test_it_is_a_store_like_the_one_it_wraps(
    store: MemoryStore, guarded: GuardedStore, autojump_clock: MockClock
) -> None:
    assert isinstance(guarded, Store)
    assert guarded.target == store.target
    info = await guarded.stat("d/f")
    oid = ObjectId(guarded.target, "d/f", info.etag, info.size)
    assert await guarded.read(oid, Extent(1, 3)) == b"23"
    assert [page async for page in guarded.list("d")] == [[info]]
    health = guarded.health()
    assert (health.requests, health.errors, health.bytes_read) == (4, 0, 2)
    assert health.last_ok_s is not None


async def test_a_call_that_hangs_times_out(
    store: MemoryStore, guarded: GuardedStore, autojump_clock: MockClock
) -> None:
    store.faults.hang("stat")
    before = trio.current_time()
    with pytest.raises(StoreTimeout, match=r"alias A: .*10 s"):
        await guarded.stat("d/f")
    assert trio.current_time() - before == 10


async def test_a_long_read_gets_more_time(store: MemoryStore, guarded: GuardedStore, autojump_clock: MockClock) -> None:
    store.put("big", bytes(1_280_000))
    store.faults.delay("read", 29)
    assert len(bytes(await guarded.read(store.object_id("big"), Extent(0, 1_280_000)))) == 1_280_000
    with pytest.raises(StoreTimeout):
        await guarded.read(store.object_id("big"), Extent(0, 64_000))


@pytest.mark.warns_in_log
async def test_after_three_failures_calls_fail_at_once(
    store: MemoryStore, guarded: GuardedStore, autojump_clock: MockClock
) -> None:
    await break_down(store, guarded)
    asked = store.requests["stat"]
    before = trio.current_time()
    with pytest.raises(StoreUnavailable, match="down"):
        await guarded.stat("d/f")
    assert store.requests["stat"] == asked
    assert trio.current_time() == before
    assert guarded.health().is_down


@pytest.mark.warns_in_log
async def test_one_call_probes_and_brings_it_back(
    store: MemoryStore, guarded: GuardedStore, autojump_clock: MockClock
) -> None:
    await break_down(store, guarded)
    await trio.sleep(2)
    store.faults.delay("stat", 1)
    refused = 0

    async def ask() -> None:
        nonlocal refused
        try:
            await guarded.stat("d/f")
        except StoreUnavailable:
            refused += 1

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
    assert refused == 4
    assert not guarded.health().is_down
    assert guarded.health().consecutive_failures == 0


@pytest.mark.warns_in_log
async def test_each_pause_is_twice_the_last_up_to_a_limit(
    store: MemoryStore, guarded: GuardedStore, autojump_clock: MockClock
) -> None:
    await break_down(store, guarded)
    pauses = []
    for _ in range(6):
        down_until_s = guarded.health().down_until_s
        assert down_until_s is not None
        pauses.append(down_until_s - trio.current_time())
        await trio.sleep_until(down_until_s)
        await break_down(store, guarded, times=1)
    assert pauses == [2, 4, 8, 16, 30, 30]


async def test_answers_are_no_failures(store: MemoryStore, guarded: GuardedStore, autojump_clock: MockClock) -> None:
    for _ in range(5):
        with pytest.raises(NotFound):
            await guarded.stat("nothing")
        store.faults.fail("stat", AccessDenied)
        with pytest.raises(AccessDenied):
            await guarded.stat("d/f")
    health = guarded.health()
    assert (health.errors, health.consecutive_failures, health.is_down) == (0, 0, False)


async def test_no_more_requests_at_once_than_allowed(
    store: MemoryStore, guarded: GuardedStore, autojump_clock: MockClock
) -> None:
    store.faults.delay("stat", 3)
    before = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(guarded.stat, "d/f")
    assert trio.current_time() - before == 9


async def test_who_waits_in_vain_for_a_turn_does_not_blame_the_store(
    store: MemoryStore, guarded: GuardedStore, autojump_clock: MockClock
) -> None:
    store.faults.delay("stat", 9)
    timed_out = 0

    async def ask() -> None:
        nonlocal timed_out
        try:
            await guarded.stat("d/f")
        except StoreTimeout:
            timed_out += 1

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ask)
    assert timed_out == 8
    assert guarded.health().consecutive_failures <= 2


async def test_a_listing_that_is_stopped_early_is_closed(
    store: MemoryStore, guarded: GuardedStore, autojump_clock: MockClock
) -> None:
    async with aclosing(guarded.list("")) as pages:
        async for _ in pages:
            break


async def test_health_tells_the_last_error_and_latency(
    store: MemoryStore, guarded: GuardedStore, autojump_clock: MockClock
) -> None:
    store.faults.delay("stat", 0.5)
    await guarded.stat("d/f")
    assert guarded.health().mean_latency_ms == pytest.approx(500)
    store.faults.fail("stat", StoreUnavailable)
    with pytest.raises(StoreUnavailable):
        await guarded.stat("d/f")
    assert "injected" in guarded.health().last_error
