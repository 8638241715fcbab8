"""Descriptors whose owners may give up on them while a thread still works with them.

A cancelled task leaves a blocked thread behind (a dead NFS server can hold it for minutes), so nothing may
be closed under a thread, and nothing may stay open when it comes back.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from aliasfs.store.handles import fingerprint


class OpenFile:
    """A descriptor that is closed when it is both discarded and no longer in use; used by one trio loop."""

    __slots__ = ("_discarded", "_users", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._users = 0
        self._discarded = False

    @contextmanager
    def in_use(self) -> Iterator[int]:
        self._users += 1
        try:
            yield self.fd
        finally:
            self._users -= 1
            self._close_if_done()

    def discard(self) -> None:
        """Close the descriptor, now or when its last user is done; safe to call twice."""
        if not self._discarded:
            self._discarded = True
            self._close_if_done()

    def _close_if_done(self) -> None:
        if self._discarded and not self._users:
            os.close(self.fd)


class Opening:
    """Opens a file in a thread that may outlive its caller; a descriptor that nobody took is closed."""

    def __init__(self, open_file: Callable[[], int]) -> None:
        self._open_file = open_file
        self._lock = threading.Lock()
        self._abandoned = False
        self._fds: list[int] = []

    def run(self) -> None:
        fd = self._open_file()
        with self._lock:
            self._fds.append(fd)
            if self._abandoned:
                os.close(self._fds.pop())

    def take(self) -> int:
        """Return the descriptor, which is the caller's from now on; only after `run` has returned."""
        with self._lock:
            return self._fds.pop()

    def abandon(self) -> None:
        with self._lock:
            self._abandoned = True
            while self._fds:
                os.close(self._fds.pop())


class Scan:
    """A directory listed page by page in threads; *open_directory* opens it when the first page is asked for."""

    def __init__(self, open_directory: Callable[[], int], page_entries: int) -> None:
        self._open_directory = open_directory
        self._page_entries = page_entries
        self._lock = threading.Lock()
        self._closed = False
        self._entries: Iterator[os.DirEntry[str]] | None = None
        self._fd = -1
        self._resources = ExitStack()

    def next_page(self) -> Sequence[tuple[str, os.stat_result, int]]:
        """Return name, status (of links, not their targets) and handle of the next entries; none at the end.

        Blocks.
        """
        try:
            with self._lock:
                return self._next_page()
        finally:
            if self._closed:
                self.close()

    def _next_page(self) -> Sequence[tuple[str, os.stat_result, int]]:
        if self._entries is None:
            self._fd = self._open_directory()
            self._resources.callback(os.close, self._fd)
            self._entries = self._resources.enter_context(os.scandir(self._fd))
        page: list[tuple[str, os.stat_result, int]] = []
        while not page:
            raw = list(itertools.islice(self._entries, self._page_entries))
            if not raw:
                break
            for entry in raw:
                with suppress(FileNotFoundError):  # removed while it was listed
                    status = entry.stat(follow_symlinks=False)
                    page.append((entry.name, status, fingerprint(self._fd, os.fsencode(entry.name))))
        return page

    def close(self) -> None:
        """Close the directory; if a thread is at work in it, that thread does so when it is done."""
        self._closed = True
        if self._lock.acquire(blocking=False):
            try:
                self._resources.close()
            finally:
                self._lock.release()
