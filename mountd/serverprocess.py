"""One server as the keeper sees it: a child process, and the link over which both speak JSON.

Standard library only. Nothing here waits: what the server says is picked up when the link is readable, and whether
it has ended is asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mountd.servicemanager import VARIABLES

MESSAGE_BYTES = 1 << 20

DUMP_S = 1.0
"""For a server that hangs to write its stacks before it is ended."""


@dataclass(frozen=True)
class Program:
    """What is run as a server: *python* with *pythonpath* as its module path ("" for its own)."""

    python: str
    pythonpath: str

    @classmethod
    def own(cls) -> Program:
        """Return that of this process."""
        return cls(sys.executable, os.environ.get("PYTHONPATH", ""))


class ServerProcess:
    """A server from its start to its end.

    *ready_at* and *killed_at* are on the monotonic clock. *failure* is a sentence and an exit code. *is_silent* says
    that its end of the link is closed, *hung* that it is ended because it does not answer.
    """

    def __init__(self, program: Program, arguments: Sequence[str], control: socket.socket) -> None:
        """Start it. Raises OSError and, for a program that can be none, ValueError."""
        self.program = program
        self.version = ""
        self.has_kernel = False
        self.started_at = time.monotonic()
        self.ready_at: float | None = None
        self.killed_at: float | None = None
        self.is_draining = False
        self.is_silent = self.hung = False
        self.failure: tuple[str, int] | None = None
        self._dump_until: float | None = None
        self.link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.link.setblocking(False)
        with theirs:
            command = [program.python, "-P", "-m", "mountd", "serve", *arguments]
            try:
                self._process = subprocess.Popen(
                    [*command, "--link-fd", str(theirs.fileno()), "--control-fd", str(control.fileno())],
                    pass_fds=[theirs.fileno(), control.fileno()],
                    stdin=subprocess.DEVNULL,
                    env=_environment(program),
                    cwd="/",
                )
            except (OSError, ValueError):
                self.link.close()
                raise

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def say(self, **message: Any) -> None:
        """Send *message*; a server that cannot hear is about to be found dead."""
        with contextlib.suppress(OSError):
            self.link.send(json.dumps(message).encode())

    def hand(self, descriptor: int, **message: Any) -> None:
        """Send *message* with *descriptor*."""
        self.has_kernel = True
        with contextlib.suppress(OSError):
            socket.send_fds(self.link, [json.dumps(message).encode()], [descriptor])

    def hear(self) -> dict[str, Any] | None:
        """Return its next message; None when there is none, or none any more."""
        try:
            message = self.link.recv(MESSAGE_BYTES)
        except OSError:
            return None
        self.is_silent |= not message
        try:
            said = json.loads(message) if message else None
        except (ValueError, RecursionError):
            said = None
        return said if isinstance(said, dict) else None

    def ended(self) -> int | None:
        """Return its exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def wait(self, longest_s: float) -> None:
        """Wait until it has ended, but not longer than *longest_s*."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(longest_s)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing when it has ended."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once."""
        if self.killed_at is None:
            self.killed_at = time.monotonic()
        self.signal(signal.SIGKILL)

    def end_hanging(self) -> None:
        """Have it write down what it is doing; `kill_when_dumped` ends it a moment later."""
        if self._dump_until is None and self.killed_at is None:
            self.hung = True
            self._dump_until = time.monotonic() + DUMP_S
            self.signal(signal.SIGUSR1)

    def kill_when_dumped(self, now: float) -> None:
        """End it if it was told to write down what it does, and had the time for it."""
        if self._dump_until is not None and now >= self._dump_until and self.killed_at is None:
            self.kill()

    def set_oom_score(self, score: int) -> None:
        """Say how readily the kernel may end it when memory is short; one may always be made the likelier victim."""
        with contextlib.suppress(OSError):
            Path(f"/proc/{self.pid}/oom_score_adj").write_text(f"{max(-1000, min(score, 1000))}\n")


def _environment(program: Program) -> Mapping[str, str]:
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment.pop("PYTHONPATH", None)
    return environment | ({"PYTHONPATH": program.pythonpath} if program.pythonpath else {})


def how_it_ended(code: int) -> str:
    """Return the exit *code* in words: `signal 9 (SIGKILL)` or `exit code 70`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"
