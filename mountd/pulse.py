"""Whether a mount answers: a child process reads from it through the kernel, and it may hang where we may not.

The attribute that is read is made by the server for each request and kept by nobody, so an answer is a sign of life
of the whole way there and back. Standard library only.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from enum import Enum

log = logging.getLogger("mountd.keeper")

ATTRIBUTE = "user.aliasfs.server"
"""On the root of the mount: the pid of the server."""

POLL_S = 0.01


class Beat(Enum):
    """What a probe found: the mount answers, answers with an error, or does not lie at its place in the tree."""

    ANSWERED = 0
    REFUSED = 1
    ELSEWHERE = 2


class Pulse:
    """Probes of the mount on *point*, one at a time; those that hang are left to end when they can."""

    def __init__(self, point: str) -> None:
        self._point = point
        self._stuck: list[int] = []
        self._pid = 0
        self._started_at = 0.0

    @property
    def waiting_s(self) -> float:
        """For how long the probe that is under way has been waiting; 0 when none is."""
        return time.monotonic() - self._started_at if self._pid else 0.0

    def start(self, device: str, descriptor: int | None) -> None:
        """Begin a probe of the mount *device* (`major:minor`); *descriptor* is not for the child to hold.

        There is none when there is no room for a process.
        """
        self._started_at = time.monotonic()
        try:
            pid = os.fork()
        except OSError as exc:
            log.warning("cannot look whether %s answers: %s", self._point, exc)
            return
        if pid == 0:
            self._look(device, descriptor)
        self._pid = pid

    def _look(self, device: str, descriptor: int | None) -> None:
        """Be the child: look and end; never returns."""
        beat = Beat.REFUSED
        with contextlib.suppress(BaseException):
            signal.set_wakeup_fd(-1)
            if descriptor is not None:
                os.close(descriptor)
            number = os.stat(self._point).st_dev
            if f"{os.major(number)}:{os.minor(number)}" != device:
                beat = Beat.ELSEWHERE
            elif int(os.getxattr(self._point, ATTRIBUTE)) > 0:
                beat = Beat.ANSWERED
        os._exit(beat.value)

    def result(self) -> Beat | None:
        """Return what the probe found, once; None while it looks, or when there is none."""
        self._stuck = [pid for pid in self._stuck if _ended(pid) is None]
        if not self._pid:
            return None
        code = _ended(self._pid)
        if code is None:
            return None
        self._pid = 0
        return Beat(code[0]) if code[0] in (0, 1, 2) else Beat.REFUSED

    def give_up(self) -> None:
        """Wait no longer for the probe that is under way."""
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._stuck.append(self._pid)
            self._pid = 0

    def close(self, longest_s: float) -> None:
        """Give up, and wait until all probes have ended, but not longer than *longest_s*."""
        self.give_up()
        until = time.monotonic() + longest_s
        while self._stuck and time.monotonic() < until:
            self._stuck = [pid for pid in self._stuck if _ended(pid) is None]
            time.sleep(POLL_S)


def _ended(pid: int) -> tuple[int] | None:
    """Return the exit code of our child *pid*, in a tuple; None while it runs."""
    with contextlib.suppress(ChildProcessError):
        found, status = os.waitpid(pid, os.WNOHANG)
        return (os.waitstatus_to_exitcode(status),) if found else None
    return (-1,)
