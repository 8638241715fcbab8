"""`mount`, `umount` and `status` as they are typed; what needs a kernel mount is in tests/mount."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from pathlib import Path

import pytest
from support.fake_backend import FakeBackend, served
from support.fake_keeper import FakeKeeper, kept
from support.runtime import runtime_dir as runtime_dir
from typer.testing import CliRunner

from aliasfs import client, errors, mounts, wire
from aliasfs.cli import detach, launch, preflight, status
from aliasfs.cli.app import build
from aliasfs.cli.holders import Holder
from aliasfs.mounts import Mount

pytestmark = pytest.mark.usefixtures("runtime_dir", "no_configuration")


@pytest.fixture
def no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.yaml").write_text("aliases: {}\n")
    monkeypatch.setenv("ALIASFS_CONFIG", str(tmp_path / "empty.yaml"))


def typed(*arguments: str | Path) -> str:
    """Return what the command prints; its errors pass through, as they do on their way to `main`."""
    result = CliRunner().invoke(build(), [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_a_wrong_configuration_stops_before_anything_else(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match="lower"):
        typed("mount", tmp_path / "missing", "--alias", "lower=/a")


@pytest.mark.parametrize("check", ["check_fuse_device", "check_fusermount", "check_point"])
def test_mount_looks_before_it_leaps(check: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise errors.MountError(f"{check} refused")

    monkeypatch.setattr(preflight, check, refuse)
    with pytest.raises(errors.MountError, match=f"{check} refused"):
        typed("mount", tmp_path)


def test_mount_starts_the_daemon_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = tmp_path / "mnt"
    point.mkdir()
    started: list[launch.DaemonCommand] = []

    def start(command: launch.DaemonCommand, log: Path, waiting: object) -> int:
        started.append(command)
        return 4711

    for check in ("check_fuse_device", "check_fusermount"):
        monkeypatch.setattr(preflight, check, lambda: None)
    monkeypatch.setattr(launch, "launch", start)
    monkeypatch.setattr(launch, "log_file", lambda point: tmp_path / "log")
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("aliases: {A: /a}\n")
    printed = typed("mount", "mnt", "--config", "mine.yaml", "--alias", "B=/b")
    assert printed == f"mounted {point.resolve()} (pid 4711, log {tmp_path / 'log'})\n"
    assert started == [launch.DaemonCommand(point.resolve(), tmp_path / "mine.yaml", ["B=/b"], False)]


def test_umount_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(errors.MountError, match="nothing is mounted on"):
        typed("umount", tmp_path)


def test_umount_of_a_mount_that_is_not_ours() -> None:
    with pytest.raises(errors.MountError, match="/proc is a proc mount, which aliasfs did not make"):
        typed("umount", "/proc")


def test_umount_ends_a_daemon_that_lost_its_mount(tmp_path: Path) -> None:
    backend = FakeBackend(point=str(tmp_path))
    with served(backend):
        assert "was not mounted any more" in typed("umount", tmp_path)
    assert backend.stopped.is_set()


def test_umount_without_a_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the only mount of this user, asks where there are several, and looks into the configuration last."""
    mine = [Mount(tmp_path / name, "fuse.aliasfs", "aliasfs", "0:9", os.geteuid()) for name in "ab"]
    theirs = Mount(tmp_path / "c", "fuse.aliasfs", "aliasfs", "0:9", os.geteuid() + 1)
    for table, sentence in (
        ([*mine, theirs], r"several mounts, .*/a, .*/b$"),
        ([mine[0], theirs], "/a; 'aliasfs status'"),
        ([theirs], "/mnt/aliases; 'aliasfs status'"),
    ):
        monkeypatch.setattr(mounts, "mount_table", lambda table=table: table)
        monkeypatch.setattr(mounts, "mount_at", lambda point: None)
        with pytest.raises(errors.MountError, match=sentence):
            typed("umount")


def test_a_busy_mount_names_its_holders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detach, "_umount2", lambda point, lazy: errno.EBUSY)
    monkeypatch.setattr(detach, "_fusermount", lambda point, lazy: errno.EBUSY)
    monkeypatch.chdir(tmp_path)
    mount = Mount(tmp_path.resolve(), "fuse.aliasfs", "aliasfs", "0:9", 0)
    with pytest.raises(errors.MountError) as raised:
        detach.unmount(mount, lambda waited_s: None)
    sentence, *users = str(raised.value).splitlines()
    assert sentence == f"{mount.point} is busy; end what uses it, or run 'aliasfs umount --lazy {mount.point}':"
    assert users == [
        f"  {Path('/proc/self/comm').read_text().strip()} (pid {os.getpid()}, working directory {tmp_path})"
    ]


def test_of_many_holders_the_first_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [Holder(pid, "sh", "working directory") for pid in range(100, 130)]
    monkeypatch.setattr(detach, "holders", lambda point: many)
    monkeypatch.setattr(detach, "_umount2", lambda point, lazy: errno.EBUSY)
    monkeypatch.setattr(detach, "_fusermount", lambda point, lazy: errno.EBUSY)
    with pytest.raises(errors.MountError) as raised:
        detach.detach(Mount(tmp_path, "fuse.aliasfs", "aliasfs", "0:9", 0), lazy=False)
    assert str(raised.value).splitlines()[20:] == ["  sh (pid 119, working directory)", "  and 10 more"]


