"""Options and arguments that many commands share, and what the shell may complete them to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from aliasfs.errors import ConfigError

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        dir_okay=False,
        show_default=False,
        help="Configuration file to use alone, in place of the user's and the system's.",
    ),
]

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def examples(*commands: str) -> str:
    """Return the epilog of a command's help that shows how *commands* are typed."""
    # Rich's help joins the lines of a paragraph, so that each command must be one of its own.
    return "\n\n".join(["[bold]Examples[/bold]", *(f"  {escape(command)}" for command in commands)])


def complete_alias(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the configured alias names that begin with *incomplete*; none while the configuration is broken."""
    from aliasfs import config

    try:
        names = config.load(ctx.params.get("config")).registry
    except ConfigError:
        return []
    return [name for name in names if name.startswith(incomplete)]


AliasArgument = Annotated[
    str, typer.Argument(metavar="NAME", autocompletion=complete_alias, help="Name of an alias.", show_default=False)
]
