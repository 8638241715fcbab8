"""A daemon of its own on a mount point of its own, under a hard time limit, and never left behind.

Whatever a test does to it, the end is the same: SIGTERM, then the connection is aborted through
/sys/fs/fuse/connections (so that nobody stays stuck in the kernel), SIGKILL by pid, a lazy unmount. What the
daemon logged as a warning or worse fails the test, unless it was expected.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from aliasfs import mounts
from aliasfs.client import DaemonClient
from aliasfs.wire import Readiness

ROOT = Path(__file__).parents[2]
START_S = 30.0
STOP_S = 15.0
CONNECTIONS = Path("/sys/fs/fuse/connections")

COMPLAINT = re.compile(r"(WARNING|ERROR|CRITICAL) |Traceback")


@dataclass
class Mounted:
    """A mount that answers: *point* is its root, *folder* holds its configuration, cache and log."""

    folder: Path
    config: dict[str, Any]
    arguments: Sequence[str] = ()
    expected: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

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
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def said(self) -> str:
        """What the daemon has logged so far."""
        return (self.folder / "log").read_text(errors="replace")

    def client(self) -> DaemonClient:
        """Return a client of the daemon, to be used as a context manager."""
        return DaemonClient(self.point)

    def expect(self, *patterns: str) -> None:
        """Allow complaints in the daemon's log that match one of *patterns*."""
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
        """Start the daemon and return what it says of its start."""
        reading, writing = os.pipe()
        command = [
            sys.executable,
            "-m",
            "mountd",
            "serve",
            "--point",
            str(self.point),
            "--config",
            str(self.config_file),
        ]
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("ALIASFS_", "NOTIFY_"))
        }
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--ready-fd", str(writing), "--foreground", *self.arguments],
                cwd="/",
                env=environment | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": ""},
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
        assert line, f"the daemon said nothing of its start, {how}; its log:\n{self.said}"
        return Readiness.model_validate(json.loads(line))

    def kill(self) -> None:
        """End the daemon as `kill -9` does, and clear the dead mount away."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(STOP_S)
        unmount(self.point)

    def stop(self) -> None:
        """End the daemon as systemd does, and wait for it; force is used where that is not enough."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.force()
                raise AssertionError(f"the daemon did not end when told to; its log:\n{self.said}") from None
        unmount(self.point)

    def restart(self) -> None:
        """Stop, and start anew on the same cache."""
        self.stop()
        assert self.start().ready, self.said

    def force(self) -> None:
        """End everything at once, without asking."""
        abort(self.point)
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(STOP_S)
        unmount(self.point)


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
    **sections: Any,
) -> Iterator[Mounted]:
    """Mount *aliases* with a cache below *folder*; *sections* are further sections of the configuration.

    After *limit_s* seconds everything is ended by force, which a test sees as errors of its reads.
    """
    cache = {"dir": str(folder / "cache"), "size": "200MB", "min_free": 0} | sections.pop("cache", {})
    mount = Mounted(folder, {"aliases": dict(aliases), "cache": cache, **sections}, arguments)
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
