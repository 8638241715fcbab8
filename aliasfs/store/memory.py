"""A store in memory: the verified fake that tests of upper rooms stand on.

It behaves as an object store does and passes the contract suite; on top of that it can be told to fail,
and counts what it is asked. `put`, `remove` and the faults are plain methods that act at once, so that a
test can play "another client" between any two checkpoints.
"""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import trio
import xxhash

from aliasfs.errors import AliasfsError, CorruptObject, IsADirectory, NotADirectory, NotALink, NotFound, StaleObject
from aliasfs.extents import Extent
from aliasfs.store.base import NO_ETAG, Etag, Kind, ObjectId, ObjectInfo, directory_info
from aliasfs.store.names import LeftOut, checked_key, child_key

Operation = Literal["stat", "list", "read", "readlink"]

FIRST_MTIME_NS = 1_700_000_000_000_000_000
"""The mtime of the first object; each later one is a second younger, so that mtimes are deterministic."""


@dataclass(frozen=True, slots=True)
class _Object:
    content: bytes
    etag: Etag
    mtime_ns: int
    link: str | None = None

    def info(self, key: str) -> ObjectInfo:
        if self.link is not None:
            return ObjectInfo(key, Kind.SYMLINK, len(self.link.encode()), self.mtime_ns, NO_ETAG)
        return ObjectInfo(key, Kind.FILE, len(self.content), self.mtime_ns, self.etag)


class Faults:
    """What shall go wrong, per operation; one-shot faults are taken in the order in which they were given."""

    def __init__(self) -> None:
        self._errors: defaultdict[Operation, deque[Callable[[], AliasfsError]]] = defaultdict(deque)
        self._delays_s: dict[Operation, float] = {}
        self._gates: dict[Operation, trio.Event] = {}

    def fail(self, operation: Operation, error: type[AliasfsError], *, times: int = 1) -> None:
        """Let the next *times* calls of *operation* raise *error*."""
        self._errors[operation].extend([lambda: error(f"injected: {operation} fails with {error.__name__}")] * times)

    def short_body(self, *, times: int = 1) -> None:
        """Let the next *times* reads get fewer bytes than were promised."""
        self.fail("read", CorruptObject, times=times)

    def delay(self, operation: Operation, seconds: float) -> None:
        """Let every call of *operation* sleep for *seconds* first (0: no more)."""
        self._delays_s[operation] = seconds

    def hang(self, operation: Operation) -> trio.Event:
        """Let calls of *operation* wait until the returned event is set."""
        self._gates[operation] = trio.Event()
        return self._gates[operation]

    def clear(self) -> None:
        """Forget all faults; calls that hang go on."""
        for gate in self._gates.values():
            gate.set()
        self._errors.clear()
        self._delays_s.clear()
        self._gates.clear()

    async def strike(self, operation: Operation) -> None:
        """Do what was asked for *operation*; always a checkpoint."""
        await trio.sleep(self._delays_s.get(operation, 0))
        if operation in self._gates:
            await self._gates[operation].wait()
        if self._errors[operation]:
            raise self._errors[operation].popleft()()


