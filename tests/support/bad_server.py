"""An S3 server of one object that misbehaves on command: it hangs, refuses, breaks off, lies."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import parse_qs, urlsplit

Trouble = Literal["hang", "403", "404", "500", "503", "412", "reset", "short", "nonsense", "wrong range", "other etag"]

BODY = bytes(range(256)) * 400
ETAG = '"0123456789abcdef0123456789abcdef"'
KEY = "folder/object"
_DATE = "Fri, 02 Jan 2026 03:04:05 GMT"
_RANGE = re.compile(r"bytes=(\d+)-(\d+)")
_CODES = {
    "403": "AccessDenied",
    "404": "NoSuchBucket",
    "500": "InternalError",
    "503": "SlowDown",
    "412": "PreconditionFailed",
}


class BadServer:
    """What the next requests meet: the troubles in *queue*, one each, then *always* (None: good behaviour)."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.queue: deque[Trouble] = deque()
        self.always: Trouble | None = None
        self.only: Callable[[str, str], bool] = lambda method, path: True
        self.requests = 0
        self.closing = threading.Event()

    def trouble(self, method: str, path: str) -> Trouble | None:
        self.requests += 1
        if not self.only(method, path):
            return None
        return self.queue.popleft() if self.queue else self.always


def gets_of_the_object(method: str, path: str) -> bool:
    """Say whether a request reads the object; listings and HEAD do not."""
    return method == "GET" and urlsplit(path).path.endswith(KEY)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: BadServer

    def do_GET(self) -> None:
        trouble = self.state.trouble("GET", self.path)
        if trouble in ("reset", "short", "wrong range", "other etag") or trouble is None:
            self._behave(trouble)
        else:
            self._misbehave(trouble)

    def do_HEAD(self) -> None:
        trouble = self.state.trouble("HEAD", self.path)
        if trouble is None:
            self._head()
        else:
            self._misbehave(trouble)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Say nothing."""

    def _misbehave(self, trouble: str) -> None:
        if trouble == "hang":
            self.state.closing.wait(60)
            self.close_connection = True
        elif trouble == "nonsense":
            self._send(200, b"<html>Please log in</html>", {"Content-Type": "text/html"})
        elif trouble.isdecimal():
            code = _CODES[trouble]
            body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            self._send(int(trouble), body, {"Content-Type": "application/xml"})
        else:
            self._break_off()

    def _behave(self, trouble: str | None) -> None:
        parts = urlsplit(self.path)
        if "list-type" in parts.query:
            self._list(parse_qs(parts.query).get("prefix", [""])[0])
        elif parts.path.endswith(KEY):
            self._get(trouble)
        else:
            self._send(404, b"<Error><Code>NoSuchKey</Code></Error>", {})

    def _list(self, prefix: str) -> None:
        below = KEY.removeprefix(prefix) if KEY.startswith(prefix) else ""
        entry = ""
        if "/" in below:
            entry = f"<CommonPrefixes><Prefix>{prefix}{below.partition('/')[0]}/</Prefix></CommonPrefixes>"
        elif below:
            entry = (
                f"<Contents><Key>{KEY}</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified>"
                f"<ETag>{ETAG.replace(chr(34), '&quot;')}</ETag><Size>{len(BODY)}</Size></Contents>"
            )
        self._send(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{entry}</ListBucketResult>".encode(), {})

    def _head(self) -> None:
        if urlsplit(self.path).path.endswith(KEY):
            self._headers(200, len(BODY), {"ETag": ETAG, "Last-Modified": _DATE})
        else:
            self._headers(404, 0, {})

    def _get(self, trouble: str | None) -> None:
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        start, stop = (int(match[1]), int(match[2]) + 1) if match else (0, len(BODY))
        etag = '"ffffffffffffffffffffffffffffffff"' if trouble == "other etag" else ETAG
        if trouble == "wrong range":
            start, stop = start + 1, stop + 1
        headers = {"ETag": etag, "Last-Modified": _DATE, "Content-Range": f"bytes {start}-{stop - 1}/{len(BODY)}"}
        body = BODY[start:stop]
        self._headers(206, len(body), headers)
        if trouble in ("reset", "short"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if trouble == "reset":
                self._break_off()
            self.close_connection = True
        else:
            self.wfile.write(body)

    def _break_off(self) -> None:
        """End the connection with a RST."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._headers(status, len(body), headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _headers(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def finish(self) -> None:
        with suppress(OSError):  # the connection may be gone already, as it should be
            super().finish()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that give up are what is tested here."""


@contextmanager
def bad_server() -> Iterator[BadServer]:
    """Run such a server until the block ends."""
    handler = type("Handler", (_Handler,), {})
    server = _Server(("127.0.0.1", 0), handler)
    state = BadServer(f"http://127.0.0.1:{server.server_port}")
    handler.state = state  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        state.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
