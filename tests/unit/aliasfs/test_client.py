"""The client against a real control door with a fake daemon behind it."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest
from support.fake_backend import FakeBackend, served
from support.fake_keeper import FakeKeeper, kept
from support.runtime import runtime_dir as runtime_dir

from aliasfs import client, errors, keeperdoor, wire
from aliasfs.client import DaemonClient, mount_status, reload_daemons, running_daemons
from aliasfs.mounts import Mount

pytestmark = pytest.mark.usefixtures("runtime_dir")


def test_every_call(tmp_path: Path) -> None:
    backend = FakeBackend(
        point=str(tmp_path), changes=["B was added"], progress=[wire.VerifyProgress(done_bytes=1, total_bytes=2)]
    )
    seen: list[wire.VerifyProgress] = []
    with served(backend), DaemonClient(tmp_path) as daemon:
        assert daemon.health().pid == os.getpid()
        assert daemon.status() == backend.status()
        assert daemon.reload() == ["B was added"]
        assert daemon.cache_status() == backend.cache
        assert daemon.cache_evict(4).used_bytes == 4
        assert daemon.cache_verify(seen.append) == wire.VerifyReport(objects=1, blocks=2, bytes=3)
        assert seen == backend.progress
        assert daemon.stop().stopping


@pytest.mark.warns_in_log
def test_errors_come_back_as_the_class_they_had(tmp_path: Path) -> None:
    backend = FakeBackend(point=str(tmp_path), failure=errors.NotSupported("no cache is configured"))
    with served(backend), DaemonClient(tmp_path) as daemon:
        for call in (daemon.reload, lambda: daemon.cache_verify(print)):
            with pytest.raises(errors.NotSupported, match=r"^no cache is configured$"):
                call()
        backend.failure = KeyError("x")
        with pytest.raises(errors.AliasfsError, match="bug of its own"):
            daemon.status()


def test_a_made_up_kind_is_not_looked_up(tmp_path: Path) -> None:
    error = client._as_raised({"error": "what", "kind": "exit_code"})
    assert type(error) is errors.AliasfsError


@pytest.mark.parametrize(
    ("mount", "sentence"),
    [
        (None, "nothing is mounted on"),
        (Mount(Path("/m"), "fuse.rclone", "r:", "0:9", 0), "a fuse.rclone mount, which aliasfs did not make"),
        (Mount(Path("/m"), "fuse.aliasfs", "aliasfs", "0:9", 54321), "belongs to uid 54321"),
        (
            Mount(Path("/m"), "fuse.aliasfs", "aliasfs", "0:9", os.geteuid()),
            "its mount is dead; 'aliasfs umount --force",
        ),
    ],
)
def test_unreachable_says_why(
    mount: Mount | None, sentence: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(keeperdoor, "mount_at", lambda point: mount)
    with DaemonClient(tmp_path) as daemon, pytest.raises(errors.DaemonUnreachable, match=sentence):
        daemon.health()


def test_a_daemon_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, runtime_dir: Path) -> None:
    monkeypatch.setattr(client, "_ANSWER_S", 0.05)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(wire.socket_path(tmp_path)))
        silent.listen()
        with DaemonClient(tmp_path) as daemon, pytest.raises(errors.DaemonUnreachable, match="does not answer"):
            daemon.health()
        assert running_daemons() == []


def test_a_keeper_says_why_its_server_does_not_answer(tmp_path: Path) -> None:
    keeper = FakeKeeper(str(tmp_path), status={"said": "another one is being started"})
    with (
        kept(keeper, with_control=True),
        DaemonClient(tmp_path, answer_s=0.05) as daemon,
        pytest.raises(errors.DaemonUnreachable, match=r"says: another one is being started; .*--unhang"),
    ):
        daemon.health()


def test_a_server_that_is_replaced_while_it_answers(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as control:
        control.bind(str(wire.socket_path(tmp_path)))
        control.listen()

        def hang_up() -> None:
            for _ in range(2):  # the client looks whether somebody is there before it asks
                control.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with (
            kept(FakeKeeper(str(tmp_path))),
            DaemonClient(tmp_path) as daemon,
            pytest.raises(errors.DaemonUnreachable, match="ended before it had answered"),
        ):
            daemon.health()
        thread.join()


def test_status_has_what_the_keeper_says(tmp_path: Path) -> None:
    backend = FakeBackend(point=str(tmp_path))
    with served(backend):
        assert mount_status(tmp_path) == backend.status()  # a daemon from before there were keepers
        with kept(FakeKeeper(str(tmp_path), status={"deaths": 3})):
            found = mount_status(tmp_path)
            assert running_daemons() == [found]
    assert found.keeper is not None
    assert found.keeper.deaths == 3
    assert found.answers
    assert found.model_copy(update={"keeper": None}) == backend.status()


def test_a_mount_without_a_server_is_still_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_WITHOUT_SERVER_S", 0.05)
    table = [Mount(tmp_path, "fuse.aliasfs", "aliasfs", "0:9", os.geteuid())]
    monkeypatch.setattr(client, "mount_table", lambda: table)
    keeper = FakeKeeper(str(tmp_path), status={"state": "failing", "said": "8 servers died", "server_pid": 0})
    with kept(keeper, with_control=True):
        found = mount_status(tmp_path)
        assert running_daemons() == [found]
        assert reload_daemons([tmp_path / "config.yaml"]) == []
    assert (found.point, found.pid, found.answers) == (str(tmp_path), 0, False)
    assert found.keeper is not None
    assert found.keeper.said == "8 servers died"


def test_a_server_that_hangs_is_shown_by_its_keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_ANSWER_S", 0.05)
    with kept(FakeKeeper(str(tmp_path)), with_control=True):
        found = mount_status(tmp_path)
    assert (found.pid, found.version, found.answers) == (76, "1", False)


def test_a_dead_keeper_is_shown_with_its_living_server(tmp_path: Path) -> None:
    with served(FakeBackend(point=str(tmp_path))) as control:
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(str(wire.keeper_path(control)))
        found = mount_status(tmp_path)
    assert found.answers
    assert found.keeper is not None
    assert found.keeper.state == "gone"


def test_an_answer_that_is_not_ours(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(wire.socket_path(tmp_path)))
        other.listen()

        def answer() -> None:
            other.accept()[0].close()  # the client looks whether somebody is there
            connection, _ = other.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

        thread = threading.Thread(target=answer)
        thread.start()
        with DaemonClient(tmp_path) as daemon, pytest.raises(errors.DaemonUnreachable, match="does not understand"):
            daemon.health()
        thread.join()


def test_running_daemons_leaves_the_dead_out(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(wire.socket_path(tmp_path / "dead")))
    with served(FakeBackend(point=str(tmp_path / "b"))), served(FakeBackend(point=str(tmp_path / "a"))):
        assert [Path(status.point).name for status in running_daemons()] == ["a", "b"]
    assert running_daemons() == []


@pytest.mark.warns_in_log
def test_a_daemon_in_trouble_does_not_hide_the_others(tmp_path: Path) -> None:
    complaints: list[str] = []
    broken = FakeBackend(point=str(tmp_path / "a"), failure=KeyError("x"))
    with served(broken), served(FakeBackend(point=str(tmp_path / "b"))):
        assert [Path(status.point).name for status in running_daemons(complaints.append)] == ["b"]
    assert len(complaints) == 1
    assert "bug of its own" in complaints[0]


def test_reload_tells_those_that_read_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    reader = FakeBackend(point=str(tmp_path / "reader"), config_files=[str(file)])
    other = FakeBackend(point=str(tmp_path / "other"), config_files=["/etc/aliasfs/config.yaml"])
    with served(reader), served(other):
        assert reload_daemons([file]) == [reader.point]
    assert (reader.reloads, other.reloads) == (1, 0)


def test_reload_tells_all_before_it_complains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config.yaml"
    refusing = FakeBackend(point=str(tmp_path / "a"), config_files=[str(file)])
    taking = FakeBackend(point=str(tmp_path / "b"), config_files=[str(file)])

    async def refuse() -> list[str]:
        raise errors.ConfigError("config.yaml:3: bad")

    monkeypatch.setattr(refusing, "reload", refuse)
    with (
        served(refusing),
        served(taking),
        pytest.raises(errors.ConfigError, match=r"a did not take the change up: config\.yaml:3"),
    ):
        reload_daemons([file])
    assert taking.reloads == 1
