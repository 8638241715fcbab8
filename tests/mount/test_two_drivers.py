"""One state machine through two drivers: what a directory holds, as a local alias and over HTTP, while it changes.

Two aliases always ask (`ttl: 0`), so they show what is there now and nothing else; a third may be an hour old, but
what it gives was once there, whole.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, rule, run_state_machine_as_test
from support.drivers import Driver, KernelDriver, VfsDriver
from support.http_server import web_server
from support.mounted import mounted

CURRENT, OLD = ("LOCAL", "WEB"), "OLD"
DIRECTORIES = ("", "d", "d/e")
KEYS = ("a", "d/a", "d/ü b", "d/e/a")
SIZES = (0, 1, 5000, 262_144, 262_145, 700_001)

_numbers = itertools.count(1)


@dataclass(eq=False)
class Opened:
    """An open file: *contents* are the bytes it may give, those of one version only."""

    handle: int
    alias: str
    key: str
    contents: list[bytes]
    era: int


class Machine(RuleBasedStateMachine):
    driver: ClassVar[Driver]
    root: ClassVar[Path]
    files = Bundle("files")

    def __init__(self) -> None:
        super().__init__()
        self.base = f"run{next(_numbers)}"
        self.now: dict[str, bytes] = {}
        self.past: dict[str, list[bytes | None]] = {key: [None] for key in KEYS}
        self.opened: list[Opened] = []
        self.era = 0
        (self.root / self.base / "d" / "e").mkdir(parents=True)

    def teardown(self) -> None:
        for opened in self.opened:
            if opened.era == self.era:
                self.driver.close(opened.handle)
        shutil.rmtree(self.root / self.base)

    # another program

    @rule(key=st.sampled_from(KEYS), size=st.sampled_from(SIZES))
    def put(self, key: str, size: int) -> None:
        number = next(_numbers)
        content = random.Random(number).randbytes(size)
        fresh = self.root / "fresh"
        fresh.write_bytes(content)
        os.utime(fresh, (1_600_000_000 + number, 1_600_000_000 + number))  # clocks of disks are coarse
        fresh.rename(self.root / self.base / key)
        self.now[key] = content
        self.past[key].append(content)

    @rule(key=st.sampled_from(KEYS))
    def remove(self, key: str) -> None:
        if self.now.pop(key, None) is not None:
            (self.root / self.base / key).unlink()
            self.past[key].append(None)

    @rule(really=st.integers(0, 9))
    def restart(self, really: int) -> None:
        if not really:
            for opened in self.opened:
                if opened.era == self.era and isinstance(self.driver, KernelDriver):
                    self.driver.close(opened.handle)
            self.era += 1
            self.driver.restart()

    @rule(really=st.integers(0, 9))
    def replace(self, really: int) -> None:
        if not really:
            self.driver.replace()

    # readers

    def path(self, alias: str, key: str) -> str:
        return f"{alias}/{self.base}/{key}" if key else f"{alias}/{self.base}"

    def _missing_is_right(self, alias: str, key: str) -> None:
        assert None in self.past[key] if alias == OLD else key not in self.now, f"{alias}: {key} is there"

    @rule(alias=st.sampled_from((*CURRENT, OLD)), key=st.sampled_from(DIRECTORIES))
    def names(self, alias: str, key: str) -> None:
        prefix = f"{key}/" if key else ""
        names = {
            other.removeprefix(prefix).partition("/")[0] for other in (*self.now, "d/e/x") if other.startswith(prefix)
        }
        try:
            found = self.driver.names(self.path(alias, key))
        except FileNotFoundError:
            assert alias == OLD
            return
        assert len(found) == len(set(found))
        if alias != OLD:
            assert set(found) - {"x"} == names - {"x"}

    @rule(alias=st.sampled_from((*CURRENT, OLD)), key=st.sampled_from(KEYS))
    def size(self, alias: str, key: str) -> None:
        try:
            found = self.driver.size(self.path(alias, key))
        except FileNotFoundError:
            self._missing_is_right(alias, key)
        else:
            allowed = self.past[key] if alias == OLD else [self.now.get(key)]
            assert found in [len(content) for content in allowed if content is not None]

    @rule(target=files, alias=st.sampled_from((*CURRENT, OLD)), key=st.sampled_from(KEYS))
    def open(self, alias: str, key: str) -> Opened | None:
        try:
            handle = self.driver.open(self.path(alias, key))
        except FileNotFoundError:
            self._missing_is_right(alias, key)
            return None
        allowed = self.past[key] if alias == OLD else [self.now[key]]
        opened = Opened(handle, alias, key, [content for content in allowed if content is not None], self.era)
        self.opened.append(opened)
        return opened

    @rule(opened=files, start=st.floats(0, 1), size=st.sampled_from((1, 4096, 131_072, 1_000_000)))
    def pread(self, opened: Opened | None, start: float, size: int) -> None:
        if opened is None or opened.era != self.era:
            return
        offset = int(start * max(map(len, opened.contents)))
        try:
            piece = self.driver.pread(opened.handle, offset, size)
        except OSError as exc:
            if exc.errno != errno.ESTALE:
                raise
            assert opened.alias == OLD or self.now.get(opened.key) != opened.contents[0], "stale, though it is there"
            return
        left = [content for content in opened.contents if content[offset : offset + size] == piece]
        assert left, "bytes of no version, or of another one than before"
        opened.contents = left

    @rule(alias=st.sampled_from(CURRENT), key=st.sampled_from(KEYS), size=st.sampled_from(SIZES))
    def read_replace_and_read_again(self, alias: str, key: str, size: int) -> None:
        before = self.open(alias, key)
        if before is not None:
            self.pread(before, 0.0, 1)
        self.put(key, size)
        after = self.open(alias, key)
        assert after is not None, "it was put just now"
        self.pread(after, 0.0, 1_000_000)
        if before is not None:
            self.pread(before, 0.0, 1_000_000)


def _run(driver: Driver, root: Path, examples: int) -> None:
    machine = type("Machine", (Machine,), {"driver": driver, "root": root})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            print_blob=True,
            derandomize="CI" in os.environ,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="drivers") as folder:
        (Path(folder) / "www").mkdir()
        yield Path(folder)


def test_in_process(folder: Path) -> None:
    root = folder / "www"
    with web_server(root, etags=True) as url:
        driver = VfsDriver({"LOCAL": (str(root), 0.0), "WEB": (url, 0.0), "OLD": (url, 3600.0)}, folder / "cache")
        try:
            _run(driver, root, 25)
        finally:
            driver.end()


def test_through_the_kernel(folder: Path) -> None:
    root = folder / "www"
    with ExitStack() as stack:
        url = stack.enter_context(web_server(root, etags=True))
        aliases = {
            "LOCAL": {"url": str(root), "ttl": 0},
            "WEB": {"url": url, "ttl": 0},
            "OLD": {"url": url, "ttl": 3600},
        }
        mount = stack.enter_context(mounted(folder / "mounted", aliases, daemon={"restart_limit": 1000}))
        mount.expect("StaleObject")
        _run(KernelDriver(mount), root, 15)
