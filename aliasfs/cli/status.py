"""`aliasfs status`: what the running mounts do."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from aliasfs.cli.options import JsonOption, examples
from aliasfs.errors import DaemonUnreachable
from aliasfs.wire import CacheStatus, DaemonStatus, KeeperStatus, KernelStatus

COLUMNS = ("ALIAS", "HEALTH", "REQUESTS", "ERRORS", "READ", "MEAN", "ENGINE", "URL", "LAST ERROR")


def register(app: typer.Typer) -> None:
    """Add `status` to *app*."""
    app.command(epilog=examples("aliasfs status", "aliasfs status /mnt/aliases --json"))(status)


def status(
    point: Annotated[
        Path | None,
        typer.Argument(parser=Path, metavar="POINT", show_default=False, help="One mount; all of yours when left out."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the aliases of a running mount with the health of their stores, its keeper, its cache and its load."""
    from aliasfs.cli import output
    from aliasfs.client import mount_status, running_daemons

    found = [mount_status(point)] if point is not None else running_daemons(output.note)
    if not found:
        raise DaemonUnreachable(
            "no mount of yours is running; 'aliasfs mount' starts one, 'aliasfs doctor' looks further"
        )
    if as_json:
        answers = [one.model_dump(mode="json") for one in found]
        output.print_json(answers[0] if point is not None else answers)
        return
    for number, one in enumerate(found):
        if number:
            typer.echo()
        _print(one)


def _print(one: DaemonStatus) -> None:
    from aliasfs.cli import output

    facts = {"mount": f"{one.point} ({_server(one)})"}
    if one.keeper is not None:
        facts["keeper"] = keeper_line(one.keeper)
    if one.answers:
        facts |= {
            "config": ", ".join(one.config_files) or "none",
            "cache": cache_line(one.cache),
            "load": _load_line(one.kernel),
        }
    output.print_facts(facts)
    if one.keeper is not None and one.keeper.state == "gone":
        output.note(f"warning: {without_keeper(one.point)}")
    rows = [
        (
            alias.name,
            alias.health,
            str(alias.requests),
            str(alias.errors),
            output.human_bytes(alias.bytes_read),
            f"{alias.mean_ms:.1f} ms",
            alias.engine,
            alias.url,
            alias.last_error,
        )
        for alias in one.aliases
    ]
    output.print_table(COLUMNS, rows)


def _server(one: DaemonStatus) -> str:
    if one.answers:
        return f"pid {one.pid}, up {duration(one.uptime_s)}, version {one.version}"
    return f"pid {one.pid} does not answer" if one.pid else "no server at the moment"


def keeper_line(keeper: KeeperStatus) -> str:
    """Return how the keeper of a mount is, and how its servers fared, in one line."""
    line = f"pid {keeper.pid}, {keeper.state}" if keeper.pid else keeper.state
    if keeper.state != "serving":
        return f"{line}: {keeper.said}" if keeper.said else line
    servers = keeper.generation + 1
    line += f"; {servers} {'server' if servers == 1 else 'servers'} so far"
    if keeper.last_death:
        line += f", last death: {keeper.last_death} {duration(time.time() - keeper.last_death_at)} ago"
    if keeper.hangs:
        line += f", {keeper.hangs} hung"
    return f"{line}, readers waited {keeper.pause_s:.2f} s" if keeper.pause_s else line


def without_keeper(point: str) -> str:
    """Return what it means that the keeper of *point* is gone, and what to do."""
    return (
        f"the keeper of {point} is gone: its server serves on, but nobody replaces that when it dies; "
        f"run 'aliasfs umount {point}', then 'aliasfs mount {point}'"
    )


def cache_line(cache: CacheStatus) -> str:
    """Return the state of the cache in one line."""
    from aliasfs.cli.output import human_bytes

    if cache.state != "on":
        return f"{cache.state}: {cache.reason}" if cache.reason else cache.state
    asked = cache.hits + cache.misses
    share = f"{cache.hits / asked:.0%} hits" if asked else "not used yet"
    bad = f", {cache.bad_blocks} bad blocks dropped" if cache.bad_blocks else ""
    return f"{human_bytes(cache.used_bytes)} of {human_bytes(cache.budget_bytes)} in {cache.dir}, {share}{bad}"


def _load_line(kernel: KernelStatus) -> str:
    from aliasfs.cli.output import human_bytes

    rates = kernel.rates
    errors = ", ".join(f"{count} {name}" for name, count in sorted(kernel.errors.items()))
    return (
        f"{rates.requests_per_s:.1f} requests/s, {human_bytes(rates.bytes_per_s)}/s over {rates.window_s:.0f} s; "
        f"{sum(kernel.requests.values())} requests since the start, {kernel.open_inodes} inodes known"
        + (f"; errors: {errors}" if errors else "")
    )


def duration(seconds: float) -> str:
    """Return *seconds* in its two largest units: `3 d 4 h`."""
    whole = max(0, int(seconds))
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    first = next((index for index, (count, _) in enumerate(parts) if count), 3)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2])
