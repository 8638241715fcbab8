"""The file system: names, inodes, open files and reads, for whichever door asks.

Relies on a `Catalog` per alias for names and a `Content` per alias for bytes; knows neither the kernel nor
HTTP. Invariants:

- a handle is the number of its inode, so nothing depends on open or release being delivered;
- one inode of an object store is one version: a read returns its bytes or StaleObject, never a mix;
- the root is answered from memory alone, so no alias can slow it down.
"""

from __future__ import annotations

import itertools
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, NewType

import trio
from cachetools import LRUCache
from typing_extensions import Buffer

from aliasfs.errors import (
    AliasfsError,
    CorruptObject,
    InvalidName,
    IsADirectory,
    NameTooLong,
    NoAttribute,
    NotADirectory,
    NotALink,
    NotFound,
    NotSupported,
    ReadOnly,
    StaleObject,
)
from aliasfs.extents import Extent
from aliasfs.registry import Alias, Registry
from aliasfs.store.base import Kind, ObjectId, ObjectInfo, directory_info
from mountd.catalog import Known, Listing
from mountd.inodes import Inode, InodeNo, InodeTable
from mountd.readahead import ReadAhead
from mountd.volumes import FOREVER, Attr, Entry, VfsSettings, Volume, attr_of

HandleNo = NewType("HandleNo", int)
"""Number of an open file or directory: that of its inode."""

NAME_MAX = 255
MAX_SNAPSHOTS = 256
"""Directory listings kept for readers between two calls of readdir."""

NOTHING = Known(None, 0.0, 0.0)

LOCAL_REREADS = 3
"""Attempts to read a local file that is being written to while we look."""


class DirEntry(NamedTuple):
    """One line of a listing; *cookie* is where to go on after it."""

    name: bytes
    inode: Inode[Volume]
    name_valid_s: float
    cookie: int


@dataclass(frozen=True)
class VfsStatistics:
    """How much the kernel knows of, and what it has been given."""

    inodes: int
    bytes_read: int


