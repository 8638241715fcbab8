"""What the kernel is told at mount time, and what it is asked for beyond pyfuse3's reach.

Relies on sysfs: `/sys/class/bdi/MAJOR:MINOR/read_ahead_kb` (Documentation/ABI/testing/sysfs-class-bdi) and
`/sys/fs/fuse/connections/MINOR` (Documentation/filesystems/fuse.rst). Both need root; without them reads
come in pieces of 128 KiB and at most 12 wait in the background.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

READ_AHEAD_KIB = 1024
"""The largest request libfuse 3 negotiates (256 pages); more would only be cut into such pieces."""

MAX_BACKGROUND = 64
"""Read-ahead and asynchronous requests the kernel may have waiting: four readers of 16 MiB each."""

CONNECTIONS = Path("/sys/fs/fuse/connections")


@dataclass(frozen=True)
class Raised:
    """Which limits could be raised; *why_not* says what stood in the way, one sentence each."""

    read_ahead_kib: int
    why_not: tuple[str, ...]


def mount_options(*, allow_other: bool) -> set[str]:
    """Return the options of the mount; the kernel checks permissions and refuses every write."""
    options = {"default_permissions", "fsname=aliasfs", "subtype=aliasfs", "ro", "nosuid", "nodev"}
    return options | {"allow_other"} if allow_other else options


def raise_limits(device: int) -> Raised:
    """Ask for larger and more requests on the mounted *device* (st_dev); what fails is said, not raised."""
    minor = os.minor(device)
    bdi = Path(f"/sys/class/bdi/{os.major(device)}:{minor}/read_ahead_kb")
    wishes = {bdi: READ_AHEAD_KIB}
    if (CONNECTIONS / str(minor)).is_dir():
        wishes[CONNECTIONS / str(minor) / "max_background"] = MAX_BACKGROUND
        wishes[CONNECTIONS / str(minor) / "congestion_threshold"] = MAX_BACKGROUND * 3 // 4
    why_not = []
    for path, value in wishes.items():
        try:
            path.write_text(f"{value}\n")
        except OSError as exc:
            why_not.append(f"cannot set {path} to {value}: {exc.strerror}")
    return Raised(_read_ahead_kib(bdi), tuple(why_not))


def _read_ahead_kib(bdi: Path) -> int:
    try:
        return int(bdi.read_text())
    except (OSError, ValueError):
        return 0
