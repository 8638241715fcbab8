"""The objects of a cache directory that are known and those whose files are open; pins and descriptors.

Ties the `Ledger` (what is charged, what goes next) to open `ObjectFiles`. Thread-safe: `lock` guards every table
and is never held over I/O. Invariants: an entry in `_open` has files; files are closed only when nobody has
their entry pinned; an object is opened by many threads at once or created or removed by one, never both.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aliasfs.store.base import ObjectId
from mountd.blockfile import BadHeader, Identity, ObjectFiles
from mountd.ledger import ENTRY_BYTES, WHOLE, Entry, Ledger, Victim


class ObjectTable:
    """Known and open objects below the directory *objects*, of which at most *max_open* stay open unused."""

    def __init__(self, ledger: Ledger, objects: Path, max_open: int) -> None:
        self.ledger = ledger
        self.lock = threading.RLock()
        self.complete = False
        self._objects = objects
        self._max_open = max_open
        self._open: OrderedDict[ObjectId, Entry] = OrderedDict()

    def is_open(self, oid: ObjectId) -> bool:
        """Say whether the blocks of *oid* are known without I/O."""
        return oid in self._open

    def may_hold(self, digest: bytes) -> bool:
        """Say whether there may be files of *digest*: not once all are known and it is not among them."""
        with self.lock:
            return not self.complete or self.ledger.knows(digest)

    def bitmap(self, oid: ObjectId, segment: int) -> int:
        """Return which blocks of *segment* of an open object are on disk; none of one that is not open."""
        with self.lock:
            entry = self._open.get(oid)
            return entry.bitmaps.get(segment, 0) if entry else 0

    def cached_bytes(self, oid: ObjectId) -> int:
        """Return how many bytes of an open object are on disk."""
        with self.lock:
            entry = self._open.get(oid)
            return entry.cached_bytes() if entry else 0

    def begin(self, oid: ObjectId, segments: Iterable[int]) -> Entry | None:
        """Pin an open object and *segments* of it, as the last used; None when it is not open. No I/O."""
        with self.lock:
            entry = self._open.get(oid)
            if entry is not None:
                self._open.move_to_end(oid)
                self._pin(entry, segments)
            return entry

    def _pin(self, entry: Entry, segments: Iterable[int]) -> None:
        entry.pin(WHOLE)
        for segment in segments:
            entry.pin(segment)
            self.ledger.touch(entry, segment)

    def end(self, entry: Entry, segments: Iterable[int]) -> None:
        """End what `begin`, `enter` or `create` began; the last user of a forgotten object closes its files."""
        with self.lock:
            for segment in segments:
                entry.unpin(segment)
            entry.unpin(WHOLE)
            files = None
            if not entry.pins and self._open.get(entry.identity.oid) is not entry:
                files, entry.files = entry.files, None
        if files is not None:
            files.close()

    def enter(self, oid: ObjectId, segments: Iterable[int]) -> Entry | None:
        """Return *oid* opened and pinned as by `begin`; None when it is not on disk. Blocks.

        Raises BadHeader when its files are not to be used, OSError when the disk fails.
        """
        entry = self.begin(oid, segments)
        if entry is not None:
            return entry
        identity = Identity(oid)
        with self.lock:
            if not self.may_hold(identity.digest) or not self.ledger.arrive(identity.digest):
                return None
        try:
            return self._open_files(identity, segments)
        finally:
            with self.lock:
                self.ledger.arrived(identity.digest)

    def _open_files(self, identity: Identity, segments: Iterable[int]) -> Entry | None:
        try:
            files = ObjectFiles.open(identity, self._objects)
        except FileNotFoundError as exc:
            if self.ledger.knows(identity.digest):
                raise BadHeader("a file is gone") from exc
            return None
        try:
            presence = files.presence()
            allocated = files.allocated_bytes() + ENTRY_BYTES
            with suppress(OSError):  # a read-only disk still serves
                files.touch()
        except OSError:
            files.close()
            raise
        with self.lock:
            entry = self.ledger.get(identity.digest)
            if entry is None:
                entry = Entry(identity, bitmaps=presence)
                entry.surplus = max(0, allocated - entry.charge())
                self.ledger.adopt(entry)
            return self._install(entry, files, segments)

    def create(self, oid: ObjectId, segments: Iterable[int]) -> Entry | None:
        """Make the files of *oid*, whose `base_charge` has been charged, and return it pinned.

        None when another thread is just looking for them. One thread at a time; raises OSError.
        """
        identity = Identity(oid)
        with self.lock:
            if not self.ledger.shut_out(identity.digest):
                return None
        try:
            files = ObjectFiles.create(identity, self._objects)
            with self.lock:
                entry = Entry(identity)
                self.ledger.adopt(entry, prepaid=entry.charge())
                return self._install(entry, files, segments)
        finally:
            with self.lock:
                self.ledger.let_in(identity.digest)

    def _install(self, entry: Entry, files: ObjectFiles, segments: Iterable[int]) -> Entry:
        """Make *files* those of *entry*, unless another thread was first, and close what is open in excess."""
        oid = entry.identity.oid
        surplus = []
        if entry.files is None:
            entry.files = files
            self._open[oid] = entry
        else:
            surplus.append(files)
        self._pin(entry, segments)
        if len(self._open) > self._max_open:
            idle = next((key for key, other in self._open.items() if not other.pins), None)
            if idle is not None:
                other = self._open.pop(idle)
                assert other.files is not None
                surplus.append(other.files)
                other.files = None
        for unused in surplus:
            unused.close()
        return entry

    def take_victim(self) -> Victim | None:
        """Take what has to go next out of the tables and return it; None when all is in use."""
        with self.lock:
            return self._detached(self.ledger.take_victim())

    def take_object(self, digest: bytes) -> Victim | None:
        """Take a whole object out of the tables and return it; None when it is unknown or in use."""
        with self.lock:
            return self._detached(self.ledger.take_object(digest))

    def _detached(self, victim: Victim | None) -> Victim | None:
        """Close the files of a whole object that leaves, so that its space is given back when it is unlinked."""
        if victim is not None and victim.segment == WHOLE and victim.entry is not None:
            entry = self._open.pop(victim.entry.identity.oid, None)
            if entry is not None and entry.files is not None:
                entry.files.close()
                entry.files = None
        return victim

    @contextmanager
    def files_of(self, entry: Entry) -> Iterator[ObjectFiles]:
        """Lend the files of *entry* to one who changes them, opened for the time when they are not open."""
        with self.lock:
            files = entry.files
            if files is not None:
                entry.pin(WHOLE)
        if files is not None:
            try:
                yield files
            finally:
                self.end(entry, ())
            return
        files = ObjectFiles.open(entry.identity, self._objects)
        try:
            yield files
        finally:
            files.close()

    def clear(self) -> None:
        """Forget every object; files that are in use are closed by their last user."""
        with self.lock:
            idle = [entry for entry in self._open.values() if not entry.pins]
            self._open.clear()
            self.ledger.clear()
            self.complete = False
            for entry in idle:
                if entry.files is not None:
                    entry.files.close()
                    entry.files = None
