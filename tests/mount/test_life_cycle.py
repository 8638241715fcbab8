"""The life of a mount as it is typed: the real command line, the real daemon, the real kernel."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aliasfs import mounts
from aliasfs.cli.detach import is_running

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(
        not Path("/dev/fuse").exists() or shutil.which("fusermount3") is None, reason="this machine has no FUSE"
    ),
]

COMMAND = [sys.executable, "-P", "-c", "from aliasfs.cli import main; main()"]
ROOT = Path(__file__).parents[2]


class Shell:
    """Types `aliasfs` commands in a home of its own; *point* is its mount point."""

    def __init__(self, home: Path) -> None:
        self.point = home / "mnt"
        self.place = home / "place"
        self.environ = {
            name: value for name, value in os.environ.items() if not name.startswith(("ALIASFS_", "XDG_CONFIG"))
        } | {"HOME": str(home), "PYTHONPATH": str(ROOT), "ALIASFS_CONFIG": str(home / "config.yaml")}
        self.point.mkdir()
        self.place.mkdir()
        (self.place / "file").write_text("hello")
        (home / "config.yaml").write_text(f"aliases: {{A: {self.place}}}\ncache: {{dir: {home / 'cache'}}}\n")

    def types(self, *arguments: str | Path, code: int = 0) -> str:
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)], env=self.environ, capture_output=True, text=True, check=False, timeout=60
        )
        said = done.stdout + done.stderr
        assert done.returncode == code, said
        assert "Traceback" not in said
        return said

    def daemon_pid(self) -> int:
        return int(json.loads(self.types("status", self.point, "--json"))["pid"])


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    if mounts.mount_at(tmp_path / "mnt"):
        shell.types("umount", "--force", shell.point)
    for log in (Path("/var/log/aliasfs"), tmp_path / ".local/state/aliasfs"):
        (log / f"{str(shell.point).strip('/').replace('/', '-')}.log").unlink(missing_ok=True)


def test_mount_read_status_umount(shell: Shell) -> None:
    said = shell.types("mount", shell.point)
    assert re.match(rf"mounted {shell.point} \(pid \d+, log \S+\.log\)\n$", said)
    assert (shell.point / "A" / "file").read_text() == "hello"
    status = json.loads(shell.types("status", shell.point, "--json"))
    assert [(alias["name"], alias["health"]) for alias in status["aliases"]] == [("A", "ok")]
    assert f"already mounted by pid {status['pid']}" in shell.types("mount", shell.point, code=69)
    assert shell.types("umount", shell.point) == f"unmounted {shell.point}\n"
    assert not is_running(status["pid"])
    assert "nothing is mounted" in shell.types("umount", shell.point, code=69)
    assert "nothing is mounted" in shell.types("status", shell.point, code=69)


def test_aliases_come_and_go_while_it_is_mounted(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    shell.types("mount", shell.point)
    assert str(shell.point) in shell.types("alias", "add", "B", tmp_path / "other")
    assert sorted(os.listdir(shell.point)) == ["A", "B"]
    shell.types("alias", "remove", "B")
    assert os.listdir(shell.point) == ["A"]


def test_a_busy_mount_stays_unless_it_is_taken_lazily(shell: Shell) -> None:
    shell.types("mount", shell.point)
    with (shell.point / "A" / "file").open() as held:
        said = shell.types("umount", shell.point, code=69)
        assert f"(pid {os.getpid()}, open file {shell.point}/A/file)" in said
        assert (shell.point / "A").is_dir()
        shell.types("umount", "--lazy", shell.point)
        assert os.listdir(shell.point) == []
        assert held.read() == "hello"


def test_a_dead_mount_is_said_and_mended(shell: Shell) -> None:
    shell.types("mount", shell.point)
    os.kill(shell.daemon_pid(), signal.SIGKILL)
    with pytest.raises(OSError, match=r"not connected|connection abort"):
        os.listdir(shell.point)
    assert "Transport endpoint is not connected" in shell.types("mount", shell.point, code=69)
    assert "its mount is dead" in shell.types("status", shell.point, code=69)
    assert "dead: its daemon is gone" in shell.types("doctor", code=69)
    assert "cleared a dead mount" in shell.types("mount", "--force", shell.point)
    assert (shell.point / "A" / "file").read_text() == "hello"


def test_a_daemon_that_hangs_is_said_and_ended(shell: Shell) -> None:
    shell.types("mount", shell.point)
    pid = shell.daemon_pid()
    os.kill(pid, signal.SIGSTOP)
    assert "does not answer" in shell.types("mount", shell.point, code=69)
    assert "does not answer" in shell.types("status", shell.point, code=69)
    shell.types("umount", "--force", shell.point)
    assert not is_running(pid)
    assert os.listdir(shell.point) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_in_the_foreground_until_it_is_told_to_end(shell: Shell, number: signal.Signals) -> None:
    arguments = [*COMMAND, "mount", "--foreground", str(shell.point)]
    with subprocess.Popen(arguments, env=shell.environ, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "serving 1 aliases" in line:
                break
        assert shell.daemon_pid() == process.pid
        process.send_signal(number)
        assert "unmounted" in process.stderr.read()
    assert process.returncode == 0
    assert mounts.mount_at(shell.point) is None


def test_the_reason_why_it_cannot_start(shell: Shell, tmp_path: Path) -> None:
    assert "mkdir -p" in shell.types("mount", tmp_path / "missing", code=69)
    assert "not empty" in shell.types("mount", shell.place, code=69)
    shell.types("mount", shell.point)
    (tmp_path / "second").mkdir()
    said = shell.types("mount", tmp_path / "second", code=69)
    assert str(tmp_path / "cache") in said  # two daemons never share one cache directory
    (tmp_path / "config.yaml").write_text("aliases: {a: /x}\n")
    assert "config.yaml:1" in shell.types("mount", tmp_path / "second", code=78)
