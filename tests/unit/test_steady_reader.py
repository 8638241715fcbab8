"""The readers of the endurance tests notice what they are there for: wrong bytes, a wrong size, a missing name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.endurance import PROGRAM, fill

WHILE_S, LONGEST_S = 0.7, 30.0
"""How long a reader may read that is to be told to end, and one that is to end by itself."""


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """Two trees that are the same: what is shown, and the truth."""
    shown, truth = tmp_path / "shown", tmp_path / "truth"
    truth.mkdir()
    fill(truth)
    shutil.copytree(truth, shown)
    return shown, truth


def _report(kind: str, shown: Path, truth: Path, *, within_s: float = LONGEST_S) -> tuple[int, dict[str, Any]]:
    """Return exit code and report of a reader, which is told to end after *within_s* seconds."""
    command = [sys.executable, "-S", str(PROGRAM), kind, str(shown), str(truth), "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            said, _ = process.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            process.terminate()
            said, _ = process.communicate()
        return process.returncode, json.loads(said)


def _damage(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(bytes(255 - byte for byte in content))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "sequential": lambda tree: _damage(tree / "big"),
    "random": lambda tree: _damage(tree / "big"),
    "mmap": lambda tree: _damage(tree / "mapped"),
    "walk": lambda tree: (tree / "tree/d0/e0/f1").write_bytes(b"longer"),
    "held": lambda tree: [_damage(path) for path in tree.glob("tree/*/*/f*")],
    "listing": lambda tree: next((tree / "names").iterdir()).unlink(),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_tree_that_is_right_is_read_until_told_to_end(kind: str, trees: tuple[Path, Path]) -> None:
    code, report = _report(kind, *trees, within_s=WHILE_S)
    assert (code, report["failure"]) == (0, "")
    assert report["operations"] > 0


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_ends_a_reader_and_is_said(kind: str, trees: tuple[Path, Path]) -> None:
    DAMAGES[kind](trees[0])
    code, report = _report(kind, *trees)
    assert code == 3
    assert "wrong" in report["failure"]


def test_an_error_ends_a_reader_and_is_said(trees: tuple[Path, Path]) -> None:
    (trees[0] / "big").unlink()
    code, report = _report("sequential", *trees)
    assert code == 3
    assert "ENOENT" in report["failure"]
