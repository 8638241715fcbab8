"""Mounting the systems under test, watching their processes, and getting rid of them whatever happens.

The daemon of a mount is every process that inherited its session's marker in the environment, however it
went to the background. The bench itself never touches a mount: it reads /proc/self/mountinfo, and leaves
all access to child processes with a time limit; a mount that hangs is aborted through
/sys/fs/fuse/connections.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_MARKER = "ALIASFS_BENCH_SESSION"
_READY_S = 30.0
_STOP_S = 15.0
_TICKS = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """A system could not be mounted, hung, or gave wrong bytes; the message is for the report."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one system is mounted and unmounted.

    *data* is where the bucket appears below the mount point; *foreground* says that the mounting program
    stays, else it returns when the mount answers.
    """

    mount: Sequence[str]
    umount: Sequence[str]
    data: str = ""
    foreground: bool = True
    environment: dict[str, str] = field(default_factory=dict)


class Mount:
    """One live mount and the processes behind it; use as a context manager."""

    def __init__(self, recipe: Recipe, point: Path, log: Path) -> None:
        """Mount, and return when the mount is there; raises BenchError with the log's end when it fails."""
        self.root = str(point / recipe.data) if recipe.data else str(point)
        self._recipe = recipe
        self._point = point
        self._log = log
        self._session = uuid.uuid4().hex
        environment = os.environ | recipe.environment | {_MARKER: self._session}
        with log.open("wb") as output:
            self._starter = subprocess.Popen(
                recipe.mount, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            self._connection = self._wait_mounted()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Mount:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait_mounted(self) -> int:
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline:
            minor = fuse_minor(self._point)
            returned = self._starter.poll()
            if minor is not None and (returned == 0 or self._recipe.foreground):
                return minor
            if returned:
                break
            time.sleep(0.02)
        raise BenchError(f"not mounted: {self._log_end()}")

    def _log_end(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "no reason given"

    def run(self, command: Sequence[str], limit_s: float) -> str:
        """Return what *command* prints; aborts the mount and raises BenchError when it fails or hangs."""
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            output, errors = process.communicate(timeout=limit_s)
        except BaseException as reason:
            self.abort()
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=_STOP_S)
            if isinstance(reason, subprocess.TimeoutExpired):
                raise BenchError(f"hung: no end after {limit_s:.0f} s") from None
            raise
        if process.returncode:
            raise BenchError(f"failed with {process.returncode}: {errors.strip().rpartition(chr(10))[2]}")
        return output

    def abort(self) -> None:
        """Make every call on this mount fail at once."""
        with contextlib.suppress(OSError):
            Path(f"/sys/fs/fuse/connections/{self._connection}/abort").write_text("1")

    def pids(self) -> list[int]:
        """Return the processes of this system."""
        return list(_marked(self._session))

    def reset_peak(self) -> None:
        """Let the peak memory of the processes count from now (proc(5), clear_refs)."""
        for pid in self.pids():
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak_bytes(self) -> int:
        """Return the sum of the peak resident sizes (VmHWM) since the last reset."""
        return sum(_peak_bytes(pid) for pid in self.pids())

    def cpu_s(self) -> float:
        """Return the processor seconds the processes have used until now."""
        return sum(_cpu_s(pid) for pid in self.pids())

    def close(self) -> None:
        """Unmount and end the processes; by force after a while."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(self._recipe.umount, timeout=_STOP_S, capture_output=True, check=False)
        if fuse_minor(self._point) is not None:
            self._connection = fuse_minor(self._point) or 0
            self.abort()
            subprocess.run(["umount", "-l", str(self._point)], timeout=_STOP_S, capture_output=True, check=False)
        deadline = time.monotonic() + _STOP_S
        while (left := self.pids()) and time.monotonic() < deadline:
            self._starter.poll()
            time.sleep(0.05)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._starter.wait(timeout=_STOP_S)


def fuse_minor(point: Path) -> int | None:
    """Return the minor device number of the FUSE file system mounted on *point*, None when there is none."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        _, _, device, _, mounted, *_ = before.split()
        if mounted == str(point) and after.startswith("fuse"):
            return int(device.partition(":")[2])
    return None


def _marked(session: str) -> Iterator[int]:
    needle = f"{_MARKER}={session}".encode()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                status = Path(entry.path, "stat").read_text().rpartition(")")[2].split()[0]
                if status != "Z" and needle in Path(entry.path, "environ").read_bytes().split(b"\0"):
                    yield int(entry.name)


def _peak_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()):
            return int(found[1]) * 1024
    return 0


def _cpu_s(pid: int) -> float:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    return 0.0


def emptied(directory: Path) -> Path:
    """Return *directory*, made anew."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def drop_page_cache() -> None:
    """Write back and forget what the kernel caches; raises BenchError where that is not allowed."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError as problem:
        raise BenchError(f"the page cache cannot be dropped: {problem.strerror}") from problem


def touch_memory(amount_bytes: int) -> None:
    """Touch and free *amount_bytes*, so that the kernel has pages at hand that are really there.

    A virtual machine that reports its free pages gives them back to the host; the first touch of such a
    page then costs up to 5 s per GiB (measured 2026-11-20), which would fall on whoever reads first.
    """
    if amount_bytes:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
        mmap.mmap(-1, amount_bytes, flags=flags).close()