class MemoryStore:
    """Objects in a dict; *page_keys* is the most entries one page of a listing has."""

    def __init__(self, target: str = "memory://test", *, page_keys: int = 1000) -> None:
        self._target = target
        self._page_keys = page_keys
        self._objects: dict[str, _Object] = {}
        self._sorted: list[str] = []
        self._puts = 0
        self._replacements: dict[str, bytes] = {}
        self._exists = True
        self.faults = Faults()
        self.requests: Counter[Operation] = Counter()
        self.bytes_read = 0

    @property
    def target(self) -> str:
        return self._target

    @property
    def engine(self) -> str:
        return "memory"

    def put(self, key: str, content: bytes) -> Etag:
        """Create or replace the object *key*, as another client would, and return its etag."""
        etag = Etag(f'"{xxhash.xxh3_128_hexdigest(content)}"')
        self._keep(key, _Object(content, etag, self._next_mtime_ns()))
        return etag

    def put_link(self, key: str, target: str) -> None:
        """Create or replace the symbolic link *key*."""
        self._keep(key, _Object(b"", NO_ETAG, self._next_mtime_ns(), link=target))

    def remove(self, key: str) -> None:
        """Remove *key*; KeyError when it is not there."""
        del self._objects[key]
        del self._sorted[bisect.bisect_left(self._sorted, key)]

    def remove_root(self) -> None:
        """Let the whole place be gone, as a deleted bucket is."""
        self._objects.clear()
        self._sorted.clear()
        self._exists = False

    def replace_during_read(self, key: str, content: bytes) -> None:
        """Replace *key* with *content* in the middle of its next read."""
        self._replacements[key] = content

    def object_id(self, key: str) -> ObjectId:
        """Return the id of the present version of *key*; KeyError when it is not there."""
        found = self._objects[key]
        return ObjectId(self._target, key, found.etag, len(found.content))

    def _keep(self, key: str, item: _Object) -> None:
        self._exists = True
        if key not in self._objects:
            bisect.insort(self._sorted, key)
        self._objects[key] = item

    def _next_mtime_ns(self) -> int:
        self._puts += 1
        return FIRST_MTIME_NS + self._puts * 1_000_000_000

    def _is_directory(self, key: str) -> bool:
        if not self._exists:
            raise NotFound(f"{self._target} does not exist")
        if not key:
            return True
        position = bisect.bisect_left(self._sorted, f"{key}/")
        return position < len(self._sorted) and self._sorted[position].startswith(f"{key}/")

    async def stat(self, key: str) -> ObjectInfo:
        checked_key(key)
        self.requests["stat"] += 1
        await self.faults.strike("stat")
        if self._is_directory(key):
            return directory_info(key)
        if key in self._objects:
            return self._objects[key].info(key)
        raise NotFound(f"{self._target} has no {key!r}")

    async def list(self, key: str) -> AsyncIterator[Sequence[ObjectInfo]]:
        checked_key(key)
        self.requests["list"] += 1
        await self.faults.strike("list")
        if not self._is_directory(key):
            if key in self._objects:
                raise NotADirectory(f"{self._target}/{key} is a file")
            raise NotFound(f"{self._target} has no {key!r}")
        entries = self._entries(key)
        for start in range(0, len(entries), self._page_keys):
            if start:
                self.requests["list"] += 1
                await self.faults.strike("list")
            yield entries[start : start + self._page_keys]

    def _entries(self, key: str) -> Sequence[ObjectInfo]:
        left_out = LeftOut(self._target, key)
        prefix = f"{key}/" if key else ""
        found: dict[str, ObjectInfo] = {}
        for full in self._sorted[bisect.bisect_left(self._sorted, prefix) :]:
            if not full.startswith(prefix):
                break
            name, slash, _ = full.removeprefix(prefix).partition("/")
            if full == prefix or left_out.hides(name):
                continue
            child = child_key(key, name)
            if not slash:
                found[name] = self._objects[full].info(child)
            elif name not in found or found[name].kind is not Kind.DIRECTORY:
                if name in found:
                    left_out.add("hidden by directories of the same name")
                found[name] = directory_info(child)
        left_out.warn()
        return list(found.values())

    async def read(self, oid: ObjectId, extent: Extent) -> bytes:
        self.requests["read"] += 1
        self._check(oid)
        await self.faults.strike("read")
        if oid.key in self._replacements:
            self.put(oid.key, self._replacements.pop(oid.key))
        content = self._check(oid)[extent.start : extent.stop]
        if len(content) != extent.length:
            raise CorruptObject(f"{self._target}/{oid.key} has {oid.size} bytes; {extent} goes beyond its end")
        self.bytes_read += len(content)
        return content

    def _check(self, oid: ObjectId) -> bytes:
        found = self._objects.get(oid.key)
        if found is None:
            if self._is_directory(oid.key):
                raise IsADirectory(f"{self._target}/{oid.key} is a directory")
            raise NotFound(f"{self._target} has no {oid.key!r}")
        if (found.etag, len(found.content)) != (oid.etag, oid.size):
            raise StaleObject(f"{self._target}/{oid.key} was replaced since it was opened")
        return found.content

    async def readlink(self, key: str) -> str:
        checked_key(key)
        self.requests["readlink"] += 1
        await self.faults.strike("readlink")
        found = self._objects.get(key)
        if found is None and not self._is_directory(key):
            raise NotFound(f"{self._target} has no {key!r}")
        if found is None or found.link is None:
            raise NotALink(f"{self._target}/{key} is no symbolic link")
        return found.link

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