class Vfs:
    """One mounted tree; each top-level directory is an alias."""

    def __init__(self, open_volume: Callable[[Alias], Volume], settings: VfsSettings) -> None:
        self._open_volume = open_volume
        self._settings = settings
        self._started_ns = time.time_ns()
        self._root_mode = stat.S_IFDIR | settings.dir_mode
        self._registry = Registry()
        self._volumes: dict[str, Volume] = {}
        self._inodes: InodeTable[Volume] = InodeTable(directory_info(""))
        self._snapshots: LRUCache[tuple[int, int], Listing | tuple[str, ...]] = LRUCache(MAX_SNAPSHOTS)
        self._generations = itertools.count(1)
        self._bytes_read = 0

    @property
    def volumes(self) -> dict[str, Volume]:
        """The aliases that are mounted, by name."""
        return self._volumes

    def statistics(self) -> VfsStatistics:
        """Return the counts so far."""
        return VfsStatistics(len(self._inodes), self._bytes_read)

    async def refresh(self, registry: Registry) -> list[str]:
        """Mount what *registry* says; return the names in the root that the kernel must be told to drop.

        Raises ConfigError when an alias cannot be opened, and then nothing has changed.
        """
        changes = self._registry.changes_to(registry)
        opened: dict[str, Volume] = {}
        try:
            for name in changes.added | changes.retargeted:
                opened[name] = self._open_volume(registry[name])
        except AliasfsError:
            for volume in opened.values():
                await volume.aclose()
            raise
        closing = [self._volumes[name] for name in changes.removed | changes.retargeted]
        self._registry = registry
        for name in changes.adjusted:
            self._volumes[name].alias = registry[name]
            self._volumes[name].catalog.set_ttl(registry[name].ttl_s)
            self._inodes.expire(self._volumes[name])
        volumes = self._volumes | opened
        self._volumes = {name: volumes[name] for name in registry}
        for volume in closing:
            await volume.aclose()
        return sorted(changes.removed | changes.retargeted | changes.adjusted)

    async def aclose(self) -> None:
        """Retire every alias."""
        await self.refresh(Registry())

    # names

    async def lookup(self, parent: InodeNo, name: bytes) -> Entry:
        """Return the entry *name* of the directory *parent*; its lookup count rises by one.

        Raises NotFound, NameTooLong, NotADirectory, or what the store raises.
        """
        if len(name) > NAME_MAX:
            raise NameTooLong(f"a name of {len(name)} bytes is longer than the {NAME_MAX} that Linux allows")
        directory = self._inodes.get(parent)
        if directory.volume is None:
            inode, valid_s = await self._lookup_alias(os.fsdecode(name))
        else:
            inode, valid_s = await self._lookup_key(directory.volume, directory.info, os.fsdecode(name))
        self._inodes.count_lookup(inode)
        return Entry(self.attr(inode), valid_s)

    async def _lookup_alias(self, name: str) -> tuple[Inode[Volume], float]:
        volume = self._volumes.get(name)
        if volume is None:
            raise NotFound(f"no alias is named {name}")
        if not volume.alias.is_local:
            return self._inodes.intern(volume, volume.root_info, FOREVER), self._settings.root_ttl_s
        known = await volume.catalog.stat("")
        if known.info is None:
            raise NotFound(f"{name}: {volume.alias.url} does not exist")
        volume.root_info = known.info
        return self._inodes.intern(volume, known.info, known.expires_at), _remaining_s(known.expires_at)

    async def _lookup_key(self, volume: Volume, directory: ObjectInfo, name: str) -> tuple[Inode[Volume], float]:
        _must_be_served(volume)
        if directory.kind is not Kind.DIRECTORY:
            raise NotADirectory(f"{directory.key} is not a directory")
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise InvalidName(f"{name!r} cannot be the name of a file")
        if not volume.alias.is_local and not _is_unicode(name):
            raise NotFound("the keys of an object store are UTF-8; this name is not")
        key = f"{directory.key}/{name}" if directory.key else name
        known = await volume.catalog.stat(key) if key != volume.hidden_key else NOTHING
        if known.info is None:
            raise NotFound(f"{volume.alias.name}/{directory.key}: no entry {name!r}")
        return self._inodes.intern(volume, known.info, known.expires_at), _remaining_s(known.expires_at)

    async def getattr(self, number: InodeNo) -> Attr:
        """Return the attributes of an inode; a local file is asked again when its `ttl` has passed."""
        inode = self._inodes.get(number)
        volume = inode.volume
        if volume is None or not volume.alias.is_local or volume.retired:
            return self.attr(inode)
        if inode.info.local is None or trio.current_time() >= inode.expires_at:
            await self._refresh_local(volume, inode)
        return self.attr(inode)

    async def _refresh_local(self, volume: Volume, inode: Inode[Volume]) -> bool:
        """Take over what the file system says now; say whether it is still the same file.

        A file that was deleted or replaced while it is open keeps its last attributes.
        """
        known = await volume.catalog.stat(inode.info.key)
        inode.expires_at = known.expires_at
        if known.info is None or (inode.info.key and not _same_file(inode.info, known.info)):
            return False
        inode.info = known.info
        return True

    def attr(self, inode: Inode[Volume]) -> Attr:
        """Return the attributes of *inode* as they are known, without asking anyone."""
        if inode.volume is None:
            known = self._settings
            return Attr(inode.number, self._root_mode, 0, self._started_ns, known.uid, known.gid, known.root_ttl_s)
        return attr_of(inode.number, inode.info, inode.expires_at, inode.volume, self._settings)

    # directories

    async def opendir(self, number: InodeNo) -> HandleNo:
        """Return a handle on a directory; NotADirectory for anything else."""
        inode = self._inodes.get(number)
        if inode.info.kind is not Kind.DIRECTORY:
            raise NotADirectory(f"{inode.info.key} is not a directory")
        if inode.volume is not None:
            _must_be_served(inode.volume)
        return HandleNo(number)

    async def readdir(self, handle: HandleNo, cookie: int) -> Iterator[DirEntry]:
        """Return the entries after *cookie* (0: from the start) that have arrived; none at the end.

        Waits only when nothing has arrived. Of each entry that is taken from the iterator the kernel must
        be told (`count_lookup`), or it must be given back (`drop_unused`). A reader sees one snapshot from
        start to end, unless so many read at once that it was dropped.
        """
        inode = self._inodes.get(handle)
        generation, index = cookie >> 32, cookie & 0xFFFF_FFFF
        snapshot = self._snapshots.get((handle, generation)) if cookie else None
        if inode.volume is None:
            names = snapshot if isinstance(snapshot, tuple) else tuple(self._volumes)
            return self._root_entries(names, self._snapshot(handle, names, generation), index)
        _must_be_served(inode.volume)
        if isinstance(snapshot, Listing):
            listing = snapshot
        else:
            listing = await inode.volume.catalog.listing(inode.info.key)
        await listing.ensure(index + 1)
        return self._entries(inode.volume, listing, self._snapshot(handle, listing, generation), index)

    def _snapshot(self, handle: HandleNo, snapshot: Listing | tuple[str, ...], generation: int) -> int:
        """Keep *snapshot* for the next call of readdir on *handle* alone; return the number it is kept under."""
        if self._snapshots.get((handle, generation)) is not snapshot:
            generation = next(self._generations) & 0x3FFF_FFFF
            self._snapshots[handle, generation] = snapshot
        return generation

    def _entries(self, volume: Volume, listing: Listing, generation: int, index: int) -> Iterator[DirEntry]:
        valid_s = _remaining_s(listing.expires_at)
        base, entries, names = (generation << 32) + 1, listing.entries, listing.names
        for at in range(index, len(entries)):
            info = entries[at]
            if info.key != volume.hidden_key:
                inode = self._inodes.intern(volume, info, listing.expires_at)
                yield DirEntry(names[at], inode, valid_s, base + at)

    def _root_entries(self, names: tuple[str, ...], generation: int, index: int) -> Iterator[DirEntry]:
        for cookie, name in enumerate(names[index:], (generation << 32) + index + 1):
            volume = self._volumes.get(name)
            if volume is not None:
                valid_s = 0.0 if volume.alias.is_local else self._settings.root_ttl_s
                inode = self._inodes.intern(volume, volume.root_info, 0.0 if volume.alias.is_local else FOREVER)
                yield DirEntry(name.encode(), inode, valid_s, cookie)

    def count_lookup(self, entry: DirEntry) -> None:
        """Note that the kernel has been told of *entry*."""
        self._inodes.count_lookup(entry.inode)

    def drop_unused(self, entry: DirEntry) -> None:
        """Give back an entry that the kernel was not told of."""
        self._inodes.drop_unused(entry.inode)

    def forget(self, counts: Iterable[tuple[int, int]]) -> None:
        """Take lookup counts back; never raises."""
        self._inodes.forget(counts)

    async def readlink(self, number: InodeNo) -> bytes:
        """Return where a symbolic link points; AccessDenied when that is outside its alias."""
        inode = self._inodes.get(number)
        if inode.volume is None or inode.info.kind is not Kind.SYMLINK:
            raise NotALink(f"{inode.info.key} is not a symbolic link")
        _must_be_served(inode.volume)
        return os.fsencode(await inode.volume.store.readlink(inode.info.key))

    # files

    async def open(self, number: InodeNo, flags: int) -> HandleNo:
        """Return a handle for reading; ReadOnly for any other wish, StaleObject for an old version."""
        inode = self._inodes.get(number)
        if inode.info.kind is Kind.DIRECTORY:
            raise IsADirectory(f"{inode.info.key} is a directory")
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise ReadOnly(f"{inode.info.key} cannot be written: aliases are read-only in this version")
        if inode.stale:
            raise StaleObject(f"{inode.info.key} has changed in the store")
        if inode.volume is not None:
            _must_be_served(inode.volume)
        return HandleNo(number)

    async def read(self, handle: HandleNo, offset: int, size: int) -> Buffer:
        """Return the bytes [offset, offset + size) of an open file, fewer only at its end.

        Raises StaleObject when the version that was opened is gone, else what `Content.read` raises.
        """
        inode = self._inodes.get(handle)
        volume = inode.volume
        if volume is None or inode.info.kind is not Kind.FILE:
            raise IsADirectory(f"{inode.info.key} cannot be read as a file")
        _must_be_served(volume)
        try:
            return await self._read(volume, inode, offset, size)
        except AliasfsError as exc:
            _must_be_served(volume)
            if not isinstance(exc, StaleObject | NotFound | IsADirectory):
                raise
            volume.catalog.forget(inode.info.key)
            if inode.info.local is not None:
                return await self._reread_local(volume, inode, offset, size)
            inode.stale = True
            raise StaleObject(f"{volume.alias.name}/{inode.info.key} has changed in the store") from exc

    async def _read(self, volume: Volume, inode: Inode[Volume], offset: int, size: int) -> Buffer:
        info = inode.info
        extent = Extent(offset, offset + size).clip(info.size)
        if extent.start >= extent.stop:
            return b""
        content = await volume.content.read(self._object_id(volume, info), extent)
        if memoryview(content).nbytes != extent.length:  # the kernel would take it for the end of the file
            raise CorruptObject(f"{volume.alias.name}/{info.key}: fewer bytes came than were asked for")
        self._bytes_read += extent.length
        return content

    async def _reread_local(self, volume: Volume, inode: Inode[Volume], offset: int, size: int) -> Buffer:
        """Read a local file that was written to since we looked: as on a local disk, what is there now."""
        for _ in range(LOCAL_REREADS):
            if not await self._refresh_local(volume, inode):
                break
            try:
                return await self._read(volume, inode, offset, size)
            except (StaleObject, NotFound):
                volume.catalog.forget(inode.info.key)
        raise StaleObject(f"{volume.alias.name}/{inode.info.key} was replaced while it was read")

    @staticmethod
    def _object_id(volume: Volume, info: ObjectInfo) -> ObjectId:
        return ObjectId(volume.store.target, info.key, info.etag, info.size)

    # extended attributes

    def listxattr(self, number: InodeNo) -> Sequence[bytes]:
        """Return the names of the extended attributes of an inode."""
        inode = self._inodes.get(number)
        if inode.volume is None:
            return ()
        names: tuple[bytes, ...] = (b"user.aliasfs.alias", b"user.aliasfs.url")
        if inode.info.kind is Kind.FILE:
            names += (b"user.aliasfs.etag", b"user.aliasfs.cached_bytes")
        return names

    async def getxattr(self, number: InodeNo, name: bytes) -> bytes:
        """Return the extended attribute *name*; NoAttribute when there is none of that name.

        Outside the namespace `user.` it is NotSupported, which `ls -l` takes as an answer for the whole mount:
        it asks for an ACL and a security label of the first file only.
        """
        if not name.startswith(b"user."):
            raise NotSupported("there are no extended attributes but those of the namespace user")
        inode = self._inodes.get(number)
        volume, info = inode.volume, inode.info
        if volume is None or name not in self.listxattr(number):
            raise NoAttribute(f"no attribute {os.fsdecode(name)}")
        if name == b"user.aliasfs.alias":
            return volume.alias.name.encode()
        if name == b"user.aliasfs.url":
            return os.fsencode(f"{volume.alias.url}/{info.key}" if info.key else volume.alias.url)
        if name == b"user.aliasfs.etag":
            return info.etag.encode()
        if not isinstance(volume.content, ReadAhead):
            return b"0"
        return str(await volume.content.cached_bytes(self._object_id(volume, info))).encode()


def _must_be_served(volume: Volume) -> None:
    if volume.retired:
        raise StaleObject(f"the alias {volume.alias.name} was removed or points elsewhere now")


def _same_file(old: ObjectInfo, new: ObjectInfo) -> bool:
    if old.local is None or new.local is None or old.kind is not new.kind:
        return False
    return (old.local.device, old.local.inode) == (new.local.device, new.local.inode)


def _remaining_s(expires_at: float) -> float:
    return max(0.0, expires_at - trio.current_time())


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
