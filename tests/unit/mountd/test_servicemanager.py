"""What systemd hears from the keeper, and what the keeper understands of systemd."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountd.servicemanager import ServiceManager

UNIT = "aliasfs-mountd.service"

PRINT_DESCRIPTORS = """
import os
from mountd.servicemanager import ServiceManager
os.environ["LISTEN_PID"] = str(os.getpid()) if os.environ["LISTEN_PID"] == "own" else os.environ["LISTEN_PID"]
manager = ServiceManager(os.environ)
print(manager.descriptors, [os.get_inheritable(fd) for fd in manager.descriptors.values()])
"""


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket of a service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(0.2)
        yield channel


@pytest.fixture
def environment(heard: socket.socket) -> dict[str, str]:
    return {"NOTIFY_SOCKET": str(heard.getsockname())}


def _lines(heard: socket.socket) -> list[str]:
    """Return all that was said since the last time."""
    said = []
    while True:
        try:
            said.append(heard.recv(4096).decode())
        except TimeoutError:
            return said


def test_each_word_is_a_message_of_its_own(heard: socket.socket, environment: dict[str, str]) -> None:
    manager = ServiceManager(environment)
    assert manager
    manager.tell("READY=1")
    manager.tell("STOPPING=1")
    assert _lines(heard) == ["READY=1", "STOPPING=1"]


def test_an_address_may_have_no_place_in_the_tree() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(f"\0aliasfs-test-{os.getpid()}")
        channel.settimeout(1)
        ServiceManager({"NOTIFY_SOCKET": f"@aliasfs-test-{os.getpid()}"}).tell("READY=1")
        assert channel.recv(100) == b"READY=1"


def test_without_systemd_nothing_happens(tmp_path: Path) -> None:
    manager = ServiceManager({})
    manager.tell("READY=1")
    manager.feed()
    manager.keep("name", 0)
    assert not manager
    assert not manager.is_restarting()
    assert not manager.descriptors


def test_a_service_manager_that_has_gone_is_not_missed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).tell("READY=1")
    assert "systemd does not listen" in caplog.text


def test_one_that_takes_nothing_from_its_queue_does_not_hold_us_up(
    heard: socket.socket, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mountd.servicemanager.TELL_S", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filling:
        filling.setblocking(False)
        filling.connect(environment["NOTIFY_SOCKET"])
        with contextlib.suppress(BlockingIOError):
            while filling.send(b"STATUS=x"):
                pass
        ServiceManager(environment).tell("READY=1")
    assert "READY=1" not in _lines(heard)


def test_the_same_status_is_shown_once_and_is_one_line(heard: socket.socket, environment: dict[str, str]) -> None:
    manager = ServiceManager(environment)
    for sentence in ("serving", "serving", "failing\nREADY=1", "", "serving"):
        manager.show(sentence)
    assert _lines(heard) == ["STATUS=serving", "STATUS=failing", "STATUS=", "STATUS=serving"]


def test_a_descriptor_is_kept_in_place_of_an_earlier_one(heard: socket.socket, environment: dict[str, str]) -> None:
    reader, writer = os.pipe()
    manager = ServiceManager(environment)
    manager.keep("aliasfs-fuse", writer)
    assert heard.recv(4096) == b"FDSTOREREMOVE=1\nFDNAME=aliasfs-fuse"
    state, descriptors, _flags, _address = socket.recv_fds(heard, 4096, 4)
    assert state == b"FDSTORE=1\nFDNAME=aliasfs-fuse\nFDPOLL=0"
    assert [os.stat(fd).st_ino for fd in descriptors] == [os.stat(writer).st_ino]
    manager.give_up("aliasfs-fuse")
    assert _lines(heard) == ["FDSTOREREMOVE=1\nFDNAME=aliasfs-fuse"]
    for fd in (reader, writer, *descriptors):
        os.close(fd)


def test_the_watchdog_is_fed_when_it_is_hungry_only(heard: socket.socket, environment: dict[str, str]) -> None:
    manager = ServiceManager(environment | {"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())})
    assert manager.watchdog_s == 60
    for _ in range(5):
        manager.feed()
    assert _lines(heard) == ["WATCHDOG=1"]
    manager.watchdog_s = 1e-9
    manager.feed()
    assert _lines(heard) == ["WATCHDOG=1"]


@pytest.mark.parametrize("more", [{}, {"WATCHDOG_USEC": "abc"}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}])
def test_without_a_watchdog_of_ours_none_is_fed(
    heard: socket.socket, environment: dict[str, str], more: dict[str, str]
) -> None:
    manager = ServiceManager(environment | more)
    manager.feed()
    manager.allow_silence(90)
    assert not _lines(heard)


def test_silence_is_allowed_for_as_long_as_a_hang_may_last(heard: socket.socket, environment: dict[str, str]) -> None:
    manager = ServiceManager(environment | {"WATCHDOG_USEC": "60000000"})
    manager.allow_silence(30)
    manager.allow_silence(120)
    manager.allow_silence(100)
    assert _lines(heard) == ["WATCHDOG_USEC=120000000"]
    assert manager.watchdog_s == 120


@pytest.mark.parametrize(
    ("pid", "count", "names", "said"),
    [
        ("own", "2", "aliasfs-fuse:aliasfs-state", "{'aliasfs-fuse': 3, 'aliasfs-state': 4} [False, False]"),
        ("own", "2", "aliasfs-fuse", "{'aliasfs-fuse': 3, 'unknown': 4} [False, False]"),
        ("own", "0", "", "{} []"),
        ("own", "", "", "{} []"),
        ("1", "2", "aliasfs-fuse:aliasfs-state", "{} []"),
    ],
)
def test_what_was_kept_comes_back_by_name(pid: str, count: str, names: str, said: str) -> None:
    given = {"LISTEN_PID": pid, "LISTEN_FDS": count, "LISTEN_FDNAMES": names}
    shell = f'exec "{sys.executable}" -c "$PROGRAM" 3</dev/null 4</dev/null'
    done = subprocess.run(
        ["sh", "-c", shell],
        env={**os.environ, "PROGRAM": PRINT_DESCRIPTORS, **given},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout.strip() == said


def _systemctl(folder: Path, monkeypatch: pytest.MonkeyPatch, jobs: str, main: str = "exit 1") -> Path:
    """Put a systemctl in front that answers so; what it was asked is in the file that is returned."""
    program, asked = folder / "systemctl", folder / "asked"
    program.write_text(f'#!/bin/sh\necho "$@" >> {asked}\ncase "$*" in *list-jobs*) {jobs};; *show*) {main};; esac\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return asked


@pytest.mark.parametrize("job", ["restart", "start"])
def test_a_restart_of_our_unit_is_seen(
    job: str, tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = f"echo '39 other.service stop running'; echo '40 {UNIT} {job} running'; echo"
    asked = _systemctl(tmp_path, monkeypatch, jobs, f"echo {os.getpid()}")
    assert ServiceManager(environment).is_restarting()
    assert asked.read_text().splitlines()[1].endswith(f"-- {UNIT}")


@pytest.mark.parametrize(
    ("jobs", "main"),
    [
        (f"echo '40 {UNIT} stop running'", "exit 1"),
        ("true", "exit 1"),
        (f"echo '40 {UNIT} restart running'", "echo 1"),
        ("echo 'a line'; echo 'of other words'", "exit 1"),
    ],
    ids=["a stop", "no job", "another's restart", "nonsense"],
)
def test_a_stop_is_no_restart(
    jobs: str, main: str, tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _systemctl(tmp_path, monkeypatch, jobs, main)
    assert not ServiceManager(environment).is_restarting()


@pytest.mark.parametrize("jobs", ["exit 1", "sleep 60"], ids=["fails", "hangs"])
def test_a_systemctl_that_cannot_say_means_no_restart(
    jobs: str,
    tmp_path: Path,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("mountd.servicemanager.ASK_S", 0.3)
    _systemctl(tmp_path, monkeypatch, f"exec {jobs}" if "sleep" in jobs else jobs)
    assert not ServiceManager(environment).is_restarting()
    assert "the mount is taken away" in caplog.text


def test_a_users_service_asks_the_users_systemd(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _systemctl(tmp_path, monkeypatch, "true")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    ServiceManager(environment | {"MANAGERPID": "1"}).is_restarting()
    assert asked.read_text().startswith("--user ")
