"""Readers in the midst of a directory: what each of them reads, how far it is, and how it goes on.

A reader's place is a cookie: 30 bits name what it reads (the generation), 32 bits how many names of it were told.
Relies on the names of a snapshot to stay in their places. Invariants:

- one reader has one snapshot from start to end, unless so many read at once that it was dropped;
- a reader that was begun by an earlier server goes on by name: no name it was told comes again, and no other one is
  left out, in whatever order a fresh listing has them;
- a cookie of an earlier server means nothing else here: generations begin at a random one.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cachetools import LRUCache

from aliasfs.store.base import ObjectInfo, directory_info
from mountd.catalog import Listing
from mountd.inodes import ROOT_INODE
from mountd.noderecords import MAX_CURSORS, CursorRecord

END = 0xFFFF_FFFF
"""The index of whoever was told all names of a complete listing: no server has any more for it."""

_GENERATION_BITS = 30
_CHUNK_NAMES = 1000
"""Names in one record of a long directory that is written down anew: less than a millisecond's work."""

_TOLD = directory_info("")
"""Stands for what a reader was told by an earlier server, and will not be told again."""


class Resumed:
    """A listing for a reader who was told some names of an older one; those come first, so that its indices stay."""

    def __init__(self, told: Sequence[bytes], listing: Listing) -> None:
        self.names: list[bytes] = list(told)
        self.entries: list[ObjectInfo] = [_TOLD] * len(told)
        self._told = frozenset(told)
        self._listing = listing
        self._taken = 0
        self._take()

    @property
    def expires_at(self) -> float:
        """Until when the entries may be trusted, in trio's time."""
        return self._listing.expires_at

    @property
    def complete(self) -> bool:
        """Whether all entries are here."""
        return self._listing.complete and self._taken == len(self._listing.entries)

    async def ensure(self, count: int) -> bool:
        """Wait until *count* entries are here or the end is reached; as `Listing.ensure`."""
        self._take()
        while len(self.entries) < count and not self.complete:
            await self._listing.ensure(self._taken + 1)
            self._take()
        return len(self.entries) >= count

    def _take(self) -> None:
        listing = self._listing
        for at in range(self._taken, len(listing.entries)):
            if listing.names[at] not in self._told:
                self.names.append(listing.names[at])
                self.entries.append(listing.entries[at])
        self._taken = len(listing.entries)


@dataclass(frozen=True, slots=True)
class Names:
    """Names in the order in which a reader gets them: of the root, or of a directory an earlier server had listed."""

    names: Sequence[bytes]


Snapshot = Listing | Resumed | Names


@dataclass(slots=True, eq=False)
class _Reader:
    """What one reader reads, and how many of its names are written down; none need be once it is *finished*."""

    snapshot: Snapshot
    recorded: int = 0
    finished: bool = False


class Snapshots:
    """The readers, by directory and generation."""

    def __init__(self) -> None:
        self._readers: LRUCache[tuple[int, int], _Reader] = LRUCache(MAX_CURSORS)
        self._generations = itertools.count(random.getrandbits(_GENERATION_BITS))

    def get(self, directory: int, cookie: int) -> Snapshot | None:
        """Return what the reader at *cookie* reads; None for one that begins, or whose snapshot was dropped."""
        reader = self._readers.get((directory, cookie >> 32)) if cookie else None
        return reader.snapshot if reader is not None else None

    def keep(self, directory: int, snapshot: Snapshot, cookie: int) -> int:
        """Keep *snapshot* for the reader at *cookie* alone; return the base of the cookies in it."""
        generation = cookie >> 32
        reader = self._readers.get((directory, generation)) if cookie else None
        if reader is None or reader.snapshot is not snapshot:
            generation = self._next_generation(directory)
            self._readers[directory, generation] = _Reader(snapshot)
        return generation << 32

    def _next_generation(self, directory: int) -> int:
        for generation in self._generations:
            short = generation & (1 << _GENERATION_BITS) - 1
            if short and (directory, short) not in self._readers:
                return short
        raise AssertionError("itertools.count has no end")

    def resume(self, directory: int, cookie: int, listing: Listing) -> Listing | Resumed:
        """Return *listing* as the reader at *cookie* goes on with it, for which `get` has found `Names`.

        A reader of whom too little is known goes on by index.
        """
        reader, index = self._readers.get((directory, cookie >> 32)), cookie & END
        if reader is None:
            return listing
        if isinstance(reader.snapshot, Names):
            if index > len(reader.snapshot.names):
                return listing
            reader.snapshot = Resumed(reader.snapshot.names[:index], listing)
            reader.recorded = index
        return reader.snapshot

    # what the next server has to know

    def told(self, directory: int, cookie: int) -> CursorRecord | None:
        """Return what is to be written down of a reader who was told all names up to *cookie*."""
        generation, index = cookie >> 32, cookie & END
        reader = self._readers.get((directory, generation)) if cookie else None
        if reader is None or index == END or index <= reader.recorded:
            return None
        start, reader.recorded = reader.recorded, index
        return _cursor(directory, generation, start, reader.snapshot.names[start:index])

    def finish(self, directory: int, cookie: int) -> bool:
        """Note that the reader at *cookie* knows that it is at the end; say whether anything of it was written down."""
        reader = self._readers.get((directory, cookie >> 32)) if cookie else None
        if reader is None or reader.finished or not reader.recorded:
            return False
        reader.finished = True
        return True

    def restore(self, cursor: CursorRecord, root: Sequence[bytes]) -> None:
        """Take a reader over from an earlier server; *root* are the names in the root of the mount now."""
        names = [os.fsencode(name) for name in cursor.names.split("/")]
        recorded = len(names)
        if cursor.directory == ROOT_INODE:
            told = frozenset(names)
            names += [name for name in root if name not in told]
        self._readers[cursor.directory, cursor.generation] = _Reader(Names(names), recorded)

    def cursors(self) -> Iterator[CursorRecord]:
        """Yield all that is to be known of the readers, in pieces; readers may move on between two of them."""
        for key, reader in list(self._readers.items()):
            start = 0
            while start < reader.recorded and not reader.finished:
                stop = min(start + _CHUNK_NAMES, reader.recorded)
                yield _cursor(*key, start, reader.snapshot.names[start:stop])
                start = stop


def _cursor(directory: int, generation: int, start: int, names: Sequence[bytes]) -> CursorRecord:
    return CursorRecord(directory, generation, start, os.fsdecode(b"/".join(names)))
