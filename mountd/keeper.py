"""The keeper of one mount: `python -m mountd.keeper --point P --socket S -- SERVE_ARGUMENTS`.

People use `aliasfs mount`, which starts this; so does systemd. The work is in `supervisor`; here is what comes before
and after: arguments, signals, the sockets, and the line that tells the starter why there will be no mount.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import socket
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from mountd.servicemanager import ServiceManager
from mountd.sockets import Sockets, Taken
from mountd.starter import Starter
from mountd.supervisor import UNAVAILABLE, Keeper

log = logging.getLogger("mountd.keeper")


def main(arguments: Sequence[str] | None = None) -> int:
    """Keep a mount until it is gone; return the exit code."""
    given = _parser().parse_args(arguments)
    _log_to_stderr()
    manager, starter = ServiceManager(os.environ), Starter(given.ready_fd)
    given.serve = given.serve[1:] if given.serve[:1] == ["--"] else given.serve
    with _signals() as wakeup:
        try:
            given.socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            sockets = Sockets(given.socket)
        except (Taken, OSError) as exc:
            sentence = str(exc) if isinstance(exc, Taken) else f"cannot make the control socket {given.socket}: {exc}"
            log.error("%s", sentence)
            manager.show(sentence)
            starter.tell(ready=False, error=sentence, exit=UNAVAILABLE)
            return UNAVAILABLE
        keeper = Keeper(given, sockets, manager, starter)
        try:
            return keeper.run(wakeup)
        finally:
            sockets.remove(with_nodes=not keeper.keeps_mount)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mountd.keeper", description="Keeps a mount; see 'aliasfs mount --help'.")
    parser.add_argument("--point", required=True, help="where to mount, as the kernel will name it")
    parser.add_argument("--socket", type=Path, required=True, help="the control socket of this mount")
    parser.add_argument("--ready-fd", type=int, metavar="N", help="write one JSON line there when the mount answers")
    parser.add_argument("--without-resend", action="store_true", help="as if the kernel were older than 6.9")
    parser.add_argument("serve", nargs="*", metavar="-- ARGUMENT", help="arguments of 'mountd serve'")
    return parser


@contextlib.contextmanager
def _signals() -> Iterator[socket.socket]:
    """Yield a socket from which the numbers of the signals that came can be read."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        yield ours


def _log_to_stderr() -> None:
    """Log for a person or the journal, which adds the time itself."""
    time_field = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "
    logging.raiseExceptions = False  # what cannot be written is lost
    logging.basicConfig(level="INFO", stream=_stderr(), format=f"{time_field}%(levelname)s %(name)s: %(message)s")


def _stderr() -> TextIO:
    """Return standard error, or, of a pipe, an end of our own that never waits: a reader may have stopped reading."""
    if not stat.S_ISFIFO(os.fstat(sys.stderr.fileno()).st_mode):
        return sys.stderr
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
    return open(os.open("/proc/self/fd/2", flags), "w", encoding="utf-8", errors="backslashreplace", buffering=1)


if __name__ == "__main__":
    sys.exit(main())
