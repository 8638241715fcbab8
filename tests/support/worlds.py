"""A `Vfs` over memory stores or local directories, with no disk and no kernel, and short ways to ask it things."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from aliasfs.registry import Alias, Registry
from aliasfs.store.base import Content, Store
from aliasfs.store.local import LocalStore
from aliasfs.store.memory import MemoryStore
from mountd.catalog import Catalog, CatalogSettings
from mountd.inodes import ROOT_INODE, InodeNo
from mountd.nodelog import NodeLog
from mountd.vfs import Vfs
from mountd.volumes import Entry, VfsSettings, Volume

SETTINGS = VfsSettings(uid=1000, gid=1000)


def remote(name: str = "R", *, ttl_s: float = 60.0, url: str = "") -> Alias:
    """Return an alias that is served from a memory store of its own per URL."""
    return Alias(name, url or f"memory://{name.lower()}", ttl_s=ttl_s)


def local(name: str, root: Path, *, ttl_s: float = 1.0) -> Alias:
    """Return an alias of the directory *root*."""
    return Alias(name, str(root), ttl_s=ttl_s)


class World:
    """A `Vfs`, and the memory stores behind it by URL; *wrap* puts something between a store and its bytes.

    With *nodes*, a path, what the kernel knows is written down there, and `crash` begins the next server.
    """

    def __init__(
        self,
        *aliases: Alias,
        wrap: Callable[[Store], Content] = lambda store: store,
        nodes: Path | None = None,
    ) -> None:
        self.stores: dict[str, MemoryStore] = {}
        self.nodes = nodes
        self.log: NodeLog | None = None
        self.generation = -1
        self._wrap = wrap
        self._aliases = aliases
        self.begin()

    def begin(self, session: str = "session") -> None:
        """Begin a server on what the one before it has left; nothing is mounted yet."""
        if self.log is not None:
            self.log.close()
        self.generation += 1
        self.log = NodeLog.open(self.nodes, session, self.generation) if self.nodes is not None else None
        self.vfs = Vfs(self._open_volume, SETTINGS, self.log)

    async def die(self) -> None:
        """Let the server end without a word to anyone but the interpreter."""
        for volume in self.vfs.volumes.values():
            await volume.catalog.aclose()
            if isinstance(volume.store, LocalStore):
                await volume.store.aclose()

    async def crash(self, *aliases: Alias) -> None:
        """Let the server die and the next one take over *aliases*, or those of the beginning."""
        await self.die()
        self.begin()
        await self.mount(*aliases)

    async def mount(self, *aliases: Alias) -> list[str]:
        """Mount *aliases*, or those of the beginning, in place of what is mounted."""
        return await self.vfs.refresh(Registry(aliases or self._aliases))

    def store(self, name: str = "R") -> MemoryStore:
        """Return the store behind the alias *name*, which need not be mounted yet if its URL is the usual one."""
        volume = self.vfs.volumes.get(name)
        return self._store_of(volume.alias.url if volume else f"memory://{name.lower()}")

    def _store_of(self, url: str) -> MemoryStore:
        return self.stores.setdefault(url, MemoryStore(url))

    def _open_volume(self, alias: Alias) -> Volume:
        store: Store = LocalStore(alias.url) if alias.is_local else self._store_of(alias.url)
        content = store if alias.is_local else self._wrap(store)
        return Volume(
            alias, store, content, Catalog(store, alias.ttl_s, CatalogSettings(list_ahead=not alias.is_local))
        )

    async def walk(self, path: str) -> Entry:
        """Return the entry of *path*, looking up each of its parts as a kernel without memory does."""
        number = ROOT_INODE
        for part in path.split("/"):
            entry = await self.vfs.lookup(number, os.fsencode(part))
            number = entry.attr.number
        return entry

    async def number(self, path: str) -> InodeNo:
        """Return the inode number of *path*."""
        return (await self.walk(path)).attr.number

    async def read(self, path: str) -> bytes:
        """Return all bytes of the file *path*."""
        attr = (await self.walk(path)).attr
        handle = await self.vfs.open(attr.number, os.O_RDONLY)
        return bytes(memoryview(await self.vfs.read(handle, 0, attr.size + 10)))

    async def names(self, path: str = "", *, at_once: int = 1000) -> list[str]:
        """Return the names in the directory *path*, read *at_once* entries per call as a small buffer would."""
        number = await self.number(path) if path else ROOT_INODE
        handle = await self.vfs.opendir(number)
        names: list[str] = []
        cookie = 0
        while True:
            taken = 0
            for entry in await self.vfs.readdir(handle, cookie):
                if taken == at_once:
                    self.vfs.drop_unused(entry)
                    break
                self.vfs.count_lookup(entry)
                names.append(os.fsdecode(entry.name))
                cookie = entry.cookie
                taken += 1
            self.vfs.record_told(handle, cookie)
            if not taken:
                return names
