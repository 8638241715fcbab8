"""A local directory as a store: resolved beneath its root, read by the page cache, pinned by identity and mtime.

Keys become paths by the file system encoding with surrogateescape, so any name a Linux file can have
works. An etag is device, inode number, size, mtime and file handle of a file; every read compares them before
bytes are taken and after, so a file that changes under a reader is StaleObject. Open descriptors are kept and
reused: a file that was unlinked stays readable while its descriptor is among them.

The file system may be remote and may hang: everything that can block runs in worker threads of this
store's own limiter, and a cancelled caller leaves them behind. Only reads that the page cache can answer
(RWF_NOWAIT) are made on the calling thread.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple, TypeVar

import trio
from typing_extensions import Buffer

from aliasfs.errors import (
    AccessDenied,
    AliasfsError,
    CorruptObject,
    NameTooLong,
    NotADirectory,
    NotALink,
    NotFound,
    StaleObject,
    StoreError,
    StoreUnavailable,
)
from aliasfs.extents import Extent
from aliasfs.store.base import NO_ETAG, Etag, Kind, LocalMeta, ObjectId, ObjectInfo
from aliasfs.store.beneath import Walk, open_beneath
from aliasfs.store.descriptors import OpenFile, Opening, Scan
from aliasfs.store.handles import fingerprint
from aliasfs.store.names import LeftOut, checked_key, child_key, printable

T = TypeVar("T")

OPEN_FILES = 256
"""Descriptors kept for reading; a quarter of the usual limit of 1,024 per process."""

THREADS = 16
"""Threads that may block in this file system at once; more do not make a disk faster."""

PAGE_ENTRIES = 1000

_ERRORS: dict[int, type[AliasfsError]] = {
    errno.ENOENT: NotFound,
    errno.ENOTDIR: NotFound,
    errno.EACCES: AccessDenied,
    errno.EPERM: AccessDenied,
    errno.ELOOP: AccessDenied,
    errno.ENAMETOOLONG: NameTooLong,
    errno.ESTALE: StoreUnavailable,
    errno.ETIMEDOUT: StoreUnavailable,
    errno.EMFILE: StoreUnavailable,
    errno.ENFILE: StoreUnavailable,
}


class _Version(NamedTuple):
    """What an etag is made of."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    fingerprint: int

    @classmethod
    def of(cls, found: os.stat_result, fingerprint: int) -> _Version:
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, fingerprint)

    @classmethod
    def parse(cls, etag: Etag) -> _Version:
        """Return the version that *etag* names; raises StaleObject when it is no etag of a local file."""
        try:
            device, inode, size, mtime_ns, fingerprint = (int(part, 16) for part in etag.split("-"))
        except ValueError:
            raise StaleObject(f"{etag!r} is no version of a local file") from None
        return cls(device, inode, size, mtime_ns, fingerprint)

    @property
    def identity(self) -> tuple[int, int, int]:
        return self.device, self.inode, self.fingerprint

    @property
    def etag(self) -> Etag:
        return Etag(f"{self.device:x}-{self.inode:x}-{self.size:x}-{self.mtime_ns:x}-{self.fingerprint:x}")


