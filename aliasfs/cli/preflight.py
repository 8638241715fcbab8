"""What has to be true before a mount can work; each miss is one sentence with the command that mends it.

Shared by `aliasfs mount`, which stops at the first miss, and `aliasfs doctor`, which reports them all.
Nothing here waits on a mount: whatever could hang is asked in a process that is given up after a while.
"""

from __future__ import annotations

import errno
import os
import pwd
import re
import shlex
import shutil
import subprocess
from enum import Enum
from pathlib import Path

from aliasfs.errors import MountError
from aliasfs.keeperdoor import keeper_of
from aliasfs.mounts import Mount, mount_at
from aliasfs.wire import listener_pid, socket_path

FUSE_DEVICE = Path("/dev/fuse")
FUSE_CONF = Path("/etc/fuse.conf")

_PROBE_S = 2.0
"""A living mount answers a stat(2) of its root from memory."""


class Pulse(Enum):
    """How a mount answers when it is touched."""

    ALIVE = "alive"
    DEAD = "dead"
    HANGING = "hanging"


def check_fuse_device(device: Path = FUSE_DEVICE) -> None:
    """Raise MountError where the kernel offers no FUSE to this process."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as exc:
        if exc.errno in (errno.EACCES, errno.EPERM):
            raise MountError(
                f"{device} may not be opened by you: run 'sudo chmod 0666 {device}', or, in a container, "
                f"start it with 'docker run --device {device} --cap-add SYS_ADMIN'"
            ) from exc
        raise MountError(
            f"there is no {device}: run 'sudo modprobe fuse', or, in a container, "
            f"start it with 'docker run --device {device} --cap-add SYS_ADMIN'"
        ) from exc


def check_fusermount() -> None:
    """Raise MountError where fusermount3, which mounts and unmounts for ordinary users, is missing or refuses."""
    if shutil.which("fusermount3") is None:
        raise MountError("fusermount3 is missing: run 'sudo apt install fuse3'")
    uid = os.geteuid()
    try:
        pwd.getpwuid(uid)
    except KeyError:
        # Usual in containers started with --user; fusermount3 3.14 then says "could not determine username".
        raise MountError(
            f"uid {uid} has no name in /etc/passwd, which fusermount3 asks for: run 'sudo useradd -u {uid} me'"
        ) from None


def check_allow_other(conf: Path = FUSE_CONF) -> None:
    """Raise MountError where fuse.conf(5) forbids this user to let other users into a mount."""
    if os.geteuid() == 0:
        return
    text = conf.read_text(encoding="utf-8", errors="replace") if conf.exists() else ""
    if not re.search(r"^\s*user_allow_other\s*$", text, re.MULTILINE):
        raise MountError(
            f"allow_other needs the line 'user_allow_other' in {conf}: run 'echo user_allow_other | sudo tee -a {conf}'"
        )


def check_point(point: Path) -> None:
    """Raise MountError unless the canonical path *point* is an empty directory with nothing mounted on it."""
    if mount := mount_at(point):
        raise MountError(_why_taken(mount))
    quoted = shlex.quote(str(point))
    try:
        with os.scandir(point) as entries:
            is_empty = next(entries, None) is None
    except FileNotFoundError as exc:
        raise MountError(f"the mount point {point} does not exist: run 'mkdir -p {quoted}'") from exc
    except NotADirectoryError as exc:
        raise MountError(f"the mount point {point} is not a directory: name an empty directory") from exc
    except OSError as exc:
        raise MountError(f"the mount point {point} cannot be read ({exc.strerror}): name an empty directory") from exc
    if not is_empty:
        raise MountError(
            f"the mount point {point} is not empty, and a mount would hide what is in it: name an empty directory"
        )
    if not os.access(point, os.W_OK):
        raise MountError(
            f"you may not write to the mount point {point}, which fusermount3 asks for: "
            f"run 'sudo chown \"$USER\" {quoted}'"
        )


def pulse(mount: Mount) -> Pulse:
    """Return how the root of *mount* answers stat(2); takes 2 s at most."""
    try:
        asked = subprocess.run(
            ["stat", "--", mount.point],
            env=os.environ | {"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Pulse.HANGING
    # ENOTCONN, or ECONNABORTED while the kernel finds out: the daemon at the other end is gone.
    return Pulse.DEAD if re.search(rb"not connected|connection abort", asked.stderr) else Pulse.ALIVE


def _why_taken(mount: Mount) -> str:
    quoted = shlex.quote(str(mount.point))
    match pulse(mount):
        case Pulse.DEAD:
            return (
                f"{mount.point} is a dead mount (Transport endpoint is not connected): run 'aliasfs mount --force "
                f"{quoted}', which clears it with 'umount -l' first"
            )
        case Pulse.HANGING if said := _keepers_word(mount):
            return f"{mount.point} is mounted and does not answer; {said}: run 'aliasfs doctor --unhang {quoted}'"
        case Pulse.HANGING:
            return (
                f"{mount.point} is a {mount.fs_type} mount that does not answer: run 'aliasfs umount --force {quoted}'"
            )
        case Pulse.ALIVE if mount.is_ours:
            return f"{mount.point} is already mounted by {_holder(mount)}: 'aliasfs status' shows it"
        case _:
            return f"{mount.point} is already a mount point, of type {mount.fs_type}: name another directory"


def _keepers_word(mount: Mount) -> str:
    """Return what the keeper of *mount* says of it, "" where there is none."""
    keeper = keeper_of(mount.point) if mount.is_ours else None
    return f"its keeper (pid {keeper.pid}) says: {keeper.said}" if keeper else ""


def _holder(mount: Mount) -> str:
    keeper = keeper_of(mount.point)
    if keeper is not None and keeper.pid:
        return f"pid {keeper.pid}"
    try:
        pid = listener_pid(socket_path(mount.point))
    except OSError:  # TimeoutError too
        pid = 0
    return f"pid {pid}" if pid else f"uid {mount.owner}"
