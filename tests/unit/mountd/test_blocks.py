"""The cache of data over a counting content: what it asks for, what it answers, and what it survives."""

from __future__ import annotations

import itertools
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.lowlevel
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from support.counting_content import CountingContent
from support.disk_use import allocated_bytes

from aliasfs.errors import CorruptObject, StaleObject, StoreError, StoreUnavailable
from aliasfs.extents import Extent
from aliasfs.store.base import Etag, ObjectId
from mountd.blockfile import BLOCK_BYTES, Identity, paths_in
from mountd.blocks import BlockCache, BlockCacheSettings
from mountd.disk import CacheDisk
from mountd.ledger import FIXED_BYTES

MIB = 1 << 20
KIB = 1 << 10


@asynccontextmanager
async def running(path: Path | None, *, budget: int = 1 << 30, **sizes: int | float) -> AsyncIterator[BlockCache]:
    """Lend a running cache, on disk when *path* is given, whose scan has ended."""
    disk = CacheDisk.open(path, budget) if path else None
    cache = BlockCache(disk, BlockCacheSettings(**sizes))  # type: ignore[arg-type]
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(cache.run)
            while disk and disk.statistics().state == "scanning":
                await trio.lowlevel.checkpoint()
            yield cache
            nursery.cancel_scope.cancel()
    finally:
        if disk:
            disk.close()


async def written(cache: BlockCache) -> None:
    """Return when the write-behind has nothing left to do."""
    while cache.held_bytes:
        await trio.lowlevel.checkpoint()


def slice_of(content: CountingContent, oid: ObjectId, extent: Extent) -> bytes:
    return content.content(oid)[extent.start : extent.stop]


def spoil(path: Path, offset: int) -> None:
    """Change one byte of a file."""
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1) or b"\0"
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0xFF]))


async def test_a_read_is_answered_from_store_then_memory_then_disk(tmp_path: Path) -> None:
    store = CountingContent()
    oid = store.put("a", 3 * MIB + 17)
    extent = Extent(MIB - 100, MIB + 700 * KIB)
    async with running(tmp_path) as cache:
        view = cache.wrap(store)
        assert view.read_nowait(oid, extent) is None
        assert await view.read(oid, extent) == slice_of(store, oid, extent)
        assert len(store.requests) == 1
        assert view.read_nowait(oid, extent) == slice_of(store, oid, extent)
        await written(cache)
    async with running(tmp_path) as cache:
        view = cache.wrap(store)
        assert await view.read(oid, extent) == slice_of(store, oid, extent)
        assert len(store.requests) == 1
        assert cache.statistics().bytes_from_disk == 4 * BLOCK_BYTES
        assert cache.statistics().misses == 0


async def test_neighbouring_missing_blocks_come_in_one_request_and_no_others(tmp_path: Path) -> None:
    store = CountingContent()
    oid = store.put("a", 8 * BLOCK_BYTES)
    async with running(tmp_path) as cache:
        view = cache.wrap(store)
        await view.read(oid, Extent(3 * BLOCK_BYTES + 5, 3 * BLOCK_BYTES + 9))
        await view.read(oid, Extent(0, oid.size))
        assert sorted(extent for _, extent in store.requests) == [
            Extent(0, 3 * BLOCK_BYTES),
            Extent(3 * BLOCK_BYTES, 4 * BLOCK_BYTES),
            Extent(4 * BLOCK_BYTES, 8 * BLOCK_BYTES),
        ]


async def test_a_long_read_is_cut_into_parts() -> None:
    store = CountingContent()
    oid = store.put("a", 3 * MIB)
    async with running(None, part_bytes=MIB, total_bytes=2 * MIB, memory_bytes=MIB, demand_bytes=MIB) as cache:
        assert await cache.wrap(store).read(oid, Extent(0, oid.size)) == store.content(oid)
    assert [extent.length for _, extent in store.requests] == [MIB, MIB, MIB]
    assert store.most_active <= 2


