"""The programs that read through a mount: plain open, read, close; the same for every system.

Each runs as a process of its own (`python -m benchmarks.readers COMMAND ...`), so that a mount that hangs
takes no more than this process with it, and prints one JSON object. Times run from the first system call
on the mount to the last, never over the start of Python. No advice is given to the kernel.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

_BUFFER_BYTES = 1 << 20


def first_bytes(path: str) -> dict[str, float]:
    """Open *path* and read 4 KiB."""
    begin = time.perf_counter()
    fd = os.open(path, os.O_RDONLY)
    got = len(os.read(fd, 4096))
    elapsed = time.perf_counter() - begin
    os.close(fd)
    return {"seconds": elapsed, "bytes": got}


def sequential(path: str, again: str = "") -> dict[str, float]:
    """Read *path* from begin to end in pieces of 1 MiB; with *again* twice, of which the second counts.

    Twice within one program, since a kernel that reclaims idle pages early (DAMON) leaves none between steps.
    """
    buffer = bytearray(_BUFFER_BYTES)
    if again:
        _read_whole(path, buffer)
    begin = time.perf_counter()
    got = _read_whole(path, buffer)
    return {"seconds": time.perf_counter() - begin, "bytes": got}


def many(directory: str, count: str, processes: str, again: str = "") -> dict[str, float]:
    """Read the files 00000.bin to *count* - 1 of *directory*, shared out over *processes*.

    With *again* 16 processes read them first, uncounted; see `sequential`.
    """
    if again:
        many(directory, count, "16")
    workers = int(processes)
    paths = [f"{directory}/{number:05d}.bin" for number in range(int(count))]
    go_read, go_write = os.pipe()
    said_read, said_write = os.pipe()
    children = []
    for shard in range(workers):
        if pid := os.fork():
            children.append(pid)
            continue
        os.close(go_write)
        try:
            _read_shard(paths[shard::workers], go_read, said_write)
        except OSError as problem:
            print(problem, file=sys.stderr, flush=True)
        finally:
            os._exit(0)
    os.close(go_read)
    os.close(said_write)
    _totals(said_read, workers)
    begin = time.perf_counter()
    os.close(go_write)
    got = _totals(said_read, workers)
    elapsed = time.perf_counter() - begin
    os.close(said_read)
    for pid in children:
        os.waitpid(pid, 0)
    return {"seconds": elapsed, "bytes": got}


def _read_shard(paths: Sequence[str], gate: int, saying: int) -> None:
    """Read *paths* when the pipe *gate* closes; say on the other that it may, and then what was read."""
    buffer = bytearray(_BUFFER_BYTES)
    os.write(saying, bytes(8))
    os.read(gate, 1)
    got = sum(_read_whole(path, buffer) for path in paths)
    os.write(saying, got.to_bytes(8, "little"))


def _totals(pipe: int, count: int) -> int:
    """Return the sum of *count* numbers, one from each child; less when children died."""
    return sum(int.from_bytes(os.read(pipe, 8), "little") for _ in range(count))


def scattered(path: str, count: str, length: str) -> dict[str, float]:
    """Read *length* bytes at each of *count* random places of *path*, one after the other."""
    generator = random.Random(1)
    fd = os.open(path, os.O_RDONLY)
    last = os.fstat(fd).st_size - int(length)
    places = [generator.randrange(last) for _ in range(int(count))]
    begin = time.perf_counter()
    got = sum(len(os.pread(fd, int(length), place)) for place in places)
    elapsed = time.perf_counter() - begin
    os.close(fd)
    return {"seconds": elapsed, "bytes": got}


def listing(directory: str) -> dict[str, float]:
    """Run `ls -l` on *directory*; "bytes" is the number of entries."""
    begin = time.perf_counter()
    output = subprocess.run(["ls", "-l", directory], check=True, stdout=subprocess.PIPE).stdout
    return {"seconds": time.perf_counter() - begin, "bytes": output.count(b"\n") - 1}


def digests(root: str, *keys: str) -> dict[str, str]:
    """Return the SHA-256 of every file *root*/*key*; a key that ends with a slash stands for all below it."""
    names: list[str] = []
    for key in keys:
        names += [key + name for name in os.listdir(f"{root}/{key}")] if key.endswith("/") else [key]
    with ThreadPoolExecutor(16) as threads:
        return dict(zip(names, threads.map(_digest, (f"{root}/{name}" for name in names)), strict=True))


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_whole(path: str, buffer: bytearray) -> int:
    fd = os.open(path, os.O_RDONLY)
    total = 0
    while got := os.readv(fd, [buffer]):
        total += got
    os.close(fd)
    return total


_COMMANDS: dict[str, Callable[..., dict[str, float] | dict[str, str]]] = {
    "first": first_bytes,
    "sequential": sequential,
    "many": many,
    "scattered": scattered,
    "listing": listing,
    "digests": digests,
}


def main(arguments: Sequence[str]) -> None:
    """Run one command and print what it measured."""
    print(json.dumps(_COMMANDS[arguments[0]](*arguments[1:])))


if __name__ == "__main__":
    main(sys.argv[1:])
