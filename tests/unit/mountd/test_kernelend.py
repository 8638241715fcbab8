"""The kernel's end of real mounts that nobody serves: handed on, taken over after a restart, and refused."""

from __future__ import annotations

import errno
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.unserved import NEEDS_FUSE, OPTIONS, unserved_mount

from mountd import fusemount, fusewire
from mountd.fusemount import MountFailed
from mountd.kernelend import KERNEL, STATE, STATE_BYTES, KernelEnd
from mountd.servicemanager import ServiceManager

pytestmark = [pytest.mark.mount, NEEDS_FUSE]

READ = "import os, sys; os.getxattr(sys.argv[1], 'user.any')"
ENDS_S = 10.0


class Keeping(ServiceManager):
    """systemd's descriptor store."""

    def __init__(self) -> None:
        super().__init__({})

    def keep(self, name: str, descriptor: int) -> None:
        self.give_up(name)
        self.descriptors[name] = os.dup(descriptor)

    def give_up(self, name: str) -> None:
        if name in self.descriptors:
            os.close(self.descriptors.pop(name))


@pytest.fixture
def point(tmp_path: Path) -> Path:
    return tmp_path / "point"


@pytest.fixture
def manager() -> Iterator[Keeping]:
    manager = Keeping()
    yield manager
    for name in list(manager.descriptors):
        manager.give_up(name)


def _reader(kernel: KernelEnd) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", READ, kernel.point], stderr=subprocess.PIPE, text=True)


def _take(fd: int) -> fusewire.Request:
    """Take the next request that is answered, as a server would."""
    while True:
        assert select.select([fd], [], [], ENDS_S)[0]
        request = fusewire.parse(os.read(fd, fusewire.REQUEST_BYTES))
        if request.wants_answer:
            return request


def _complaint(reader: subprocess.Popen[str]) -> str:
    return reader.communicate(timeout=ENDS_S)[1].splitlines()[-1]


def _kernel_of(point: Path, manager: ServiceManager) -> KernelEnd:
    if not fusemount.device_of(str(point)):  # it would not answer
        point.mkdir(exist_ok=True)
    return KernelEnd(str(point), manager, resend=True)


def test_a_mount_is_in_the_tree_and_has_shaken_hands(point: Path) -> None:
    with unserved_mount(point) as kernel:
        assert kernel.device == fusemount.device_of(str(point))
        assert kernel.is_in_tree()
        assert not kernel.has_ended()
        assert fusewire.parse(kernel.init).opcode == fusewire.INIT
        assert kernel.fd is not None
        assert not os.get_inheritable(kernel.fd)
        assert [kernel.next_generation(), kernel.next_generation()] == [0, 1]
        session = kernel.session
        kernel.take_away()
        kernel.detach()
        assert kernel.session != session
        assert (kernel.fd, kernel.device, fusemount.device_of(str(point))) == (None, "", "")


def test_a_place_that_is_none_cannot_be_mounted_on(point: Path) -> None:
    kernel = KernelEnd(str(point), ServiceManager({}), resend=True)
    with pytest.raises(MountFailed, match=f"cannot mount {point}: .*; 'aliasfs doctor' says"):
        kernel.mount(OPTIONS)
    kernel.take_away()
    kernel.detach()


def test_the_next_server_gets_what_the_last_one_had_taken(point: Path) -> None:
    with unserved_mount(point) as kernel:
        if not kernel.resends:
            pytest.skip("this kernel cannot send requests again (Linux 6.9)")
        reader, first = _reader(kernel), kernel.for_server()
        taken = _take(first)
        os.close(first)
        second = kernel.for_server()
        again = _take(second)
        assert (again.opcode, again.unique & ~(1 << 63)) == (taken.opcode, taken.unique)
        os.write(second, fusewire.error(again.unique, errno.ENODATA))
        assert os.strerror(errno.ENODATA) in _complaint(reader)
        os.close(second)


def test_where_that_is_not_possible_what_was_taken_fails_and_what_waits_goes_to_the_next(point: Path) -> None:
    with unserved_mount(point, resend=False) as kernel:
        taken_from, first = _reader(kernel), kernel.for_server()
        _take(first)
        waiting = _reader(kernel)
        assert select.select([first], [], [], ENDS_S)[0]
        os.close(first)
        assert os.strerror(errno.ECONNABORTED) in _complaint(taken_from)
        second = kernel.for_server()
        os.write(second, fusewire.error(_take(second).unique, errno.ENODATA))
        assert os.strerror(errno.ENODATA) in _complaint(waiting)
        os.close(second)


