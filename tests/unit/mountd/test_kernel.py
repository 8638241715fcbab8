"""Options of the mount, and the kernel's limits where they can and cannot be raised."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mountd import kernel


def test_the_kernel_checks_permissions_and_refuses_writes() -> None:
    options = kernel.mount_options(allow_other=False)
    assert {"default_permissions", "ro", "nosuid", "nodev", "fsname=aliasfs", "subtype=aliasfs"} <= options
    assert "allow_other" not in options
    assert kernel.mount_options(allow_other=True) == options | {"allow_other"}


def test_limits_of_a_device_that_does_not_exist_are_said_not_raised() -> None:
    raised = kernel.raise_limits(os.makedev(0, 999_999))
    assert raised.read_ahead_kib == 0
    assert len(raised.why_not) == 1
    assert "read_ahead_kb" in raised.why_not[0]


def test_limits_are_written_where_the_kernel_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = tmp_path / "77"
    connection.mkdir()
    monkeypatch.setattr(kernel, "CONNECTIONS", tmp_path)
    kernel.raise_limits(os.makedev(0, 77))
    background = int((connection / "max_background").read_text())
    assert 0 < int((connection / "congestion_threshold").read_text()) < background
