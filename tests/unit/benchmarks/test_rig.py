"""The rig is honest: it speaks S3, is as slow as it says, and counts everything."""

from __future__ import annotations

import hashlib
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

import pytest

from benchmarks import s3
from benchmarks.bucket import Bucket, Layout

ROOT = Path(__file__).resolve().parents[3]
NS = "{http://s3.amazonaws.com/doc/2006-03-01/}"
LAYOUT = Layout(big_bytes=3 << 20, first_byte_objects=1, small_count=25, small_bytes=1000, listed_count=30)
SMALL = "small/00003.bin"


@pytest.fixture(scope="module")
def bucket() -> Bucket:
    return Bucket("bench", LAYOUT)


class Client:
    """A raw connection to a rig, so that nothing is retried or hidden."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request(method, path, headers=sent)
        response = self._connection.getresponse()
        return response.status, response.headers, response.read()

    def counters(self) -> dict[str, int]:
        counted: dict[str, int] = json.loads(self.ask("/__rig__/counters")[2])
        return counted


@contextmanager
def running_rig(*flags: str) -> Iterator[int]:
    layout = [f"--{name.replace('_', '-')}={getattr(LAYOUT, name)}" for name in LAYOUT.__dataclass_fields__]
    command = [sys.executable, "-m", "benchmarks.rig", *layout, *flags]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["port"]
    finally:
        process.stdin.close()
        process.wait(timeout=10)
        process.stdout.close()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running_rig("--latency-ms=0", "--rate-mb=100000") as port:
        yield port


@pytest.fixture
def client(port: int) -> Iterator[Client]:
    with Client(port) as client:
        client.ask("/__rig__/reset", "POST")
        yield client


def listed(body: bytes) -> tuple[list[str], list[str], str]:
    root = ElementTree.fromstring(body)
    keys = [found.text or "" for found in root.iter(f"{NS}Key")]
    prefixes = [found.findtext(f"{NS}Prefix") or "" for found in root.iter(f"{NS}CommonPrefixes")]
    return keys, prefixes, root.findtext(f"{NS}NextContinuationToken") or root.findtext(f"{NS}NextMarker") or ""


def test_a_range_is_exactly_what_was_asked(client: Client, bucket: Bucket) -> None:
    status, headers, body = client.ask("/bench/big/sequential.bin", Range="bytes=1000000-2999999")
    whole = client.ask("/bench/big/sequential.bin")[2]
    assert (status, headers["Content-Range"]) == (206, f"bytes 1000000-2999999/{LAYOUT.big_bytes}")
    assert body == whole[1_000_000:3_000_000]
    assert hashlib.sha256(whole).hexdigest() == bucket.digest(bucket.objects["big/sequential.bin"])


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("bytes=990-", "bytes 990-999/1000"), ("bytes=-7", "bytes 993-999/1000"), ("bytes=0-5000", "bytes 0-999/1000")],
)
def test_open_ranges_are_clipped(client: Client, asked: str, expected: str) -> None:
    status, headers, body = client.ask(f"/bench/{SMALL}", Range=asked)
    assert (status, headers["Content-Range"], len(body)) == (206, expected, int(headers["Content-Length"]))


def test_a_range_behind_the_end_is_refused(client: Client) -> None:
    assert client.ask(f"/bench/{SMALL}", Range="bytes=1000-1001")[0] == 416


def test_reads_can_be_pinned_to_a_version(client: Client) -> None:
    etag = client.ask(f"/bench/{SMALL}", "HEAD")[1]["ETag"]
    assert client.ask(f"/bench/{SMALL}", If_Match=etag)[0] == 200
    assert client.ask(f"/bench/{SMALL}", If_Match='"another"')[0] == 412
    assert client.ask(f"/bench/{SMALL}", If_None_Match=etag)[0] == 304
    assert client.ask(f"/bench/{SMALL}", If_None_Match='"another"')[0] == 200


def test_what_is_not_there_is_404_and_writes_are_501(client: Client) -> None:
    assert client.ask("/bench/small/none.bin")[0] == 404
    assert client.ask("/other/small/00001.bin")[0] == 404
    assert client.ask("/bench/small/new.bin", "DELETE")[0] == 501


def test_pages_together_are_the_listing(client: Client, bucket: Bucket) -> None:
    keys: list[str] = []
    token = ""
    pages = 0
    while pages == 0 or token:
        more = f"&continuation-token={quote(token)}" if token else ""
        found, prefixes, token = listed(
            client.ask(f"/bench?list-type=2&prefix=listed/&delimiter=/&max-keys=7{more}")[2]
        )
        assert not prefixes
        keys += found
        pages += 1
    assert keys == [key for key in bucket.keys if key.startswith("listed/")]
    assert pages == 5


@pytest.mark.parametrize(("version", "following"), [("list-type=2", "continuation-token"), ("", "marker")])
def test_a_common_prefix_is_given_once_over_pages(client: Client, version: str, following: str) -> None:
    seen: list[str] = []
    token = ""
    while not seen or token:
        more = f"&{following}={quote(token)}" if token else ""
        _, prefixes, token = listed(client.ask(f"/bench?{version}&delimiter=/&max-keys=1{more}")[2])
        seen += prefixes
    assert seen == ["big/", "listed/", "small/"]


def test_a_listing_starts_after_a_key(client: Client) -> None:
    keys, _, _ = listed(client.ask("/bench?list-type=2&prefix=small/&start-after=small/00022.bin")[2])
    assert keys == ["small/00023.bin", "small/00024.bin"]


def test_encoded_listings_say_so(client: Client) -> None:
    body = client.ask("/bench?list-type=2&prefix=a%20b/&encoding-type=url")[2]
    root = ElementTree.fromstring(body)
    assert (root.findtext(f"{NS}EncodingType"), root.findtext(f"{NS}Prefix")) == ("url", "a%20b/")


def test_a_listing_without_delimiter_holds_every_key_in_order(bucket: Bucket) -> None:
    page = bucket.page("", "", "", 1000)
    assert [found.key for found in page.objects] == sorted(bucket.objects)
    assert page.last is None


def test_requests_and_bytes_are_counted_over_all_workers(port: int, client: Client) -> None:
    for _ in range(8):  # connections of their own, so that several workers are met
        with Client(port) as another:
            another.ask(f"/bench/{SMALL}", Range="bytes=0-99")
    client.ask(f"/bench/{SMALL}", "HEAD")
    client.ask("/bench/none")
    listing = client.ask("/bench?list-type=2&prefix=nothing")[2]
    missing = len(s3.error(404, "NoSuchKey", "The specified key does not exist.").body)
    assert client.counters() == {
        "get": 9,
        "head": 1,
        "list": 1,
        "other": 0,
        "errors": 1,
        "bytes": 800 + missing + len(listing),
    }
    client.ask("/__rig__/reset", "POST")
    assert set(client.counters().values()) == {0}


def test_latency_and_rate_are_kept() -> None:
    # Lower bounds only: a busy machine may be slower than the rig pretends, never faster.
    with running_rig("--latency-ms=50", "--rate-mb=10") as port, Client(port) as client:
        begin = time.monotonic()
        client.ask(f"/bench/{SMALL}", "HEAD")
        assert time.monotonic() - begin >= 0.05
        begin = time.monotonic()
        client.ask("/bench/big/sequential.bin", Range="bytes=0-2999999")
        assert time.monotonic() - begin >= 0.05 + 0.3
        begin = time.monotonic()
        client.ask("/bench?list-type=2")
        assert time.monotonic() - begin >= 0.05


def test_a_quiet_connection_saves_nothing_up() -> None:
    with running_rig("--latency-ms=0", "--rate-mb=10") as port, Client(port) as client:
        for pause_s in (0.0, 0.2):
            time.sleep(pause_s)
            begin = time.monotonic()
            client.ask("/bench/big/sequential.bin")
            assert time.monotonic() - begin >= LAYOUT.big_bytes / 10e6
