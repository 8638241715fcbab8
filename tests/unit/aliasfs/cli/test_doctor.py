"""Each finding of the doctor, on this machine and on made-up ones."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from support.fake_backend import FakeBackend, served
from support.fake_keeper import FakeKeeper, kept
from support.runtime import runtime_dir as runtime_dir
from typer.testing import CliRunner

from aliasfs import config, mounts, wire
from aliasfs.cli import doctor, preflight
from aliasfs.cli.app import build
from aliasfs.cli.doctor import Finding
from aliasfs.cli.preflight import Pulse
from aliasfs.errors import MountError
from aliasfs.mounts import Mount

pytestmark = pytest.mark.usefixtures("runtime_dir")


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    (tmp_path / "place").mkdir()
    file = tmp_path / "config.yaml"
    file.write_text(f"aliases: {{D: {tmp_path / 'place'}}}\ncache: {{dir: {tmp_path / 'cache'}, size: 1MB}}\n")
    return file


def found(file: Path) -> dict[str, Finding]:
    return {finding.check: finding for finding in doctor.examine(file)}


def test_all_is_looked_at(config_file: Path) -> None:
    findings = found(config_file)
    assert list(findings)[:6] == [
        "fuse device",
        "fusermount3",
        "python",
        "kernel",
        "config",
        "cache",
    ]
    assert {"read-ahead", "systemd"} <= findings.keys()
    assert findings["alias D"].level == "ok"
    assert findings["python"].level == "ok"


def test_as_json_and_exit_code_by_the_worst(config_file: Path, tmp_path: Path) -> None:
    (tmp_path / "place").rmdir()
    result = CliRunner().invoke(build(), ["doctor", "--config", str(config_file), "--json"])
    findings = {finding["check"]: finding for finding in json.loads(result.stdout)}
    assert findings["alias D"]["level"] == "fail"
    assert result.exit_code == max(finding["exit"] for finding in findings.values()) >= 66


def test_a_broken_configuration_is_one_finding_a_line(config_file: Path) -> None:
    config_file.write_text("aliases: {d: /a, e: /b}\nnonsense: 1\n")
    findings = [finding for finding in doctor.examine(config_file) if finding.check == "config"]
    assert len(findings) >= 3
    assert {finding.exit for finding in findings} == {78}


def test_a_missing_device(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise MountError("there is no /dev/fuse: run 'sudo modprobe fuse'")

    monkeypatch.setattr(preflight, "check_fuse_device", refuse)
    assert found(config_file)["fuse device"] == Finding(
        "fuse device", "fail", "there is no /dev/fuse: run 'sudo modprobe fuse'", 69
    )


@pytest.mark.parametrize(
    ("kind", "level", "said"),
    [
        ("ext4", "ok", "on ext4"),
        ("tmpfs", "warn", "lost at a restart"),
        ("nfs4", "warn", "not a local disk"),
        ("fuse.rclone", "warn", "not a local disk"),
    ],
)
def test_the_disk_of_the_cache(
    kind: str, level: str, said: str, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_file_system", lambda path: kind)
    finding = doctor._cache(config.load(config_file))
    assert finding.level == level
    assert said in finding.said


def test_a_cache_that_cannot_be(config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config.load(config_file)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "sudo install -d" in doctor._cache(settings).said
    monkeypatch.undo()
    text = config_file.read_text()
    config_file.write_text(text.replace("1MB", f"{shutil.disk_usage(tmp_path).total * 2}"))
    assert "smaller than the budget" in doctor._cache(config.load(config_file)).said
    config_file.write_text("cache: {enabled: false}\n")
    assert "switched off" in doctor._cache(config.load(config_file)).said


def test_the_file_system_of_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table = [Mount(Path("/"), "ext4", "", "1:1", None), Mount(tmp_path, "xfs", "", "1:2", None)]
    monkeypatch.setattr(mounts, "mount_table", lambda: table)
    assert doctor._file_system(tmp_path / "below") == "xfs"
    assert doctor._file_system(Path("/")) == "ext4"


@pytest.mark.parametrize(
    ("answer", "level", "said"),
    [
        (Pulse.DEAD, "fail", "its daemon is gone; run 'aliasfs umount --force"),
        (Pulse.HANGING, "fail", "does not answer; run 'aliasfs umount --force"),
        (Pulse.ALIVE, "warn", "nothing is mounted"),
    ],
)
def test_mounts_without_a_daemon(
    answer: Pulse, level: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "pulse", lambda mount: answer)
    (finding,) = doctor._mount(Mount(tmp_path, "fuse.aliasfs", "aliasfs", "0:9", os.geteuid()))
    assert finding.level == level
    assert said in finding.said


@pytest.mark.warns_in_log
def test_mounts_with_a_daemon(tmp_path: Path) -> None:
    mount = Mount(tmp_path, "fuse.aliasfs", "aliasfs", "0:9", os.geteuid())
    backend = FakeBackend(point=str(tmp_path))
    with served(backend):
        root, keeper = doctor._mount(mount)
        assert (root.level, keeper.level) == ("ok", "warn")
        assert "is served without a keeper" in keeper.said
        backend.cache = wire.CacheStatus(state="failed", reason="disk full")
        assert ["trouble in its cache" in finding.said for finding in doctor._mount(mount)] == [True]
        backend.failure = KeyError("bug")
        assert [finding.level for finding in doctor._mount(mount)] == ["fail"]


@pytest.mark.parametrize(
    ("status", "level", "said"),
    [
        ({}, "ok", "serving; 1 server so far"),
        ({"resend": False}, "warn", "costs those in flight (EIO); planned restarts lose nothing"),
        ({"state": "replacing", "said": "the server died"}, "warn", "replacing: the server died"),
        ({"state": "failing", "said": "8 servers died"}, "fail", "failing: 8 servers died"),
    ],
)
def test_the_keeper_of_a_mount(status: dict[str, object], level: str, said: str, tmp_path: Path) -> None:
    mount = Mount(tmp_path, "fuse.aliasfs", "aliasfs", "0:9", os.geteuid())
    with served(FakeBackend(point=str(tmp_path))), kept(FakeKeeper(str(tmp_path), status=status)):
        root, keeper = doctor._mount(mount)
    assert root.level == ("fail" if level == "fail" else "ok")
    assert (keeper.check, keeper.level) == (f"keeper {tmp_path}", level)
    assert said in keeper.said


def test_a_keeper_that_is_gone_or_hangs(tmp_path: Path) -> None:
    gone = doctor._keeper(tmp_path, wire.KeeperStatus(pid=1, state="gone"))
    assert gone.level == "warn"
    assert gone.said.endswith(f"run 'aliasfs umount {tmp_path}', then 'aliasfs mount {tmp_path}'")
    assert doctor._keeper(tmp_path, wire.KeeperStatus(pid=1, state="silent", said="does not answer")).exit == 69


def test_a_mount_that_hangs_under_a_keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "pulse", lambda mount: Pulse.HANGING)
    with kept(FakeKeeper(str(tmp_path))):
        root, _keeper = doctor._mount(Mount(tmp_path, "fuse.aliasfs", "aliasfs", "0:9", os.geteuid()))
    assert root.said == f"does not answer; run 'aliasfs doctor --unhang {tmp_path}'"


@pytest.mark.parametrize(
    ("release", "level"),
    [("6.18.44-generic", "ok"), ("6.9", "ok"), ("10.0.1", "ok"), ("6.8.0-31", "warn"), ("5.15.90.1-WSL2", "warn")],
)
def test_what_a_crash_costs_on_this_kernel(release: str, level: str) -> None:
    finding = doctor._kernel(release)
    assert finding.level == level
    assert ("cannot resend" in finding.said) == (level == "warn")


def test_a_point_without_unhang_is_typed_wrongly() -> None:
    result = CliRunner().invoke(build(), ["doctor", "/mnt/aliases"])
    assert result.exit_code == 2
    assert "--unhang" in result.stderr


def test_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "system").mkdir()
    monkeypatch.setattr(doctor, "UNIT_DIRECTORIES", (tmp_path,))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "SYSTEMD", tmp_path)
    assert "no unit is installed" in doctor._units().said
    (tmp_path / "system" / doctor.UNIT).touch()
    assert doctor._units().said == str(tmp_path / "system" / doctor.UNIT)
    monkeypatch.setattr(doctor, "SYSTEMD", tmp_path / "none")
    assert "does not run here" in doctor._units().said
