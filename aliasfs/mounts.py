"""The kernel's table of mounts, read from /proc; says what lies on a mount point without touching it.

A dead or hanging FUSE mount blocks or fails every stat(2) of its root, so nothing here looks at a mount
point itself: the parent directory is resolved, and the rest is text from proc(5).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from aliasfs.errors import MountError

FS_TYPE = "fuse.aliasfs"
"""The file system type of our mounts in /proc/self/mountinfo: `fuse.` and the subtype given to mount."""

MOUNTINFO = Path("/proc/self/mountinfo")

_MAX_LINKS = 40
"""As many symbolic links as the kernel follows in one path (path_resolution(7))."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of /proc/self/mountinfo; *device* is `major:minor`, *owner* the uid that made a FUSE mount."""

    point: Path
    fs_type: str
    source: str
    device: str
    owner: int | None

    @property
    def is_ours(self) -> bool:
        """Whether aliasfs made it."""
        return self.fs_type == FS_TYPE


def parse_mountinfo(text: str) -> list[Mount]:
    """Return the mounts of *text*, in the format of proc(5), lowest first where they are stacked."""
    mounts = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, (fs_type, source, *options) = left.split(), right.split(" ")
        owner = re.search(r"\buser_id=(\d+)", " ".join(options))
        mounts.append(
            Mount(
                point=Path(_unescape(fields[4])),
                fs_type=fs_type,
                source=_unescape(source),
                device=fields[2],
                owner=int(owner[1]) if owner else None,
            )
        )
    return mounts


def mount_table() -> list[Mount]:
    """Return every mount this process can see."""
    return parse_mountinfo(MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape"))


def mount_at(point: Path) -> Mount | None:
    """Return the topmost mount on the canonical path *point*, or None where nothing is mounted."""
    return next((mount for mount in reversed(mount_table()) if mount.point == point), None)


def canonical_point(point: Path) -> Path:
    """Return *point* absolute and without symbolic links, as the kernel names it once it is mounted.

    Touches the parent directory only, unless nothing is mounted on *point*; so it does not hang on a
    dead mount. *point* need not exist.
    """
    mounted = {mount.point for mount in mount_table()}
    path = _beside_real_parent(point.expanduser())
    for _ in range(_MAX_LINKS):
        if path in mounted or not path.is_symlink():
            return path
        path = _beside_real_parent(path.parent / path.readlink())
    raise MountError(f"{point} leads through too many symbolic links; name the directory itself")


def _beside_real_parent(path: Path) -> Path:
    absolute = Path.cwd() / path
    if absolute.name in ("", ".."):
        return Path(os.path.realpath(absolute))
    return Path(os.path.realpath(absolute.parent)) / absolute.name


def _unescape(field: str) -> str:
    """Undo the octal escapes of space, tab, newline and backslash in *field*."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)
