"""Who comes to the keeper's door, and how each is received; the host only notes what it is told."""

from __future__ import annotations

import json
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mountd.events import Events
from mountd.reception import TEMPORARY, USAGE, VISITORS, Reception
from mountd.serverprocess import Program


@dataclass
class Host:
    """A keeper that does nothing; *done* is what it was told."""

    program: Program = field(default_factory=lambda: Program("/usr/bin/python3", "/opt/old"))
    is_stopping: bool = False
    done: list[Any] = field(default_factory=list)

    def status(self) -> dict[str, Any]:
        return {"state": "serving"}

    def replace(self, program: Program) -> None:
        self.done.append(program)

    def unhang(self) -> None:
        self.done.append("unhang")

    def stop(self, why: str) -> None:
        self.done.append(why)


class Door:
    """A reception at *path* and the loop that it is part of."""

    def __init__(self, path: Path, listener: socket.socket) -> None:
        self.host, self.events = Host(), Events()
        self._path = str(path)
        self.reception = Reception(self.host, self.events, listener)

    def turn(self, times: int = 4) -> None:
        for _ in range(times):
            self.events.wait(0)

    def knock(self) -> socket.socket:
        visitor = socket.socket(socket.AF_UNIX)
        visitor.settimeout(0.2)
        visitor.connect(self._path)
        self.turn()
        return visitor

    def ask(self, line: bytes) -> dict[str, Any]:
        with self.knock() as visitor:
            visitor.sendall(line)
            self.turn()
            return _answer(visitor)


def _answer(visitor: socket.socket) -> dict[str, Any]:
    with visitor.makefile("rb") as lines:
        answer: dict[str, Any] = json.loads(lines.readline())
        assert not lines.read()
        return answer


def _question(**facts: Any) -> bytes:
    return json.dumps(facts).encode() + b"\n"


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(256)
        listener.setblocking(False)
        door = Door(tmp_path / "s", listener)
        yield door
        door.reception._make_room(0)


def test_status_is_answered_at_once(door: Door) -> None:
    assert door.ask(_question(do="status")) == {"state": "serving"}


def test_who_asks_for_the_end_is_answered_first(door: Door) -> None:
    assert door.ask(_question(do="stop")) == {"ok": True}
    assert door.host.done == ["it was asked to"]


@pytest.mark.parametrize(
    ("facts", "program"),
    [
        ({}, Program("/usr/bin/python3", "/opt/old")),
        ({"python": "/opt/new/python"}, Program("/opt/new/python", "/opt/old")),
        ({"python": "/opt/new/python", "pythonpath": ""}, Program("/opt/new/python", "")),
        ({"python": None, "pythonpath": None}, Program("/usr/bin/python3", "/opt/old")),
    ],
)
def test_a_restart_is_of_the_program_that_asks_or_of_our_own(
    door: Door, facts: dict[str, Any], program: Program
) -> None:
    with door.knock() as visitor:
        visitor.sendall(_question(do="restart", **facts))
        door.turn()
        assert door.host.done == [program]
        door.reception.answer(ok=True, pid=7)
        assert _answer(visitor) == {"ok": True, "pid": 7}


def test_all_who_wait_for_a_restart_are_told_once_how_it_went(door: Door) -> None:
    with ExitStack() as stack:
        visitors = [stack.enter_context(door.knock()) for _ in range(3)]
        for visitor, wish in zip(visitors, ("restart", "unhang", "restart"), strict=True):
            visitor.sendall(_question(do=wish))
        door.turn()
        door.reception.answer(ok=False, error="no")
        door.reception.answer(ok=True)
        assert [_answer(visitor) for visitor in visitors] == [{"ok": False, "error": "no"}] * 3


def test_who_hangs_up_while_waiting_is_missed_by_nobody(door: Door) -> None:
    with door.knock() as visitor:
        visitor.sendall(_question(do="unhang"))
        door.turn()
    door.reception.answer(ok=True)
    assert door.host.done == ["unhang"]


@pytest.mark.parametrize("wish", ["restart", "unhang"])
def test_while_the_mount_is_taken_away_nothing_is_replaced(door: Door, wish: str) -> None:
    door.host.is_stopping = True
    answer = door.ask(_question(do=wish))
    assert (answer["ok"], answer["exit"]) == (False, TEMPORARY)
    assert not door.host.done


@pytest.mark.parametrize("line", [_question(do="dance"), _question(do=["status"]), _question(), b"[]\n", b"GET /\n"])
def test_what_cannot_be_done_is_said(door: Door, line: bytes) -> None:
    answer = door.ask(line)
    assert (answer["ok"], answer["exit"]) == (False, USAGE)
    assert answer["error"]
    assert door.ask(_question(do="status")) == {"state": "serving"}


def test_a_question_may_come_in_pieces_among_others(door: Door) -> None:
    with door.knock() as slow:
        slow.sendall(b'{"do":')
        door.turn()
        assert door.ask(_question(do="status"))["state"] == "serving"
        slow.sendall(b'"status"}\n')
        door.turn()
        assert _answer(slow)["state"] == "serving"


def test_who_says_nothing_keeps_nobody_else_out(door: Door) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(door.knock()) for _ in range(VISITORS + 10)]
        assert door.ask(_question(do="status"))["state"] == "serving"
        for visitor in silent[:11]:
            assert _answer(visitor)["exit"] == TEMPORARY
        silent[-1].sendall(_question(do="status"))
        door.turn()
        assert _answer(silent[-1])["state"] == "serving"


def test_those_who_wait_for_a_restart_are_sent_away_after_those_who_say_nothing(door: Door) -> None:
    with ExitStack() as stack:
        waiting = stack.enter_context(door.knock())
        waiting.sendall(_question(do="restart"))
        door.turn()
        for _ in range(VISITORS + 1):
            stack.enter_context(door.knock())
        door.reception.answer(ok=True)
        assert _answer(waiting) == {"ok": True}
        crowd = []
        for _ in range(VISITORS + 1):
            crowd.append(stack.enter_context(door.knock()))
            crowd[-1].sendall(_question(do="restart"))
            door.turn()
        assert _answer(crowd[0])["ok"] is False


@contextmanager
def _no_descriptors_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        lowest = os.dup(0)
        stack.callback(os.close, lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        yield


def test_without_descriptors_silent_visitors_make_room(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    with door.knock() as silent, socket.socket(socket.AF_UNIX) as late:
        late.settimeout(0.2)
        late.connect(door._path)
        with _no_descriptors_left():
            door.turn(1)
            assert "nobody can come to the keeper's door" in caplog.text
            assert _answer(silent)["ok"] is False
            door.turn()
            late.sendall(_question(do="status"))
            door.turn()
        assert _answer(late)["state"] == "serving"
