"""Servers are replaced on purpose, cannot be replaced, or lose their keeper: what goes on, and what is said."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Mounting, Telling
from support.bad_server import BODY, KEY, BadServer, bad_server
from support.endurance import Lake, Readers, Stalls
from support.http_server import web_server
from support.mounted import ROOT, Mounted, unmount

from aliasfs import mounts

OPEN_FILES = 1000
RESTARTS = 4
RESTART_LIMIT = 3
SOON_S = 20.0
"""Far more than an answer takes that waits for nothing, far less than for ever."""


@pytest.fixture(params=[(), ("--without-resend",)], ids=["resend", "without resend"])
def keeper(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Arguments of the keeper: as this kernel can, and as one before 6.9."""
    given: tuple[str, ...] = request.param
    return given


def install(folder: Path, version: str, **replaced: str) -> Path:
    """Put a copy of both packages into *folder* as another *version*; *replaced* are modules of mountd by name."""
    for package in ("aliasfs", "mountd"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    init = folder / "aliasfs" / "__init__.py"
    init.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', init.read_text()))
    for module, text in replaced.items():
        (folder / "mountd" / f"{module}.py").write_text(text)
    return folder


def _restart_into(mounted: Mounted, folder: Path) -> dict[str, Any]:
    return mounted.ask("restart", python=sys.executable, pythonpath=str(folder))


# planned restarts


@pytest.mark.slow
@pytest.mark.s3
@pytest.mark.azure
@pytest.mark.timeout(120)
def test_a_restart_into_another_version_under_load_loses_nothing(
    mount: Mounting, lake: Lake, tell: Telling, tmp_path: Path, keeper: tuple[str, ...]
) -> None:
    mounted = mount(lake.aliases(), keeper=keeper, limit_s=110, cache={"size": 9_000_000})
    pauses_s = []
    with Readers(mounted, lake.truth) as readers:
        readers.go_on(2)
        for number in range(RESTARTS):
            version = f"99.0.{number}"
            answer = _restart_into(mounted, install(tmp_path / version, version))
            assert answer["ok"], answer
            assert (answer["version"], mounted.ask("status")["version"]) == (version, version)
            with mounted.client() as client:
                assert client.status().version == version
            pauses_s.append(answer["pause_s"])
            readers.go_on(2)
        tell(Stalls(f"restart into another version {' '.join(keeper)}".strip(), RESTARTS, readers.end(), pauses_s))
    assert mounted.ask("status")["deaths"] == 0


def test_a_version_that_cannot_start_leaves_the_old_one_in_its_place(
    mount: Mounting, source: Path, tmp_path: Path
) -> None:
    mounted = mount({"L": str(source)})
    mounted.expect("the new server did not start", "Traceback")
    before = mounted.ask("status")
    with (mounted.point / "L" / "file").open("rb", buffering=0) as file:
        broken = install(tmp_path / "broken", "99.1", serve="this is no Python")
        answer = _restart_into(mounted, broken)
        assert not answer["ok"]
        assert answer["error"]
        answer = mounted.ask("restart", python=str(tmp_path / "no-python"), pythonpath="")
        assert not answer["ok"]
        assert "no-python" in answer["error"]
        assert file.read() == b"0123456789"
    after = mounted.ask("status")
    assert (after["server_pid"], after["version"]) == (before["server_pid"], before["version"])


@contextmanager
def _many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * OPEN_FILES), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_1000_open_files_outlive_a_restart_and_a_kill(mount: Mounting, tmp_path: Path, tell: Telling) -> None:
    root = tmp_path / "www"
    root.mkdir()
    for number in range(OPEN_FILES):
        (root / f"f{number}").write_bytes(f"content of {number}".encode() * 50)
    with web_server(root, etags=True) as url, _many_descriptors(), ExitStack() as stack:
        mounted = mount({"W": url, "L": str(root)})
        files = [
            stack.enter_context((mounted.point / ("L" if number % 10 else "W") / f"f{number}").open("rb", buffering=0))
            for number in range(OPEN_FILES)
        ]
        answer = mounted.ask("restart")
        assert answer["ok"], answer
        tell(Stalls(f"restart with {OPEN_FILES} open files", 1, [], [answer["pause_s"]]))
        _all_read(files, root)
        mounted.wait_serving(instead_of=mounted.kill_server())
        _all_read(files, root)


def _all_read(files: list[Any], root: Path) -> None:
    for number, file in enumerate(files):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(file.fileno(), 10_000, 0) == (root / f"f{number}").read_bytes()


# kernels that cannot send requests again


@pytest.mark.slow
@pytest.mark.s3
@pytest.mark.azure
@pytest.mark.timeout(150)
def test_without_resend_a_kill_fails_requests_in_flight_only(mount: Mounting, lake: Lake, tell: Telling) -> None:
    kills = 20
    daemon = {"restart_limit": 1000}
    aliases = lake.aliases()
    mounted = mount(aliases, keeper=("--without-resend",), limit_s=140, cache={"size": 9_000_000}, daemon=daemon)
    assert mounted.ask("status")["resend"] is False
    pauses_s = []
    with Readers(mounted, lake.truth, forgiving=True) as readers:
        for _ in range(kills):
            readers.go_on(1.2)
            pauses_s.append(mounted.wait_serving(instead_of=mounted.kill_server())["pause_s"])
        readers.go_on(2)
        reports = readers.end()
    tell(Stalls("SIGKILL without resend", kills, reports, pauses_s))
    failed = sum(report["forgiven"] for report in reports)
    assert failed <= kills * 3 * len(reports), "more failed than can have been in flight, read-ahead included"


