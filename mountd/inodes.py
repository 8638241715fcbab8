"""The table of inodes: which number stands for what, for as long as the kernel remembers it.

Relies on nothing but its own dicts; all methods are synchronous, so each is atomic under trio. Invariants:

- on object stores a number stands for one *version* (volume, key, etag, size), so a page the kernel keeps
  under a number can never be stale; on local volumes it stands for one file (device, inode number, handle);
- an inode leaves the table when the kernel has forgotten it (its lookup count is 0), never earlier;
- numbers are never used twice in the life of a table, nor one of an earlier table whose numbers were lower.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, NewType, TypeVar

from aliasfs.errors import StaleObject
from aliasfs.store.base import Kind, ObjectInfo

InodeNo = NewType("InodeNo", int)
ROOT_INODE = InodeNo(1)

V = TypeVar("V", bound=Hashable)


@dataclass(slots=True, eq=False)
class Inode(Generic[V]):
    """One thing the kernel may know by number.

    *volume* is None for the root of the mount alone. *info* may be trusted until *expires_at*, in trio's
    time. *lookups* is the kernel's count. *stale* is set when the store was seen to hold another version:
    an open then answers ESTALE, upon which the kernel looks the path up again. *unseen* is a local file that was
    taken over from an earlier server: its *info* is how it was, and says nothing until it is looked at. *recorded*
    is for whoever writes down what the kernel knows: whether that has been done, and holds for this *info*.
    """

    number: InodeNo
    volume: V | None
    info: ObjectInfo
    expires_at: float = 0.0
    lookups: int = 0
    stale: bool = False
    unseen: bool = False
    recorded: bool = False


class InodeTable(Generic[V]):
    """Inodes by number and by identity; new numbers are counted from *first_number* on."""

    def __init__(self, root: ObjectInfo, first_number: int = ROOT_INODE + 1) -> None:
        self._numbers = itertools.count(first_number)
        self.root: Inode[V] = Inode(ROOT_INODE, None, root, lookups=1)
        self._by_number: dict[int, Inode[V]] = {ROOT_INODE: self.root}
        self._by_identity: dict[Hashable, Inode[V]] = {}

    def __len__(self) -> int:
        return len(self._by_number)

    def __contains__(self, number: object) -> bool:
        return number in self._by_number

    def get(self, number: int) -> Inode[V]:
        """Return the inode *number*; StaleObject when the table does not know it."""
        try:
            return self._by_number[number]
        except KeyError:
            raise StaleObject(f"inode {number} is not known any more; open the file again") from None

    def intern(self, volume: V, info: ObjectInfo, expires_at: float) -> Inode[V]:
        """Return the inode for *info* in *volume*: the one that stands for it already, or a new one.

        The lookup count stays as it is: call `count_lookup` when the kernel was told, or `drop_unused`.
        A local file keeps its number when it is renamed or changed, and takes the newer *info*.
        """
        identity = _identity(volume, info)
        inode = self._by_identity.get(identity)
        if inode is None:
            inode = Inode(InodeNo(next(self._numbers)), volume, info, expires_at)
            self._by_identity[identity] = self._by_number[inode.number] = inode
        elif expires_at >= inode.expires_at:
            old = inode.info
            inode.recorded = inode.recorded and old.key == info.key and old.mtime_ns == info.mtime_ns
            inode.info = info
            inode.expires_at = expires_at
            inode.stale = inode.unseen = False
        return inode

    def restore(self, number: int, volume: V, info: ObjectInfo, lookups: int) -> None:
        """Take over an inode that the kernel was told of by an earlier server, *lookups* times."""
        unseen = info.local is not None
        inode = Inode(InodeNo(number), volume, info, -math.inf, lookups, unseen=unseen, recorded=True)
        self._by_identity[_identity(volume, info)] = self._by_number[number] = inode

    def in_slices(self, length: int) -> Iterator[Sequence[Inode[V]]]:
        """Yield the inodes but the root, *length* numbers at a time; the table may change between two slices."""
        numbers = list(self._by_number)
        for start in range(0, len(numbers), length):
            slice_ = map(self._by_number.get, numbers[start : start + length])
            yield [inode for inode in slice_ if inode is not None and inode.number != ROOT_INODE]

    def expire(self, volume: V) -> None:
        """Trust no longer what is known of the inodes of *volume*."""
        for inode in self._by_number.values():
            if inode.volume is volume:
                inode.expires_at = 0.0

    def count_lookup(self, inode: Inode[V]) -> None:
        """Note that the kernel has been told of *inode* once more."""
        inode.lookups += 1

    def drop_unused(self, inode: Inode[V]) -> None:
        """Drop *inode* if the kernel was never told of it."""
        if inode.lookups <= 0 and inode.number != ROOT_INODE:
            self._by_number.pop(inode.number, None)
            identity = _identity(inode.volume, inode.info)
            if self._by_identity.get(identity) is inode:
                del self._by_identity[identity]

    def forget(self, counts: Iterable[tuple[int, int]]) -> None:
        """Take *counts* of (number, lookups) back; what the kernel no longer knows is dropped. Never raises."""
        for number, count in counts:
            inode = self._by_number.get(number)
            if inode is not None:
                inode.lookups -= count
                self.drop_unused(inode)


def is_same_file(old: ObjectInfo, new: ObjectInfo) -> bool:
    """Say whether two infos are of one local file, which may have been written to or renamed."""
    if old.local is None or new.local is None or old.kind is not new.kind:
        return False
    return old.local.identity == new.local.identity


def _identity(volume: object, info: ObjectInfo) -> Hashable:
    if not info.key:
        return volume
    if info.local is not None:
        return (volume, info.local.identity, info.kind)
    if info.kind is Kind.FILE:
        return (volume, info.key, info.etag, info.size)
    return (volume, info.key, info.kind)