def test_who_holds_it_for_a_moment_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the keeper does, which looks now and then whether the mount answers."""
    codes = iter([errno.EBUSY, errno.EBUSY, 0])
    monkeypatch.setattr(detach, "_umount2", lambda point, lazy: next(codes))
    monkeypatch.setattr(detach, "_fusermount", lambda point, lazy: next(codes))
    detach.detach(Mount(tmp_path, "fuse.aliasfs", "aliasfs", "0:9", 0), lazy=False)
    assert next(codes, None) is None


def test_where_the_kernel_refuses_the_daemon_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detach, "_umount2", lambda point, lazy: errno.EPERM)
    monkeypatch.setattr(detach, "_fusermount", lambda point, lazy: errno.EPERM)
    backend = FakeBackend(point=str(tmp_path))
    with served(backend):
        detach.detach(Mount(tmp_path, "fuse.aliasfs", "aliasfs", "0:9", 0), lazy=False)
    assert backend.stopped.is_set()


def test_a_keeper_is_asked_before_its_server(tmp_path: Path) -> None:
    keeper = FakeKeeper(str(tmp_path))
    with kept(keeper):
        assert "was not mounted any more" in typed("umount", tmp_path)
    assert keeper.asked == [{"do": "stop"}]


def test_what_systemd_kept_is_neither_cleared_nor_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Replaced(Exception):
        """By another program, as execve(2) does."""

    def replaced(program: str, argv: list[str], environ: dict[str, str]) -> None:
        assert argv[1:5] == ["-P", "-m", "mountd.keeper", "--point"]
        assert environ["LISTEN_FDNAMES"] == "aliasfs-fuse:aliasfs-state"
        raise Replaced

    def refuse(*_: object) -> None:
        raise errors.MountError("it is mounted already")

    for name in ("check_fuse_device", "check_fusermount"):
        monkeypatch.setattr(preflight, name, lambda: None)
    monkeypatch.setattr(preflight, "check_point", refuse)
    monkeypatch.setattr(mounts, "mount_at", refuse)
    monkeypatch.setattr(os, "execve", replaced)
    with pytest.raises(errors.MountError, match="it is mounted already"):
        typed("mount", tmp_path, "--foreground", "--force")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDNAMES", "aliasfs-fuse:aliasfs-state")
    with pytest.raises(Replaced):
        typed("mount", tmp_path, "--foreground", "--force")


def test_status_while_there_is_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_WITHOUT_SERVER_S", 0.05)
    keeper = FakeKeeper(str(tmp_path), status={"state": "failing", "said": "8 servers died", "server_pid": 0})
    with kept(keeper, with_control=True):
        assert typed("status", tmp_path).splitlines() == [
            f"mount\t{tmp_path} (no server at the moment)",
            f"keeper\tpid {os.getpid()}, failing: 8 servers died",
        ]
        found = json.loads(typed("status", tmp_path, "--json"))
        assert (found["answers"], found["keeper"]["state"]) == (False, "failing")


def test_status_warns_when_the_keeper_is_gone(tmp_path: Path) -> None:
    with served(FakeBackend(point=str(tmp_path))) as control:
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(str(wire.keeper_path(control)))
        result = CliRunner().invoke(build(), ["status", str(tmp_path)])
    assert result.exit_code == 0
    assert "keeper\tgone: its server serves on" in result.stdout
    assert f"warning: the keeper of {tmp_path} is gone" in result.stderr


def test_the_keeper_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    assert status.keeper_line(wire.KeeperStatus(pid=12, state="serving")) == "pid 12, serving; 1 server so far"
    fared = wire.KeeperStatus(
        pid=12,
        state="serving",
        generation=2,
        deaths=2,
        hangs=1,
        last_death="signal 9 (SIGKILL)",
        last_death_at=880.0,
        pause_s=0.6,
    )
    assert status.keeper_line(fared) == (
        "pid 12, serving; 3 servers so far, last death: signal 9 (SIGKILL) 2 min 0 s ago, 1 hung, readers waited 0.60 s"
    )


def test_status_of_all_and_of_one(tmp_path: Path) -> None:
    backend = FakeBackend(point=str(tmp_path), config_files=["/c.yaml"])
    with served(backend):
        lines = typed("status").splitlines()
        assert lines[0].startswith(f"mount\t{tmp_path} (pid ")
        assert "up 1 min 1 s" in lines[0]
        assert lines[1] == "config\t/c.yaml"
        assert lines[2] == "cache\toff"
        assert lines[4].split("\t")[:4] == ["A", "ok", "3", "0"]
        assert json.loads(typed("status", "--json")) == [backend.status().model_dump(mode="json")]
        assert json.loads(typed("status", tmp_path, "--json"))["point"] == str(tmp_path)


def test_status_of_none(tmp_path: Path) -> None:
    with pytest.raises(errors.DaemonUnreachable, match="no mount of yours is running"):
        typed("status")
    with pytest.raises(errors.DaemonUnreachable, match="nothing is mounted on"):
        typed("status", tmp_path)


def test_words_of_the_status() -> None:
    assert [status.duration(seconds) for seconds in (0.4, 61, 7205, 90_000, 86_400)] == [
        "0 s",
        "1 min 1 s",
        "2 h 0 min",
        "1 d 1 h",
        "1 d 0 h",
    ]
    assert status.cache_line(wire.CacheStatus(state="failed", reason="disk full")) == "failed: disk full"
    on = wire.CacheStatus(state="on", dir="/c", used_bytes=1500, budget_bytes=2 * 10**9, hits=3, misses=1, bad_blocks=2)
    assert status.cache_line(on) == "1.5 kB of 2 GB in /c, 75% hits, 2 bad blocks dropped"
