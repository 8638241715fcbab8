"""A tree of files on a web server, through the HTTP session of fsspec; a `Bucket` like the others.

Directories are what the server's index pages link to. A version is a strong ETag, asked for with If-Match
and compared with what comes; where a server sends none, it is Last-Modified and size, compared in the
answer that brings the bytes and again after them. A server that sends neither cannot be read safely.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from html import unescape
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urljoin, urlsplit

from aliasfs.errors import (
    AccessDenied,
    AliasfsError,
    CorruptObject,
    NotFound,
    NotSupported,
    StaleObject,
    StoreError,
    StoreUnavailable,
)
from aliasfs.store import failures
from aliasfs.store.base import Etag
from aliasfs.store.bucket import RawObject, RawPage, RawRange, content_range
from aliasfs.store.times import http_date_ns

HEADS_AT_ONCE = 16
"""Requests for the sizes of the files of one index page that are on their way together."""

CONNECT_TIMEOUT_S = 5.0

T = TypeVar("T")

RETRY_PAUSES_S = (0.2, 1.0)
"""Pauses before the second and third attempt at what may pass: a lost connection, a busy server."""

SKIP_BYTES = 1 << 20

_LINK = re.compile(rb"""<a\s[^>]*?href\s*=\s*(?:"([^"]*)"|'([^']*)')""", re.IGNORECASE)
_SAFE = "/~!$&'()*+,;=:@"
"""What need not be escaped in a path (RFC 3986 §3.3)."""


class HttpBucket:
    """The files below *root*, a URL without trailing slash, asked for with the fsspec storage options *options*."""

    engine: str = "fsspec"

    def __init__(self, root: str, options: Mapping[str, Any], request_timeout_s: float) -> None:
        self._root = root
        self._options = dict(options)
        self._timeout_s = request_timeout_s
        self._opening = asyncio.Lock()
        self._fs: Any = None
        self._heads = asyncio.Semaphore(HEADS_AT_ONCE)

    def _url(self, key: str) -> str:
        return f"{self._root}/{quote(key, safe=_SAFE)}"

    async def _request(self, method: str, url: str, headers: Mapping[str, str] | None = None) -> Any:
        """Return aiohttp's answer, its status not yet looked at; to be used in `async with`."""
        import aiohttp
        from fsspec.implementations.http import HTTPFileSystem

        async with self._opening:
            if self._fs is None:
                self._fs = HTTPFileSystem(
                    **self._options, asynchronous=True, skip_instance_cache=True, use_listings_cache=False
                )
        session = await self._fs.set_session()
        given = dict(self._fs.kwargs)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=self._timeout_s)
        all_headers = {"Accept-Encoding": "identity", **given.pop("headers", {}), **(headers or {})}
        return await session.request(
            method, url, **{"timeout": timeout, "allow_redirects": True, **given, "headers": all_headers}
        )

    async def head(self, key: str) -> RawObject:
        return await self._retried(lambda: self._head(key), self._url(key))

    async def _head(self, key: str) -> RawObject:
        async with await self._request("HEAD", self._url(key)) as answer:
            if answer.status >= 300:
                raise failures.refused(answer.status, self._url(key))
            return self._object(key, answer)

    def _object(self, key: str, answer: Any) -> RawObject:
        if answer.url.raw_path.endswith("/"):  # redirected to an index page
            return RawObject(key, 0, 0, Etag(""), is_directory=True)
        length = answer.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise NotSupported(f"{self._url(key)}: the server does not say how long this file is, so it cannot be read")
        modified = answer.headers.get("Last-Modified")
        size = int(length)
        return RawObject(key, size, http_date_ns(modified) if modified else 0, self._version(key, answer, size))

    def _version(self, key: str, answer: Any, size: int) -> Etag:
        etag, modified = answer.headers.get("ETag", ""), answer.headers.get("Last-Modified", "")
        if etag.startswith('"'):
            return Etag(etag)
        if not modified:
            raise NotSupported(
                f"{self._url(key)}: the server names no version of this file (ETag or Last-Modified), "
                "so what is read could be a mix"
            )
        return Etag(f"{modified}; {size}")

    async def page(self, prefix: str, token: str | None, limit: int) -> RawPage:
        url = self._url(prefix)
        names = await self._retried(lambda: self._links(url, must_exist=not prefix), url)
        files = [prefix + name for name in names if not name.endswith("/")]
        directories = [prefix + name for name in names if name.endswith("/")]
        if limit == 1:  # whether there is anything at all
            return RawPage((), [*directories, *(f"{key}/" for key in files)][:1], None)
        found = await asyncio.gather(*(self._entry(key) for key in files))
        return RawPage([item for item in found if item is not None], directories, None)

    async def _links(self, url: str, *, must_exist: bool) -> list[str]:
        async with await self._request("GET", url) as answer:
            if answer.status == 404 and not must_exist:
                return []
            if answer.status >= 300:
                raise failures.refused(answer.status, url)
            page = await answer.read() if answer.content_type == "text/html" else b""
        return sorted(linked_names(page, url))

    async def _entry(self, key: str) -> RawObject | None:
        """Return the file *key* of an index page, None when the link leads to nothing that can be read."""
        async with self._heads:
            try:
                return await self.head(key)
            except (NotFound, AccessDenied, NotSupported):
                return None

    async def get(self, key: str, etag: Etag, start: int, stop: int) -> RawRange:
        got = await self._retried(lambda: self._get(key, etag, start, stop), self._url(key))
        if not etag.startswith('"') and (await self.head(key)).etag != etag:
            raise StaleObject(f"{self._url(key)} was replaced while it was read")
        return got

    async def _get(self, key: str, etag: Etag, start: int, stop: int) -> RawRange:
        url = self._url(key)
        headers = {"Range": f"bytes={start}-{stop - 1}"}
        if etag.startswith('"'):
            headers["If-Match"] = etag
        async with await self._request("GET", url, headers) as answer:
            if answer.status not in (200, 206):
                raise failures.refused(answer.status, url)
            first, size = _extent(answer)
            version = self._version(key, answer, size)
            if version != etag:
                raise StaleObject(f"{url} was replaced since it was opened")
            if answer.status == 206:
                return RawRange(await answer.read(), first, size, version)
            return RawRange(await _part(answer, start, stop), start, size, version)

    async def _retried(self, request: Callable[[], Awaitable[T]], url: str) -> T:
        """Return what *request* returns, its errors translated; what may pass is tried again."""
        for pause_s in (*RETRY_PAUSES_S, None):
            try:
                return await request()
            except Exception as exc:
                error = translated(exc, url)
                if pause_s is None or not isinstance(error, StoreUnavailable | CorruptObject):
                    raise error from exc
            await asyncio.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    async def aclose(self) -> None:
        fs, self._fs = self._fs, None
        if fs is not None and fs._session is not None:
            await fs._session.close()


