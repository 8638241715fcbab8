"""Who comes to the keeper's door: reads the question of each, and keeps those who wait for a restart to be done.

One line of JSON in, one out, and the connection is closed. Standard library only; nothing here waits.
"""

from __future__ import annotations

import logging
import socket
import time
from typing import Any, Protocol

from mountd.events import Events
from mountd.serverprocess import Program
from mountd.sockets import Visitor

log = logging.getLogger("mountd.keeper")

USAGE, TEMPORARY = 64, 75
"""Exit codes of sysexits.h, for whoever asked."""

VISITORS = 64
"""So many may be here at once: who was silent for longest, or waits for longest, makes room for one more. A keeper
without descriptors could neither start a server nor hear that one is wanted."""

PAUSE_S = 0.25
"""After one who could not come in for want of descriptors, and who knocks on: not to take the processor for that."""


class Host(Protocol):
    """What can be asked for."""

    program: Program

    @property
    def is_stopping(self) -> bool:
        """Whether the mount is being taken away."""
        ...

    def status(self) -> dict[str, Any]:
        """Return all facts."""
        ...

    def replace(self, program: Program) -> None:
        """Begin a planned restart; `Reception.answer` is called when it is over."""
        ...

    def unhang(self) -> None:
        """Replace a server that hangs; `Reception.answer` is called when it is over."""
        ...

    def stop(self, why: str) -> None:
        """Take the mount away and end."""
        ...


class Reception:
    """The door of *host*, open on *listener*."""

    def __init__(self, host: Host, events: Events, listener: socket.socket) -> None:
        self._host = host
        self._events = events
        self._listener = listener
        self._silent: dict[int, Visitor] = {}
        self._waiting: list[Visitor] = []
        events.watch(listener.fileno(), self._welcome)

    def answer(self, **facts: Any) -> None:
        """Answer all who wait for a restart."""
        waiting, self._waiting = self._waiting, []
        for visitor in waiting:
            visitor.answer(**facts)

    def _welcome(self) -> None:
        try:
            connection, _address = self._listener.accept()
        except (BlockingIOError, ConnectionError):  # it has gone again
            return
        except OSError as exc:
            log.warning("nobody can come to the keeper's door: %s", exc)
            self._make_room(0)
            time.sleep(PAUSE_S)
            return
        self._make_room(VISITORS - 1)
        connection.setblocking(False)
        fd, visitor = connection.fileno(), Visitor(connection)
        self._silent[fd] = visitor
        self._events.watch(fd, lambda: self._listen(fd))

    def _make_room(self, left: int) -> None:
        """Send visitors away until at most *left* are here, first those who have asked for nothing yet."""
        while len(self._silent) + len(self._waiting) > left:
            visitor = self._see_off(next(iter(self._silent))) if self._silent else self._waiting.pop(0)
            visitor.answer(ok=False, error="too many visitors came after you", exit=TEMPORARY)

    def _see_off(self, fd: int) -> Visitor:
        """Return the visitor on *fd*, to whom nobody listens any longer."""
        self._events.unwatch(fd)
        return self._silent.pop(fd)

    def _listen(self, fd: int) -> None:
        try:
            question = self._silent[fd].hear()
        except ValueError as exc:
            self._see_off(fd).answer(ok=False, error=str(exc), exit=USAGE)
            return
        if question is not None:
            self._do(question, self._see_off(fd))

    def _do(self, question: dict[str, Any], visitor: Visitor) -> None:
        host, wish = self._host, question.get("do")
        if wish == "status":
            visitor.answer(**host.status())
        elif wish == "stop":
            visitor.answer(ok=True)
            host.stop("it was asked to")
        elif wish not in ("restart", "unhang"):
            visitor.answer(ok=False, error=f"a keeper cannot do {wish!r}", exit=USAGE)
        elif host.is_stopping:
            visitor.answer(ok=False, error="the mount is being taken away", exit=TEMPORARY)
        else:
            self._waiting.append(visitor)
            if wish == "unhang":
                host.unhang()
            else:
                python, path = question.get("python"), question.get("pythonpath")
                own = host.program
                host.replace(Program(str(python or own.python), own.pythonpath if path is None else str(path)))
