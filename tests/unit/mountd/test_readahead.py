"""The read-ahead policy by what it sees and says, and the wrapper over a real cache."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from support.counting_content import CountingContent

from aliasfs.extents import Extent, ExtentMap
from aliasfs.store.base import Etag, ObjectId
from mountd.blocks import BlockCache, BlockCacheSettings
from mountd.readahead import ReadAhead, ReadAheadPolicy, ReadAheadSettings

MIB = 1 << 20
KIB = 1 << 10


def oid_of(size: int, key: str = "k") -> ObjectId:
    return ObjectId("t", key, Etag("1"), size)


def sequence(size: int, step: int, start: int = 0) -> list[Extent]:
    return [Extent(at, min(at + step, size)) for at in range(start, size, step)]


def ahead_of(policy: ReadAheadPolicy, oid: ObjectId, extents: Iterable[Extent]) -> list[Extent]:
    return [window for extent in extents if (window := policy.observe(oid, extent))]


def test_a_sequential_reader_gets_windows_that_grow_to_the_limit_and_meet() -> None:
    oid = oid_of(1024 * MIB)
    policy = ReadAheadPolicy()
    position, furthest, leads = 0, 0, []
    for extent in sequence(oid.size, MIB):
        window = policy.observe(oid, extent)
        position = extent.stop
        if window:
            assert window.start >= furthest
            furthest = window.stop
        leads.append(furthest - position)
    assert leads[0] <= 0
    assert leads[1] == MIB
    assert max(leads) == 64 * MIB
    assert min(leads[20:-64]) >= 60 * MIB
    assert furthest == oid.size


def test_nothing_is_asked_for_twice_and_nothing_is_left_out() -> None:
    oid = oid_of(300 * MIB + 12345)
    windows = ahead_of(ReadAheadPolicy(), oid, sequence(oid.size, 128 * KIB))
    assert windows[-1].stop == oid.size
    assert all(a.stop == b.start for a, b in itertools.pairwise(windows))


def test_requests_out_of_order_are_one_stream() -> None:
    oid = oid_of(256 * MIB)
    shuffled = sequence(oid.size, MIB)
    chance = random.Random(7)
    for at in range(0, len(shuffled), 3):
        three = shuffled[at : at + 3]
        chance.shuffle(three)
        shuffled[at : at + 3] = three
    policy = ReadAheadPolicy()
    windows = ahead_of(policy, oid, shuffled)
    covered = ExtentMap(windows)
    assert len(covered.missing(Extent(8 * MIB, oid.size))) == 0


def test_interleaved_readers_of_one_object_each_get_theirs() -> None:
    oid = oid_of(400 * MIB)
    halves = [sequence(200 * MIB, MIB), sequence(400 * MIB, MIB, 200 * MIB)]
    covered = ExtentMap(ahead_of(ReadAheadPolicy(), oid, [e for pair in zip(*halves, strict=True) for e in pair]))
    assert covered.covers(Extent(8 * MIB, 190 * MIB))
    assert covered.covers(Extent(208 * MIB, 390 * MIB))


def test_random_readers_get_nothing_to_speak_of() -> None:
    oid = oid_of(1024 * MIB)
    chance = random.Random(3)
    starts = [chance.randrange(0, oid.size - 4096) for _ in range(2000)]
    windows = ahead_of(ReadAheadPolicy(), oid, [Extent(start, start + 4096) for start in starts])
    assert sum(window.length for window in windows) <= 10 * MIB


def test_reading_backwards_gets_nothing() -> None:
    oid = oid_of(64 * MIB)
    assert not ahead_of(ReadAheadPolicy(), oid, reversed(sequence(oid.size, 128 * KIB)))


def test_a_small_gap_does_not_end_a_stream() -> None:
    oid = oid_of(256 * MIB)
    strided = [Extent(at, at + 128 * KIB) for at in range(0, oid.size, 256 * KIB)]
    assert ExtentMap(ahead_of(ReadAheadPolicy(), oid, strided)).covers(Extent(8 * MIB, oid.size))


def test_a_small_object_is_fetched_whole_at_the_first_read() -> None:
    oid = oid_of(700_000)
    assert ReadAheadPolicy().observe(oid, Extent(0, 4096)) == Extent(0, 700_000)


def test_many_streams_share_what_one_would_have() -> None:
    policy = ReadAheadPolicy()
    oids = [oid_of(512 * MIB, f"k{i}") for i in range(16)]
    leads = dict.fromkeys(oids, 0)
    for at in range(0, 200 * MIB, MIB):
        for oid in oids:
            window = policy.observe(oid, Extent(at, at + MIB))
            leads[oid] = max(leads[oid], window.stop) if window else leads[oid]
    assert sum(stop - 200 * MIB for stop in leads.values()) <= 80 * MIB
    assert all(stop > 200 * MIB for stop in leads.values())


def test_a_window_that_fell_short_is_given_again() -> None:
    oid = oid_of(100 * MIB)
    policy = ReadAheadPolicy()
    policy.observe(oid, Extent(0, MIB))
    window = policy.observe(oid, Extent(MIB, 2 * MIB))
    assert window == Extent(2 * MIB, 3 * MIB)
    policy.fell_short(oid, window, 2 * MIB)
    following = policy.observe(oid, Extent(2 * MIB, 3 * MIB))
    assert following == Extent(3 * MIB, 5 * MIB)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40 * MIB), st.integers(1, MIB)), max_size=60))
def test_windows_stay_within_their_object_and_the_tables_are_bounded(reads: list[tuple[int, int, int]]) -> None:
    policy = ReadAheadPolicy(ReadAheadSettings(objects=2))
    for key, start, length in reads:
        oid = oid_of(40 * MIB + 1 - key, str(key))
        extent = Extent(start, start + length).clip(oid.size)
        window = policy.observe(oid, extent) if extent.length else None
        assert window is None or 0 <= window.start < window.stop <= oid.size
    assert len(policy) <= 2


async def test_a_cold_sequential_read_keeps_many_requests_under_way(autojump_clock: trio.testing.MockClock) -> None:
    store = CountingContent(delay_s=0.06)  # 4 MiB at 100 MB/s, 20 ms to the first byte
    oid = store.put("a", 240 * MIB)
    cache = BlockCache(None, BlockCacheSettings())
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.run)
        view = ReadAhead(cache.wrap(store))
        began = trio.current_time()
        for extent in sequence(oid.size, MIB):
            assert await view.read(oid, extent) == store.content(oid)[extent.start : extent.stop]
            facts = cache.statistics()
            assert facts.inflight_bytes + facts.memory_bytes <= 96 * MIB
        took = trio.current_time() - began
        nursery.cancel_scope.cancel()
    assert oid.size / took > 450e6  # of virtual time
    assert sum(extent.length for _, extent in store.requests) == oid.size
    assert store.most_active >= 12


async def test_a_small_object_costs_one_request() -> None:
    store = CountingContent()
    oid = store.put("a", 900_000)
    cache = BlockCache(None)
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.run)
        view = ReadAhead(cache.wrap(store))
        for extent in sequence(oid.size, 128 * KIB):
            assert await view.read(oid, extent) == store.content(oid)[extent.start : extent.stop]
        assert await view.cached_bytes(oid) == oid.size
        nursery.cancel_scope.cancel()
    assert store.requests == [("a", Extent(0, 900_000))]
