"""Takes a mount away and waits until it is gone.

The kernel is asked first, for it alone knows whether a mount is busy; the daemon sees its mount go and
ends by itself. Only then, where the kernel refuses this process, is the daemon asked to do it.
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

from aliasfs.cli.holders import Holder, holders
from aliasfs.client import DaemonClient
from aliasfs.errors import MountError
from aliasfs.mounts import Mount, mount_at
from aliasfs.wire import listener_pid, socket_path

GONE_WITHIN_S = 20.0
_FORCE_WITHIN_S = 3.0
_POLL_S = 0.05
_FUSERMOUNT_S = 10.0
_NAMED_HOLDERS = 5

_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8
"""Flags of umount2(2)."""


def unmount(mount: Mount, waiting: Callable[[float], None]) -> None:
    """Unmount *mount* and wait until it and its daemon are gone.

    *waiting* is called now and then with the seconds waited so far. Raises MountError that names the
    holders when it is busy.
    """
    pid = daemon_pid(mount.point)
    detach(mount, lazy=False)
    wait_gone(mount, pid, waiting)


def unmount_forced(mount: Mount, waiting: Callable[[float], None]) -> None:
    """Detach *mount* whoever uses it, and end its daemon, with SIGKILL where it hangs."""
    pid = daemon_pid(mount.point)
    detach(mount, lazy=True)
    if not pid:
        return
    _send(signal.SIGTERM, pid)
    try:
        wait_gone(mount, pid, waiting, within_s=_FORCE_WITHIN_S)
    except MountError:
        _send(signal.SIGKILL, pid)
        wait_gone(mount, pid, waiting)


def detach(mount: Mount, *, lazy: bool) -> None:
    """Have the kernel forget *mount*; without *lazy* only when nobody uses it. Does not wait for the daemon."""
    by_root = os.geteuid() == 0
    code = _umount2(mount.point, lazy=lazy) if by_root else _fusermount(mount.point, lazy=lazy)
    if code in (0, errno.EINVAL):  # EINVAL: it is no mount point any more, so somebody was faster
        return
    users = holders(mount.point)
    if code == errno.EBUSY or users:
        raise MountError(_why_busy(mount.point, users))
    with DaemonClient(mount.point) as daemon:
        daemon.stop()


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
    named = ", ".join(str(user) for user in users[:_NAMED_HOLDERS])
    if len(users) > _NAMED_HOLDERS:
        named += f" and {len(users) - _NAMED_HOLDERS} more"
    return (
        f"{point} is busy: {named or 'a process that you may not look at uses it'}; "
        f"end what uses it, or run 'aliasfs umount --lazy {point}'"
    )


def daemon_pid(point: Path) -> int:
    """Return the pid of the daemon of *point*, also of one that hangs; 0 where there is none to be seen."""
    try:
        return listener_pid(socket_path(point))
    except OSError:  # TimeoutError too: it hangs, and nobody knows who it is
        return 0


def wait_gone(mount: Mount, pid: int, waiting: Callable[[float], None], *, within_s: float = GONE_WITHIN_S) -> None:
    """Wait until *mount* and the process *pid* are gone; raise MountError after *within_s* seconds."""
    started = time.monotonic()
    while (is_mounted := mount_at(mount.point) == mount) or is_running(pid):
        waited = time.monotonic() - started
        if waited > within_s:
            what = f"{mount.point} is still mounted" if is_mounted else f"the daemon (pid {pid}) has not ended"
            raise MountError(
                f"{what} after {within_s:.0f} s: look into its log, or run 'aliasfs umount --force {mount.point}'"
            )
        waiting(waited)
        time.sleep(_POLL_S)


def _send(number: signal.Signals, pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def is_running(pid: int) -> bool:
    """Say whether *pid* is a process that has not ended; one that waits for its parent (a zombie) has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return state.rpartition(")")[2].split()[0] not in ("Z", "X")
