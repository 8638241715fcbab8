"""What the memory store adds to the contract: faults that can be told, and counters."""

from __future__ import annotations

import pytest
import trio

from aliasfs.errors import CorruptObject, StaleObject, StoreUnavailable
from aliasfs.extents import Extent
from aliasfs.store.memory import MemoryStore


async def test_the_same_bytes_have_the_same_etag() -> None:
    store = MemoryStore()
    assert store.put("a", b"x") == store.put("b", b"x") != store.put("c", b"y")


async def test_an_injected_failure_is_raised_as_often_as_was_asked() -> None:
    store = MemoryStore()
    store.put("a", b"x")
    store.faults.fail("stat", StoreUnavailable, times=2)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await store.stat("a")
    assert (await store.stat("a")).size == 1
    assert store.requests["stat"] == 3


async def test_a_short_body_is_corrupt() -> None:
    store = MemoryStore()
    store.put("a", b"xyz")
    store.faults.short_body()
    with pytest.raises(CorruptObject):
        await store.read(store.object_id("a"), Extent(0, 3))
    assert await store.read(store.object_id("a"), Extent(0, 3)) == b"xyz"
    assert store.bytes_read == 3


async def test_an_object_replaced_during_a_read_is_stale() -> None:
    store = MemoryStore()
    store.put("a", b"old")
    store.replace_during_read("a", b"new")
    with pytest.raises(StaleObject):
        await store.read(store.object_id("a"), Extent(0, 3))
    assert await store.read(store.object_id("a"), Extent(0, 3)) == b"new"


async def test_calls_hang_until_they_are_released(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryStore()
    release = store.faults.hang("stat")
    with trio.move_on_after(3600) as scope:
        await store.stat("")
    assert scope.cancelled_caught
    release.set()
    await store.stat("")


async def test_a_delay_takes_its_time(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryStore()
    store.faults.delay("stat", 7)
    before = trio.current_time()
    await store.stat("")
    assert trio.current_time() - before == 7
