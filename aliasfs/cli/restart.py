"""`aliasfs restart`: another server for a mount, of the version that asks, without an error to any reader."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import typer

from aliasfs.cli.options import examples
from aliasfs.cli.points import MountedArgument


def register(app: typer.Typer) -> None:
    """Add `restart` to *app*."""
    app.command(epilog=examples("aliasfs restart", "aliasfs restart /mnt/aliases"))(restart)


def restart(point: MountedArgument = None) -> None:
    """Replace the server of a mount by a new one, of this version of aliasfs; readers wait a moment and go on."""
    from aliasfs.cli import launch, output
    from aliasfs.cli.points import only_mount
    from aliasfs.keeperdoor import REPLACED_WITHIN_S, KeeperDoor
    from aliasfs.mounts import canonical_point

    where = canonical_point(point or only_mount())
    keeper = KeeperDoor(where)
    before = keeper.status()
    with output.progress(f"restarting the server of {where}") as report:
        done = keeper.restart(
            sys.executable,
            launch.module_path(os.environ),
            lambda waited_s: report(int(waited_s), int(REPLACED_WITHIN_S)),
        )
    if not done.ok:
        raise launch.error_of(_why_not(where, done.error), done.exit)
    versions = " -> ".join(filter(None, [before.version, done.version]))
    typer.echo(f"restarted {where}: version {versions} (pid {done.pid}), readers waited {done.pause_s:.2f} s")


def _why_not(point: Path, error: str) -> str:
    from aliasfs.keeperdoor import keeper_of

    keeper = keeper_of(point)
    if keeper is None:
        return f"{point} got no new server: {error}"
    if keeper.state != "serving":
        return f"{point} got no new server: {error}; its keeper (pid {keeper.pid}) says: {keeper.said}"
    return (
        f"the new server of {point} could not start: {error}; "
        f"the old one (pid {keeper.server_pid}, version {keeper.version}) serves on"
    )
