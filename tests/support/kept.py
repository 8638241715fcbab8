"""A real keeper in a process of its own, with the plain server to keep; asked at its door, ended in the end."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mountd import fusemount
from support import plain_server

ANSWER_S = 20.0

LAUNCH = """
import json, os, sys
from mountd import supervisor
from mountd.keeper import main
server, program, constants = sys.argv[1:4]
os.environ["PYTHONPATH"], sys.executable = server, program
vars(supervisor).update(json.loads(constants))
sys.exit(main(sys.argv[4:]))
"""
"""The keeper is the real one; what it takes for its own program is the plain server."""


class Kept:
    """One mount point and its keeper. *log* is what the keeper has said; *folder* that of the plain server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "server"
        self.point = str(folder / "point")
        self.control = folder / "own.sock"
        self._log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None
        os.mkdir(self.point)

    def start(
        self, *plan: str, program: str = sys.executable, resend: bool = True, **constants: float
    ) -> dict[str, Any]:
        """Start a keeper whose servers do as *plan* says; return what it tells the starter.

        *constants* are those of `mountd.supervisor` with another value.
        """
        plain_server.install(self.folder, *plan)
        reader, writer = os.pipe()
        command = [sys.executable, "-P", "-c", LAUNCH, str(self.folder), program, json.dumps(constants)]
        command += ["--point", self.point, "--socket", str(self.control), "--ready-fd", str(writer)]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *([] if resend else ["--without-resend"]), "--"], pass_fds=[writer], stderr=log
            )
        os.close(writer)
        with open(reader, "rb") as pipe:
            facts: dict[str, Any] = json.loads(pipe.readline())
        return facts

    @property
    def log(self) -> str:
        """What the keeper has logged so far."""
        return self._log.read_text()

    def connect(self) -> socket.socket:
        """Go to the keeper's door."""
        visitor = socket.socket(socket.AF_UNIX)
        visitor.connect(str(self.control.with_suffix(".keeper")))  # waits in the queue while it has no time-out
        visitor.settimeout(ANSWER_S)
        return visitor

    def ask(self, do: str, **facts: Any) -> dict[str, Any]:
        """Ask at the door and return the answer."""
        with self.connect() as visitor, visitor.makefile("rb") as lines:
            visitor.sendall(json.dumps({"do": do, **facts}).encode() + b"\n")
            answer: dict[str, Any] = json.loads(lines.readline())
            return answer

    def server_pid(self) -> int:
        """Return the pid of the server that answers a read through the kernel; waits for one."""
        return int(os.getxattr(self.point, "user.aliasfs.server"))

    def wait_until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the first status that fulfils *condition*."""
        until = time.monotonic() + ANSWER_S
        while not condition(status := self.ask("status")):
            assert time.monotonic() < until, (status, self.log)
            time.sleep(0.02)
        return status

    def ended(self) -> int:
        """Wait for the keeper to end by itself and return its exit code."""
        assert self.process is not None
        return self.process.wait(ANSWER_S)

    def is_mounted(self) -> bool:
        """Say whether anything is mounted at the point."""
        return bool(fusemount.device_of(self.point))

    def close(self) -> None:
        """End the keeper, whatever it does, and take the mount away."""
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.terminate()
                self.process.wait(ANSWER_S)
            self.process.kill()
            self.process.wait()
        if device := fusemount.device_of(self.point):
            fusemount.abort(device)
            fusemount.detach(self.point)


@contextlib.contextmanager
def kept() -> Iterator[Kept]:
    """Yield a keeper to be started, in a folder of its own whose name is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="kept") as folder:
        keeper = Kept(Path(folder))
        try:
            yield keeper
        finally:
            keeper.close()
