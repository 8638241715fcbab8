"""A file system of fsspec below one path, its entries told as a store tells them; every function blocks."""

from __future__ import annotations

import calendar
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import xxhash

from aliasfs.errors import NotSupported
from aliasfs.store.base import Etag, Kind, ObjectInfo, directory_info
from aliasfs.store.names import child_key
from aliasfs.store.times import http_date_ns, iso_date_ns

_SUMS = frozenset({"etag", "checksum", "md5", "md5hash", "content_md5", "crc", "crc32c", "chksum", "sha", "generation"})
_TIMES = ("mtime", "lastmodified", "last-modified", "last_modified", "modified", "updated", "created", "date_time")
"""Names under which file systems tell checksums and a time of change, in lower case; the best time first."""


class FileTree:
    """What *fs* has below the path *root*; *lower_version* is that of the thing it all stands on, if any."""

    def __init__(self, fs: Any, root: str, lower_version: str = "") -> None:
        self._fs = fs
        self._root = root.rstrip("/")
        self._lower_version = lower_version

    def _path(self, key: str) -> str:
        return (f"{self._root}/{key}" if self._root else key) if key else self._root

    def is_current(self) -> bool:
        """Say whether this still shows what is there; False when what it stands on has changed."""
        return True

    def info(self, key: str) -> ObjectInfo:
        """Return what *key* is; raises what the file system raises, NotSupported for a file without versions."""
        return self._described(key, self._fs.info(self._path(key)))

    def entries(self, key: str) -> Sequence[ObjectInfo]:
        """Return what lies directly in the directory *key*, each name once, directories before files of their name."""
        path = self._path(key).strip("/")
        found: dict[str, ObjectInfo] = {}
        for said in self._fs.ls(self._path(key), detail=True):
            full = str(said["name"]).rstrip("/")
            if full.strip("/") == path:
                continue
            name = full.rpartition("/")[2]
            info = self._described(child_key(key, name), said)
            if name not in found or info.kind is Kind.DIRECTORY:
                found[name] = info
        return list(found.values())

    def read(self, key: str, start: int, stop: int) -> bytes:
        """Return the bytes [start, stop) of *key*, fewer at its end."""
        body: bytes = self._fs.cat_file(self._path(key), start=start, end=stop)
        return body

    def close(self) -> None:
        """Give back what is open; calls under way in other threads still finish."""

    def _described(self, key: str, said: Mapping[str, Any]) -> ObjectInfo:
        if said.get("type") == "directory":
            return directory_info(key)
        if said.get("size") is None:
            raise NotSupported(f"{key!r}: the store does not say how long this file is, so it cannot be read")
        lower = {name.lower(): value for name, value in said.items() if value is not None}
        sums = sorted((name, str(value)) for name, value in lower.items() if name in _SUMS)
        moment_ns = next((ns for name in _TIMES if (ns := _moment_ns(lower.get(name)))), 0)
        if not (sums or moment_ns or self._lower_version):
            raise NotSupported(f"{key!r}: the store tells neither checksum nor time of this file, so it has no version")
        size = int(said["size"])
        version = repr((self._lower_version, size, moment_ns, sums))
        etag = Etag(xxhash.xxh3_128_hexdigest(version.encode(errors="surrogateescape")))
        return ObjectInfo(key, Kind.FILE, size, moment_ns, etag)


def _moment_ns(value: object) -> int:
    """Return a time, however a file system tells it, in ns since the epoch and good to 1 us; 0 if it is none."""
    if isinstance(value, datetime):
        value = (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value * 1_000_000) * 1000
    if isinstance(value, tuple) and len(value) >= 6:  # zipfile.ZipInfo.date_time
        with suppress(ValueError, TypeError):
            return calendar.timegm(value[:6]) * 1_000_000_000
    if isinstance(value, str):
        for parse in (iso_date_ns, http_date_ns):
            with suppress(ValueError):
                return parse(value)
    return 0
