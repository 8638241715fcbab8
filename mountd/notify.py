"""Says "ready" to whoever started the daemon: systemd's socket, and the pipe of `aliasfs mount`.

Nobody has to listen: a starter that went away is logged, and the mount goes on. Source: sd_notify(3), the datagram
protocol on $NOTIFY_SOCKET.
"""

from __future__ import annotations

import logging
import os
import socket

from aliasfs.wire import Readiness

log = logging.getLogger(__name__)


class Starter:
    """The two places that wait to hear how a start went."""

    def __init__(self, ready_fd: int | None, notify_socket: str | None) -> None:
        self._ready_fd = ready_fd
        self._notify_socket = notify_socket

    def ready(self, status: str) -> None:
        """Say that the mount answers."""
        self._write(Readiness(ready=True, pid=os.getpid()))
        self.systemd(f"READY=1\nSTATUS={status}")

    def failed(self, error: str, exit_code: int) -> None:
        """Say that there will be no mount, and why."""
        self._write(Readiness(ready=False, pid=os.getpid(), error=error, exit=exit_code))
        self.systemd(f"STATUS={error.splitlines()[0] if error else ''}")

    def systemd(self, state: str) -> None:
        """Send *state* to systemd; does nothing where systemd did not start us."""
        if not self._notify_socket:
            return
        address = self._notify_socket
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.connect("\0" + address[1:] if address.startswith("@") else address)
                channel.sendall(state.encode())
        except OSError as exc:
            log.info("systemd does not listen on %s: %s", address, exc.strerror)

    def _write(self, readiness: Readiness) -> None:
        if self._ready_fd is None:
            return
        line = readiness.model_dump_json().encode() + b"\n"
        try:
            os.write(self._ready_fd, line)
        except OSError as exc:
            log.info("the starter went away before it could hear of the start: %s", exc.strerror)
        finally:
            os.close(self._ready_fd)
            self._ready_fd = None
