"""`aliasfs alias`: see which names exist, where they point, and whether that place answers.

The commands that change something are in `aliasfs.cli.alias_edit`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from aliasfs.cli import alias_edit
from aliasfs.cli.masking import masked
from aliasfs.cli.options import AliasArgument, ConfigOption, JsonOption, complete_alias, examples
from aliasfs.registry import Alias


def register(app: typer.Typer) -> None:
    """Add the group `alias` to *app*."""
    group = typer.Typer(no_args_is_help=True, help="See and change the aliases: names for places where data is.")
    group.command("list", epilog=examples("aliasfs alias list", "aliasfs alias list --json"))(list_aliases)
    group.command("show", epilog=examples("aliasfs alias show COMPANY"))(show_alias)
    group.command("check", epilog=examples("aliasfs alias check", "aliasfs alias check COMPANY --json"))(check_aliases)
    alias_edit.register(group)
    app.add_typer(group, name="alias")


def list_aliases(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the aliases, and where each was configured."""
    from aliasfs import config as configuration
    from aliasfs.cli import output

    aliases = configuration.load(config).registry.values()
    if as_json:
        output.print_json([_facts(alias) for alias in aliases])
    else:
        rows = ((a.name, a.url, a.mode.value, f"{a.ttl_s:g}", _tier(a), a.origin) for a in aliases)
        output.print_table(("NAME", "URL", "MODE", "TTL", "TIER", "FROM"), rows)


def show_alias(name: AliasArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show all that is configured of one alias; values that may be secret are left out."""
    from aliasfs import config as configuration
    from aliasfs.cli import output

    facts = _facts(configuration.load(config).registry[name])
    if as_json:
        output.print_json(facts)
        return
    options = facts.pop("options")
    lines = {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in facts.items()}
    lines |= {
        f"options.{key}": value if isinstance(value, str) else json.dumps(value) for key, value in options.items()
    }
    output.print_facts(lines)


def check_aliases(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", autocompletion=complete_alias, help="Aliases to check; all when left out."),
    ] = None,
    config: ConfigOption = None,
    deadline: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="How long one may take.")] = 20.0,
    as_json: JsonOption = False,
) -> None:
    """Open each store and say what is there; the exit code is that of the worst one."""
    import trio

    from aliasfs import config as configuration
    from aliasfs.cli import output
    from aliasfs.probe import probe_all
    from aliasfs.store import open_store

    registry = configuration.load(config).registry
    aliases = [registry[name] for name in dict.fromkeys(names or registry)]
    with output.progress("checking") as report:
        results = trio.run(lambda: probe_all(aliases, open_store, deadline_s=deadline, report=report))
    if as_json:
        output.print_json([asdict(result) for result in results])
    else:
        columns = ("NAME", "REACHABLE", "READABLE", "CREDENTIALS", "ROUND TRIP", "ENTRIES", "PROBLEM")
        output.print_table(
            columns,
            (
                (
                    found.name,
                    "yes" if found.reachable else "no",
                    "yes" if found.readable else "no",
                    found.credentials,
                    "-" if found.round_trip_ms is None else f"{found.round_trip_ms:.1f} ms",
                    str(found.entries_seen),
                    found.error,
                )
                for found in results
            ),
        )
    raise typer.Exit(max((result.exit for result in results), default=0))


def _tier(alias: Alias) -> str:
    return alias.tier.name.lower().replace("_", " ")


def _facts(alias: Alias) -> dict[str, Any]:
    """Return what may be told of *alias*."""
    return {
        "name": alias.name,
        "url": alias.url,
        "mode": alias.mode.value,
        "ttl": alias.ttl_s,
        "engine": alias.engine.value,
        "tier": _tier(alias),
        "from": alias.origin,
        "options": masked(alias.options),
    }
