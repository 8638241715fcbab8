"""Slow lines and stuck ones: what is under way on them, and what that means for their readers and for others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from support.counting_content import CountingContent
from support.shared_line import SharedLine
from trio.testing import MockClock

from aliasfs.errors import StoreTimeout, StoreUnavailable
from aliasfs.extents import Extent
from aliasfs.store.base import Content, ObjectId
from mountd.blockfile import BLOCK_BYTES
from mountd.blocks import BlockCache, CachedContent
from mountd.lines import FIRST_WINDOW_BYTES, Line
from mountd.readahead import ReadAhead, ReadAheadPolicy

MIB = 1 << 20
KIB = 1 << 10
ANSWER_S = 27.0
"""What a request of the kernel has."""

BUDGET_BYTES = 96 * MIB
KEPT_FREE_BYTES = 8 * MIB
WITHIN_S = 5.0


@asynccontextmanager
async def running() -> AsyncIterator[BlockCache]:
    cache = BlockCache(None)
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.run)
        yield cache
        nursery.cancel_scope.cancel()


@pytest.fixture
async def cache() -> AsyncIterator[BlockCache]:
    async with running() as cache:
        yield cache


@pytest.fixture
def line() -> Line:
    return Line(CountingContent(), WITHIN_S)


async def read_all(content: Content, oid: ObjectId, step: int) -> None:
    """Read *oid* from start to end, each request in the time that the kernel's have."""
    for start in range(0, oid.size, step):
        with trio.fail_after(ANSWER_S):
            await content.read(oid, Extent(start, min(start + step, oid.size)))


async def took(line: Line, size: int, seconds: float) -> None:
    with line.request(size):
        await trio.sleep(seconds)


async def fails(line: Line) -> None:
    with pytest.raises(StoreTimeout), line.request(MIB):
        raise StoreTimeout("silent")


# What is learnt of a line


async def test_of_a_line_that_nobody_knows_a_little_is_asked_at_first(line: Line, autojump_clock: MockClock) -> None:
    assert line.longest_blocks(4 * MIB) * BLOCK_BYTES == FIRST_WINDOW_BYTES
    line.reserved_bytes = FIRST_WINDOW_BYTES
    assert not line.admits(1, BUDGET_BYTES, demand=True)
    await took(line, 128 * KIB, 0.03)
    assert line.admits(16 * MIB, BUDGET_BYTES, demand=False)
    assert line.longest_blocks(4 * MIB) * BLOCK_BYTES == 4 * MIB


async def test_the_window_is_what_a_slow_line_brings_in_time(line: Line, autojump_clock: MockClock) -> None:
    await took(line, MIB, MIB / 64_000)
    assert line.window_bytes == pytest.approx(WITHIN_S * 64_000, rel=0.01)
    assert line.longest_blocks(4 * MIB) == 1


async def test_requests_that_share_a_line_say_what_it_brings_together(line: Line, autojump_clock: MockClock) -> None:
    await took(line, 4 * MIB, 0.06)
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(took, line, 4 * MIB, 32)
    assert line.window_bytes == pytest.approx(WITHIN_S * MIB, rel=0.01)


async def test_a_short_answer_does_not_make_a_fast_line_slow(line: Line, autojump_clock: MockClock) -> None:
    await took(line, 4 * MIB, 0.06)
    window_bytes = line.window_bytes
    await took(line, 100, 0.5)
    assert line.window_bytes == window_bytes


async def test_a_line_that_gets_faster_is_used_again(line: Line, autojump_clock: MockClock) -> None:
    await took(line, MIB, 60)
    assert line.window_bytes == BLOCK_BYTES
    await took(line, BLOCK_BYTES, 0.03)
    assert line.window_bytes > 16 * MIB


async def test_nothing_is_fetched_ahead_from_a_source_that_fails_until_it_answers(
    line: Line, autojump_clock: MockClock
) -> None:
    await took(line, MIB, 0.03)
    await fails(line)
    assert not line.admits(1, BUDGET_BYTES, demand=False)
    assert line.admits(1, BUDGET_BYTES, demand=True)
    assert line.window_bytes == FIRST_WINDOW_BYTES
    await took(line, MIB, 0.03)
    assert line.admits(1, BUDGET_BYTES, demand=False)


async def test_nothing_is_fetched_ahead_on_a_line_on_which_nothing_comes(line: Line, autojump_clock: MockClock) -> None:
    await took(line, MIB, 0.03)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(took, line, MIB, 60)
        await trio.sleep(WITHIN_S - 1)
        assert line.admits(1, BUDGET_BYTES, demand=False)
        await trio.sleep(2)
        assert not line.admits(1, BUDGET_BYTES, demand=False)
        await took(line, MIB, 0.03)
        assert line.admits(1, BUDGET_BYTES, demand=False)


# Readers on a slow line


@pytest.mark.parametrize("step", [128 * KIB, MIB])
@pytest.mark.parametrize(
    ("bytes_per_s", "size"), [(64_000, 4 * MIB), (200_000, 8 * MIB), (1_000_000, 48 * MIB), (20e6, 128 * MIB)]
)
async def test_a_reader_goes_on_at_the_speed_of_the_line(
    cache: BlockCache, bytes_per_s: float, size: int, step: int, autojump_clock: MockClock
) -> None:
    store = CountingContent()
    oid = store.put("a", size)
    began_s = trio.current_time()
    await read_all(ReadAhead(cache.wrap(SharedLine(store, bytes_per_s))), oid, step)
    assert size / (trio.current_time() - began_s) > 0.9 * bytes_per_s


