"""Azure Blob Storage through its SDK: listings for every engine, reads for `engine: fsspec`.

Listings go through the SDK's own pipeline (signing, retries), but not through its parser, which needs
200 ms of CPU for 1,000 blobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote, urlencode
from xml.etree import ElementTree

from aliasfs.errors import AliasfsError, ConfigError, CorruptObject, StoreError
from aliasfs.store import failures
from aliasfs.store.base import Etag
from aliasfs.store.bucket import RawObject, RawPage, RawRange, content_range
from aliasfs.store.times import datetime_ns, http_date_ns


class AzureBucket:
    """A container; *open_client* makes its `ContainerClient` with the first request, *place* is what errors name."""

    engine: str = "fsspec"

    def __init__(self, open_client: Callable[[], Awaitable[AzureClient]], place: str, request_timeout_s: float) -> None:
        self._open_client = open_client
        self._place = place
        self._timeout_s = request_timeout_s
        self._opening = asyncio.Lock()
        self._opened: AzureClient | None = None

    async def client(self) -> AzureClient:
        """Return the client; the first call makes it."""
        if self._opened is None:
            async with self._opening:
                if self._opened is None:
                    self._opened = await self._translated(self._open_client(), "")
        opened: AzureClient = self._opened
        return opened

    async def head(self, key: str) -> RawObject:
        blob = (await self.client()).container.get_blob_client(key)
        said = await self._translated(blob.get_blob_properties(), key, self._timeout_s)
        is_directory = (said.metadata or {}).get("hdi_isfolder") == "true"
        return RawObject(key, said.size, datetime_ns(said.last_modified), _quoted(said.etag), is_directory)

    async def page(self, prefix: str, token: str | None, limit: int) -> RawPage:
        from azure.core.rest import HttpRequest

        container = (await self.client()).container
        query = {"restype": "container", "comp": "list", "delimiter": "/", "prefix": prefix, "maxresults": limit}
        if token:
            query["marker"] = token
        url: str = container.url
        url += ("&" if "?" in url else "?") + urlencode(query, quote_via=quote)
        answer = await self._translated(container._pipeline.run(HttpRequest("GET", url)), "", self._timeout_s)
        response = answer.http_response
        if response.status_code != 200:
            raise _refused(response.status_code, response.headers.get("x-ms-error-code", ""), self._place)
        return parse_listing(response.content, self._place)

    async def get(self, key: str, etag: Etag, start: int, stop: int) -> RawRange:
        from azure.core import MatchConditions

        blob = (await self.client()).container.get_blob_client(key)
        download = blob.download_blob(start, stop - start, etag=etag, match_condition=MatchConditions.IfNotModified)
        stream = await self._translated(download, key, self._timeout_s)
        body = await self._translated(stream.readall(), key)
        first, size = content_range(stream.properties.content_range or "")
        return RawRange(body, first, size, _quoted(stream.properties.etag))

    async def _translated(self, request: Awaitable[Any], key: str, limit_s: float | None = None) -> Any:
        try:
            async with asyncio.timeout(limit_s):
                return await request
        except Exception as exc:
            raise translated(exc, f"{self._place}/{key}" if key else self._place) from exc

    async def aclose(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.aclose()


class AzureClient:
    """A `ContainerClient`, the token credential it signs with if it does so, and all that is to be closed with it."""

    def __init__(self, container: Any, token_credential: Any = None, owned: Sequence[Any] = ()) -> None:
        self.container = container
        self.token_credential = token_credential
        self._owned = owned

    async def aclose(self) -> None:
        for resource in (self.container, *self._owned):
            await resource.close()


def quick_retries() -> Any:
    """Return retries for the lost connection and the busy moment, after at most 1 and then 2 s.

    Patience with an outage is the guard's.
    """
    from azure.storage.blob.aio import ExponentialRetry

    return ExponentialRetry(initial_backoff=0, increment_base=1, retry_total=2, random_jitter_range=1)


async def open_adlfs(options: Mapping[str, Any], account: str, container: str) -> AzureClient:
    """Return the client that adlfs makes of its storage options *options* for *container*."""
    import adlfs

    options = {"account_name": account, **options} if account else dict(options)
    try:
        # Not asynchronous=True: the finalizers that adlfs leaves for the end of the process want fsspec's own loop.
        fs = adlfs.AzureBlobFileSystem(**options, skip_instance_cache=True, use_listings_cache=False)
    except (TypeError, ValueError) as exc:
        raise ConfigError(f"adlfs does not accept the options of container {container}") from exc
    # adlfs has no option for retries, and the first pause of the SDK's own is 15 s: all the time a reader has.
    vars(fs.service_client._config.retry_policy).update(vars(quick_retries()))
    owned = [fs.service_client, *([fs.credential] if hasattr(fs.credential, "close") else [])]
    return AzureClient(fs.service_client.get_container_client(container), owned=owned)


def parse_listing(body: bytes, place: str) -> RawPage:
    """Return the page in *body*, the XML of List Blobs; StoreError if it is none."""
    try:
        root = ElementTree.fromstring(body)
        blobs = root.find("Blobs")
        if root.tag != "EnumerationResults" or blobs is None:
            raise ValueError("not a listing")
        objects = [_object(item) for item in blobs.iterfind("Blob")]
        prefixes = [_name(item) for item in blobs.iterfind("BlobPrefix")]
        token = root.findtext("NextMarker") or None
    except (ElementTree.ParseError, KeyError, ValueError) as exc:
        raise failures.nonsense(place) from exc
    return RawPage(objects, prefixes, token)


def _object(item: ElementTree.Element) -> RawObject:
    properties = item.find("Properties")
    if properties is None:
        raise ValueError("a blob without properties")
    said = {child.tag: child.text or "" for child in properties}
    return RawObject(
        _name(item),
        int(said["Content-Length"]),
        http_date_ns(said["Last-Modified"]),
        _quoted(said["Etag"]),
        said.get("ResourceType") == "directory",
    )


def _name(item: ElementTree.Element) -> str:
    name = item.find("Name")
    if name is None or not name.text:
        raise ValueError("an entry without a name")
    return unquote(name.text) if name.get("Encoded") == "true" else name.text


def _quoted(etag: str) -> Etag:
    """Return *etag* as HTTP has it: listings of Azure leave the quotes out."""
    return Etag(etag if etag.startswith(('"', "W/")) else f'"{etag}"')


def translated(error: Exception, place: str) -> AliasfsError:
    """Return what *error* of the Azure SDK means; *place* is named in the sentence."""
    from azure.core import exceptions as azure

    if isinstance(error, AliasfsError):
        return error
    if isinstance(error, azure.HttpResponseError) and error.status_code:
        return _refused(error.status_code, str(getattr(error, "error_code", "") or ""), place)
    if isinstance(error, azure.ServiceResponseTimeoutError | azure.ServiceRequestTimeoutError | TimeoutError):
        return failures.timed_out(place)
    if isinstance(error, azure.IncompleteReadError):
        return CorruptObject(f"{place}: fewer bytes came than were promised")
    if isinstance(error, azure.ServiceRequestError | azure.ServiceResponseError | ConnectionError):
        return failures.unreachable(place)
    if isinstance(error, azure.ClientAuthenticationError):
        return failures.no_credentials(place)
    return StoreError(f"{place}: the Azure library failed ({type(error).__name__})")


def _refused(status: int, code: str, place: str) -> AliasfsError:
    if "ContainerNotFound" in code or "ResourceNotFound" in code:
        return failures.missing_bucket(place)
    return failures.refused(status, place)
