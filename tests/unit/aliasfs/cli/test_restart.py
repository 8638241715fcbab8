"""`restart` as it is typed, with a fake keeper at the door."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from support.fake_backend import FakeBackend, served
from support.fake_keeper import FakeKeeper, kept
from support.runtime import runtime_dir as runtime_dir
from typer.testing import CliRunner

from aliasfs import errors, mounts
from aliasfs.cli.app import build
from aliasfs.mounts import Mount

pytestmark = pytest.mark.usefixtures("runtime_dir")


def typed(*arguments: str | Path) -> str:
    """Return what the command prints; its errors pass through, as they do on their way to `main`."""
    result = CliRunner().invoke(build(), ["restart", *map(str, arguments)])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_the_new_server_is_of_the_version_that_asks(tmp_path: Path) -> None:
    keeper = FakeKeeper(str(tmp_path))
    with kept(keeper):
        assert typed(tmp_path) == f"restarted {tmp_path}: version 1 -> 2 (pid 77), readers waited 0.25 s\n"
    asked = keeper.asked[-1]
    assert asked["python"] == sys.executable
    assert Path(asked["pythonpath"].split(os.pathsep)[0], "mountd", "keeper.py").exists()


def test_where_no_server_was(tmp_path: Path) -> None:
    with kept(FakeKeeper(str(tmp_path), status={"version": ""})):
        assert "version 2 (pid 77)" in typed(tmp_path)


def test_a_new_server_that_cannot_start_leaves_the_old_one(tmp_path: Path) -> None:
    report = {"ok": False, "error": "config.yaml:3: bad", "exit": 78}
    with (
        kept(FakeKeeper(str(tmp_path), report=report)),
        pytest.raises(errors.ConfigError, match=r"config\.yaml:3: bad; the old one \(pid 76, version 1\) serves on$"),
    ):
        typed(tmp_path)


def test_a_keeper_without_a_server_says_how_it_is(tmp_path: Path) -> None:
    status = {"state": "failing", "said": "8 servers died"}
    keeper = FakeKeeper(str(tmp_path), status=status, report={"ok": False, "error": "no room", "exit": 73})
    with kept(keeper), pytest.raises(errors.AlreadyExists) as raised:
        typed(tmp_path)
    assert str(raised.value) == (
        f"{tmp_path} got no new server: no room; its keeper (pid {os.getpid()}) says: 8 servers died"
    )


def test_nobody_to_ask(tmp_path: Path) -> None:
    with pytest.raises(errors.DaemonUnreachable, match="nothing is mounted on"):
        typed(tmp_path)
    with served(FakeBackend(point=str(tmp_path))), pytest.raises(errors.DaemonUnreachable, match="without a keeper"):
        typed(tmp_path)


def test_without_a_point_it_is_the_only_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (Mount(tmp_path / name, "fuse.aliasfs", "aliasfs", "0:9", os.geteuid()) for name in "ab")
    monkeypatch.setattr(mounts, "mount_table", lambda: [one])
    with kept(FakeKeeper(str(one.point))):
        assert typed().startswith(f"restarted {one.point}: ")
    monkeypatch.setattr(mounts, "mount_table", lambda: [one, other])
    with pytest.raises(errors.MountError, match="several mounts"):
        typed()