async def test_without_a_disk_memory_answers() -> None:
    store = CountingContent()
    oid = store.put("a", 100)
    async with running(None) as cache:
        view = cache.wrap(store)
        for _ in range(2):
            assert await view.read(oid, Extent(10, 20)) == slice_of(store, oid, Extent(10, 20))
        assert await view.cached_bytes(oid) == 100
        assert cache.statistics().state == "memory"
        assert cache.status().state == "off"
    assert len(store.requests) == 1


async def test_readers_of_one_missing_block_share_a_request() -> None:
    store = CountingContent()
    oid = store.put("a", BLOCK_BYTES)
    store.gate = trio.Event()
    answers = []
    async with running(None) as cache:
        view = cache.wrap(store)

        async def read(start: int) -> None:
            answers.append(
                await view.read(oid, Extent(start, start + 10)) == slice_of(store, oid, Extent(start, start + 10))
            )

        async with trio.open_nursery() as nursery:
            for i in range(16):
                nursery.start_soon(read, 100 * i)
            await trio.testing.wait_all_tasks_blocked()
            store.gate.set()
    assert answers == [True] * 16
    assert len(store.requests) == 1


async def test_a_failure_reaches_all_who_wait_and_the_next_reader_tries_anew() -> None:
    store = CountingContent()
    oid = store.put("a", BLOCK_BYTES)
    store.gate = trio.Event()
    store.failures.append(StoreUnavailable("down"))
    failed = []
    async with running(None) as cache:
        view = cache.wrap(store)

        async def read() -> None:
            try:
                await view.read(oid, Extent(0, 10))
            except StoreUnavailable as exc:
                failed.append(str(exc))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            store.gate.set()
        assert failed == ["down"] * 3
        assert cache.statistics().inflight_bytes == 0
        assert await view.read(oid, Extent(0, 10)) == slice_of(store, oid, Extent(0, 10))
    assert len(store.requests) == 2


async def test_the_first_reader_going_away_takes_nothing_from_the_others() -> None:
    store = CountingContent()
    oid = store.put("a", BLOCK_BYTES)
    store.gate = trio.Event()
    answers = []
    async with running(None) as cache:
        view = cache.wrap(store)

        async def read() -> None:
            answers.append(await view.read(oid, Extent(0, 10)))

        async with trio.open_nursery() as outer:
            async with trio.open_nursery() as first:
                first.start_soon(read)
                await trio.testing.wait_all_tasks_blocked()
                outer.start_soon(read)
                await trio.testing.wait_all_tasks_blocked()
                first.cancel_scope.cancel()
            store.gate.set()
    assert answers == [slice_of(store, oid, Extent(0, 10))]
    assert len(store.requests) == 1


async def test_a_replaced_version_is_stale_unless_cached(tmp_path: Path) -> None:
    store = CountingContent()
    old = store.put("a", 2 * BLOCK_BYTES, "1")
    async with running(tmp_path) as cache:
        view = cache.wrap(store)
        first = await view.read(old, Extent(0, 10))
        new = store.put("a", 2 * BLOCK_BYTES, "2")
        assert await view.read(old, Extent(0, 10)) == first
        with pytest.raises(StaleObject):
            await view.read(old, Extent(BLOCK_BYTES, BLOCK_BYTES + 1))
        assert await view.read(new, Extent(0, 10)) == slice_of(store, new, Extent(0, 10))


async def test_a_short_answer_is_no_answer() -> None:
    store = CountingContent()
    oid = store.put("a", 1000)
    store.short_by = 1
    async with running(None) as cache:
        with pytest.raises(CorruptObject, match="999 bytes came"):
            await cache.wrap(store).read(oid, Extent(0, 1000))


