"""What a person asks of a cache directory: how it is, to give space back, to check every byte of it.

Works on a directory that is in use by this process, while reads and writes go on, and on one that was opened for
the purpose alone. Synchronous: the daemon calls it in a worker thread. Raises no OSError but for a directory that
cannot be listed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aliasfs.store.base import ObjectId
from aliasfs.wire import CacheStatus, EvictReport, VerifyProgress, VerifyReport
from mountd.blockfile import BadHeader, ObjectFiles, paths_in, read_identity, runs
from mountd.disk import CacheDisk
from mountd.ledger import FIXED_BYTES

_STEP_BLOCKS = 16
"""Blocks read at once (4 MiB): progress is told, and memory taken, in such steps."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects: those of *target* (None: of any) whose key begins with *key_prefix*."""

    target: str | None = None
    key_prefix: str = ""

    def takes(self, oid: ObjectId) -> bool:
        """Say whether *oid* is one of them."""
        return (self.target is None or oid.target == self.target) and oid.key.startswith(self.key_prefix)


@dataclass(frozen=True, slots=True)
class Verified:
    """What a verification found; *bad* counts blocks, and objects whose header is damaged."""

    objects: int = 0
    blocks: int = 0
    bytes: int = 0
    bad: int = 0


def evict_to(disk: CacheDisk, to_bytes: int) -> int:
    """Remove what was used longest ago until at most *to_bytes* are left; return the bytes freed.

    The directories themselves (1.1 MiB) do not count. What is being read at the moment stays.
    """
    before = disk.space.evicted_bytes
    while disk.statistics().used_bytes - FIXED_BYTES > to_bytes and disk.evict_one():
        pass
    return disk.space.evicted_bytes - before


def evict_selected(disk: CacheDisk, selection: Selection) -> int:
    """Remove all objects of *selection*, but for those being read at the moment; return the bytes freed."""
    freed = 0
    for digest in disk.digests():
        try:
            identity = read_identity(paths_in(disk.objects, digest)[1])
        except (BadHeader, FileNotFoundError):
            continue
        if selection.takes(identity.oid):
            freed += disk.remove(digest)
    return freed


def verify(disk: CacheDisk, *, repair: bool, progress: Callable[[Verified], None] | None = None) -> Verified:
    """Read every cached block and compare it with its checksum; with *repair*, drop those that differ.

    *progress* is called at least every 4 MiB with what was found so far. Leaves the order of use as it is.
    """
    total = Verified()
    for digest in disk.digests():
        map_path = paths_in(disk.objects, digest)[1]
        try:
            identity = read_identity(map_path)
            files = ObjectFiles.open(identity, disk.objects)
        except FileNotFoundError:
            continue  # evicted while we looked
        except BadHeader:
            total = Verified(total.objects + 1, total.blocks, total.bytes, total.bad + 1)
            if repair:
                disk.discard(digest)
            continue
        total = Verified(total.objects + 1, total.blocks, total.bytes, total.bad)
        try:
            for step in runs(_present(files), _STEP_BLOCKS):
                total = _verify_run(disk, files, step, total, repair)
                if progress is not None:
                    progress(total)
        finally:
            files.close()
    return total


def _present(files: ObjectFiles) -> list[int]:
    """Return the blocks that have a record."""
    return [
        block
        for segment, bitmap in sorted(files.presence().items())
        for block in files.identity.blocks_of(segment, bitmap)
    ]


def _verify_run(disk: CacheDisk, files: ObjectFiles, run: range, before: Verified, repair: bool) -> Verified:
    """Return *before* with the findings of one run of blocks added."""
    identity = files.identity
    length = identity.run_length(run)
    corrupt = [damage.block for damage in files.read(run, memoryview(bytearray(length))) if damage.corrupt]
    if corrupt and repair:
        disk.drop(identity.oid, corrupt)
    return Verified(before.objects, before.blocks + len(run), before.bytes + length, before.bad + len(corrupt))


def open_offline(path: Path, budget_bytes: int) -> CacheDisk:
    """Return the cache in *path*, claimed and scanned, for work without a daemon; the caller closes it.

    Raises MountError while a daemon uses it.
    """
    disk = CacheDisk.open(path, budget_bytes)
    for _ in disk.scan():
        pass
    return disk


def status(disk: CacheDisk, *, hits: int, misses: int, bytes_fetched: int) -> CacheStatus:
    """Return what `status` shows of the cache: what the disk holds and did, and what its readers asked for."""
    facts = disk.statistics()
    return CacheStatus(
        dir=str(disk.path),
        state="failed" if facts.state == "degraded" else "on",
        reason=facts.reason,
        used_bytes=facts.used_bytes,
        budget_bytes=facts.budget_bytes,
        min_free_bytes=disk.space.min_free_bytes,
        free_bytes=disk.space.free_bytes,
        objects=facts.objects,
        hits=hits,
        misses=misses,
        bytes_fetched=bytes_fetched,
        bytes_from_disk=facts.read_bytes,
        bad_blocks=facts.bad_blocks,
        evicted_bytes=facts.evicted_bytes,
    )


def evict_report(disk: CacheDisk, to_bytes: int) -> EvictReport:
    """Do as `evict_to` and return what became of it."""
    objects = disk.statistics().objects
    freed = evict_to(disk, to_bytes)
    after = disk.statistics()
    return EvictReport(
        evicted_bytes=freed, evicted_objects=max(0, objects - after.objects), used_bytes=after.used_bytes
    )


def verify_report(disk: CacheDisk, report: Callable[[VerifyProgress], None]) -> VerifyReport:
    """Do as `verify`, repairing, and return what was found."""
    total_bytes = disk.statistics().used_bytes

    def tell(so_far: Verified) -> None:
        report(VerifyProgress(done_bytes=so_far.bytes, total_bytes=total_bytes, bad_blocks=so_far.bad))

    found = verify(disk, repair=True, progress=tell)
    return VerifyReport(objects=found.objects, blocks=found.blocks, bytes=found.bytes, bad_blocks=found.bad)
