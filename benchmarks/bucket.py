"""What the rig serves: named slices of one block of pseudo-random bytes, and pages of their names.

The bytes live in a memfd, so that dropping the page cache (which the bench does to measure disk caches)
never makes the rig slower, and `sendfile` needs no copy. A slice costs nothing, so many objects share the
same bytes; every object still has an etag of its own. Keys sort as S3 sorts them (UTF-8 order, which is
the order of Python strings).
"""

from __future__ import annotations

import hashlib
import os
import random
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

_SEED = 20261120
_FILL_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Layout:
    """How much there is of everything; sizes in bytes. The defaults are those of the published table."""

    big_bytes: int = 1 << 30
    first_byte_objects: int = 5
    small_count: int = 3_000
    small_bytes: int = 100_000
    listed_count: int = 20_000


class StoredObject(NamedTuple):
    """One object: `size` bytes of the block from `start` on."""

    key: str
    start: int
    size: int
    etag: str


class Page(NamedTuple):
    """One page of a listing; *last* is where the next one begins, None on the last page."""

    objects: tuple[StoredObject, ...]
    prefixes: tuple[str, ...]
    last: str | None


def layout_objects(layout: Layout) -> Iterator[StoredObject]:
    """Yield every object that *layout* asks for, in no particular order."""
    yield _slice("big/sequential.bin", 0, layout.big_bytes)
    yield _slice("big/random.bin", 0, layout.big_bytes)
    for number in range(layout.first_byte_objects):
        yield _slice(f"big/first-{number}.bin", 0, layout.big_bytes // 16)
    room = max(1, layout.big_bytes - layout.small_bytes)
    for number in range(layout.small_count):
        yield _slice(f"small/{number:05d}.bin", number * layout.small_bytes % room, layout.small_bytes)
    for number in range(layout.listed_count):
        yield _slice(f"listed/sample-{number:06d}.json", number, 1 + number % 997)


def _slice(key: str, start: int, size: int) -> StoredObject:
    # The "-1" is what S3 gives multipart uploads: it tells clients that the etag is no MD5 of the content.
    digest = hashlib.md5(f"{_SEED}/{key}/{start}/{size}".encode(), usedforsecurity=False).hexdigest()
    return StoredObject(key, start, size, f'"{digest}-1"')


class Bucket:
    """An immutable set of objects over one memfd, which forked workers share."""

    def __init__(self, name: str, layout: Layout) -> None:
        """Fill the memfd: about one second for 256 MiB."""
        self.name = name
        self.objects = {found.key: found for found in layout_objects(layout)}
        self.keys = sorted(self.objects)
        self.fd = _filled_memfd(max((found.start + found.size for found in self.objects.values()), default=0))
        self.page = lru_cache(maxsize=256)(self._page)

    def _page(self, prefix: str, delimiter: str, after: str, limit: int) -> Page:
        """Return up to *limit* names beginning with *prefix* that sort behind *after* ("" for the first page).

        Names that hold *delimiter* behind the prefix are folded into one common prefix, as S3 does; an
        *after* that is such a prefix skips all below it.
        """
        objects: list[StoredObject] = []
        prefixes: list[str] = []
        folded = bool(delimiter) and after.startswith(prefix) and after.endswith(delimiter) and after != prefix
        at = bisect_left(self.keys, _successor(after)) if folded else bisect_right(self.keys, after)
        at = max(at, bisect_left(self.keys, prefix))
        last = after
        while at < len(self.keys) and self.keys[at].startswith(prefix):
            if len(objects) + len(prefixes) >= limit:
                return Page(tuple(objects), tuple(prefixes), last)
            key = self.keys[at]
            end = key.find(delimiter, len(prefix)) if delimiter else -1
            if end < 0:
                objects.append(self.objects[key])
                last, at = key, at + 1
            else:
                last = key[: end + len(delimiter)]
                prefixes.append(last)
                at = bisect_left(self.keys, _successor(last))
        return Page(tuple(objects), tuple(prefixes), None)

    def digest(self, found: StoredObject) -> str:
        """Return the SHA-256 of the bytes of *found*, in hex; about half a second for a GiB."""
        digest = hashlib.sha256()
        for start in range(found.start, found.start + found.size, _FILL_BYTES):
            digest.update(os.pread(self.fd, min(_FILL_BYTES, found.start + found.size - start), start))
        return digest.hexdigest()


def _successor(prefix: str) -> str:
    """Return the least string that sorts behind everything beginning with *prefix*."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _filled_memfd(size: int) -> int:
    generator = random.Random(_SEED)
    fd = os.memfd_create("aliasfs-bench")
    for start in range(0, size, _FILL_BYTES):
        os.pwrite(fd, generator.randbytes(min(_FILL_BYTES, size - start)), start)
    return fd
