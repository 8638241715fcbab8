"""Mounts for the tests of this directory; they need a kernel with FUSE, and skip where it is missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support import places
from support.mounted import Mounted, mounted

from aliasfs.registry import Alias

Mounting = Callable[..., Mounted]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    has_fuse = Path("/dev/fuse").exists() and shutil.which("fusermount3") is not None
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.mount)
            if not has_fuse:
                item.add_marker(pytest.mark.skip(reason="this machine has no FUSE"))


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mounting]:
    """Makes mounts in folders of their own, and takes all of them down when the test ends."""
    with ExitStack() as stack:

        def make(aliases: dict[str, Any], *arguments: str, folder: str = "mounted", **settings: Any) -> Mounted:
            return stack.enter_context(mounted(tmp_path / folder, aliases, *arguments, **settings))

        yield make


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory with some files, to be mounted by a local alias."""
    source = tmp_path / "source"
    (source / "dir").mkdir(parents=True)
    (source / "file").write_bytes(b"0123456789")
    (source / "dir" / "inner").write_bytes(b"inner")
    return source


@pytest.fixture
def recorded_alias(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Alias]:
    """Gives the alias of the latest place that was made: the mount opens it, not the test."""
    aliases: list[Alias] = []
    monkeypatch.setattr(places, "open_store", aliases.append)
    return lambda: aliases[-1]
