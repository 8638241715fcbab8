"""The account of the cache directory: what each object takes, what was used last, and what has to go next.

Pure tables; no files. Relies on its caller (`mountd.disk`) to hold one lock around every call and to do on disk
what it is told. Charges are in bytes, are made before anything is written and taken back after it is gone, so
`used_bytes` is never below what the directory holds, and never above `budget_bytes`, except when the
directory is found over it at the start.

Objects left by an earlier process are *dormant*: one number each, older than all that was used since, evicted
whole. One that is used is *adopted*: its blocks are known, and it is evicted by segments.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from mountd.blockfile import BLOCK_BYTES, PAGE_BYTES, SEGMENT_BLOCKS, Identity, ObjectFiles, bits_in, segments_of

WHOLE = -1
"""In place of a segment: the object itself, both files."""

ENTRY_BYTES = 512
"""Charged per object for its two names in a directory and its share of the file system's own tables."""

FIXED_BYTES = (1 + 1 + 16 + 256 + 1) * PAGE_BYTES
"""Charged for the directories and the lock file, all of them from the start."""


@dataclass(slots=True, eq=False)
class Entry:
    """One adopted object. *surplus* bytes are allocated without a record (a write that was killed)."""

    identity: Identity
    files: ObjectFiles | None = None
    bitmaps: dict[int, int] = field(default_factory=dict)
    pins: dict[int, int] = field(default_factory=dict)
    surplus: int = 0

    def cached_bytes(self) -> int:
        """Return how many bytes of the object are on disk."""
        last = self.identity.blocks - 1
        whole = sum(bitmap.bit_count() for bitmap in self.bitmaps.values()) * BLOCK_BYTES
        return whole - (BLOCK_BYTES - self.identity.block_length(last) if self.has(last) else 0)

    def has(self, block: int) -> bool:
        """Say whether *block* is on disk."""
        segment, slot = divmod(block, SEGMENT_BLOCKS)
        return bool(self.bitmaps.get(segment, 0) >> slot & 1)

    def pin(self, segment: int) -> None:
        """Protect *segment*, or with WHOLE the open files, from eviction."""
        self.pins[segment] = self.pins.get(segment, 0) + 1

    def unpin(self, segment: int) -> None:
        """End what `pin` began."""
        self.pins[segment] -= 1
        if not self.pins[segment]:
            del self.pins[segment]

    def charge(self) -> int:
        """Return what the object takes in all."""
        identity = self.identity
        own = identity.base_charge + ENTRY_BYTES + self.surplus
        return own + sum(identity.segment_charge(segment, bitmap) for segment, bitmap in self.bitmaps.items())


@dataclass(frozen=True, slots=True)
class Victim:
    """What to remove: a segment of *entry*, or with WHOLE both files of *digest*; frees *freed_bytes*."""

    digest: bytes
    segment: int
    freed_bytes: int
    entry: Entry | None = None


