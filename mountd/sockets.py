"""The sockets of one mount, which outlive its servers: the control socket, on which servers answer HTTP, and the
keeper's own door, where one line of JSON is asked and one is answered.

Invariants: the sockets have mode 0600 before the first connection; those of dead daemons are removed, those of
living ones never; ours are removed at the end only if they are still ours. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DOOR_SUFFIX, NODES_SUFFIX = ".keeper", ".nodes"
"""Beside the control socket, in place of its own suffix: the keeper's door, and the table of inodes."""

NODES_KEPT_S = 86400.0
"""A table without a daemon may be that of a mount which systemd is about to start again; after a day it is not."""

BACKLOG = 128
"""Who asks while a server is being replaced waits in the queue."""

LINE_BYTES = 65536
KNOCK_S = 2.0
_UCRED = struct.Struct("3i")


class Taken(Exception):
    """Another daemon has the mount point; the sentence says which."""


@dataclass(eq=False)
class Visitor:
    """One connection to the door, and what it has asked so far."""

    connection: socket.socket
    asked: bytearray = field(default_factory=bytearray)

    def answer(self, **facts: Any) -> None:
        """Send *facts* and hang up; who has gone away misses them."""
        with self.connection, contextlib.suppress(OSError):
            self.connection.setblocking(True)
            self.connection.settimeout(KNOCK_S)
            self.connection.sendall(json.dumps(facts).encode() + b"\n")

    def hear(self) -> dict[str, Any] | None:
        """Return the question once it is whole, None until then; ValueError when it is none, or nobody is there."""
        try:
            piece = self.connection.recv(LINE_BYTES)
        except BlockingIOError:
            return None
        except OSError as exc:
            raise ValueError(str(exc)) from exc
        self.asked += piece
        line, newline, _rest = self.asked.partition(b"\n")
        if not newline:
            if not piece or len(self.asked) > LINE_BYTES:
                raise ValueError("a question is one line of JSON")
            return None
        try:
            question = json.loads(line)
        except RecursionError as exc:
            raise ValueError("a question is a flat JSON object") from exc
        if not isinstance(question, dict):
            raise ValueError("a question is a JSON object")
        return question


class Sockets:
    """The listening sockets of one mount; *control* is the path of the control socket."""

    def __init__(self, control: Path) -> None:
        """Claim both. Raises Taken, and OSError when they cannot be made."""
        self.nodes = control.with_suffix(NODES_SUFFIX)
        self._paths = (control, control.with_suffix(DOOR_SUFFIX))
        with (control.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if holder := _living(control):
                raise Taken(f"already mounted by {holder}; 'aliasfs status' shows it, 'aliasfs umount' ends it")
            _sweep(control)
            self.control, self.door = (_listen(path) for path in self._paths)
        self.door.setblocking(False)
        self._made = [path.stat() for path in self._paths]

    def remove(self, *, with_nodes: bool) -> None:
        """Close both and remove what is still ours, the table of inodes when nobody is to take it over."""
        self.control.close()
        self.door.close()
        for path, made in zip(self._paths, self._made, strict=True):
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), made):
                    path.unlink()
                    if with_nodes:
                        self.nodes.unlink(missing_ok=True)


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Nobody can connect between bind and listen, so the mode is right before the first connection.
        listener.bind(os.fspath(path))
        path.chmod(0o600)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _sweep(own: Path) -> None:
    """Remove what dead daemons left, *own* earlier ones' sockets among it; our table of inodes stays."""
    for path in own.parent.glob(f"*{own.suffix}"):
        if not _living(path):
            path.unlink(missing_ok=True)
            path.with_suffix(DOOR_SUFFIX).unlink(missing_ok=True)
    own.with_suffix(DOOR_SUFFIX).unlink(missing_ok=True)
    for nodes in own.parent.glob(f"*{NODES_SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):  # a daemon that ends removes its own
            is_old = time.time() - nodes.stat().st_mtime > NODES_KEPT_S
            if is_old and not nodes.with_suffix(own.suffix).exists() and nodes.stem != own.stem:
                nodes.unlink()


def _living(path: Path) -> str:
    """Return which process listens on *path*, as `pid N`; "" where none does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as visitor:
        visitor.settimeout(KNOCK_S)
        try:
            visitor.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return ""
        except OSError as exc:
            if isinstance(exc, TimeoutError) or exc.errno == errno.EAGAIN:
                return "a daemon that does not answer"
            raise
        pid, _uid, _gid = _UCRED.unpack(visitor.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return f"pid {pid}"
