"""A small web server over a folder: index pages, ranges, If-Match, with or without etags."""

from __future__ import annotations

import html
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path
    etags: bool

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Say nothing."""

    def _answer(self, *, with_body: bool) -> None:
        name = unquote(self.path.partition("?")[0], errors="surrogateescape").strip("/")
        path = self.root / name if name else self.root
        if path.is_dir() and not self.path.endswith("/"):
            self._send(301, b"", {"Location": f"{self.path}/"}, with_body=with_body)
        elif path.is_dir():
            self._send(200, self._index(path), {"Content-Type": "text/html"}, with_body=with_body)
        elif path.is_file() and not self.path.endswith("/"):
            self._send_file(path, with_body=with_body)
        else:
            self._send(404, b"nothing here", {}, with_body=with_body)

    def _index(self, folder: Path) -> bytes:
        names = [f"{entry.name}/" if entry.is_dir() else entry.name for entry in folder.iterdir()]
        links = [f'<a href="{html.escape(quote(name))}">{html.escape(name)}</a>' for name in ["../", *names]]
        return f"<html><body>{''.join(links)}<a href='?C=N'>sort</a></body></html>".encode()

    def _send_file(self, path: Path, *, with_body: bool) -> None:
        status = path.stat()
        body = path.read_bytes()
        headers = {"Last-Modified": formatdate(status.st_mtime, usegmt=True), "Content-Type": "text/html"}
        if self.etags:
            headers["ETag"] = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
        wanted = self.headers.get("If-Match")
        if wanted and wanted != headers.get("ETag"):
            self._send(412, b"", {}, with_body=with_body)
            return
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        if match is None:
            self._send(200, body, headers, with_body=with_body)
        elif int(match[1]) >= len(body):
            self._send(416, b"", {}, with_body=with_body)
        else:
            part = body[int(match[1]) : int(match[2]) + 1]
            headers["Content-Range"] = f"bytes {match[1]}-{int(match[1]) + len(part) - 1}/{len(body)}"
            self._send(206, part, headers, with_body=with_body)

    def _send(self, status: int, body: bytes, headers: dict[str, str], *, with_body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


@contextmanager
def web_server(root: Path, *, etags: bool) -> Iterator[str]:
    """Serve the files below *root* until the block ends; gives the URL of the root without trailing slash."""
    handler = type("Handler", (_Handler,), {"root": root, "etags": etags})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
