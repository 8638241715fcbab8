"""Half-open byte ranges and sets of them; pure.

Invariant of `ExtentMap`: its extents are sorted, non-empty, and neither overlap nor touch.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Extent(NamedTuple):
    """The bytes [start, stop) of an object; `start <= stop`, in bytes."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Number of bytes, `stop - start`."""
        return self.stop - self.start

    def clip(self, size: int) -> Extent:
        """Return the part of this extent that lies within an object of *size* bytes."""
        return Extent(min(self.start, size), min(self.stop, size))

    def blocks(self, block_bytes: int) -> range:
        """Return the indices of the *block_bytes* blocks that this extent touches."""
        if self.start >= self.stop:
            return range(0)
        return range(self.start // block_bytes, (self.stop - 1) // block_bytes + 1)


class ExtentMap:
    """A set of byte positions, kept as sorted disjoint extents."""

    __slots__ = ("_starts", "_stops")

    def __init__(self, extents: Iterable[Extent] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for extent in extents:
            self.add(extent)

    def __iter__(self) -> Iterator[Extent]:
        return (Extent(a, b) for a, b in zip(self._starts, self._stops, strict=True))

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def total_bytes(self) -> int:
        """Number of bytes in the set."""
        return sum(self._stops) - sum(self._starts)

    def _touching(self, extent: Extent) -> tuple[int, int]:
        """Return the index range of the extents that overlap or touch *extent*."""
        return bisect.bisect_left(self._stops, extent.start), bisect.bisect_right(self._starts, extent.stop)

    def add(self, extent: Extent) -> None:
        """Put the bytes of *extent* into the set, merging neighbours."""
        start, stop = extent
        if start >= stop:
            return
        first, last = self._touching(extent)
        if first < last:
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]

    def remove(self, extent: Extent) -> None:
        """Take the bytes of *extent* out of the set; bytes that are not in it are no matter."""
        if extent.start >= extent.stop:
            return
        first, last = self._touching(extent)
        kept = [
            piece
            for a, b in zip(self._starts[first:last], self._stops[first:last], strict=True)
            for piece in (Extent(a, min(b, extent.start)), Extent(max(a, extent.stop), b))
            if piece.start < piece.stop
        ]
        self._starts[first:last] = [piece.start for piece in kept]
        self._stops[first:last] = [piece.stop for piece in kept]

    def covers(self, extent: Extent) -> bool:
        """Say whether every byte of *extent* is in the set; true of an empty one."""
        return not self.missing(extent)

    def missing(self, extent: Extent) -> list[Extent]:
        """Return the parts of *extent* that are not in the set, in order."""
        gaps: list[Extent] = []
        position = extent.start
        first, last = self._touching(extent)
        for a, b in zip(self._starts[first:last], self._stops[first:last], strict=True):
            if position < a:
                gaps.append(Extent(position, min(a, extent.stop)))
            position = max(position, b)
        if position < extent.stop:
            gaps.append(Extent(position, extent.stop))
        return gaps
