"""Which processes keep a mount busy, from the links in /proc alone: nothing below the mount is touched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that uses something below a mount point, and one example of what."""

    pid: int
    command: str
    use: str

    def __str__(self) -> str:
        return f"{self.command} (pid {self.pid}, {self.use})"


def holders(point: Path, proc: Path = PROC) -> list[Holder]:
    """Return the processes that hold something at or below *point*, as far as this user may look."""
    found = []
    for entry in sorted(proc.iterdir(), key=lambda entry: entry.name):
        if not entry.name.isdigit():
            continue
        use = next((use for use, path in _uses(entry) if path == str(point) or path.startswith(f"{point}/")), None)
        if use is not None:
            found.append(Holder(int(entry.name), _command(entry), use))
    return found


def _uses(process: Path) -> Iterator[tuple[str, str]]:
    for link, use in (("cwd", "working directory"), ("root", "root directory"), ("exe", "program")):
        if target := _readlink(process / link):
            yield f"{use} {target}", target
    try:
        descriptors = list((process / "fd").iterdir())
    except OSError:  # it has ended, or belongs to somebody else
        descriptors = []
    for descriptor in descriptors:
        if target := _readlink(descriptor):
            yield f"open file {target}", target
    for line in _read(process / "maps").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].startswith("/"):
            yield f"mapped file {fields[5]}", fields[5]


def _command(process: Path) -> str:
    return _read(process / "comm").strip() or "a process"


def _readlink(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:  # as in _uses
        return ""


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:  # as in _uses
        return ""
