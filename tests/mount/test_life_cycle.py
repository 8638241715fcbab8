"""The life of a mount as it is typed: the real command line, the real keeper and server, the real kernel."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aliasfs import mounts
from aliasfs.cli.daemons import daemons_of, is_running, send

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(
        not Path("/dev/fuse").exists() or shutil.which("fusermount3") is None, reason="this machine has no FUSE"
    ),
]

COMMAND = [sys.executable, "-P", "-c", "from aliasfs.cli import main; main()"]
ROOT = Path(__file__).parents[2]

GONE_S = 20.0
"""How long keeper and server may take to see that their mount is gone."""


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

    def types(self, *arguments: str | Path, code: int | None = 0) -> str:
        """Return all that is printed; *code* is the exit code it has to have, None where that is up to others."""
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)], env=self.environ, capture_output=True, text=True, check=False, timeout=60
        )
        said = done.stdout + done.stderr
        assert done.returncode == code or code is None, said
        assert "Traceback" not in said
        return said

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.types("status", self.point, "--json"))
        return status

    def pids(self) -> tuple[int, int]:
        """Return the pids of keeper and server."""
        status = self.status()
        return status["keeper"]["pid"], status["pid"]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    left = daemons_of(shell.point)
    send(signal.SIGCONT, left.all)
    if mounts.mount_at(shell.point):
        shell.types("umount", "--force", shell.point)
    deadline = time.monotonic() + GONE_S
    while any(map(is_running, left.all)):
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.05)
    for log in (Path("/var/log/aliasfs"), tmp_path / ".local/state/aliasfs"):
        (log / f"{str(shell.point).strip('/').replace('/', '-')}.log").unlink(missing_ok=True)


def test_mount_read_status_umount(shell: Shell) -> None:
    said = re.fullmatch(rf"mounted {shell.point} \(pid (\d+), log \S+\.log\)\n", shell.types("mount", shell.point))
    assert said
    assert (shell.point / "A" / "file").read_text() == "hello"
    status = json.loads(shell.types("status", shell.point, "--json"))
    assert [(alias["name"], alias["health"]) for alias in status["aliases"]] == [("A", "ok")]
    assert [str(status["keeper"]["pid"]), status["keeper"]["server_pid"]] == [said[1], status["pid"]]
    assert f"already mounted by pid {said[1]}" in shell.types("mount", shell.point, code=69)
    assert shell.types("umount", shell.point) == f"unmounted {shell.point}\n"
    assert not is_running(int(said[1]))
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
        assert f"aliasfs: {shell.point} is busy; end what uses it, or run 'aliasfs umount --lazy" in said
        assert f"(pid {os.getpid()}, open file {shell.point}/A/file)\n" in said
        assert (shell.point / "A").is_dir()
        shell.types("umount", "--lazy", shell.point)
        assert os.listdir(shell.point) == []
        assert held.read() == "hello"


def test_a_server_that_is_killed_is_replaced(shell: Shell) -> None:
    shell.types("mount", shell.point)
    keeper, server = shell.pids()
    with (shell.point / "A" / "file").open() as held:
        os.kill(server, signal.SIGKILL)
        assert held.read() == "hello"
        assert sorted(os.listdir(shell.point)) == ["A"]
    status = shell.status()
    assert status["keeper"]["pid"] == keeper
    assert status["pid"] not in (keeper, server)
    assert (status["keeper"]["deaths"], status["keeper"]["last_death"]) == (1, "signal 9 (SIGKILL)")
    assert "serving; 2 servers so far, last death: signal 9 (SIGKILL) " in shell.types("status", shell.point)
    shell.types("umount", shell.point)
    assert not is_running(status["pid"])


def test_a_mount_without_keeper_and_server_is_dead_and_said_and_mended(shell: Shell) -> None:
    shell.types("mount", shell.point)
    send(signal.SIGKILL, shell.pids())
    with pytest.raises(OSError, match=r"not connected|connection abort"):
        os.listdir(shell.point)
    assert "Transport endpoint is not connected" in shell.types("mount", shell.point, code=69)
    assert "its mount is dead" in shell.types("status", shell.point, code=69)
    assert "its mount is dead" in shell.types("restart", shell.point, code=69)
    assert f"fail\tmount {shell.point}\tdead: its daemon is gone" in shell.types("doctor", code=69)
    assert "cleared a dead mount" in shell.types("mount", "--force", shell.point)
    assert (shell.point / "A" / "file").read_text() == "hello"


def test_a_server_outlives_its_keeper_and_that_is_said(shell: Shell) -> None:
    shell.types("mount", shell.point)
    keeper, server = shell.pids()
    os.kill(keeper, signal.SIGKILL)
    assert (shell.point / "A" / "file").read_text() == "hello"
    assert f"warning: the keeper of {shell.point} is gone" in shell.types("status", shell.point)
    assert f"warn\tkeeper {shell.point}\tthe keeper of" in shell.types("doctor", code=None)
    assert "is served without a keeper" in shell.types("restart", shell.point, code=69)
    shell.types("umount", shell.point)
    assert not is_running(server)


def test_another_server_in_its_place(shell: Shell) -> None:
    shell.types("mount", shell.point)
    keeper, server = shell.pids()
    with (shell.point / "A" / "file").open() as held:
        said = shell.types("restart", shell.point)
        assert held.read() == "hello"
    assert shell.pids()[0] == keeper
    new = shell.pids()[1]
    assert re.fullmatch(
        rf"restarted {shell.point}: version (\S+) -> \1 \(pid {new}\), readers waited \d+\.\d\d s\n", said
    )
    assert new != server
    assert not is_running(server)


def test_the_old_server_stays_where_a_new_one_cannot_start(shell: Shell, tmp_path: Path) -> None:
    shell.types("mount", shell.point)
    pids = shell.pids()
    right = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text("aliases: {a: /x}\n")
    said = shell.types("restart", shell.point, code=78)
    assert re.search(rf"config\.yaml:1: .*; the old one \(pid {pids[1]}, version \S+\) serves on", said)
    assert shell.pids() == pids
    (tmp_path / "config.yaml").write_text(right)
    shell.types("restart", shell.point)


def test_a_server_that_hangs_is_said_and_replaced(shell: Shell) -> None:
    shell.types("mount", shell.point)
    keeper, server = shell.pids()
    os.kill(server, signal.SIGSTOP)
    assert "does not answer; its keeper (pid" in shell.types("mount", shell.point, code=69)
    status = shell.status()
    assert (status["answers"], status["pid"], status["keeper"]["pid"]) == (False, server, keeper)
    said = shell.types("doctor", "--unhang", shell.point)
    assert f"its keeper (pid {keeper}) answers" in said
    assert said.endswith(f"{shell.point} answers\n")
    assert not is_running(server)
    assert (shell.point / "A" / "file").read_text() == "hello"
    assert shell.pids()[0] == keeper


def test_a_keeper_that_hangs_is_said_and_the_mount_made_anew(shell: Shell) -> None:
    shell.types("mount", shell.point)
    pids = shell.pids()
    send(signal.SIGSTOP, pids)
    assert "does not answer" in shell.types("status", shell.point, code=69)
    said = shell.types("doctor", "--unhang", shell.point)
    assert f"its processes are killed: pid {pids[0]}, {pids[1]}" in said
    assert f"mounted {shell.point} again" in said
    assert not any(map(is_running, pids))
    assert (shell.point / "A" / "file").read_text() == "hello"
    assert not set(shell.pids()) & set(pids)


def test_what_hangs_altogether_is_ended_by_force(shell: Shell) -> None:
    shell.types("mount", shell.point)
    pids = shell.pids()
    send(signal.SIGSTOP, pids)
    shell.types("umount", "--force", shell.point)
    assert not any(map(is_running, pids))
    assert os.listdir(shell.point) == []


def test_a_server_that_hangs_does_not_keep_the_mount(shell: Shell) -> None:
    shell.types("mount", shell.point)
    pids = shell.pids()
    os.kill(pids[1], signal.SIGSTOP)
    shell.types("umount", "--force", shell.point)
    assert not any(map(is_running, pids))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_in_the_foreground_until_it_is_told_to_end(shell: Shell, number: signal.Signals) -> None:
    arguments = [*COMMAND, "mount", "--foreground", str(shell.point)]
    with subprocess.Popen(arguments, env=shell.environ, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "serving 1 alias on" in line:
                break
        assert shell.pids()[0] == process.pid
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
