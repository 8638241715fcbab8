"""The units are what systemd accepts, never get a mount namespace of their own, and keep the mount over a restart."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from aliasfs.config import DaemonSettings

UNITS = Path(__file__).parents[3] / "systemd"
SYSTEM = UNITS / "aliasfs-mountd.service"
USER = UNITS / "user" / "aliasfs-mountd.service"

OWN_NAMESPACE = re.compile(
    r"^(Private(Tmp|Devices|Mounts|IPC|Users)|Protect(System|Home|Proc|ControlGroups|Kernel\w+)|ProcSubset"
    r"|(ReadOnly|ReadWrite|Inaccessible|Exec|NoExec|Bind|BindReadOnly)Paths|TemporaryFileSystem|DynamicUser"
    r"|Root(Directory|Image)|MountFlags|MountImages|LogNamespace)=",
    re.MULTILINE,
)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", [SYSTEM, USER], ids=["system", "user"])
def test_systemd_accepts_the_unit(unit: Path, tmp_path: Path) -> None:
    """Verified on a copy, for the program it runs need not be installed where the tests run."""
    copy = tmp_path / unit.name
    text, replaced = re.subn(r"^(Exec\w+)=\S+/aliasfs\b", r"\1=/bin/true", unit.read_text(), flags=re.MULTILINE)
    assert replaced == 2
    copy.write_text(text)
    manager = ["--user"] if unit is USER else []
    verified = subprocess.run(
        ["systemd-analyze", *manager, "verify", copy],
        env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    # systemd 255 says this wherever systemd does not run, as in a container; it is not about the unit.
    said = [line for line in verified.stderr.splitlines() if not line.startswith("Failed to connect to system bus")]
    assert (verified.returncode, said) == (0, [])


@pytest.mark.parametrize("unit", [SYSTEM, USER], ids=["system", "user"])
def test_the_mount_reaches_the_host(unit: Path) -> None:
    assert OWN_NAMESPACE.search(unit.read_text()) is None


def test_a_user_may_still_use_the_set_uid_fusermount3() -> None:
    implied_by = re.compile(
        r"^(NoNewPrivileges|Restrict\w+|LockPersonality|SystemCall\w+|MemoryDenyWriteExecute)=", re.MULTILINE
    )
    assert implied_by.search(USER.read_text()) is None


@pytest.mark.parametrize("unit", [SYSTEM, USER], ids=["system", "user"])
def test_nothing_unmounts_between_two_starts_and_nothing_looks_at_a_mount_without_a_server(unit: Path) -> None:
    settings = [line for line in unit.read_text().splitlines() if not line.startswith("#")]
    assert not [line for line in settings if line.startswith("ExecStop")]
    assert [line for line in settings if line.startswith("ExecStartPre")] == [
        """ExecStartPre=/bin/sh -c 'mkdir "$$MOUNT_POINT" 2>/dev/null || :'"""
    ]


@pytest.mark.parametrize("unit", [SYSTEM, USER], ids=["system", "user"])
def test_the_descriptors_are_kept_over_a_restart_and_no_longer(unit: Path) -> None:
    """Kept after the last failure, they would make every reader wait for ever."""
    settings = unit.read_text()
    assert re.search(r"^FileDescriptorStoreMax=[1-9]", settings, re.MULTILINE)
    assert not re.search(r"^FileDescriptorStorePreserve=", settings, re.MULTILINE)


@pytest.mark.parametrize("unit", [SYSTEM, USER], ids=["system", "user"])
def test_the_watchdog_waits_longer_than_the_keeper(unit: Path) -> None:
    found = re.search(r"^WatchdogSec=(\d+)$", unit.read_text(), re.MULTILINE)
    assert found is not None
    assert int(found[1]) >= 2 * DaemonSettings().hang_timeout_s
