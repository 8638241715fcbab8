"""One mount, made and taken away with the fusermount3 of the system, and with those that misbehave."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from support.unserved import NEEDS_FUSE, OPTIONS, unserved_mount

from aliasfs import mounts
from mountd import fusemount
from mountd.fusemount import MountFailed


def _fusermount(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a fusermount3 in front that does *script*."""
    program = folder / "fusermount3"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'bad mount point' >&2; exit 1", "bad mount point; 'aliasfs doctor' says"),
        ("exit 3", "it ended with 3; 'aliasfs doctor' says"),
        ("exit 0", "fusermount3 gave no descriptor"),
        ("exec sleep 60", "timed out"),
    ],
    ids=["refuses", "says nothing", "gives nothing", "hangs"],
)
def test_a_mount_that_fails_is_said(script: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusemount, "FUSERMOUNT_S", 0.5)
    _fusermount(tmp_path, monkeypatch, script)
    with pytest.raises(MountFailed, match=f"cannot mount {tmp_path}: .*{said}"):
        fusemount.mount(str(tmp_path), OPTIONS)


def test_without_fusermount3_it_is_said_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MountFailed, match=r"fusermount3.*'aliasfs doctor' says what is missing"):
        fusemount.mount(str(tmp_path), OPTIONS)


@pytest.mark.mount
@NEEDS_FUSE
@pytest.mark.parametrize("name", ["plain", "with space", "tab\tline\nback\\slash", "ünïcode", "a,b"])
def test_the_kernels_table_has_the_point_however_it_is_called(name: str, tmp_path: Path) -> None:
    point = str(tmp_path / name)
    assert fusemount.device_of(point) == ""
    with unserved_mount(tmp_path / name) as kernel:
        device = fusemount.device_of(point)
        assert device == kernel.device
        assert fusemount.is_mounted(device, point)
        assert fusemount.detach(point) == ""
        assert fusemount.device_of(point) == ""
        assert not fusemount.is_mounted(device, point)


def test_of_two_mounts_on_one_point_the_upper_one_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "23 1 0:21 / /mnt/a\\040b rw shared:1 - fuse x rw\n"
        "24 23 0:22 / /mnt/a\\040b rw shared:1 - fuse x rw\n"
        "25 1 0:23 / /mnt/a rw shared:1 - fuse x rw\n"
    )
    monkeypatch.setattr(mounts, "MOUNTINFO", table)
    assert fusemount.device_of("/mnt/a b") == "0:22"
    assert [fusemount.is_mounted(device, "/mnt/a b") for device in ("0:21", "0:22", "0:23")] == [True, True, False]
    assert fusemount.is_mounted("0:23", "/mnt/a")


def test_what_is_not_mounted_can_be_taken_away(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        assert fusemount.detach(str(tmp_path)) == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="root does not ask fusermount3, others do")
def test_a_point_that_is_gone_is_said(tmp_path: Path) -> None:
    assert fusemount.detach(str(tmp_path / "gone")) == "No such file or directory"


@pytest.mark.parametrize("script", ["echo 'not ours' >&2; exit 1", "exit 0"])
def test_others_than_root_ask_fusermount3(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    _fusermount(tmp_path, monkeypatch, script)
    assert fusemount.detach(str(tmp_path)) == ("not ours" if "not ours" in script else "")


@pytest.mark.parametrize("device", ["", "0:0", "nonsense"])
def test_what_is_no_connection_cannot_be_aborted(device: str) -> None:
    assert fusemount.abort(device)
