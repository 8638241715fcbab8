"""Keeps the server's memory below a soft limit: it gives back what can be fetched again before the kernel takes it all.

Relies on the rooms that keep something to say how to give it up (`shed`), and on Linux to say how much memory is used.
Invariant: nothing that a reader holds is taken from him; a shed costs later requests time, never an answer.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from mountd.blocks import BlockCache
from mountd.catalog import Catalog

log = logging.getLogger(__name__)

LOOK_S = 1.0
HIGH = 0.9
"""Part of the limit above which is shed: the rest is for what the requests of one second take."""

SHED_EVERY_S = 5.0
"""Between two sheds: collecting garbage among 200,000 names holds all requests up for 0.1 s."""

SAY_EVERY_S = 60.0

WORN_AFTER_S = 30.0
"""Above the limit for so long in spite of sheds, memory is not kept but lost; a new server begins without."""

WORN_EVERY_S = 600.0
"""No server is worn before this age, nor again before this time: a limit that is too low for any server then costs
one planned restart in ten minutes and not a row of them."""

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class PressureStatistics:
    """*resident_bytes* as seen last; *freed_bytes* is by how much it went down in all sheds together."""

    limit_bytes: int
    resident_bytes: int
    sheds: int
    freed_bytes: int
    worn: int


def resident_bytes() -> int:
    """Return how much memory this process has, pages of files that it maps included (proc(5), statm)."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def trim_heap() -> None:
    """Collect garbage and have the C library give free memory back, where it is glibc; others do so by themselves."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@dataclass(slots=True, eq=False)
class _Since:
    """What lies between two looks; times are trio's."""

    above_s: float | None = None
    shed_s: float = float("-inf")
    said_s: float = float("-inf")
    worn_s: float = 0.0


@dataclass(slots=True, eq=False)
class Pressure:
    """The soft limit *limit_bytes* of one server; *worn* is told why it should be replaced."""

    limit_bytes: int
    cache: BlockCache
    catalogs: Callable[[], Iterable[Catalog]]
    worn: Callable[[str], object]
    measure: Callable[[], int] = resident_bytes
    trim: Callable[[], object] = trim_heap
    _since: _Since = field(default_factory=_Since, init=False)
    _seen: int = field(default=0, init=False)
    _sheds: int = field(default=0, init=False)
    _freed: int = field(default=0, init=False)
    _worn: int = field(default=0, init=False)

    def statistics(self) -> PressureStatistics:
        """Return what was seen and done so far."""
        return PressureStatistics(self.limit_bytes, self._seen, self._sheds, self._freed, self._worn)

    async def run(self) -> None:
        """Look every second until cancelled."""
        self._since.worn_s = trio.current_time()
        while True:
            self._look()
            await trio.sleep(LOOK_S)

    def _look(self) -> None:
        now_s, since = trio.current_time(), self._since
        self._seen = self.measure()
        if self._seen > HIGH * self.limit_bytes and now_s - since.shed_s >= SHED_EVERY_S:
            since.shed_s = now_s
            self._shed()
        if self._seen <= self.limit_bytes:
            since.above_s = None
        elif since.above_s is None:
            since.above_s = now_s
        elif now_s - since.above_s >= WORN_AFTER_S and now_s - since.worn_s >= WORN_EVERY_S:
            since.worn_s = now_s
            self._worn += 1
            self.worn(
                f"{self._seen // MIB} MiB are in use, above memory_max ({self.limit_bytes // MIB} MiB) for "
                f"{now_s - since.above_s:.0f} s although everything that can be fetched again was given up"
            )

    def _shed(self) -> None:
        """Give up what can be fetched again, and see what came of it."""
        before = self._seen
        kept = self.cache.shed()
        names = sum(catalog.shed() for catalog in self.catalogs())
        self.trim()
        self._seen = self.measure()
        self._sheds += 1
        self._freed += max(0, before - self._seen)
        if trio.current_time() - self._since.said_s >= SAY_EVERY_S:
            self._since.said_s = trio.current_time()
            level = logging.WARNING if self._seen > HIGH * self.limit_bytes else logging.INFO
            log.log(
                level,
                "memory: %d of %d MiB were in use; %d MiB of cached parts and %d names were given up, %d MiB are left",
                before // MIB,
                self.limit_bytes // MIB,
                kept // MIB,
                names,
                self._seen // MIB,
            )
