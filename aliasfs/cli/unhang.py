"""`aliasfs doctor --unhang`: makes a mount that hangs answer again, and says each step.

The keeper is asked first: it replaces the server, and readers go on. Where the keeper hangs too, or is gone,
or a new server does not help, the mount is made anew by hand: the connection is aborted, which answers all who
wait with an error, the mount detached, its processes killed, and the same command line started again.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from aliasfs.cli import detach, launch, preflight
from aliasfs.cli.daemons import Daemons, command_line, daemons_of, environ_of, send
from aliasfs.cli.launch import DaemonCommand
from aliasfs.cli.preflight import Pulse
from aliasfs.errors import DaemonUnreachable, MountError
from aliasfs.keeperdoor import KeeperDoor, keeper_of, why_unreachable
from aliasfs.mounts import Mount, mount_at

_DUMP_S = 1.0
"""As long as the keeper gives a server to write down what its tasks are doing."""
_RESTARTED_BY_SYSTEMD_S = 30.0
_POLL_S = 0.2

Say = Callable[[str], None]
Waiting = Callable[[float], None]


def unhang(point: Path, say: Say, waiting: Waiting) -> None:
    """Make the mount on the canonical path *point* answer; *say* is told of each step.

    *waiting* is called now and then with the seconds waited so far. Raises MountError where there is no mount
    of this user, or it cannot be made to answer.
    """
    found = mount_at(point)
    if found is None or not found.is_ours or found.owner != os.geteuid():
        raise MountError(why_unreachable(point))
    if not _by_keeper(found, say, waiting):
        _by_hand(found, say, waiting)


def _by_keeper(mount: Mount, say: Say, waiting: Waiting) -> bool:
    """Have the keeper replace the server; say whether the mount answers then."""
    keeper = keeper_of(mount.point)
    if keeper is None or keeper.state == "gone":
        say("it has no keeper")
        return False
    if keeper.state == "silent":
        say(f"its keeper (pid {keeper.pid}) does not answer")
        return False
    say(f"its keeper (pid {keeper.pid}) answers, and is asked to replace the server")
    try:
        done = KeeperDoor(mount.point).unhang(waiting)
    except DaemonUnreachable:
        say("the keeper does not answer any more")
        return False
    if not done.ok:
        say(f"the keeper could not: {done.error}")
        return False
    say(f"a new server (pid {done.pid}) serves; readers waited {done.pause_s:.2f} s")
    if preflight.pulse(mount) is not Pulse.ALIVE:
        say("the mount still does not answer")
        return False
    return True


def _by_hand(mount: Mount, say: Say, waiting: Waiting) -> None:
    """Take the mount away, whoever uses it, and make it anew."""
    serving = daemons_of(mount.point)
    command, environment, has_unit = _command_of(serving)
    if serving.servers:
        say(f"the server (pid {_pids(serving.servers)}) is asked to write what its tasks are doing into its log")
        send(signal.SIGUSR1, serving.servers)
        time.sleep(_DUMP_S)
    say("the mount is detached, and whoever waits for it gets an error")
    detach.detach(mount, lazy=True)
    if serving.all:
        say(f"its processes are killed: pid {_pids(serving.all)}")
    detach.end_hanging(mount, waiting)
    if has_unit:
        say("systemd starts the daemon again")
        _wait_mounted(mount.point, waiting)
    elif command is None:
        raise MountError(
            f"{mount.point} is not mounted any more, and nothing says how it was: run 'aliasfs mount {mount.point}'"
        )
    else:
        log = launch.log_file(mount.point)
        pid = launch.launch(command, log, waiting, environment)
        say(f"mounted {mount.point} again (pid {pid}, log {log})")


def _command_of(serving: Daemons) -> tuple[DaemonCommand | None, Mapping[str, str] | None, bool]:
    """Return how the daemon was started: its command, its environment, and whether it was systemd who did."""
    for pid in serving.all:
        command = DaemonCommand.of_running(command_line(pid))
        environment = environ_of(pid)
        if command is not None and environment:
            environment["PYTHONPATH"] = launch.module_path(environment)
            return command, environment, pid in serving.keepers and "NOTIFY_SOCKET" in environment
    return None, None, False


def _wait_mounted(point: Path, waiting: Waiting) -> None:
    started = time.monotonic()
    while (found := mount_at(point)) is None or preflight.pulse(found) is not Pulse.ALIVE:
        waited = time.monotonic() - started
        if waited > _RESTARTED_BY_SYSTEMD_S:
            raise MountError(
                f"{point} is not back after {waited:.0f} s: 'systemctl status' and 'journalctl' of its unit say why"
            )
        waiting(waited)
        time.sleep(_POLL_S)


def _pids(pids: Sequence[int]) -> str:
    return ", ".join(map(str, pids))