async def _part(answer: Any, start: int, stop: int) -> bytes:
    """Return the bytes [start, stop) out of the whole file, which a server without ranges sends."""
    left = start
    while left:
        left -= len(await answer.content.readexactly(min(left, SKIP_BYTES)))
    wanted: bytes = await answer.content.readexactly(stop - start)
    answer.close()
    return wanted


def _extent(answer: Any) -> tuple[int, int]:
    """Return where the body of *answer* begins and how long the whole file is; -1 for what it does not say."""
    if answer.status == 206:
        return content_range(answer.headers.get("Content-Range", ""))
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else -1


def linked_names(page: bytes, url: str) -> set[str]:
    """Return the names directly below *url* that the index *page* links to; those of directories end in `/`."""
    base = urlsplit(url)
    names: set[str] = set()
    for match in _LINK.finditer(page):
        link = unescape((match[1] or match[2] or b"").decode(errors="replace"))
        target = urlsplit(urljoin(url, link))
        if (target.scheme, target.netloc) != (base.scheme, base.netloc) or target.query:
            continue
        if target.path.startswith(base.path):
            name = target.path[len(base.path) :]
            if name and "/" not in name[:-1] and name != "/":
                names.add(unquote(name))
    return names


def translated(error: Exception, place: str) -> AliasfsError:
    """Return what *error* of aiohttp means; *place* is named in the sentence."""
    import aiohttp

    if isinstance(error, AliasfsError):
        return error
    if isinstance(error, TimeoutError):
        return failures.timed_out(place)
    if isinstance(error, aiohttp.ClientPayloadError | asyncio.IncompleteReadError):
        return CorruptObject(f"{place}: fewer bytes came than were promised")
    if isinstance(error, aiohttp.InvalidURL | aiohttp.TooManyRedirects):
        return failures.nonsense(place)
    if isinstance(error, aiohttp.ClientError | ConnectionError):
        return failures.unreachable(place)
    return StoreError(f"{place}: the HTTP library failed ({type(error).__name__})")
