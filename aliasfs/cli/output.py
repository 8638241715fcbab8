"""How commands print: tables for a person at a terminal, tabs for a pipe, JSON for a program.

Results go to stdout, everything else to stderr. Nothing here decides what is secret: callers pass what
may be shown.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_PROGRESS_AFTER_S = 1.0  # what is done sooner needs no bar
_PLAIN_BREAKS = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r", "\\": "\\\\"})


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print *rows*, as a table with headings at a terminal, else one line each with tabs and no heading."""
    if not sys.stdout.isatty():
        for row in rows:
            typer.echo("\t".join(cell.translate(_PLAIN_BREAKS) for cell in row))
        return
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table)


def print_facts(facts: Mapping[str, str]) -> None:
    """Print one fact per line: aligned at a terminal, else name, tab, value."""
    if not sys.stdout.isatty():
        print_table((), facts.items())
        return
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        typer.echo(f"{name:<{width}}  {value}")


def print_json(value: object) -> None:
    """Print *value* as indented JSON; what JSON does not know is printed as text."""
    typer.echo(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def note(sentence: str) -> None:
    """Tell the person at the terminal something that is not a result."""
    typer.echo(sentence, err=True)


def human_bytes(count: float) -> str:
    """Return *count* bytes with a decimal unit and three digits: `1.23 GB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"


@contextmanager
def progress(description: str, *, is_bytes: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Give a function that takes `(done, total)` and draws a bar on a terminal's stderr after one second."""
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    amount = DownloadColumn() if is_bytes else MofNCompleteColumn()
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn(), console=console, transient=True
    )
    task = bar.add_task(description, total=None)
    started = time.monotonic()
    is_shown = False

    def report(done: int, total: int) -> None:
        nonlocal is_shown
        if not is_shown and console.is_terminal and time.monotonic() - started >= _PROGRESS_AFTER_S:
            bar.start()
            is_shown = True
        bar.update(task, completed=done, total=total)

    try:
        yield report
    finally:
        if is_shown:
            bar.stop()
