"""`aliasfs alias`: see and change which names exist and where they point."""

from __future__ import annotations

import typer

from aliasfs.cli.options import ConfigOption, JsonOption, examples


def register(app: typer.Typer) -> None:
    """Add the group `alias` to *app*."""
    group = typer.Typer(no_args_is_help=True, help="See and change the aliases: names for places where data is.")
    group.command("list", epilog=examples("aliasfs alias list", "aliasfs alias list --json"))(list_aliases)
    app.add_typer(group, name="alias")


def list_aliases(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the aliases, and where each was configured."""
    from aliasfs import config as configuration
    from aliasfs.cli import output

    registry = configuration.load(config).registry
    rows = [(a.name, a.url, a.mode.value, a.tier.name.lower(), a.origin) for a in registry.values()]
    if as_json:
        output.print_json([dict(zip(("name", "url", "mode", "tier", "origin"), row, strict=True)) for row in rows])
    else:
        output.print_table(("NAME", "URL", "MODE", "TIER", "FROM"), rows)
