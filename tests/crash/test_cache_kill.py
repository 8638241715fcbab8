"""kill -9 of a process that reads and writes a cache, again and again: no wrong byte, and the budget holds."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.counting_content import bytes_of
from support.disk_use import allocated_bytes

from aliasfs.store.base import Etag, ObjectId
from mountd.blockfile import BLOCK_BYTES, Identity
from mountd.ledger import FIXED_BYTES
from mountd.upkeep import open_offline, verify

ROUNDS = 30
BUDGET = FIXED_BYTES + (12 << 20)
SIZES = [90_000, 300_000, 1_000_000, 3_000_001, 5_000_000, 18_000_000]

CHILD = """
import random, sys
from pathlib import Path
import trio
from aliasfs.extents import Extent
from mountd.blocks import BlockCache, BlockCacheSettings
from mountd.readahead import ReadAhead
from mountd.disk import CacheDisk
from support.counting_content import CountingContent

path, budget, seed, sizes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), map(int, sys.argv[4:])
store = CountingContent()
oids = [store.put(f"k{i}", size, "0") for i, size in enumerate(sizes)]
chance = random.Random(seed)

async def read(view):
    while True:
        oid = chance.choice(oids)
        start = chance.choice([0, chance.randrange(oid.size)])
        for at in range(start, min(start + (4 << 20), oid.size), 1 << 17):
            extent = Extent(at, min(at + (1 << 17), oid.size))
            if await view.read(oid, extent) != store.content(oid)[extent.start:extent.stop]:
                print("WRONG", oid, extent, flush=True)
                sys.exit(3)

async def main():
    cache = BlockCache(CacheDisk.open(path, budget), BlockCacheSettings())
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.run)
        view = ReadAhead(cache.wrap(store))
        print("reading", flush=True)
        for _ in range(4):
            nursery.start_soon(read, view)

trio.run(main)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_process_leaves_no_wrong_byte(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    chance = random.Random(11)
    root = Path(__file__).parents[2]
    for seed in range(ROUNDS):
        command = [sys.executable, "-c", CHILD, str(cache), str(BUDGET), str(seed), *map(str, SIZES)]
        environment = {"PYTHONPATH": f"{root}:{root / 'tests'}", "PATH": ""}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "reading\n"
            with pytest.raises(subprocess.TimeoutExpired):  # it never ends by itself: a wrong byte would end it
                child.wait(chance.uniform(0.02, 0.6))
            child.send_signal(signal.SIGKILL)
        assert allocated_bytes(cache) <= BUDGET
        check(cache)


def check(cache: Path) -> None:
    """Assert that every byte that the cache would serve is right."""
    disk = open_offline(cache, BUDGET)
    try:
        assert verify(disk, repair=False).bad == 0
        for number, size in enumerate(SIZES):
            oid = ObjectId("memory://t", f"k{number}", Etag("0"), size)
            content = bytes_of(oid.key, oid.etag, size)
            for run, piece in disk.read(oid, range(Identity(oid).blocks)).items():
                assert piece == content[run.start * BLOCK_BYTES : run.stop * BLOCK_BYTES]
        assert disk.statistics().used_bytes <= BUDGET
    finally:
        disk.close()