@pytest.mark.parametrize("resend", [True, False])
def test_while_there_is_no_server_everything_can_be_refused(point: Path, resend: bool) -> None:
    with unserved_mount(point, resend=resend) as kernel:
        taken_from, server = _reader(kernel), kernel.for_server()
        _take(server)
        os.close(server)
        refusing = kernel.begin_to_refuse()
        assert kernel.begin_to_refuse() == refusing
        readers = [taken_from, _reader(kernel)]
        while any(reader.poll() is None for reader in readers):
            if select.select([refusing], [], [], 0.05)[0]:
                kernel.refuse_next()
        complaints = [_complaint(reader) for reader in readers]
        assert os.strerror(errno.EIO) in complaints[1]
        assert os.strerror(errno.EIO if kernel.resends else errno.ECONNABORTED) in complaints[0]
        assert kernel.end_refusing() == refusing
        kernel.refuse_next()
        os.close(refusing)


def test_a_request_that_was_withdrawn_does_not_hold_up_who_refuses(point: Path) -> None:
    with unserved_mount(point) as kernel:
        refusing = kernel.begin_to_refuse()
        reader = _reader(kernel)
        assert select.select([refusing], [], [], ENDS_S)[0]
        reader.kill()
        reader.communicate(timeout=ENDS_S)
        kernel.refuse_next()
        kernel.refuse_next()


def test_an_end_of_the_mount_is_seen(point: Path) -> None:
    with unserved_mount(point) as kernel:
        kernel.abort()
        assert kernel.has_ended()
        assert kernel.is_in_tree()
        kernel.detach()
        assert not kernel.is_in_tree()


def test_what_lies_on_top_of_the_mount_is_not_detached_in_its_place(point: Path) -> None:
    with unserved_mount(point) as below:
        with unserved_mount(point.parent / "other") as other:
            below.point = other.point
            below.detach()
            assert other.is_in_tree()
        below.point = str(point)


# over a restart


def test_the_next_keeper_takes_the_mount_over(point: Path, manager: Keeping) -> None:
    first = _kernel_of(point, manager)
    first.mount(OPTIONS)
    first.next_generation()
    session, device, init = first.session, first.device, first.init
    assert first.fd is not None
    os.close(first.fd)
    second = _kernel_of(point, manager)
    assert second.adopt()
    assert (second.session, second.device, second.init) == (session, device, init)
    assert second.next_generation() == 1
    assert not second.has_ended()
    assert not manager.descriptors
    second.take_away()
    second.detach()
    assert not fusemount.device_of(str(point))


def test_nothing_kept_is_nothing_to_take_over(point: Path, manager: Keeping) -> None:
    assert not _kernel_of(point, manager).adopt()


@pytest.mark.parametrize(
    "state",
    [b"", b"\0" * 100, b"{", b"[]", b"null", b'{"init": 1}', b"\xff", b"{}", json.dumps({"init": "zz"}).encode()],
)
def test_a_state_that_cannot_be_understood_leaves_the_way_clear_for_a_new_mount(
    state: bytes, point: Path, manager: Keeping, caplog: pytest.LogCaptureFixture
) -> None:
    first = _kernel_of(point, manager)
    first.mount(OPTIONS)
    assert first.fd is not None
    os.close(first.fd)
    os.ftruncate(manager.descriptors[STATE], 0)
    os.pwrite(manager.descriptors[STATE], state, 0)
    second = _kernel_of(point, manager)
    assert not second.adopt()
    assert "cannot be understood" in caplog.text
    second.mount(OPTIONS)
    assert second.generation == -1
    second.take_away()
    second.detach()


def test_a_state_that_cannot_be_read_does_so_too(
    point: Path, manager: Keeping, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = os.pipe()
    first = _kernel_of(point, manager)
    first.mount(OPTIONS)
    assert first.fd is not None
    os.close(first.fd)
    os.dup2(reader, manager.descriptors[STATE])
    second = _kernel_of(point, manager)
    assert not second.adopt()
    assert "cannot be understood" in caplog.text
    second.mount(OPTIONS)
    second.take_away()
    second.detach()
    os.close(reader)
    os.close(writer)


def test_a_mount_that_ended_meanwhile_is_cleared_away(point: Path, manager: Keeping) -> None:
    first = _kernel_of(point, manager)
    first.mount(OPTIONS)
    fusemount.abort(first.device)
    assert first.fd is not None
    os.close(first.fd)
    second = _kernel_of(point, manager)
    assert not second.adopt()
    second.mount(OPTIONS)
    second.take_away()
    second.detach()


def test_the_state_fits_its_memory_file_and_later_ones_overwrite_it(point: Path, manager: Keeping) -> None:
    first = _kernel_of(point, manager)
    first.mount(OPTIONS)
    first.generation = 10**12
    first.remember()
    first.generation = 1
    first.remember()
    kept = os.pread(manager.descriptors[STATE], STATE_BYTES + 1, 0)
    assert len(kept) == STATE_BYTES
    assert json.loads(kept)["generation"] == 1
    assert os.fstat(manager.descriptors[KERNEL]).st_rdev == os.stat("/dev/fuse").st_rdev
    first.take_away()
    first.detach()
