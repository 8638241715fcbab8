"""The command line of the daemon: `python -m mountd serve` and `python -m mountd cache`.

People use `aliasfs mount` and `aliasfs cache`, which start this; so does systemd.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from aliasfs.errors import AliasfsError, exit_code
from mountd import stacks
from mountd.exhaustion import end_out_of_memory, end_when_seen_anywhere, for_want_of_memory
from mountd.link import Link
from mountd.settings import ServeOptions

log = logging.getLogger("mountd")

QUIET_LIBRARIES = ("aiobotocore", "asyncio", "azure", "botocore", "fsspec", "hypercorn", "s3fs", "urllib3")
"""Third parties whose lower levels print request headers, credentials among them: warnings and above only."""


EX_SOFTWARE = 70
"""Of sysexits.h: a bug of ours."""

OPEN_FILES = 65_536
"""Descriptors the daemon asks for: files of the cache, of local aliases, and connections, with much to spare."""

M_ARENA_MAX = -8
"""Of mallopt(3), from malloc.h."""

HEAPS = 2
"""glibc gives each thread a heap of its own, and parts of 8 MiB freed in one are not there for the next thread:
measured 2026-11-20, 1 GiB read cold: a peak of 342 MB with as many heaps as threads, 240 MB with two."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon or a cache command; return the exit code."""
    given = _parser().parse_args(arguments)
    code: int = given.run(given)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mountd", description="The aliasfs daemon; see 'aliasfs mount --help'.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve a mount; started by the keeper, 'python -m mountd.keeper'")
    serve.add_argument("--point", type=Path, required=True, help="where it is mounted")
    serve.add_argument("--config", type=Path, metavar="FILE")
    serve.add_argument("--alias", action="append", default=[], metavar="NAME=URL")
    serve.add_argument("--allow-other", action="store_true")
    serve.add_argument("--foreground", action="store_true")
    serve.add_argument("--load-all", action="store_true", help="load storage libraries first: another server serves")
    serve.add_argument("--link-fd", type=int, required=True, metavar="N", help="our end of the link to the keeper")
    serve.add_argument("--control-fd", type=int, required=True, metavar="N", help="the listening control socket")
    serve.set_defaults(run=_serve)
    cache = commands.add_parser("cache", help="work on a cache directory that no daemon has")
    cache.add_argument("command", choices=("status", "evict", "verify"))
    cache.add_argument("--dir", type=Path, required=True)
    cache.add_argument("--to-bytes", type=int, default=0, help="evict: leave at most so many bytes (default: none)")
    cache.add_argument("--json", action="store_true", help="the only form of output; progress comes as lines, too")
    cache.set_defaults(run=_cache)
    return parser


def _cache(given: argparse.Namespace) -> int:
    from mountd import offline

    try:
        if given.command == "status":
            offline.status(given.dir)
        elif given.command == "evict":
            offline.evict(given.dir, given.to_bytes)
        else:
            offline.verify(given.dir)
    except AliasfsError as exc:
        return _fail(exc)
    return 0


def _fail(error: AliasfsError) -> int:
    print(f"mountd: {error}", file=sys.stderr)  # noqa: T201
    return exit_code(error)


def _serve(given: argparse.Namespace) -> int:
    options = ServeOptions(
        point=given.point,
        config_file=given.config,
        aliases=given.alias,
        allow_other=given.allow_other,
        foreground=given.foreground,
    )
    _share_heaps()
    _raise_open_files()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the keeper, too, which ends us in good order
    stacks.install()
    link = Link(given.link_fd)
    try:
        config = options.load()
        _log_to_stderr(config.daemon.log_level)
        end_when_seen_anywhere()
        from mountd.serve import load_libraries, serve

        if given.load_all:
            load_libraries(config.registry.values())
        trio.run(serve, options, config, link, socket.socket(fileno=given.control_fd))
    except Exception as exc:
        if for_want_of_memory(exc):
            end_out_of_memory()
        error = _expected(exc)
        if error is None:
            link.say("failed", error=f"a bug in aliasfs ({type(exc).__name__}); the log has it", exit=EX_SOFTWARE)
            raise
        link.say("failed", error=str(error), exit=exit_code(error))
        return _fail(error)
    return 0


def _expected(raised: BaseException) -> AliasfsError | None:
    """Return the error to tell the user when all that was raised is expected; None for a bug."""
    if not isinstance(raised, BaseExceptionGroup):
        return raised if isinstance(raised, AliasfsError) else None
    errors = [_expected(inner) for inner in raised.exceptions]
    return None if None in errors else errors[0]


def _share_heaps() -> None:
    """Let all threads share two heaps, where the C library is glibc; others have no such setting."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, HEAPS)


def _raise_open_files() -> None:
    """Use as many descriptors as we may: shells start programs with 1,024, which the cache's files alone would take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _log_to_stderr(level: str) -> None:
    """Log for a person or the journal, which adds the time itself."""
    time_field = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "
    logging.basicConfig(
        level=level.upper(), stream=sys.stderr, format=f"{time_field}%(levelname)s %(name)s: %(message)s", force=True
    )
    for name in QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    # Not sys.exit: threads of obstore 0.12 that come back while the interpreter ends abort it (SIGABRT), and a clean
    # stop would look like a crash. All that matters is closed by now.
    os._exit(code)
