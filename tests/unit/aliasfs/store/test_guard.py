"""Patience with outages, deadlines, quick failing and health, on a virtual clock."""

from __future__ import annotations

from contextlib import aclosing, suppress

import pytest
import trio
from trio.testing import MockClock

from aliasfs.errors import (
    AccessDenied,
    AliasfsError,
    CorruptObject,
    NotFound,
    StaleObject,
    StoreTimeout,
    StoreUnavailable,
)
from aliasfs.extents import Extent
from aliasfs.store.base import ObjectId, Store
from aliasfs.store.guard import GuardConfig, GuardedStore
from aliasfs.store.memory import MemoryStore, Operation


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore()
    made.put("d/f", b"12345")
    return made


@pytest.fixture
def guarded(store: MemoryStore) -> GuardedStore:
    return GuardedStore(store, "A", GuardConfig(request_timeout_s=10, concurrency=2))


FOR_EVER = 100_000


def go_away(store: MemoryStore, operation: Operation = "stat", error: type[AliasfsError] = StoreUnavailable) -> None:
    store.faults.fail(operation, error, times=FOR_EVER)


async def go_away_for(seconds: float, store: MemoryStore, *operations: Operation) -> None:
    for operation in operations:
        go_away(store, operation)
    await trio.sleep(seconds)
    store.faults.clear()


async def break_down(store: MemoryStore, guarded: GuardedStore) -> None:
    go_away(store)
    with pytest.raises(StoreUnavailable, match="injected"):
        await guarded.stat("d/f")
    assert guarded.health().is_down


async def duration(guarded: GuardedStore, key: str = "d/f") -> float:
    """Return how long a stat takes, whether it ends well or in StoreUnavailable or StoreTimeout."""
    began_s = trio.current_time()
    with suppress(StoreUnavailable, StoreTimeout):
        await guarded.stat(key)
    return trio.current_time() - began_s


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
    store.put("big", bytes(640_000))
    store.faults.delay("read", 19)
    assert len(bytes(await guarded.read(store.object_id("big"), Extent(0, 640_000)))) == 640_000
    with pytest.raises(StoreTimeout):
        await guarded.read(store.object_id("big"), Extent(0, 64_000))


@pytest.mark.warns_in_log
async def test_a_long_read_has_no_more_time_than_others_once_it_has_failed(
    store: MemoryStore, guarded: GuardedStore, autojump_clock: MockClock
) -> None:
    store.put("big", bytes(640_000))
    store.faults.delay("read", 6)
    store.faults.fail("read", StoreTimeout, times=9)
    before = trio.current_time()
    with pytest.raises(StoreTimeout):
        await guarded.read(store.object_id("big"), Extent(0, 640_000))
    assert trio.current_time() - before == 10


async def test_a_long_read_that_breaks_off_late_is_an_error_at_once(
    store: MemoryStore, guarded: GuardedStore, autojump_clock: MockClock
) -> None:
    store.put("big", bytes(640_000))
    store.faults.delay("read", 15)
    store.faults.fail("read", StoreUnavailable)
    before = trio.current_time()
    with pytest.raises(StoreUnavailable):
        await guarded.read(store.object_id("big"), Extent(0, 640_000))
    assert trio.current_time() - before == 15


async def test_no_call_is_longer_than_the_longest(store: MemoryStore, autojump_clock: MockClock) -> None:
    guarded = GuardedStore(store, "A", GuardConfig(request_timeout_s=10, longest_s=15))
    store.put("big", bytes(4_000_000))
    store.faults.hang("read")
    before = trio.current_time()
    with pytest.raises(StoreTimeout, match="15 s"):
        await guarded.read(store.object_id("big"), Extent(0, 4_000_000))
    assert trio.current_time() - before == 15


async def test_an_outage_shorter_than_the_time_out_is_a_stall_and_no_error(
    store: MemoryStore, guarded: GuardedStore, autojump_clock: MockClock
) -> None:
    oid = store.object_id("d/f")
    took_s = []

    async def ask(after_s: float) -> None:
        await trio.sleep(after_s)
        took_s.append(await duration(guarded))
        assert await guarded.read(oid, Extent(0, 5)) == b"12345"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go_away_for, 8, store, "stat", "read")
        for after_s in (0.01, 1, 4, 7, 7.5):
            nursery.start_soon(ask, after_s)
    assert all(took < 10 for took in took_s)
    health = guarded.health()
    assert health.consecutive_failures == 0
    assert health.errors == health.requests - 10, "each call succeeded in the end"


