"""What is given up when memory is short, when, and what is said of it; and that readers notice nothing but time."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence

import pytest
import trio
from support.counting_content import CountingContent
from trio.testing import MockClock

from aliasfs.extents import Extent
from aliasfs.store.memory import MemoryStore
from mountd.blockfile import BLOCK_BYTES
from mountd.blocks import BlockCache
from mountd.catalog import Catalog, CatalogSettings
from mountd.pressure import WORN_AFTER_S, WORN_EVERY_S, Pressure, resident_bytes, trim_heap

MIB = 1 << 20
LIMIT_BYTES = 1000 * MIB


class Memory:
    """A process of *resident_bytes* that loses *freed_by_shed* whenever its heap is trimmed."""

    def __init__(self, resident_bytes: int, freed_by_shed: int = 0) -> None:
        self.resident_bytes = resident_bytes
        self.freed_by_shed = freed_by_shed
        self.trims = 0

    def measure(self) -> int:
        return self.resident_bytes

    def trim(self) -> None:
        self.trims += 1
        self.resident_bytes -= self.freed_by_shed


@pytest.fixture
async def cache() -> AsyncIterator[BlockCache]:
    async with trio.open_nursery() as nursery:
        cache = BlockCache(None)
        await nursery.start(cache.run)
        yield cache
        nursery.cancel_scope.cancel()


@pytest.fixture
async def catalog() -> AsyncIterator[Catalog]:
    store = MemoryStore(page_keys=2)
    for name in "abcd":
        store.put(f"d/{name}", b"")
    catalog = Catalog(store, 60.0, CatalogSettings(list_ahead=False))
    yield catalog
    await catalog.aclose()


async def _pressed(
    memory: Memory, cache: BlockCache, catalogs: Sequence[Catalog], seconds: float, worn: list[str]
) -> Pressure:
    """Return the pressure after it has looked for *seconds*."""
    pressure = Pressure(LIMIT_BYTES, cache, lambda: catalogs, worn.append, memory.measure, memory.trim)
    with trio.move_on_after(seconds):
        await pressure.run()
    return pressure


async def test_parts_in_memory_are_given_up_and_read_again(cache: BlockCache) -> None:
    store = CountingContent()
    oid = store.put("a", 4 * BLOCK_BYTES)
    view = cache.wrap(store)
    read = await view.read(oid, Extent(0, 10))
    assert cache.shed() == BLOCK_BYTES
    assert cache.statistics().memory_bytes == 0
    assert cache.shed() == 0
    assert await view.read(oid, Extent(0, 10)) == read == store.content(oid)[:10]
    assert len(store.requests) == 2


async def test_what_is_being_fetched_is_not_given_up(cache: BlockCache) -> None:
    store = CountingContent()
    oid = store.put("a", BLOCK_BYTES)
    store.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cache.wrap(store).read, oid, Extent(0, 10))
        await trio.testing.wait_all_tasks_blocked()
        assert cache.shed() == 0
        assert cache.statistics().inflight_bytes == BLOCK_BYTES
        store.gate.set()
    assert len(store.requests) == 1


async def test_names_are_given_up_and_asked_for_again(catalog: Catalog, autojump_clock: MockClock) -> None:
    await catalog.stat("d/a")
    complete = await catalog.listing("d")
    while await complete.ensure(len(complete.entries) + 1):
        pass
    assert catalog.shed() == 5
    assert catalog.stat_nowait("d/a") is None
    assert [info.name for info in complete.entries] == ["a", "b", "c", "d"], "its readers have it still"
    assert await catalog.listing("d") is not complete


async def test_a_listing_that_is_being_read_is_not_given_up(catalog: Catalog, autojump_clock: MockClock) -> None:
    begun = await catalog.listing("d")
    assert catalog.shed() == 0
    assert await catalog.listing("d") is begun


async def test_nothing_is_given_up_below_the_limit(
    cache: BlockCache, catalog: Catalog, autojump_clock: MockClock
) -> None:
    await catalog.stat("d/a")
    pressure = await _pressed(Memory(899 * MIB), cache, [catalog], 50, [])
    assert catalog.stat_nowait("d/a") is not None
    assert (pressure.statistics().resident_bytes, pressure.statistics().sheds) == (899 * MIB, 0)


async def test_near_the_limit_all_is_given_up_once_and_said(
    cache: BlockCache, catalog: Catalog, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await catalog.stat("d/a")
    memory = Memory(950 * MIB, 200 * MIB)
    worn: list[str] = []
    pressure = await _pressed(memory, cache, [catalog], 100, worn)
    said = pressure.statistics()
    assert (said.sheds, said.freed_bytes, said.resident_bytes, said.worn) == (1, 200 * MIB, 750 * MIB, 0)
    assert catalog.stat_nowait("d/a") is None
    assert [record.levelno for record in caplog.records] == [logging.INFO]
    assert "950 of 1000 MiB were in use; 0 MiB of cached parts and 1 names were given up, 750 MiB" in caplog.text
    assert not worn


async def test_what_does_not_help_is_tried_every_few_seconds_and_said_once_a_minute(
    cache: BlockCache, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    worn: list[str] = []
    pressure = await _pressed(Memory(950 * MIB), cache, [], 119.5, worn)
    assert pressure.statistics().sheds == 24
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert not worn, "it is below the limit itself"


async def test_a_server_that_stays_above_the_limit_is_worn_but_never_young_and_says_so_seldom(
    cache: BlockCache, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    worn: list[str] = []
    await _pressed(Memory(1100 * MIB), cache, [], WORN_EVERY_S - 1, worn)
    assert not worn
    pressure = await _pressed(Memory(1100 * MIB), cache, [], 2 * WORN_EVERY_S - 1, worn)
    assert len(worn) == pressure.statistics().worn == 1
    assert "1100 MiB are in use, above memory_max (1000 MiB)" in worn[0]


async def test_one_second_below_the_limit_begins_the_wait_anew(
    cache: BlockCache, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = Memory(500 * MIB)
    worn: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_pressed, memory, cache, [], WORN_EVERY_S + 1000, worn)
        await trio.sleep(WORN_EVERY_S + 0.5)
        memory.resident_bytes = 1100 * MIB
        await trio.sleep(WORN_AFTER_S - 1)
        memory.resident_bytes = LIMIT_BYTES
        await trio.sleep(1)
        memory.resident_bytes += MIB
        await trio.sleep(WORN_AFTER_S - 1)
        assert not worn
        await trio.sleep(3)
        assert len(worn) == 1
        nursery.cancel_scope.cancel()


def test_the_own_memory_is_measured_and_given_back() -> None:
    before = resident_bytes()
    ballast = bytearray(b"x") * (64 * MIB)
    assert resident_bytes() - before > 60 * MIB
    del ballast
    trim_heap()
    assert resident_bytes() - before < 60 * MIB
