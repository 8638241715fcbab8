"""The disk tier of the cache: blocks of object versions in a directory, within a byte budget, whatever happens.

One `CacheDisk` owns one directory. It is synchronous and thread-safe, because its work is done in worker threads
by the daemon and in the main thread by the command line. Look-ups take the lock of the tables, never held over
I/O; whoever writes, evicts or drops holds `Space.changes` over its I/O, so there is one such thread at a time.

Invariants: no byte is returned that does not verify; nothing is written before its space is charged
(`mountd.ledger`); an OSError of the disk is never the reader's: it makes the state `degraded`, in which nothing is
kept any more and, when it was a read that failed, nothing is read, until `recover` has gone well.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from aliasfs.errors import MountError
from aliasfs.store.base import ObjectId
from mountd.blockfile import BLOCK_BYTES, SEGMENT_BLOCKS, BadHeader, Identity, ObjectFiles, runs, segments_of
from mountd.cachedir import CacheDirectory, Found
from mountd.ledger import ENTRY_BYTES, Entry, Ledger
from mountd.objecttable import ObjectTable
from mountd.pagetrail import PageTrail
from mountd.space import Space

log = logging.getLogger(__name__)

MAX_OPEN_OBJECTS = 256
"""Objects kept open; their 512 descriptors fit twice into the soft limit of 1,024 that a plain shell gives."""

_RESERVE_BLOCKS = 16
"""Space is charged for this many blocks (4 MiB) at a time, so that a small budget takes a part of a large one."""

_DORMANT_SLICE = 1000  # entered per hold of the lock: half a millisecond


@dataclass(frozen=True, slots=True)
class DiskStatistics:
    """What the disk tier holds and did; sizes in bytes. *state* is `ok`, `scanning` or `degraded` with its *reason*."""

    state: str
    reason: str
    used_bytes: int
    budget_bytes: int
    objects: int
    evicted_bytes: int
    bad_blocks: int
    read_bytes: int
    written_bytes: int
    refused_bytes: int


class CacheDisk:
    """Blocks of object versions in one directory; see the module's text for threads and failures."""

    def __init__(
        self,
        directory: CacheDirectory,
        budget_bytes: int,
        min_free_bytes: Callable[[], int],
        *,
        max_open_objects: int = MAX_OPEN_OBJECTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._table = ObjectTable(Ledger(budget_bytes), directory.objects, max_open_objects)
        self.space = Space(self._table, directory, min_free_bytes, clock)
        self._trail = PageTrail()
        self._reason = ""
        self._nowait_works = self._readable = True
        self._bad = self._read = self._written = self._refused = 0

    @classmethod
    def open(cls, path: Path, budget_bytes: int, min_free_bytes: Callable[[], int] | int = 0) -> Self:
        """Claim the directory *path* for a cache of at most *budget_bytes* that leaves *min_free_bytes* free.

        Returns at once; nothing is kept before `scan` has run to its end. A directory that cannot be made or
        written gives a degraded cache. Raises MountError when another process uses it.
        """
        floor = min_free_bytes if callable(min_free_bytes) else lambda: min_free_bytes
        disk = cls(CacheDirectory(path), budget_bytes, floor)
        disk.claim()
        return disk

    def claim(self) -> None:
        """Take the directory; MountError when another process has it, any other failure degrades the cache."""
        try:
            self._directory.claim()
        except OSError as exc:
            self._degrade(exc, readable=False)

    def close(self) -> None:
        """Close all files and give the directory back; safe to call twice."""
        with self.space.changes:
            self._table.clear()
            self._directory.release()

    def statistics(self) -> DiskStatistics:
        """Return what the disk holds and did since it was opened."""
        with self._table.lock:
            ledger = self._table.ledger
            state = "degraded" if self._reason else "ok" if self._table.complete else "scanning"
            return DiskStatistics(
                state=state,
                reason=self._reason,
                used_bytes=ledger.used_bytes,
                budget_bytes=ledger.budget_bytes,
                objects=len(ledger),
                evicted_bytes=self.space.evicted_bytes,
                bad_blocks=self._bad,
                read_bytes=self._read,
                written_bytes=self._written,
                refused_bytes=self._refused,
            )

    # State

    @property
    def path(self) -> Path:
        """The cache directory."""
        return self._directory.path

    @property
    def objects(self) -> Path:
        """The directory that the files of the objects lie below."""
        return self._directory.objects

    @property
    def degraded(self) -> bool:
        """Whether the disk failed and has not recovered."""
        return bool(self._reason)

    @property
    def accepts_writes(self) -> bool:
        """Whether `write` may keep something."""
        return not self._reason and self._table.complete

    def _degrade(self, exc: OSError, *, readable: bool) -> None:
        """Note that the disk failed; *readable* when what it holds may still be asked for."""
        if not self._reason:
            log.warning("the cache in %s is not used for now: %s", self._directory.path, exc.strerror or exc)
        self._reason = f"{self._directory.path}: {exc.strerror or exc}"
        self._readable = self._readable and readable

    def recover(self) -> None:
        """Begin anew after a failure: claim the directory if it is another now, and scan it. Blocks, maybe seconds."""
        with self.space.changes:
            self._table.clear()
            self._reason, self._readable = "", True
            try:
                if not self._directory.is_ours():
                    self.claim()
            except MountError as exc:  # someone else has made it theirs meanwhile
                self._reason, self._readable = str(exc), False
            for _ in self.scan():
                pass
            if not self._reason:
                log.warning("the cache in %s is in use again", self._directory.path)

    def scan(self) -> Iterator[None]:
        """Learn what the directory holds, in steps of a few ms; nothing is kept before this has run to its end."""
        if self._reason:
            return
        found: list[Found] = []
        try:
            for batch in self._directory.walk():
                found += batch
                yield
        except OSError as exc:
            self._degrade(exc, readable=False)
            return
        found.sort()
        for start in range(0, len(found), _DORMANT_SLICE):
            with self._table.lock:
                for item in found[start : start + _DORMANT_SLICE]:
                    self._table.ledger.add_dormant(item.digest, item.allocated_bytes + ENTRY_BYTES)
            yield
        with self.space.changes:
            self._table.complete = True
            try:
                self.space.make(0)
            except OSError as exc:
                self._degrade(exc, readable=True)

    # Reading

    def may_hold(self, oid: ObjectId) -> bool:
        """Say whether `load` could find blocks of *oid* that `lacking` does not know of yet; no I/O."""
        return self._readable and not self._table.is_open(oid) and self._table.may_hold(Identity(oid).digest)

    def lacking(self, oid: ObjectId, blocks: Iterable[int]) -> list[int]:
        """Return those of *blocks* that are not known to be on disk; no I/O."""
        if not self._readable or not self._table.is_open(oid):
            return list(blocks)
        with self._table.lock:
            return [b for b in blocks if not self._table.bitmap(oid, b // SEGMENT_BLOCKS) >> b % SEGMENT_BLOCKS & 1]

    def cached_bytes(self, oid: ObjectId) -> int:
        """Return how many bytes of *oid* are on disk; opens its files, so it may block."""
        self.load(oid)
        return self._table.cached_bytes(oid) if self._readable else 0

    def load(self, oid: ObjectId) -> None:
        """Open the files of *oid*, if there are any, so that `lacking` and `read_nowait` know its blocks. Blocks."""
        if (entry := self._enter(oid, ())) is not None:
            self._table.end(entry, ())

    def _enter(self, oid: ObjectId, segments: Iterable[int]) -> Entry | None:
        """Return *oid* opened and pinned, None when it is not on disk; files that are not its are removed."""
        if not self._readable:
            return None
        try:
            return self._table.enter(oid, segments)
        except BadHeader:
            self.discard(Identity(oid).digest)
        except OSError as exc:
            self._degrade(exc, readable=False)
        return None

    def discard(self, digest: bytes) -> None:
        """Remove files that cannot be what their name says."""
        self._bad += 1
        self.remove(digest)

    def read_nowait(self, oid: ObjectId, blocks: range) -> memoryview | None:
        """Return the run *blocks* if the page cache has all of it and it verifies; never waits for the disk."""
        if not self._nowait_works or not self._readable:
            return None
        segments = segments_of(blocks)
        entry = self._table.begin(oid, segments)
        if entry is None:
            return None
        try:
            if not all(map(entry.has, blocks)):
                return None
            content = memoryview(bytearray(entry.identity.run_length(blocks)))
            damaged = _files(entry).read(blocks, content, os.RWF_NOWAIT)
        except BlockingIOError:
            return None
        except OSError as exc:
            if exc.errno == errno.EOPNOTSUPP:  # tmpfs and some network file systems: worker threads read instead
                self._nowait_works = False
            else:
                self._degrade(exc, readable=False)
            return None
        finally:
            self._table.end(entry, segments)
        if damaged:
            return None
        self._read += len(content)
        return content

    def read(self, oid: ObjectId, blocks: range) -> dict[range, memoryview]:
        """Return what the disk has of the run *blocks*, as runs of verified blocks. Blocks.

        A block that does not verify is counted, dropped from the disk, and left out.
        """
        segments = segments_of(blocks)
        entry = self._enter(oid, segments)
        corrupt: list[int] = []
        found: dict[range, memoryview] = {}
        if entry is None:
            return found
        try:
            for run in runs(filter(entry.has, blocks)):
                content = memoryview(bytearray(entry.identity.run_length(run)))
                damaged = _files(entry).read(run, content)
                corrupt += [damage.block for damage in damaged if damage.corrupt]
                unusable = {damage.block for damage in damaged}
                for good in runs(b for b in run if b not in unusable):
                    start = (good.start - run.start) * BLOCK_BYTES
                    found[good] = content[start : start + entry.identity.run_length(good)]
        except OSError as exc:
            self._degrade(exc, readable=False)
        finally:
            self._table.end(entry, segments)
        self._read += sum(map(len, found.values()))
        if corrupt:
            self.drop(oid, corrupt)
        return found

    def will_need(self, oid: ObjectId, blocks: range) -> None:
        """Have the kernel read those of *blocks* that are on disk into its page cache. Blocks briefly."""
        entry = self._enter(oid, ())
        if entry is None:
            return
        try:
            for run in runs(filter(entry.has, blocks)):
                _files(entry).will_need(run)
        except OSError as exc:
            self._degrade(exc, readable=False)
        finally:
            self._table.end(entry, ())

    # Writing and evicting

    def write(self, oid: ObjectId, first: int, content: memoryview) -> bool:
        """Keep *content*, whole blocks of *oid* from block *first* on; False when it was not (all) kept. Blocks."""
        blocks = range(first, first - (-len(content) // BLOCK_BYTES))
        with self.space.changes:
            if self.accepts_writes:
                try:
                    if self._write(oid, blocks, content):
                        return True
                except OSError as exc:
                    self._degrade(exc, readable=True)
        self._refused += len(content)
        return False

    def _write(self, oid: ObjectId, blocks: range, content: memoryview) -> bool:
        segments = segments_of(blocks)
        entry = self._enter(oid, segments) or self._create(oid, segments)
        if entry is None:
            return False
        try:
            for run in runs((b for b in blocks if not entry.has(b)), _RESERVE_BLOCKS):
                at = (run.start - blocks.start) * BLOCK_BYTES
                if not self._write_run(entry, run, content[at : at + entry.identity.run_length(run)]):
                    return False
        finally:
            self._table.end(entry, segments)
        return True

    def _write_run(self, entry: Entry, run: range, content: memoryview) -> bool:
        """Charge, then write *run*; what was charged for a write that fails stays charged to the object."""
        cost = self._table.ledger.cost(entry, run)
        if not self.space.make(cost):
            return False
        try:
            _files(entry).write(run.start, content, self._trail)
        except OSError:
            with self._table.lock:
                entry.surplus += cost
            raise
        with self._table.lock:
            self._table.ledger.stored(entry, run)
        self._written += len(content)
        return True

    def _create(self, oid: ObjectId, segments: range) -> Entry | None:
        """Return new files for *oid*, pinned; None when there is no room or someone is just looking for them."""
        self.space.look_again()  # files are never made in a directory that was replaced
        cost = Identity(oid).base_charge + ENTRY_BYTES
        if not self.space.make(cost):
            return None
        entry = self._table.create(oid, segments)
        if entry is None:
            with self._table.lock:
                self._table.ledger.refund(cost)
        return entry

    def digests(self) -> list[bytes]:
        """Return the digests of all objects that are on disk now, as far as they are known."""
        with self._table.lock:
            return list(self._table.ledger)

    def evict_one(self) -> bool:
        """Remove what was used longest ago; False when nothing can go. Blocks."""
        with self.space.changes:
            try:
                return self.space.evict_one()
            except OSError as exc:
                self._degrade(exc, readable=True)
                return False

    def remove(self, digest: bytes) -> int:
        """Remove one object unless it is in use; return the bytes freed. Blocks."""
        with self.space.changes:
            try:
                return self.space.remove_object(digest)
            except OSError as exc:
                self._degrade(exc, readable=True)
                return 0

    def drop(self, oid: ObjectId, corrupt: Iterable[int]) -> None:
        """Take blocks that failed their checksum off the disk, so that they are fetched and written anew. Blocks."""
        with self.space.changes:
            entry = self._enter(oid, ())
            if entry is None:
                return
            try:
                for block in filter(entry.has, corrupt):
                    self._bad += 1
                    self.space.drop_block(entry, block)
            except BadHeader:
                self.discard(entry.identity.digest)
            except OSError as exc:
                self._degrade(exc, readable=False)
            finally:
                self._table.end(entry, ())


def _files(entry: Entry) -> ObjectFiles:
    assert entry.files is not None  # it is pinned, so they are open
    return entry.files
