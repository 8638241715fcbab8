"""Which processes serve a mount: its keeper, and the server or servers the keeper has started.

A keeper or server that hangs says nothing, and of one that has died only the other may be left, so they are
found by their command lines, which name the mount point and hold no secrets. Only processes of this user
count: a command line may claim anything.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

PROC = Path("/proc")

KEEPER_MODULE = "mountd.keeper"
_SERVER_MODULE = "mountd"


@dataclass(frozen=True, slots=True)
class Daemons:
    """The processes of one mount, by pid; a server from before there were keepers has none."""

    keepers: tuple[int, ...] = ()
    servers: tuple[int, ...] = ()

    @property
    def all(self) -> tuple[int, ...]:
        """Every one of them, keepers first, so that who ends them in this order gets no new server."""
        return self.keepers + self.servers

    @property
    def heads(self) -> tuple[int, ...]:
        """Whom to tell to end: the keeper, which ends its server; without one, the server."""
        return self.keepers or self.servers


def daemons_of(point: Path) -> Daemons:
    """Return the running processes of the mount on the canonical path *point*; asks /proc only."""
    keepers: set[int] = set()
    servers: set[int] = set()
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (module := _module_serving(entry, str(point))):
            (keepers if module == KEEPER_MODULE else servers).add(int(entry.name))
    # A child of the keeper with its command line only looks whether the mount answers.
    keepers = {pid for pid in keepers - servers if _parent(pid) not in keepers}
    return Daemons(tuple(sorted(keepers)), tuple(sorted(servers)))


def command_line(pid: int) -> list[str]:
    """Return the arguments of the process *pid*, program first; empty where it has ended or is not ours to see."""
    return _strings(PROC / str(pid) / "cmdline")


def environ_of(pid: int) -> dict[str, str]:
    """Return the environment the process *pid* was started with; empty as for `command_line`. May hold secrets."""
    pairs = (entry.partition("=") for entry in _strings(PROC / str(pid) / "environ"))
    return {name: value for name, _, value in pairs}


def is_running(pid: int) -> bool:
    """Say whether *pid* is a process that has not ended; one that waits for its parent (a zombie) has."""
    return _stat(pid)[0] not in ("Z", "X")


def send(number: signal.Signals, pids: Iterable[int]) -> None:
    """Send the signal *number* to *pids*; those that have ended are left out."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _module_serving(process: Path, point: str) -> str:
    """Return which of our modules *process* runs for the mount *point*; "" for any other process."""
    try:
        if process.stat().st_uid != os.geteuid():
            return ""
    except OSError:  # it has ended
        return ""
    arguments = _strings(process / "cmdline")
    pairs = set(pairwise(arguments))
    if ("--point", point) not in pairs or not is_running(int(process.name)):
        return ""
    if ("-m", KEEPER_MODULE) in pairs:
        return KEEPER_MODULE
    return _SERVER_MODULE if ("-m", _SERVER_MODULE) in pairs else ""


def _parent(pid: int) -> int:
    return int(_stat(pid)[1])


def _stat(pid: int) -> list[str]:
    """Return the fields of proc_pid_stat(5) behind the name: state, parent, ...; as if dead when it is gone."""
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ["X", "0"]
    return text.rpartition(")")[2].split()


def _strings(file: Path) -> list[str]:
    """Return the strings of *file*, each of which ends with a NUL; none where it cannot be read."""
    try:
        content = file.read_bytes()
    except OSError:
        return []
    return [os.fsdecode(piece) for piece in content.split(b"\0")[:-1]]
