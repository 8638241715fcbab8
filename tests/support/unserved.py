"""A real mount that nobody serves: whoever reads from it waits, until the test answers with the kernel's descriptor."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountd.kernelend import KernelEnd
from mountd.servicemanager import ServiceManager

NEEDS_FUSE = pytest.mark.skipif(
    not Path("/dev/fuse").exists() or shutil.which("fusermount3") is None, reason="this machine has no FUSE"
)
OPTIONS = "ro,nosuid,nodev,fsname=test"


@contextlib.contextmanager
def unserved_mount(point: Path, *, resend: bool = True) -> Iterator[KernelEnd]:
    """Mount on *point*, which is made, and take the mount away at the end, whoever still waits in it."""
    point.mkdir()
    kernel = KernelEnd(str(point), ServiceManager({}), resend=resend)
    kernel.mount(OPTIONS)
    try:
        yield kernel
    finally:
        if kernel.device:
            kernel.take_away()
            kernel.detach()
