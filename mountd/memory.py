"""The memory tier of the cache: fetched parts, and one byte budget for them and for what is being fetched.

The budget is shared by lines (`mountd.lines`), each of which says how much of it may be under way there.

A `Part` is a run of whole blocks of one version in one buffer, as it came from a store or the disk; answers are
slices of it. Parts are *held* while the disk has to be given them, and after that kept as long as there is room.

Invariants: `held_bytes + reserved_bytes <= total_bytes`; parts kept are at most `kept_bytes` unless held; on one
line demands are let in by order of arrival and before every prefetch, and the line with the least under way goes
before the others. Tables are sync and used from one thread; `reserve` alone waits.
What a reader was given counts no more once its part is dropped: it lives until the reply is sent.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import trio

from aliasfs.extents import Extent
from aliasfs.store.base import ObjectId
from mountd.blockfile import BLOCK_BYTES
from mountd.lines import Line


def extent_of(oid: ObjectId, blocks: range) -> Extent:
    """Return the bytes of a run of blocks of *oid*."""
    return Extent(blocks.start * BLOCK_BYTES, blocks.stop * BLOCK_BYTES).clip(oid.size)


@dataclass(slots=True, eq=False)
class Part:
    """The bytes of *extent* of *oid*, which begins and ends at a block boundary or the end of the object."""

    oid: ObjectId
    extent: Extent
    content: memoryview
    held: bool = False
    read_to_end: bool = False

    def cut(self, extent: Extent) -> memoryview:
        """Return the bytes of *extent*, which lies within this part, without copying."""
        return self.content[extent.start - self.extent.start : extent.stop - self.extent.start]


@dataclass(slots=True, eq=False)
class _Waiter:
    """One demand that waits for room on *line*."""

    need: int
    line: Line
    granted: trio.Event = field(default_factory=trio.Event)


class MemoryTier:
    """Parts in memory, in the order in which they go, and the room for more."""

    def __init__(self, kept_limit_bytes: int, total_limit_bytes: int, demand_bytes: int) -> None:
        """Keep at most *kept_limit_bytes*; in all *total_limit_bytes*.

        *demand_bytes* of it are never for prefetches, and as many only for lines that have nothing under way.
        """
        self._kept_limit = kept_limit_bytes
        self._total_limit = total_limit_bytes
        self._demand = demand_bytes
        self._blocks: dict[ObjectId, dict[int, Part]] = {}
        self._order: OrderedDict[Part, None] = OrderedDict()
        self._waiting: dict[Line, deque[_Waiter]] = {}
        self.kept_bytes = self.held_bytes = self.reserved_bytes = 0

    def find(self, oid: ObjectId, block: int) -> Part | None:
        """Return the part that has *block* of *oid*."""
        blocks = self._blocks.get(oid)
        return blocks.get(block) if blocks else None

    def was_read(self, part: Part, stop: int) -> None:
        """Note that *part* was read up to the offset *stop*: one that was read to its end is the next to go.

        Its reader will not come back for it, and the kernel has it; what was fetched ahead is still to be read.
        """
        part.read_to_end = part.read_to_end or stop >= part.extent.stop
        if part in self._order:
            self._order.move_to_end(part, last=not part.read_to_end)

    def blocks_of(self, oid: ObjectId) -> Iterator[int]:
        """Iterate over the blocks of *oid* that are in memory."""
        return iter(self._blocks.get(oid, ()))

    def try_reserve(self, need: int, line: Line, *, demand: bool) -> bool:
        """Reserve *need* bytes for a fetch, dropping what was used longest ago; False when there is no room."""
        if line in self._waiting or not self._has_room(need, line, demand=demand):
            return False
        self._reserve(need, line)
        return True

    async def reserve(self, need: int, line: Line, patience_s: float, make_room: Callable[[], object]) -> None:
        """Wait until *need* bytes are reserved.

        As often as *patience_s* has passed while there was no room on any line, *make_room* is called.
        """
        await trio.lowlevel.checkpoint()
        if self.try_reserve(need, line, demand=True):
            return
        waiter = _Waiter(need, line)
        self._waiting.setdefault(line, deque()).append(waiter)
        arrived = False
        try:
            while not waiter.granted.is_set():
                with trio.move_on_after(patience_s):
                    await waiter.granted.wait()
                if not waiter.granted.is_set() and self._left(need) < 0:
                    make_room()
            arrived = True
        finally:
            if not arrived:
                self._give_up(waiter)

    def release(self, amount: int, line: Line) -> None:
        """Give back *amount* bytes that were reserved for *line*."""
        self._unreserve(amount, line)
        self._grant()

    def _left(self, need: int) -> int:
        """Return how much of all memory would be free or merely kept beside *need* more bytes."""
        return self._total_limit - self.reserved_bytes - self.held_bytes - need

    def _has_room(self, need: int, line: Line, *, demand: bool) -> bool:
        spared = 0 if demand else self._demand
        for_others = self._total_limit - self.reserved_bytes - need - spared - self._demand
        return self._left(need) >= spared and line.admits(need, for_others, demand=demand)

    def _reserve(self, need: int, line: Line) -> None:
        self.reserved_bytes += need
        line.reserved_bytes += need
        self._trim()

    def _unreserve(self, amount: int, line: Line) -> None:
        self.reserved_bytes -= amount
        line.reserved_bytes -= amount

    def _give_up(self, waiter: _Waiter) -> None:
        """Undo the wait of one who was cancelled."""
        if waiter.granted.is_set():
            self.release(waiter.need, waiter.line)
        else:
            self._waiting[waiter.line].remove(waiter)
            self._grant()

    def _grant(self) -> None:
        """Let in those who wait, as far as there is room; nobody passes a line that has nothing under way."""
        for line in sorted(self._waiting, key=lambda line: line.reserved_bytes):
            queue = self._waiting[line]
            while queue and self._has_room(queue[0].need, line, demand=True):
                waiter = queue.popleft()
                self._reserve(waiter.need, line)
                waiter.granted.set()
            if not queue:
                del self._waiting[line]
            elif not line.reserved_bytes:
                break

    def hold(self, part: Part, line: Line) -> None:
        """Take in *part*, for which room is reserved, until `settle`; it takes the place of older bytes."""
        self._unreserve(len(part.content), line)
        self.held_bytes += len(part.content)
        part.held = True
        self._enter(part)
        self._grant()

    def settle(self, part: Part) -> None:
        """Let *part* go when its room is needed: it is on disk, or never will be."""
        if part.held:
            part.held = False
            self.held_bytes -= len(part.content)
            self._keep(part)
            self._grant()

    def keep(self, part: Part) -> None:
        """Take in *part*, which came from the disk, as far as there is room without anyone waiting."""
        if self._left(len(part.content)) >= self._demand:
            self._enter(part)
            self._keep(part)

    def _enter(self, part: Part) -> None:
        blocks = self._blocks.setdefault(part.oid, {})
        for block in part.extent.blocks(BLOCK_BYTES):
            blocks[block] = part

    def _keep(self, part: Part) -> None:
        self.kept_bytes += len(part.content)
        self._order[part] = None
        self._order.move_to_end(part, last=not part.read_to_end)
        self._trim()

    def shed(self) -> int:
        """Drop every part that need not be held; return their bytes."""
        before = self.kept_bytes
        self._drop_above(0)
        return before

    def _trim(self) -> None:
        """Drop the parts used longest ago until both limits are kept."""
        self._drop_above(min(self._kept_limit, self._total_limit - self.reserved_bytes - self.held_bytes))

    def _drop_above(self, limit: int) -> None:
        """Drop the parts used longest ago until at most *limit* bytes are kept."""
        while self.kept_bytes > limit:
            part, _ = self._order.popitem(last=False)
            self.kept_bytes -= len(part.content)
            blocks = self._blocks.get(part.oid, {})  # a newer part of the same blocks may have left before this one
            for block in part.extent.blocks(BLOCK_BYTES):
                if blocks.get(block) is part:
                    del blocks[block]
            if not blocks:
                self._blocks.pop(part.oid, None)
