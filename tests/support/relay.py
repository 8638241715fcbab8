"""A network between a client and a server on loopback that can be cut, and swallow what is sent, on command."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

CHUNK_BYTES = 1 << 16


class Relay:
    """Passes connections to one port on to the server at *target*; open from the start."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
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
                        (server if source is client else client).sendall(piece)
            finally:
                with self._lock:
                    self._connections -= {client, server}


@contextmanager
def relay(target: str) -> Iterator[Relay]:
    """Run such a network before the server at the URL *target* until the block ends."""
    made = Relay(target)
    try:
        yield made
    finally:
        made.cut()
