"""Write-behind: what was fetched goes to the disk tier in a worker thread, while its readers go on.

A part is held in memory until it is on disk, or is known not to get there. Invariant: every part that was handed
over is settled in the end, also when the disk hangs (`give_up`) or the daemon stops.
"""

from __future__ import annotations

import logging
from collections import deque

import trio

from mountd.blockfile import BLOCK_BYTES
from mountd.disk import CacheDisk
from mountd.exhaustion import is_out_of_memory
from mountd.memory import MemoryTier, Part

log = logging.getLogger(__name__)


class WriteBehind:
    """Parts on their way from *memory* to *disk*, in order; without a disk they are settled at once."""

    def __init__(self, disk: CacheDisk | None, memory: MemoryTier) -> None:
        self._disk = disk
        self._memory = memory
        self._queue: deque[Part] = deque()
        self._work = trio.Event()
        self.limiter = trio.CapacityLimiter(1)

    def put_nowait(self, part: Part) -> None:
        """Have *part*, which is held in memory, written and then settled."""
        if self._disk is not None and self._disk.accepts_writes:
            self._queue.append(part)
            self._work.set()
        else:
            self._memory.settle(part)

    def give_up(self) -> None:
        """Settle what has not been begun to be written: a reader has waited too long for its room."""
        while self._queue:
            self._memory.settle(self._queue.popleft())

    async def run(self, disk: CacheDisk) -> None:
        """Write until cancelled; what is not written by then stays so."""
        try:
            while True:
                while self._queue:
                    await self._write(disk, self._queue.popleft())
                self._work = trio.Event()
                await self._work.wait()
        finally:
            self.give_up()

    async def _write(self, disk: CacheDisk, part: Part) -> None:
        first = part.extent.start // BLOCK_BYTES
        try:
            await trio.to_thread.run_sync(disk.write, part.oid, first, part.content, limiter=self.limiter)
        except Exception as exc:
            if is_out_of_memory(exc):  # nobody waits for this; a request that finds none ends the server
                log.warning("memory is short: %s was not cached", part.oid.key)
            else:
                log.exception("a bug in aliasfs: %s was not cached", part.oid.key)
        finally:
            self._memory.settle(part)
