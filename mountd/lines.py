"""The line to one source: what is under way on it, and how much of that it brings in time.

A reader waits for its bytes and for all that comes over the line beside them. So what is under way is kept to what
the line brings in a few seconds: a slow line is read in small pieces, one after the other, and each arrives before its
readers have to be told that it took too long. Nothing is known of a line at first; each request that comes to its end
says something: *n* requests that shared the line for *t* seconds and brought *b* bytes each are n * b / t.

Invariants: one request at a time is let on to every line, however slow; a request that was fast never makes the
window smaller, as it may have been short. Sync, pure but for trio's clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from aliasfs.errors import StoreTimeout, StoreUnavailable
from aliasfs.store.base import Content
from mountd.blockfile import BLOCK_BYTES

FIRST_WINDOW_BYTES = 1 << 20
"""Under way on a line of which nothing is known, or which fails: 16 s at 64 kB/s. A fast one has more after 30 ms."""

SHARE = 4
"""A line may have under way so many times what it leaves to the others: four fifths of the memory when it is alone with
it, and a fifth of what is left beside one that is stuck (Choudhury and Hahne's dynamic thresholds, which switches use
for their buffers)."""

SHORTEST_S = 0.001
"""No answer is taken to have been faster: what comes from a cache on the way says little."""


class Line:
    """*source* and what is under way from it, which is to arrive within *within_s* seconds."""

    def __init__(self, source: Content, within_s: float) -> None:
        self.source = source
        self.window_bytes = FIRST_WINDOW_BYTES
        self.reserved_bytes = 0
        self.is_failing = False
        self._within_s = within_s
        self._under_way = 0
        self._shared_s = 0.0
        self._looked_s = 0.0
        self._silent_since_s = 0.0

    def longest_blocks(self, part_bytes: int) -> int:
        """Return how many blocks one request should have, which is to have at most *part_bytes*."""
        return max(min(part_bytes, self.window_bytes) // BLOCK_BYTES, 1)

    def admits(self, need: int, left: int, *, demand: bool) -> bool:
        """Say whether *need* more bytes may be under way, which leaves *left* bytes of memory to others to share.

        Nothing is fetched ahead on a line that fails, or on which nothing came for as long as all should take.
        """
        if not demand and (self.is_failing or self._is_silent):
            return False
        busy = self.reserved_bytes + need
        return not self.reserved_bytes or busy <= min(self.window_bytes, SHARE * left)

    @contextmanager
    def request(self, size: int) -> Iterator[None]:
        """Learn from one request for *size* bytes, which is on its way within the block."""
        began_s = self._look()
        if not self._under_way:
            self._silent_since_s = began_s
        self._under_way += 1
        before_s = self._shared_s
        try:
            yield
        except (StoreTimeout, StoreUnavailable):
            self.is_failing = True
            self.window_bytes = min(self.window_bytes, FIRST_WINDOW_BYTES)
            raise
        else:
            self._silent_since_s = now_s = self._look()
            self._arrived(size, now_s - began_s, self._shared_s - before_s)
        finally:
            self._look()
            self._under_way -= 1

    @property
    def _is_silent(self) -> bool:
        return self._under_way > 0 and trio.current_time() - self._silent_since_s > self._within_s

    def _look(self) -> float:
        """Return the time, after adding up for how long how many requests have shared the line."""
        now_s = trio.current_time()
        self._shared_s += self._under_way * (now_s - self._looked_s)
        self._looked_s = now_s
        return now_s

    def _arrived(self, size: int, took_s: float, shared_s: float) -> None:
        """Learn that *size* bytes took *took_s*, beside others which together with them had *shared_s*."""
        self.is_failing = False
        took_s = max(took_s, SHORTEST_S)
        sharing = max(shared_s / took_s, 1.0)
        brings = int(self._within_s * sharing * size / took_s)
        if took_s < self._within_s:
            self.window_bytes = max(self.window_bytes, brings)
        else:
            self.window_bytes = max(min(self.window_bytes, brings), BLOCK_BYTES)
