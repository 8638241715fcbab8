"""The watch over a real mount: who is fed when it answers, and what is said when it does not."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import plain_server
from support.processes import children
from support.unserved import NEEDS_FUSE, unserved_mount

from mountd.deaths import Death, Deaths
from mountd.fusewire import REQUEST_BYTES
from mountd.kernelend import KernelEnd
from mountd.servicemanager import ServiceManager
from mountd.vigil import Vigil

pytestmark = [pytest.mark.mount, NEEDS_FUSE]

ENDS_S = 20.0


class Feeding(ServiceManager):
    """Counts how often it was fed."""

    def __init__(self) -> None:
        super().__init__({})
        self.fed = 0

    def feed(self) -> None:
        self.fed += 1


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[KernelEnd]:
    with unserved_mount(tmp_path / "point") as kernel:
        yield kernel


@pytest.fixture
def deaths() -> Deaths:
    deaths = Deaths()
    deaths.note(Death("signal 9 (SIGKILL)"), wanted=False)
    return deaths


def _answer_waiting(kernel: KernelEnd) -> None:
    """Answer all that waits, as a server would."""
    assert kernel.fd is not None
    while select.select([kernel.fd], [], [], 0.01)[0]:
        plain_server.answer(kernel.fd, os.read(kernel.fd, REQUEST_BYTES))


def test_an_answer_feeds_the_watchdog_and_ends_a_row_of_deaths(kernel: KernelEnd, deaths: Deaths) -> None:
    manager = Feeding()
    vigil = Vigil(kernel, manager, deaths)
    serving_since, until = time.monotonic() - 5, time.monotonic() + ENDS_S
    while not manager.fed and time.monotonic() < until:
        assert not vigil.hangs(serving_since, ENDS_S)
        _answer_waiting(kernel)
    assert manager.fed == 1
    assert deaths.quick_in_row == 0
    assert not vigil.hangs(serving_since, ENDS_S)
    assert manager.fed == 1
    vigil.close(ENDS_S)


def test_without_an_answer_it_hangs_and_nobody_is_fed(kernel: KernelEnd, deaths: Deaths) -> None:
    manager = Feeding()
    vigil = Vigil(kernel, manager, deaths)
    until = time.monotonic() + ENDS_S
    while not vigil.hangs(time.monotonic(), 0.05):
        assert time.monotonic() < until
    assert not manager.fed
    assert deaths.quick_in_row == 1
    vigil.pause()
    vigil.begin()
    assert not vigil.hangs(time.monotonic(), 0.05)
    vigil.close(ENDS_S)


def test_an_error_is_an_answer_that_feeds_nobody(kernel: KernelEnd, deaths: Deaths) -> None:
    manager = Feeding()
    vigil = Vigil(kernel, manager, deaths)
    assert not vigil.hangs(time.monotonic(), ENDS_S)
    kernel.abort()
    for _ in range(20):
        assert not vigil.hangs(time.monotonic(), ENDS_S)
        time.sleep(0.01)
    assert not manager.fed
    vigil.close(ENDS_S)


def test_a_mount_without_a_path_is_not_probed_and_the_watchdog_not_left_hungry(
    kernel: KernelEnd, deaths: Deaths
) -> None:
    manager = Feeding()
    vigil = Vigil(kernel, manager, deaths)
    kernel.detach()
    others = children()
    assert not vigil.hangs(time.monotonic(), ENDS_S)
    assert not vigil.hangs(time.monotonic(), ENDS_S)
    assert manager.fed == 1
    assert children() == others
    vigil.close(ENDS_S)
