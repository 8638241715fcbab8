"""A directory for control sockets of a test's own, so that no real daemon is asked, and none disturbed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from aliasfs import wire


@pytest.fixture
def runtime_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put `wire.runtime_dir()` below /tmp; not into tmp_path, for a socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="run") as directory:
        monkeypatch.setattr(wire, "runtime_dir", lambda: Path(directory))
        yield Path(directory)
