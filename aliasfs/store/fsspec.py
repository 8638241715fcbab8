"""Any place that fsspec can open, chained URLs included, as a store.

File systems are made for this store alone, without listing caches, and used from worker threads by their
synchronous side. A version is made of what the file system says of a file (checksums, times, size, and for
a member of an archive the version of the archive), looked up before each read and again after it, so that
bytes are never a mix.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, TypeVar

import trio
from typing_extensions import Buffer

from aliasfs.errors import CorruptObject, NotADirectory, NotALink, StaleObject
from aliasfs.extents import Extent
from aliasfs.store.base import Kind, ObjectId, ObjectInfo
from aliasfs.store.foreign import ForeignTree, translated
from aliasfs.store.names import LeftOut, checked_key, printable

T = TypeVar("T")

THREADS = 16
"""Requests to one such place at once; many of these libraries serve one at a time anyway."""

PAGE_ENTRIES = 1000


class FsspecStore:
    """The files below *url*, opened with the fsspec storage options *options*."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self._url = url
        self._tree = ForeignTree(url, options)
        self._limiter = trio.CapacityLimiter(THREADS)

    @property
    def target(self) -> str:
        return self._url

    @property
    def engine(self) -> str:
        return "fsspec"

    async def stat(self, key: str) -> ObjectInfo:
        checked_key(key)
        return await self._in_thread(key, self._tree.info, key)

    async def list(self, key: str) -> AsyncIterator[Sequence[ObjectInfo]]:
        if (await self.stat(key)).kind is not Kind.DIRECTORY:
            raise NotADirectory(f"{self._path(key)} is a file")
        left_out = LeftOut(self._url, key)
        found = await self._in_thread(key, self._tree.entries, key)
        entries = [info for info in found if not left_out.hides(info.name)]
        left_out.warn()
        for start in range(0, len(entries), PAGE_ENTRIES):
            yield entries[start : start + PAGE_ENTRIES]

    async def readlink(self, key: str) -> str:
        await self.stat(key)
        raise NotALink(f"{self._path(key)} is no symbolic link")

    async def read(self, oid: ObjectId, extent: Extent) -> Buffer:
        before, body, after = await self._in_thread(oid.key, self._tree.read, oid.key, extent.start, extent.stop)
        if before.etag != oid.etag or after.etag != oid.etag:
            raise StaleObject(f"{self._path(oid.key)} was replaced since it was opened")
        if len(body) != extent.length or after.size != oid.size:
            raise CorruptObject(f"{self._path(oid.key)} came with {len(body)} of {extent.length} bytes")
        return body

    async def aclose(self) -> None:
        await trio.to_thread.run_sync(self._tree.close)

    def _path(self, key: str) -> str:
        return printable(f"{self._url}/{key}" if key else self._url)

    async def _in_thread(self, key: str, function: Callable[..., T], *args: object) -> T:
        """Return what *function* returns in a thread, its errors translated; a cancelled caller does not wait."""
        try:
            return await trio.to_thread.run_sync(function, *args, limiter=self._limiter, abandon_on_cancel=True)
        except Exception as exc:
            raise translated(exc, self._path(key)) from exc
