"""Gives back the kernel's pages of what was written to the cache, as soon as the disk has them.

What is read through the mount is kept by the kernel as pages of the mount; the same bytes as pages of the cache
file would only take memory twice. Advice starts the writing and a second advice, a little later, drops what is
clean by then; nothing is waited for, so a slow disk leaves pages dirty as it would without this. Measured
2026-11-20 on a virtual machine whose host takes free memory back: writing 1 GiB to new pages 196 MB/s, to pages
used before 2.0 GB/s.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple, Protocol

TRAIL_BYTES = 64 << 20
"""How far behind the writer pages are dropped: a tenth of a second at 600 MB/s, in which a disk takes them."""

SMALLEST_BYTES = 1 << 20
"""Shorter writes are left to the kernel: two calls each would cost more than their pages."""


class Pages(Protocol):
    """A file whose pages can be given back, also when it has been closed meanwhile."""

    def drop_pages(self, offset: int, length: int) -> None:
        """Have the kernel write the range, and drop what of it is clean."""
        ...


class _Written(NamedTuple):
    pages: Pages
    offset: int
    length: int


class PageTrail:
    """The latest writes of one writer, oldest first; holds no descriptor, so what is evicted is gone at once."""

    def __init__(self) -> None:
        self._written: deque[_Written] = deque()
        self._length = 0

    def wrote(self, pages: Pages, offset: int, length: int) -> None:
        """Note that [offset, offset + length) of *pages* was written."""
        if length < SMALLEST_BYTES:
            return
        pages.drop_pages(offset, length)
        self._written.append(_Written(pages, offset, length))
        self._length += length
        while self._length > TRAIL_BYTES:
            oldest = self._written.popleft()
            self._length -= oldest.length
            oldest.pages.drop_pages(oldest.offset, oldest.length)