@pytest.mark.warns_in_log
async def test_a_longer_outage_is_an_error_in_time_and_then_at_once(
    store: MemoryStore, guarded: GuardedStore, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(go_away_for, 60, store, "stat")
        await trio.sleep(0.01)
        assert await duration(guarded) == pytest.approx(10)
        assert guarded.health().is_down
        at_once = 0
        while guarded.health().is_down:
            at_once += await duration(guarded) == 0
            await trio.sleep(1)
        assert at_once > 40
    assert await duration(guarded) == 0
    assert guarded.health().consecutive_failures == 0


@pytest.mark.warns_in_log
async def test_who_comes_during_an_outage_has_patience_of_its_own(
    store: MemoryStore, guarded: GuardedStore, autojump_clock: MockClock
) -> None:
    go_away(store)
    took_s: dict[float, float] = {}

    async def ask(after_s: float) -> None:
        await trio.sleep(after_s)
        took_s[after_s] = await duration(guarded)

    async with trio.open_nursery() as nursery:
        for after_s in (0, 9, 11):
            nursery.start_soon(ask, after_s)
    assert took_s == {0: pytest.approx(10), 9: pytest.approx(10), 11: 0}


async def test_failures_far_apart_are_no_outage(
    store: MemoryStore, guarded: GuardedStore, autojump_clock: MockClock
) -> None:
    for _ in range(3):
        go_away(store)
        with trio.move_on_after(1):
            await guarded.stat("d/f")
        await trio.sleep(60)
    assert not guarded.health().is_down
    async with trio.open_nursery() as nursery:
        nursery.start_soon(go_away_for, 8, store, "stat")
        await trio.sleep(0.01)
        await guarded.stat("d/f")


async def test_the_pauses_grow_so_that_a_store_in_trouble_is_not_stormed(
    store: MemoryStore, autojump_clock: MockClock
) -> None:
    guarded = GuardedStore(store, "A", GuardConfig(request_timeout_s=25))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(go_away_for, 20, store, "stat")
        await trio.lowlevel.checkpoint()
        await guarded.stat("d/f")
    assert 10 < store.requests["stat"] < 30


async def test_an_attempt_that_the_store_leaves_without_an_answer_is_made_again(
    store: MemoryStore, guarded: GuardedStore, autojump_clock: MockClock
) -> None:
    store.faults.delay("stat", 6)
    store.faults.fail("stat", StoreTimeout)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(guarded.stat, "d/f")
        await trio.sleep(5)
        store.faults.delay("stat", 0)


@pytest.mark.parametrize("error", [AccessDenied, NotFound, StaleObject, CorruptObject])
async def test_an_answer_is_never_asked_for_twice(
    store: MemoryStore, guarded: GuardedStore, autojump_clock: MockClock, error: type[AliasfsError]
) -> None:
    store.faults.fail("stat", error)
    with pytest.raises(error):
        await guarded.stat("d/f")
    assert store.requests["stat"] == 1


async def test_one_alias_in_trouble_does_not_slow_another(
    store: MemoryStore, guarded: GuardedStore, autojump_clock: MockClock
) -> None:
    well = GuardedStore(store, "B", GuardConfig(request_timeout_s=10, concurrency=2))
    go_away(store, "readlink")
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(guarded.readlink, "d/f")
        await trio.sleep(3)
        assert await duration(well) == 0
        nursery.cancel_scope.cancel()


async def test_a_call_that_waits_for_the_store_holds_no_turn(
    store: MemoryStore, guarded: GuardedStore, autojump_clock: MockClock
) -> None:
    go_away(store, "readlink")
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(guarded.readlink, "d/f")
        await trio.sleep(3)
        assert await duration(guarded) == 0
        nursery.cancel_scope.cancel()


async def test_closing_ends_the_patience(store: MemoryStore, guarded: GuardedStore, autojump_clock: MockClock) -> None:
    go_away(store)
    began_s = trio.current_time()
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(StoreUnavailable):
                await guarded.stat("d/f")

        nursery.start_soon(ask)
        await trio.sleep(3)
        await guarded.aclose()
    assert trio.current_time() - began_s == 3
    assert not guarded.health().is_down


@pytest.mark.warns_in_log
async def test_one_call_probes_and_brings_it_back(
    store: MemoryStore, guarded: GuardedStore, autojump_clock: MockClock
) -> None:
    await break_down(store, guarded)
    store.faults.clear()
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
        asked = store.requests["stat"]
        assert await duration(guarded) == 0
        assert store.requests["stat"] == asked + 1, "a probe has one attempt"
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


@pytest.mark.parametrize("page", [0, 1, 2])
async def test_a_listing_that_breaks_off_is_gone_on_with(autojump_clock: MockClock, page: int) -> None:
    store = MemoryStore(page_keys=2)
    for name in "abcdef":
        store.put(name, b"")
    guarded = GuardedStore(store, "A", GuardConfig(request_timeout_s=10))
    names: list[str] = []
    async with aclosing(guarded.list("")) as pages:
        for _ in range(page):
            names += [info.name for info in await anext(pages)]
        store.put("0", b"comes while the listing is under way")
        store.faults.fail("list", StoreUnavailable, times=5)
        names += [info.name for rest in [rest async for rest in pages] for info in rest]
    assert sorted(names) == list("0abcdef")


@pytest.mark.warns_in_log
async def test_a_listing_that_stays_broken_is_an_error_and_never_an_end(autojump_clock: MockClock) -> None:
    store = MemoryStore(page_keys=2)
    for name in "abcdef":
        store.put(name, b"")
    guarded = GuardedStore(store, "A", GuardConfig(request_timeout_s=10))
    async with aclosing(guarded.list("")) as pages:
        await anext(pages)
        go_away(store, "list")
        with pytest.raises(StoreUnavailable):
            await anext(pages)


async def test_health_tells_the_last_error_and_latency(
    store: MemoryStore, guarded: GuardedStore, autojump_clock: MockClock
) -> None:
    store.faults.delay("stat", 0.5)
    await guarded.stat("d/f")
    assert guarded.health().mean_latency_ms == pytest.approx(500)
    go_away(store)
    with trio.move_on_after(1):
        await guarded.stat("d/f")
    assert "injected" in guarded.health().last_error
