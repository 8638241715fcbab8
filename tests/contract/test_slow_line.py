"""A server at the end of a slow line: who reads goes on at its speed, each request answered in its time."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from support.http_server import web_server
from support.relay import relay

from aliasfs.extents import Extent
from aliasfs.registry import Alias
from aliasfs.store import open_store
from aliasfs.store.base import Content, ObjectId, Store
from aliasfs.store.guard import GuardConfig, GuardedStore
from mountd.blocks import BlockCache, BlockCacheSettings
from mountd.readahead import ReadAhead

SCALE = 9
"""So much shorter than in life is all time here."""

ANSWER_S = 27 / SCALE
PATIENCE = GuardConfig(request_timeout_s=25 / SCALE)
BYTES_PER_S = 300_000
READ_BYTES = 128 << 10
BODY = random.Random(3).randbytes(2 << 20)


@asynccontextmanager
async def cached(store: Store) -> AsyncIterator[Content]:
    """Lend *store* as a mount reads it, without a disk."""
    cache = BlockCache(None, BlockCacheSettings(within_s=5 / SCALE))
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.run)
        yield ReadAhead(cache.wrap(store))
        nursery.cancel_scope.cancel()


async def read_all(content: Content, oid: ObjectId) -> bytes:
    """Read as the kernel does, each request with its deadline."""
    pieces = []
    for start in range(0, oid.size, READ_BYTES):
        with trio.fail_after(ANSWER_S):
            pieces.append(bytes(await content.read(oid, Extent(start, start + READ_BYTES))))
    return b"".join(pieces)


@pytest.mark.slow
async def test_a_reader_goes_on_at_the_speed_of_a_slow_line(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(BODY)
    with web_server(tmp_path, etags=True) as server, relay(server, BYTES_PER_S) as line:
        inner = open_store(Alias("A", line.url), request_timeout_s=PATIENCE.silence_s)
        store = GuardedStore(inner, "A", PATIENCE)
        info = await store.stat("large")
        oid = ObjectId(store.target, "large", info.etag, info.size)
        began_s = trio.current_time()
        async with cached(store) as content:
            assert await read_all(content, oid) == BODY
        took_s = trio.current_time() - began_s
        await store.aclose()
    assert store.health().errors == 0
    assert took_s > 0.8 * len(BODY) / BYTES_PER_S, "the line was as slow as it should be"
