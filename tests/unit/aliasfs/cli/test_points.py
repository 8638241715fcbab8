"""Whoever looks at a mount that does not answer waits, so the commands that are to mend it must not look."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import typer

from aliasfs.cli.app import build


@pytest.mark.parametrize("command", ["mount", "umount", "restart", "status", "doctor"])
def test_no_command_looks_at_the_mount_point_while_it_is_parsed(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group: Any = typer.main.get_command(build())
    real, looked_at = os.stat, []

    def stat(path: Any, *more: Any, **named: Any) -> os.stat_result:
        looked_at.append(os.fspath(path))
        return real(path, *more, **named)

    monkeypatch.setattr(os, "stat", stat)
    context = group.commands[command].make_context(command, [str(tmp_path)])
    assert context.params["point"] == tmp_path
    assert str(tmp_path) not in looked_at
