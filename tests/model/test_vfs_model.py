"""A state machine drives `Vfs`, cache and read-ahead on memory stores against a dict of what is true, and was when.

What the model allows is what docs/SEMANTICS.md promises and nothing else: a name is at most `ttl` old, an open file
is one version or stale, what was seen stays while the store is away, and no damage to the cache changes a byte. A
server that dies costs nothing of that, and a damaged table of nodes costs what is open its number, never its bytes.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.disk_use import allocated_bytes
from support.portal import Portal
from support.worlds import World, remote
from trio.testing import MockClock

from aliasfs.errors import NotADirectory, NotFound, StaleObject, StoreError, StoreUnavailable
from aliasfs.store.base import Kind
from aliasfs.store.memory import Operation
from mountd.blockfile import BLOCK_BYTES
from mountd.blocks import BlockCache, BlockCacheSettings
from mountd.disk import CacheDisk
from mountd.inodes import ROOT_INODE, InodeNo
from mountd.readahead import ReadAhead
from mountd.vfs import HandleNo
from mountd.volumes import Volume

BUDGET_BYTES = 6 * BLOCK_BYTES
"""Less than the objects take together, so that there is eviction."""

MEMORY = BlockCacheSettings(
    memory_bytes=2 * BLOCK_BYTES, total_bytes=16 * BLOCK_BYTES, part_bytes=2 * BLOCK_BYTES, demand_bytes=4 * BLOCK_BYTES
)
DOWN: tuple[Operation, ...] = ("stat", "list", "read", "readlink")
URLS = ("memory://one", "memory://two")
NAMES = ("A", "B")
KEYS = ("a", "d/a", "d/ü\n", "d/e/a", "d/e")
DIRECTORIES = ("", "d", "d/e")
SIZES = (0, 1, 1000, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 7)
TTLS_S = (0.0, 10.0, 60.0)

Tree = dict[str, bytes]
Answer = tuple[Kind, int] | None
"""Kind and size of a name, None when it does not exist."""


def content_of(seed: int, size: int) -> bytes:
    """Return bytes that are others for each seed at every place."""
    return random.Random(seed).randbytes(size)


def answer(tree: Tree, key: str) -> Answer:
    """Return what *key* is in *tree*: a directory wins over an object of the same name."""
    if not key or any(other.startswith(f"{key}/") for other in tree):
        return Kind.DIRECTORY, 0
    return (Kind.FILE, len(tree[key])) if key in tree else None


def children(tree: Tree, key: str) -> dict[str, Answer]:
    """Return the names in the directory *key* and what they are."""
    prefix = f"{key}/" if key else ""
    names = {other.removeprefix(prefix).partition("/")[0] for other in tree if other.startswith(prefix)}
    return {name: answer(tree, prefix + name) for name in names}


@dataclass
class Place:
    """A store as the model knows it: all its states, each with the time at which the next one began."""

    past: list[tuple[float, Tree]] = field(default_factory=list)
    now: Tree = field(default_factory=dict)
    down: bool = False

    def change(self, time: float, tree: Tree) -> None:
        self.past.append((time, self.now))
        self.now = tree

    def since(self, time: float) -> list[Tree]:
        """Return the states that held at some moment after *time*, the present one last."""
        return [tree for ended, tree in self.past if ended > time] + [self.now]


@dataclass
class Mounted:
    """An alias as the model knows it; *seen* are the paths that were found, and when."""

    url: str
    ttl_s: float
    seen: dict[str, int] = field(default_factory=dict)


class Held(NamedTuple):
    """What a server holds for the kernel under a number: where the thing is, which version, and its lookup count."""

    identity: object
    lookups: int


@dataclass(eq=False)
class Reader:
    """An open file: its inode number and the bytes that any read has to give; *states* is how many there were then."""

    number: InodeNo
    volume: Volume
    url: str
    key: str
    content: bytes
    states: int
    generation: int
    name: str
    is_doubtful: bool = False
    """Whether the table of nodes was damaged while it was open, so that it may be unknown now."""


class VfsMachine(RuleBasedStateMachine):
    readers = Bundle("readers")

    def __init__(self) -> None:
        super().__init__()
        logging.disable(logging.ERROR)  # damage is said in the log, and looked for here
        self.folder = Path(tempfile.mkdtemp(prefix="model"))
        self.nodes = Path(tempfile.mkdtemp(prefix="nodes")) / "table"
        self.clock = MockClock()
        self.portal = Portal(self.clock)
        self.places = {url: Place() for url in URLS}
        self.aliases: dict[str, Mounted] = {}
        self.seeds = 0
        self.generation = 0
        self.lookups: dict[int, int] = {}
        self.lost: dict[int, int] = {}
        self.told: dict[int, object] = {}
        self.undead: set[int] = set()
        self.live: list[Reader] = []
        self.world = World()
        self.start()

    # the daemon

    def start(self) -> None:
        self.start_cache()
        stores = self.world.stores
        self.world = World(wrap=lambda store: ReadAhead(self.cache.wrap(store)), nodes=self.nodes)
        self.world.stores = stores
        self.kernel_knows_nothing()

    def start_cache(self) -> None:
        self.disk = CacheDisk.open(self.folder, BUDGET_BYTES)
        self.cache = BlockCache(self.disk, MEMORY)
        self.stop_cache = self.portal.start(self.cache.run)

    def kernel_knows_nothing(self) -> None:
        self.lookups = {}
        self.lost = {}
        self.told = {}
        self.undead = set()
        self.live = []
        self.generation += 1

    def stop(self) -> None:
        self.portal.call(self.world.vfs.aclose)
        self.world.log.close()
        self.stop_cache()
        self.disk.close()

    def teardown(self) -> None:
        try:
            self.stop()
            self.portal.close()
        finally:
            logging.disable(logging.NOTSET)
            shutil.rmtree(self.folder)
            shutil.rmtree(self.nodes.parent)

    def remount(self) -> None:
        aliases = [remote(name, url=mounted.url, ttl_s=mounted.ttl_s) for name, mounted in self.aliases.items()]
        self.portal.call(self.world.vfs.refresh, _registry(aliases))

    @property
    def time(self) -> float:
        return float(self.portal.call_sync(self.clock.current_time))

    @initialize()
    def mount(self) -> None:
        for url in URLS:
            for key in KEYS[:4]:
                self.put(url, key, BLOCK_BYTES + 1)
        self.aliases = {"A": Mounted(URLS[0], 10.0), "B": Mounted(URLS[1], 0.0)}
        self.remount()

    @rule(really=st.integers(0, 2))
    def restart(self, really: int) -> None:
        if really:
            return
        self.stop()
        self.nodes.unlink()
        self.start()
        for mounted in self.aliases.values():
            mounted.seen.clear()
        self.remount()

    @rule(damage=st.sampled_from(("none", "none", "cut", "flip", "lost")), seed=st.integers(0, 9999))
    def the_server_dies(self, damage: str, seed: int) -> None:
        """A new server takes over what the kernel knows: all that can be served, or less if the table is damaged."""
        held, before = self._inodes_held(), set(self.undead)
        self.portal.call(self.world.die)
        self.stop_cache()
        self.disk.close()
        self._damage_the_table(damage, random.Random(seed))
        self.start_cache()
        self.world.begin()
        self.remount()
        for mounted in self.aliases.values():
            mounted.seen.clear()
        for reader in self.live:
            reader.is_doubtful = reader.is_doubtful or damage != "none"
            if not reader.volume.retired:
                reader.volume = self.world.vfs.volumes[reader.name]
        taken_over = self._inodes_held()
        assert taken_over.keys() <= self.told.keys()
        assert all(held.identity == self.told[number] for number, held in taken_over.items()), "another file's number"
        if damage == "none":
            assert taken_over == held
        self.undead |= {number for number, held in taken_over.items() if held.lookups > self.lookups.get(number, 0)}
        assert damage != "none" or self.undead <= before, "held though the kernel does not know it"
        self.lost |= {number: count for number, count in self.lookups.items() if number not in taken_over}
        self.lookups = {number: count for number, count in self.lookups.items() if number in taken_over}

    def _inodes_held(self) -> dict[int, Held]:
        """Return what the server holds for the kernel of aliases that are mounted."""
        inodes = self.portal.call_sync(lambda: next(self.world.vfs._inodes.in_slices(99999), ()))
        return {inode.number: Held(_identity(inode), inode.lookups) for inode in inodes if not inode.volume.retired}

    def _damage_the_table(self, damage: str, which: random.Random) -> None:
        if damage == "lost":
            self.nodes.unlink()
        elif damage == "cut":
            os.truncate(self.nodes, which.randrange(self.nodes.stat().st_size + 1))
        elif damage == "flip":
            content = bytearray(self.nodes.read_bytes())
            content[which.randrange(len(content))] ^= 1 << which.randrange(8)
            self.nodes.write_bytes(content)

    @rule()
    def the_table_of_nodes_is_written_anew(self) -> None:
        self.portal.call(self.world.vfs._takeover._write_anew, self.world.log)

    # another client

    @rule(url=st.sampled_from(URLS), key=st.sampled_from(KEYS), size=st.sampled_from(SIZES))
    def put(self, url: str, key: str, size: int) -> None:
        self.seeds += 1
        self._put(url, key, content_of(self.seeds, size))

    @rule(url=st.sampled_from(URLS), key=st.sampled_from(KEYS), back=st.integers(1, 4))
    def put_an_old_version_back(self, url: str, key: str, back: int) -> None:
        before = [tree[key] for _, tree in self.places[url].past if key in tree]
        if before:
            self._put(url, key, before[-min(back, len(before))])

    def _put(self, url: str, key: str, content: bytes) -> None:
        self.places[url].change(self.time, self.places[url].now | {key: content})
        self.portal.call_sync(self.world._store_of(url).put, key, content)

    @rule(url=st.sampled_from(URLS), key=st.sampled_from(KEYS))
    def remove(self, url: str, key: str) -> None:
        tree = dict(self.places[url].now)
        if tree.pop(key, None) is not None:
            self.places[url].change(self.time, tree)
            self.portal.call_sync(self.world._store_of(url).remove, key)

    @rule(url=st.sampled_from(URLS))
    def the_store_goes_away_or_comes_back(self, url: str) -> None:
        place, faults = self.places[url], self.world._store_of(url).faults
        place.down = not place.down
        if not place.down:
            self.portal.call_sync(faults.clear)
            return
        for operation in DOWN:
            self.portal.call_sync(lambda operation=operation: faults.fail(operation, StoreUnavailable, times=5000))

    # time, aliases, disk

    @rule(seconds=st.sampled_from((5.0, 5.5, 10.0, 55.0, 61.0)))
    def time_passes(self, seconds: float) -> None:
        self.portal.call_sync(self.clock.jump, seconds)

    @rule(name=st.sampled_from(NAMES), url=st.sampled_from(URLS), ttl_s=st.sampled_from(TTLS_S))
    def set_alias(self, name: str, url: str, ttl_s: float) -> None:
        old = self.aliases.get(name)
        if old is None or (old.url, old.ttl_s) != (url, ttl_s):
            seen = old.seen if old is not None and old.url == url else {}
            self.aliases[name] = Mounted(url, ttl_s, seen)
        self.remount()

    @rule(name=st.sampled_from(NAMES), really=st.integers(0, 2))
    def remove_alias(self, name: str, really: int) -> None:
        if really:
            return
        self.aliases.pop(name, None)
        self.remount()

    @rule(seed=st.integers(0, 9999), how=st.sampled_from(("flip", "zero", "cut", "unlink", "swap")))
    def damage_a_cache_file(self, seed: int, how: str) -> None:
        which = random.Random(seed)
        files = sorted(path for path in self.disk.objects.rglob("*") if path.is_file())
        if not files:
            return
        path = which.choice(files)
        size = path.stat().st_size
        if how == "unlink":
            path.unlink()
        elif how == "cut":
            os.truncate(path, which.randrange(size + 1))
        elif how == "swap":
            path.write_bytes(which.choice(files).read_bytes())
        elif size:
            with path.open("r+b") as file:
                file.seek(which.randrange(size))
                file.write(b"\0" * 5000 if how == "zero" else which.randbytes(1))

    # the kernel

    def _lookup(self, path: str) -> Any:
        async def walk() -> Any:
            number = ROOT_INODE
            for part in path.split("/"):
                entry = await self.world.vfs.lookup(number, part.encode())
                number = entry.attr.number
                self._tell(self.world.vfs._inodes.get(number))
            return self.world.vfs._inodes.get(number)

        return self.portal.call(walk)

    def _tell(self, inode: Any) -> None:
        self.lookups[inode.number] = self.lookups.get(inode.number, 0) + 1
        assert self.told.setdefault(inode.number, _identity(inode)) == _identity(inode), "a number for two things"

    def _find(self, name: str, key: str) -> Any:
        """Return the inode of a path after checking that the answer is allowed; None when there is none."""
        mounted = self.aliases.get(name)
        try:
            inode = self._lookup(f"{name}/{key}" if key else name)
        except (NotFound, NotADirectory):
            if mounted is not None:
                allowed = self._allowed(mounted)
                prefixes = [key[:end] for end in range(1, len(key) + 1) if end == len(key) or key[end] == "/"]
                assert any(
                    answer(tree, part) is None or (answer(tree, part)[0] is Kind.FILE and part != key)
                    for tree in allowed
                    for part in prefixes
                ), f"{name}/{key} was there all the time"
            return None
        except StoreError:
            assert mounted is not None
            assert self.places[mounted.url].down, "an error though the store is there"
            assert not self._must_be_known(mounted, key), "known, but not served while the store is away"
            return None
        assert mounted is not None, f"{name} is not mounted"
        found = (inode.info.kind, inode.info.size)
        if key:
            assert found in [answer(tree, key) for tree in self._allowed(mounted)], "too old, or never true"
        mounted.seen[key] = len(self.places[mounted.url].past)
        return inode

    def _allowed(self, mounted: Mounted) -> list[Tree]:
        """Return the states of the store that an answer may come from."""
        place = self.places[mounted.url]
        return place.since(-1.0) if place.down else place.since(self.time - mounted.ttl_s)

    def _must_be_known(self, mounted: Mounted, key: str) -> bool:
        """Say whether *key* and what is above it was seen, and nothing about it has changed since."""
        if key not in mounted.seen:
            return False
        place = self.places[mounted.url]
        states = [tree for _, tree in place.past[mounted.seen[key] :]] + [place.now]
        parts = [key[:end] for end in range(1, len(key) + 1) if end == len(key) or key[end] == "/"]
        return all(answer(tree, part) == answer(states[0], part) is not None for tree in states for part in parts)

    @rule(name=st.sampled_from(NAMES), key=st.sampled_from(KEYS))
    def cat(self, name: str, key: str) -> None:
        reader = self.open(name, key)
        if reader is not None:
            self.read(reader, 0.0, len(reader.content) + 1)

    @rule(name=st.sampled_from(NAMES), key=st.sampled_from(KEYS), size=st.sampled_from(SIZES))
    def cat_what_is_replaced_once_it_was_opened(self, name: str, key: str, size: int) -> None:
        reader = self.open(name, key)
        if reader is not None:
            self.read(reader, 0.0, 1)
            self.put(reader.url, key, size)
            self.read(reader, 0.0, len(reader.content) + 1)
            self.time_passes(self.aliases[name].ttl_s)
            self.cat(name, key)
            self.read(reader, 0.0, len(reader.content) + 1)

    @rule(name=st.sampled_from(NAMES), key=st.sampled_from((*KEYS, "d", "none", "d/none/x")))
    def stat(self, name: str, key: str) -> None:
        self._find(name, key)

    @rule(name=st.sampled_from(NAMES), key=st.sampled_from(DIRECTORIES), at_once=st.sampled_from((1, 2, 100)))
    def list(self, name: str, key: str, at_once: int) -> None:
        inode = self._find(name, key)
        if inode is None or inode.info.kind is not Kind.DIRECTORY:
            return
        mounted = self.aliases[name]
        allowed = self._allowed(mounted)
        try:
            found = self.portal.call(self._read_directory, inode.number, at_once)
        except (NotFound, NotADirectory):
            assert any(answer(tree, key) != (Kind.DIRECTORY, 0) for tree in allowed), "the directory is there"
        except StoreError:
            assert self.places[mounted.url].down, "an error though the store is there"
        else:
            assert found in [children(tree, key) for tree in allowed], "no state of the directory, or too old"

    async def _read_directory(self, number: InodeNo, at_once: int) -> dict[str, Answer]:
        vfs = self.world.vfs
        handle = await vfs.opendir(number)
        found: dict[str, Answer] = {}
        cookie, taken = 0, 1
        while taken:
            taken = 0
            for entry in await vfs.readdir(handle, cookie):
                if taken == at_once:
                    vfs.drop_unused(entry)
                    break
                vfs.count_lookup(entry)
                self._tell(entry.inode)
                assert entry.name.decode() not in found, "a name twice"
                found[entry.name.decode()] = (entry.inode.info.kind, entry.inode.info.size)
                cookie, taken = entry.cookie, taken + 1
            vfs.record_told(handle, cookie)
        return found

    @rule(
        name=st.sampled_from(NAMES),
        key=st.sampled_from(DIRECTORIES),
        told=st.integers(1, 3),
        changed=st.sampled_from(KEYS),
        is_put=st.booleans(),
    )
    def list_while_the_server_dies(self, name: str, key: str, told: int, changed: str, is_put: bool) -> None:
        """A reader in the midst of a directory goes on: what is there all the time comes once, nothing comes twice."""
        inode = self._find(name, key)
        if inode is None or inode.info.kind is not Kind.DIRECTORY:
            return
        mounted = self.aliases[name]
        states = self._allowed(mounted)
        try:
            before, cookie = self.portal.call(self._read_once, inode.number, 0, told)
            _ = self.put(mounted.url, changed, 1) if is_put else self.remove(mounted.url, changed)
            self.the_server_dies("none", 0)
            names = [*before]
            while before:
                before, cookie = self.portal.call(self._read_once, inode.number, cookie, 2)
                names += before
        except StoreError:
            assert self.places[mounted.url].down, "an error though the store is there"
            return
        except (NotFound, NotADirectory):
            assert any(answer(tree, key) != (Kind.DIRECTORY, 0) for tree in [*states, self.places[mounted.url].now])
            return
        trees = [children(tree, key) for tree in [*states, self.places[mounted.url].now]]
        assert len(names) == len(set(names)), "a name twice"
        assert set.intersection(*map(set, trees)) <= set(names) <= set.union(*map(set, trees))

    async def _read_once(self, number: InodeNo, cookie: int, at_once: int) -> tuple[list[str], int]:
        vfs, names = self.world.vfs, []
        for entry in await vfs.readdir(HandleNo(number), cookie):
            if len(names) == at_once:
                vfs.drop_unused(entry)
                break
            vfs.count_lookup(entry)
            self._tell(entry.inode)
            names.append(entry.name.decode())
            cookie = entry.cookie
        vfs.record_told(HandleNo(number), cookie)
        return names, cookie

    @rule()
    def list_root(self) -> None:
        found = self.portal.call(self._read_directory, ROOT_INODE, 100)
        assert list(found) == list(self.aliases)

    @rule(target=readers, name=st.sampled_from(NAMES), key=st.sampled_from(KEYS))
    def open(self, name: str, key: str) -> Reader | None:
        inode = self._find(name, key)
        if inode is None or inode.info.kind is not Kind.FILE:
            return None
        mounted = self.aliases[name]
        place = self.places[mounted.url]
        try:
            self.portal.call(self.world.vfs.open, inode.number, os.O_RDONLY)
        except StaleObject:
            raise AssertionError("stale, though it was looked up just now") from None
        etags = {inode.info.etag}
        versions = {tree[key] for tree in [*(tree for _, tree in place.past), place.now] if key in tree}
        content = next(content for content in versions if _etag(content) in etags)
        number, states = inode.number, len(place.past)
        reader = Reader(number, inode.volume, mounted.url, key, content, states, self.generation, name)
        self.live.append(reader)
        return reader

    @rule(reader=readers, start=st.floats(0, 1), size=st.sampled_from((1, 4096, 131072, 10 * BLOCK_BYTES)))
    def read(self, reader: Reader | None, start: float, size: int) -> None:
        if reader is None or reader.generation != self.generation:
            return
        offset = int(start * (len(reader.content) + 1))
        place = self.places[reader.url]
        try:
            content = self.portal.call(self.world.vfs.read, HandleNo(reader.number), offset, size)
        except StaleObject:
            states = [tree for _, tree in place.past[reader.states :]] + [place.now]
            changed = any(
                tree.get(reader.key) != reader.content or answer(tree, reader.key) != (Kind.FILE, len(reader.content))
                for tree in states
            )
            assert reader.volume.retired or changed or reader.is_doubtful, "stale, though it did not change"
        except StoreError:
            assert place.down, "an error though the store is there"
        else:
            assert not reader.volume.retired or reader.is_doubtful
            assert bytes(memoryview(content)) == reader.content[offset : offset + size], "other bytes"

    @rule(really=st.integers(0, 3))
    def forget_all(self, really: int) -> None:
        """The kernel closes all files and forgets everything."""
        if really:
            return
        self.portal.call_sync(self.world.vfs.forget, [*self.lookups.items(), *self.lost.items()])
        told, undead = self.told, self.undead
        self.kernel_knows_nothing()
        self.told, self.undead = told, undead
        assert self._inodes_held().keys() <= undead
        assert undead or self.world.vfs.statistics().inodes == 1

    # always

    @invariant()
    def the_budget_holds(self) -> None:
        statistics = self.disk.statistics()
        assert statistics.used_bytes <= BUDGET_BYTES
        assert allocated_bytes(self.disk.objects) <= BUDGET_BYTES

    @precondition(lambda self: self.lookups)
    @invariant()
    def the_kernel_is_never_forgotten(self) -> None:
        assert self.world.vfs.statistics().inodes >= len(self.lookups.keys() | {ROOT_INODE})


def _registry(aliases: list[Any]) -> Any:
    from aliasfs.registry import Registry

    return Registry(aliases)


def _identity(inode: Any) -> object:
    info = inode.info
    return inode.volume.store.target, info.key, info.kind, info.size, info.etag


def _etag(content: bytes) -> str:
    import xxhash

    return f'"{xxhash.xxh3_128_hexdigest(content)}"'


VfsMachine.TestCase.settings = settings(
    max_examples=int(os.environ.get("MODEL_EXAMPLES", "150")),
    stateful_step_count=50,
    deadline=None,
    print_blob=True,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
TestVfsModel = VfsMachine.TestCase
