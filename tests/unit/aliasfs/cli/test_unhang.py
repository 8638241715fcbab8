"""`doctor --unhang`, by a fake keeper and by hand, with sleeping processes in the place of ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.fake_keeper import FakeKeeper, kept
from support.runtime import runtime_dir as runtime_dir

from aliasfs import keeperdoor
from aliasfs.cli import detach, launch, preflight, unhang
from aliasfs.cli.launch import DaemonCommand
from aliasfs.cli.preflight import Pulse
from aliasfs.errors import MountError
from aliasfs.mounts import Mount

pytestmark = pytest.mark.usefixtures("runtime_dir")

SLEEP = "import signal, sys; signal.signal(signal.SIGUSR1, lambda *_: print('dumped')); print(flush=True); input()"


class Machine:
    """A mount table with one mount, which `detach` takes out of it, and what was done."""

    def __init__(self, point: Path) -> None:
        self.mount: Mount | None = Mount(point, "fuse.aliasfs", "aliasfs", "0:99999", os.geteuid())
        self.pulse = Pulse.ALIVE
        self.launched: list[tuple[DaemonCommand, Mapping[str, str]]] = []
        self.said: list[str] = []

    def detach(self, mount: Mount, *, lazy: bool) -> None:
        assert lazy
        self.mount = None

    def launch(self, command: DaemonCommand, log: Path, waiting: object, environ: Mapping[str, str]) -> int:
        self.launched.append((command, environ))
        return 4711

    def unhang(self) -> list[str]:
        unhang.unhang(self._point, self.said.append, lambda waited_s: None)
        return self.said

    @property
    def _point(self) -> Path:
        assert self.mount is not None
        return self.mount.point


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path)
    monkeypatch.setattr(unhang, "mount_at", lambda point: machine.mount)
    monkeypatch.setattr(detach, "mount_at", lambda point: machine.mount)
    monkeypatch.setattr(detach, "detach", machine.detach)
    monkeypatch.setattr(detach, "CONNECTIONS", tmp_path / "connections")
    monkeypatch.setattr(detach, "_mount_fusectl", lambda: None)
    monkeypatch.setattr(preflight, "pulse", lambda mount: machine.pulse)
    monkeypatch.setattr(launch, "launch", machine.launch)
    monkeypatch.setattr(launch, "log_file", lambda point: tmp_path / "log")
    monkeypatch.setattr(unhang, "_DUMP_S", 0.05)
    return machine


@contextmanager
def process(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", SLEEP, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    ) as running:
        assert running.stdout is not None
        running.stdout.readline()
        try:
            yield running
        finally:
            running.kill()


def test_a_keeper_that_answers_does_it(machine: Machine, tmp_path: Path) -> None:
    keeper = FakeKeeper(str(tmp_path))
    with kept(keeper):
        said = machine.unhang()
    assert [question["do"] for question in keeper.asked] == ["status", "unhang"]
    assert said[-1] == "a new server (pid 77) serves; readers waited 0.25 s"
    assert machine.mount is not None
    assert machine.launched == []


@pytest.mark.parametrize(
    ("report", "pulse", "reason"),
    [
        ({"ok": False, "error": "no room", "exit": 73}, Pulse.ALIVE, "the keeper could not: no room"),
        ({"ok": True, "pid": 77}, Pulse.HANGING, "the mount still does not answer"),
    ],
)
def test_what_a_keeper_cannot_mend_is_made_anew(
    report: dict[str, object], pulse: Pulse, reason: str, machine: Machine, tmp_path: Path
) -> None:
    machine.pulse = pulse
    arguments = ("-m", "mountd.keeper", "--point", str(tmp_path), "--", "--alias", "A=/a")
    with kept(FakeKeeper(str(tmp_path), report=report)), process(*arguments, MARK="kept") as keeper:
        said = machine.unhang()
        assert keeper.wait(10) == -signal.SIGKILL
    assert reason in said
    ((command, environ),) = machine.launched
    assert command == DaemonCommand(tmp_path, aliases=["A=/a"])
    assert environ["MARK"] == "kept"
    assert said[-1] == f"mounted {tmp_path} again (pid 4711, log {tmp_path / 'log'})"


def test_a_keeper_that_says_nothing_is_passed_over(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeperdoor, "_ANSWER_S", 0.05)
    monkeypatch.setattr(keeperdoor, "_POLL_S", 0.01)
    with (
        kept(FakeKeeper(str(tmp_path), hears=False), with_control=True),
        process("-m", "mountd.keeper", "--point", str(tmp_path)),
    ):
        assert machine.unhang()[0] == f"its keeper (pid {os.getpid()}) does not answer"
    assert len(machine.launched) == 1


def test_a_server_without_a_keeper_dumps_and_is_ended(machine: Machine, tmp_path: Path) -> None:
    connection = tmp_path / "connections" / "99999"
    connection.mkdir(parents=True)
    with process("-m", "mountd", "serve", "--point", str(tmp_path), "--link-fd", "9") as server:
        said = machine.unhang()
        assert server.wait(10) == -signal.SIGKILL
        assert server.stdout is not None
        assert f"the server (pid {server.pid}) is asked to write what its tasks are doing into its log" in said
    assert said[0] == "it has no keeper"
    assert (connection / "abort").read_text() == "1"
    assert [command.point for command, _environ in machine.launched] == [tmp_path]


def test_what_systemd_started_systemd_starts_again(machine: Machine, tmp_path: Path) -> None:
    mount = machine.mount

    def restarted(detached: Mount, waiting: object) -> None:
        machine.mount = mount

    with (
        process("-m", "mountd.keeper", "--point", str(tmp_path), NOTIFY_SOCKET="/run/systemd/notify"),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(detach, "end_hanging", restarted)
        assert machine.unhang()[-1] == "systemd starts the daemon again"
    assert machine.launched == []


def test_a_dead_mount_of_which_nothing_is_left(machine: Machine) -> None:
    with pytest.raises(MountError, match="is not mounted any more, and nothing says how it was: run 'aliasfs mount"):
        machine.unhang()
    assert machine.mount is None


def test_nothing_to_unhang(machine: Machine, tmp_path: Path) -> None:
    machine.mount = None
    with pytest.raises(MountError, match="nothing is mounted on"):
        unhang.unhang(tmp_path, machine.said.append, lambda waited_s: None)
