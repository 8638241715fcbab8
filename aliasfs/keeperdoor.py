"""Speaks to the keepers of mounts, each at a door of its own; blocking, for the command line.

The keeper answers while its server is being replaced, hangs or cannot start, so whoever wants to know how
a mount is asks here first. One line of JSON is asked and one is answered, then the connection is closed.
Every call is bounded in time; a keeper that is gone or hangs is DaemonUnreachable.
"""

from __future__ import annotations

import json
import os
import socket as socketlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from aliasfs import wire
from aliasfs.errors import DaemonUnreachable
from aliasfs.mounts import canonical_point, mount_at

_ANSWER_S = 2.0
"""A keeper answers from memory, and is never busy."""
REPLACED_WITHIN_S = 75.0
"""The keeper gives a new server 60 s to start, and an old one some to finish what it has in work."""
_POLL_S = 0.2
_LINE_BYTES = 65536

AnswerT = TypeVar("AnswerT", bound=BaseModel)


class KeeperDoor:
    """The door of the keeper of *point*; every question is a connection of its own."""

    def __init__(self, point: Path, *, socket: Path | None = None) -> None:
        """*socket* is the control socket, where only that is known; *point* then only names the mount in messages."""
        self.point = point if socket else canonical_point(point)
        self._path = wire.keeper_path(socket or wire.socket_path(point))

    def status(self) -> wire.KeeperStatus:
        """Return how the mount is; takes 2 s at most."""
        return self._ask({"do": "status"}, wire.KeeperStatus, _ANSWER_S)

    def restart(self, program: str, pythonpath: str, waiting: Callable[[float], None]) -> wire.RestartReport:
        """Have the server replaced by one of the Python *program* with *pythonpath*; return what became of it.

        *waiting* is called now and then with the seconds waited so far, 75 at most.
        """
        asked = {"do": "restart", "python": program, "pythonpath": pythonpath}
        return self._ask(asked, wire.RestartReport, REPLACED_WITHIN_S, waiting)

    def unhang(self, waiting: Callable[[float], None]) -> wire.RestartReport:
        """Have a server that hangs write its stacks, ended and replaced; *waiting* as in `restart`."""
        return self._ask({"do": "unhang"}, wire.RestartReport, REPLACED_WITHIN_S, waiting)

    def stop(self) -> None:
        """Ask the keeper to take the mount away and to end; returns before it has."""
        self._ask({"do": "stop"}, wire.RestartReport, _ANSWER_S)

    def _ask(
        self,
        question: dict[str, str],
        shape: type[AnswerT],
        within_s: float,
        waiting: Callable[[float], None] = lambda waited_s: None,
    ) -> AnswerT:
        try:
            line = self._answer_to(json.dumps(question).encode() + b"\n", within_s, waiting)
        except TimeoutError as exc:
            raise DaemonUnreachable(
                f"the keeper of {self.point} does not answer; "
                f"'aliasfs doctor --unhang {self.point}' makes the mount anew"
            ) from exc
        except OSError as exc:
            raise DaemonUnreachable(why_no_keeper(self.point)) from exc
        if not line:
            raise DaemonUnreachable(f"the keeper of {self.point} hung up without an answer; see its log")
        try:
            return shape.model_validate_json(line)
        except ValidationError as exc:
            raise DaemonUnreachable(
                f"the keeper of {self.point} answers in a way this version does not understand; "
                "unmount and mount again to run the same version on both sides"
            ) from exc

    def _answer_to(self, question: bytes, within_s: float, waiting: Callable[[float], None]) -> bytes:
        """Return the line that answers *question*. Raises TimeoutError, and OSError where nobody is there."""
        started = time.monotonic()
        answer = bytearray()
        with socketlib.socket(socketlib.AF_UNIX, socketlib.SOCK_STREAM) as door:
            door.settimeout(_ANSWER_S)
            door.connect(os.fspath(self._path))
            door.sendall(question)
            door.settimeout(_POLL_S)
            while not answer.endswith(b"\n"):
                try:
                    piece = door.recv(_LINE_BYTES)
                except TimeoutError:
                    waited = time.monotonic() - started
                    if waited > within_s:
                        raise
                    waiting(waited)
                    continue
                if not piece:
                    break
                answer += piece
        return bytes(answer)


def keeper_of(point: Path, *, socket: Path | None = None) -> wire.KeeperStatus | None:
    """Return how the keeper of *point* is, `silent` or `gone` where it does not say; takes 2 s at most.

    None where there never was one: nothing is served there, or by a daemon from before there were keepers.
    *socket* is as for KeeperDoor. The pid of one that is gone is 0.
    """
    control = socket or wire.socket_path(point)
    try:
        return KeeperDoor(point, socket=control).status()
    except DaemonUnreachable as exc:
        said = str(exc)
    door = wire.keeper_path(control)
    if not door.exists() or not _knocked(control):
        return None
    if pid := _knocked(door):
        return wire.KeeperStatus(pid=pid, state="silent", said=said)
    return wire.KeeperStatus(pid=0, state="gone", said="its server serves on, and nobody replaces that when it dies")


def why_unreachable(point: Path) -> str:
    """Return in one sentence why nobody listens for the mount *point*."""
    mount = mount_at(point)
    if mount is None:
        return f"nothing is mounted on {point}; 'aliasfs mount {point}' mounts it"
    if not mount.is_ours:
        return f"{point} is a {mount.fs_type} mount, which aliasfs did not make"
    if mount.owner != os.geteuid():
        return f"the mount {point} belongs to uid {mount.owner}; ask as that user, for example with sudo"
    return f"the daemon of {point} is gone and its mount is dead; 'aliasfs umount --force {point}' clears it"


def why_no_keeper(point: Path) -> str:
    """Return in one sentence why nobody is at the keeper's door of *point*."""
    if not _knocked(wire.socket_path(point)):
        return why_unreachable(point)
    return (
        f"{point} is served without a keeper, so its server cannot be replaced: "
        f"run 'aliasfs umount {point}', then 'aliasfs mount {point}'"
    )


def _knocked(socket: Path) -> int:
    """Return the pid behind *socket*, 0 where nobody listens; one that is too busy to say counts as -1."""
    try:
        return wire.listener_pid(socket)
    except OSError:
        return -1
