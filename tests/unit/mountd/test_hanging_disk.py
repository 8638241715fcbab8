"""A cache disk that does not answer holds up those who read from it, until they are cancelled, and nobody else."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import trio
from support.counting_content import CountingContent
from trio.testing import MockClock

from aliasfs.extents import Extent
from mountd.blockfile import BLOCK_BYTES
from mountd.blocks import BlockCache
from mountd.disk import CacheDisk


async def test_a_reader_that_is_cancelled_does_not_wait_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    store = CountingContent()
    hanging, other = store.put("hanging", BLOCK_BYTES), store.put("other", BLOCK_BYTES)
    goes_on = threading.Event()
    disk = CacheDisk.open(tmp_path, 1 << 30)

    def read(*_: object) -> dict[range, memoryview]:
        goes_on.wait()
        return {}

    monkeypatch.setattr(disk, "read", read)
    monkeypatch.setattr(disk, "may_hold", lambda oid: oid == hanging)
    try:
        async with trio.open_nursery() as nursery:
            cache = BlockCache(disk)
            await nursery.start(cache.run)
            view = cache.wrap(store)
            with trio.move_on_after(27) as deadline:
                await view.read(hanging, Extent(0, 10))
            assert deadline.cancelled_caught
            assert await view.read(other, Extent(0, 10)) == store.content(other)[:10]
            nursery.cancel_scope.cancel()
    finally:
        goes_on.set()
        disk.close()
