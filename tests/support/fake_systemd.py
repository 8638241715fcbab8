"""A service manager in miniature: what systemd does for a unit of Type=notify, and what it comes to know of it.

Notifications are taken from the main process only (NotifyAccess=main); descriptors are kept by name and handed to the
next start (sd_listen_fds(3)), but not over a stop; a stop and a restart are KillMode=mixed: SIGTERM to the main
process, and SIGKILL to all others once it has ended. While one is under way, the `systemctl` that comes first in the
service's PATH says so, in the words of the real one (systemd 252, tried on 2026-11-21).
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from support.mounted import MARKER, marked

UNIT = "aliasfs-mountd.service"
START_S = 30.0
STOP_S = 30.0
"""TimeoutStopSec= of the units."""

POLL_S = 0.02
STORE_MAX = 8
"""FileDescriptorStoreMax= of the units."""

MESSAGE_BYTES = 4096
_UCRED = struct.Struct("3i")

SYSTEMCTL = """#!/bin/sh
for word do
    case $word in
        list-jobs) exec cat '{folder}/jobs' ;;
        show) exec cat '{folder}/main' ;;
    esac
done
echo "this systemctl cannot do: $*" >&2
exit 1
"""

STARTED_BY = """
import fcntl, os, sys
kept = [fcntl.fcntl(int(fd), fcntl.F_DUPFD_CLOEXEC, 100) for fd in sys.argv[1].split(",") if fd]
for number, fd in enumerate(kept, 3):
    os.dup2(fd, number)
mine = {"WATCHDOG_PID": str(os.getpid())} | ({"LISTEN_PID": str(os.getpid())} if kept else {})
os.execvpe(sys.argv[2], sys.argv[2:], os.environ | mine)
"""
"""Puts the descriptors in their places, 3 and up, and becomes the service: the pid it writes down is the service's."""


@dataclass
class Heard:
    """What the service has said since it was started."""

    is_ready: bool = False
    is_stopping: bool = False
    statuses: list[str] = field(default_factory=list)
    fed: int = 0
    """How often it said WATCHDOG=1."""


