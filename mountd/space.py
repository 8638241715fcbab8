"""Room in the cache directory: it is charged before anything is written, and made by removing what is oldest.

Relies on `mountd.objecttable` for what may go. `changes` is the lock of whoever writes, evicts or drops, held over
its I/O; every method wants it held. Invariants: the budget and the floor of free space hold
before, while and after something is written; what could not be removed stays charged. Blocks; raises OSError.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from contextlib import suppress

from mountd.blockfile import BadHeader, paths_in
from mountd.cachedir import CacheDirectory
from mountd.ledger import WHOLE, Entry, Victim
from mountd.objecttable import ObjectTable

ROOM_CHECK_S = 0.1
"""statvfs(2) is asked at most this often; in between, all that was written counts against its last answer."""

_LONG_AGO = float("-inf")


class Space:
    """The room that one cache directory has left, by its budget and by its file system.

    *free_bytes* and *min_free_bytes* are what the file system had when it was asked last, and the floor then.
    """

    def __init__(
        self,
        table: ObjectTable,
        directory: CacheDirectory,
        min_free_bytes: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        self.changes = threading.RLock()
        self.evicted_bytes = 0
        self._table = table
        self._directory = directory
        self._clock = clock
        self.min_free_bytes = self.free_bytes = 0
        self._floor = min_free_bytes
        self._room_bytes, self._room_until = 0, _LONG_AGO

    def look_again(self) -> None:
        """Have the file system asked before the next charge."""
        self._room_until = _LONG_AGO

    def make(self, need: int) -> bool:
        """Charge *need* bytes, after evicting what has to go for them; False when that is not enough.

        Raises FileNotFoundError when the directory at the path is no longer ours.
        """
        while True:
            if self._has_room(need):
                with self._table.lock:
                    if self._table.ledger.try_charge(need):
                        self._room_bytes -= need
                        return True
            if not self.evict_one():
                return False

    def _has_room(self, need: int) -> bool:
        """Say whether the file system has *need* bytes and the floor besides."""
        now = self._clock()
        if now >= self._room_until:
            if not self._directory.is_ours():
                raise FileNotFoundError(errno.ENOENT, "the directory has been removed or replaced")
            self.free_bytes, self.min_free_bytes = self._directory.free_bytes(), self._floor()
            self._room_bytes = self.free_bytes - self.min_free_bytes
            self._room_until = now + ROOM_CHECK_S
        return need <= self._room_bytes

    def evict_one(self) -> bool:
        """Remove what was used longest ago, a segment or a whole object; False when nothing can go."""
        victim = self._table.take_victim()
        if victim is None:
            return False
        self.evicted_bytes += self._remove(victim)
        self.look_again()
        return True

    def remove_object(self, digest: bytes) -> int:
        """Remove both files of *digest* unless they are in use; return the bytes freed."""
        victim = self._table.take_object(digest)
        return self._remove(victim) if victim else 0

    def _remove(self, victim: Victim) -> int:
        """Take *victim* off the disk and out of the account; return the bytes freed."""
        if victim.segment == WHOLE:
            bytes_path, map_path = paths_in(self._directory.objects, victim.digest)
            for path in (map_path, bytes_path):
                with suppress(FileNotFoundError):
                    path.unlink()
        elif not self._punch(victim):
            return 0
        with self._table.lock:
            self._table.ledger.gone(victim)
        return victim.freed_bytes

    def _punch(self, victim: Victim) -> bool:
        """Punch the segment of *victim* out; False when its space comes back only with the whole object.

        That is so on file systems without holes, and where files were replaced under our feet.
        """
        assert victim.entry is not None
        try:
            with self._table.files_of(victim.entry) as files:
                files.punch_segment(victim.segment)
        except BadHeader:
            pass
        except OSError as exc:
            if exc.errno not in (errno.EOPNOTSUPP, errno.ENOENT):
                raise
        else:
            return True
        with self._table.lock:
            victim.entry.surplus += victim.freed_bytes
        return False

    def drop_block(self, entry: Entry, block: int) -> None:
        """Take one block off the disk."""
        with self._table.files_of(entry) as files:
            files.forget_block(block)
        with self._table.lock:
            self._table.ledger.dropped(entry, block)
