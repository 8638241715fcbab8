"""What the cache costs by itself, without kernel, network and stores: prints a table; not a test.

    python benchmarks/micro_cache.py [DIR]

DIR (a directory of its own on the disk to measure, default: a temporary one) is emptied at the end. Sequential
reads are of 1 MiB, as the kernel sends them. The "store" of the cold run answers from memory after 20 ms and at
100 MB/s per request, so the run is bound by read-ahead and by what one part costs on its way.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import trio

from aliasfs.extents import Extent
from aliasfs.store.base import Etag, ObjectId
from mountd.blockfile import Identity, paths_in
from mountd.blocks import BlockCache, BlockCacheSettings
from mountd.disk import CacheDisk
from mountd.ledger import FIXED_BYTES
from mountd.readahead import ReadAhead

MIB = 1 << 20
SIZE = 1 << 30
FILES, FILE_BYTES = 3000, 100_000
SCANNED = 100_000
FIRST_BYTE_S, BYTES_PER_S = 0.02, 100e6


class TimedContent:
    """Answers with slices of one buffer after the time that a connection would take."""

    def __init__(self) -> None:
        self.requests = 0
        self._bytes = memoryview(bytes(range(256)) * (16 * MIB // 256))

    async def read(self, oid: ObjectId, extent: Extent) -> memoryview:
        self.requests += 1
        await trio.sleep(FIRST_BYTE_S + extent.length / BYTES_PER_S)
        return self._bytes[: extent.length]


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[BlockCache]:
    disk = CacheDisk.open(path, 8 << 30)
    cache = BlockCache(disk, BlockCacheSettings())
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.run)
        while disk.statistics().state == "scanning":
            await trio.lowlevel.checkpoint()
        yield cache
        while cache.held_bytes:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    disk.close()


@contextmanager
def measured(what: str, amount: float, unit: str) -> Iterator[None]:
    began, cpu = time.perf_counter(), time.process_time()
    yield
    took, busy = time.perf_counter() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{what:<48} {amount / took:>10,.0f} {unit:<8} {took:7.2f} s {busy:7.2f} CPU-s {peak:6.0f} MiB peak", flush=True
    )


async def sequential(view: ReadAhead, oid: ObjectId, step: int) -> None:
    for start in range(0, oid.size, step):
        await view.read(oid, Extent(start, min(start + step, oid.size)))


def drop_page_cache() -> bool:
    """Have the kernel forget clean pages; only root may."""
    try:
        Path("/proc/sys/vm/drop_caches").write_text("1\n")
    except OSError:
        return False
    return True


async def large_file(path: Path) -> None:
    oid = ObjectId("bench", "large", Etag("1"), SIZE)
    source = TimedContent()
    async with running(path) as cache:
        with measured("1 GiB sequential, cold", SIZE / 1e6, "MB/s"):
            await sequential(ReadAhead(cache.wrap(source)), oid, MIB)
        print(f"    {source.requests} requests; state {cache.statistics().state}")
        with measured("    and until all of it is on disk", 0, ""):
            while cache.held_bytes:
                await trio.lowlevel.checkpoint()
    for step in (MIB, 128 * 1024):
        async with running(path) as cache:
            with measured(f"1 GiB from disk, page cache warm, {step >> 10} KiB reads", SIZE / 1e6, "MB/s"):
                await sequential(ReadAhead(cache.wrap(source)), oid, step)
    await trio.to_thread.run_sync(os.sync)
    if drop_page_cache():
        async with running(path) as cache:
            with measured("1 GiB from disk, page cache dropped", SIZE / 1e6, "MB/s"):
                await sequential(ReadAhead(cache.wrap(source)), oid, MIB)


async def small_files(path: Path) -> None:
    source = TimedContent()
    oids = [ObjectId("bench", f"small/{i}", Etag("1"), FILE_BYTES) for i in range(FILES)]

    async def some(view: ReadAhead, which: list[ObjectId]) -> None:
        for oid in which:
            await view.read(oid, Extent(0, FILE_BYTES))

    for what, readers in (("cold, 16 readers", 16), ("from disk, 1 reader", 1), ("from disk, 4 readers", 4)):
        async with running(path) as cache:
            view = ReadAhead(cache.wrap(source))
            with measured(f"{FILES:,} files of 100 kB {what}", FILES, "files/s"):
                async with trio.open_nursery() as nursery:
                    for i in range(readers):
                        nursery.start_soon(some, view, oids[i::readers])


def scan(path: Path) -> None:
    """Start on a directory of very many small objects."""
    disk = CacheDisk.open(path, 8 << 30)
    for _ in disk.scan():
        pass
    for i in range(SCANNED):
        oid = ObjectId("bench", f"scan/{i}", Etag("1"), 16)
        for place, content in zip(
            paths_in(disk.objects, Identity(oid).digest), (b"x" * 16, Identity(oid).header), strict=True
        ):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
    disk.close()
    with measured(f"start on {SCANNED:,} objects", SCANNED, "objects/s"):
        disk = CacheDisk.open(path, 8 << 30)
        for _ in disk.scan():
            pass
    facts = disk.statistics()
    print(f"    {facts.objects:,} objects, {(facts.used_bytes - FIXED_BYTES) / 1e6:,.0f} MB charged")
    disk.close()


def main() -> None:
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="micro_cache"))
    try:
        trio.run(large_file, place / "large")
        trio.run(small_files, place / "small")
        scan(place / "scan")
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
