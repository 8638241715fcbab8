"""pyfuse3 on a descriptor that is handed to it; a socket stands for the kernel, or a mount that nobody else serves.

Each session is in a process of its own, for pyfuse3 is global.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import REPOSITORY
from support.recorded import LINUX_5_4, LINUX_6_1, LINUX_6_18
from support.unserved import NEEDS_FUSE, unserved_mount

from mountd import fusewire

ENDS_S = 20.0
GETXATTR = 22

PROGRAM = """
import sys
import pyfuse3
import trio
from mountd.session import Session

class Ops(pyfuse3.Operations):
    async def getxattr(self, inode, name, ctx):
        if name == b"user.slow":
            print("taken", flush=True)
            await stopped.wait()
            await trio.sleep(0.05)
        return b"answer to " + name

async def obey(session):
    await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
    session.stop()
    session.stop()
    stopped.set()

async def main():
    global stopped
    stopped = trio.Event()
    session = Session(Ops())
    await session.begin(int(sys.argv[1]), bytes.fromhex(sys.argv[2]))
    print("begun", flush=True)
    if sys.argv[3] == "stop at once":
        session.stop()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(obey, session)
        await session.run()
        nursery.cancel_scope.cancel()
    session.stop()
    session.close()
    print("ended", flush=True)

trio.run(main)
"""


@contextlib.contextmanager
def _session(kernel: int, init: bytes = LINUX_6_18, how: str = "") -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(kernel), init.hex(), how],
        cwd=REPOSITORY,
        pass_fds=[kernel],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def kernel() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(ENDS_S)
    with ours, theirs:
        yield ours, theirs


def _ask(unique: int, name: bytes) -> bytes:
    body = struct.pack("=II", 100, 0) + name + b"\0"
    return fusewire.IN_HEADER.pack(40 + len(body), GETXATTR, unique, 1, 0, 0, 0, 0, 0) + body


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], ENDS_S)[0]
    return process.stdout.readline().strip()


def _stop(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("stop\n")
    process.stdin.flush()


def _reply(unique: int, value: bytes) -> bytes:
    return fusewire.OUT_HEADER.pack(16 + len(value), 0, unique) + value


@pytest.mark.parametrize("init", [LINUX_6_18, LINUX_6_1, LINUX_5_4], ids=["6.18", "6.1", "5.4"])
def test_the_kernel_sees_nothing_of_the_handshake_and_gets_its_answers(
    init: bytes, kernel: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = kernel
    with _session(theirs.fileno(), init) as process:
        assert _line(process) == "begun"
        ours.send(_ask(4, b"user.x"))
        assert ours.recv(1000) == _reply(4, b"answer to user.x")
        _stop(process)
        assert _line(process) == "ended"
        assert process.wait(ENDS_S) == 0


def test_a_request_that_was_sent_again_is_answered_by_its_number(kernel: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = kernel
    resent = 1 << 63 | 8
    ours.send(_ask(resent, b"user.x"))
    with _session(theirs.fileno()):
        assert ours.recv(1000) == _reply(resent, b"answer to user.x")


def test_what_is_in_work_is_finished_and_no_more_is_taken(kernel: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = kernel
    with _session(theirs.fileno()) as process:
        ours.send(_ask(4, b"user.slow"))
        assert [_line(process), _line(process)] == ["begun", "taken"]
        _stop(process)
        assert ours.recv(1000) == _reply(4, b"answer to user.slow")
        assert _line(process) == "ended"
        ours.send(_ask(6, b"user.x"))
        assert theirs.recv(1000) == _ask(6, b"user.x")


def test_one_that_is_stopped_before_it_runs_ends_at_once(kernel: tuple[socket.socket, socket.socket]) -> None:
    _ours, theirs = kernel
    with _session(theirs.fileno(), how="stop at once") as process:
        assert [_line(process), _line(process)] == ["begun", "ended"]


@pytest.mark.mount
@NEEDS_FUSE
@pytest.mark.parametrize("how", ["detach", "abort"])
def test_the_end_of_the_mount_is_the_end_of_the_session(how: str, tmp_path: Path) -> None:
    with unserved_mount(tmp_path / "point") as end:
        fd = end.for_server()
        with _session(fd, end.init) as process:
            os.close(fd)
            assert _line(process) == "begun"
            assert os.getxattr(end.point, "user.x") == b"answer to user.x"
            getattr(end, how)()
            assert _line(process) == "ended"
            assert process.wait(ENDS_S) == 0
