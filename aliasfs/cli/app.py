"""Builds the command line from its groups; the only place that knows all of them."""

from __future__ import annotations

from typing import Annotated

import typer

from aliasfs import __version__
from aliasfs.cli import alias, cache, doctor, files, mount, restart, status
from aliasfs.cli.options import examples


def build() -> typer.Typer:
    """Return the application `aliasfs`."""
    app = typer.Typer(
        name="aliasfs",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog=examples(
            "aliasfs alias add COMPANY s3://bucket/project",
            "aliasfs mount ~/aliases",
            "ls ~/aliases/COMPANY",
            "aliasfs status",
        ),
    )
    app.callback()(_root)
    for group in (alias, mount, restart, files, cache, doctor, status):
        group.register(app)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"aliasfs {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """One tree of named places: local paths, S3, Azure and any fsspec URL, read through a cache."""
