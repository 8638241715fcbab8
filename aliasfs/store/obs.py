"""obstore as the data path of a bucket: HEAD and ranges here, everything else by the bucket it wraps.

obstore moves bytes at a third of the CPU that the Python libraries need, but it collects a whole listing
before it gives the first entry, and refuses keys that its path type cannot hold (control characters, `//`).
Both therefore go to the wrapped bucket.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from aliasfs.errors import AliasfsError, CorruptObject, StoreError
from aliasfs.store import failures
from aliasfs.store.base import Etag
from aliasfs.store.bucket import Bucket, RawObject, RawPage, RawRange
from aliasfs.store.times import datetime_ns

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

CONNECT_TIMEOUT_S = 5.0
LONGEST_BODY_S = 3600.0
"""obstore's own limit on a whole request, 30 s unless told, would end long bodies: the caller has a better one."""

RETRY_TIMEOUT_S = 5.0
"""After so long obstore begins no further attempt: what then still fails is an outage."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_STATUS = re.compile(r"non-2xx status code: (\d{3})")


def client_options(endpoint: str, request_timeout_s: float) -> ClientConfig:
    """Return how obstore speaks HTTP with *endpoint*: plain only where that says `http://`."""
    return {
        "allow_http": endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
        "read_timeout": timedelta(seconds=request_timeout_s),
        "timeout": timedelta(seconds=request_timeout_s + LONGEST_BODY_S),
    }


def retry_config() -> RetryConfig:
    """Return retries for the lost connection and the busy moment; patience with an outage is the guard's."""
    backoff = {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=1), "base": 2}
    return {"max_retries": 3, "retry_timeout": timedelta(seconds=RETRY_TIMEOUT_S), "backoff": backoff}  # type: ignore[typeddict-item]


class ObstoreBucket:
    """*inner* with its reads through the obstore store that *make_store* makes with the first of them.

    *place* is what errors name. With *marks_directories* an empty object may be a directory, which only
    *inner* can see.
    """

    engine: str = "obstore"

    def __init__(
        self, inner: Bucket, make_store: Callable[[], Awaitable[ObjectStore]], place: str, *, marks_directories: bool
    ) -> None:
        self._inner = inner
        self._make_store = make_store
        self._place = place
        self._marks_directories = marks_directories
        self._making = asyncio.Lock()
        self._store: ObjectStore | None = None

    async def _opened(self) -> ObjectStore:
        if self._store is None:
            async with self._making:
                if self._store is None:
                    self._store = await self._make_store()
        return self._store

    async def head(self, key: str) -> RawObject:
        if _CONTROL.search(key):
            return await self._inner.head(key)
        import obstore

        store = await self._opened()
        try:
            said = await obstore.head_async(store, key)
        except Exception as exc:
            raise translated(exc, f"{self._place}/{key}") from exc
        if self._marks_directories and not said["size"]:
            return await self._inner.head(key)
        return RawObject(key, said["size"], datetime_ns(said["last_modified"]), Etag(said["e_tag"] or ""))

    async def page(self, prefix: str, token: str | None, limit: int) -> RawPage:
        return await self._inner.page(prefix, token, limit)

    async def get(self, key: str, etag: Etag, start: int, stop: int) -> RawRange:
        if _CONTROL.search(key):
            return await self._inner.get(key, etag, start, stop)
        import obstore

        store = await self._opened()
        place = f"{self._place}/{key}"
        try:
            answer = await obstore.get_async(store, key, options={"range": (start, stop), "if_match": etag})
            meta, sent = answer.meta, answer.range
            body = await answer.bytes_async()
        except Exception as exc:
            raise translated(exc, place) from exc
        return RawRange(body, sent[0], meta["size"], Etag(meta["e_tag"] or ""))

    async def aclose(self) -> None:
        self._store = None
        await self._inner.aclose()


def translated(error: Exception, place: str) -> AliasfsError:
    """Return what *error* of obstore means.

    obstore has no class for most of what can happen, only a text that names the cause; it redacts URLs
    that hold signatures.
    """
    from obstore.exceptions import PermissionDeniedError, PreconditionError, UnauthenticatedError

    if isinstance(error, AliasfsError):
        return error
    text = str(error)
    status = _STATUS.search(text)
    if isinstance(error, FileNotFoundError):
        return failures.missing_bucket(place) if "NoSuchBucket" in text else failures.refused(404, place)
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return failures.refused(int(status[1]) if status else 403, place)
    if isinstance(error, PreconditionError):
        return failures.refused(412, place)
    if status:
        return failures.refused(int(status[1]), place)
    if isinstance(error, ValueError):
        return StoreError(f"{place}: the storage library cannot hold this key")
    return _without_status(text, place)


def _without_status(text: str, place: str) -> AliasfsError:
    if re.search(r"kind: Timeout|TimedOut|operation timed out", text):
        return failures.timed_out(place)
    if re.search(r"credential", text, re.IGNORECASE):
        return failures.no_credentials(place)
    if "UnexpectedRange" in text:
        return CorruptObject(f"{place}: the store sent other bytes than it was asked for")
    if re.search(r"redirect", text):
        return failures.refused(301, place)
    return failures.unreachable(place)
