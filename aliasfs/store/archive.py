"""An archive (zip, tar, ...) on any fsspec file system as a tree of files.

The version of a member is that of the archive and what the archive says of it. The archive itself is
looked at for every answer: one that was replaced is opened anew by the owner of the tree.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from aliasfs.errors import NotFound
from aliasfs.store.tree import FileTree

OPEN_MEMBERS = 32
"""Members kept open, each where its last read stopped: to go back in a compressed member is to begin anew."""


class ArchiveTree(FileTree):
    """The members of the archive file system *fs*, which lies in *base* as the file of the key ""."""

    def __init__(self, fs: Any, root: str, base: FileTree) -> None:
        super().__init__(fs, root, lower_version=_version(base))
        self._base = base
        self._lock = threading.Lock()
        self._members: OrderedDict[tuple[str, int], Any] = OrderedDict()

    def is_current(self) -> bool:
        try:
            return _version(self._base) == self._lower_version
        except (FileNotFoundError, NotFound):
            return False

    def read(self, key: str, start: int, stop: int) -> bytes:
        member = self._take(key, start)
        if member is None:
            member = self._fs.open(self._path(key), mode="rb")
        member.seek(start)
        pieces = []
        while start < stop and (piece := member.read(stop - start)):
            pieces.append(piece)
            start += len(piece)
        self._give_back(key, start, member)
        return b"".join(pieces)

    def _take(self, key: str, start: int) -> Any:
        """Return an open file that stands at or before *start* in the member *key*, taken out of the others."""
        with self._lock:
            positions = [position for name, position in self._members if name == key and position <= start]
            return self._members.pop((key, max(positions))) if positions else None

    def _give_back(self, key: str, position: int, member: Any) -> None:
        with self._lock:
            surplus = [self._members.pop((key, position), None)]
            self._members[key, position] = member
            if len(self._members) > OPEN_MEMBERS:
                surplus.append(self._members.popitem(last=False)[1])
        for other in surplus:
            if other is not None:
                other.close()

    def close(self) -> None:
        with self._lock:
            members = list(self._members.values())
            self._members.clear()
        for member in members:
            member.close()


def _version(base: FileTree) -> str:
    return base.info("").etag
