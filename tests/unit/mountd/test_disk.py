"""The disk tier against files that are whole, damaged, foreign, in the way, or gone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.counting_content import bytes_of
from support.disk_use import allocated_bytes

from aliasfs.errors import MountError
from aliasfs.store.base import Etag, ObjectId
from mountd.blockfile import BLOCK_BYTES, SEGMENT_BYTES, Identity, paths_in
from mountd.cachedir import CacheDirectory
from mountd.disk import CacheDisk
from mountd.ledger import FIXED_BYTES

MIB = 1 << 20
ROOMY = 1 << 30


def oid_of(key: str, size: int, etag: str = "1") -> ObjectId:
    return ObjectId("memory://t", key, Etag(etag), size)


def content_of(oid: ObjectId) -> memoryview:
    return memoryview(bytes_of(oid.key, oid.etag, oid.size))


def opened(path: Path, budget: int = ROOMY, min_free: int = 0) -> CacheDisk:
    disk = CacheDisk.open(path, budget, min_free)
    for _ in disk.scan():
        pass
    return disk


def blocks_of(oid: ObjectId) -> range:
    return range(Identity(oid).blocks)


def write_all(disk: CacheDisk, oid: ObjectId) -> bool:
    return disk.write(oid, 0, content_of(oid))


def read_all(disk: CacheDisk, oid: ObjectId) -> bytes:
    """Return what the disk has of *oid*; where it has nothing, nothing."""
    return b"".join(
        bytes(piece) for _, piece in sorted(disk.read(oid, blocks_of(oid)).items(), key=lambda i: i[0].start)
    )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[CacheDisk]:
    disk = opened(tmp_path / "cache")
    yield disk
    disk.close()


def flip(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0x40]))


@pytest.mark.parametrize("size", [1, 100_000, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES - 7])
def test_what_was_written_is_read_in_this_process_and_the_next(tmp_path: Path, size: int) -> None:
    oid = oid_of("a", size)
    first = opened(tmp_path)
    assert write_all(first, oid)
    assert read_all(first, oid) == bytes(content_of(oid))
    assert first.cached_bytes(oid) == size
    first.close()

    second = opened(tmp_path)
    assert second.may_hold(oid)
    assert read_all(second, oid) == bytes(content_of(oid))
    assert not second.lacking(oid, blocks_of(oid))
    assert second.statistics().objects == 1
    second.close()


def test_the_bytes_file_is_the_object_and_nothing_else(disk: CacheDisk) -> None:
    oid = oid_of("a", 2 * BLOCK_BYTES + 5)
    write_all(disk, oid)
    assert paths_in(disk.objects, Identity(oid).digest)[0].read_bytes() == bytes(content_of(oid))


def test_another_etag_target_key_or_size_finds_nothing(disk: CacheDisk) -> None:
    oid = oid_of("a", 1000)
    write_all(disk, oid)
    for other in (
        oid._replace(etag=Etag("2")),
        oid._replace(target="memory://u"),
        oid._replace(key="b"),
        oid._replace(size=999),
    ):
        assert read_all(disk, other) == b""


def test_one_objects_files_under_anothers_name_are_a_miss_and_removed(disk: CacheDisk) -> None:
    mine, other = oid_of("a", 1000), oid_of("b", 1000)
    write_all(disk, mine)
    disk.close()
    for source, place in zip(
        paths_in(disk.objects, Identity(mine).digest), paths_in(disk.objects, Identity(other).digest), strict=True
    ):
        place.parent.mkdir(parents=True, exist_ok=True)
        source.rename(place)
    again = opened(disk.path)
    assert read_all(again, other) == b""
    assert again.statistics().bad_blocks == 1
    assert again.statistics().objects == 0
    again.close()


def test_a_damaged_block_is_a_miss_and_the_others_are_not(disk: CacheDisk) -> None:
    oid = oid_of("a", 4 * BLOCK_BYTES)
    write_all(disk, oid)
    flip(paths_in(disk.objects, Identity(oid).digest)[0], BLOCK_BYTES + 17)
    assert disk.read_nowait(oid, range(4)) is None
    found = disk.read(oid, range(4))
    assert sorted((run.start, run.stop) for run in found) == [(0, 1), (2, 4)]
    assert disk.statistics().bad_blocks == 1
    assert disk.lacking(oid, range(4)) == [1]
    assert disk.write(oid, 1, content_of(oid)[BLOCK_BYTES : 2 * BLOCK_BYTES])
    assert read_all(disk, oid) == bytes(content_of(oid))


@pytest.mark.parametrize("what", ["header", "version", "record", "truncated map", "truncated bytes", "empty map"])
def test_damaged_files_are_misses(tmp_path: Path, what: str) -> None:
    oid = oid_of("a", 3 * BLOCK_BYTES)
    disk = opened(tmp_path)
    write_all(disk, oid)
    disk.close()
    bytes_path, map_path = paths_in(disk.objects, Identity(oid).digest)
    if what == "header":
        flip(map_path, 20)
    elif what == "version":
        flip(map_path, 6)
    elif what == "record":
        flip(map_path, Identity(oid).record_at(1))
    elif what == "truncated map":
        os.truncate(map_path, Identity(oid).record_at(1))
    elif what == "truncated bytes":
        os.truncate(bytes_path, BLOCK_BYTES)
    else:
        os.truncate(map_path, 0)
    disk = opened(tmp_path)
    for run, piece in disk.read(oid, range(3)).items():
        assert piece == content_of(oid)[run.start * BLOCK_BYTES : run.stop * BLOCK_BYTES]
    assert disk.lacking(oid, range(3))
    assert write_all(disk, oid)
    assert read_all(disk, oid) == bytes(content_of(oid))
    disk.close()


def test_a_start_removes_orphans_and_other_format_versions_and_nothing_else(tmp_path: Path) -> None:
    disk = opened(tmp_path)
    kept, no_map, no_bytes = oid_of("kept", 1000), oid_of("x", 1000), oid_of("y", 1000)
    for oid in (kept, no_map, no_bytes):
        write_all(disk, oid)
    disk.close()
    paths_in(disk.objects, Identity(no_map).digest)[1].unlink()
    paths_in(disk.objects, Identity(no_bytes).digest)[0].unlink()
    (tmp_path / "v0").mkdir()
    (tmp_path / "v0" / "old").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("mine")
    disk = opened(tmp_path)
    files = sorted(path for path in disk.objects.rglob("*") if path.is_file())
    assert files == sorted(paths_in(disk.objects, Identity(kept).digest))
    assert not (tmp_path / "v0").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    disk.close()


def test_files_that_vanish_are_misses(disk: CacheDisk) -> None:
    oid = oid_of("a", 1000)
    write_all(disk, oid)
    disk.close()
    again = opened(disk.path)
    for path in paths_in(disk.objects, Identity(oid).digest):
        path.unlink()
    assert read_all(again, oid) == b""
    assert write_all(again, oid)
    assert read_all(again, oid) == bytes(content_of(oid))
    again.close()


def test_reading_before_the_scan_has_ended_works_and_writing_waits(tmp_path: Path) -> None:
    oid = oid_of("a", 1000)
    disk = opened(tmp_path)
    write_all(disk, oid)
    disk.close()
    disk = CacheDisk.open(tmp_path, ROOMY)
    steps = disk.scan()
    next(steps)
    assert disk.statistics().state == "scanning"
    assert read_all(disk, oid) == bytes(content_of(oid))
    assert not disk.write(oid_of("b", 10), 0, memoryview(b"0123456789"))
    for _ in steps:
        pass
    assert disk.statistics().state == "ok"
    assert disk.statistics().objects == 1
    disk.close()


# Budget


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    disk = opened(tmp_path, FIXED_BYTES + 3 * MIB)
    oids = [oid_of(f"k{i}", MIB // 2) for i in range(5)]
    for oid in oids:
        assert write_all(disk, oid)
    read_all(disk, oids[0])
    assert write_all(disk, oid_of("more", MIB // 2))
    assert [bool(read_all(disk, oid)) for oid in oids] == [True, False, True, True, True]
    disk.close()


def test_after_a_restart_the_order_of_use_is_kept(tmp_path: Path) -> None:
    disk = opened(tmp_path)
    oids = [oid_of(f"k{i}", MIB // 2) for i in range(4)]
    for i, oid in enumerate(oids):
        write_all(disk, oid)
        os.utime(paths_in(disk.objects, Identity(oid).digest)[1], (1000 + (7 * i) % 4, 1000 + (7 * i) % 4))
    disk.close()  # times 1000, 1003, 1002, 1001
    disk = opened(tmp_path, FIXED_BYTES + 2 * (MIB // 2) + 64 * 1024)
    assert [bool(read_all(disk, oid)) for oid in oids] == [False, True, True, False]
    disk.close()


def test_a_file_larger_than_the_budget_is_kept_in_part(tmp_path: Path) -> None:
    budget = FIXED_BYTES + 2 * SEGMENT_BYTES + 4 * MIB
    disk = opened(tmp_path, budget)
    oid = oid_of("big", 4 * SEGMENT_BYTES + 12345)
    content = content_of(oid)
    for start in range(0, oid.size, 4 * MIB):
        assert disk.write(oid, start // BLOCK_BYTES, content[start : start + 4 * MIB])
        assert allocated_bytes(tmp_path) <= disk.statistics().used_bytes <= budget
    assert disk.lacking(oid, [0])
    assert not disk.lacking(oid, [blocks_of(oid)[-1]])
    for run, piece in disk.read(oid, blocks_of(oid)).items():
        assert piece == content[run.start * BLOCK_BYTES : run.stop * BLOCK_BYTES]
    assert 0 < disk.cached_bytes(oid) < oid.size
    disk.close()


def test_a_budget_that_was_lowered_holds_after_the_scan(tmp_path: Path) -> None:
    disk = opened(tmp_path)
    for i in range(8):
        write_all(disk, oid_of(f"k{i}", MIB))
    disk.close()
    budget = FIXED_BYTES + 3 * MIB
    disk = opened(tmp_path, budget)
    assert allocated_bytes(tmp_path) <= disk.statistics().used_bytes <= budget
    assert disk.statistics().objects == 2
    disk.close()


def test_a_budget_too_small_for_anything_keeps_nothing(tmp_path: Path) -> None:
    disk = opened(tmp_path, 1000)
    assert not write_all(disk, oid_of("a", 10))
    assert disk.statistics().refused_bytes == 10
    assert disk.statistics().state == "ok"
    disk.close()


def test_what_is_free_on_the_disk_is_left_free(tmp_path: Path) -> None:
    room = os.statvfs(tmp_path)
    disk = opened(tmp_path, ROOMY, room.f_blocks * room.f_frsize * 2)
    assert not write_all(disk, oid_of("a", 10))
    disk.close()


def test_more_objects_than_may_stay_open(tmp_path: Path) -> None:
    directory = CacheDirectory(tmp_path)
    disk = CacheDisk(directory, ROOMY, lambda: 0, max_open_objects=3)
    disk.claim()
    for _ in disk.scan():
        pass
    oids = [oid_of(f"k{i}", 1000) for i in range(12)]
    before = len(os.listdir("/proc/self/fd"))
    for oid in oids:
        assert write_all(disk, oid)
    assert len(os.listdir("/proc/self/fd")) <= before + 2 * 4
    assert all(read_all(disk, oid) == bytes(content_of(oid)) for oid in oids)
    disk.close()


LOAD_BUDGET = FIXED_BYTES + 24 * MIB


def under_load(disk: CacheDisk, after_write: Callable[[], None]) -> None:
    """Write 40 objects three times over while two threads read them; *after_write* is called between writes."""
    stop = threading.Event()
    wrong: list[ObjectId] = []

    def read(oids: list[ObjectId]) -> None:
        while not stop.is_set():
            for oid in oids:
                for run, piece in disk.read(oid, blocks_of(oid)).items():
                    if piece != content_of(oid)[run.start * BLOCK_BYTES : run.stop * BLOCK_BYTES]:
                        wrong.append(oid)

    oids = [oid_of(f"k{i}", 300_000 + 40_000 * i) for i in range(40)]
    threads = [threading.Thread(target=read, args=(oids[i::2],)) for i in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        for oid in oids:
            write_all(disk, oid)
            after_write()
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert disk.statistics().bad_blocks == 0
    assert disk.statistics().evicted_bytes > 0


def test_the_budget_holds_after_every_write(tmp_path: Path) -> None:
    disk = opened(tmp_path, LOAD_BUDGET)
    seen: list[int] = []
    under_load(disk, lambda: seen.append(allocated_bytes(tmp_path)))
    assert LOAD_BUDGET / 2 < max(seen) <= LOAD_BUDGET
    disk.close()


def test_the_budget_holds_at_every_moment(tmpfs: Path) -> None:
    disk = opened(tmpfs, LOAD_BUDGET)
    stop = threading.Event()
    seen: list[int] = []

    def watch() -> None:
        while not stop.is_set():
            facts = os.statvfs(tmpfs)  # one consistent answer, where a walk adds up different moments
            seen.append((facts.f_blocks - facts.f_bfree) * facts.f_frsize)

    watching = threading.Thread(target=watch)
    watching.start()
    under_load(disk, lambda: None)
    stop.set()
    watching.join()
    assert LOAD_BUDGET / 2 < max(seen) <= LOAD_BUDGET
    disk.close()


# Ownership


def test_a_second_owner_is_refused_by_name(disk: CacheDisk) -> None:
    with pytest.raises(MountError, match=rf"{disk.path} is in use by process {os.getpid()}"):
        CacheDisk.open(disk.path, ROOMY)


def test_the_owner_is_another_process_until_it_ends(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mountd.disk import CacheDisk\n"
        "d = CacheDisk.open(Path(sys.argv[1]), 1 << 30); print('ready', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        with pytest.raises(MountError, match=f"process {child.pid}"):
            CacheDisk.open(tmp_path, ROOMY)
        child.kill()
    opened(tmp_path).close()


def test_the_directory_is_private(tmp_path: Path) -> None:
    opened(tmp_path / "x" / "cache").close()
    assert (tmp_path / "x" / "cache").stat().st_mode & 0o777 == 0o700


# A disk that fails


def test_a_directory_that_vanishes_degrades_the_cache_and_recovers(
    disk: CacheDisk, caplog: pytest.LogCaptureFixture
) -> None:
    oid = oid_of("a", 1000)
    write_all(disk, oid)
    disk.path.rename(disk.path.with_name("elsewhere"))
    assert not write_all(disk, oid_of("b", 1000))
    assert disk.statistics().state == "degraded"
    assert "removed or replaced" in disk.statistics().reason
    assert not disk.path.exists()
    disk.recover()
    assert disk.statistics().state == "ok"
    assert read_all(disk, oid) == b""
    assert write_all(disk, oid)
    assert read_all(disk, oid) == bytes(content_of(oid))


@pytest.mark.warns_in_log
def test_a_place_where_no_directory_can_be_is_a_degraded_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    disk = opened(tmp_path / "file" / "cache")
    assert disk.statistics().state == "degraded"
    assert not write_all(disk, oid_of("a", 10))
    assert read_all(disk, oid_of("a", 10)) == b""
    (tmp_path / "file").unlink()
    disk.recover()
    assert write_all(disk, oid_of("a", 10))
    disk.close()


def mounted_tmpfs(place: Path, size: str) -> Iterator[Path]:
    if os.geteuid():
        pytest.skip("mounting a tmpfs needs root")
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True)
    if done.returncode:
        pytest.skip("this machine does not let us mount a tmpfs")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB of our own."""
    yield from mounted_tmpfs(tmp_path / "small", "8m")


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB of our own."""
    yield from mounted_tmpfs(tmp_path / "tmpfs", "64m")


def test_a_full_file_system_shrinks_the_cache_before_it_fails(small_disk: Path) -> None:
    disk = opened(small_disk / "cache")
    for i in range(30):
        assert write_all(disk, oid_of(f"k{i}", MIB))
    assert disk.statistics().state == "ok"
    assert disk.statistics().evicted_bytes > 20 * MIB
    disk.close()


@pytest.mark.warns_in_log
def test_no_space_left_degrades_the_cache_until_there_is_some(small_disk: Path) -> None:
    frozen = CacheDisk(CacheDirectory(small_disk / "cache"), ROOMY, lambda: 0, clock=lambda: 0.0)
    frozen.claim()
    for _ in frozen.scan():
        pass
    oid = oid_of("a", 3 * MIB)
    assert frozen.write(oid, 0, content_of(oid)[: 2 * MIB])  # the file system has been asked: 8 MiB are free
    (small_disk / "hog").write_bytes(bytes(os.statvfs(small_disk).f_bavail * 4096 - 64 * 1024))
    assert not frozen.write(oid, 8, content_of(oid)[2 * MIB :])
    assert frozen.statistics().state == "degraded"
    assert "No space left" in frozen.statistics().reason
    assert b"".join(map(bytes, frozen.read(oid, range(8)).values())) == bytes(content_of(oid)[: 2 * MIB])
    (small_disk / "hog").unlink()
    frozen.recover()
    assert write_all(frozen, oid)
    assert read_all(frozen, oid) == bytes(content_of(oid))
    frozen.close()


@pytest.mark.warns_in_log
def test_a_read_only_file_system_degrades_the_cache_until_it_is_writable(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    disk = opened(small_disk / "cache")
    assert "Read-only file system" in disk.statistics().reason
    assert not write_all(disk, oid_of("a", 10))
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    disk.recover()
    assert disk.statistics().state == "ok"
    assert write_all(disk, oid_of("a", 10))
    disk.close()


def test_a_file_system_without_nowait_reads_is_read_in_threads(small_disk: Path) -> None:
    disk = opened(small_disk / "cache")
    oid = oid_of("a", MIB)
    write_all(disk, oid)
    assert disk.read_nowait(oid, range(4)) in (None, content_of(oid))  # tmpfs learned it lately
    assert disk.statistics().state == "ok"
    assert read_all(disk, oid) == bytes(content_of(oid))
    disk.close()


def test_a_small_object_is_charged_for_its_pages_and_not_for_a_whole_block(tmp_path: Path) -> None:
    disk = opened(tmp_path / "cache")
    before = disk.statistics().used_bytes
    for i in range(100):
        assert write_all(disk, oid_of(f"k{i}", 2_000))
    charged = disk.statistics().used_bytes - before
    taken = sum(512 * path.stat().st_blocks for path in disk.objects.rglob("*") if path.is_file())
    assert taken <= charged <= 2 * taken
    disk.close()