async def test_readers_of_many_files_share_a_slow_line(cache: BlockCache, autojump_clock: MockClock) -> None:
    store = CountingContent()
    view = ReadAhead(cache.wrap(SharedLine(store, 250_000)))
    async with trio.open_nursery() as nursery:
        for index in range(8):
            nursery.start_soon(read_all, view, store.put(f"k{index}", 2 * MIB), 128 * KIB)
    assert sum(extent.length for _, extent in store.requests) == 16 * MIB


async def test_the_requests_of_one_moment_arrive_one_after_the_other_and_are_there_for_who_asks_again(
    cache: BlockCache, autojump_clock: MockClock
) -> None:
    store = CountingContent()
    oid = store.put("a", 4 * MIB)
    view = ReadAhead(cache.wrap(SharedLine(store, 64_000)))
    async with trio.open_nursery() as nursery:  # as the kernel does, which reads ahead by itself
        for start in range(0, 3 * MIB, MIB):
            nursery.start_soon(given_up_in_time, view, oid, Extent(start, start + MIB))
            await trio.sleep(0.001)
    await read_all(view, oid, 4 * KIB)
    assert trio.current_time() < 1.1 * oid.size / 64_000
    assert sum(extent.length for _, extent in store.requests) == oid.size


async def given_up_in_time(content: Content, oid: ObjectId, extent: Extent) -> None:
    with trio.move_on_after(ANSWER_S):
        await content.read(oid, extent)


async def test_what_nobody_waits_for_any_more_gets_no_turn(cache: BlockCache, autojump_clock: MockClock) -> None:
    store = CountingContent()
    oids = [store.put(f"k{index}", MIB) for index in range(8)]
    view = cache.wrap(SharedLine(store, 64_000))
    async with trio.open_nursery() as nursery:
        for oid in oids:
            nursery.start_soon(given_up_in_time, view, oid, Extent(0, MIB))
    await trio.sleep(60)
    assert sum(extent.length for _, extent in store.requests) <= 2 * MIB
    assert cache.statistics().inflight_bytes == 0
    last = oids[-1]
    await trio.sleep(60)
    assert await view.read(last, Extent(0, 10)) == store.content(last)[:10]


async def test_what_is_waited_for_goes_before_what_may_be_read_later(
    cache: BlockCache, autojump_clock: MockClock
) -> None:
    store = CountingContent()
    oid = store.put("a", 8 * MIB)
    view = ReadAhead(cache.wrap(SharedLine(store, 64_000)))
    await view.read(oid, Extent(0, 128 * KIB))
    await view.read(oid, Extent(2 * MIB, 2 * MIB + 128 * KIB))
    began_s = trio.current_time()
    await view.read(oid, Extent(2 * MIB + 2 * BLOCK_BYTES, 2 * MIB + 2 * BLOCK_BYTES + 10))
    assert trio.current_time() - began_s < 2 * BLOCK_BYTES / 64_000


# Stuck lines beside well ones


async def stuck_with(cache: BlockCache, nursery: trio.Nursery, name: str, readers: int) -> CountingContent:
    """Have a fast source get stuck while one reads far ahead and *readers* more read."""
    store = CountingContent(name)
    view = cache.wrap(store)
    await view.read(store.put("first", MIB), Extent(0, MIB))
    store.gate = trio.Event()
    view.prefetch_nowait(store.put("large", 128 * MIB), Extent(0, 128 * MIB))
    for index in range(readers):
        nursery.start_soon(view.read, store.put(f"k{index}", MIB), Extent(0, MIB))
    await trio.testing.wait_all_tasks_blocked()
    return store


@pytest.mark.parametrize("stuck", [1, 4])
async def test_stuck_sources_take_no_memory_from_others(
    cache: BlockCache, stuck: int, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        gates = [(await stuck_with(cache, nursery, f"memory://{index}", 30)).gate for index in range(stuck)]
        held = cache.statistics().inflight_bytes
        assert 64 * MIB <= held <= BUDGET_BYTES - KEPT_FREE_BYTES + stuck * MIB
        well = CountingContent()
        began_s = trio.current_time()
        await read_all(ReadAhead(cache.wrap(SharedLine(well, 20e6))), well.put("a", 32 * MIB), MIB)
        assert 32 * MIB / (trio.current_time() - began_s) > 5e6
        for gate in gates:
            assert gate is not None
            gate.set()


async def test_alone_a_source_has_most_of_the_memory(cache: BlockCache, autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        store = await stuck_with(cache, nursery, "memory://a", 0)
        assert cache.statistics().inflight_bytes >= 64 * MIB
        assert store.gate is not None
        store.gate.set()


async def test_a_source_that_failed_is_asked_only_for_what_is_waited_for(
    cache: BlockCache, autojump_clock: MockClock
) -> None:
    store = CountingContent()
    oid = store.put("a", 8 * MIB)
    view: CachedContent = cache.wrap(store)
    store.failures.append(StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable):
        await view.read(oid, Extent(0, 10))
    assert view.prefetch_nowait(oid, Extent(0, MIB)) == 0
    assert await view.read(oid, Extent(0, 10)) == store.content(oid)[:10]
    assert view.prefetch_nowait(oid, Extent(0, MIB)) == MIB


async def test_the_policy_gives_again_what_the_line_had_no_room_for(
    cache: BlockCache, autojump_clock: MockClock
) -> None:
    store = CountingContent()
    oid = store.put("a", 3 * MIB)
    view = ReadAhead(cache.wrap(SharedLine(store, 64_000)), ReadAheadPolicy())
    await read_all(view, oid, 128 * KIB)
    assert sum(extent.length for _, extent in store.requests) == oid.size
