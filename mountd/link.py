"""The server's end of its link to the keeper: JSON messages on a socket that keeps their boundaries.

Invariants: what is said never waits; when the keeper is gone, what is said is lost and `hear` gives None for ever.
"""

from __future__ import annotations

import json
import logging
import socket
from dataclasses import dataclass, field
from typing import Any

import trio

log = logging.getLogger(__name__)

MESSAGE_BYTES = 1 << 16
"""Longer than any message; the longest has the kernel's first request in it."""


@dataclass(frozen=True)
class Order:
    """What the keeper wants done: *wish* is `open`, `serve` or `drain`; *kernel* a descriptor that came with it."""

    wish: str
    facts: dict[str, Any] = field(default_factory=dict)
    kernel: int | None = None


class Link:
    """One end of a SOCK_SEQPACKET pair; the other one is the keeper's."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self._socket.set_inheritable(False)

    def say(self, word: str, **facts: Any) -> None:
        """Tell the keeper; it is lost when nobody listens."""
        try:
            self._socket.send(json.dumps({"say": word, **facts}).encode())
        except OSError as exc:
            log.info("the keeper does not hear: %s", exc.strerror)

    async def hear(self) -> Order | None:
        """Wait for the next order; None when the keeper is gone."""
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                message, descriptors, _flags, _address = socket.recv_fds(self._socket, MESSAGE_BYTES, 1)
            except BlockingIOError:
                continue
            except ConnectionError:
                return None
            if not message:
                return None
            facts = json.loads(message)
            return Order(facts.pop("do"), facts, descriptors[0] if descriptors else None)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
