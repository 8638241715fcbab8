"""A `Content` in memory that counts what is asked of it, and can be slow, held up, or made to fail."""

from __future__ import annotations

import random
from collections import deque

import trio

from aliasfs.errors import AliasfsError, StaleObject
from aliasfs.extents import Extent
from aliasfs.store.base import Etag, ObjectId


def bytes_of(key: str, etag: str, size: int) -> bytes:
    """Return the bytes of one version: reproducible, and different for each key and etag."""
    return random.Random(f"{key}\0{etag}").randbytes(size)


class CountingContent:
    """Versions by key; *requests* has every extent that was asked for, in order of arrival."""

    def __init__(self, target: str = "memory://t", delay_s: float = 0.0) -> None:
        self.target = target
        self.delay_s = delay_s
        self.requests: list[tuple[str, Extent]] = []
        self.failures: deque[AliasfsError] = deque()
        self.gate: trio.Event | None = None
        self.short_by = 0
        self.active = self.most_active = 0
        self._versions: dict[str, tuple[str, bytes]] = {}

    def put(self, key: str, size: int, etag: str = "1") -> ObjectId:
        """Make *key* a version of *size* bytes and return its name."""
        content = bytes_of(key, etag, size)
        self._versions[key] = (etag, content)
        return ObjectId(self.target, key, Etag(etag), size)

    def content(self, oid: ObjectId) -> bytes:
        """Return all bytes of *oid*, of whatever age."""
        etag, content = self._versions[oid.key]
        return content if etag == oid.etag else bytes_of(oid.key, oid.etag, oid.size)

    async def read(self, oid: ObjectId, extent: Extent) -> memoryview:
        self.requests.append((oid.key, extent))
        self.active += 1
        self.most_active = max(self.active, self.most_active)
        try:
            await trio.lowlevel.checkpoint()
            if self.delay_s:
                await trio.sleep(self.delay_s)
            if self.gate is not None:
                await self.gate.wait()
        finally:
            self.active -= 1
        if self.failures:
            raise self.failures.popleft()
        etag, content = self._versions[oid.key]
        if etag != oid.etag:
            raise StaleObject(f"{oid.key} was replaced")
        return memoryview(content)[extent.start : extent.stop - self.short_by]
