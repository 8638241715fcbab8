"""The one exit to data: the `Store` protocol and the values that pass through it.

The docstrings below are the contract; `tests/contract` runs one suite for them over every store. A store
is stateless as far as callers can see: no cache of names or bytes, no hidden current position. All
methods are trio-async, safe to call from many tasks at once, and raise only classes of `aliasfs.errors`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, NewType, Protocol, runtime_checkable

from typing_extensions import Buffer

from aliasfs.extents import Extent

Etag = NewType("Etag", str)
"""Opaque name of one version of an object, as the store gives it; equal only for equal bytes."""

NO_ETAG = Etag("")
"""The etag of what has no versions: directories and links."""


class Kind(Enum):
    """What a key is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"


class ObjectId(NamedTuple):
    """The immutable name of some bytes: one version of one object; the key of every cache of data.

    *target* identifies the place the alias points to (`Store.target`), *key* the object in it, *etag* its
    version, *size* its length in bytes (so that whoever reads knows the end of file). Holds no
    credentials, so it may be written to disk.
    """

    target: str
    key: str
    etag: Etag
    size: int


@dataclass(frozen=True, slots=True)
class LocalMeta:
    """What only a local file system knows of a file: identity, permission bits, owner.

    *fingerprint* tells it from a later file that was given its inode number; 0 where the file system cannot.
    """

    device: int
    inode: int
    mode: int
    uid: int
    gid: int
    fingerprint: int = 0

    @property
    def identity(self) -> tuple[int, int, int]:
        """What stays the same as long as the file lives, and is never that of another one."""
        return self.device, self.inode, self.fingerprint


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store says of one key.

    *key* is relative to the alias root, without leading or trailing slash. *size* is in bytes, 0 for a
    directory. *mtime_ns* is ns since the epoch; 0 where the store knows none (directories of object
    stores). *local* is set by the local store alone.
    """

    key: str
    kind: Kind
    size: int
    mtime_ns: int
    etag: Etag
    local: LocalMeta | None = None

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]


def directory_info(key: str) -> ObjectInfo:
    """Return what is known of a directory that exists only because keys lie below it."""
    return ObjectInfo(key, Kind.DIRECTORY, 0, 0, NO_ETAG)


class Content(Protocol):
    """Something that reads bytes of a version: every store, and every cache that wraps one."""

    async def read(self, oid: ObjectId, extent: Extent) -> Buffer:
        """Return exactly `extent.length` bytes of *oid*.

        *extent* is half-open, in bytes, non-empty and within [0, size): the caller clips at end of file.
        Always a checkpoint. Raises StaleObject when the store no longer has this etag, NotFound when the
        object is gone, CorruptObject when fewer bytes came than were promised (after retries).
        """
        ...


@runtime_checkable
class Store(Content, Protocol):
    """One place, addressed by keys relative to its root."""

    @property
    def target(self) -> str:
        """Canonical identity of the place: URL and, where it matters, endpoint; never a credential.

        Two stores with equal targets hold the same objects, so they may share cached bytes.
        """
        ...

    @property
    def engine(self) -> str:
        """What carries the bytes: `local`, `obstore`, `fsspec` or `memory`."""
        ...

    async def stat(self, key: str) -> ObjectInfo:
        """Return what *key* is; "" is the root.

        A directory of an object store exists when a key lies below it, and wins over an object of the
        same name. The root of a place that exists is a directory even when nothing is in it. Raises
        NotFound (also for a missing bucket or root), InvalidName (`//`, `.`, `..` or NUL in the key),
        AccessDenied, StoreTimeout, StoreUnavailable.
        """
        ...

    def list(self, key: str) -> AsyncIterator[Sequence[ObjectInfo]]:
        """Yield the entries of the directory *key* in pages, as the store sends them, each name once.

        Entries whose names a file system cannot show (empty, `.`, `..`, NUL, a newline is fine, more
        than 255 bytes in UTF-8) are left out, with one warning per directory that counts them. Raises
        NotFound when nothing is there, NotADirectory when *key* is a file; both before the first page.
        The caller closes the iterator (`aclose`) when it stops early.
        """
        ...

    async def readlink(self, key: str) -> str:
        """Return the target of the symbolic link *key* as it is stored; NotALink for anything else."""
        ...

    async def aclose(self) -> None:
        """Give back connections, threads and descriptors; safe to call twice."""
        ...
