"""Takes a mount away and waits until it is gone.

The kernel is asked first, for it alone knows whether a mount is busy; keeper and server see their mount go
and end by themselves. Only then, where the kernel refuses this process, is the keeper asked to do it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from aliasfs.cli.daemons import daemons_of, is_running, send
from aliasfs.cli.holders import Holder, holders
from aliasfs.client import DaemonClient
from aliasfs.errors import DaemonUnreachable, MountError
from aliasfs.keeperdoor import KeeperDoor
from aliasfs.mounts import Mount, mount_at

GONE_WITHIN_S = 20.0
_FORCE_WITHIN_S = 3.0
_POLL_S = 0.05
_FUSERMOUNT_S = 10.0
_NAMED_HOLDERS = 20
_LOOKS_WITHIN_S = 1.0
"""The keeper looks now and then whether the mount answers, and keeps it busy for that moment."""

CONNECTIONS = Path("/sys/fs/fuse/connections")
"""Where fusectl is mounted: one directory per FUSE mount, named by the minor number of its device."""

_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8
"""Flags of umount2(2)."""


def unmount(mount: Mount, waiting: Callable[[float], None]) -> None:
    """Unmount *mount* and wait until it, its keeper and its server are gone.

    *waiting* is called now and then with the seconds waited so far. Raises MountError that names the
    holders when it is busy.
    """
    pids = daemons_of(mount.point).all
    detach(mount, lazy=False)
    wait_gone(mount, pids, waiting)


def unmount_forced(mount: Mount, waiting: Callable[[float], None]) -> None:
    """Detach *mount* whoever uses it, and end its keeper and server, with SIGKILL where they hang."""
    serving = daemons_of(mount.point)
    detach(mount, lazy=True)
    if not serving.all:
        abort(mount)
        return
    send(signal.SIGTERM, serving.heads)
    try:
        wait_gone(mount, serving.all, waiting, within_s=_FORCE_WITHIN_S)
    except MountError:
        end_hanging(mount, waiting)


def end_hanging(mount: Mount, waiting: Callable[[float], None]) -> None:
    """Kill the keeper and the server of *mount*, which is detached, and answer whoever still waits for them."""
    pids = daemons_of(mount.point).all
    send(signal.SIGKILL, pids)
    abort(mount)
    wait_gone(mount, pids, waiting)


def abort(mount: Mount) -> None:
    """Have the kernel answer every request of *mount* with an error, whoever still holds its descriptor.

    systemd may, and readers would wait for ever. Does nothing where this user may not, or the mount is gone.
    """
    minor = mount.device.rpartition(":")[2]
    if os.geteuid() == 0 and mount_at(CONNECTIONS) is None:
        _mount_fusectl()
    with contextlib.suppress(OSError):
        (CONNECTIONS / minor / "abort").write_text("1")


def _mount_fusectl() -> None:
    libc = ctypes.CDLL(None)
    libc.mount(b"fusectl", os.fsencode(CONNECTIONS), b"fusectl", 0, None)


def stop_daemon(point: Path) -> None:
    """Ask the keeper of *point*, or the server where there is none, to unmount and end; returns before it has.

    Raises DaemonUnreachable where there is neither.
    """
    try:
        KeeperDoor(point).stop()
    except DaemonUnreachable:
        with DaemonClient(point) as daemon:
            daemon.stop()


def detach(mount: Mount, *, lazy: bool) -> None:
    """Have the kernel forget *mount*; without *lazy* only when nobody uses it. Does not wait for the daemon."""
    unmount_by = _umount2 if os.geteuid() == 0 else _fusermount
    started = time.monotonic()
    while True:
        code = unmount_by(mount.point, lazy=lazy)
        if code in (0, errno.EINVAL):  # EINVAL: it is no mount point any more, so somebody was faster
            return
        users = holders(mount.point)
        if users or (code == errno.EBUSY and time.monotonic() - started > _LOOKS_WITHIN_S):
            raise MountError(_why_busy(mount.point, users))
        if code != errno.EBUSY:
            break
        time.sleep(_POLL_S)
    stop_daemon(mount.point)


def _umount2(point: Path, *, lazy: bool) -> int:
    """Return 0 or the errno of umount2(2); unlike umount(8) it never looks at the mount, so it cannot hang."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
    return 0 if libc.umount2(os.fsencode(point), flags) == 0 else ctypes.get_errno()


def _fusermount(point: Path, *, lazy: bool) -> int:
    """Return 0 or the errno that fusermount3, which has one exit status for all, puts into words."""
    try:
        done = subprocess.run(
            ["fusermount3", "-u", *(["-z"] if lazy else []), "--", point],
            env=os.environ | {"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_FUSERMOUNT_S,
            check=False,
        )
    except FileNotFoundError:
        return errno.EPERM
    except subprocess.TimeoutExpired as exc:
        raise MountError(f"fusermount3 hangs on {point}: run 'aliasfs umount --force {point}'") from exc
    if done.returncode == 0 or mount_at(point) is None:
        return 0
    return errno.EBUSY if b"busy" in done.stderr else errno.EPERM


def _why_busy(point: Path, users: Sequence[Holder]) -> str:
    if not users:
        return (
            f"{point} is busy: a process that you may not look at uses it ('sudo aliasfs umount {point}' names it), "
            f"or its server hangs ('aliasfs doctor --unhang {point}'); 'aliasfs umount --lazy {point}' does not care"
        )
    lines = [f"  {user}" for user in users[:_NAMED_HOLDERS]]
    if len(users) > _NAMED_HOLDERS:
        lines.append(f"  and {len(users) - _NAMED_HOLDERS} more")
    return "\n".join([f"{point} is busy; end what uses it, or run 'aliasfs umount --lazy {point}':", *lines])


def wait_gone(
    mount: Mount, pids: Sequence[int], waiting: Callable[[float], None], *, within_s: float = GONE_WITHIN_S
) -> None:
    """Wait until *mount* and the processes *pids* are gone; raise MountError after *within_s* seconds."""
    started = time.monotonic()
    while (is_mounted := mount_at(mount.point) == mount) or any(map(is_running, pids)):
        waited = time.monotonic() - started
        if waited > within_s:
            left = ", ".join(str(pid) for pid in pids if is_running(pid))
            what = f"{mount.point} is still mounted" if is_mounted else f"its daemon (pid {left}) has not ended"
            raise MountError(
                f"{what} after {within_s:.0f} s: look into its log, or run 'aliasfs umount --force {mount.point}'"
            )
        waiting(waited)
        time.sleep(_POLL_S)
