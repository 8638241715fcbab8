"""A keeper without a mount or a server: answers at its door from plain values and remembers what it was asked."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aliasfs import wire


@dataclass
class FakeKeeper:
    """*status* is what it says of itself; *report* what becomes of a restart; *asked* every question so far.

    With *hears* off it takes connections and does not answer, as one that hangs.
    """

    point: str = "/mnt/aliases"
    status: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=lambda: {"ok": True, "pid": 77, "version": "2", "pause_s": 0.25})
    asked: list[dict[str, Any]] = field(default_factory=list)
    hears: bool = True

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to *question*."""
        self.asked.append(question)
        match question["do"]:
            case "status":
                facts = {"state": "serving", "said": "serving 1 alias", "server_pid": 76, "version": "1"}
                return {"pid": os.getpid(), "generation": 0, "resend": True} | facts | self.status
            case "stop":
                return {"ok": True}
            case _:
                return self.report


@contextmanager
def kept(keeper: FakeKeeper, *, with_control: bool = False) -> Iterator[Path]:
    """Answer at the door of *keeper* in a thread; yield the control socket's path.

    *with_control* has this process listen there too, and nobody answer, as while there is no server.
    """
    control = wire.make_runtime_dir() / wire.socket_path(Path(keeper.point)).name
    with socket.socket(socket.AF_UNIX) as door, socket.socket(socket.AF_UNIX) as queue:
        door.bind(str(wire.keeper_path(control)))
        door.listen()
        if with_control:
            queue.bind(str(control))
            queue.listen()
        thread = threading.Thread(target=_answer_all, args=(keeper, door))
        thread.start()
        try:
            yield control
        finally:
            door.shutdown(socket.SHUT_RDWR)  # ends accept(2) in the thread
            thread.join(10)
            wire.keeper_path(control).unlink(missing_ok=True)
            if with_control:
                control.unlink()


def _answer_all(keeper: FakeKeeper, door: socket.socket) -> None:
    unanswered = []
    while True:
        try:
            connection, _ = door.accept()
        except OSError:
            break
        if not keeper.hears:
            unanswered.append(connection)
            continue
        with connection, connection.makefile("rb") as lines:
            if line := lines.readline():  # none: somebody only looked whether we are there
                connection.sendall(json.dumps(keeper.answer(json.loads(line))).encode() + b"\n")
    for connection in unanswered:
        connection.close()
