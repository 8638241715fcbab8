"""Where bytes come from: `open_store` turns an alias into a `Store`; the only scheme table.

Importing this package is cheap, and so is opening a store: libraries are loaded by the function that
needs them, and nothing is asked of a disk or a network before the first call.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aliasfs.errors import ConfigError
from aliasfs.registry import Alias, Engine
from aliasfs.store.base import Store
from aliasfs.urls import ObjectUrl, parse_object_url

if TYPE_CHECKING:
    from obstore.store import AzureStore

    from aliasfs.store.aio import AsyncioBridge
    from aliasfs.store.bucket import Bucket

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_S = 15.0


def open_store(
    alias: Alias, *, request_timeout_s: float = REQUEST_TIMEOUT_S, bridge: AsyncioBridge | None = None
) -> Store:
    """Return the store of *alias*; no I/O.

    *request_timeout_s* is how long a store may be silent, before the first byte of an answer and within it. *bridge*
    is the asyncio thread to share between stores, to be closed after them; without one the store has its own.
    Raises ConfigError when the URL or the options cannot be understood.
    """
    if alias.is_local:
        from aliasfs.store.local import LocalStore

        return LocalStore(alias.url)
    url = parse_object_url(alias.url)
    if url is not None and url.scheme in _OBJECT_STORES:
        opened = _OBJECT_STORES[url.scheme](alias, url, request_timeout_s)
        if opened is not None:
            return _on_bridge(alias, opened[0], url.prefix, opened[1], bridge)
    elif alias.engine is Engine.OBSTORE:
        raise ConfigError(f"alias {alias.name}: engine obstore cannot open {alias.url}; write engine: auto")
    if alias.url.startswith(("http://", "https://")) and "::" not in alias.url:
        from aliasfs.store.http import HttpBucket

        return _on_bridge(alias, alias.url, "", HttpBucket(alias.url, alias.options, request_timeout_s), bridge)
    from aliasfs.store.fsspec import FsspecStore

    return FsspecStore(alias.url, alias.options)


def _on_bridge(alias: Alias, target: str, prefix: str, bucket: Bucket, bridge: AsyncioBridge | None) -> Store:
    from aliasfs.store.aio import AsyncioBridge
    from aliasfs.store.object import ObjectStore, Place

    place = Place(alias.url, target, prefix)
    return ObjectStore(place, bucket, bridge or AsyncioBridge(), owns_bridge=bridge is None)


def preload(aliases: Iterable[Alias]) -> None:
    """Import the libraries that *aliases* will need; blocks for about a second, for nothing but Python's own files.

    The first request would do it else, and somebody would wait for it.
    """
    for scheme in {alias.url.partition(":")[0] for alias in aliases if not alias.is_local}:
        for library in _LIBRARIES.get(scheme, ("fsspec",)):
            importlib.import_module(library)


def _takes_obstore(alias: Alias, unknown: list[str]) -> bool:
    """Decide the engine of *alias*, given the options that obstore does not know; says so when they decide."""
    if alias.engine is Engine.FSSPEC:
        return False
    if not unknown:
        return True
    names = ", ".join(unknown)
    if alias.engine is Engine.OBSTORE:
        raise ConfigError(
            f"alias {alias.name}: engine obstore has no option {names}; take it out or write engine: auto"
        )
    log.info("alias %s: read through fsspec, because obstore has no option %s", alias.name, names)
    return False


def _s3(alias: Alias, url: ObjectUrl, request_timeout_s: float) -> tuple[str, Bucket]:
    from aliasfs.store.obs import ObstoreBucket
    from aliasfs.store.s3 import S3Bucket
    from aliasfs.store.s3_obstore import UNDERSTOOD, UNDERSTOOD_CLIENT_KWARGS, open_s3

    options = alias.options
    client_kwargs = options.get("client_kwargs") or {}
    unknown = sorted(set(options) - UNDERSTOOD - {"client_kwargs"})
    unknown += sorted(f"client_kwargs.{name}" for name in set(client_kwargs) - UNDERSTOOD_CLIENT_KWARGS)
    bucket = S3Bucket(url.container_or_bucket, options, request_timeout_s)
    environment = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    target = _with_endpoint(alias.url, bucket.endpoint_url or environment)
    if not _takes_obstore(alias, unknown):
        return target, bucket
    place = f"s3://{bucket.name}"
    fast = ObstoreBucket(bucket, lambda: open_s3(bucket, options, request_timeout_s), place, marks_directories=False)
    return target, fast


def _azure(alias: Alias, url: ObjectUrl, request_timeout_s: float) -> tuple[str, Bucket]:
    from aliasfs.store.azure import AzureBucket, AzureClient, open_adlfs
    from aliasfs.store.azure_account import UNDERSTOOD, AzureAccount
    from aliasfs.store.obs import ObstoreBucket

    container = url.container_or_bucket
    place = f"{url.scheme}://{container}"
    account = AzureAccount.of(url, alias.options)
    target = _with_endpoint(alias.url, account.endpoint)
    if not _takes_obstore(alias, sorted(set(alias.options) - UNDERSTOOD)):
        return target, AzureBucket(lambda: open_adlfs(alias.options, account.name, container), place, request_timeout_s)

    async def open_sdk() -> AzureClient:
        return account.open_sdk(container, request_timeout_s)

    async def open_obstore() -> AzureStore:
        token_credential = (await bucket.client()).token_credential
        return account.open_obstore(container, token_credential, request_timeout_s)

    bucket = AzureBucket(open_sdk, place, request_timeout_s)
    return target, ObstoreBucket(bucket, open_obstore, place, marks_directories=True)


def _gs(alias: Alias, url: ObjectUrl, request_timeout_s: float) -> tuple[str, Bucket] | None:
    from aliasfs.store.gcs import UNDERSTOOD, GcsBucket
    from aliasfs.store.obs import ObstoreBucket

    if not _takes_obstore(alias, sorted(set(alias.options) - UNDERSTOOD)):
        return None
    bucket = GcsBucket(url.container_or_bucket, alias.options, request_timeout_s)
    return alias.url, ObstoreBucket(bucket, bucket.store, f"gs://{bucket.name}", marks_directories=False)


_OBJECT_STORES: dict[str, Callable[[Alias, ObjectUrl, float], tuple[str, Bucket] | None]] = {
    "s3": _s3,
    "az": _azure,
    "abfs": _azure,
    "abfss": _azure,
    "azfs": _azure,
    "gs": _gs,
}


_LIBRARIES = {
    "s3": ("obstore.store", "s3fs"),
    **dict.fromkeys(("az", "abfs", "abfss", "azfs"), ("obstore.store", "adlfs", "azure.storage.blob.aio")),
    "gs": ("obstore.store",),
}


def _with_endpoint(url: str, endpoint: str) -> str:
    """Return *url* with the host of *endpoint*, which says where it is; without what may be a password."""
    parts = urlsplit(endpoint)
    where = (parts.hostname or "") + (f":{parts.port}" if parts.port else "") + parts.path.rstrip("/")
    return f"{url} at {where}" if where else url
