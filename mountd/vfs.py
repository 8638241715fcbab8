"""The file system: names, inodes, open files and reads, for whichever door asks.

Relies on a `Catalog` per alias for names and a `Content` per alias for bytes; knows neither the kernel nor
HTTP. Invariants:

- a handle is the number of its inode, so nothing depends on open or release being delivered;
- one inode of an object store is one version: a read returns its bytes or StaleObject, never a mix;
- the root is answered from memory alone, so no alias can slow it down.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, NewType

import trio
from typing_extensions import Buffer

from aliasfs.errors import (
    AliasfsError,
    CorruptObject,
    InvalidName,
    IsADirectory,
    NameTooLong,
    NotADirectory,
    NotALink,
    NotFound,
    ReadOnly,
    StaleObject,
)
from aliasfs.extents import Extent
from aliasfs.registry import Alias, Registry
from aliasfs.store.base import Kind, ObjectInfo, directory_info
from mountd.catalog import Known, Listing
from mountd.inodes import ROOT_INODE, Inode, InodeNo, InodeTable, is_same_file
from mountd.nodelog import NodeLog
from mountd.snapshots import END, Names, Resumed, Snapshots
from mountd.takeover import Takeover
from mountd.volumes import FOREVER, Attr, Entry, VfsSettings, Volume, attr_of
from mountd.xattrs import check_namespace, names_of, value_of

HandleNo = NewType("HandleNo", int)
"""Number of an open file or directory: that of its inode."""

NAME_MAX = 255
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
    """How much the kernel knows of, and what it has been given.

    *restored* inodes were taken over from an earlier server; *node_bytes* is the size of the file for the next one.
    """

    inodes: int
    bytes_read: int
    restored: int = 0
    node_bytes: int = 0


class Vfs:
    """One mounted tree; each top-level directory is an alias.

    What the kernel knows is taken over from *nodes* and written down there; without it, it ends with this process.
    """

    def __init__(
        self, open_volume: Callable[[Alias], Volume], settings: VfsSettings, nodes: NodeLog | None = None
    ) -> None:
        self._open_volume = open_volume
        self._settings = settings
        self._started_ns = nodes.started_ns if nodes is not None else time.time_ns()
        self._root_mode = stat.S_IFDIR | settings.dir_mode
        self._registry = Registry()
        self._volumes: dict[str, Volume] = {}
        first_number = nodes.first_number if nodes is not None else ROOT_INODE + 1
        self._inodes: InodeTable[Volume] = InodeTable(directory_info(""), first_number)
        self._snapshots = Snapshots()
        self._takeover = Takeover(nodes, self._inodes, self._snapshots)
        self._bytes_read = 0

    @property
    def volumes(self) -> dict[str, Volume]:
        """The aliases that are mounted, by name."""
        return self._volumes

    def statistics(self) -> VfsStatistics:
        """Return the counts so far."""
        takeover = self._takeover
        return VfsStatistics(len(self._inodes), self._bytes_read, takeover.restored, takeover.node_bytes)

    async def compact_nodes(self) -> None:
        """Keep the file that the next server goes on from small; never ends."""
        await self._takeover.compact()

    async def refresh(self, registry: Registry) -> list[str]:
        """Mount what *registry* says; return the names in the root that the kernel must be told to drop.

        The first call takes over what the kernel knows from an earlier server. Raises ConfigError when an alias
        cannot be opened, and then nothing has changed.
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
        self._takeover.mounted(opened.values(), closing, [name.encode() for name in registry])
        for volume in closing:
            await volume.aclose()
        return sorted(changes.removed | changes.retargeted | changes.adjusted)

    async def aclose(self) -> None:
        """Retire every alias here; for the next server they stay what they are."""
        self._takeover.detach()
        await self.refresh(Registry())

    # names

    async def lookup(self, parent: InodeNo, name: bytes) -> Entry:
        """Return the entry *name* of the directory *parent*; its lookup count rises by one.

        Raises NotFound, NameTooLong, NotADirectory, or what the store raises.
        """
        if len(name) > NAME_MAX:
            raise NameTooLong(f"a name of {len(name)} bytes is longer than the {NAME_MAX} that Linux allows")
        directory = await self._inode(parent)
        if directory.volume is None:
            inode, valid_s = await self._lookup_alias(os.fsdecode(name))
        else:
            inode, valid_s = await self._lookup_key(directory.volume, directory.info, os.fsdecode(name))
        self._inodes.count_lookup(inode)
        self._takeover.tell((inode,))
        return Entry(self.attr(inode), valid_s)

    async def _inode(self, number: InodeNo | HandleNo) -> Inode[Volume]:
        """Return the inode *number*; a local one that was taken over is looked at before it is used.

        Raises StaleObject when it is unknown, or was deleted or replaced while nobody served.
        """
        inode = self._inodes.get(number)
        volume = inode.volume
        if inode.unseen and volume is not None and not volume.retired and not await self._refresh_local(volume, inode):
            raise StaleObject(f"{volume.alias.name}/{inode.info.key} was deleted or replaced; open it again")
        return inode

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
        inode = await self._inode(number)
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
        if known.info is None or (inode.info.key and not is_same_file(inode.info, known.info)):
            return False
        inode.info = known.info
        inode.unseen = False
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
        inode = await self._inode(number)
        if inode.info.kind is not Kind.DIRECTORY:
            raise NotADirectory(f"{inode.info.key} is not a directory")
        if inode.volume is not None:
            _must_be_served(inode.volume)
        return HandleNo(number)

    async def readdir(self, handle: HandleNo, cookie: int) -> Iterator[DirEntry]:
        """Return the entries after *cookie* (0: from the start) that have arrived; none at the end.

        Waits only when nothing has arrived. Of each entry that is taken from the iterator the kernel must
        be told (`count_lookup`), or it must be given back (`drop_unused`); before the reply, `record_told` must
        be called. A reader sees one snapshot from start to end, unless so many read at once that it was dropped;
        when that was made by an earlier server, the reader goes on by name in a fresh listing.
        """
        inode = await self._inode(handle)
        index = cookie & END
        if index == END:
            self._takeover.finish(handle, cookie)
            return iter(())
        snapshot = self._snapshots.get(handle, cookie)
        if inode.volume is None:
            names = snapshot if isinstance(snapshot, Names) else Names(tuple(name.encode() for name in self._volumes))
            return self._root_entries(names.names, self._snapshots.keep(handle, names, cookie), index)
        _must_be_served(inode.volume)
        if isinstance(snapshot, Listing | Resumed):
            listing = snapshot
        else:
            fresh = await inode.volume.catalog.listing(inode.info.key)
            listing = fresh if snapshot is None else self._snapshots.resume(handle, cookie, fresh)
        await listing.ensure(index + 1)
        return self._entries(inode.volume, listing, self._snapshots.keep(handle, listing, cookie), index)

    def _entries(self, volume: Volume, listing: Listing | Resumed, base: int, index: int) -> Iterator[DirEntry]:
        valid_s = _remaining_s(listing.expires_at)
        entries, names = listing.entries, listing.names
        last = len(entries) - 1 if listing.complete else -1
        for at in range(index, len(entries)):
            info = entries[at]
            if info.key != volume.hidden_key:
                inode = self._inodes.intern(volume, info, listing.expires_at)
                yield DirEntry(names[at], inode, valid_s, base + (END if at == last else at + 1))

    def _root_entries(self, names: Sequence[bytes], base: int, index: int) -> Iterator[DirEntry]:
        for at in range(index, len(names)):
            volume = self._volumes.get(os.fsdecode(names[at]))
            if volume is not None:
                valid_s = 0.0 if volume.alias.is_local else self._settings.root_ttl_s
                inode = self._inodes.intern(volume, volume.root_info, 0.0 if volume.alias.is_local else FOREVER)
                yield DirEntry(names[at], inode, valid_s, base + (END if at == len(names) - 1 else at + 1))

    def count_lookup(self, entry: DirEntry) -> None:
        """Note that the kernel will be told of *entry*."""
        self._inodes.count_lookup(entry.inode)
        self._takeover.note(entry.inode)

    def record_told(self, handle: HandleNo, cookie: int) -> None:
        """Write down what one reply of readdir tells the kernel: the entries that were counted, up to *cookie*."""
        self._takeover.tell_noted(self._snapshots.told(handle, cookie))

    def drop_unused(self, entry: DirEntry) -> None:
        """Give back an entry that the kernel was not told of."""
        self._inodes.drop_unused(entry.inode)

    def forget(self, counts: Sequence[tuple[int, int]]) -> None:
        """Take lookup counts back; never raises."""
        self._takeover.forget(counts)
        self._inodes.forget(counts)

    async def readlink(self, number: InodeNo) -> bytes:
        """Return where a symbolic link points; AccessDenied when that is outside its alias."""
        inode = await self._inode(number)
        if inode.volume is None or inode.info.kind is not Kind.SYMLINK:
            raise NotALink(f"{inode.info.key} is not a symbolic link")
        _must_be_served(inode.volume)
        return os.fsencode(await inode.volume.store.readlink(inode.info.key))

    # files

    async def open(self, number: InodeNo, flags: int) -> HandleNo:
        """Return a handle for reading; ReadOnly for any other wish, StaleObject for an old version."""
        inode = await self._inode(number)
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
        inode = await self._inode(handle)
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
        content = await volume.content.read(volume.object_id(info), extent)
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

    # extended attributes

    def listxattr(self, number: InodeNo) -> Sequence[bytes]:
        """Return the names of the extended attributes of an inode."""
        return names_of(self._inodes.get(number))

    async def getxattr(self, number: InodeNo, name: bytes) -> bytes:
        """Return the extended attribute *name*; NoAttribute when there is none, NotSupported outside `user.`."""
        check_namespace(name)
        return await value_of(self._inodes.get(number), name)


def _must_be_served(volume: Volume) -> None:
    if volume.retired:
        raise StaleObject(f"the alias {volume.alias.name} was removed or points elsewhere now")


def _remaining_s(expires_at: float) -> float:
    return max(0.0, expires_at - trio.current_time())


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
