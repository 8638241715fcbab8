"""What the endpoint gives without any file system: obstore with 16 requests in flight.

Prints the same JSON as `benchmarks.readers`, for the steps where nothing is cached yet. Bytes are kept
until the end of each request and then thrown away.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path

import obstore
from obstore.store import S3Store
from typing_extensions import Buffer

_IN_FLIGHT = 16
_PART_BYTES = 8 << 20


class Client:
    """The bucket *bench* of the rig at *port*, with a bound on requests in flight."""

    def __init__(self, port: str) -> None:
        self._store = S3Store(
            "bench",
            endpoint=f"http://127.0.0.1:{port}",
            access_key_id="x",
            secret_access_key="y",
            region="us-east-1",
            client_options={"allow_http": True},
        )
        self._gate = asyncio.Semaphore(_IN_FLIGHT)

    async def part(self, key: str, start: int, length: int) -> int:
        """Return how many bytes one ranged GET brought."""
        async with self._gate:
            return len(await obstore.get_range_async(self._store, key, start=start, length=length))

    async def whole(self, key: str) -> int:
        """Return how many bytes one GET of a whole object brought."""
        async with self._gate:
            return len(await (await obstore.get_async(self._store, key)).bytes_async())

    async def first(self, key: str) -> int:
        """Read the first 4 KiB of *key*."""
        return await self.part(key, 0, 4096)

    async def sequential(self, key: str) -> int:
        """Read *key* in parts of 8 MiB."""
        size = (await obstore.head_async(self._store, key))["size"]
        parts = (self.part(key, start, min(_PART_BYTES, size - start)) for start in range(0, size, _PART_BYTES))
        return sum(await asyncio.gather(*parts))

    async def many(self, directory: str, count: str) -> int:
        """Read the small files of *directory*."""
        return sum(await asyncio.gather(*(self.whole(f"{directory}/{number:05d}.bin") for number in range(int(count)))))

    async def scattered(self, key: str, count: str, length: str) -> int:
        """Read *length* bytes at *count* random places, one after the other."""
        generator = random.Random(1)
        size = (await obstore.head_async(self._store, key))["size"]
        places = [generator.randrange(size - int(length)) for _ in range(int(count))]
        return sum([await self.part(key, place, int(length)) for place in places])

    async def listing(self, directory: str) -> int:
        """List *directory*; returns the number of entries."""
        return len((await obstore.list_with_delimiter_async(self._store, directory))["objects"])

    async def copy(self, directory: str) -> int:
        """Put what the warm steps read below *directory*; files that are only listed get a size, no content."""
        for found in obstore.list(self._store, "listed").collect():
            _place(Path(directory, found["path"]), 0, b"", found["size"])
        keys = [found["path"] for found in obstore.list(self._store, "small").collect()]
        return sum(await asyncio.gather(*(self._copied(directory, key) for key in ["big/sequential.bin", *keys])))

    async def _copied(self, directory: str, key: str) -> int:
        size = (await obstore.head_async(self._store, key))["size"]
        for start in range(0, size, _PART_BYTES):
            length = min(_PART_BYTES, size - start)
            async with self._gate:
                content = await obstore.get_range_async(self._store, key, start=start, length=length)
            _place(Path(directory, key), start, content, size)
        return int(size)


def _place(path: Path, start: int, content: Buffer, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if path.exists() else "wb") as file:
        file.truncate(size)
        file.seek(start)
        file.write(content)


async def _measure(work: Coroutine[None, None, int]) -> dict[str, float]:
    begin = time.perf_counter()
    got = await work
    return {"seconds": time.perf_counter() - begin, "bytes": got}


def main(arguments: Sequence[str]) -> None:
    """Run one command (`PORT COMMAND ...`) and print what it measured."""
    port, command, *rest = arguments

    async def run() -> dict[str, float]:
        return await _measure(getattr(Client(port), command)(*rest))

    print(json.dumps(asyncio.run(run())), flush=True)
    os._exit(0)  # obstore 0.12: its threads sometimes abort an interpreter that is shutting down


if __name__ == "__main__":
    main(sys.argv[1:])
