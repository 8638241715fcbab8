"""docs/CLI.md has every command and every option it needs, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from aliasfs.cli.app import build

PAGE = (Path(__file__).parents[4] / "docs" / "CLI.md").read_text()


def commands() -> Iterator[str]:
    root = typer.main.get_command(build())
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        children = getattr(command, "commands", None)
        yield from (f"{name} {child}" for child in children) if children else (name,)


def test_the_page_has_a_section_for_each_command() -> None:
    sections = re.findall(r"^### aliasfs ((?:alias |cache )?\w+)", PAGE, re.MULTILINE)
    assert sorted(sections) == sorted(commands())


@pytest.mark.parametrize("command", sorted(commands()))
def test_each_command_has_help_with_an_example(command: str) -> None:
    shown = CliRunner().invoke(build(), [*command.split(), "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert f"aliasfs {command}" in shown.stdout


def test_options_on_the_page_exist() -> None:
    section = ""
    for line in PAGE.splitlines():
        if heading := re.match(r"### aliasfs ((?:alias |cache )?\w+)", line):
            section = heading[1]
        if line.startswith("    ") and (typed := re.match(r"\s+(?:sudo )?aliasfs ((?:alias |cache )?\w+)(.*)", line)):
            assert typed[1] == section
            shown = CliRunner().invoke(build(), [*section.split(), "--help"], env={"COLUMNS": "200"}).stdout
            for option in re.findall(r"(?<!\S)--?[a-z0-9-]+", typed[2].partition("|")[0]):
                assert re.search(rf"{option}\b", shown), f"{section} has no {option}"