class Ledger:
    """Budget and order of use of all objects of a cache directory."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.used_bytes = FIXED_BYTES
        self._dormant: OrderedDict[bytes, int] = OrderedDict()
        self._adopted: dict[bytes, Entry] = {}
        self._order: OrderedDict[tuple[bytes, int], None] = OrderedDict()
        self._arriving: dict[bytes, int] = {}
        self._leaving: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._dormant) + len(self._adopted)

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the digests known now, least recently used objects of earlier processes first."""
        return iter([*self._dormant, *self._adopted])

    def get(self, digest: bytes) -> Entry | None:
        """Return the adopted object *digest*, if it is one."""
        return self._adopted.get(digest)

    def knows(self, digest: bytes) -> bool:
        """Say whether *digest* is on disk, as far as is known."""
        return digest in self._adopted or digest in self._dormant

    def add_dormant(self, digest: bytes, charge: int) -> None:
        """Enter what the scan found, unless it has been adopted or removed in the meantime."""
        if digest not in self._adopted and digest not in self._leaving and digest not in self._dormant:
            self._dormant[digest] = charge
            self.used_bytes += charge

    def arrive(self, digest: bytes) -> bool:
        """Protect *digest* from eviction while its files are opened; False when it is being removed."""
        if digest in self._leaving:
            return False
        self._arriving[digest] = self._arriving.get(digest, 0) + 1
        return True

    def arrived(self, digest: bytes) -> None:
        """End what `arrive` began."""
        self._arriving[digest] -= 1
        if not self._arriving[digest]:
            del self._arriving[digest]

    def shut_out(self, digest: bytes) -> bool:
        """Keep *digest* from being opened while its files are made; False when someone is opening them."""
        if digest in self._arriving or digest in self._leaving:
            return False
        self._leaving.add(digest)
        return True

    def let_in(self, digest: bytes) -> None:
        """End what `shut_out` began."""
        self._leaving.discard(digest)

    def adopt(self, entry: Entry, *, prepaid: int = 0) -> None:
        """Take in an object whose blocks are known, in place of its dormant self or of *prepaid* bytes."""
        digest = entry.identity.digest
        self.used_bytes += entry.charge() - prepaid - self._dormant.pop(digest, 0)
        self._adopted[digest] = entry
        for segment in entry.bitmaps or (WHOLE,):
            self._order[digest, segment] = None

    def try_charge(self, need: int) -> bool:
        """Reserve *need* bytes; False when the budget does not hold them."""
        if self.used_bytes + need > self.budget_bytes:
            return False
        self.used_bytes += need
        return True

    def refund(self, amount: int) -> None:
        """Give back *amount* bytes that were reserved and not used."""
        self.used_bytes -= amount

    def cost(self, entry: Entry, blocks: range) -> int:
        """Return what storing the run *blocks* would add to the charge of *entry*."""
        charge = entry.identity.segment_charge
        total = 0
        for segment in segments_of(blocks):
            before = entry.bitmaps.get(segment, 0)
            total += charge(segment, before | bits_in(blocks, segment)) - charge(segment, before)
        return total

    def stored(self, entry: Entry, blocks: range) -> None:
        """Note that *blocks* are on disk; their cost has been charged."""
        self._order.pop((entry.identity.digest, WHOLE), None)
        for segment in segments_of(blocks):
            entry.bitmaps[segment] = entry.bitmaps.get(segment, 0) | bits_in(blocks, segment)
            self._order[entry.identity.digest, segment] = None
            self.touch(entry, segment)

    def dropped(self, entry: Entry, block: int) -> None:
        """Note that *block* is off the disk."""
        segment, slot = divmod(block, SEGMENT_BLOCKS)
        before = entry.bitmaps.get(segment, 0)
        after = before & ~(1 << slot)
        charge = entry.identity.segment_charge
        self.used_bytes -= charge(segment, before) - charge(segment, after)
        if after:
            entry.bitmaps[segment] = after
        elif before:
            self._remove_segment(entry, segment)

    def _remove_segment(self, entry: Entry, segment: int) -> int:
        """Take *segment* out of the tables and return its charge; an object without any is next to go itself."""
        digest = entry.identity.digest
        self._order.pop((digest, segment), None)
        charge = entry.identity.segment_charge(segment, entry.bitmaps.pop(segment))
        if not entry.bitmaps and self._adopted.get(digest) is entry:
            self._order[digest, WHOLE] = None
        return charge

    def touch(self, entry: Entry, segment: int) -> None:
        """Make *segment* of *entry* the most recently used."""
        key = (entry.identity.digest, segment)
        if key in self._order:
            self._order.move_to_end(key)

    def take_victim(self) -> Victim | None:
        """Return what was used longest ago and is neither pinned nor arriving; it is no longer found from now on.

        Its bytes stay charged until `gone`. None when everything left is in use.
        """
        for digest in self._dormant:
            if digest not in self._arriving:
                return self._leave(digest)
        for digest, segment in self._order:
            entry = self._adopted[digest]
            if segment in entry.pins:
                continue
            if len(entry.bitmaps) <= 1 and not entry.pins and digest not in self._arriving:
                return self._leave(digest)
            if segment != WHOLE:
                return Victim(digest, segment, self._remove_segment(entry, segment), entry)
        return None

    def take_object(self, digest: bytes) -> Victim | None:
        """Return the whole object *digest* as a victim, None when it is unknown or in use."""
        entry = self._adopted.get(digest)
        if digest in self._arriving or (entry and entry.pins) or (not entry and digest not in self._dormant):
            return None
        return self._leave(digest)

    def _leave(self, digest: bytes) -> Victim:
        """Take all of *digest* out of the tables."""
        self._leaving.add(digest)
        entry = self._adopted.pop(digest, None)
        if entry is None:
            return Victim(digest, WHOLE, self._dormant.pop(digest))
        for segment in (WHOLE, *entry.bitmaps):
            self._order.pop((digest, segment), None)
        return Victim(digest, WHOLE, entry.charge(), entry)

    def gone(self, victim: Victim) -> None:
        """Take back the charge of *victim*, which is off the disk."""
        if victim.segment == WHOLE:
            self._leaving.discard(victim.digest)
        self.used_bytes -= victim.freed_bytes

    def clear(self) -> None:
        """Forget every object."""
        self.used_bytes = FIXED_BYTES
        self._dormant.clear()
        self._adopted.clear()
        self._order.clear()
        self._leaving.clear()
