"""`aliasfs mount` and `aliasfs umount`: make the tree appear, and take it away."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aliasfs.cli.options import ConfigOption, examples
from aliasfs.cli.points import MountedArgument, PointArgument
from aliasfs.errors import DaemonUnreachable, MountError

if TYPE_CHECKING:
    from aliasfs.cli.launch import DaemonCommand

AliasOption = Annotated[
    list[str],
    typer.Option(
        "--alias", metavar="NAME=URL", show_default=False, help="One more alias for this mount; may be repeated."
    ),
]


def register(app: typer.Typer) -> None:
    """Add `mount` and `umount` to *app*."""
    app.command(
        epilog=examples(
            "aliasfs mount ~/aliases",
            "aliasfs mount /mnt/aliases --config project.yaml --alias RAW=s3://bucket/raw",
            "sudo aliasfs mount /mnt/aliases --allow-other",
            "aliasfs mount --foreground",
        )
    )(mount)
    app.command(epilog=examples("aliasfs umount ~/aliases", "aliasfs umount --force /mnt/aliases"))(umount)


def mount(
    point: PointArgument = None,
    config: ConfigOption = None,
    alias: AliasOption = [],  # noqa: B006  # typer copies it
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay here and log to stderr.")] = False,
    allow_other: Annotated[bool, typer.Option("--allow-other", help="Let other users in.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Clear a dead mount from POINT first.")] = False,
) -> None:
    """Mount the aliases on POINT, and return once the mount answers."""
    from aliasfs import config as configuration
    from aliasfs.cli import launch, preflight
    from aliasfs.mounts import canonical_point

    settings = configuration.load(config, cli_aliases=alias)
    where = canonical_point(point or settings.mount.point)
    preflight.check_fuse_device()
    preflight.check_fusermount()
    if allow_other or settings.mount.allow_other:
        preflight.check_allow_other()
    if not (foreground and launch.is_handed_over(os.environ)):
        if force:
            _clear_dead(where)
        preflight.check_point(where)
    command = launch.DaemonCommand(where, config.absolute() if config else None, alias, allow_other)
    if foreground:
        argv = command.argv()
        os.execve(argv[0], argv, launch.daemon_environ())
    _mount_in_background(command)
    if not settings.registry:
        typer.echo("it is empty: 'aliasfs alias add NAME URL' puts something into it", err=True)


def umount(
    point: MountedArgument = None,
    config: ConfigOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Detach it whoever uses it, and end its processes even if they hang.")
    ] = False,
    lazy: Annotated[
        bool, typer.Option("--lazy", help="Detach it now; files that are open can be read until they are closed.")
    ] = False,
) -> None:
    """Take the mount on POINT away, and return once it is gone."""
    from aliasfs.cli import detach, output
    from aliasfs.cli.points import only_mount, ours_at
    from aliasfs.mounts import canonical_point

    where = canonical_point(point or only_mount(config))
    found = ours_at(where)
    if found is None:
        _end_leftover_daemon(where)
        return
    with output.progress(f"unmounting {where}") as report:

        def waiting(waited_s: float) -> None:
            report(int(waited_s), int(detach.GONE_WITHIN_S))

        if force:
            detach.unmount_forced(found, waiting)
        elif lazy:
            detach.detach(found, lazy=True)
        else:
            detach.unmount(found, waiting)
    typer.echo(f"unmounted {where}")


def _mount_in_background(command: DaemonCommand) -> None:
    from aliasfs.cli import launch, output

    log = launch.log_file(command.point)
    with output.progress(f"mounting {command.point}") as report:
        pid = launch.launch(command, log, lambda waited_s: report(int(waited_s), int(launch.READY_WITHIN_S)))
    typer.echo(f"mounted {command.point} (pid {pid}, log {log})")


def _clear_dead(point: Path) -> None:
    """Detach the dead mounts that are stacked on *point*, topmost first; a living one is left alone."""
    from aliasfs.cli import detach, preflight
    from aliasfs.mounts import mount_at

    while (found := mount_at(point)) and preflight.pulse(found) is preflight.Pulse.DEAD:
        detach.detach(found, lazy=True)
        typer.echo(f"cleared a dead mount from {point}", err=True)


def _end_leftover_daemon(point: Path) -> None:
    """End a daemon whose mount somebody else took away; raise MountError where there is none either."""
    from aliasfs.cli import detach

    try:
        detach.stop_daemon(point)
    except DaemonUnreachable:
        raise MountError(f"nothing is mounted on {point}; 'aliasfs status' shows what is") from None
    typer.echo(f"{point} was not mounted any more; its daemon was told to end")
