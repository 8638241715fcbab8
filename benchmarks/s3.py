"""The S3 protocol as far as readers need it: a request becomes a response; pure, no sockets, no clock.

Covers GET and HEAD of objects with Range, If-Match and If-None-Match, ListObjects and ListObjectsV2 with
delimiter and pages, HEAD and location of the bucket, and the list of buckets. Anything else is refused
with 501. Source: the S3 API reference, as its clients s3fs, boto3, obstore, rclone and s3fs-fuse use it.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import quote
from xml.sax.saxutils import escape

from benchmarks.bucket import Bucket, Page, StoredObject

KINDS = ("get", "head", "list", "other", "errors", "bytes")
"""What is counted: requests by kind, answers of 400 and above among them, body bytes sent."""

_XMLNS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
_MODIFIED_ISO = "2026-01-02T03:04:05.000Z"
_MODIFIED_HTTP = "Fri, 02 Jan 2026 03:04:05 GMT"
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_PAGE_LIMIT = 1000  # what S3 gives at most


class Response(NamedTuple):
    """An answer: *body*, or instead of it *window*, a half-open range of the bucket's block."""

    status: int
    kind: str
    headers: Mapping[str, str]
    body: bytes = b""
    window: tuple[int, int] | None = None

    def head(self) -> bytes:
        """Return status line and headers as they go on the wire."""
        length = len(self.body) if self.window is None else self.window[1] - self.window[0]
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        if self.status != HTTPStatus.NOT_MODIFIED:
            lines.append(f"Content-Length: {length}")
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def answer(bucket: Bucket, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> Response:
    """Return what S3 would answer; *path* is decoded, header names are in lower case."""
    if method not in ("GET", "HEAD"):
        return error(501, "NotImplemented", f"the rig only reads; {method} is not offered")
    name, _, key = path.lstrip("/").partition("/")
    if not name:
        return _xml(
            "ListAllMyBucketsResult",
            f"<Buckets><Bucket><Name>{bucket.name}</Name><CreationDate>{_MODIFIED_ISO}</CreationDate></Bucket></Buckets>",
            "other",
        )
    if name != bucket.name:
        return error(404, "NoSuchBucket", "The specified bucket does not exist")
    if key:
        return _object(bucket, method, key, headers)
    if method == "HEAD":
        return Response(200, "other", {"x-amz-bucket-region": "us-east-1"})
    if "location" in query:
        return _xml("LocationConstraint", "", "other")
    return _listing(bucket, query)


def _object(bucket: Bucket, method: str, key: str, headers: Mapping[str, str]) -> Response:
    kind = "head" if method == "HEAD" else "get"
    found = bucket.objects.get(key)
    if found is None:
        return error(404, "NoSuchKey", "The specified key does not exist.", kind)
    if "if-match" in headers and not _etag_matches(headers["if-match"], found.etag):
        return error(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold", kind)
    facts = {
        "ETag": found.etag,
        "Last-Modified": _MODIFIED_HTTP,
        "Content-Type": "application/octet-stream",
        "Accept-Ranges": "bytes",
        "x-amz-request-id": "RIG",
    }
    if "if-none-match" in headers and _etag_matches(headers["if-none-match"], found.etag):
        return Response(304, kind, facts)
    if not (asked := _RANGE.fullmatch(headers.get("range", ""))):
        return Response(200, kind, facts, window=(found.start, found.start + found.size))
    start, stop = _clip(asked[1], asked[2], found.size)
    if start >= stop:
        return error(416, "InvalidRange", "The requested range is not satisfiable", kind)
    facts["Content-Range"] = f"bytes {start}-{stop - 1}/{found.size}"
    return Response(206, kind, facts, window=(found.start + start, found.start + stop))


def _etag_matches(header: str, etag: str) -> bool:
    candidates = [candidate.strip().strip('"') for candidate in header.split(",")]
    return "*" in candidates or etag.strip('"') in candidates


def _clip(first: str, last: str, size: int) -> tuple[int, int]:
    """Return the half-open range that `bytes=first-last` means in *size* bytes; empty when there is none."""
    if not first:
        return (max(0, size - int(last)), size) if last else (0, 0)
    return int(first), min(size, int(last) + 1) if last else size


def _listing(bucket: Bucket, query: Mapping[str, str]) -> Response:
    version_2 = query.get("list-type") == "2"
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    limit = min(_PAGE_LIMIT, int(query.get("max-keys") or _PAGE_LIMIT))
    if not version_2:
        after = query.get("marker", "")
    elif token := query.get("continuation-token", ""):
        after = base64.urlsafe_b64decode(token).decode()
    else:
        after = query.get("start-after", "")
    page = bucket.page(prefix, delimiter, after, limit)
    encoded = query.get("encoding-type") == "url"
    text: Callable[[str], str] = quote if encoded else escape
    parts = [
        f"<Name>{bucket.name}</Name><Prefix>{text(prefix)}</Prefix><MaxKeys>{limit}</MaxKeys>",
        f"<Delimiter>{text(delimiter)}</Delimiter>" if delimiter else "",
        "<EncodingType>url</EncodingType>" if encoded else "",
        f"<IsTruncated>{str(page.last is not None).lower()}</IsTruncated>",
        _count_and_token(page) if version_2 else _markers(text(after), text(page.last) if page.last else ""),
        *(_contents(text(found.key), found) for found in page.objects),
        *(f"<CommonPrefixes><Prefix>{text(name)}</Prefix></CommonPrefixes>" for name in page.prefixes),
    ]
    return _xml("ListBucketResult", "".join(parts), "list")


def _markers(marker: str, following: str) -> str:
    return f"<Marker>{marker}</Marker>" + (f"<NextMarker>{following}</NextMarker>" if following else "")


def _count_and_token(page: Page) -> str:
    count = f"<KeyCount>{len(page.objects) + len(page.prefixes)}</KeyCount>"
    if page.last is None:
        return count
    token = base64.urlsafe_b64encode(page.last.encode()).decode()
    return f"{count}<NextContinuationToken>{token}</NextContinuationToken>"


def _contents(key: str, found: StoredObject) -> str:
    return (
        f"<Contents><Key>{key}</Key><LastModified>{_MODIFIED_ISO}</LastModified>"
        f"<ETag>{escape(found.etag, {chr(34): '&quot;'})}</ETag><Size>{found.size}</Size>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
    )


def _xml(tag: str, inner: str, kind: str, status: int = 200) -> Response:
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<{tag} {_XMLNS}>{inner}</{tag}>'.encode()
    return Response(status, kind, {"Content-Type": "application/xml", "x-amz-request-id": "RIG"}, body)


def error(status: int, code: str, message: str, kind: str = "other") -> Response:
    """Return an S3 error document."""
    inner = f"<Code>{code}</Code><Message>{escape(message)}</Message>"
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inner}</Error>'
    return Response(status, kind, {"Content-Type": "application/xml", "x-amz-request-id": "RIG"}, body.encode())


def json_response(value: object) -> Response:
    """Return *value* as JSON, for the control paths."""
    return Response(200, "other", {"Content-Type": "application/json"}, json.dumps(value).encode())
