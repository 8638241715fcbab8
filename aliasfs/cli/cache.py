"""`aliasfs cache`: what is cached on disk, give it back, check it.

A cache directory belongs to one process at a time: where a daemon has it, that daemon is asked; else a
process of the daemon's program is started to do the work, and ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from aliasfs.cli.options import ConfigOption, JsonOption, examples
from aliasfs.wire import CacheStatus, EvictReport, VerifyProgress, VerifyReport

DirOption = Annotated[
    Path | None,
    typer.Option(
        "--dir", metavar="DIR", file_okay=False, show_default=False, help="The cache; cache.dir when left out."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the group `cache` to *app*."""
    group = typer.Typer(no_args_is_help=True, help="See, empty and check what is cached on disk.")
    group.command("status", epilog=examples("aliasfs cache status", "aliasfs cache status --json"))(status)
    group.command("evict", epilog=examples("aliasfs cache evict", "aliasfs cache evict --to 5GB"))(evict)
    group.command("verify", epilog=examples("aliasfs cache verify", "aliasfs cache verify --dir /scratch/cache"))(
        verify
    )
    app.add_typer(group, name="cache")


def status(directory: DirOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show how much is cached, how full the cache may be, and how well it does."""
    from aliasfs.cli import output
    from aliasfs.client import DaemonClient

    where = _directory(directory, config)
    if point := _mount_with(where):
        with DaemonClient(point) as daemon:
            found = daemon.cache_status()
    else:
        found = CacheStatus.model_validate(_offline("status", where))
    if as_json:
        output.print_json(found.model_dump(mode="json"))
    else:
        output.print_facts(_facts(found, point))


def evict(
    directory: DirOption = None,
    config: ConfigOption = None,
    to: Annotated[
        str, typer.Option("--to", metavar="SIZE", help="Leave at most so much, the most recently used, as in 5GB.")
    ] = "0",
    as_json: JsonOption = False,
) -> None:
    """Give cached bytes back to the disk, least recently used first; all of them, unless --to says how much stays."""
    from aliasfs.cli import output
    from aliasfs.client import DaemonClient
    from aliasfs.units import parse_size

    try:
        to_bytes = parse_size(to)
    except ValueError as exc:
        raise typer.BadParameter(f"{to} {exc}") from exc
    where = _directory(directory, config)
    if point := _mount_with(where):
        with DaemonClient(point) as daemon:
            done = daemon.cache_evict(to_bytes)
    else:
        done = EvictReport.model_validate(_offline("evict", where, "--to-bytes", str(to_bytes)))
    if as_json:
        output.print_json(done.model_dump(mode="json"))
    else:
        freed, left = output.human_bytes(done.evicted_bytes), output.human_bytes(done.used_bytes)
        typer.echo(f"gave back {freed} of {done.evicted_objects} objects; {left} are left in {where}")


def verify(directory: DirOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check every cached block against its checksum, and drop the bad ones; exit code 1 where there were any."""
    from aliasfs.cli import output
    from aliasfs.client import DaemonClient

    where = _directory(directory, config)
    with output.progress(f"checking {where}", is_bytes=True) as draw:

        def report(progress: VerifyProgress) -> None:
            draw(progress.done_bytes, progress.total_bytes)

        if point := _mount_with(where):
            with DaemonClient(point) as daemon:
                done = daemon.cache_verify(report)
        else:
            done = VerifyReport.model_validate(_offline("verify", where, report=report))
    if as_json:
        output.print_json(done.model_dump(mode="json"))
    else:
        checked = f"{output.human_bytes(done.bytes)} in {done.blocks} blocks of {done.objects} objects"
        verdict = f"{done.bad_blocks} blocks were bad and have been dropped" if done.bad_blocks else "all good"
        typer.echo(f"checked {checked}: {verdict}")
    raise typer.Exit(1 if done.bad_blocks else 0)


def _directory(directory: Path | None, config_file: Path | None) -> Path:
    from aliasfs import config as configuration

    return Path(os.path.realpath(directory or configuration.load(config_file).cache.dir))


def _mount_with(directory: Path) -> Path | None:
    """Return the point of the running mount whose cache is in *directory*."""
    from aliasfs.client import running_daemons

    for daemon in running_daemons():
        if daemon.cache.dir and os.path.realpath(daemon.cache.dir) == str(directory):
            return Path(daemon.point)
    return None


def _offline(
    command: str, directory: Path, *options: str, report: Callable[[VerifyProgress], None] | None = None
) -> Any:
    """Return the result of `mountd cache COMMAND` on *directory*, which no daemon has; raises what it fails with."""
    from aliasfs.cli.launch import daemon_environ, error_of

    argv = [sys.executable, "-P", "-m", "mountd", "cache", command, "--dir", str(directory), *options, "--json"]
    result = None
    # A file takes what is logged: a full pipe that nobody reads would hold the work up.
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(
            argv, env=daemon_environ(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, text=True
        ) as process,
    ):
        for line in process.stdout or ():
            content = json.loads(line)
            if "progress" not in content:
                result = content
            elif report is not None:
                report(VerifyProgress.model_validate(content["progress"]))
        code = process.wait()
        said.seek(0)
        lines = [line.removeprefix("mountd: ") for line in said.read().splitlines()]
    if code == 0 and result is not None:
        return result
    raise error_of(lines[-1] if lines else f"'cache {command}' ended without a result", code)


def _facts(found: CacheStatus, point: Path | None) -> dict[str, str]:
    from aliasfs.cli.output import human_bytes

    asked = found.hits + found.misses
    facts = {
        "directory": found.dir,
        "state": f"{found.state}: {found.reason}" if found.reason else found.state,
        "used by": f"the mount {point}" if point else "no mount",
        "used": f"{human_bytes(found.used_bytes)} in {found.objects} objects",
        "disk": f"{human_bytes(found.free_bytes)} free",
    }
    if point:
        facts |= {
            "budget": f"{human_bytes(found.budget_bytes)}; {human_bytes(found.min_free_bytes)} of the disk stay free",
            "hits": f"{found.hits} of {asked}" + (f" ({found.hits / asked:.0%})" if asked else ""),
            "from disk": human_bytes(found.bytes_from_disk),
            "fetched": human_bytes(found.bytes_fetched),
            "evicted": human_bytes(found.evicted_bytes),
            "bad blocks": str(found.bad_blocks),
        }
    return facts
