"""The cache of data: `BlockCache` answers reads of object versions from memory, from disk, or by one request.

A `CachedContent` is the view of one alias: a `Content` that has a `Content`. Behind all views is one `BlockCache`
with one memory tier (`mountd.memory`) and one disk tier (`mountd.disk`), keyed by `ObjectId`, so aliases of one
target share what they cached.

Invariants: a block is fetched by one request at a time, however many ask (`_flights`); requests run in the
cache's own nursery, so a reader that goes away takes nothing from the others; what is fetched and what is kept
stays within one byte budget; no failure of the disk reaches a reader. Tables are sync: all that lies between two
awaits is atomic, and after an await the tables are asked again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import trio
from trio.lowlevel import checkpoint
from typing_extensions import Buffer

from aliasfs.errors import AliasfsError, CorruptObject, StoreError, StoreUnavailable
from aliasfs.extents import Extent
from aliasfs.store.base import Content, ObjectId
from aliasfs.wire import CacheStatus, EvictReport, VerifyProgress, VerifyReport
from mountd import upkeep
from mountd.blockfile import BLOCK_BYTES, runs
from mountd.disk import CacheDisk
from mountd.flights import Flight, awaited
from mountd.lines import Line
from mountd.memory import MemoryTier, Part, extent_of
from mountd.writebehind import WriteBehind

log = logging.getLogger(__name__)

T = TypeVar("T")

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class BlockCacheSettings:
    """Sizes of the cache in memory, in bytes; each default with its reason."""

    memory_bytes: int = 64 * MIB
    """Kept of what was fetched or read: what sequential readers and the write-behind need at 500 MB/s for 0.1 s."""

    total_bytes: int = 96 * MIB
    """Kept, being fetched and being written in all: 16 connections with parts of 4 MiB, and a half more."""

    part_bytes: int = 4 * MIB
    """The longest request. Sixteen of them fit into the budget: at 20 ms to the first byte and 100 MB/s each they
    bring 1 GB/s, where eight of 8 MiB would bring 0.6."""

    demand_bytes: int = 8 * MIB
    """Never given to prefetches, so that a reader seldom waits for one; as much is left to sources of which nothing is
    under way, so that no reader waits for sources that are stuck."""

    within_s: float = 5.0
    """What is under way from one source is to arrive within this time: long before a request of the kernel, which may
    need 1 MiB more than that, has to be answered."""

    disk_threads: int = 8
    """Worker threads that read the cache's files: enough to keep a network disk busy."""

    write_patience_s: float = 1.0
    """How long a reader waits for room that the write-behind holds, before what is not written stays unwritten."""

    retry_s: float = 30.0
    """How long a disk that failed is left alone."""

    def __post_init__(self) -> None:
        if self.part_bytes % BLOCK_BYTES or not BLOCK_BYTES <= self.part_bytes <= self.total_bytes:
            raise ValueError("part_bytes is to be a multiple of the block size and at most total_bytes")


@dataclass(frozen=True, slots=True)
class BlockCacheStatistics:
    """What the cache holds and did; sizes in bytes, *hits* and *misses* in blocks that were asked for."""

    hits: int
    misses: int
    bytes_from_disk: int
    bytes_fetched: int
    requests: int
    prefetches_dropped: int
    bad_blocks: int
    evicted_bytes: int
    used_bytes: int
    budget_bytes: int
    objects: int
    state: str
    reason: str
    inflight_bytes: int
    memory_bytes: int


