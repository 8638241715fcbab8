"""Which mount a command means: the argument that says so, and what stands in for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aliasfs.errors import MountError

if TYPE_CHECKING:
    from aliasfs.mounts import Mount

PointArgument = Annotated[
    Path | None,
    typer.Argument(
        parser=Path,  # typer's own looks at the path, and waits for a mount that does not answer
        metavar="POINT",
        show_default=False,
        help="The mount point; mount.point of the configuration when left out.",
    ),
]
MountedArgument = Annotated[
    Path | None,
    typer.Argument(
        parser=Path, metavar="POINT", show_default=False, help="The mount point; your only mount when left out."
    ),
]


def only_mount(config: Path | None = None) -> Path:
    """Return the point of the one mount of this user, dead or alive, else what the configuration says.

    Raises MountError where there are several.
    """
    from aliasfs import config as configuration
    from aliasfs.mounts import mount_table

    points = sorted({mount.point for mount in mount_table() if mount.is_ours and mount.owner == os.geteuid()})
    if len(points) > 1:
        raise MountError(f"you have several mounts, so name the one you mean: {', '.join(map(str, points))}")
    return points[0] if points else configuration.load(config).mount.point


def ours_at(point: Path) -> Mount | None:
    """Return the mount on the canonical path *point*, None where there is none; MountError where it is not ours."""
    from aliasfs.mounts import mount_at

    found = mount_at(point)
    if found is not None and not found.is_ours:
        raise MountError(f"{point} is a {found.fs_type} mount, which aliasfs did not make: 'umount' takes it away")
    return found
