"""A child process as the keeper sees it; a program of a few lines stands for the server."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mountd.serverprocess import DUMP_S, Program, ServerProcess, how_it_ended

ENDS_S = 20.0

PREAMBLE = """
import json, os, signal, socket, sys, time
given = sys.argv
link = socket.socket(fileno=int(given[given.index("--link-fd") + 1]))
control = int(given[given.index("--control-fd") + 1])
def say(**message): link.send(json.dumps(message).encode())
"""

Starting = Callable[..., ServerProcess]


@pytest.fixture
def control() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        yield listener


@pytest.fixture
def start(tmp_path: Path, control: socket.socket) -> Iterator[Starting]:
    """Starts a server that does what a few lines say."""
    with ExitStack() as stack:

        def start(lines: str, *arguments: str) -> ServerProcess:
            package = tmp_path / "path" / "mountd"
            package.mkdir(parents=True, exist_ok=True)
            (package / "__init__.py").touch()
            (package / "__main__.py").write_text(PREAMBLE + lines)
            server = ServerProcess(Program(sys.executable, str(package.parent)), arguments, control)
            stack.callback(server.link.close)
            stack.callback(server.wait, ENDS_S)
            stack.callback(server.kill)
            return server

        yield start


def _hear(server: ServerProcess) -> dict[str, Any] | None:
    assert select.select([server.link], [], [], ENDS_S)[0]
    return server.hear()


def test_a_server_gets_its_arguments_and_both_sockets(start: Starting, control: socket.socket) -> None:
    server = start("say(given=given[1:], inode=os.fstat(control).st_ino, cwd=os.getcwd())", "--point", "/mnt/a b")
    said = _hear(server)
    assert said is not None
    assert said["given"][:3] == ["serve", "--point", "/mnt/a b"]
    assert said["inode"] == os.fstat(control.fileno()).st_ino
    assert said["cwd"] == "/"


def test_systemds_words_to_the_keeper_are_not_for_servers(start: Starting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    monkeypatch.setenv("LISTEN_FDS", "2")
    monkeypatch.setenv("ANOTHER", "stays")
    said = _hear(start("say(**{name: os.environ.get(name) for name in ('NOTIFY_SOCKET', 'LISTEN_FDS', 'ANOTHER')})"))
    assert said == {"NOTIFY_SOCKET": None, "LISTEN_FDS": None, "ANOTHER": "stays"}


def test_nothing_but_what_it_is_to_have_is_inherited(start: Starting) -> None:
    reader, writer = os.pipe()
    said = _hear(start("say(fds=sorted(int(fd) for fd in os.listdir('/proc/self/fd')), link=link.fileno(), c=control)"))
    assert said is not None
    expected = {0, 1, 2, said["link"], said["c"]}
    assert len(set(said["fds"]) - expected) == 1  # the listing itself
    os.close(reader)
    os.close(writer)


def test_what_is_said_arrives_and_a_descriptor_with_it(start: Starting) -> None:
    server = start("""
first = json.loads(link.recv(65536))
message, descriptors, _, _ = socket.recv_fds(link, 65536, 1)
say(first=first, second=json.loads(message), inode=os.fstat(descriptors[0]).st_ino)
""")
    reader, writer = os.pipe()
    server.say(do="open", generation=1)
    assert not server.has_kernel
    server.hand(writer, do="serve", init="00")
    assert server.has_kernel
    said = _hear(server)
    assert said == {
        "first": {"do": "open", "generation": 1},
        "second": {"do": "serve", "init": "00"},
        "inode": os.fstat(writer).st_ino,
    }
    os.close(reader)
    os.close(writer)


def test_nothing_is_heard_while_nothing_is_said(start: Starting) -> None:
    server = start("time.sleep(60)")
    assert server.hear() is None
    assert not server.is_silent


def test_nonsense_is_passed_over(start: Starting) -> None:
    server = start("[link.send(word) for word in (b'hello', b'\\xff', b'[]', b'null', b'1')]; say(say='warm')")
    heard = [_hear(server) for _ in range(6)]
    assert heard == [None] * 5 + [{"say": "warm"}]
    assert not server.is_silent


def test_the_end_of_the_link_is_the_end_of_what_is_said(start: Starting) -> None:
    server = start("say(say='warm'); link.close(); time.sleep(60)")
    assert _hear(server) == {"say": "warm"}
    assert _hear(server) is None
    assert server.is_silent
    assert server.ended() is None


def test_who_has_ended_misses_what_is_said(start: Starting) -> None:
    server = start("sys.exit(3)")
    assert server.ended() in (None, 3)
    server.wait(ENDS_S)
    assert server.ended() == 3
    server.say(do="drain")
    server.hand(0, do="serve")
    server.signal(signal.SIGTERM)
    server.kill()


def test_one_that_does_not_read_does_not_hold_us_up(start: Starting) -> None:
    server = start("time.sleep(60)")
    for _ in range(2000):
        server.say(do="drain", text=json.dumps("x" * 1000))
    assert server.ended() is None


def test_a_program_that_is_not_there_is_an_os_error(control: socket.socket) -> None:
    with pytest.raises(FileNotFoundError):
        ServerProcess(Program("/nonexistent/python", ""), [], control)


def test_one_that_hangs_has_a_moment_to_say_what_it_does(start: Starting) -> None:
    server = start("signal.signal(signal.SIGUSR1, lambda *_: say(dumped=True)); say(); time.sleep(60)")
    _hear(server)
    server.end_hanging()
    server.end_hanging()
    assert server.hung
    assert _hear(server) == {"dumped": True}
    now = time.monotonic()
    server.kill_when_dumped(now - DUMP_S)
    assert server.killed_at is None
    server.kill_when_dumped(now + DUMP_S)
    assert server.killed_at is not None
    server.wait(ENDS_S)
    assert server.ended() == -signal.SIGKILL
    assert server.hear() is None


def test_a_kill_reaches_also_one_that_stands_still(start: Starting) -> None:
    server = start("say(); time.sleep(60)")
    _hear(server)
    server.signal(signal.SIGSTOP)
    server.kill()
    server.wait(ENDS_S)
    assert server.ended() == -signal.SIGKILL


def test_it_can_be_made_a_likelier_victim(start: Starting) -> None:
    server = start("say(); time.sleep(60)")
    server.set_oom_score(321)
    assert Path(f"/proc/{server.pid}/oom_score_adj").read_text().strip() == "321"
    server.set_oom_score(99_999)
    assert Path(f"/proc/{server.pid}/oom_score_adj").read_text().strip() == "1000"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "exit code 0"),
        (70, "exit code 70"),
        (-9, "signal 9 (SIGKILL)"),
        (-11, "signal 11 (SIGSEGV)"),
        (-63, "signal 63"),
    ],
)
def test_how_it_ended_is_said_in_words(code: int, words: str) -> None:
    assert how_it_ended(code) == words


def test_the_keepers_own_program_is_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/opt/lib")
    assert Program.own() == Program(sys.executable, "/opt/lib")
    monkeypatch.delenv("PYTHONPATH")
    assert Program.own() == Program(sys.executable, "")
