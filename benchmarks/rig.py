"""A small honest S3 endpoint on loopback: slow like a network, cheap like a file.

Every response begins `latency` after its request was read, and every connection carries at most `rate`
bytes per second: a piece leaves only when the last of its bytes is due, and a connection that stood still
may make up for no more than `_CATCH_UP_S`. Bytes go out by `sendfile` from a memfd, so that the rig takes
little of the processor that the client under test needs. Reads of buckets and objects only, path style;
signatures are ignored. Workers share the port (SO_REUSEPORT), one thread per connection; a worker ends
when the pipe to its parent closes, so none is left behind.

Control, free of delay and never counted: `GET /__rig__/counters`, `POST /__rig__/reset`,
`GET /__rig__/digests?prefix=P` (size and SHA-256 per key).
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from benchmarks import s3
from benchmarks.bucket import Bucket, Layout

_PIECE_BYTES = 256 << 10  # 2.6 ms at 100 MB/s: fine enough to be smooth, coarse enough to be cheap
_CATCH_UP_S = 0.010  # what a late timer may make up for; at 100 MB/s one MB
_MAX_HEAD_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Network:
    """What the rig pretends: seconds to the first byte of a response, bytes per second of a connection."""

    latency_s: float = 0.020
    rate: float = 100e6


class Counters:
    """Requests by kind and body bytes sent, summed over all workers.

    Each worker adds to a row of its own in shared memory; a reset stores the sums of now in a row of
    their own, so that it never races with a worker that counts.
    """

    def __init__(self, workers: int) -> None:
        self._rows = workers + 1
        self._cells = memoryview(mmap.mmap(-1, self._rows * len(s3.KINDS) * 8)).cast("q")
        self._lock = threading.Lock()

    def add(self, worker: int, kind: str, amount: int = 1) -> None:
        """Add *amount* to *kind*, in the row of *worker* (from 0)."""
        with self._lock:
            self._cells[(worker + 1) * len(s3.KINDS) + s3.KINDS.index(kind)] += amount

    def reset(self) -> None:
        """Make everything counted until now count as nothing."""
        for column, total in enumerate(self._totals()):
            self._cells[column] = total

    def read(self) -> dict[str, int]:
        """Return what was counted since the last reset."""
        return {
            kind: total - self._cells[column]
            for column, (kind, total) in enumerate(zip(s3.KINDS, self._totals(), strict=True))
        }

    def _totals(self) -> list[int]:
        width = len(s3.KINDS)
        return [sum(self._cells[row * width + column] for row in range(1, self._rows)) for column in range(width)]


class Request(NamedTuple):
    """What a client asked for; header names in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]

    @property
    def ends_connection(self) -> bool:
        """Whether the client wants it so, or sends a body, which the rig never reads."""
        return self.headers.get("connection", "").lower() == "close" or self.headers.get("content-length", "0") != "0"


class Connection:
    """One client connection, served by one thread until either side closes."""

    def __init__(self, sock: socket.socket, endpoint: Endpoint) -> None:
        self._sock = sock
        self._endpoint = endpoint
        self._unread = b""

    def serve(self) -> None:
        """Answer requests until the client closes, resets, or sends what is no request."""
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._sock, suppress(ConnectionError):
            while (request := self._read_request()) is not None:
                if request.path.startswith("/__rig__/"):
                    self._send_whole(self._endpoint.control(request))
                else:
                    self._answer(request)
                if request.ends_connection:
                    return

    def _read_request(self) -> Request | None:
        while b"\r\n\r\n" not in self._unread:
            received = self._sock.recv(_MAX_HEAD_BYTES)
            if not received or len(self._unread) > _MAX_HEAD_BYTES:
                return None
            self._unread += received
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        split = urlsplit(target)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return Request(method, unquote(split.path), dict(parse_qsl(split.query, keep_blank_values=True)), headers)

    def _answer(self, request: Request) -> None:
        asked = time.monotonic()
        response = s3.answer(self._endpoint.bucket, request.method, request.path, request.query, request.headers)
        self._endpoint.count(response.kind)
        if response.status >= 400:
            self._endpoint.count("errors")
        first_byte = asked + self._endpoint.network.latency_s
        time.sleep(max(0.0, first_byte - time.monotonic()))
        if request.method == "HEAD":
            self._sock.sendall(response.head())
        elif response.window is None:
            self._send_paced(response.head(), response.body, first_byte)
        else:
            self._send_window(response.head(), response.window, first_byte)

    def _send_whole(self, response: s3.Response) -> None:
        self._sock.sendall(response.head() + response.body)

    def _send_paced(self, head: bytes, body: bytes, due: float) -> None:
        for start in range(0, max(1, len(body)), _PIECE_BYTES):
            piece = body[start : start + _PIECE_BYTES]
            due = self._wait_due(due, len(piece))
            self._sock.sendall(head + piece if start == 0 else piece)
            self._endpoint.count("bytes", len(piece))

    def _send_window(self, head: bytes, window: tuple[int, int], due: float) -> None:
        start, stop = window
        self._sock.sendall(head, socket.MSG_MORE if stop > start else 0)
        while start < stop:
            piece_stop = min(stop, start + _PIECE_BYTES)
            due = self._wait_due(due, piece_stop - start)
            while start < piece_stop:
                sent = os.sendfile(self._sock.fileno(), self._endpoint.bucket.fd, start, piece_stop - start)
                self._endpoint.count("bytes", sent)
                start += sent

    def _wait_due(self, due: float, length: int) -> float:
        """Sleep until *length* more bytes are due on this connection; return when they were."""
        now = time.monotonic()
        due = max(due, now - _CATCH_UP_S) + length / self._endpoint.network.rate
        if due > now:
            time.sleep(due - now)
        return due


