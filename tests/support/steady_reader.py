"""A program that reads a mount and compares all it sees with the truth: `steady_reader.py KIND SHOWN TRUTH SEED`.

SHOWN is a directory of the mount, TRUTH the same tree on a disk. It reads until SIGTERM, or until it sees an error or
a difference, which is exit code 3. Its one line of output is JSON: what it did, its slowest operation, and every
operation that took longer than `STALL_S`, each with the time at which it began. With a further argument `forgiving`
it counts requests that fail because the server died, and makes them again. Standard library only.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

STALL_S = 0.1
PAUSE_AFTER_FAILURE_S = 0.1
FAILED_WITH_ITS_SERVER = (errno.EIO, errno.ENOTCONN, errno.ECONNABORTED)
PIECE_BYTES = 1 << 17
PAGE_BYTES = 4096
BIG = "big"
MAPPED = "mapped"
TREE = "tree"
NAMES = "names"

Tree = set[tuple[str, "int | None"]]
"""Paths below a root, each with its size, or None of a directory."""


class Difference(Exception):
    """The mount showed something else than the truth."""


class Reader:
    """Looks at the mount for a kind of reader, and keeps account of it."""

    def __init__(self, shown: str, truth: str, seed: int, forgives: bool) -> None:
        self.forgives = forgives
        self.forgiven = 0
        self.shown = shown
        self.truth = truth
        self.chance = random.Random(seed)
        self.operations = 0
        self.bytes = 0
        self.longest_s = 0.0
        self.stalls: list[tuple[float, float]] = []
        self.doing = ""

    def timed(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what the call returns; it counts as one operation."""
        self.doing = f"{function.__name__}{arguments!r}"[:300]
        began_at, began = time.time(), time.monotonic()
        result = self.made_good(function, *arguments) if self.forgives else function(*arguments)
        took_s = time.monotonic() - began
        self.operations += 1
        self.longest_s = max(self.longest_s, took_s)
        if took_s > STALL_S:
            self.stalls.append((began_at, took_s))
        return result

    def made_good(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what the call returns in the end; it may fail as requests do that a dead server had taken."""
        while True:
            try:
                return function(*arguments)
            except OSError as exc:
                if exc.errno not in FAILED_WITH_ITS_SERVER:
                    raise
                self.forgiven += 1
                time.sleep(PAUSE_AFTER_FAILURE_S)

    def same(self, seen: Any, wanted: Any) -> None:
        """Raise Difference unless both, bytes or sets, are equal."""
        if seen != wanted:
            if isinstance(seen, bytes):
                at = next(
                    (at for at, pair in enumerate(zip(seen, wanted, strict=False)) if len({*pair}) > 1), "the end"
                )
                raise Difference(f"{len(seen)} bytes in place of {len(wanted)}, other ones from {at} on")
            raise Difference(f"more: {sorted(seen - wanted)[:9]}, missing: {sorted(wanted - seen)[:9]}")
        self.bytes += len(seen)

    def open(self, name: str) -> int:
        fd: int = self.timed(os.open, os.path.join(self.shown, name), os.O_RDONLY)
        return fd

    def content(self, name: str) -> bytes:
        with open(os.path.join(self.truth, name), "rb") as file:
            return file.read()

    def compare_at(self, fd: int, content: bytes, longest: int) -> None:
        """Read at a random place, past the page cache, and compare."""
        offset = self.chance.randrange(len(content) or 1)
        size = self.chance.randrange(1, longest)
        forget_pages(fd)
        self.same(self.timed(os.pread, fd, size, offset), content[offset : offset + size])


def forget_pages(fd: int) -> None:
    """Have the kernel drop what it keeps of the file, so that reads reach the server."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def look(folder: str) -> list[tuple[str, int | None]]:
    """Return the names in *folder*, each with its size, or None for a directory."""
    with os.scandir(folder) as entries:
        return [(entry.name, None if entry.is_dir() else entry.stat().st_size) for entry in entries]


def tree_of(root: str, looked_at: Callable[[str], list[tuple[str, int | None]]] = look) -> Tree:
    """Return everything below *root*."""
    found: Tree = set()
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        below = [(os.path.join(folder, name), size) for name, size in looked_at(os.path.join(root, folder))]
        found.update(below)
        waiting += [path for path, size in below if size is None]
    return found


# The kinds. Each is a generator that yields after every step, so that `main` can pause or end there.


def sequential(reader: Reader) -> Iterator[None]:
    """Open, read from start to end, close, again and again."""
    content = reader.content(BIG)
    while True:
        fd = reader.open(BIG)
        forget_pages(fd)
        for offset in range(0, len(content) + PIECE_BYTES, PIECE_BYTES):
            reader.same(reader.timed(os.read, fd, PIECE_BYTES), content[offset : offset + PIECE_BYTES])
            yield
        os.close(fd)


def scattered(reader: Reader) -> Iterator[None]:
    """Read at random places of one file that stays open."""
    content = reader.content(BIG)
    fd = reader.open(BIG)
    while True:
        reader.compare_at(fd, content, 80_000)
        yield


def mapped(reader: Reader) -> Iterator[None]:
    """Touch a mapping at random places, none of whose pages is in memory."""
    content = reader.content(MAPPED)
    fd = reader.open(MAPPED)
    with mmap.mmap(fd, len(content), mmap.MAP_SHARED, mmap.PROT_READ) as view:
        while True:
            view.madvise(mmap.MADV_DONTNEED)
            forget_pages(fd)
            start = reader.chance.randrange(len(content))
            stop = start + reader.chance.randrange(1, 8 * PAGE_BYTES)
            reader.same(reader.timed(view.__getitem__, slice(start, stop)), content[start:stop])
            yield


def walk(reader: Reader) -> Iterator[None]:
    """`ls -lR`, with every name and size compared."""
    wanted = tree_of(os.path.join(reader.truth, TREE))
    while True:
        reader.same(tree_of(os.path.join(reader.shown, TREE), lambda folder: reader.timed(look, folder)), wanted)
        yield


def held(reader: Reader) -> Iterator[None]:
    """Keep files, a directory and the working directory open for ever; read, list and open through them."""
    os.chdir(os.path.join(reader.shown, TREE))
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    wanted = tree_of(os.path.join(reader.truth, TREE))
    names = sorted(path for path, size in wanted if size is not None)
    contents = {name: reader.content(os.path.join(TREE, name)) for name in names}
    open_files = {name: reader.timed(os.open, name, os.O_RDONLY) for name in names}
    top = {path for path, _ in wanted if "/" not in path}
    while True:
        name = reader.chance.choice(names)
        reader.compare_at(open_files[name], contents[name], 100_000)
        kind = reader.chance.randrange(4)
        if kind == 0:
            reader.same(set(reader.timed(os.listdir, directory)), top)
        elif kind == 1:
            fd = reader.timed(os.open, name, os.O_RDONLY)
            reader.same(reader.timed(os.read, fd, 1 << 20), contents[name])
            os.close(fd)
        yield


def listing(reader: Reader) -> Iterator[None]:
    """Read a long directory a few names at a time, in the middle of which servers come and go."""
    wanted = set(os.listdir(os.path.join(reader.truth, NAMES)))
    while True:
        names: list[str] = []
        with reader.timed(os.scandir, os.path.join(reader.shown, NAMES)) as entries:
            while (entry := reader.timed(next, entries, None)) is not None:
                names.append(entry.name)
                if len(names) % 20 == 0:
                    yield
        reader.same(set(names), wanted)
        if len(names) != len(wanted):
            raise Difference("a name twice")


KINDS = {"sequential": sequential, "random": scattered, "mmap": mapped, "walk": walk, "held": held, "listing": listing}
PAUSE_S = {"sequential": 0.02, "random": 0.03, "mmap": 0.03, "walk": 0.5, "held": 0.05, "listing": 0.03}
"""How long each waits between two steps, for all of them share the processors with the mount they read."""


def main(kind: str, shown: str, truth: str, seed: str, manner: str = "") -> None:
    """Read until SIGTERM, or until something is wrong."""
    reader = Reader(shown, truth, int(seed), manner == "forgiving")
    stopped: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    failure = ""
    try:
        for _ in KINDS[kind](reader):
            if stopped:
                break
            time.sleep(PAUSE_S[kind])
    except (OSError, Difference) as exc:
        name = errno.errorcode.get(exc.errno or 0, "") if isinstance(exc, OSError) else "wrong"
        failure = f"{name} {exc} in {reader.doing}, reader of {reader.shown} ({kind}) at {time.time():.3f}"
    report = {
        "kind": kind,
        "shown": shown,
        "operations": reader.operations,
        "bytes": reader.bytes,
        "longest_s": reader.longest_s,
        "stalls": reader.stalls,
        "forgiven": reader.forgiven,
        "failure": failure,
    }
    print(json.dumps(report), flush=True)
    os._exit(3 if failure else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
