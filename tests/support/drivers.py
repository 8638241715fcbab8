"""Two ways to ask a mount the same things: through the kernel, and through `Vfs` in process (after rclone's vfstest).

Both answer with the same values and raise OSError with the errno that a program would see.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from aliasfs.errors import AliasfsError
from aliasfs.registry import Alias, Registry
from aliasfs.store import open_store
from aliasfs.store.base import Kind
from mountd.blocks import BlockCache
from mountd.catalog import Catalog, CatalogSettings
from mountd.disk import CacheDisk
from mountd.errnos import errno_of
from mountd.inodes import ROOT_INODE, InodeNo
from mountd.nodelog import NodeLog
from mountd.readahead import ReadAhead
from mountd.vfs import HandleNo, Vfs
from mountd.volumes import VfsSettings, Volume
from support.mounted import Mounted
from support.portal import Portal

T = TypeVar("T")


class Driver(Protocol):
    """*Paths* are relative to the mount, names joined by slashes."""

    def names(self, path: str) -> list[str]: ...

    def size(self, path: str) -> int | None:
        """Return the size of a file, None of a directory."""
        ...

    def open(self, path: str) -> int: ...

    def pread(self, handle: int, offset: int, size: int) -> bytes: ...

    def close(self, handle: int) -> None: ...

    def restart(self) -> None:
        """End keeper and server and start others on the same cache; handles are gone."""
        ...

    def replace(self) -> None:
        """End the server as `kill -9` does; another one takes over, and handles stay."""
        ...


class KernelDriver:
    """System calls on a real mount."""

    def __init__(self, mounted: Mounted) -> None:
        self._mounted = mounted

    def names(self, path: str) -> list[str]:
        return os.listdir(self._mounted.point / path)

    def size(self, path: str) -> int | None:
        place = self._mounted.point / path
        return None if place.is_dir() else place.stat().st_size

    def open(self, path: str) -> int:
        return os.open(self._mounted.point / path, os.O_RDONLY)

    def pread(self, handle: int, offset: int, size: int) -> bytes:
        return os.pread(handle, size, offset)

    def close(self, handle: int) -> None:
        os.close(handle)

    def restart(self) -> None:
        self._mounted.kill()
        assert self._mounted.start().ready

    def replace(self) -> None:
        self._mounted.wait_serving(instead_of=self._mounted.kill_server())


class VfsDriver:
    """`Vfs` over cache and read-ahead, without a kernel; aliases as url and ttl, by name."""

    def __init__(self, aliases: Mapping[str, tuple[str, float]], folder: Path) -> None:
        self._registry = Registry(Alias(name, url, ttl_s=ttl_s) for name, (url, ttl_s) in aliases.items())
        self._folder = folder
        self._portal = Portal()
        self._sessions = itertools.count()
        self._begin_session()
        self._start()

    def _begin_session(self) -> None:
        """Know nothing more of what a kernel was told."""
        self._session = f"session {next(self._sessions)}"
        self._generations = itertools.count()

    def _start(self) -> None:
        self._disk = CacheDisk.open(self._folder, 50_000_000)
        self._cache = BlockCache(self._disk)
        self._stop_cache = self._portal.start(self._cache.run)
        self._nodes = NodeLog.open(self._folder.with_suffix(".nodes"), self._session, next(self._generations))
        self._vfs = Vfs(self._open_volume, VfsSettings(uid=os.geteuid(), gid=os.getegid()), nodes=self._nodes)
        self._portal.call(self._vfs.refresh, self._registry)

    def _open_volume(self, alias: Alias) -> Volume:
        store = open_store(alias)
        content: Any = store if alias.is_local else ReadAhead(self._cache.wrap(store))
        return Volume(
            alias, store, content, Catalog(store, alias.ttl_s, CatalogSettings(list_ahead=not alias.is_local))
        )

    def _stop(self) -> None:
        self._portal.call(self._vfs.aclose)
        self._stop_cache()
        self._disk.close()
        self._nodes.close()

    def restart(self) -> None:
        self._stop()
        self._begin_session()
        self._start()

    def replace(self) -> None:
        self._stop()
        self._start()

    def end(self) -> None:
        self._stop()
        self._portal.close()

    def _ask(self, function: Callable[..., Awaitable[T]], *arguments: object) -> T:
        try:
            return self._portal.call(function, *arguments)
        except AliasfsError as exc:
            raise OSError(errno_of(exc), str(exc)) from exc

    async def _walk(self, path: str) -> InodeNo:
        number = ROOT_INODE
        for part in path.split("/"):
            number = (await self._vfs.lookup(number, os.fsencode(part))).attr.number
        return number

    def names(self, path: str) -> list[str]:
        async def names() -> list[str]:
            handle = await self._vfs.opendir(await self._walk(path))
            found: list[str] = []
            cookie = -1
            while cookie:
                entries = list(await self._vfs.readdir(handle, max(cookie, 0)))
                found += [os.fsdecode(entry.name) for entry in entries]
                cookie = entries[-1].cookie if entries else 0
            return found

        return self._ask(names)

    def size(self, path: str) -> int | None:
        async def size() -> int | None:
            number = await self._walk(path)
            attr = await self._vfs.getattr(number)
            return None if self._vfs._inodes.get(number).info.kind is Kind.DIRECTORY else attr.size

        return self._ask(size)

    def open(self, path: str) -> int:
        """Open as the kernel does: a path that turns out stale is looked up once more."""

        async def open_path() -> int:
            try:
                return await self._vfs.open(await self._walk(path), os.O_RDONLY)
            except AliasfsError as exc:
                if errno_of(exc) != errno.ESTALE:
                    raise
                return await self._vfs.open(await self._walk(path), os.O_RDONLY)

        return self._ask(open_path)

    def pread(self, handle: int, offset: int, size: int) -> bytes:
        return bytes(memoryview(self._ask(self._vfs.read, HandleNo(handle), offset, size)))

    def close(self, handle: int) -> None:
        """Nothing to do: a handle is an inode number."""
