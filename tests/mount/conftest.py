"""Mounts for the tests of this directory; they need a kernel with FUSE, and skip where it is missing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support import endurance, places
from support.endurance import Lake, Stalls
from support.mounted import Mounted, mounted

from aliasfs.registry import Alias

Mounting = Callable[..., Mounted]
Telling = Callable[[Stalls], None]

STALLS = pytest.StashKey[list[Stalls]]()
STALLS_FILE = "ALIASFS_STALLS_FILE"
"""The environment variable that names a file for the numbers of the endurance tests, a line of JSON each."""


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


@pytest.fixture(scope="session")
def lake(
    tmp_path_factory: pytest.TempPathFactory, s3_endpoint: str, s3_client: Any, azure_endpoint: str, azure_service: Any
) -> Lake:
    """The same tree as a directory, in S3 and in Azure, for those who read all three for minutes."""
    return endurance.lake(tmp_path_factory.mktemp("lake"), s3_endpoint, s3_client, azure_endpoint, azure_service)


@pytest.fixture
def tell(pytestconfig: pytest.Config, record_property: Callable[[str, object], None]) -> Telling:
    """Keeps how long readers waited: for the end of the run, its report, and the file that `STALLS_FILE` names."""

    def told(stalls: Stalls) -> None:
        pytestconfig.stash.setdefault(STALLS, []).append(stalls)
        record_property("stalls", stalls.facts())
        if name := os.environ.get(STALLS_FILE):
            with open(name, "a") as file:
                print(json.dumps(stalls.facts()), file=file)

    return told


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if told := config.stash.get(STALLS, []):
        terminalreporter.section("how long readers waited")
        for stalls in told:
            terminalreporter.line(str(stalls))
