"""Aliases that come, go and change on a live mount, as the kernel and its callers see it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Mounting
from support.http_server import web_server
from support.mounted import ROOT, Mounted

PATIENCE_S = 15.0


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """Three directories, each with a file that holds its name."""
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    return tmp_path


@pytest.fixture
def web(places: Path) -> Iterator[str]:
    with web_server(places, etags=True) as url:
        yield url


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def test_an_edited_file_is_taken_up(mount: Mounting, places: Path) -> None:
    mounted = mount({"ONE": str(places / "one")})
    assert os.listdir(mounted.point) == ["ONE"]
    mounted.write_config({"ONE": str(places / "one"), "TWO": str(places / "two")})
    _wait_until(lambda: os.listdir(mounted.point) == ["ONE", "TWO"])
    assert (mounted.point / "TWO" / "file").read_text() == "two"
    mounted.write_config({"TWO": str(places / "three")})
    _wait_until(lambda: not (mounted.point / "ONE").exists())
    _wait_until(lambda: (mounted.point / "TWO" / "file").read_text() == "three")


def test_a_broken_file_changes_nothing_until_it_is_mended(mount: Mounting, places: Path) -> None:
    mounted = mount({"ONE": str(places / "one")})
    mounted.expect("was not taken up", "config.yaml")
    mounted.config_file.write_text("aliases: {ONE: relative/path, bad name: /x}\n")
    _wait_until(lambda: "was not taken up" in mounted.said)
    assert (mounted.point / "ONE" / "file").read_text() == "one"
    assert "Traceback" not in mounted.said
    mounted.write_config({"TWO": str(places / "two")})
    _wait_until(lambda: os.listdir(mounted.point) == ["TWO"])


def test_a_file_that_vanishes_changes_nothing(mount: Mounting, places: Path) -> None:
    mounted = mount({"ONE": str(places / "one")})
    mounted.expect("was not taken up")
    mounted.config_file.unlink()
    _wait_until(lambda: "was not taken up" in mounted.said)
    assert (mounted.point / "ONE" / "file").read_text() == "one"


def _types(mounted: Mounted, *arguments: str | Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ALIASFS_CONFIG": str(mounted.config_file)}
    command = [sys.executable, "-P", "-c", "from aliasfs.cli import main; main()", "alias", *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_typed_holds_when_the_command_returns(mount: Mounting, places: Path, web: str) -> None:
    mounted = mount({"ONE": str(places / "one")})
    root = mounted.point
    _types(mounted, "add", "TWO", places / "two")
    assert (root / "TWO" / "file").read_text() == "two"
    assert sorted(os.listdir(root)) == ["ONE", "TWO"]
    _types(mounted, "set", "TWO", f"{web}/three")
    assert (root / "TWO" / "file").read_text() == "three"
    assert os.getxattr(root / "TWO", "user.aliasfs.url") == f"{web}/three".encode()
    _types(mounted, "set", "TWO", "--ttl", "0")
    (places / "three" / "file").write_text("three, changed")
    assert (root / "TWO" / "file").read_text() == "three, changed"
    _types(mounted, "remove", "ONE")
    assert os.listdir(root) == ["TWO"]
    with pytest.raises(FileNotFoundError):
        (root / "ONE" / "file").read_text()


@pytest.mark.parametrize("kind", ["local", "http"])
def test_files_that_are_open_finish_their_read_or_are_stale(mount: Mounting, places: Path, web: str, kind: str) -> None:
    content = os.urandom(3_000_000)
    (places / "one" / "big").write_bytes(content)
    one: Any = str(places / "one") if kind == "local" else {"url": f"{web}/one"}
    mounted = mount({"ONE": one, "TWO": str(places / "two")})
    mounted.expect("StaleObject")
    with (mounted.point / "ONE" / "big").open("rb", buffering=0) as file:
        seen = file.read(100_000)
        mounted.write_config({"TWO": str(places / "two")})
        _wait_until(lambda: os.listdir(mounted.point) == ["TWO"])
        answer = 0
        try:
            while piece := file.read(100_000):
                seen += piece
        except OSError as exc:
            answer = exc.errno or 0
    assert content.startswith(seen)
    assert answer in (0, errno.ESTALE)
    assert answer == errno.ESTALE or seen == content


def test_readers_under_a_storm_of_changes_see_one_place_or_the_other(mount: Mounting, places: Path, web: str) -> None:
    for name in ("one", "two"):
        (places / name / "big").write_bytes(name.encode() * 300_000)
    contents = {(places / name / "big").read_bytes() for name in ("one", "two")}
    mounted = mount({"A": {"url": f"{web}/one", "ttl": 0}})
    mounted.expect("StaleObject", "StoreUnavailable")
    done = threading.Event()
    wrong: list[str] = []

    def read() -> None:
        while not done.is_set():
            try:
                content = (mounted.point / "A" / "big").read_bytes()
            except OSError as exc:
                if exc.errno not in (errno.ESTALE, errno.ENOENT, errno.EIO):
                    wrong.append(str(exc))
            else:
                if content not in contents:
                    wrong.append(f"{len(content)} bytes of a mixture")

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    with mounted.client() as client:
        for round_ in range(30):
            aliases = {"A": {"url": f"{web}/{('one', 'two')[round_ % 2]}", "ttl": 0}}
            mounted.write_config(aliases if round_ % 5 else {"B": str(places / "three")})
            client.reload()
            time.sleep(0.05)
    mounted.write_config({"A": {"url": f"{web}/two", "ttl": 0}})
    with mounted.client() as client:
        client.reload()
    done.set()
    for reader in readers:
        reader.join(20)
    assert not wrong
    assert (mounted.point / "A" / "big").read_bytes() == b"two" * 300_000
    assert "a bug in aliasfs" not in mounted.said


def test_the_mount_point_itself_and_what_lies_beside_it(mount: Mounting, places: Path) -> None:
    mounted = mount({"ONE": str(places / "one"), "MISSING": str(places / "nowhere")})
    assert sorted(os.listdir(mounted.point)) == ["MISSING", "ONE"]
    with pytest.raises(FileNotFoundError):
        os.listdir(mounted.point / "MISSING")
    (places / "nowhere").mkdir()
    _wait_until((mounted.point / "MISSING").is_dir)
    assert os.stat(mounted.point).st_ino == 1
