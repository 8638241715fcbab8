"""Listens on the control socket of one mount and keeps it for as long as the daemon runs.

Invariants: the socket has mode 0600 before the first connection; the socket files of dead daemons are
removed, those of living ones never; ours is removed at the end only if it is still ours.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket as stdlib_socket
from collections.abc import Iterator
from pathlib import Path

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from aliasfs.errors import MountError
from aliasfs.wire import listener_pid
from mountd.control.app import control_app
from mountd.control.backend import Backend

log = logging.getLogger(__name__)

_GRACEFUL_S = 2.0
"""How long requests in flight may go on after the daemon was told to end."""


async def serve_control(
    backend: Backend, socket: Path, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve *backend* on the Unix socket *socket* until cancelled; started once connections are accepted.

    The directory of *socket* has to exist. Raises MountError where a living daemon has the socket, or it
    cannot be made.
    """
    with _listening(socket) as listener:
        config = Config()
        served = os.dup(listener.fileno())  # hypercorn closes it when it ends
        config.bind = [f"fd://{served}"]
        config.errorlog = logging.getLogger("hypercorn.error")
        config.graceful_timeout = _GRACEFUL_S
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, control_app(backend), config)
            # hypercorn makes its sockets inheritable; fusermount3, a child of ours, must not get this one.
            os.set_inheritable(served, False)
            log.debug("control socket is %s", socket)
            task_status.started()


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[stdlib_socket.socket]:
    """Yield a listening socket on *path* and remove its file at the end."""
    try:
        listener = _claim(path)
    except OSError as exc:
        raise MountError(f"cannot make the control socket {path}: {exc.strerror}") from exc
    made = path.stat()
    try:
        yield listener
    finally:
        listener.close()
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), made):
                path.unlink()


def _claim(path: Path) -> stdlib_socket.socket:
    """Bind *path*, after the sockets of dead daemons have been swept; one starting daemon at a time does this."""
    with (path.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if holder := _living(path):
            raise MountError(f"already mounted by {holder}; 'aliasfs status' shows it, 'aliasfs umount' ends it")
        for socket in path.parent.glob(f"*{path.suffix}"):
            if not _living(socket):
                socket.unlink(missing_ok=True)
        listener = stdlib_socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_STREAM)
        try:
            # Nobody can connect between bind and listen, so the mode is right before the first connection.
            listener.bind(os.fspath(path))
            path.chmod(0o600)
            listener.listen()
        except OSError:
            listener.close()
            raise
    return listener


def _living(path: Path) -> str:
    """Return which process listens on *path*, as `pid N`; "" where none does."""
    try:
        pid = listener_pid(path)
    except TimeoutError:
        return "a daemon that does not answer"
    return f"pid {pid}" if pid else ""
