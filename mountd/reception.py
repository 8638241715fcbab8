"""Who comes to the keeper's door: reads the question of each, and keeps those who wait for a restart to be done.

One line of JSON in, one out, and the connection is closed. Standard library only; nothing here waits.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any, Protocol

from mountd.events import Events
from mountd.keeperdoor import Visitor
from mountd.serverprocess import Program

USAGE, TEMPORARY = 64, 75
"""Exit codes of sysexits.h, for whoever asked."""


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
        self._waiting: list[Visitor] = []
        events.watch(listener.fileno(), self._welcome)

    def answer(self, **facts: Any) -> None:
        """Answer all who wait for a restart."""
        waiting, self._waiting = self._waiting, []
        for visitor in waiting:
            visitor.answer(**facts)

    def _welcome(self) -> None:
        with contextlib.suppress(OSError):
            connection, _address = self._listener.accept()
            connection.setblocking(False)
            visitor = Visitor(connection)
            self._events.watch(connection.fileno(), lambda: self._listen(visitor))

    def _listen(self, visitor: Visitor) -> None:
        fd = visitor.connection.fileno()
        try:
            question = visitor.hear()
        except ValueError as exc:
            self._events.unwatch(fd)
            visitor.answer(ok=False, error=str(exc), exit=USAGE)
            return
        if question is not None:
            self._events.unwatch(fd)
            self._do(question, visitor)

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
