"""Evicting and verifying a directory without a daemon."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.counting_content import bytes_of
from support.disk_use import allocated_bytes

from aliasfs.errors import MountError
from aliasfs.store.base import Etag, ObjectId
from mountd.blockfile import BLOCK_BYTES, Identity, paths_in
from mountd.disk import CacheDisk
from mountd.ledger import FIXED_BYTES
from mountd.upkeep import Selection, Verified, evict_selected, evict_to, open_offline, status, verify

BUDGET = 1 << 30
SIZE = 3 * BLOCK_BYTES + 100


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with two targets of three objects each, left by a process that has ended."""
    disk = open_offline(tmp_path / "cache", BUDGET)
    for target in ("s3://a", "s3://b"):
        for key in ("x/1", "x/2", "y/1"):
            oid = ObjectId(target, key, Etag("e"), SIZE)
            assert disk.write(oid, 0, memoryview(bytes_of(key, target, SIZE)))
    disk.close()
    return tmp_path / "cache"


def path_of(disk: CacheDisk, target: str, key: str) -> tuple[Path, Path]:
    return paths_in(disk.objects, Identity(ObjectId(target, key, Etag("e"), SIZE)).digest)


def test_a_sound_cache_verifies_and_is_left_as_it_was(place: Path) -> None:
    disk = open_offline(place, BUDGET)
    times = {path: path.stat().st_mtime_ns for path in disk.objects.rglob("*.map")}
    told: list[Verified] = []
    assert verify(disk, repair=True, progress=told.append) == Verified(6, 24, 6 * SIZE, 0)
    assert told[-1].bytes == 6 * SIZE
    assert {path: path.stat().st_mtime_ns for path in disk.objects.rglob("*.map")} == times
    disk.close()


@pytest.mark.parametrize("repair", [False, True])
def test_damage_is_counted_and_mended_when_asked(place: Path, repair: bool) -> None:
    disk = open_offline(place, BUDGET)
    os.truncate(path_of(disk, "s3://a", "x/1")[1], 10)
    bytes_path = path_of(disk, "s3://b", "y/1")[0]
    bytes_path.write_bytes(bytes(BLOCK_BYTES) + bytes_path.read_bytes()[BLOCK_BYTES:])
    assert verify(disk, repair=repair).bad == 2
    again = verify(disk, repair=False)
    assert again == (Verified(5, 19, 5 * SIZE - BLOCK_BYTES, 0) if repair else Verified(6, 20, 5 * SIZE, 2))
    assert disk.statistics().used_bytes >= allocated_bytes(place)
    disk.close()


def test_one_target_or_prefix_can_be_evicted(place: Path) -> None:
    disk = open_offline(place, BUDGET)
    assert evict_selected(disk, Selection("s3://a", "x/")) >= 2 * SIZE
    assert not path_of(disk, "s3://a", "x/1")[0].exists()
    assert path_of(disk, "s3://a", "y/1")[0].exists()
    assert disk.statistics().objects == 4
    assert evict_selected(disk, Selection()) >= 4 * SIZE
    assert disk.statistics().objects == 0
    assert disk.statistics().used_bytes == FIXED_BYTES
    disk.close()


def test_eviction_stops_at_what_may_be_left(place: Path) -> None:
    disk = open_offline(place, BUDGET)
    freed = evict_to(disk, 3 * 1024 * 1024)
    assert freed >= 3 * SIZE
    assert disk.statistics().used_bytes - FIXED_BYTES <= 3 * 1024 * 1024
    assert status(disk, hits=1, misses=2, bytes_fetched=3).state == "on"
    disk.close()


def test_a_directory_in_use_is_refused(place: Path) -> None:
    disk = open_offline(place, BUDGET)
    with pytest.raises(MountError, match="in use by process"):
        open_offline(place, BUDGET)
    disk.close()


@pytest.mark.warns_in_log
def test_a_directory_that_another_process_took_stays_degraded(place: Path) -> None:
    disk = open_offline(place, BUDGET)
    place.rename(place.with_name("moved"))
    other = open_offline(place, BUDGET)
    assert not disk.write(ObjectId("t", "new", Etag("e"), 3), 0, memoryview(b"abc"))
    disk.recover()
    assert disk.statistics().state == "degraded"
    assert "in use by process" in disk.statistics().reason
    other.close()
    disk.recover()
    assert disk.statistics().state == "ok"
    disk.close()
