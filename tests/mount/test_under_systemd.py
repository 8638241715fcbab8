"""The mount as a unit of systemd: what systemd hears of it, and what outlives a restart of the service."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.fake_systemd import FakeSystemd, fake_systemd
from support.mounted import KEEPER_DIED, MARKER, ROOT, Mounted, abort, mounted

from aliasfs.mounts import mount_at

BIG = bytes(range(256)) * 4 * 4096
NAMES = [f"entry-{number:04}" for number in range(3000)]
SOON_S = 20.0
HANG_S = 6.0
"""Much longer than a read takes on a busy machine."""

Service = Callable[..., tuple[Mounted, FakeSystemd]]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A file of 4 MiB, and a directory that takes many answers to be read."""
    tree = tmp_path / "tree"
    (tree / "many").mkdir(parents=True)
    (tree / "big").write_bytes(BIG)
    for name in NAMES:
        (tree / "many" / name).touch()
    return tree


@pytest.fixture
def service(tmp_path: Path, tree: Path) -> Iterator[Service]:
    """Makes a mount of *tree* that a service manager has started as the unit does."""
    made: list[tuple[Mounted, FakeSystemd]] = []
    with ExitStack() as stack:

        def make(**settings: Any) -> tuple[Mounted, FakeSystemd]:
            mount = stack.enter_context(mounted(tmp_path / "mounted", {"L": str(tree)}, start=False, **settings))
            command = [sys.executable, "-P", "-c", "from aliasfs.cli import main; main()", "mount", str(mount.point)]
            command += ["--config", str(mount.config_file), "--foreground", "--force"]
            own = {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "", MARKER: mount.marker}
            log = mount.folder / "log"
            unit = stack.enter_context(fake_systemd(tmp_path / "systemd", command, os.environ | own, log))
            unit.start()
            made.append((mount, unit))
            return mount, unit

        yield make
        for mount, unit in made:
            unit.stop()
            assert not mount.complaints(), "\n".join(mount.complaints())


READER = """
import json, mmap, os, sys

root = sys.argv[1]
file = open(root + "/big", "rb", buffering=0)
mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
listing = os.scandir(root + "/many")
names = [next(listing).name for _ in range(10)]
os.chdir(root + "/many")

def forget_pages():
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

def found():
    forget_pages()
    yield os.pread(file.fileno(), 1 << 30, 0).hex()
    forget_pages()
    yield mapped[:].hex()
    yield sorted(names + [entry.name for entry in listing])
    yield sorted(os.listdir())
    yield os.stat("../big").st_ino

mapped[:100]
print("open", flush=True)
sys.stdin.readline()
print("reading", flush=True)
print(json.dumps(list(found())))
"""


