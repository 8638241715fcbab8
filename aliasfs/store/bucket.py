"""A bucket or container as its library shows it, and the rules by which its keys become a tree.

`Bucket` is the asyncio side: raw keys from the root of the bucket, one coroutine per request. `Listing` is
pure: it turns raw pages into entries, each name once, however the pages are cut.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from typing_extensions import Buffer

from aliasfs.store.base import Etag, Kind, ObjectInfo, directory_info
from aliasfs.store.names import LeftOut, child_key

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")

PAGE_KEYS = 1000
"""The most keys S3 sends in one page; Azure sends up to 5,000, but the first entries then come later."""


class RawObject(NamedTuple):
    """One object: its full key, size in bytes, mtime in ns since the epoch, and etag as If-Match wants it.

    *is_directory* is set where the store itself marks an object as a directory (Azure with hierarchical
    namespace).
    """

    key: str
    size: int
    mtime_ns: int
    etag: Etag
    is_directory: bool = False


class RawPage(NamedTuple):
    """One page of a listing with delimiter `/`; *prefixes* end in `/`, *token* is None on the last page."""

    objects: Sequence[RawObject]
    prefixes: Sequence[str]
    token: str | None


class RawRange(NamedTuple):
    """Bytes of one version of an object: where they begin, and that version's whole size."""

    body: Buffer
    start: int
    size: int
    etag: Etag


def content_range(header: str) -> tuple[int, int]:
    """Return where the bytes of an answer begin and how long the whole object is, by its Content-Range.

    -1 stands for what *header* does not say (RFC 9110 §14.4), as that of an answer without a range.
    """
    match = _CONTENT_RANGE.fullmatch(header)
    return (int(match[1]), int(match[2])) if match else (-1, -1)


class Bucket(Protocol):
    """One bucket; every method is a coroutine of asyncio and raises only classes of `aliasfs.errors`."""

    @property
    def engine(self) -> str:
        """The library that carries the bytes: `obstore` or `fsspec`."""
        ...

    async def head(self, key: str) -> RawObject:
        """Return the object *key*; raises NotFound."""
        ...

    async def page(self, prefix: str, token: str | None, limit: int) -> RawPage:
        """Return at most *limit* entries below *prefix*, from *token* on; raises NotFound for a missing bucket."""
        ...

    async def get(self, key: str, etag: Etag, start: int, stop: int) -> RawRange:
        """Return the bytes [start, stop) of the version *etag*.

        Raises StaleObject when the store has another version, NotFound when it has none.
        """
        ...

    async def aclose(self) -> None:
        """Close connections; safe to call twice."""
        ...


class Listing:
    """The entries of one directory, out of raw pages.

    A key `a` and keys below `a/` are one name, the directory; what sorts between them (`a-b`, `a.txt`) may
    put them on different pages. So an object whose name begins the last key of a page is held back until
    the next page shows whether a directory of its name follows.
    """

    def __init__(self, target: str, directory: str, prefix: str) -> None:
        self._directory = directory
        self._prefix = prefix
        self._left_out = LeftOut(target, directory)
        self._held: dict[str, ObjectInfo] = {}
        self._directories: set[str] = set()
        self.seen_any = False

    def add(self, page: RawPage) -> list[ObjectInfo]:
        """Take in *page*, and return the entries that are settled by it."""
        self.seen_any = self.seen_any or bool(page.objects or page.prefixes)
        directories = self._names_of_directories(page)
        files = {**self._held, **self._files(page)}
        for name in (directories | self._directories) & files.keys():
            del files[name]
            self._left_out.add("hidden by directories of the same name")
        self._held = {}
        if page.token is not None:
            last = self._last_name(page)
            self._held = {name: files.pop(name) for name in [n for n in files if last.startswith(n)]}
        fresh = sorted(directories - self._directories)
        self._directories = directories
        entries = [directory_info(child_key(self._directory, name)) for name in fresh]
        entries.extend(files.values())
        return entries

    def finish(self) -> None:
        """Say in one warning what was left out; after the last page."""
        self._left_out.warn()

    def _names_of_directories(self, page: RawPage) -> set[str]:
        start = len(self._prefix)
        names = {prefix[start:-1] for prefix in page.prefixes}
        names.update(item.key[start:] for item in page.objects if item.is_directory and item.key != self._prefix)
        return {name for name in names if not self._left_out.hides(name)}

    def _files(self, page: RawPage) -> dict[str, ObjectInfo]:
        start, directory = len(self._prefix), self._directory
        files: dict[str, ObjectInfo] = {}
        for item in page.objects:
            name = item.key[start:]
            if not name or item.is_directory:  # `dir/`, the marker of the directory itself
                continue
            if not self._left_out.hides(name):
                files[name] = ObjectInfo(child_key(directory, name), Kind.FILE, item.size, item.mtime_ns, item.etag)
        return files

    def _last_name(self, page: RawPage) -> str:
        return max([item.key for item in page.objects[-1:]] + list(page.prefixes[-1:]), default="")[len(self._prefix) :]
