"""A read-only S3 endpoint over one directory: the part of the protocol that S3 clients use to list and read.

ListObjectsV2 with prefix, delimiter and pages; GET with ranges; HEAD; `If-Match`. Path-style addresses, one
bucket, no signatures checked: bind it to loopback only. The directory is listed anew for each request, so
it should be small. Source: Amazon S3 API reference, ListObjectsV2 and GetObject.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import formatdate
from itertools import islice
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import escape

import trio
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

MAX_KEYS = 1000
"""What one page of a listing holds at most, as in S3."""

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


def read_only_s3(bucket: str, root: Path) -> Starlette:
    """Return an ASGI application that serves the files below *root* as the keys of *bucket*."""

    async def bucket_endpoint(request: Request) -> Response:
        if request.path_params["bucket"] != bucket:
            return _error(404, "NoSuchBucket")
        if request.method == "HEAD":
            return Response()
        return await trio.to_thread.run_sync(_list_objects, bucket, root, request.query_params)

    async def object_endpoint(request: Request) -> Response:
        if request.path_params["bucket"] != bucket:
            return _error(404, "NoSuchBucket")
        key = request.path_params["key"]
        if not key:
            return await bucket_endpoint(request)
        found = await trio.to_thread.run_sync(_stat, root, key)
        if found is None:
            return _error(404, "NoSuchKey")
        etag = _etag(found)
        if request.headers.get("if-match", etag) not in (etag, "*"):
            return _error(412, "PreconditionFailed")
        headers = {"ETag": etag, "Last-Modified": formatdate(found.st_mtime, usegmt=True)}
        if request.headers.get("if-none-match") in (etag, "*"):
            return Response(status_code=304, headers=headers)
        return FileResponse(root / key, headers=headers, media_type="binary/octet-stream", stat_result=found)

    return Starlette(
        routes=[
            Route("/{bucket}", bucket_endpoint, methods=["GET", "HEAD"]),
            Route("/{bucket}/{key:path}", object_endpoint, methods=["GET", "HEAD"]),
        ]
    )


def _etag(found: os.stat_result) -> str:
    """Return the quoted name of a version; like that of a multipart upload it is no checksum."""
    return f'"{found.st_mtime_ns:x}-{found.st_size:x}"'


def _stat(root: Path, key: str) -> os.stat_result | None:
    """Return the status of the regular file *key*; None for anything else and for what lies outside *root*."""
    path = root / key
    if ".." in Path(key).parts or not path.is_file() or not path.resolve().is_relative_to(root.resolve()):
        return None
    return path.stat()


def _error(status: int, code: str) -> Response:
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{code}</Message></Error>'
    return Response(body, status, media_type="application/xml")


def _keys(root: Path) -> list[str]:
    """Return all keys, in the order of S3: that of their UTF-8 bytes."""
    return sorted((str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()), key=str.encode)


def _list_objects(bucket: str, root: Path, query: QueryParams) -> Response:
    """Answer ListObjectsV2; a continuation token is the last entry of the page before, in hex."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    try:
        limit = min(int(query.get("max-keys", MAX_KEYS)), MAX_KEYS)
        after = bytes.fromhex(query.get("continuation-token", "")) or query.get("start-after", "").encode()
    except ValueError:
        return _error(400, "InvalidArgument")
    rest = (entry for entry in _entries(_keys(root), prefix, delimiter) if entry.encode() > after)
    page = list(islice(rest, limit))
    more = bool(page) and next(rest, None) is not None

    def encoded(text: str) -> str:
        return quote(text) if query.get("encoding-type") == "url" else escape(text)

    fields = [
        f"<Name>{escape(bucket)}</Name><Prefix>{encoded(prefix)}</Prefix><MaxKeys>{limit}</MaxKeys>",
        f"<KeyCount>{len(page)}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>",
        f"<NextContinuationToken>{page[-1].encode().hex()}</NextContinuationToken>" if more else "",
    ]
    for entry in page:
        if delimiter and entry.endswith(delimiter):
            fields.append(f"<CommonPrefixes><Prefix>{encoded(entry)}</Prefix></CommonPrefixes>")
        else:
            fields.append(_contents(encoded(entry), (root / entry).stat()))
    result = f'<ListBucketResult xmlns="{NAMESPACE}">{"".join(fields)}</ListBucketResult>'
    return Response(f'<?xml version="1.0" encoding="UTF-8"?>\n{result}', media_type="application/xml")


def _entries(keys: list[str], prefix: str, delimiter: str) -> Iterator[str]:
    """Yield the keys that begin with *prefix*, in order; those with *delimiter* after it once, cut off behind it."""
    previous = None
    for key in keys:
        if not key.startswith(prefix):
            continue
        cut = key.find(delimiter, len(prefix)) if delimiter else -1
        entry = key if cut < 0 else key[: cut + len(delimiter)]
        if entry != previous:
            yield entry
        previous = entry


def _contents(key: str, found: os.stat_result) -> str:
    modified = datetime.fromtimestamp(found.st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return (
        f"<Contents><Key>{key}</Key><LastModified>{modified}</LastModified><ETag>{escape(_etag(found))}</ETag>"
        f"<Size>{found.st_size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
    )