@contextmanager
def _reader(mount: Mounted) -> Iterator[subprocess.Popen[str]]:
    """Run a process that has a file, a mapping, a half-read listing and its working directory in the mount.

    It is one of its own because a child of a process inherits what is open there, and closing that asks the server.
    """
    command = [sys.executable, "-I", "-c", READER, str(mount.point / "L")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd="/", text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _hear(process: subprocess.Popen[str]) -> str:
    """Return the next line *process* says, without its end."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], SOON_S)
    assert ready, "the reader hangs"
    return process.stdout.readline().rstrip()


def _tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def _all_is_right(process: subprocess.Popen[str], big: Path) -> None:
    said = _hear(process)
    assert said, process.communicate()
    read, mapped, scanned, listed, number = json.loads(said)
    assert bytes.fromhex(read) == BIG
    assert bytes.fromhex(mapped) == BIG
    assert (scanned, listed) == (NAMES, NAMES)
    assert number == big.stat().st_ino


def test_ready_means_that_the_mount_answers_and_the_status_says_what_is_served(service: Service) -> None:
    mount, unit = service()
    assert (mount.point / "L" / "big").read_bytes() == BIG
    assert any(str(mount.point) in status and "1 alias" in status for status in unit.heard.statuses)
    assert [name for name, _fd in unit.kept] == ["aliasfs-fuse", "aliasfs-state"]
    assert mount.ask("status")["systemd"] is True
    assert mount.ask("status")["pid"] == unit.main_pid


def test_a_dead_server_is_not_the_end_of_the_service(service: Service) -> None:
    mount, unit = service()
    mount.expect("died")
    before = unit.main_pid
    mount.wait_serving(instead_of=mount.kill_server())
    assert (mount.point / "L" / "big").read_bytes() == BIG
    assert unit.main is not None
    assert (unit.main.poll(), unit.main_pid) == (None, before)
    assert any("SIGKILL" in status for status in unit.heard.statuses), unit.heard.statuses
    unit.wait(lambda heard: "1 alias" in heard.statuses[-1])


def test_the_watchdog_is_fed_only_while_the_mount_answers(service: Service) -> None:
    mount, unit = service(daemon={"request_timeout": HANG_S - 1, "hang_timeout": HANG_S})
    mount.expect("hang", "has not answered", "died")
    unit.wait(lambda heard: heard.fed >= 2)
    server = mount.server_pid
    os.kill(server, signal.SIGSTOP)
    _wait(lambda: mount.ask("status")["hangs"] == 0 and _is_silent(unit, 2.5))
    fed_while_stopped = unit.heard.fed
    mount.wait_serving(instead_of=server)
    assert mount.ask("status")["hangs"] == 1
    unit.wait(lambda heard: heard.fed > fed_while_stopped)


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_silent(unit: FakeSystemd, for_s: float) -> bool:
    before = unit.heard.fed
    time.sleep(for_s)
    return unit.heard.fed == before


@pytest.mark.parametrize("way", ["restart", "kill_main"])
def test_what_is_open_goes_on_in_the_next_life_of_the_service(service: Service, way: str) -> None:
    mount, unit = service()
    mount.expect(KEEPER_DIED)
    before, device = unit.main_pid, mount_at(mount.point)
    with _reader(mount) as reader:
        assert _hear(reader) == "open", reader.communicate()
        getattr(unit, way)()
        assert (unit.main_pid != before, mount_at(mount.point)) == (True, device)
        _tell(reader)
        assert _hear(reader) == "reading"
        _all_is_right(reader, mount.point / "L" / "big")
    unit.wait(lambda heard: "1 alias" in heard.statuses[-1])


@pytest.mark.parametrize("way", ["restart", "kill_main"])
def test_who_reads_while_there_is_no_service_just_waits(service: Service, way: str) -> None:
    mount, unit = service()
    mount.expect(KEEPER_DIED)
    with _reader(mount) as reader:
        assert _hear(reader) == "open", reader.communicate()
        os.kill(mount.server_pid, signal.SIGSTOP)
        _tell(reader)
        assert _hear(reader) == "reading"
        getattr(unit, way)()
        _all_is_right(reader, mount.point / "L" / "big")


def test_a_stop_unmounts_and_keeps_nothing(service: Service) -> None:
    mount, unit = service()
    unit.stop()
    assert mount_at(mount.point) is None
    assert unit.main is not None
    assert unit.main.returncode == 0
    assert unit.heard.is_stopping
    assert not unit.kept
    unit.start()
    assert (mount.point / "L" / "big").read_bytes() == BIG


def test_a_mount_that_is_gone_is_made_anew_by_the_next_start(service: Service) -> None:
    """Its descriptor is still kept, for systemd does not look at what it keeps."""
    mount, unit = service()
    mount.expect(KEEPER_DIED)
    os.kill(unit.main_pid, signal.SIGSTOP)  # or it would mount anew itself
    abort(mount.point)
    unit.kill_main()
    assert (mount.point / "L" / "big").read_bytes() == BIG


def test_a_restart_on_another_mount_point_leaves_the_first_one(service: Service, tmp_path: Path) -> None:
    mount, unit = service()
    mount.expect("is taken away, for the service now mounts on")
    other = tmp_path / "other"
    other.mkdir()
    unit.command = [str(other) if argument == str(mount.point) else argument for argument in unit.command]
    unit.restart()
    assert mount_at(mount.point) is None
    assert (other / "L" / "big").read_bytes() == BIG
    unit.stop()
    assert mount_at(other) is None


def test_a_mount_that_was_detached_is_mounted_again_by_a_restart(service: Service) -> None:
    mount, unit = service()
    with _reader(mount) as reader:
        assert _hear(reader) == "open", reader.communicate()
        subprocess.run(["fusermount3", "-u", "-z", str(mount.point)], check=True)
        unit.restart()
        assert (mount.point / "L" / "big").read_bytes() == BIG
