"""A TCP relay in front of a server that can be cut or frozen: connections are then refused, or nothing comes back."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

PIECE_BYTES = 1 << 16


class Relay:
    """Carries every connection to *port* of itself on to that of the server, until it is cut."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = _listening(0)
        self.port: int = self._listener.getsockname()[1]
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._flows = threading.Event()
        self._flows.set()
        self._accepting = self._start(self._listener)

    def _start(self, listener: socket.socket) -> threading.Thread:
        thread = threading.Thread(target=self._accept, args=(listener,), daemon=True)
        thread.start()
        return thread

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._to))
            pair = (near, far)
            with self._lock:
                self._pairs.add(pair)
            threading.Thread(target=self._carry, args=(pair,), daemon=True).start()

    def _carry(self, pair: tuple[socket.socket, socket.socket]) -> None:
        other = dict(zip(pair, reversed(pair), strict=True))
        with suppress(OSError), selectors.DefaultSelector() as selector:
            for end in pair:
                selector.register(end, selectors.EVENT_READ, end)
            while all(self._move(key.data, other[key.data]) for key, _ in selector.select()):
                pass
        with self._lock:
            self._pairs.discard(pair)
        for end in pair:
            end.close()

    def _move(self, source: socket.socket, target: socket.socket) -> bool:
        piece = source.recv(PIECE_BYTES)
        self._flows.wait()
        target.sendall(piece)
        return bool(piece)

    def cut(self) -> None:
        """Reset every connection, and refuse new ones."""
        _close(self._listener)
        self._accepting.join()
        with self._lock:
            for pair in self._pairs:
                for end in pair:
                    with suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)

    def freeze(self) -> None:
        """Take connections and bytes, and pass nothing on."""
        self._flows.clear()

    def thaw(self) -> None:
        """Pass on what has come, and what comes."""
        self._flows.set()

    def mend(self) -> None:
        """Take connections again after a cut."""
        self._listener = _listening(self.port)
        self._accepting = self._start(self._listener)


def _listening(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(128)
    return listener


def _close(listener: socket.socket) -> None:
    with suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@contextmanager
def relay(url: str) -> Iterator[tuple[Relay, str]]:
    """Put a relay in front of the server of *url*; gives it, and the URL that leads through it."""
    parts = urlsplit(url)
    assert parts.port is not None
    made = Relay(parts.port)
    try:
        yield made, parts._replace(netloc=f"127.0.0.1:{made.port}").geturl()
    finally:
        made.thaw()
        made.cut()
