"""Where control sockets are, and how tolerant the answers are."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from aliasfs import wire
from aliasfs.errors import MountError


@pytest.fixture
def ordinary_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65533)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)


def test_root_has_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/somewhere")
    assert wire.runtime_dir() == Path("/run/aliasfs")


@pytest.mark.usefixtures("ordinary_user")
def test_a_user_has_a_runtime_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert wire.make_runtime_dir() == tmp_path / "aliasfs"
    assert stat.S_IMODE((tmp_path / "aliasfs").stat().st_mode) == 0o700
    assert wire.make_runtime_dir() == tmp_path / "aliasfs"


@pytest.mark.usefixtures("ordinary_user")
def test_the_fallback_is_refused_when_another_made_it() -> None:
    fallback = Path("/tmp/aliasfs-65533")
    assert wire.runtime_dir() == fallback
    fallback.mkdir(mode=0o700)  # by root, or whoever runs the tests, not by uid 65533
    try:
        with pytest.raises(MountError, match="somebody's trap"):
            wire.runtime_dir()
    finally:
        fallback.rmdir()


@pytest.mark.usefixtures("ordinary_user")
def test_a_runtime_directory_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "file"))
    with pytest.raises(MountError, match=r"cannot make .* for the control socket"):
        wire.make_runtime_dir()


@pytest.mark.usefixtures("ordinary_user")
def test_one_socket_per_mount_point_however_it_is_spelled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/65533")
    (tmp_path / "mnt").mkdir()
    (tmp_path / "link").symlink_to("mnt")
    one = wire.socket_path(tmp_path / "mnt")
    assert wire.socket_path(tmp_path / "link") == one
    assert wire.socket_path(tmp_path / "other") != one
    assert one.parent == Path("/run/user/65533/aliasfs")
    assert len(str(wire.socket_path(Path("/", *["long" * 50] * 10)))) <= 107


@pytest.mark.usefixtures("ordinary_user")
def test_a_runtime_directory_too_long_for_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/" + "x" * 100)
    with pytest.raises(MountError, match="longer than 107 bytes"):
        wire.socket_path(Path("/mnt"))


def test_answers_of_a_newer_daemon_are_understood() -> None:
    status = wire.DaemonStatus.model_validate(
        {"point": "/m", "pid": 1, "version": "9", "started_at": 0, "uptime_s": 0, "invented_later": [1]}
    )
    assert status.cache.state == "off"


def test_a_keeper_of_another_version_is_understood() -> None:
    newer = wire.KeeperStatus.model_validate({"pid": 1, "state": "invented", "later": [1]})
    assert newer.state == "invented"
    assert newer.last_death == ""
    older = wire.DaemonStatus.model_validate({"point": "/m", "pid": 1, "version": "0", "started_at": 0, "uptime_s": 0})
    assert older.keeper is None
    assert older.answers
