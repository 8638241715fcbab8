"""Probes of a directory that stands for a mount, and of a real mount that nobody serves."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import children
from support.unserved import NEEDS_FUSE, unserved_mount

from mountd.fusewire import REQUEST_BYTES
from mountd.kernelend import KernelEnd
from mountd.pulse import ATTRIBUTE, Beat, Pulse

ENDS_S = 10.0


def _device(path: Path) -> str:
    number = path.stat().st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def _result(pulse: Pulse) -> Beat | None:
    until = time.monotonic() + ENDS_S
    while (beat := pulse.result()) is None and time.monotonic() < until:
        time.sleep(0.005)
    return beat


@pytest.fixture
def unserved(tmp_path: Path) -> Iterator[KernelEnd]:
    with unserved_mount(tmp_path / "mount") as kernel:
        yield kernel


def test_a_mount_whose_attribute_can_be_read_answers(tmp_path: Path) -> None:
    os.setxattr(tmp_path, ATTRIBUTE, b"4711")
    pulse = Pulse(str(tmp_path))
    assert pulse.result() is None
    pulse.start(_device(tmp_path), None)
    assert _result(pulse) is Beat.ANSWERED
    assert pulse.result() is None
    assert pulse.waiting_s == 0


@pytest.mark.parametrize("value", [None, b"0", b"-1", b"nobody", b""])
def test_one_that_answers_with_an_error_or_with_nonsense_refuses(tmp_path: Path, value: bytes | None) -> None:
    if value is not None:
        os.setxattr(tmp_path, ATTRIBUTE, value)
    pulse = Pulse(str(tmp_path))
    pulse.start(_device(tmp_path), None)
    assert _result(pulse) is Beat.REFUSED


def test_another_file_system_in_its_place_is_told_from_a_mount_that_is_ill(tmp_path: Path) -> None:
    pulse = Pulse(str(tmp_path))
    pulse.start("0:0", None)
    assert _result(pulse) is Beat.ELSEWHERE


def test_a_place_that_is_gone_refuses(tmp_path: Path) -> None:
    pulse = Pulse(str(tmp_path / "gone"))
    pulse.start("0:0", None)
    assert _result(pulse) is Beat.REFUSED


@NEEDS_FUSE
@pytest.mark.mount
def test_one_that_hangs_is_waited_for_until_it_is_given_up(unserved: KernelEnd) -> None:
    pulse, others = Pulse(unserved.point), children()
    pulse.start(unserved.device, unserved.fd)
    assert children() != others
    assert pulse.result() is None
    first = pulse.waiting_s
    assert pulse.waiting_s > first > 0
    pulse.give_up()
    assert pulse.waiting_s == 0
    assert pulse.result() is None
    pulse.close(ENDS_S)
    assert children() == others


@NEEDS_FUSE
@pytest.mark.mount
def test_a_probe_does_not_keep_the_mount_alive(unserved: KernelEnd) -> None:
    assert unserved.fd is not None
    pulse = Pulse(unserved.point)
    pulse.start(unserved.device, unserved.fd)
    os.read(unserved.fd, REQUEST_BYTES)  # by now the child has let go of the descriptor
    os.close(unserved.fd)
    unserved.fd = None
    assert _result(pulse) is Beat.REFUSED


@NEEDS_FUSE
@pytest.mark.mount
def test_after_one_that_hung_others_look_anew(unserved: KernelEnd) -> None:
    pulse = Pulse(unserved.point)
    for _ in range(3):
        pulse.start(unserved.device, unserved.fd)
        pulse.give_up()
    pulse.start(unserved.device, unserved.fd)
    unserved.abort()
    assert _result(pulse) is Beat.REFUSED
    pulse.close(ENDS_S)


def test_a_machine_without_room_for_a_process_is_no_sign_of_a_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("mountd.pulse.os.fork", full)
    pulse = Pulse(str(tmp_path))
    pulse.start("0:0", None)
    assert pulse.waiting_s == 0
    assert pulse.result() is None
    assert "cannot look whether" in caplog.text
