"""The file for the next server: whole lines only, whatever the disk does; a new file says what the old one did."""

from __future__ import annotations

import logging
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aliasfs.store.base import Etag, Kind, ObjectInfo
from mountd.nodelog import MIN_COMPACTED_BYTES, NodeLog
from mountd.noderecords import NodeRecord, VolumeRecord, node_fields

SESSION = "5e55"
VOLUME = VolumeRecord(1, "A", "memory://one", 7)


def _info(number: int) -> ObjectInfo:
    return ObjectInfo(f"d/{number}", Kind.FILE, number, 123, Etag(f'"{number}"'))


def _node(log: NodeLog, number: int) -> None:
    log.append({"i": [node_fields(number, 1, _info(number), 1)]})


def _begun(path: Path, *numbers: int) -> NodeLog:
    log = NodeLog.open(path, SESSION, 0)
    log.append({"v": [VOLUME]})
    for number in numbers:
        _node(log, number)
    return log


def _numbers(path: Path, generation: int = 1) -> list[int]:
    log = NodeLog.open(path, SESSION, generation)
    log.close()
    return [node.number for node in log.take_over().nodes]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table.nodes"


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond *size* bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_next_server_reads_what_this_one_wrote(path: Path) -> None:
    log = _begun(path, 2, 3)
    assert log.started_ns > 0
    assert log.size == path.stat().st_size
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    log.close()
    after = NodeLog.open(path, SESSION, 1)
    remembered = after.take_over()
    assert remembered.nodes == [NodeRecord(number, 1, _info(number), 1) for number in (2, 3)]
    assert after.started_ns == remembered.started_ns == log.started_ns
    assert after.take_over().nodes == []
    _node(after, 9)
    after.close()
    assert _numbers(path) == [2, 3, 9]


def test_numbers_begin_anew_with_each_server(path: Path) -> None:
    log = _begun(path, 2)
    assert log.first_number == 2
    log.close()
    for generation in (1, 5):
        log = NodeLog.open(path, SESSION, generation)
        assert log.first_number >> 40 == generation
        log.close()


def test_numbers_do_not_repeat_even_if_the_server_is_told_a_generation_twice(path: Path) -> None:
    _begun(path, 2, 17).close()
    log = NodeLog.open(path, SESSION, 0)
    assert log.first_number == 18
    log.close()


def test_what_another_session_left_is_thrown_away(path: Path) -> None:
    _begun(path, 2).close()
    log = NodeLog.open(path, "another", 0)
    assert log.take_over().nodes == []
    log.close()
    assert _numbers(path) == []


def test_a_line_that_was_torn_does_not_hide_the_next_one(path: Path) -> None:
    log = _begun(path, 2, 3)
    before = log.size
    _node(log, 4)
    log.close()
    whole = path.read_bytes()
    for stop in range(before, len(whole)):
        path.write_bytes(whole[:stop])
        log = NodeLog.open(path, SESSION, 1)
        _node(log, 5)
        log.close()
        assert _numbers(path, 2) == [2, 3, 5]


@pytest.mark.warns_in_log
def test_any_file_can_be_there(path: Path) -> None:
    whole = path.with_name("whole")
    _begun(whole, 2, 3).close()
    content = whole.read_bytes()
    for bad in (b"", b"\n", b"\0" * 9999, b"\xff" * 100 + b"\n", content[1:], content.replace(b"d/3", b"d/2")):
        path.write_bytes(bad)
        log = NodeLog.open(path, SESSION, 1)
        assert {node.info for node in log.take_over().nodes} <= {_info(2)}
        _node(log, 7)
        log.close()


@pytest.mark.parametrize("is_folder", [True, False])
def test_where_no_file_can_be_the_mount_goes_on_without(
    tmp_path: Path, is_folder: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "none" / "table.nodes"
    if is_folder:
        path.mkdir(parents=True)
    log = NodeLog.open(path, SESSION, 0)
    _node(log, 2)
    assert log.size == 0
    assert log.is_overgrown(0)
    assert not log.finish_copy()
    log.close()
    assert [record.levelno for record in caplog.records if record.levelno >= logging.ERROR] == [logging.ERROR]


def test_a_disk_that_is_full_costs_later_lines_only_and_is_said_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log = _begun(path, 2)
    with room_for(log.size + 10):
        for number in (3, 4):
            _node(log, number)
    _node(log, 5)
    assert log.size == 0
    assert _numbers(path) == [2]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "No space left" in caplog.text or "File too large" in caplog.text
    with room_for(100):
        log.begin_copy()
        _copy(log, 2, 3, 4, 5)
        assert not log.finish_copy()
    assert not list(path.parent.glob("*.new"))
    log.begin_copy()
    _copy(log, 2, 3, 4, 5)
    assert log.finish_copy()
    _node(log, 6)
    log.close()
    assert _numbers(path) == [2, 3, 4, 5, 6]
    assert [record.levelname for record in caplog.records][:2] == ["ERROR", "INFO"]


def _copy(log: NodeLog, *numbers: int) -> None:
    log.append_to_copy({"v": [VOLUME]})
    for number in numbers:
        log.append_to_copy({"i": [node_fields(number, 1, _info(number), 1)]})


def test_a_copy_that_finds_no_room_leaves_the_file_as_it_is(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = _begun(path, 2, 3)
    log.begin_copy()
    with room_for(log.size):
        _copy(log, *range(2, 30))
    _node(log, 4)
    assert not log.finish_copy()
    log.close()
    assert _numbers(path) == [2, 3, 4]
    assert not list(path.parent.glob("*.new"))


def test_what_happens_while_the_file_is_written_anew_is_in_both(path: Path) -> None:
    log = _begun(path, 2, 3)
    started_ns = log.started_ns
    log.begin_copy()
    _copy(log, 2)
    _node(log, 4)
    assert _numbers(path) == [2, 3, 4]
    log.append({"f": [(3, 1)]})
    assert log.finish_copy(2)
    _node(log, 5)
    log.close()
    after = NodeLog.open(path, SESSION, 1)
    assert [node.number for node in after.take_over().nodes] == [2, 4, 5]
    assert after.started_ns == started_ns
    after.close()


def test_a_copy_that_was_not_finished_leaves_nothing_behind(path: Path) -> None:
    log = _begun(path, 2)
    log.begin_copy()
    log.begin_copy()
    log.close()
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_it_is_written_anew_when_it_is_twice_what_lives(path: Path) -> None:
    log = _begun(path)
    line = {"l": list(range(1000))}
    while log.size <= MIN_COMPACTED_BYTES:
        assert not log.is_overgrown(0)
        log.append(line)
    assert log.is_overgrown(0)
    assert not log.is_overgrown(100_000)
    log.begin_copy()
    for _ in range(2 * MIN_COMPACTED_BYTES // 4000):
        log.append_to_copy(line)
    log.finish_copy(1000)
    assert log.size > MIN_COMPACTED_BYTES
    assert not log.is_overgrown(1000), "nothing is won by writing it again"
    log.close()
