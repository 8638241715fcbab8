"""A server in miniature, for keepers to keep: it speaks the link and answers `getattr` and `getxattr` of the root.

`install` puts it into a folder as a package `mountd`, so that a keeper with that folder as its module path starts it.
What each start does is a word, the next line of the file `plan` in that folder, of which the last one is repeated:

    serve    answer requests, end upon `drain`
    mute     the same, but hear no `drain`
    stubborn answer, and hear neither `drain` nor SIGTERM
    hang     take requests and answer none once it is ready
    quit     end with exit code 3 as soon as it is ready
    fail     say that it cannot start, and end with exit code 78
    crash    end with exit code 3 before it has said a word
    stall    say nothing at all
    talk     say much nonsense, then do as `serve`
"""

from __future__ import annotations

import shutil
from pathlib import Path

TERMS = '{"hang_timeout_s": 30, "restart_limit": 4, "mount_options": "ro,nosuid,nodev,fsname=test"}'

NONSENSE = (
    b"hello",
    b"\xff",
    b"[]",
    b"null",
    b"[" * 50_000,
    b'{"say": []}',
    b'{"say": {}}',
    b'{"say": "failed", "exit": "x"}',
    b'{"say": "warm", "hang_timeout_s": "x"}',
    b'{"say": "warm", "restart_limit": null}',
    b'{"say": "a word of tomorrow"}',
)


def install(folder: Path, *plan: str) -> Path:
    """Put the server into *folder* and return it; `terms` there is what it says when it is warm."""
    package = folder / "mountd"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copy(__file__, package / "__main__.py")
    (folder / "terms").write_text(TERMS)
    set_plan(folder, *plan)
    return folder


def set_plan(folder: Path, *plan: str) -> None:
    """Have starts from now on do *plan*."""
    (folder / "starts").write_text("")
    (folder / "plan").write_text("\n".join(plan))


def _next_word(folder: Path) -> str:
    with (folder / "starts").open("a+") as starts:
        starts.write("x")
        starts.flush()
        starts.seek(0)
        count = len(starts.read())
    plan = (folder / "plan").read_text().splitlines()
    return plan[min(count, len(plan)) - 1]


def _serve(arguments: list[str]) -> int:
    import json
    import os
    import signal
    import socket

    folder = Path(__file__).parent.parent
    word = _next_word(folder)
    link = socket.socket(fileno=int(arguments[arguments.index("--link-fd") + 1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if word == "crash":
        return 3
    if word == "stall":
        signal.pause()
    if word == "fail":
        link.send(json.dumps({"say": "failed", "error": "the plan is bad", "exit": 78}).encode())
        return 78
    for message in NONSENSE if word == "talk" else ():
        link.send(message)
    if word == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    link.send(json.dumps({"say": "warm", "version": word, **json.loads((folder / "terms").read_text())}).encode())
    if json.loads(link.recv(65536) or b"{}").get("do") != "open":
        return 0
    link.send(b'{"say": "opened"}')
    message, kernel, _flags, _address = socket.recv_fds(link, 65536, 1)
    if not kernel:
        return 0
    link.send(json.dumps({"say": "ready", "status": f"{word} as planned"}).encode())
    if word == "quit":
        return 3
    try:
        _answer_all(kernel[0], link, word)
    except OSError:
        return 0  # the mount is gone
    finally:
        os.close(kernel[0])
    return 0


def _answer_all(kernel: int, link: object, word: str) -> None:
    import os
    import select

    watched = [kernel] if word in ("mute", "stubborn") else [kernel, link]
    while True:
        ready, _, _ = select.select(watched, [], [])
        if link in ready:
            return  # "drain", or the keeper is gone
        message = os.read(kernel, 1 << 21)
        if word != "hang":
            answer(kernel, message)


def answer(kernel: int, message: bytes) -> None:
    """Answer GETATTR and GETXATTR of the root, forget what is to be forgotten, and refuse all else with ENOSYS."""
    import contextlib
    import os
    import struct

    _length, opcode, unique = struct.unpack_from("=IIQ", message)
    error, body = -38, b""
    if opcode in (2, 36, 42):
        return
    if opcode == 3:
        attributes = struct.pack("=QQQQQQIIIIIIIIII", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, os.geteuid(), 0, 0, 512, 0)
        error, body = 0, struct.pack("=QII", 0, 0, 0) + attributes
    elif opcode == 22:
        value = str(os.getpid()).encode()
        size, _padding = struct.unpack_from("=II", message, 40)
        error, body = 0, value if size else struct.pack("=II", len(value), 0)
    with contextlib.suppress(FileNotFoundError):  # whoever asked has gone
        os.write(kernel, struct.pack("=IiQ", 16 + len(body), error, unique) + body)


if __name__ == "__main__":
    import os
    import sys

    os._exit(_serve(sys.argv))
