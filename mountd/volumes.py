"""One alias as it is mounted, and how the things in it look to stat(2).

Relies on a store, on a `Catalog` for its names and a `Content` for its bytes. Invariant: a retired volume is
never served from again; a name that is mounted anew is a new volume, with new inodes.
"""

from __future__ import annotations

import math
import stat
import time
from dataclasses import dataclass
from typing import NamedTuple

import trio

from aliasfs.registry import Alias
from aliasfs.store.base import Content, Kind, ObjectId, ObjectInfo, Store, directory_info
from mountd.catalog import Catalog
from mountd.inodes import InodeNo

FOREVER = math.inf
FOREVER_S = 86400.0
"""Validity told to the kernel for what cannot change, the attributes of one version: a day."""

TYPE_BITS = {Kind.FILE: stat.S_IFREG, Kind.DIRECTORY: stat.S_IFDIR, Kind.SYMLINK: stat.S_IFLNK}


class Volume:
    """One alias as it is mounted now: its store, what is known of it, and the way to its bytes.

    *hidden_key* is where the mount itself lies within a local alias, which must not be entered: each request
    would wait for another one. *record* is the volume's number in what is written down for the next server.
    """

    def __init__(
        self, alias: Alias, store: Store, content: Content, catalog: Catalog, *, hidden_key: str | None = None
    ) -> None:
        self.alias = alias
        self.store = store
        self.content = content
        self.catalog = catalog
        self.hidden_key = hidden_key
        self.root_info = directory_info("")
        self.attached_ns = time.time_ns()
        self.retired = False
        self.record = 0

    def object_id(self, info: ObjectInfo) -> ObjectId:
        """Return the name under which the bytes of *info* are read and cached."""
        return ObjectId(self.store.target, info.key, info.etag, info.size)

    async def aclose(self) -> None:
        """Stop serving: reads of inodes that are left answer StaleObject."""
        self.retired = True
        await self.catalog.aclose()
        await self.store.aclose()


@dataclass(frozen=True)
class VfsSettings:
    """How things look that a store says nothing about."""

    uid: int
    gid: int
    file_mode: int = 0o444
    dir_mode: int = 0o555
    root_ttl_s: float = 60.0
    """Validity of the root's entries; the kernel is told when one vanishes, so this may be long."""


class Attr(NamedTuple):
    """What stat(2) shows: *mode* with its type bits, *size* in bytes, times in ns since the epoch."""

    number: InodeNo
    mode: int
    size: int
    mtime_ns: int
    uid: int
    gid: int
    valid_s: float


class Entry(NamedTuple):
    """An attr and for how many seconds its name stands for it."""

    attr: Attr
    name_valid_s: float


def attr_of(number: InodeNo, info: ObjectInfo, expires_at: float, volume: Volume, settings: VfsSettings) -> Attr:
    """Return how *info* looks; its attributes may be trusted until *expires_at* in trio's time.

    A local file shows its own owner and permission bits, so that the kernel grants through the mount what
    it would grant beside it. A local root that has not been looked at yet shows nobody but the daemon's
    user in, and no validity, so that the kernel asks before it decides.
    """
    uid, gid = settings.uid, settings.gid
    if info.local is not None:
        mode = TYPE_BITS[info.kind] | stat.S_IMODE(info.local.mode)
        valid_s = max(0.0, expires_at - trio.current_time())
        return Attr(number, mode, info.size, info.mtime_ns, info.local.uid, info.local.gid, valid_s)
    if info.kind is Kind.FILE:
        return Attr(number, stat.S_IFREG | settings.file_mode, info.size, info.mtime_ns, uid, gid, FOREVER_S)
    if volume.alias.is_local:
        return Attr(number, stat.S_IFDIR | 0o500, 0, volume.attached_ns, uid, gid, 0.0)
    if info.kind is Kind.SYMLINK:
        return Attr(number, stat.S_IFLNK | 0o777, info.size, info.mtime_ns, uid, gid, volume.alias.ttl_s)
    mode = stat.S_IFDIR | settings.dir_mode
    return Attr(number, mode, 0, info.mtime_ns or volume.attached_ns, uid, gid, volume.alias.ttl_s)
