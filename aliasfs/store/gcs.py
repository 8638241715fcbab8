"""Google Cloud Storage through obstore alone; gcsfs serves the options that it has no word for.

obstore collects a whole directory before it gives the first entry, and refuses one in which a key cannot
be a path: for such a bucket write `engine: fsspec`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aliasfs.errors import NotSupported
from aliasfs.store.base import Etag
from aliasfs.store.bucket import RawObject, RawPage, RawRange
from aliasfs.store.obs import client_options, retry_config, translated
from aliasfs.store.times import datetime_ns

UNDERSTOOD = frozenset({"token", "project"})
"""The gcsfs options that mean the same here: `token` as "anon", "google_default" or the path of a key file."""

DEFAULT_TOKENS = ("google_default", "cloud", None)


class GcsBucket:
    """The bucket *name*: what `ObstoreBucket` does not do itself."""

    engine: str = "obstore"

    def __init__(self, name: str, options: Mapping[str, Any], request_timeout_s: float) -> None:
        self.name = name
        self._options = options
        self._timeout_s = request_timeout_s
        self._opening = asyncio.Lock()
        self._store: Any = None

    async def store(self) -> Any:
        """Return the obstore client; the first call makes it."""
        async with self._opening:
            if self._store is None:
                # Reading a key file is disk work.
                self._store = await asyncio.to_thread(self._make_store)
        return self._store

    def _make_store(self) -> Any:
        from obstore.store import GCSStore

        token = self._options.get("token")
        signing: dict[str, Any] = {}
        if token == "anon":
            signing = {"skip_signature": True}
        elif token not in DEFAULT_TOKENS:
            signing = {"service_account": str(token)}
        http, retries = client_options("https://", self._timeout_s), retry_config()
        return GCSStore(self.name, client_options=http, retry_config=retries, **signing)

    async def page(self, prefix: str, token: str | None, limit: int) -> RawPage:
        import obstore

        place = f"gs://{self.name}"
        try:
            said = await obstore.list_with_delimiter_async(await self.store(), prefix.rstrip("/") or None)
        except Exception as exc:
            raise translated(exc, place) from exc
        objects = [
            RawObject(item["path"], item["size"], datetime_ns(item["last_modified"]), Etag(item["e_tag"] or ""))
            for item in said["objects"]
        ]
        return RawPage(objects, [f"{name}/" for name in said["common_prefixes"]], None)

    async def head(self, key: str) -> RawObject:
        raise NotSupported(f"gs://{self.name}: obstore cannot hold the key {key!r}; write engine: fsspec")

    async def get(self, key: str, etag: Etag, start: int, stop: int) -> RawRange:
        raise NotSupported(f"gs://{self.name}: obstore cannot hold the key {key!r}; write engine: fsspec")

    async def aclose(self) -> None:
        self._store = None
