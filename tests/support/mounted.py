"""A mount of its own on a mount point of its own, under a hard time limit, and never left behind.

It has two processes: the keeper, which is started here, and the server, which the keeper starts again when it is
killed. Whatever a test does to them, the end is the same: SIGTERM to the keeper, then the connection is aborted
through /sys/fs/fuse/connections (so that nobody stays stuck in the kernel), SIGKILL by pid, a lazy unmount. What
they logged as a warning or worse fails the test, unless it was expected.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from aliasfs import mounts
from aliasfs.client import DaemonClient
from aliasfs.wire import Readiness, make_runtime_dir, socket_path

ROOT = Path(__file__).parents[2]
START_S = 30.0
STOP_S = 15.0
CONNECTIONS = Path("/sys/fs/fuse/connections")

POLL_S = 0.02
ANSWER_S = 60.0
"""How long the keeper may take to answer; it answers a restart when the new server serves."""

MARKER = "MOUNT_OF_A_TEST"
"""The variable in their environment by which all processes of one mount are found."""

SERVER_DIED, KEEPER_DIED = r"server \d+ died", "the keeper is gone"
"""What each says of the other one that a test has killed."""

COMPLAINT = re.compile(r"(WARNING|ERROR|CRITICAL) |Traceback")


@dataclass
class Mounted:
    """A mount that answers: *point* is its root, *folder* holds its configuration, cache and log.

    *arguments* are for the server, *keeper* for the keeper; *process* is the keeper.
    """

    folder: Path
    config: dict[str, Any]
    arguments: Sequence[str] = ()
    keeper: Sequence[str] = ()
    expected: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    marker: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def point(self) -> Path:
        return self.folder / "mnt"

    @property
    def config_file(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def cache_dir(self) -> Path:
        return self.folder / "cache"

    @property
    def server_pid(self) -> int:
        """The process that serves now, or is about to; 0 while there is none."""
        return int(self.ask("status")["server_pid"])

    @property
    def said(self) -> str:
        """What keeper and servers have logged so far."""
        return (self.folder / "log").read_text(errors="replace")

    def client(self) -> DaemonClient:
        """Return a client of the server, to be used as a context manager."""
        return DaemonClient(self.point)

    def ask(self, do: str, **facts: Any) -> dict[str, Any]:
        """Return what the keeper answers at its own door."""
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(ANSWER_S)
            door.connect(str(socket_path(self.point).with_suffix(".keeper")))
            door.sendall(json.dumps({"do": do, **facts}).encode() + b"\n")
            with door.makefile("rb") as answer:
                return dict(json.loads(answer.readline()))

    def wait_serving(self, *, instead_of: int = 0, limit_s: float = START_S) -> dict[str, Any]:
        """Return the keeper's status once a server other than *instead_of* serves."""
        deadline = time.monotonic() + limit_s
        while True:
            status = self.ask("status")
            if status["state"] == "serving" and status["server_pid"] != instead_of:
                return status
            assert time.monotonic() < deadline, f"no server after {limit_s} s but {status}; the log:\n{self.said}"
            time.sleep(POLL_S)

    def expect(self, *patterns: str) -> None:
        """Allow complaints in the log that match one of *patterns*."""
        self.expected += patterns

    def complaints(self) -> list[str]:
        """Return the lines of the log that say that something is wrong, and were not expected."""
        lines = [line for line in self.said.splitlines() if COMPLAINT.search(line)]
        return [line for line in lines if not any(re.search(pattern, line) for pattern in self.expected)]

    def write_config(self, aliases: Mapping[str, Any] | None = None) -> None:
        if aliases is not None:
            self.config["aliases"] = dict(aliases)
        fresh = self.config_file.with_suffix(".new")
        with fresh.open("w") as file:
            YAML().dump(self.config, file)
        fresh.replace(self.config_file)

    def start(self) -> Readiness:
        """Start keeper and server; return what they say of their start."""
        make_runtime_dir()
        reading, writing = os.pipe()
        command = [sys.executable, "-P", "-m", "mountd.keeper", "--point", str(self.point)]
        command += ["--socket", str(socket_path(self.point)), "--ready-fd", str(writing), *self.keeper]
        command += ["--", "--config", str(self.config_file), "--foreground", *self.arguments]
        own = {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "", MARKER: self.marker}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ALIASFS_", "NOTIFY_"))}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd="/",
                env=inherited | own,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(writing,),
                start_new_session=True,
            )
        os.close(writing)
        with open(reading, "rb") as pipe:
            ready, _, _ = select.select([pipe], [], [], START_S)
            line = pipe.readline() if ready else b""
        how = f"it ended with {self.process.poll()}" if ready else f"it took more than {START_S} s"
        assert line, f"the keeper said nothing of the start, {how}; the log:\n{self.said}"
        return Readiness.model_validate(json.loads(line))

    def kill_server(self, number: int = signal.SIGKILL) -> int:
        """Send the server a signal that ends it, and return its pid; the keeper starts another one."""
        self.expect(SERVER_DIED)
        pid = self.server_pid
        assert pid > 0, "there is no server to be killed"
        os.kill(pid, number)
        return pid

    def kill(self) -> None:
        """End keeper and server as `kill -9` of both does, and clear the dead mount away."""
        self.expect(KEEPER_DIED)
        self._kill_all()
        unmount(self.point)

    def _kill_all(self) -> None:
        """Kill the keeper first, or it would start another server."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(STOP_S)
        deadline = time.monotonic() + STOP_S
        while pids := marked(self.marker):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert time.monotonic() < deadline, f"processes {pids} of the mount cannot be killed"
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End the mount as systemd does, and wait for it; force is used where that is not enough."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.force()
                raise AssertionError(f"the keeper did not end when told to; the log:\n{self.said}") from None
        left = marked(self.marker)
        self.force()
        assert not left, f"the keeper left processes {left} behind; the log:\n{self.said}"

    def restart(self) -> None:
        """Stop, and start anew on the same cache."""
        self.stop()
        assert self.start().ready, self.said

    def force(self) -> None:
        """End everything at once, without asking."""
        abort(self.point)
        self._kill_all()
        unmount(self.point)


def marked(marker: str) -> list[int]:
    """Return the living processes whose environment has *marker*; zombies are dead."""
    needle = f"{MARKER}={marker}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has ended meanwhile
                if needle in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def abort(point: Path) -> None:
    """Abort the FUSE connection of *point*: every request that waits fails, nobody stays stuck."""
    mount = mounts.mount_at(point)
    if mount is None:
        return
    if not os.path.ismount(CONNECTIONS):
        subprocess.run(["mount", "-t", "fusectl", "none", str(CONNECTIONS)], check=False, capture_output=True)
    with suppress(OSError):
        (CONNECTIONS / mount.device.partition(":")[2] / "abort").write_text("1\n")


def unmount(point: Path) -> None:
    """Unmount *point* however dead it is; nothing when nothing is mounted there."""
    while mounts.mount_at(point) is not None:
        subprocess.run(["fusermount3", "-u", "-z", "--", str(point)], check=True, capture_output=True, timeout=STOP_S)


@contextmanager
def mounted(
    folder: Path,
    aliases: Mapping[str, Any],
    *arguments: str,
    limit_s: float = 90.0,
    start: bool = True,
    keeper: Sequence[str] = (),
    **sections: Any,
) -> Iterator[Mounted]:
    """Mount *aliases* with a cache below *folder*; *sections* are further sections of the configuration.

    After *limit_s* seconds everything is ended by force, which a test sees as errors of its reads.
    """
    cache = {"dir": str(folder / "cache"), "size": "200MB", "min_free": 0} | sections.pop("cache", {})
    mount = Mounted(folder, {"aliases": dict(aliases), "cache": cache, **sections}, arguments, keeper)
    mount.point.mkdir(parents=True)
    mount.write_config()
    watchdog = threading.Timer(limit_s, mount.force)
    watchdog.daemon = True
    watchdog.start()
    try:
        if start:
            readiness = mount.start()
            assert readiness.ready, readiness.error
        yield mount
        if mount.process is not None:
            mount.stop()
            assert not mount.complaints(), "\n".join(mount.complaints())
    finally:
        watchdog.cancel()
        mount.force()
