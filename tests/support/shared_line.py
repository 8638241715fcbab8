"""A `Content` at the end of a line of so many bytes per second, which those who read from it share."""

from __future__ import annotations

import trio
from typing_extensions import Buffer

from aliasfs.extents import Extent
from aliasfs.store.base import Content, ObjectId

PACKET_BYTES = 16 << 10


class SharedLine:
    """*content* over a line: requests take turns, packet by packet, after *latency_s*."""

    def __init__(self, content: Content, bytes_per_s: float, latency_s: float = 0.03) -> None:
        self.bytes_per_s = bytes_per_s
        self._content = content
        self._latency_s = latency_s
        self._turn = trio.Lock()

    async def read(self, oid: ObjectId, extent: Extent) -> Buffer:
        await trio.sleep(self._latency_s)
        for start in range(0, extent.length, PACKET_BYTES):
            async with self._turn:
                await trio.sleep(min(PACKET_BYTES, extent.length - start) / self.bytes_per_s)
        return await self._content.read(oid, extent)
