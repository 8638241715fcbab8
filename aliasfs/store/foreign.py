"""Opening any URL with fsspec, and what its many errors mean; every function blocks.

File systems are made for one store alone: fsspec shares instances and caches listings unless told not to.
"""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

from aliasfs.errors import AccessDenied, AliasfsError, ConfigError, IsADirectory, NotFound, StoreError
from aliasfs.store import failures
from aliasfs.store.archive import ArchiveTree
from aliasfs.store.base import ObjectInfo
from aliasfs.store.tree import FileTree

_OWN = {"skip_instance_cache": True, "use_listings_cache": False}


class ForeignTree:
    """What lies below *url*; opened with the first call, and anew when the archive it stands on has changed."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self._url = url
        self._options = options
        self._lock = threading.Lock()
        self._tree: FileTree | None = None

    def info(self, key: str) -> ObjectInfo:
        """Return what *key* is."""
        return self._current().info(key)

    def entries(self, key: str) -> Sequence[ObjectInfo]:
        """Return what lies directly in the directory *key*, each name once."""
        return self._current().entries(key)

    def read(self, key: str, start: int, stop: int) -> tuple[ObjectInfo, bytes, ObjectInfo]:
        """Return bytes of *key*, between what is said of it before and after they were taken."""
        tree = self._current()
        before = tree.info(key)
        body = tree.read(key, start, stop)
        return before, body, self._current().info(key)

    def close(self) -> None:
        """Give back what is open; safe to call twice."""
        with self._lock:
            tree, self._tree = self._tree, None
        if tree is not None:
            tree.close()

    def _current(self) -> FileTree:
        with self._lock:
            if self._tree is None or not self._tree.is_current():
                self._tree = open_tree(self._url, self._options)
            return self._tree


def open_tree(url: str, options: Mapping[str, Any]) -> FileTree:
    """Return the tree at the fsspec *url*; *options* as fsspec takes them: per protocol, or for the first one."""
    from fsspec.archive import AbstractArchiveFileSystem
    from fsspec.core import url_to_fs

    first, *others = [link.partition("://")[0] for link in url.split("::")]
    nested = {name: {**_OWN, **(options.get(name) or {})} for name in others}
    top = {name: value for name, value in options.items() if name not in (first, *others)}
    fs, root = url_to_fs(url, **nested, **{first: {**_OWN, **top, **(options.get(first) or {})}})
    if not others or not isinstance(fs, AbstractArchiveFileSystem):
        return FileTree(fs, root)
    return ArchiveTree(fs, root, FileTree(*url_to_fs(url.partition("::")[2], **nested)))


_OURS: tuple[tuple[type[Exception], type[AliasfsError], str], ...] = (
    (FileNotFoundError, NotFound, "does not exist"),
    (NotADirectoryError, NotFound, "does not exist"),
    (IsADirectoryError, IsADirectory, "is a directory"),
    (PermissionError, AccessDenied, "the store refuses access; check the credentials of the alias"),
    (zipfile.BadZipFile, StoreError, "is no zip archive, or a broken one"),
    (NotImplementedError, StoreError, "this kind of store cannot do that"),
)


def translated(error: Exception, place: str) -> AliasfsError:
    """Return what *error*, of whatever library serves *place*, means."""
    if isinstance(error, AliasfsError):
        return error
    for theirs, ours, what in _OURS:
        if isinstance(error, theirs):
            return ours(f"{place} {what}" if ours in (NotFound, IsADirectory) else f"{place}: {what}")
    for cause in (error, error.__cause__):
        library = type(cause).__module__.partition(".")[0]
        if isinstance(cause, Exception) and library in ("botocore", "azure", "aiohttp"):
            return _of_library(library, cause, place)
    if isinstance(error, TimeoutError):
        return failures.timed_out(place)
    if isinstance(error, OSError):
        return failures.unreachable(place)
    if isinstance(error, ImportError):
        package = f" ({error.name})" if error.name else ""
        return ConfigError(f"{place}: a Python package for this kind of store is missing{package}; install it with pip")
    if isinstance(error, ValueError | TypeError):
        return ConfigError(f"{place}: fsspec does not accept this URL with these options ({type(error).__name__})")
    return StoreError(f"{place}: the library that serves it failed ({type(error).__name__})")


def _of_library(library: str, error: Exception, place: str) -> AliasfsError:
    from aliasfs.store import azure, http, s3

    translators = {"botocore": s3.translated, "azure": azure.translated, "aiohttp": http.translated}
    return translators[library](error, place)