class LocalStore:
    """The files below the directory *root*, an absolute path.

    The root is opened anew for each name, so that a root which is mounted or made later is seen, and no
    descriptor of ours keeps a file system busy.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._files: OrderedDict[tuple[int, int, int], OpenFile] = OrderedDict()
        self._limiter = trio.CapacityLimiter(THREADS)
        self._nowait = True
        self._closed = False

    @property
    def target(self) -> str:
        return self._root

    @property
    def engine(self) -> str:
        return "local"

    async def stat(self, key: str) -> ObjectInfo:
        checked_key(key)
        info = _info(key, *await self._in_thread(key, _stat, self._root, key))
        if info is None:
            raise NotFound(f"{self._path(key)} is no file, directory or link, and is not shown")
        return info

    async def list(self, key: str) -> AsyncIterator[Sequence[ObjectInfo]]:
        checked_key(key)
        left_out = LeftOut(self._root, key)
        scan = Scan(lambda: _open(self._root, key, os.O_RDONLY | os.O_DIRECTORY), PAGE_ENTRIES)
        try:
            while found := await self._next_page(key, scan):
                if page := _entries(key, found, left_out):
                    yield page
        finally:
            scan.close()
        left_out.warn()

    async def _next_page(self, key: str, scan: Scan) -> Sequence[tuple[str, os.stat_result, int]]:
        try:
            return await self._in_thread(key, scan.next_page)
        except NotFound as exc:
            # ENOTDIR is said of the last part and of those before it alike.
            if isinstance(exc.__cause__, NotADirectoryError) and (await self.stat(key)).kind is not Kind.DIRECTORY:
                raise NotADirectory(f"{self._path(key)} is no directory") from exc
            raise

    async def readlink(self, key: str) -> str:
        checked_key(key)
        return await self._in_thread(key, _readlink, self._root, key)

    async def read(self, oid: ObjectId, extent: Extent) -> Buffer:
        version = _Version.parse(oid.etag)
        file = self._files.get(version.identity)
        if file is None:
            file = await self._open(oid.key, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
            self._keep(version, file)
        else:
            self._files.move_to_end(version.identity)
        with file.in_use() as fd:
            await trio.lowlevel.checkpoint()
            buffer = bytearray(extent.length)
            done, found = await self._fill(oid.key, fd, memoryview(buffer), extent.start)
        if _Version.of(found, version.fingerprint) != version:
            self._forget(version)
            raise StaleObject(f"{self._path(oid.key)} has changed since it was opened")
        if done < extent.length:
            raise CorruptObject(f"{self._path(oid.key)} gave {done} bytes where it has {extent.length}")
        return buffer

    async def _fill(self, key: str, fd: int, view: memoryview, offset: int) -> tuple[int, os.stat_result]:
        """Fill *view* from *offset* on; returns the bytes read and what the file was after that."""
        done = self._read_cached(fd, view, offset)
        if done == len(view):
            return done, os.fstat(fd)
        more, found = await self._in_thread(key, _read_fully, fd, view[done:], offset + done)
        return done + more, found

    def _read_cached(self, fd: int, view: memoryview, offset: int) -> int:
        """Fill *view* as far as the page cache can without waiting; returns the number of bytes."""
        if not self._nowait:
            return 0
        try:
            return os.preadv(fd, [view], offset, os.RWF_NOWAIT)
        except OSError as exc:
            # EOPNOTSUPP: this file system, perhaps a remote one, cannot say what it has cached. EAGAIN: nothing
            # here. Any other error comes back in the thread.
            self._nowait = exc.errno != errno.EOPNOTSUPP
            return 0

    def _keep(self, version: _Version, file: OpenFile) -> None:
        """Keep *file* for later reads; raises StaleObject when it is another one than *version* names."""
        found = os.fstat(file.fd)
        identity = (found.st_dev, found.st_ino, fingerprint(file.fd))
        if identity != version.identity or not stat.S_ISREG(found.st_mode):
            file.discard()
            raise StaleObject(f"{self._root}: another file has taken the place of the one that was opened")
        if self._closed:
            file.discard()
            raise StoreUnavailable(f"{self._root} is closed")
        self._forget(version)
        self._files[version.identity] = file
        while len(self._files) > OPEN_FILES:
            self._files.popitem(last=False)[1].discard()

    def _forget(self, version: _Version) -> None:
        file = self._files.pop(version.identity, None)
        if file is not None:
            file.discard()

    async def aclose(self) -> None:
        self._closed = True
        while self._files:
            self._files.popitem()[1].discard()
        await trio.lowlevel.checkpoint()

    def _path(self, key: str) -> str:
        return printable(child_key(self._root.rstrip("/"), key) if key else self._root)

    async def _open(self, key: str, flags: int) -> OpenFile:
        opening = Opening(lambda: _open(self._root, key, flags))
        try:
            await self._in_thread(key, opening.run)
            return OpenFile(opening.take())
        finally:
            opening.abandon()

    async def _in_thread(self, key: str, function: Callable[..., T], *args: object) -> T:
        """Return what *function* returns in a thread, its OSError translated; a cancelled caller does not wait."""
        try:
            return await trio.to_thread.run_sync(function, *args, limiter=self._limiter, abandon_on_cancel=True)
        except OSError as exc:
            raise self._translated(key, exc) from exc

    def _translated(self, key: str, error: OSError) -> AliasfsError:
        path = self._path(key)
        kind = _ERRORS.get(error.errno or 0, StoreError)
        if kind is not NotFound:
            return kind(f"{path}: {error.strerror}")
        if key and os.path.isdir(self._root):
            return NotFound(f"{path} does not exist")
        return NotFound(
            f"{printable(self._root)} is no directory on this machine; make or mount it, or change the alias"
        )


def _open(root_path: str, key: str, flags: int) -> int:
    root = os.open(root_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_beneath(root, key, flags)
    finally:
        os.close(root)


def _stat(root_path: str, key: str) -> tuple[os.stat_result, int]:
    fd = _open(root_path, key, os.O_PATH | os.O_NOFOLLOW)
    try:
        return os.fstat(fd), fingerprint(fd)
    finally:
        os.close(fd)


def _readlink(root_path: str, key: str) -> str:
    """Return where the link *key* leads, made relative if it was absolute; AccessDenied if that is outside."""
    root = os.open(root_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = open_beneath(root, key, os.O_PATH | os.O_NOFOLLOW)
        try:
            if not stat.S_ISLNK(os.fstat(fd).st_mode):
                raise NotALink(f"{printable(child_key(root_path, key))} is no symbolic link")
            target = os.readlink("", dir_fd=fd)
        finally:
            os.close(fd)
        directory = key.rpartition("/")[0]
        with Walk(root) as walk:
            parts = walk.canonical(directory, target)
        if not target.startswith("/"):
            return target
        return os.path.relpath("/" + "/".join(parts), f"/{directory}")
    finally:
        os.close(root)


def _read_fully(fd: int, view: memoryview, offset: int) -> tuple[int, os.stat_result]:
    done = 0
    while done < len(view):
        count = os.preadv(fd, [view[done:]], offset + done)
        if not count:
            break
        done += count
    return done, os.fstat(fd)


def _entries(directory: str, found: Sequence[tuple[str, os.stat_result, int]], left_out: LeftOut) -> list[ObjectInfo]:
    page: list[ObjectInfo] = []
    for name, status, handle in found:
        info = _info(child_key(directory, name), status, handle)
        if info is None:
            left_out.add("that are sockets, pipes or devices")
        else:
            page.append(info)
    return page


def _info(key: str, found: os.stat_result, handle: int) -> ObjectInfo | None:
    """Return what the store says of a file, None of a socket, pipe or device."""
    local = LocalMeta(found.st_dev, found.st_ino, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, handle)
    if stat.S_ISREG(found.st_mode):
        return ObjectInfo(key, Kind.FILE, found.st_size, found.st_mtime_ns, _Version.of(found, handle).etag, local)
    if stat.S_ISDIR(found.st_mode):
        return ObjectInfo(key, Kind.DIRECTORY, 0, found.st_mtime_ns, NO_ETAG, local)
    if stat.S_ISLNK(found.st_mode):
        return ObjectInfo(key, Kind.SYMLINK, found.st_size, found.st_mtime_ns, NO_ETAG, local)
    return None
