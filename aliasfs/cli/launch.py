"""Starts the keeper of one mount in a session of its own, and waits until its server serves or says why not.

The keeper writes one line, a `wire.Readiness`, to the pipe it is given; end of file without a line means
that it died, and then the end of its log is the reason. No secret is ever on its command line.
"""

from __future__ import annotations

import argparse
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

import aliasfs
from aliasfs import errors
from aliasfs.cli.daemons import KEEPER_MODULE
from aliasfs.config import CONFIG_VARIABLE
from aliasfs.errors import AliasfsError, MountError
from aliasfs.wire import Readiness, socket_path

KEPT_DESCRIPTOR = "aliasfs-fuse"
"""The name under which systemd keeps the kernel's descriptor for the keeper."""

READY_WITHIN_S = 30.0
_STOP_WITHIN_S = 5.0
_POLL_S = 0.2
_TAIL_LINES = 10


@dataclass(frozen=True, slots=True)
class DaemonCommand:
    """The command line of one keeper; paths are absolute, for it runs elsewhere."""

    point: Path
    config: Path | None = None
    aliases: Sequence[str] = ()
    allow_other: bool = False

    def argv(self, *, ready_fd: int | None = None) -> list[str]:
        """Return the arguments, program first; in the foreground without *ready_fd*.

        -P keeps the working directory out of the module path. What is behind `--` is for the servers.
        """
        argv = [sys.executable, "-P", "-m", KEEPER_MODULE, "--point", str(self.point)]
        argv += ["--socket", str(socket_path(self.point))]
        if ready_fd is not None:
            argv += ["--ready-fd", str(ready_fd)]
        argv.append("--")
        if self.config is not None:
            argv += ["--config", str(self.config)]
        for alias in self.aliases:
            argv += ["--alias", alias]
        if self.allow_other:
            argv.append("--allow-other")
        return [*argv, "--foreground"] if ready_fd is None else argv

    @classmethod
    def of_running(cls, argv: Sequence[str]) -> DaemonCommand | None:
        """Return the command by which the keeper or server with the command line *argv* came to be; None for others."""
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        parser.add_argument("--point", type=Path, required=True)
        parser.add_argument("--config", type=Path)
        parser.add_argument("--alias", action="append", default=[])
        parser.add_argument("--allow-other", action="store_true")
        arguments = [argument for argument in argv[1:] if argument != "--"]
        try:
            given, _the_rest = parser.parse_known_args(arguments)
        except (argparse.ArgumentError, SystemExit):  # Python 3.11 ends the process where --point is missing
            return None
        return cls(given.point, given.config, given.alias, given.allow_other)


def is_handed_over(environment: Mapping[str, str]) -> bool:
    """Say whether systemd kept the mount over a restart and hands it to this process, sd_listen_fds(3)."""
    is_for_us = environment.get("LISTEN_PID") == str(os.getpid())
    return is_for_us and KEPT_DESCRIPTOR in environment.get("LISTEN_FDNAMES", "").split(":")


def daemon_environ() -> dict[str, str]:
    """Return our environment, in which the daemon is the one that belongs to this command line, installed or not."""
    environ = os.environ | {"PYTHONPATH": module_path(os.environ)}
    if named := os.environ.get(CONFIG_VARIABLE):
        environ[CONFIG_VARIABLE] = os.path.abspath(named)
    return environ


def module_path(environment: Mapping[str, str]) -> str:
    """Return the PYTHONPATH of *environment* with this command line's own code before everything else."""
    here = str(Path(aliasfs.__file__).parents[1])
    return os.pathsep.join(filter(None, [here, environment.get("PYTHONPATH")]))


def log_file(point: Path) -> Path:
    """Return where the daemon of *point* logs when it runs in the background; makes the directory.

    Root has /var/log/aliasfs, anyone else $XDG_STATE_HOME/aliasfs.
    """
    if os.geteuid() == 0:
        directory = Path("/var/log/aliasfs")
    else:
        state = os.environ.get("XDG_STATE_HOME")
        directory = Path(state if state else Path.home() / ".local" / "state") / "aliasfs"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise MountError(f"cannot make {directory} for the daemon's log: {exc.strerror}") from exc
    return directory / f"{str(point).strip('/').replace('/', '-') or 'root'}.log"


def launch(
    command: DaemonCommand, log: Path, waiting: Callable[[float], None], environ: Mapping[str, str] | None = None
) -> int:
    """Start the daemon, wait until its mount answers, and return the pid of its keeper.

    *log* takes what it prints. *waiting* is called now and then with the seconds waited so far. *environ*
    is its environment, `daemon_environ()` unless it is given. Raises the error the daemon gives for not
    starting, or MountError when it dies or needs more than 30 s.
    """
    try:
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise MountError(f"cannot write the daemon's log {log}: {exc.strerror}") from exc
    log_start = log.stat().st_size
    ready, ready_for_daemon = os.pipe()
    try:
        process = subprocess.Popen(
            command.argv(ready_fd=ready_for_daemon),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=daemon_environ() if environ is None else environ,
            cwd="/",
            start_new_session=True,
            pass_fds=[ready_for_daemon],
        )
    finally:
        os.close(ready_for_daemon)
        os.close(output)
    try:
        line = _read_line(ready, waiting)
    except KeyboardInterrupt:
        _end(process)
        raise
    finally:
        os.close(ready)
    if line is None:
        _end(process)
        raise MountError(f"the daemon was not ready within {READY_WITHIN_S:.0f} s and was ended; its log is {log}")
    pid = _served_pid(process, line, log, log_start)
    process.returncode = 0  # meant to outlive this process, so Popen shall not warn that it does
    return pid


def _read_line(ready: int, waiting: Callable[[float], None]) -> bytes | None:
    """Return what the daemon wrote up to a newline or end of file; None when the time is over."""
    started = time.monotonic()
    received = b""
    while (waited := time.monotonic() - started) < READY_WITHIN_S:
        if select.select([ready], [], [], _POLL_S)[0]:
            piece = os.read(ready, 65536)
            received += piece
            if not piece or received.endswith(b"\n"):
                return received
        waiting(waited)
    return None


def _served_pid(process: subprocess.Popen[bytes], line: bytes, log: Path, log_start: int) -> int:
    try:
        readiness = Readiness.model_validate_json(line)
    except ValidationError:
        _end(process)
        raise MountError(
            f"the daemon died before it was ready; the end of its log {log}:\n{_tail(log, log_start)}"
        ) from None
    if not readiness.ready:
        _end(process)
        raise error_of(readiness.error + _libfuse_reason(log, log_start), readiness.exit)
    return readiness.pid


def error_of(sentence: str, code: int) -> AliasfsError:
    """Return an error of the class that has the daemon's exit *code*, so that ours is the same."""
    classes: list[type[AliasfsError]] = [MountError, *errors.EXIT_CODES]
    kind = next((cls for cls in classes if errors.EXIT_CODES[cls] == code), AliasfsError)
    return kind(sentence)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a daemon that is ending by itself, or end it."""
    try:
        process.wait(0.5)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            process.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _libfuse_reason(log: Path, start: int) -> str:
    """Return what libfuse and fusermount3 had to say, in brackets; they print their reasons and return none."""
    reasons = [line for line in _lines(log, start) if line.startswith(("fusermount3: ", "fuse: "))]
    return f" ({reasons[-1]})" if reasons else ""


def _tail(log: Path, start: int) -> str:
    return "\n".join(_lines(log, start)[-_TAIL_LINES:]) or "(it is empty)"


def _lines(log: Path, start: int) -> list[str]:
    with log.open("rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace").splitlines()