class Endpoint:
    """One worker process: accepts on the shared port until its parent is gone."""

    def __init__(self, worker: int, bucket: Bucket, network: Network, counters: Counters) -> None:
        self.bucket = bucket
        self.network = network
        self.worker = worker
        self._counters = counters

    def count(self, kind: str, amount: int = 1) -> None:
        """Count *amount* of *kind*."""
        self._counters.add(self.worker, kind, amount)

    def control(self, request: Request) -> s3.Response:
        """Answer a control request at once."""
        if (request.method, request.path) == ("GET", "/__rig__/counters"):
            return s3.json_response(self._counters.read())
        if (request.method, request.path) == ("POST", "/__rig__/reset"):
            self._counters.reset()
            return s3.json_response({})
        if (request.method, request.path) == ("GET", "/__rig__/digests"):
            prefix = request.query.get("prefix", "")
            chosen = (found for key, found in self.bucket.objects.items() if key.startswith(prefix))
            return s3.json_response({each.key: [each.size, self.bucket.digest(each)] for each in chosen})
        return s3.error(404, "NoSuchKey", f"the rig has no control {request.method} {request.path}")

    def run(self, listener: socket.socket, parent: int) -> None:
        """Accept connections on *listener*; return when the pipe *parent* reaches its end."""
        while True:
            ready, _, _ = select.select([listener.fileno(), parent], [], [])
            if parent in ready:
                return
            sock, _ = listener.accept()
            threading.Thread(target=Connection(sock, self).serve, daemon=True).start()


class Rig:
    """The endpoint as a whole: a port, and worker processes that serve it until `close`.

    Forks: make it in a process that has no threads.
    """

    def __init__(self, bucket: Bucket, network: Network, *, port: int = 0, workers: int = 2) -> None:
        """Listen on loopback; *port* 0 takes a free one."""
        listeners = [_listener(port)]
        self.port: int = listeners[0].getsockname()[1]
        listeners += [_listener(self.port) for _ in range(workers - 1)]
        counters = Counters(workers)
        ends, self._lifeline = os.pipe()
        self._workers = [
            self._fork(Endpoint(number, bucket, network, counters), listeners, ends) for number in range(workers)
        ]
        os.close(ends)
        for listener in listeners:
            listener.close()

    def _fork(self, endpoint: Endpoint, listeners: list[socket.socket], ends: int) -> int:
        number = endpoint.worker
        if pid := os.fork():
            return pid
        os.close(self._lifeline)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for other in listeners[:number] + listeners[number + 1 :]:
                other.close()
            endpoint.run(listeners[number], ends)
        finally:
            os._exit(0)

    def close(self) -> None:
        """End the workers and wait for them."""
        os.close(self._lifeline)
        for pid in self._workers:
            os.waitpid(pid, 0)


def _listener(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(1024)
    return listener


def main() -> None:
    """Serve until standard input closes; the first line of output is JSON with the port."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rig", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--bucket", default="bench")
    parser.add_argument("--latency-ms", type=float, default=20.0)
    parser.add_argument("--rate-mb", type=float, default=100.0, help="MB/s of one connection")
    for field in fields(Layout):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    options = parser.parse_args()
    layout = Layout(**{field.name: getattr(options, field.name) for field in fields(Layout)})
    network = Network(options.latency_ms / 1e3, options.rate_mb * 1e6)
    rig = Rig(Bucket(options.bucket, layout), network, port=options.port, workers=options.workers)
    print(json.dumps({"port": rig.port, "bucket": options.bucket}), flush=True)
    with suppress(KeyboardInterrupt):
        sys.stdin.read()
    rig.close()


if __name__ == "__main__":
    main()
