"""Makes and takes away one FUSE mount, and keeps the descriptor by which the kernel is answered.

Relies on fusermount3, which does the same for root and for anyone else: it mounts, and passes the descriptor on over
a socket whose number is in `_FUSE_COMMFD` (fusermount3.c of libfuse), and on `aliasfs.mounts` for the kernel's table,
which is made of the standard library as all of this. What may wait for a server that hangs is never done here: the
mount point itself is not looked at.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import subprocess
from pathlib import Path

from aliasfs.mounts import mount_table

FUSERMOUNT = "fusermount3"
FUSERMOUNT_S = 20.0
INIT_S = 10.0
"""How long the kernel may take to send its first request; it takes microseconds."""

MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
"""Flags of umount2(2)."""


class MountFailed(Exception):
    """There is no mount; the sentence says why."""


def mount(point: str, options: str) -> int:
    """Mount on *point* and return the descriptor; the kernel's first request is waiting in it. Raises MountFailed."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        environment = {**os.environ, "_FUSE_COMMFD": str(theirs.fileno()), "LC_ALL": "C"}
        try:
            done = subprocess.run(
                [FUSERMOUNT, "-o", options, "--", point],
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=FUSERMOUNT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise MountFailed(f"cannot mount {point}: {exc}; 'aliasfs doctor' says what is missing") from exc
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip() or f"it ended with {done.returncode}"
            raise MountFailed(f"cannot mount {point}: {said}; 'aliasfs doctor' says what is missing")
        theirs.close()  # so that one that was not used is at its end
        _byte, descriptors, _flags, _address = socket.recv_fds(ours, 1, 1)
    if not descriptors:
        raise MountFailed(f"cannot mount {point}: {FUSERMOUNT} gave no descriptor")
    os.set_inheritable(descriptors[0], False)
    if not select.select([descriptors[0]], [], [], INIT_S)[0]:
        os.close(descriptors[0])
        detach(point)
        raise MountFailed(f"cannot mount {point}: the kernel sent no request within {INIT_S:.0f} s")
    return descriptors[0]


def detach(point: str) -> str:
    """Take the mount on *point* away from the tree, whoever uses it; return why that failed, "" when it did not."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.umount2(os.fsencode(point), MNT_DETACH | UMOUNT_NOFOLLOW) == 0:
            return ""
        number = ctypes.get_errno()
        return "" if number == errno.EINVAL else os.strerror(number)  # EINVAL: it is no mount point any more
    try:
        done = subprocess.run(
            [FUSERMOUNT, "-u", "-z", "--", point],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=FUSERMOUNT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return str(exc)
    return "" if done.returncode == 0 else done.stderr.decode(errors="replace").strip()


def device_of(point: str) -> str:
    """Return `major:minor` of the topmost mount on *point* as the kernel's table has it; "" when there is none."""
    return next((device for device in reversed(_devices_on(point))), "")


def is_mounted(device: str, point: str) -> bool:
    """Say whether the mount *device* (`major:minor`) lies on *point*, be it below others.

    A device alone says little: the kernel gives its number to the next mount as soon as one has ended.
    """
    return device in _devices_on(point)


def _devices_on(point: str) -> list[str]:
    """Return the mounts on *point*, lowest first."""
    return [mount.device for mount in mount_table() if mount.point == Path(point)]


def abort(device: str) -> str:
    """Have every request on the mount *device* fail and no more come; return why that failed, "" when it did not."""
    minor = device.partition(":")[2]
    try:
        Path(f"/sys/fs/fuse/connections/{minor}/abort").write_text("1\n")
    except OSError as exc:
        return str(exc)
    return ""
