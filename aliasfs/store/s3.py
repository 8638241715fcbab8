"""S3 through aiobotocore, the client that s3fs builds: listings for every engine, reads for `engine: fsspec`.

s3fs decides how options become a client, so that an alias means the same on both engines. Of its own file
system logic nothing is used: it cannot pin an etag nor page a listing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from aliasfs.errors import AliasfsError, CorruptObject, StoreError, StoreUnavailable
from aliasfs.store import failures
from aliasfs.store.base import Etag
from aliasfs.store.bucket import RawObject, RawPage, RawRange, content_range
from aliasfs.store.times import datetime_ns, iso_date_ns

CONNECT_TIMEOUT_S = 5.0
"""A server that is there accepts within milliseconds; five seconds allow for one lost SYN and its retries."""

POOL_CONNECTIONS = 64

BODY_ATTEMPTS = 3
"""botocore retries a request, but not a body that breaks off; this is how often we ask again."""

_NO_BUCKET = frozenset({"NoSuchBucket", "InvalidBucketName"})
_DENIED = frozenset({"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired", "AuthFailure"})
"""Error codes that S3 sends with HTTP 400 and that are about credentials all the same."""


class S3Bucket:
    """The bucket *name*, reached with the s3fs storage options *options*; opens its client with the first request."""

    engine: str = "fsspec"

    def __init__(self, name: str, options: Mapping[str, Any], request_timeout_s: float) -> None:
        self.name = name
        self._options = dict(options)
        self._timeout_s = request_timeout_s
        self._opening = asyncio.Lock()
        self._fs: Any = None

    async def filesystem(self) -> Any:
        """Return the s3fs instance, its client made; it caches nothing and is ours alone."""
        async with self._opening:
            if self._fs is None:
                fs = self._make_filesystem()
                client = await self._translated(fs.set_session())
                client.meta.events.register("before-parse.s3.ListObjectsV2", _keep_listing)
                self._fs = fs
        return self._fs

    async def client(self) -> Any:
        """Return the aiobotocore client."""
        return await self._translated((await self.filesystem()).set_session())

    async def credentials(self) -> Any:
        """Return what the client signs with, an `AioCredentials` that renews itself; None for nothing."""
        return (await self.client())._request_signer._credentials

    async def region(self) -> str:
        """Return the AWS region of the bucket; us-east-1 where AWS does not say."""
        from botocore.exceptions import ClientError

        client = await self.client()
        try:
            said: Mapping[str, Any] = await client.head_bucket(Bucket=self.name)
        except ClientError as exc:
            said = exc.response
        except Exception as exc:
            raise translated(exc, f"s3://{self.name}") from exc
        return str(said.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region", "us-east-1"))

    def _make_filesystem(self) -> Any:
        import s3fs

        options = dict(self._options)
        given = dict(options.pop("config_kwargs", None) or {})
        config: dict[str, Any] = {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": self._timeout_s,
            "max_pool_connections": POOL_CONNECTIONS,
            "retries": {"mode": "legacy", "total_max_attempts": 3},  # pauses of at most 1 and 2 s
        }
        if self.endpoint_url:
            config["s3"] = {"addressing_style": "path"}  # a server of one's own seldom has a name per bucket
        fs = s3fs.S3FileSystem(
            **{**options, "config_kwargs": {**config, **given}},
            asynchronous=True,
            skip_instance_cache=True,
            use_listings_cache=False,
        )
        fs.retries = 1  # botocore retries; s3fs would do so once more around it
        return fs

    @property
    def endpoint_url(self) -> str:
        """The end point that the options name; "" for that of the environment or AWS."""
        client = self._options.get("client_kwargs") or {}
        return str(self._options.get("endpoint_url") or client.get("endpoint_url") or "")

    async def head(self, key: str) -> RawObject:
        said = await self._call("head_object", Key=key)
        return RawObject(key, said["ContentLength"], datetime_ns(said["LastModified"]), Etag(said["ETag"]))

    async def page(self, prefix: str, token: str | None, limit: int) -> RawPage:
        more = {"ContinuationToken": token} if token else {}
        said = await self._call(
            "list_objects_v2", Prefix=prefix, Delimiter="/", MaxKeys=limit, EncodingType="url", **more
        )
        return parse_listing(said.get("Listing", b""), f"s3://{self.name}")

    async def get(self, key: str, etag: Etag, start: int, stop: int) -> RawRange:
        attempts_left = BODY_ATTEMPTS
        while True:
            said = await self._call("get_object", Key=key, IfMatch=etag, Range=f"bytes={start}-{stop - 1}")
            attempts_left -= 1
            try:
                async with said["Body"] as stream:
                    body: bytes = await self._translated(stream.read(), key)
            except (StoreUnavailable, CorruptObject):
                if not attempts_left:
                    raise
            else:
                return RawRange(body, *content_range(said.get("ContentRange", "")), Etag(said["ETag"]))

    async def _call(self, method: str, **parameters: Any) -> Mapping[str, Any]:
        """Return the answer to one request; the time-out is for all its attempts together."""
        fs = await self.filesystem()
        request = fs._call_s3(method, Bucket=self.name, **parameters)
        said: Mapping[str, Any] = await self._translated(request, str(parameters.get("Key", "")), self._timeout_s)
        return said

    async def _translated(self, request: Awaitable[Any], key: str = "", limit_s: float | None = None) -> Any:
        try:
            async with asyncio.timeout(limit_s):
                return await request
        except Exception as exc:
            raise translated(exc, f"s3://{self.name}/{key}" if key else f"s3://{self.name}") from exc

    async def aclose(self) -> None:
        fs, self._fs = self._fs, None
        if fs is not None:
            await fs._s3creator.__aexit__(None, None, None)


def _keep_listing(
    response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_about_request: object
) -> None:
    """Take a listing from botocore before it parses it: its parser needs 75 ms of CPU for 1,000 keys, ours 8."""
    if response_dict["status_code"] == 200:
        customized_response_dict["Listing"] = response_dict["body"]
        response_dict["body"] = b"<ListBucketResult/>"


def parse_listing(body: bytes, place: str) -> RawPage:
    """Return the page in *body*, the XML of ListObjectsV2 with url-encoded keys; StoreError if it is none."""
    try:
        root = ElementTree.fromstring(body)
        space = root.tag.rpartition("}")[0]
        space = f"{space}}}" if space else ""
        decode = unquote_plus if root.findtext(f"{space}EncodingType") == "url" else str
        objects = [_object(item, space, decode) for item in root.iterfind(f"{space}Contents")]
        prefixes = [decode(item.findtext(f"{space}Prefix") or "") for item in root.iterfind(f"{space}CommonPrefixes")]
        more = root.findtext(f"{space}IsTruncated") == "true"
        token = root.findtext(f"{space}NextContinuationToken")
        if not root.tag.endswith("ListBucketResult") or (more and not token):
            raise ValueError("not a listing")
    except (ElementTree.ParseError, KeyError, ValueError) as exc:
        raise failures.nonsense(place) from exc
    return RawPage(objects, prefixes, token if more else None)


def _object(item: ElementTree.Element, space: str, decode: Callable[[str], str]) -> RawObject:
    said = {child.tag: child.text or "" for child in item}
    return RawObject(
        decode(said[f"{space}Key"]),
        int(said[f"{space}Size"]),
        iso_date_ns(said[f"{space}LastModified"]),
        Etag(said[f"{space}ETag"]),
    )


def translated(error: Exception, place: str) -> AliasfsError:
    """Return what *error*, of s3fs, botocore or aiohttp, means; *place* is named in the sentence."""
    import aiohttp
    import botocore.exceptions as botocore

    if isinstance(error, AliasfsError):
        return error
    cause = error if isinstance(error, botocore.ClientError) else error.__cause__
    if isinstance(cause, botocore.ClientError):
        return _refused(cause.response, place)
    if isinstance(error, botocore.ReadTimeoutError | botocore.ConnectTimeoutError | TimeoutError):
        return failures.timed_out(place)
    if isinstance(error, botocore.IncompleteReadError | aiohttp.ClientPayloadError | botocore.FlexibleChecksumError):
        return CorruptObject(f"{place}: fewer or other bytes came than were promised")
    if isinstance(error, botocore.HTTPClientError | botocore.ConnectionError | aiohttp.ClientError | ConnectionError):
        return failures.unreachable(place)
    credentials = (botocore.NoCredentialsError, botocore.PartialCredentialsError, botocore.CredentialRetrievalError)
    if isinstance(error, (*credentials, botocore.TokenRetrievalError, botocore.SSOError, botocore.ProfileNotFound)):
        return failures.no_credentials(place)
    return StoreError(f"{place}: the S3 library failed ({type(error).__name__})")


def _refused(response: Mapping[str, Any], place: str) -> AliasfsError:
    code = str(response.get("Error", {}).get("Code", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _NO_BUCKET:
        return failures.missing_bucket("/".join(place.split("/")[:3]))
    if code in _DENIED:
        return failures.refused(403, place)
    return failures.refused(status, place)
