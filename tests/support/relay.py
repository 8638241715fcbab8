"""A network between a client and a server on loopback that can be slow, cut, and swallow what is sent."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

CHUNK_BYTES = 1 << 14


class Relay:
    """Passes connections to one port on to the server at *target*; open from the start.

    What the server sends takes its time when there are *bytes_per_s*, which all connections share.
    """

    def __init__(self, target: str, bytes_per_s: float | None = None) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._bytes_per_s = bytes_per_s
        self._busy_until_s = 0.0
        self._flowing = threading.Event()
        self._flowing.set()
        self._listener: socket.socket | None = None
        self._port = 0
        self.open()
        self.url = parts._replace(netloc=f"127.0.0.1:{self._port}").geturl()

    def open(self) -> None:
        """Accept connections again, at the same port as before, and let everything flow."""
        self._flowing.set()
        if self._listener is None:
            listener = socket.create_server(("127.0.0.1", self._port), backlog=128)
            self._port = listener.getsockname()[1]
            self._listener = listener
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        """Break all connections off and refuse new ones."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            connections, self._connections = self._connections, set()
        for connection in connections:
            with suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RDWR)
        self._flowing.set()

    def swallow(self) -> None:
        """Accept connections and pass nothing on; what is on its way waits."""
        self._flowing.clear()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._target) as server, suppress(OSError):
            with self._lock:
                self._connections |= {client, server}
            try:
                while True:
                    for source in select.select([client, server], [], [])[0]:
                        piece = source.recv(CHUNK_BYTES)
                        if not piece:
                            return
                        self._flowing.wait()
                        if source is server and self._bytes_per_s:
                            self._take_a_turn(len(piece) / self._bytes_per_s)
                        (server if source is client else client).sendall(piece)
            finally:
                with self._lock:
                    self._connections -= {client, server}

    def _take_a_turn(self, takes_s: float) -> None:
        """Wait until the line has passed on what came before, and then for *takes_s*."""
        with self._lock:
            self._busy_until_s = max(self._busy_until_s, time.monotonic()) + takes_s
            until_s = self._busy_until_s
        time.sleep(max(until_s - time.monotonic(), 0))


@contextmanager
def relay(target: str, bytes_per_s: float | None = None) -> Iterator[Relay]:
    """Run such a network before the server at the URL *target* until the block ends."""
    made = Relay(target, bytes_per_s)
    try:
        yield made
    finally:
        made.cut()
