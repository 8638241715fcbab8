"""The cache directory as a place: who owns it, what room its file system has, and which objects lie in it.

Layout: `DIR/lock` (an exclusive flock as long as a process uses the directory; its text is that process's id) and
`DIR/v1/x/y/NAME.{bytes,map}` (`mountd.blockfile`). A directory `v<n>` of another format version is removed when
the directory is claimed; whatever else lies in DIR is left alone. Everything here blocks.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from aliasfs.errors import MountError
from mountd.blockfile import FORMAT_VERSION, PAGE_BYTES, round_up

log = logging.getLogger(__name__)

_OBJECT_NAME = re.compile(r"([0-9a-f]{40})\.(bytes|map)")
_VERSION_NAME = re.compile(r"v[0-9]+")
_HEX = "0123456789abcdef"


class Found(NamedTuple):
    """One object that lies in the directory: its last use in ns since the epoch, its digest, its size on disk."""

    used_ns: int
    digest: bytes
    allocated_bytes: int


class CacheDirectory:
    """A directory that is, or is to be, ours alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.objects = path / f"v{FORMAT_VERSION}"
        self._lock_fd: int | None = None

    def claim(self) -> None:
        """Create the directory (mode 0700) where needed and lock it for this process.

        Raises MountError when another process holds it, OSError when it cannot be made or written.
        """
        self.release()
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise MountError(
                f"the cache directory {self.path} is in use by process {holder}: give this mount a directory of its "
                "own (cache: dir) or stop the other one"
            ) from None
        except OSError:
            os.close(fd)
            raise
        self._lock_fd = fd
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self.objects.mkdir(mode=0o700, exist_ok=True)
        self._remove_foreign_versions()

    def _remove_foreign_versions(self) -> None:
        """Remove what other format versions left: it can never be read and would count for nobody."""
        for entry in os.scandir(self.path):
            if entry.name != self.objects.name and _VERSION_NAME.fullmatch(entry.name):
                log.info("removing %s: a cache of another format version", entry.path)
                shutil.rmtree(entry.path, ignore_errors=True)

    def release(self) -> None:
        """Give the directory back; safe to call twice."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def is_ours(self) -> bool:
        """Say whether the directory that is found at the path now is the one that was claimed."""
        if self._lock_fd is None:
            return False
        try:
            found = os.stat(self.path / "lock")
        except OSError:
            return False
        held = os.fstat(self._lock_fd)
        return (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)

    def free_bytes(self) -> int:
        """Return the room that the file system has for us."""
        room = os.statvfs(self.path)
        return room.f_bavail * room.f_frsize

    def walk(self) -> Iterator[list[Found]]:
        """Yield the objects of one of the 256 directories after the other; orphans are removed on the way."""
        for first in _HEX:
            for second in _HEX:
                yield self._objects_in(self.objects / first / second)

    def _objects_in(self, folder: Path) -> list[Found]:
        """Return the whole pairs of files in *folder*; a file without its other half is removed."""
        halves: dict[str, dict[str, os.stat_result]] = {}
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    match = _OBJECT_NAME.fullmatch(entry.name)
                    if match:
                        halves.setdefault(match[1], {})[match[2]] = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return []
        found = []
        for name, stats in halves.items():
            if len(stats) == 2:
                allocated = sum(round_up(512 * stat.st_blocks, PAGE_BYTES) for stat in stats.values())
                found.append(Found(stats["map"].st_mtime_ns, bytes.fromhex(name), allocated))
            else:
                for half in stats:
                    with suppress(FileNotFoundError):
                        (folder / f"{name}.{half}").unlink()
        return found
