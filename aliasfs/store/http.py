"""A tree of files on a web server, through the HTTP session of fsspec; a `Bucket` like the others.

Directories are what the server's index pages link to. A version is a strong ETag, asked for with If-Match
and compared with what comes; where a server sends none, it is Last-Modified and size, compared in the
answer that brings the bytes and again after them. A server that sends neither cannot be read safely.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from html import unescape
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from aliasfs.errors import AliasfsError, CorruptObject, NotSupported, StaleObject, StoreError
from aliasfs.store import failures
from aliasfs.store.base import Etag
from aliasfs.store.bucket import RawObject, RawPage, RawRange
from aliasfs.store.times import http_date_ns

HEADS_AT_ONCE = 16
"""Requests for the sizes of the files of one index page that are on their way together."""

CONNECT_TIMEOUT_S = 5.0

_LINK = re.compile(rb"""<a\s[^>]*?href\s*=\s*(?:"([^"]*)"|'([^']*)')""", re.IGNORECASE)
_SAFE = "/~!$&'()*+,;=:@"
"""What need not be escaped in a path (RFC 3986 §3.3)."""


class HttpBucket:
    """The files below *root*, a URL without trailing slash, asked for with the fsspec storage options *options*."""

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
        try:
            async with await self._request("HEAD", self._url(key)) as answer:
                if answer.status >= 300:
                    raise failures.refused(answer.status, self._url(key))
                return self._object(key, answer)
        except Exception as exc:
            raise translated(exc, self._url(key)) from exc

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
        try:
            async with await self._request("GET", url) as answer:
                if answer.status == 404 and prefix:
                    return RawPage((), (), None)
                if answer.status >= 300:
                    raise failures.refused(answer.status, url)
                is_index = answer.content_type == "text/html"
                body = await answer.read() if is_index else b""
        except Exception as exc:
            raise translated(exc, url) from exc
        names = linked_names(body, url)
        files = [prefix + name for name in sorted(names) if not name.endswith("/")]
        directories = [prefix + name for name in sorted(names) if name.endswith("/")]
        if limit == 1:
            return RawPage((), directories[:1] or [f"{prefix}/" for _ in files[:1]], None)
        found = await asyncio.gather(*(self._entry(key) for key in files))
        return RawPage([item for item in found if item is not None], directories, None)

    async def _entry(self, key: str) -> RawObject | None:
        """Return the file *key* of an index page, None when the link leads to nothing that can be read."""
        async with self._heads:
            try:
                return await self.head(key)
            except (StoreError, AliasfsError) as exc:
                if isinstance(exc, StoreError):
                    raise
                return None

    async def get(self, key: str, etag: Etag, start: int, stop: int) -> RawRange:
        url = self._url(key)
        headers = {"Range": f"bytes={start}-{stop - 1}"}
        if etag.startswith('"'):
            headers["If-Match"] = etag
        try:
            async with await self._request("GET", url, headers) as answer:
                if answer.status not in (200, 206):
                    raise failures.refused(answer.status, url)
                size = _whole_size(answer)
                version = self._version(key, answer, size)
                if version != etag:
                    raise StaleObject(f"{url} was replaced since it was opened")
                body = await _body(answer, start, stop)
        except Exception as exc:
            raise translated(exc, url) from exc
        if not etag.startswith('"'):
            version = (await self.head(key)).etag
        return RawRange(body, size, version)

    async def aclose(self) -> None:
        fs, self._fs = self._fs, None
        if fs is not None and fs._session is not None:
            await fs._session.close()


async def _body(answer: Any, start: int, stop: int) -> bytes:
    """Return the bytes [start, stop), also from a server that sends the whole file."""
    if answer.status == 206:
        body: bytes = await answer.read()
        return body
    skipped: bytes = b""
    left = start
    while left:
        skipped = await answer.content.readexactly(min(left, 1 << 20))
        left -= len(skipped)
    wanted: bytes = await answer.content.readexactly(stop - start)
    answer.close()
    return wanted


def _whole_size(answer: Any) -> int:
    name = "Content-Range" if answer.status == 206 else "Content-Length"
    total = answer.headers.get(name, "").rpartition("/")[2]
    return int(total) if total.isdecimal() else -1


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
