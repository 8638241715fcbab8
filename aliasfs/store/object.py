"""A bucket, or a prefix in one, as a store: `stat`, pages of `list`, and reads pinned to an etag.

The bucket (`aliasfs.store.bucket`) works in the asyncio thread; each method here is one crossing per
request. A directory exists when a key lies below it and wins over an object of the same name.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import trio
from typing_extensions import Buffer

from aliasfs.errors import (
    AccessDenied,
    AliasfsError,
    CorruptObject,
    NotADirectory,
    NotALink,
    NotFound,
    StaleObject,
    StoreUnavailable,
)
from aliasfs.extents import Extent
from aliasfs.store.aio import AsyncioBridge
from aliasfs.store.base import Kind, ObjectId, ObjectInfo, directory_info
from aliasfs.store.bucket import PAGE_KEYS, Bucket, Listing, RawObject, RawPage, RawRange
from aliasfs.store.names import checked_key, printable

T = TypeVar("T")

CLOSE_PATIENCE_S = 5.0
"""How long closing waits for cancelled requests; some library might not let go of one."""


class Place(NamedTuple):
    """Where a store is: *url* as people know it, *target* as `Store.target`, *prefix* within the bucket."""

    url: str
    target: str
    prefix: str


class ObjectStore:
    """The keys of *bucket* below a prefix; with *owns_bridge* the bridge is closed with the store."""

    def __init__(self, place: Place, bucket: Bucket, bridge: AsyncioBridge, *, owns_bridge: bool) -> None:
        self._url = place.url
        self._target = place.target
        self._prefix = f"{place.prefix}/" if place.prefix else ""
        self._bucket = bucket
        self._bridge = bridge
        self._owns_bridge = owns_bridge
        self._closed = False
        self._running: set[asyncio.Task[Any]] = set()

    @property
    def target(self) -> str:
        return self._target

    @property
    def engine(self) -> str:
        return self._bucket.engine

    async def stat(self, key: str) -> ObjectInfo:
        checked_key(key)
        return await self._call(self._stat, key)

    async def _stat(self, key: str) -> ObjectInfo:
        if not key:
            await self._bucket.page(self._prefix, None, 1)
            return directory_info(key)
        full = self._prefix + key
        found, below = await asyncio.gather(
            _answer(self._bucket.head(full)), _answer(self._bucket.page(f"{full}/", None, 1))
        )
        if isinstance(below, RawPage) and (below.objects or below.prefixes):
            return directory_info(key)
        if isinstance(found, RawObject) and (isinstance(below, RawPage | AccessDenied)):
            return _info(key, found)
        # What says more: a bucket that is missing or out of reach, before an object that is not there.
        for answer in (below, found):
            if isinstance(answer, AliasfsError) and not isinstance(answer, NotFound):
                raise answer
        if isinstance(below, NotFound):
            raise below
        raise NotFound(f"{self._path(key)} does not exist")

    async def list(self, key: str) -> AsyncIterator[Sequence[ObjectInfo]]:
        checked_key(key)
        prefix = f"{self._prefix}{key}/" if key else self._prefix
        listing = Listing(self._url, key, prefix)
        pages = _Pages(self._bucket, prefix, self._running)
        try:
            while True:
                page = await self._call(pages.next)
                entries = listing.add(page)
                if not listing.seen_any and page.token is None and key:
                    await self._call(self._explain_nothing, key)
                if entries:
                    yield entries
                if page.token is None:
                    break
        finally:
            if not self._closed:
                with trio.CancelScope(shield=True):
                    await self._bridge.call(pages.close)
        listing.finish()

    async def _explain_nothing(self, key: str) -> None:
        """Raise for a directory *key* below which nothing lies, unless the store marks it as one."""
        try:
            found = await self._bucket.head(self._prefix + key)
        except NotFound:
            raise NotFound(f"{self._path(key)} does not exist") from None
        if not found.is_directory:
            raise NotADirectory(f"{self._path(key)} is a file")

    async def readlink(self, key: str) -> str:
        await self.stat(key)
        raise NotALink(f"{self._path(key)} is no symbolic link")

    async def read(self, oid: ObjectId, extent: Extent) -> Buffer:
        start, stop = extent
        got: RawRange = await self._call(self._bucket.get, self._prefix + oid.key, oid.etag, start, stop)
        if got.etag != oid.etag:
            raise StaleObject(f"{self._path(oid.key)} was replaced since it was opened")
        count = memoryview(got.body).nbytes
        if (got.start, count, got.size) != (start, extent.length, oid.size):
            raise CorruptObject(
                f"{self._path(oid.key)}: {count} bytes from {got.start} of {got.size} came, "
                f"where {extent.length} from {start} of {oid.size} were promised"
            )
        return got.body

    async def _call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Return what the asyncio *function* returns; raises StoreUnavailable once the store is closed."""
        return await self._bridge.call(self._run, function, *args)

    async def _run(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        if self._closed:
            raise StoreUnavailable(f"{self._url}: the store is closed")
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            return await function(*args)
        finally:
            self._running.discard(task)

    async def _close(self) -> None:
        """End what is under way, which would open connections anew, and then close the bucket."""
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=CLOSE_PATIENCE_S)
        await self._bucket.aclose()

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            await self._bridge.call(self._close)
        if self._owns_bridge:
            await self._bridge.aclose()

    def _path(self, key: str) -> str:
        return printable(f"{self._url}/{key}")


class _Pages:
    """The raw pages of one directory, each asked for while the one before it is used: a listing then takes
    the time of the store or that of its reader, not both. Used in the asyncio thread; *running* has its tasks.
    """

    def __init__(self, bucket: Bucket, prefix: str, running: set[asyncio.Task[Any]]) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._running = running
        self._ahead: asyncio.Task[RawPage] | None = None

    async def next(self) -> RawPage:
        """Return the next page, or the first; not to be called after the last."""
        task, self._ahead = self._ahead or self._ask(None), None
        page = await task
        if page.token is not None:
            self._ahead = self._ask(page.token)
        return page

    def _ask(self, token: str | None) -> asyncio.Task[RawPage]:
        task = asyncio.get_running_loop().create_task(self._bucket.page(self._prefix, token, PAGE_KEYS))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def close(self) -> None:
        """End the request for a page that nobody will use."""
        if self._ahead is not None:
            self._ahead.cancel()
            await asyncio.gather(self._ahead, return_exceptions=True)


async def _answer(request: Awaitable[T]) -> T | AliasfsError:
    """Return what *request* returns or the error it raises, so that of two requests both are heard."""
    try:
        return await request
    except AliasfsError as exc:
        return exc


def _info(key: str, found: RawObject) -> ObjectInfo:
    if found.is_directory:
        return directory_info(key)
    return ObjectInfo(key, Kind.FILE, found.size, found.mtime_ns, found.etag)
