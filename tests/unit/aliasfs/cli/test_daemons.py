"""Which processes serve a mount, with sleeping ones that have their command lines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aliasfs.cli.daemons import Daemons, command_line, daemons_of, environ_of, is_running, send

SLEEP = "import sys; print(flush=True); sys.stdin.read()"
FORK = "import os, sys; child = os.fork(); print(child, flush=True) if child else None; sys.stdin.read()"


@contextmanager
def process(*arguments: str, program: str = SLEEP, **environment: str) -> Iterator[tuple[int, str]]:
    """Run a process with *arguments* until the block ends; yield its pid and the line it prints."""
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    ) as running:
        assert running.stdout is not None
        line = running.stdout.readline()
        try:
            yield running.pid, line
        finally:
            running.kill()


def test_keeper_and_server_are_known_by_their_command_lines(tmp_path: Path) -> None:
    point = str(tmp_path)
    with (
        process("-m", "mountd.keeper", "--point", point, "--") as (keeper, _),
        process("-m", "mountd", "serve", "--point", point) as (server, _),
        process("-m", "mountd", "serve", "--point", f"{point}2"),
        process("-m", "other", "--point", point),
    ):
        found = daemons_of(tmp_path)
        assert found == Daemons((keeper,), (server,))
        assert found.all == (keeper, server)
        assert found.heads == (keeper,)
    assert daemons_of(tmp_path) == Daemons()


def test_without_a_keeper_the_server_is_told(tmp_path: Path) -> None:
    with process("-m", "mountd", "serve", "--point", str(tmp_path)) as (server, _):
        assert daemons_of(tmp_path).heads == (server,)


def test_a_child_of_the_keeper_that_only_looks_is_no_keeper(tmp_path: Path) -> None:
    with process("-m", "mountd.keeper", "--point", str(tmp_path), program=FORK) as (keeper, child):
        assert daemons_of(tmp_path) == Daemons((keeper,))
        assert is_running(int(child))


def test_what_a_process_was_started_with() -> None:
    with process("a b", "", MARK="x=y") as (pid, _):
        assert command_line(pid)[-2:] == ["a b", ""]
        assert environ_of(pid)["MARK"] == "x=y"
        send(signal.SIGKILL, [pid])
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert not is_running(pid)  # a zombie
    assert not is_running(pid)
    assert command_line(pid) == []
    assert environ_of(pid) == {}
    send(signal.SIGTERM, [pid])