def test_without_resend_what_a_dead_server_had_taken_fails_and_the_file_goes_on(mount: Mounting, source: Path) -> None:
    with bad_server() as server:
        mounted = mount(_aliases(server, source), keeper=("--without-resend",))
        with (mounted.point / "BAD" / KEY).open("rb", buffering=0) as file, (mounted.point / "L/file").open() as other:
            server.always = "hang"
            answers: list[str] = []
            asking = threading.Thread(target=lambda: answers.append(_answer(mounted.point / "BAD" / "unknown")))
            requests = server.requests
            asking.start()
            while server.requests == requests:
                time.sleep(0.01)
            killed = mounted.kill_server()
            server.always = None
            mounted.wait_serving(instead_of=killed)
            asking.join(SOON_S)
            assert answers
            assert answers[0] in ("EIO", "ENOTCONN", "ECONNABORTED")
            assert _answer(mounted.point / "BAD" / "unknown") == "ENOENT"
            assert _pread(file.fileno()) == BODY[:1000]
            assert other.read() == "0123456789"


def _answer(path: Path) -> str:
    try:
        path.stat()
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]
    return "it is there"


def _aliases(server: BadServer, source: Path) -> dict[str, Any]:
    options = {"key": "test", "secret": "not-to-be-seen", "endpoint_url": server.url}
    return {"BAD": {"url": "s3://bucket", "options": options, "ttl": 60}, "L": str(source)}


def _pread(fd: int) -> bytes | int | None:
    """Return 1,000 bytes, or the errno that stands in their place."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        return os.pread(fd, 1000, 0)
    except OSError as exc:
        return exc.errno


# servers that cannot live


def test_servers_that_all_die_at_once_give_eio_until_the_cause_is_gone(
    mount: Mounting, source: Path, keeper: tuple[str, ...]
) -> None:
    mounted = mount({"L": str(source)}, keeper=keeper, daemon={"restart_limit": RESTART_LIMIT})
    mounted.expect("ERROR", "died")
    with (mounted.point / "L" / "file").open("rb", buffering=0) as file:
        good = mounted.config_file.read_text()
        mounted.config_file.write_text("aliases: {L: [not, a, place]}\n")
        mounted.kill_server()
        _wait_failing(mounted)
        began = time.monotonic()
        assert _pread(file.fileno()) == errno.EIO
        with pytest.raises(OSError, match="Input/output error"):
            os.listdir(mounted.point)
        assert time.monotonic() - began < SOON_S
        status = mounted.ask("status")
        assert "alias L" in status["said"]
        assert "EIO" in status["said"]
        refused = mounted.ask("restart")
        assert not refused["ok"]
        assert "alias L" in refused["error"]
        mounted.config_file.write_text(good)
        answer = mounted.ask("restart")
        assert answer["ok"], answer
        assert _pread(file.fileno()) == b"0123456789"
        assert mounted.ask("status")["state"] == "serving"


def _wait_failing(mounted: Mounted) -> None:
    deadline = time.monotonic() + 2 * SOON_S
    while (status := mounted.ask("status"))["state"] != "failing":
        assert time.monotonic() < deadline, status
        time.sleep(0.05)


def test_a_mount_without_its_keeper_is_served_on_and_says_so(mount: Mounting, source: Path) -> None:
    mounted = mount({"L": str(source)})
    mounted.expect("keeper")
    assert mounted.process is not None
    with (mounted.point / "L" / "file").open("rb", buffering=0) as file:
        mounted.process.kill()
        mounted.process.wait()
        deadline = time.monotonic() + SOON_S
        while "the keeper is gone" not in mounted.said:
            assert time.monotonic() < deadline, mounted.said
            time.sleep(0.05)
        assert _pread(file.fileno()) == b"0123456789"
        assert sorted(os.listdir(mounted.point / "L")) == ["dir", "file"]
    mounted.kill()
    assert not mounted.complaints()


def test_a_keeper_whose_mount_was_taken_away_leaves_the_next_one_alone(mount: Mounting, source: Path) -> None:
    """The kernel gives the number of a device that is gone to the next mount, at once."""
    first = mount({"L": str(source)}, folder="first")
    assert first.process is not None
    processes = (first.process.pid, first.server_pid)
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    unmount(first.point)
    second = mount({"L": str(source)}, folder="second")
    for pid in processes:
        os.kill(pid, signal.SIGCONT)
    assert first.process.wait(SOON_S) == 0
    assert mounts.mount_at(first.point) is None
    assert (second.point / "L" / "file").read_bytes() == b"0123456789"
    assert second.ask("status")["generation"] == 0
