"""Readiness over a pipe, with scripts in the place of the daemon."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from aliasfs import errors, wire
from aliasfs.cli import launch
from aliasfs.cli.launch import DaemonCommand, log_file


@dataclass(frozen=True)
class ScriptedDaemon(DaemonCommand):
    """Runs *script* with the pipe's descriptor as `fd`."""

    script: str = ""

    def argv(self, *, ready_fd: int | None = None) -> list[str]:
        return [sys.executable, "-c", f"import os, sys, time; fd = {ready_fd}\n{self.script}"]


def run(tmp_path: Path, script: str) -> int:
    return launch.launch(ScriptedDaemon(tmp_path, script=script), tmp_path / "log", lambda waited_s: None)


def test_the_pid_of_a_daemon_that_is_ready(tmp_path: Path) -> None:
    pid = run(tmp_path, 'os.write(fd, b\'{"ready": true, "pid": %d}\\n\' % os.getpid()); time.sleep(60)')
    try:
        assert os.getpgid(pid) == pid  # a session of its own: ^C at the terminal does not reach it
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.parametrize(
    ("code", "kind"),
    [(78, errors.ConfigError), (69, errors.MountError), (77, errors.AccessDenied), (1, errors.AliasfsError)],
)
def test_the_reason_of_one_that_will_not_start(code: int, kind: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(kind, match=r"^the reason$") as raised:
        run(tmp_path, f'os.write(fd, b\'{{"error": "the reason", "exit": {code}}}\\n\')')
    assert code == 1 or errors.exit_code(raised.value) == code


def test_one_that_dies_is_explained_by_the_end_of_its_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("of an earlier run\n")
    with pytest.raises(errors.MountError, match="died before it was ready") as raised:
        run(tmp_path, "print(*range(50), sep='\\n', flush=True); sys.exit('out of luck')")
    assert str(raised.value).endswith("49\nout of luck")
    assert "of an earlier run" not in str(raised.value)
    assert str(raised.value).count("\n") == 10


def test_the_reason_that_fusermount3_prints_is_part_of_it(tmp_path: Path) -> None:
    with pytest.raises(errors.MountError, match=r"^cannot mount \(fusermount3: no such user\)$"):
        run(
            tmp_path,
            "print('fusermount3: no such user', flush=True)\n"
            'os.write(fd, b\'{"error": "cannot mount", "exit": 69}\\n\')',
        )


def test_one_that_dies_in_silence(tmp_path: Path) -> None:
    with pytest.raises(errors.MountError, match="it is empty"):
        run(tmp_path, "sys.exit(1)")


def test_one_that_is_never_ready_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "READY_WITHIN_S", 1.0)
    with pytest.raises(errors.MountError, match="was not ready within 1 s and was ended"):
        run(tmp_path, f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    pid = (tmp_path / "pid").read_text()
    assert not Path("/proc", pid).exists()


def test_an_interrupt_ends_what_was_started(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"

    def interrupt(waited_s: float) -> None:
        if pid_file.exists() and pid_file.read_text():
            raise KeyboardInterrupt

    script = f"open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    with pytest.raises(KeyboardInterrupt):
        launch.launch(ScriptedDaemon(tmp_path, script=script), tmp_path / "log", interrupt)
    assert not Path("/proc", pid_file.read_text()).exists()


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(errors.MountError, match="cannot write the daemon's log"):
        launch.launch(ScriptedDaemon(tmp_path), tmp_path / "no" / "log", lambda waited_s: None)


def test_the_command_line(tmp_path: Path) -> None:
    command = DaemonCommand(Path("/mnt/a"), Path("/c.yaml"), ["A=/a", "B=s3://b"], allow_other=True)
    assert command.argv(ready_fd=7)[1:] == [
        "-P",
        "-m",
        "mountd.keeper",
        "--point",
        "/mnt/a",
        "--socket",
        str(wire.socket_path(Path("/mnt/a"))),
        "--ready-fd",
        "7",
        "--",
        "--config",
        "/c.yaml",
        "--alias",
        "A=/a",
        "--alias",
        "B=s3://b",
        "--allow-other",
    ]
    assert DaemonCommand(tmp_path).argv()[-2:] == ["--", "--foreground"]


@pytest.mark.parametrize("ready_fd", [None, 7])
def test_the_command_line_of_a_running_keeper_is_understood(ready_fd: int | None) -> None:
    command = DaemonCommand(Path("/mnt/a"), Path("/c.yaml"), ["A=/a", "B=s3://b"], allow_other=True)
    assert DaemonCommand.of_running(command.argv(ready_fd=ready_fd)) == command
    bare = DaemonCommand(Path("/mnt/a b"), aliases=[])
    assert DaemonCommand.of_running(bare.argv(ready_fd=ready_fd)) == bare


@pytest.mark.parametrize(
    "argv", [[], ["sh"], ["python", "-m", "mountd.keeper"], ["python", "-m", "mountd.keeper", "--point"]]
)
def test_another_command_line_is_not(argv: list[str]) -> None:
    assert DaemonCommand.of_running(argv) is None


def test_a_mount_that_systemd_kept_is_told_apart() -> None:
    kept = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "aliasfs-state:aliasfs-fuse"}
    assert launch.is_handed_over(kept)
    assert not launch.is_handed_over(kept | {"LISTEN_PID": "1"})
    assert not launch.is_handed_over(kept | {"LISTEN_FDNAMES": "aliasfs-state"})
    assert not launch.is_handed_over({})


def test_the_daemon_finds_the_same_code_and_the_same_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALIASFS_CONFIG", "mine.yaml")
    environ = launch.daemon_environ()
    assert environ["ALIASFS_CONFIG"] == str(tmp_path / "mine.yaml")
    assert Path(environ["PYTHONPATH"].split(":")[0], "mountd", "__init__.py").exists()


def test_where_the_log_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert log_file(Path("/mnt/aliases")) == tmp_path / "aliasfs" / "mnt-aliases.log"
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(errors.MountError, match="cannot make"):
        log_file(Path("/mnt/aliases"))
