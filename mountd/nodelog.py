"""The file in which one server writes down what the kernel knows, for the next server to go on from.

Relies on one writer at a time (the keeper starts a server when the one before it is gone) and on the page cache, which
outlives a process that is killed; nothing is synced, as no kernel outlives the machine. Invariants:

- a request is one line, written by one call before the reply that reveals what it says;
- a line that could not be written whole is cut off again, so that it never hides the next one;
- a file that cannot be written costs the next server's knowledge, never this server's service;
- a new file takes the place of the old one whole (rename), when it says all that the old one says.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mountd.noderecords import Record, Remembered, header, line_of

log = logging.getLogger(__name__)

MIN_COMPACTED_BYTES = 1 << 20
"""A smaller file is left alone: reading it takes milliseconds."""

NODE_BYTES = 200
"""What a node takes in the file, until the first compaction has measured it."""

NUMBER_BITS = 40
"""Node numbers are `generation << 40 | counter`: a trillion per server, and 8 million servers in 63 bits."""


class NodeLog:
    """The file while it is written to; `open` makes one. Nothing but `open` and `close` blocks."""

    def __init__(self, path: Path, session: str, remembered: Remembered, first_number: int) -> None:
        self.first_number = first_number
        self._path = path
        self._session = session
        self._remembered = remembered
        self._file: _LogFile | None = None
        self._copy: _LogFile | None = None
        self._said_it_fails = False
        self._node_bytes = NODE_BYTES

    @classmethod
    def open(cls, path: Path, session: str, generation: int) -> NodeLog:
        """Return the table at *path*, begun anew where it is not of this *session*; blocking, never raises.

        *generation* is the number of this server, counted from 0; numbers of nodes begin anew with each.
        """
        remembered, size = _read(path, session)
        first_number = max((generation << NUMBER_BITS) + 2, remembered.next_number)  # 1 is the root
        table = cls(path, session, remembered, first_number)
        try:
            if size:
                table._file = _LogFile.append_to(path, size)
            else:
                remembered.started_ns = time.time_ns()
                table.begin_copy()
                table.finish_copy()
        except OSError as exc:
            table._complain(exc)
        return table

    @property
    def size(self) -> int:
        """Size of the file in bytes; 0 while it cannot be written."""
        return self._file.size if self._file is not None else 0

    @property
    def started_ns(self) -> int:
        """When the first server of the session started, in ns since the epoch."""
        return self._remembered.started_ns

    def take_over(self) -> Remembered:
        """Return what the servers before this one wrote down; only the first call is told."""
        remembered = self._remembered
        self._remembered = Remembered(started_ns=remembered.started_ns)
        return remembered

    def append(self, record: Record) -> None:
        """Write *record* down; never raises."""
        if self._file is None and self._copy is None:
            return
        line = line_of(record)
        if self._file is not None:
            try:
                self._file.write(line)
            except OSError as exc:
                self._file.close()
                self._file = None
                self._complain(exc)
        self._write_copy(line)

    # compaction

    def is_overgrown(self, nodes: int) -> bool:
        """Say whether the file should be written anew: it takes over twice what *nodes* need, or failed."""
        return self._file is None or self._file.size > max(MIN_COMPACTED_BYTES, 2 * nodes * self._node_bytes)

    def begin_copy(self) -> None:
        """Begin a new file, which from now on is told all that the old one is told. Never raises."""
        self.abandon_copy()
        try:
            self._copy = _LogFile.create(self._path.with_name(f"{self._path.name}.new"))
        except OSError as exc:
            self._complain(exc)
        self.append_to_copy(header(self._session, self.started_ns))

    def append_to_copy(self, record: Record) -> None:
        """Write down in the new file alone what the old one says already. Never raises."""
        if self._copy is not None:
            self._write_copy(line_of(record))

    def _write_copy(self, line: bytes) -> None:
        if self._copy is not None:
            try:
                self._copy.write(line)
            except OSError as exc:
                self.abandon_copy()
                self._complain(exc)

    def finish_copy(self, nodes: int = 0) -> bool:
        """Put the new file, of so many *nodes*, in the place of the old one; say whether it is. Never raises."""
        copy = self._copy
        if copy is None:
            return False
        try:
            copy.path.rename(self._path)
        except OSError as exc:
            self.abandon_copy()
            self._complain(exc)
            return False
        self._copy = None
        if self._file is not None:
            self._file.close()
        self._file = copy
        self._node_bytes = max(NODE_BYTES, copy.size // max(nodes, 1))
        if self._said_it_fails:
            self._said_it_fails = False
            log.info("%s is written again: a crash of the server costs no open file any more", self._path)
        return True

    def abandon_copy(self) -> None:
        """Give up a new file that was begun."""
        if self._copy is not None:
            self._copy.close()
            with contextlib.suppress(OSError):
                self._copy.path.unlink()
            self._copy = None

    def _complain(self, error: OSError) -> None:
        if not self._said_it_fails:
            self._said_it_fails = True
            log.error(
                "%s cannot be written (%s): the mount goes on, but should its server crash now, "
                "open files would answer ESTALE; make room there, it is tried again by itself",
                self._path,
                error.strerror or error,
            )

    def close(self) -> None:
        """Close the file; it stays where it is, for the next server."""
        self.abandon_copy()
        if self._file is not None:
            self._file.close()
            self._file = None


class _LogFile:
    """A file that lines are added to; *size* in bytes ends with the last whole line."""

    def __init__(self, path: Path, fd: int, size: int) -> None:
        self.path = path
        self.size = size
        self._fd = fd

    @classmethod
    def append_to(cls, path: Path, size: int) -> _LogFile:
        """Open *path* to go on after its first *size* bytes."""
        os.truncate(path, size)
        return cls(path, os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC), size)

    @classmethod
    def create(cls, path: Path) -> _LogFile:
        """Open *path* as a new, empty file that only its owner may read."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        return cls(path, os.open(path, flags, 0o600), 0)

    def write(self, line: bytes) -> None:
        """Add *line* whole; raises OSError when that cannot be done, and then nothing may be added any more."""
        written = os.write(self._fd, line)
        if written < len(line):
            os.ftruncate(self._fd, self.size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size += written

    def close(self) -> None:
        os.close(self._fd)


def _read(path: Path, session: str) -> tuple[Remembered, int]:
    """Return what the file at *path* says, and the bytes up to the end of its last whole line; 0 when it is no use."""
    whole = _Whole()
    try:
        with path.open("rb") as file:
            remembered = Remembered.of(whole.lines(file), session)
    except FileNotFoundError:
        return Remembered(), 0
    except (OSError, ValueError, TypeError, LookupError) as exc:
        log.warning("%s cannot be read (%s): what was open answers ESTALE", path, exc)
        return Remembered(), 0
    if remembered is None:
        log.info("%s is not of this mount's session or version, and is begun anew", path)
        return Remembered(), 0
    if remembered.damaged:
        log.warning("%s: %d lines are damaged; what they said answers ESTALE", path, remembered.damaged)
    return remembered, whole.bytes


class _Whole:
    """Counts the bytes of whole lines while they are read."""

    def __init__(self) -> None:
        self.bytes = 0

    def lines(self, file: IO[bytes]) -> Iterator[bytes]:
        for line in file:
            if not line.endswith(b"\n"):
                return
            self.bytes += len(line)
            yield line