class FakeSystemd:
    """One unit; its files are in *folder*, what it prints goes to *log*."""

    def __init__(
        self, folder: Path, command: Sequence[str], environment: Mapping[str, str], log: Path, watchdog_s: float
    ) -> None:
        self.kept: list[tuple[str, int]] = []
        self.heard = Heard()
        self.main: subprocess.Popen[bytes] | None = None
        self.command = list(command)
        self._folder, self._log = folder, log
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "systemctl").write_text(SYSTEMCTL.format(folder=folder))
        (folder / "bin" / "systemctl").chmod(0o755)
        (folder / "jobs").touch()
        self._environment = dict(environment) | {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "NOTIFY_SOCKET": str(folder / "notify"),
            "WATCHDOG_USEC": str(round(watchdog_s * 1e6)),
        }
        self._news = threading.Condition()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(str(folder / "notify"))
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    @property
    def main_pid(self) -> int:
        assert self.main is not None
        return self.main.pid

    def wait(self, what: Callable[[Heard], object], limit_s: float = START_S) -> None:
        """Wait until *what* is true of what the service said."""
        with self._news:
            assert self._news.wait_for(lambda: what(self.heard), limit_s), (self.heard, self._log.read_text())

    def start(self) -> None:
        """Start the service, with the descriptors that are kept; returns when it is ready."""
        self._spawn()
        self.wait(lambda heard: heard.is_ready)

    def restart(self) -> None:
        """Do what `systemctl restart` does; returns when the service is ready again."""
        self._end("restart")
        self.start()

    def stop(self) -> None:
        """Do what `systemctl stop` does: the descriptors are closed at its end. Nothing when it has ended."""
        if self.main is not None and self.main.poll() is None:
            self._end("stop")
        self._forget(None)

    def kill_main(self) -> None:
        """Kill the main process: with Restart=on-failure, the rest is killed and the service started anew."""
        assert self.main is not None
        self.main.kill()
        self.main.wait(STOP_S)
        self._kill_rest()
        self.start()

    def close(self) -> None:
        """End whatever is left, and be gone."""
        if self.main is not None and self.main.poll() is None:
            self.main.kill()
            self.main.wait(STOP_S)
        self._kill_rest()
        self._forget(None)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self._folder / "notify"))
        self._listener.join(STOP_S)
        self._socket.close()

    def _spawn(self) -> None:
        with self._news:
            self.heard = Heard()
        listening = {}
        if self.kept:
            names = ":".join(name for name, _fd in self.kept)
            listening = {"LISTEN_FDS": str(len(self.kept)), "LISTEN_FDNAMES": names}
        fds = [fd for _name, fd in self.kept]
        wrapper = [sys.executable, "-I", "-S", "-c", STARTED_BY, ",".join(map(str, fds))]
        with self._log.open("ab") as log, self._news:  # `_listen` has to know who is the main process
            self.main = subprocess.Popen(
                [*wrapper, *self.command],
                cwd="/",
                env=self._environment | listening,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=fds,
                start_new_session=True,
            )
        (self._folder / "main").write_text(f"{self.main.pid}\n")

    def _end(self, job: str) -> None:
        assert self.main is not None
        (self._folder / "jobs").write_text(f"40 {UNIT} {job} running\n")
        self.main.terminate()
        self.main.wait(STOP_S)
        self._kill_rest()
        (self._folder / "jobs").write_text("")

    def _kill_rest(self) -> None:
        deadline = time.monotonic() + STOP_S
        while pids := marked(self._environment[MARKER]):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert time.monotonic() < deadline, f"processes {pids} of the service cannot be killed"
            time.sleep(POLL_S)

    def _listen(self) -> None:
        space = socket.CMSG_SPACE(_UCRED.size) + socket.CMSG_SPACE(STORE_MAX * 4)
        while True:
            message, ancillary, _flags, _address = self._socket.recvmsg(MESSAGE_BYTES, space)
            if not message:
                return
            sender, fds = 0, []
            for _level, kind, content in ancillary:
                if kind == socket.SCM_CREDENTIALS:
                    sender = _UCRED.unpack(content)[0]
                elif kind == socket.SCM_RIGHTS:
                    fds = list(struct.unpack(f"{len(content) // 4}i", content))
            with self._news:
                if self.main is not None and sender == self.main.pid:
                    self._hear(dict(line.split("=", 1) for line in message.decode().splitlines()), fds)
                    fds = []
                self._news.notify_all()
            for fd in fds:
                os.close(fd)

    def _hear(self, said: Mapping[str, str], fds: list[int]) -> None:
        self.heard.is_ready |= said.get("READY") == "1"
        self.heard.is_stopping |= said.get("STOPPING") == "1"
        self.heard.fed += said.get("WATCHDOG") == "1"
        if "STATUS" in said:
            self.heard.statuses.append(said["STATUS"])
        if said.get("FDSTOREREMOVE") == "1":
            self._forget(said["FDNAME"])
        elif said.get("FDSTORE") == "1":
            assert len(self.kept) + len(fds) <= STORE_MAX
            self.kept += [(said.get("FDNAME", "stored"), fd) for fd in fds]

    def _forget(self, name: str | None) -> None:
        """Close what is kept under *name*; None closes all."""
        for entry in [entry for entry in self.kept if name in (None, entry[0])]:
            self.kept.remove(entry)
            os.close(entry[1])


@contextmanager
def fake_systemd(
    folder: Path, command: Sequence[str], environment: Mapping[str, str], log: Path, watchdog_s: float = 8.0
) -> Iterator[FakeSystemd]:
    """Have a service manager for *command*, not started yet; *environment* has the MARKER of its processes."""
    unit = FakeSystemd(folder, command, environment, log, watchdog_s)
    try:
        yield unit
    finally:
        unit.close()
