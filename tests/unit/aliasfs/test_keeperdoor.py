"""The client of the keeper's door against a fake keeper behind a real socket."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.fake_backend import FakeBackend, served
from support.fake_keeper import FakeKeeper, kept
from support.runtime import runtime_dir as runtime_dir

from aliasfs import keeperdoor, wire
from aliasfs.errors import DaemonUnreachable
from aliasfs.keeperdoor import KeeperDoor, keeper_of

pytestmark = pytest.mark.usefixtures("runtime_dir")


def test_every_question(tmp_path: Path) -> None:
    keeper = FakeKeeper(str(tmp_path), status={"said": "all well", "deaths": 2, "invented_later": 1})
    waits: list[float] = []
    with kept(keeper):
        door = KeeperDoor(tmp_path)
        status = door.status()
        assert (status.pid, status.state, status.said, status.deaths) == (os.getpid(), "serving", "all well", 2)
        report = door.restart("/usr/bin/python3", "/opt/new", waits.append)
        assert report == wire.RestartReport(ok=True, pid=77, version="2", pause_s=0.25)
        assert door.unhang(waits.append) == report
        door.stop()
    assert keeper.asked == [
        {"do": "status"},
        {"do": "restart", "python": "/usr/bin/python3", "pythonpath": "/opt/new"},
        {"do": "unhang"},
        {"do": "stop"},
    ]


def test_whoever_waits_hears_how_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeperdoor, "_POLL_S", 0.01)
    monkeypatch.setattr(keeperdoor, "REPLACED_WITHIN_S", 0.05)
    waits: list[float] = []
    with (
        kept(FakeKeeper(str(tmp_path), hears=False)),
        pytest.raises(DaemonUnreachable, match=f"does not answer; 'aliasfs doctor --unhang {tmp_path}'"),
    ):
        KeeperDoor(tmp_path).unhang(waits.append)
    assert waits
    assert waits == sorted(waits)


def test_nobody_is_there(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachable, match="nothing is mounted on"):
        KeeperDoor(tmp_path).status()
    assert keeper_of(tmp_path) is None


def test_a_daemon_from_before_there_were_keepers(tmp_path: Path) -> None:
    with served(FakeBackend(point=str(tmp_path))):
        assert keeper_of(tmp_path) is None
        with pytest.raises(DaemonUnreachable, match=r"without a keeper.*'aliasfs umount .*', then 'aliasfs mount"):
            KeeperDoor(tmp_path).restart("python", "", lambda waited_s: None)


def test_a_keeper_that_has_died_before_its_server(tmp_path: Path) -> None:
    with served(FakeBackend(point=str(tmp_path))) as control:
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(str(wire.keeper_path(control)))
        status = keeper_of(tmp_path)
    assert status is not None
    assert (status.state, status.pid) == ("gone", 0)


def test_a_keeper_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeperdoor, "_ANSWER_S", 0.05)
    monkeypatch.setattr(keeperdoor, "_POLL_S", 0.01)
    with kept(FakeKeeper(str(tmp_path), hears=False), with_control=True):
        status = keeper_of(tmp_path)
    assert status is not None
    assert (status.state, status.pid) == ("silent", os.getpid())
    assert "does not answer" in status.said


@pytest.mark.parametrize(
    ("answer", "sentence"), [(b"", "hung up without an answer"), (b"hello\n", "does not understand")]
)
def test_an_answer_that_is_none(answer: bytes, sentence: str, tmp_path: Path) -> None:
    program = (
        "import socket, sys; c = socket.socket(fileno=0).accept()[0]; c.recv(100); c.sendall(sys.argv[1].encode())"
    )
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(wire.keeper_path(wire.socket_path(tmp_path))))
        door.listen()
        with subprocess.Popen([sys.executable, "-c", program, answer.decode()], stdin=door) as process:
            with pytest.raises(DaemonUnreachable, match=sentence):
                KeeperDoor(tmp_path).status()
            process.send_signal(signal.SIGTERM)


def test_the_door_is_no_control_socket(tmp_path: Path) -> None:
    control = wire.socket_path(tmp_path)
    assert wire.keeper_path(control).name == control.stem + ".keeper"
    assert not wire.keeper_path(control).match(f"*{wire.SOCKET_SUFFIX}")
