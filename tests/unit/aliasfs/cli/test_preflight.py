"""Each obstacle to a mount is one sentence with the command that mends it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support.fake_backend import FakeBackend, served
from support.fake_keeper import FakeKeeper, kept
from support.runtime import runtime_dir as runtime_dir

from aliasfs.cli import preflight
from aliasfs.cli.preflight import Pulse, check_allow_other, check_fuse_device, check_fusermount, check_point, pulse
from aliasfs.errors import MountError
from aliasfs.mounts import Mount


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A point on which the table of mounts has one of ours."""
    monkeypatch.setattr(preflight, "mount_at", lambda point: Mount(point, "fuse.aliasfs", "aliasfs", "0:9", 7))
    return tmp_path


def test_no_fuse_device(tmp_path: Path) -> None:
    with pytest.raises(MountError, match=r"there is no .*/fuse: run 'sudo modprobe fuse'.*--device"):
        check_fuse_device(tmp_path / "fuse")


def test_a_fuse_device_that_may_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(MountError, match="may not be opened by you"):
        check_fuse_device(tmp_path / "fuse")


def test_no_fusermount(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MountError, match="apt install fuse3"):
        check_fusermount()


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000_000)
    with pytest.raises(MountError, match="uid 4000000000 has no name in /etc/passwd"):
        check_fusermount()


@pytest.mark.parametrize("text", [None, "", "#user_allow_other\n", "mount_max = 1000\n"])
def test_allow_other_is_refused(text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    conf = tmp_path / "fuse.conf"
    if text is not None:
        conf.write_text(text)
    with pytest.raises(MountError, match=r"echo user_allow_other \| sudo tee -a"):
        check_allow_other(conf)


def test_allow_other_is_granted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = tmp_path / "fuse.conf"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    check_allow_other(conf)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    conf.write_text("# comment\n user_allow_other\n")
    check_allow_other(conf)


def test_a_good_point(tmp_path: Path) -> None:
    check_point(tmp_path)


def test_points_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MountError, match=r"does not exist: run 'mkdir -p .*with space"):
        check_point(tmp_path / "with space")
    with pytest.raises(MountError, match="is not a directory"):
        check_point(tmp_path / "file")
    with pytest.raises(MountError, match="is not empty, and a mount would hide"):
        check_point(tmp_path)


def test_a_point_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(MountError, match="sudo chown"):
        check_point(tmp_path)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (Pulse.DEAD, "dead mount .Transport endpoint is not connected.: run 'aliasfs mount --force"),
        (Pulse.HANGING, "does not answer: run 'aliasfs umount --force"),
    ],
)
def test_a_mount_that_does_not_live(
    mounted: Path, answer: Pulse, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "pulse", lambda mount: answer)
    with pytest.raises(MountError, match=sentence):
        check_point(mounted)


@pytest.mark.usefixtures("runtime_dir")
def test_a_mount_of_ours_is_named_by_its_pid(mounted: Path) -> None:
    with pytest.raises(MountError, match="already mounted by uid 7"):
        check_point(mounted)
    with (
        served(FakeBackend(point=str(mounted))),
        pytest.raises(MountError, match=f"already mounted by pid {os.getpid()}:"),
    ):
        check_point(mounted)


@pytest.mark.usefixtures("runtime_dir")
def test_a_mount_that_waits_for_a_server_has_its_keeper_speak(mounted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "pulse", lambda mount: Pulse.HANGING)
    keeper = FakeKeeper(str(mounted), status={"state": "replacing", "said": "another one is being started"})
    with (
        kept(keeper),
        pytest.raises(MountError, match=r"says: another one is being started: run 'aliasfs doctor --unhang"),
    ):
        check_point(mounted)


def test_another_file_system_on_the_point() -> None:
    with pytest.raises(MountError, match="/proc is already a mount point, of type proc"):
        check_point(Path("/proc"))


def test_pulse_of_a_living_mount() -> None:
    assert pulse(Mount(Path("/proc"), "proc", "proc", "0:1", None)) is Pulse.ALIVE


def test_pulse_of_the_dead_and_the_hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`stat` is played by a script, for a hanging mount would outlive the test."""
    stat = tmp_path / "stat"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(preflight, "_PROBE_S", 0.5)
    for script, expected in (
        ("echo 'stat: cannot statx: Transport endpoint is not connected' >&2; exit 1", Pulse.DEAD),
        ("exec sleep 60", Pulse.HANGING),
    ):
        stat.write_text(f"#!/bin/sh\n{script}\n")
        stat.chmod(0o755)
        assert pulse(Mount(tmp_path, "fuse.aliasfs", "aliasfs", "0:9", 0)) is expected