async def test_a_bug_in_a_store_is_an_error_of_the_read_alone(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(CountingContent):
        async def read(self, oid: ObjectId, extent: Extent) -> memoryview:
            raise ZeroDivisionError

    async with running(None) as cache:
        with pytest.raises(StoreError, match="internal error"):
            await cache.wrap(Broken()).read(ObjectId("t", "a", Etag("1"), 10), Extent(0, 10))
    assert "contract" in caplog.text
    caplog.clear()


async def test_readers_are_told_when_the_cache_closes() -> None:
    store = CountingContent()
    oid = store.put("a", 10)
    store.gate = trio.Event()
    async with trio.open_nursery() as readers, running(None) as cache:

        async def read() -> None:
            with pytest.raises(StoreUnavailable, match="closing"):
                await cache.wrap(store).read(oid, Extent(0, 10))

        readers.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()


async def test_prefetched_bytes_need_no_request(tmp_path: Path) -> None:
    store = CountingContent()
    oid = store.put("a", 4 * MIB)
    async with running(tmp_path, part_bytes=MIB) as cache:
        view = cache.wrap(store)
        await view.read(oid, Extent(MIB, MIB + 1))
        assert view.prefetch_nowait(oid, Extent(0, oid.size)) == oid.size
        assert view.prefetch_nowait(oid, Extent(0, oid.size)) == oid.size
        for start in range(0, oid.size, MIB):
            extent = Extent(start, start + MIB)
            assert await view.read(oid, extent) == slice_of(store, oid, extent)
    fetched = sorted(extent for _, extent in store.requests)
    assert sum(extent.length for extent in fetched) == oid.size
    assert all(a.stop == b.start for a, b in itertools.pairwise(fetched))


async def test_what_is_on_disk_is_not_prefetched_again(tmp_path: Path) -> None:
    store = CountingContent()
    oid = store.put("a", MIB)
    async with running(tmp_path) as cache:
        await cache.wrap(store).read(oid, Extent(0, MIB))
        await written(cache)
    async with running(tmp_path) as cache:
        view = cache.wrap(store)
        assert view.prefetch_nowait(oid, Extent(0, MIB)) == 0  # a read asks the disk
        assert await view.read(oid, Extent(0, MIB)) == store.content(oid)
        assert view.prefetch_nowait(oid, Extent(0, MIB)) == MIB
    assert len(store.requests) == 1


async def test_prefetches_beyond_the_budget_are_dropped_and_demands_wait() -> None:
    store = CountingContent()
    oid = store.put("a", 16 * MIB)
    sizes = {"part_bytes": MIB, "total_bytes": 4 * MIB, "memory_bytes": 4 * MIB, "demand_bytes": MIB}
    async with running(None, **sizes) as cache:
        view = cache.wrap(store)
        await view.read(oid, Extent(15 * MIB, 16 * MIB))  # says that the line is fast
        store.gate = trio.Event()
        assert view.prefetch_nowait(oid, Extent(0, oid.size)) == MIB
        assert cache.statistics().prefetches_dropped == 1
        answers = {}

        async def read(start: int) -> None:
            answers[start] = await view.read(oid, Extent(start, start + MIB))

        async with trio.open_nursery() as nursery:
            for start in range(8 * MIB, 12 * MIB, MIB):
                nursery.start_soon(read, start)
            await trio.testing.wait_all_tasks_blocked()
            assert cache.statistics().inflight_bytes == 2 * MIB
            assert store.active == 2
            store.gate.set()
        assert all(got == slice_of(store, oid, Extent(start, start + MIB)) for start, got in answers.items())
        assert cache.statistics().memory_bytes <= 4 * MIB


async def test_memory_never_exceeds_its_budget(tmp_path: Path) -> None:
    store = CountingContent()
    oids = [store.put(f"k{i}", 2 * MIB) for i in range(8)]
    sizes = {"part_bytes": MIB, "total_bytes": 4 * MIB, "memory_bytes": 2 * MIB, "demand_bytes": MIB}
    async with running(tmp_path, **sizes) as cache:
        view = cache.wrap(store)
        most = 0

        async def read(oid: ObjectId) -> None:
            nonlocal most
            view.prefetch_nowait(oid, Extent(0, oid.size))
            for start in range(0, oid.size, 128 * KIB):
                extent = Extent(start, start + 128 * KIB)
                assert await view.read(oid, extent) == slice_of(store, oid, extent)
                facts = cache.statistics()
                most = max(most, facts.memory_bytes + facts.inflight_bytes)

        async with trio.open_nursery() as nursery:
            for oid in oids * 2:
                nursery.start_soon(read, oid)
        assert 0 < most <= 4 * MIB


async def test_a_disk_that_does_not_take_what_it_is_given_delays_readers_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CountingContent()
    oid = store.put("a", 4 * MIB)
    release = threading.Event()
    sizes: dict[str, int | float] = {"part_bytes": MIB, "total_bytes": 2 * MIB, "memory_bytes": 2 * MIB}
    async with running(tmp_path, **sizes, demand_bytes=MIB, write_patience_s=0.05) as cache:
        assert cache.disk is not None
        monkeypatch.setattr(cache.disk, "write", lambda *_: release.wait())
        try:
            for start in range(0, oid.size, MIB):
                extent = Extent(start, start + MIB)
                assert await cache.wrap(store).read(oid, extent) == slice_of(store, oid, extent)
        finally:
            release.set()


async def test_a_disk_that_vanishes_is_done_without_and_taken_up_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = CountingContent()
    first, second = store.put("a", MIB), store.put("b", MIB)
    place = tmp_path / "cache"
    async with running(place, retry_s=0.05) as cache:
        view = cache.wrap(store)
        await view.read(first, Extent(0, MIB))
        await written(cache)
        place.rename(tmp_path / "gone")
        place.write_bytes(b"in the way")
        assert await view.read(second, Extent(0, MIB)) == store.content(second)
        await written(cache)
        assert cache.status().state == "failed"
        assert str(place) in cache.status().reason
        place.unlink()
        assert cache.disk is not None
        while not cache.disk.accepts_writes:  # it has recovered, and has been scanned anew
            await trio.lowlevel.checkpoint()
        assert cache.status().state == "on"
        third = store.put("c", MIB)
        assert await view.read(third, Extent(0, MIB)) == store.content(third)
        await written(cache)
        assert cache.status().objects == 1
    caplog.clear()


async def test_a_damaged_block_on_disk_is_fetched_again(tmp_path: Path) -> None:
    store = CountingContent()
    oid = store.put("a", 4 * BLOCK_BYTES)
    async with running(tmp_path) as cache:
        await cache.wrap(store).read(oid, Extent(0, oid.size))
        await written(cache)
        assert cache.disk is not None
        path = paths_in(cache.disk.objects, Identity(oid).digest)[0]
    spoil(path, 2 * BLOCK_BYTES)
    async with running(tmp_path) as cache:
        assert await cache.wrap(store).read(oid, Extent(0, oid.size)) == store.content(oid)
        await written(cache)
        assert cache.statistics().bad_blocks == 1
        assert store.requests[1:] == [("a", Extent(2 * BLOCK_BYTES, 3 * BLOCK_BYTES))]
        report = await cache.verify(lambda progress: None)
        assert (report.objects, report.blocks, report.bytes, report.bad_blocks) == (1, 4, oid.size, 0)


async def test_evict_and_verify_while_in_use(tmp_path: Path) -> None:
    store = CountingContent()
    oids = [store.put(f"k{i}", MIB) for i in range(6)]
    async with running(tmp_path) as cache:
        view = cache.wrap(store)
        for oid in oids:
            await view.read(oid, Extent(0, MIB))
        await written(cache)
        told: list[int] = []
        assert (await cache.verify(lambda progress: told.append(progress.done_bytes))).blocks == 24
        assert told[-1] == 6 * MIB
        report = await cache.evict(2 * MIB + 100 * KIB)
        assert report.evicted_objects == 4
        assert allocated_bytes(tmp_path) <= report.used_bytes
        report = await cache.evict(0)
        assert report.used_bytes == FIXED_BYTES
        assert await view.read(oids[0], Extent(0, 10)) == slice_of(store, oids[0], Extent(0, 10))


# Any order of anything

KEYS = ("a", "b", "c")
SIZES = {"a": 100_000, "b": 5 * BLOCK_BYTES + 1, "c": 2 * MIB}

reads = st.tuples(st.just("read"), st.sampled_from(KEYS), st.floats(0, 1), st.floats(0, 1))
prefetches = st.tuples(st.just("prefetch"), st.sampled_from(KEYS), st.floats(0, 1), st.floats(0, 1))
others = st.tuples(
    st.sampled_from(["replace", "damage bytes", "damage map", "unlink"]),
    st.sampled_from(KEYS),
    st.floats(0, 1),
    st.floats(0, 1),
)
whole = st.tuples(st.sampled_from(["evict", "restart", "many"]), st.just("a"), st.floats(0, 1), st.floats(0, 1))


class Model:
    """A cache with a small budget over a store, next to the store's own bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = CountingContent()
        self.current = {key: self.store.put(key, SIZES[key], "0") for key in KEYS}
        self.generation = 0

    @staticmethod
    def extent(oid: ObjectId, at: float, share: float) -> Extent:
        start = min(int(oid.size * at), oid.size - 1)
        return Extent(start, min(start + 1 + int((oid.size - start) * share), oid.size))

    async def apply(self, cache: BlockCache, action: str, key: str, x: float, y: float) -> None:
        """Do one step and check what it answers."""
        oid, view = self.current[key], cache.wrap(self.store)
        extent = self.extent(oid, x, y)
        if action == "read":
            assert await view.read(oid, extent) == slice_of(self.store, oid, extent)
        elif action == "prefetch":
            view.prefetch_nowait(oid, extent)
        elif action == "many":
            async with trio.open_nursery() as nursery:
                for other in KEYS:
                    nursery.start_soon(self.apply, cache, "read", other, y, x)
                nursery.start_soon(cache.evict, 0)
        elif action == "replace":
            self.generation += 1
            self.current[key] = self.store.put(key, SIZES[key], str(self.generation))
        elif action == "evict":
            await cache.evict(int(x * MIB))
        else:
            await written(cache)
            self.damage(cache, oid, action, x)

    def damage(self, cache: BlockCache, oid: ObjectId, action: str, at: float) -> None:
        """Spoil one byte of the files of *oid*, or remove one of them."""
        assert cache.disk is not None
        bytes_path, map_path = paths_in(cache.disk.objects, Identity(oid).digest)
        path = map_path if action == "damage map" or (action == "unlink" and at < 0.5) else bytes_path
        if not path.exists():
            return
        if action == "unlink":
            path.unlink()
            return
        spoil(path, int(at * max(path.stat().st_size - 1, 0)))


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.one_of(reads, prefetches, others, whole), min_size=5, max_size=25))
def test_no_order_of_reads_damage_evictions_and_restarts_gives_a_wrong_byte(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, float, float]]
) -> None:
    path = tmp_path_factory.mktemp("cache")
    budget = FIXED_BYTES + 3 * MIB
    model = Model(path)

    async def play() -> None:
        rest = list(steps)
        while True:
            sizes = {"part_bytes": MIB, "total_bytes": 3 * MIB, "memory_bytes": MIB, "demand_bytes": MIB}
            async with running(path, budget=budget, **sizes) as cache:
                while rest:
                    action, key, x, y = rest.pop(0)
                    if action == "restart":
                        break
                    await model.apply(cache, action, key, x, y)
                    assert allocated_bytes(path) <= budget
                else:
                    await written(cache)
                    for key in KEYS:
                        await model.apply(cache, "read", key, 0.0, 1.0)
                    return

    trio.run(play)
