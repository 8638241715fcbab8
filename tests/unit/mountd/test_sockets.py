"""The sockets of a mount, which are claimed, kept apart from those of others, and given back; and who comes to them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runtime import runtime_dir

from aliasfs import wire
from aliasfs.cli import launch
from mountd import kernelend
from mountd.sockets import DOOR_SUFFIX, LINE_BYTES, NODES_KEPT_S, Sockets, Taken, Visitor

__all__ = ["runtime_dir"]

LISTEN_AND_DIE = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()"


@pytest.fixture
def control(runtime_dir: Path) -> Path:
    return runtime_dir / "own.sock"


@pytest.fixture
def pair() -> Iterator[tuple[Visitor, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield Visitor(ours), theirs


def _leave_dead(path: Path) -> None:
    """Make what a daemon leaves that was killed: socket, door and table."""
    subprocess.run([sys.executable, "-c", LISTEN_AND_DIE, str(path)], check=True)
    path.with_suffix(".keeper").touch()
    path.with_suffix(".nodes").touch()


def _names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {"lock"}


def _hear(visitor: Visitor) -> dict[str, Any]:
    while (question := visitor.hear()) is None:
        pass
    return question


def test_both_sockets_are_the_owners_alone_and_gone_at_the_end(control: Path) -> None:
    sockets = Sockets(control)
    for path in (control, control.with_suffix(".keeper")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with socket.socket(socket.AF_UNIX) as visitor:
            visitor.connect(str(path))
    assert _names(control.parent) == {"own.sock", "own.keeper"}
    sockets.remove(with_nodes=True)
    assert not _names(control.parent)


def test_a_mount_that_somebody_has_is_refused_and_left_as_it_is(control: Path) -> None:
    first = Sockets(control)
    with pytest.raises(Taken, match=f"already mounted by pid {os.getpid()}; 'aliasfs status'"):
        Sockets(control)
    with socket.socket(socket.AF_UNIX) as visitor:
        visitor.connect(str(control))
    first.remove(with_nodes=True)


def test_one_that_does_not_answer_has_it_all_the_same(control: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(control))
        busy.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(control))
            with pytest.raises(Taken, match="a daemon that does not answer"):
                Sockets(control)


def test_what_the_dead_left_is_cleared_away_and_what_the_living_have_is_not(control: Path) -> None:
    dead, living = control.with_name("dead.sock"), Sockets(control.with_name("living.sock"))
    _leave_dead(dead)
    living.nodes.touch()
    sockets = Sockets(control)
    assert _names(control.parent) == {"dead.nodes", "living.sock", "living.keeper", "living.nodes"} | {
        "own.sock",
        "own.keeper",
    }
    sockets.remove(with_nodes=True)
    living.remove(with_nodes=True)


def test_a_table_without_a_daemon_is_kept_for_a_day(control: Path) -> None:
    dead = control.with_name("dead.sock")
    for name, age_s in (("dead", NODES_KEPT_S + 60), ("late", NODES_KEPT_S - 60), ("own", NODES_KEPT_S + 60)):
        table = dead.with_name(f"{name}.nodes")
        table.touch()
        os.utime(table, (0, time.time() - age_s))
    sockets = Sockets(control)
    assert _names(control.parent) == {"late.nodes", "own.nodes", "own.sock", "own.keeper"}
    sockets.remove(with_nodes=False)


def test_the_table_of_the_daemon_before_us_stays(control: Path) -> None:
    _leave_dead(control)
    sockets = Sockets(control)
    assert sockets.nodes.exists()
    sockets.remove(with_nodes=False)
    assert _names(control.parent) == {"own.nodes"}


def test_what_is_no_longer_ours_is_not_removed(control: Path) -> None:
    first = Sockets(control)
    control.unlink()
    second = Sockets(control)
    second.nodes.touch()
    first.remove(with_nodes=True)
    assert _names(control.parent) == {"own.sock", "own.keeper", "own.nodes"}
    second.remove(with_nodes=True)
    assert not _names(control.parent)


def test_a_path_that_is_too_long_is_an_os_error(runtime_dir: Path) -> None:
    with pytest.raises(OSError):
        Sockets(runtime_dir / ("x" * 120 + ".sock"))


def test_a_question_is_whole_when_its_line_is(pair: tuple[Visitor, socket.socket]) -> None:
    visitor, theirs = pair
    assert visitor.hear() is None
    for piece in (b'{"do":', b' "sta', b'tus"}'):
        theirs.send(piece)
        assert visitor.hear() is None
    theirs.send(b"\nand what follows")
    assert visitor.hear() == {"do": "status"}


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"status\n",
        b"[]\n",
        b'"status"\n',
        b"null\n",
        b"\xff\xfe\n",
        b"[" * 60_000 + b"\n",
        b'{"a":' * 10_000 + b"\n",
        b"1" * 10_000 + b"\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"x" * (LINE_BYTES + 1),
    ],
    ids=lambda line: repr(line[:8]),
)
def test_what_is_no_question_is_a_value_error(line: bytes, pair: tuple[Visitor, socket.socket]) -> None:
    visitor, theirs = pair
    theirs.sendall(line)
    with pytest.raises(ValueError):
        _hear(visitor)


def test_who_hangs_up_before_the_end_of_the_line_has_asked_nothing(pair: tuple[Visitor, socket.socket]) -> None:
    visitor, theirs = pair
    theirs.send(b'{"do":"status"}')
    theirs.close()
    with pytest.raises(ValueError):
        _hear(visitor)


def test_a_connection_that_was_cut_off_is_a_value_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        ours, _ = listener.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close(2) then resets
        client.close()
        with ours, pytest.raises(ValueError, match="reset"):
            Visitor(ours).hear()


def test_an_answer_is_one_line_and_the_end(pair: tuple[Visitor, socket.socket]) -> None:
    visitor, theirs = pair
    visitor.answer(ok=True, said='a "word"\nor two')
    with theirs.makefile("rb") as lines:
        assert json.loads(lines.readline()) == {"ok": True, "said": 'a "word"\nor two'}
        assert not lines.read()


def test_who_has_gone_away_misses_the_answer(pair: tuple[Visitor, socket.socket]) -> None:
    visitor, theirs = pair
    theirs.close()
    visitor.answer(ok=True)
    assert visitor.connection.fileno() == -1


@given(st.binary(max_size=300))
def test_any_line_is_a_question_or_a_value_error(line: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(line + b"\n")
        with contextlib.suppress(ValueError):
            assert isinstance(Visitor(ours).hear(), dict)


def test_the_command_line_looks_where_the_keeper_is() -> None:
    control = Path("/run/aliasfs/0123.sock")
    assert wire.keeper_path(control) == control.with_suffix(DOOR_SUFFIX)
    assert control.suffix == wire.SOCKET_SUFFIX
    assert launch.KEPT_DESCRIPTOR == kernelend.KERNEL