class BlockCache:
    """One cache for all aliases; `run` has to be running before anything is fetched."""

    def __init__(self, disk: CacheDisk | None, settings: BlockCacheSettings | None = None) -> None:
        self.disk = disk
        self._settings = settings or BlockCacheSettings()
        self._memory = MemoryTier(self._settings.memory_bytes, self._settings.total_bytes, self._settings.demand_bytes)
        self._flights: dict[ObjectId, dict[int, Flight]] = {}
        self._behind = WriteBehind(disk, self._memory)
        self._readers = trio.CapacityLimiter(self._settings.disk_threads)
        self._nursery: trio.Nursery | None = None
        self._hits = self._misses = self._fetched = self._requests = self._dropped = 0

    def wrap(self, source: Content) -> CachedContent:
        """Return *source* read through this cache."""
        return CachedContent(self, Line(source, self._settings.within_s))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Fetch, write behind, scan and mend the disk until cancelled; what is unwritten then stays so."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                if self.disk is not None:
                    nursery.start_soon(self._scan, self.disk)
                    nursery.start_soon(self._behind.run, self.disk)
                    nursery.start_soon(self._mend, self.disk)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    async def _scan(self, disk: CacheDisk) -> None:
        steps = disk.scan()
        while await trio.to_thread.run_sync(next, steps, steps, limiter=self._readers) is not steps:
            pass

    async def _mend(self, disk: CacheDisk) -> None:
        """Try a failed disk again every now and then."""
        while True:
            await trio.sleep(self._settings.retry_s)
            if disk.degraded:
                await trio.to_thread.run_sync(disk.recover, limiter=self._behind.limiter)

    @property
    def held_bytes(self) -> int:
        """Bytes in memory that are still to be written to disk."""
        return self._memory.held_bytes

    def shed(self) -> int:
        """Drop what is kept in memory and need not be; return its bytes. What is being fetched or written stays."""
        return self._memory.shed()

    def statistics(self) -> BlockCacheStatistics:
        """Return what the cache holds and did so far."""
        disk = self.disk.statistics() if self.disk is not None else None
        return BlockCacheStatistics(
            hits=self._hits,
            misses=self._misses,
            bytes_from_disk=disk.read_bytes if disk else 0,
            bytes_fetched=self._fetched,
            requests=self._requests,
            prefetches_dropped=self._dropped,
            bad_blocks=disk.bad_blocks if disk else 0,
            evicted_bytes=disk.evicted_bytes if disk else 0,
            used_bytes=disk.used_bytes if disk else 0,
            budget_bytes=disk.budget_bytes if disk else 0,
            objects=disk.objects if disk else 0,
            state=disk.state if disk else "memory",
            reason=disk.reason if disk else "",
            inflight_bytes=self._memory.reserved_bytes,
            memory_bytes=self._memory.kept_bytes + self._memory.held_bytes,
        )

    def status(self) -> CacheStatus:
        """Return the same for a person, as the control door sends it."""
        if self.disk is None:
            return CacheStatus(hits=self._hits, misses=self._misses, bytes_fetched=self._fetched)
        return upkeep.status(self.disk, hits=self._hits, misses=self._misses, bytes_fetched=self._fetched)

    async def evict(self, to_bytes: int) -> EvictReport:
        """Remove what was used longest ago until at most *to_bytes* are left on disk."""
        if self.disk is None:
            return EvictReport()
        return await trio.to_thread.run_sync(upkeep.evict_report, self.disk, to_bytes, limiter=self._readers)

    async def verify(self, report: Callable[[VerifyProgress], None]) -> VerifyReport:
        """Compare every block on disk with its checksum and drop those that differ; *report* is told on the way."""
        if self.disk is None:
            return VerifyReport()

        def tell(so_far: VerifyProgress) -> None:
            trio.from_thread.run_sync(report, so_far)

        return await trio.to_thread.run_sync(upkeep.verify_report, self.disk, tell, limiter=self._readers)

    async def cached_bytes(self, oid: ObjectId) -> int:
        """Return how many bytes of *oid* are cached; the disk is asked in a thread, for it may have to open files."""
        on_disk = 0
        if self.disk is not None:
            on_disk = await self._in_thread(self.disk.cached_bytes, oid)
        extra = list(self._memory.blocks_of(oid))
        if self.disk is not None:
            extra = self.disk.lacking(oid, extra)
        return on_disk + sum(extent_of(oid, range(b, b + 1)).length for b in extra)

    # Reading

    def read_nowait(self, oid: ObjectId, extent: Extent) -> memoryview | None:
        """Return *extent* if memory or the kernel's page cache has all of it, verified; None otherwise."""
        blocks = extent.blocks(BLOCK_BYTES)
        parts = [self._memory.find(oid, block) for block in blocks]
        if all(parts):
            self._hits += len(blocks)
            return self._answer([part for part in parts if part], extent)
        if any(parts) or self.disk is None:
            return None
        if (content := self.disk.read_nowait(oid, blocks)) is None:
            return None
        self._hits += len(blocks)
        return self._keep(oid, blocks, content, extent).cut(extent)

    def _keep(self, oid: ObjectId, blocks: range, content: memoryview, extent: Extent) -> Part:
        """Return what the disk gave as a part, kept in memory when *extent* leaves some of it unread."""
        part = Part(oid, extent_of(oid, blocks), content)
        if part.extent != extent:
            self._memory.keep(part)
        return part

    async def read(self, line: Line, oid: ObjectId, extent: Extent) -> Buffer:
        """Return exactly *extent* of *oid*; see `Content.read`."""
        await checkpoint()
        if (answer := self.read_nowait(oid, extent)) is not None:
            return answer
        blocks = extent.blocks(BLOCK_BYTES)
        found = await self._from_disk(oid, blocks, extent) if self.disk else {}
        for block in blocks:
            part = found.get(block) or self._memory.find(oid, block)
            if part is not None:
                found[block] = part
        self._hits += len(found)
        self._misses += len(blocks) - len(found)
        flights = self._flights_for(line, oid, [b for b in blocks if b not in found])
        with awaited(flights.values()):
            for block, flight in flights.items():
                await flight.done.wait()
                found[block] = flight.result()
        return self._answer([found[b] for b in blocks], extent)

    def _answer(self, parts: Sequence[Part], extent: Extent) -> memoryview:
        """Return *extent* from the part of each of its blocks: a slice where they are one part, else a copy."""
        pieces = []
        position = extent.start
        for part in parts:
            if position < min(part.extent.stop, extent.stop):
                stop = min(part.extent.stop, extent.stop)
                pieces.append(part.cut(Extent(position, stop)))
                self._memory.was_read(part, stop)
                position = stop
        return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))

    async def _from_disk(self, oid: ObjectId, blocks: range, extent: Extent) -> dict[int, Part]:
        """Return the parts that the disk has for those of *blocks* that are neither in memory nor on their way."""
        assert self.disk is not None
        absent = self._absent(oid, blocks)
        if not self.disk.may_hold(oid):
            absent = sorted(set(absent) - set(self.disk.lacking(oid, absent)))
        found: dict[int, Part] = {}
        for run in runs(absent):
            pieces = await self._in_thread(self.disk.read, oid, run)
            for good, content in pieces.items():
                part = self._keep(oid, good, content, extent)
                found.update(dict.fromkeys(good, part))
        return found

    def _absent(self, oid: ObjectId, blocks: range) -> list[int]:
        """Return those of *blocks* that are neither in memory nor on their way."""
        flights, find = self._flights.get(oid, {}), self._memory.find
        return [b for b in blocks if b not in flights and find(oid, b) is None]

    # Fetching

    def prefetch_nowait(self, line: Line, oid: ObjectId, extent: Extent) -> int:
        """Start fetching what is missing of *extent*; return the offset up to which all is there or on its way.

        Less than `extent.stop` when the budget is used up or *line* has enough to do (counted), and no more than
        `extent.start` when the disk would have to be asked first what it has of *oid*: the next read of it does that.
        """
        blocks = extent.clip(oid.size).blocks(BLOCK_BYTES)
        if self.disk is not None and self.disk.may_hold(oid):
            return extent.start
        absent = self._absent(oid, blocks)
        lacking = absent if self.disk is None else self.disk.lacking(oid, absent)
        if self.disk is not None and len(lacking) < len(absent):
            self._spawn(self._in_thread, self.disk.will_need, oid, blocks)
        for run in runs(lacking, line.longest_blocks(self._settings.part_bytes)):
            if not self._memory.try_reserve(extent_of(oid, run).length, line, demand=False):
                self._dropped += 1
                return max(extent.start, run.start * BLOCK_BYTES)
            self._start(Flight(line, oid, run), reserved=True)
        return extent.stop

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        """Return what *function* of the disk returns in a thread; one who is cancelled does not wait for the disk."""
        return await trio.to_thread.run_sync(function, *args, limiter=self._readers, abandon_on_cancel=True)

    def _flights_for(self, line: Line, oid: ObjectId, lacking: Sequence[int]) -> dict[int, Flight]:
        """Return the request that brings each block of *lacking*, after starting those that are not on their way."""
        flights = self._flights.get(oid, {})
        absent = [block for block in lacking if block not in flights]
        for run in runs(absent, line.longest_blocks(self._settings.part_bytes)):
            self._start(Flight(line, oid, run), reserved=False)
        return {block: self._flights[oid][block] for block in lacking}

    def _start(self, flight: Flight, *, reserved: bool) -> None:
        self._flights.setdefault(flight.oid, {}).update(dict.fromkeys(flight.blocks, flight))
        self._spawn(self._fetch, flight, reserved)

    def _spawn(self, function: Callable[..., object], *args: object) -> None:
        if self._nursery is None:
            raise RuntimeError("BlockCache.run is not running")
        self._nursery.start_soon(function, *args)  # type: ignore[arg-type]

    async def _fetch(self, flight: Flight, reserved: bool) -> None:
        """Bring *flight* to its end: a part in memory that is to be written, or an error for those who wait."""
        need, line = flight.extent.length, flight.line
        try:
            if not reserved:
                await self._memory.reserve(need, line, self._settings.write_patience_s, self._behind.give_up)
                reserved = True
                flight.must_be_awaited()
            self._requests += 1
            with line.request(need):
                content = memoryview(await line.source.read(flight.oid, flight.extent)).cast("B")
            if len(content) != need:
                raise CorruptObject(f"{flight.oid.key}: {len(content)} bytes came where {need} were asked for")
            flight.part = Part(flight.oid, flight.extent, content)
        except AliasfsError as exc:
            flight.error = exc
        except Exception as exc:
            log.exception("a store raised what its contract does not know, reading %s", flight.oid.key)
            flight.error = StoreError(f"{flight.oid.key}: internal error in the store ({type(exc).__name__})")
            flight.error.__cause__ = exc
        finally:
            if flight.part is None and flight.error is None:
                flight.error = StoreUnavailable(f"{flight.oid.key}: the read was given up, as the cache is closing")
            if reserved and flight.part is None:
                self._memory.release(need, line)
            self._land(flight)

    def _land(self, flight: Flight) -> None:
        """Take *flight* out of the table, its part into memory and on to the disk, and wake those who wait."""
        flights = self._flights[flight.oid]
        for block in flight.blocks:
            del flights[block]
        if not flights:
            del self._flights[flight.oid]
        if flight.part is not None:
            self._fetched += len(flight.part.content)
            self._memory.hold(flight.part, flight.line)
            self._behind.put_nowait(flight.part)
        flight.done.set()


class CachedContent:
    """One alias read through the cache; a `Content`."""

    def __init__(self, cache: BlockCache, line: Line) -> None:
        self._cache = cache
        self._line = line

    async def read(self, oid: ObjectId, extent: Extent) -> Buffer:
        """Return exactly `extent.length` bytes of *oid*, from memory or disk where cached.

        Concurrent readers of a missing block share one request. Always a checkpoint. Raises what the store's
        read raises; the next reader tries anew.
        """
        return await self._cache.read(self._line, oid, extent)

    def read_nowait(self, oid: ObjectId, extent: Extent) -> Buffer | None:
        """Return the bytes if they can be had without waiting for network or disk; None otherwise."""
        return self._cache.read_nowait(oid, extent)

    def prefetch_nowait(self, oid: ObjectId, extent: Extent) -> int:
        """Start fetching what is missing; return up to which offset all is there or on its way."""
        return self._cache.prefetch_nowait(self._line, oid, extent)

    async def cached_bytes(self, oid: ObjectId) -> int:
        """Return how many bytes of *oid* are cached."""
        return await self._cache.cached_bytes(oid)
