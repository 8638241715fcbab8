"""What the starter hears, and that nobody who does not listen can harm the mount."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from mountd.notify import Starter


def _pipe() -> tuple[int, int]:
    return os.pipe()


def _read_all(fd: int) -> bytes:
    with open(fd, "rb") as pipe:
        return pipe.read()


def test_one_line_says_that_the_mount_answers_and_closes_the_pipe() -> None:
    reading, writing = _pipe()
    starter = Starter(writing, None)
    starter.ready("serving")
    starter.failed("too late", 1)
    line = _read_all(reading)
    assert line.count(b"\n") == 1
    assert json.loads(line) == {"ready": True, "pid": os.getpid(), "error": "", "exit": 0}


def test_one_line_says_why_there_is_no_mount() -> None:
    reading, writing = _pipe()
    Starter(writing, None).failed("it cannot\nbe", 78)
    answer = json.loads(_read_all(reading))
    assert (answer["ready"], answer["error"], answer["exit"]) == (False, "it cannot\nbe", 78)


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_each_state(tmp_path: Path, abstract: bool) -> None:
    address = f"@aliasfs-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind("\0" + address[1:] if abstract else address)
        channel.settimeout(5)
        starter = Starter(None, address)
        starter.ready("serving 3 aliases")
        assert channel.recv(1000) == b"READY=1\nSTATUS=serving 3 aliases"
        starter.systemd("STOPPING=1")
        assert channel.recv(1000) == b"STOPPING=1"
        starter.failed("first line\nsecond line", 78)
        assert channel.recv(1000) == b"STATUS=first line"


def test_without_anyone_to_tell_nothing_is_done() -> None:
    starter = Starter(None, None)
    starter.ready("x")
    starter.failed("y", 1)
    starter.systemd("STOPPING=1")


def test_a_starter_that_went_away_does_not_end_the_mount(tmp_path: Path) -> None:
    reading, writing = _pipe()
    os.close(reading)
    starter = Starter(writing, str(tmp_path / "nobody-listens"))
    starter.ready("serving")
    starter.systemd("STOPPING=1")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(writing)
