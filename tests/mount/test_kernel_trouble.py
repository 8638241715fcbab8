"""A store that misbehaves, a cache that fails, a daemon that is killed: errnos where they belong, no wrong byte."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Mounting
from support.bad_server import BODY, KEY, BadServer, bad_server, gets_of_the_object
from support.http_server import web_server
from support.mounted import ROOT, Mounted

TIMEOUT_S = 1.0
EXPECTED = ("is down", "StoreUnavailable", "StoreTimeout", "StoreError", "CorruptObject", "StaleObject", "AccessDenied")


@pytest.fixture
def bad() -> Iterator[BadServer]:
    with bad_server() as server:
        yield server


def _bad_alias(server: BadServer, engine: str = "obstore", ttl: float = 0) -> dict[str, Any]:
    options = {"key": "test", "secret": "not-to-be-seen", "endpoint_url": server.url}
    return {"url": "s3://bucket", "options": options, "engine": engine, "ttl": ttl}


@pytest.fixture(params=["obstore", "fsspec"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def troubled(mount: Mounting, bad: BadServer, source: Path, engine: str) -> Mounted:
    """A mount of the bad server as BAD, and of a local directory as L."""
    aliases = {"BAD": _bad_alias(bad, engine), "L": str(source)}
    mounted = mount(aliases, daemon={"request_timeout": TIMEOUT_S})
    mounted.expect(*EXPECTED)
    return mounted


def _errno(path: Path) -> str:
    try:
        path.read_bytes()
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]
    return "OK"


def _is_untouched(mounted: Mounted) -> None:
    """Check that neither the root nor the other alias is slowed; generously, for machines are slow at times."""
    began = time.monotonic()
    assert sorted(os.listdir(mounted.point)) == ["BAD", "L"]
    assert (mounted.point / "L" / "file").read_bytes() == b"0123456789"
    assert time.monotonic() - began < TIMEOUT_S


TROUBLES: dict[str, set[str]] = {
    "403": {"EACCES"},
    "404": {"ENOENT", "ESTALE"},
    "412": {"ESTALE", "EIO"},
    "wrong range": {"EIO"},
    "other etag": {"ESTALE", "EIO"},
    "short": {"EIO", "ETIMEDOUT"},
    "reset": {"EIO", "ETIMEDOUT"},
    "500": {"EIO", "ETIMEDOUT"},
    "503": {"EIO", "ETIMEDOUT"},
    "hang": {"EIO", "ETIMEDOUT"},
}


@pytest.mark.parametrize(
    ("engine", "troubles"),
    [("obstore", list(TROUBLES)), ("fsspec", ["403", "412", "short", "hang"])],
    indirect=["engine"],
)
def test_each_trouble_is_an_errno_within_bounded_time_and_harms_no_other_alias(
    troubled: Mounted, bad: BadServer, troubles: list[Any]
) -> None:
    path = troubled.point / "BAD" / KEY
    assert path.stat().st_size == len(BODY)
    bad.only = gets_of_the_object
    for trouble in troubles:
        bad.always = trouble
        answers: list[str] = []
        reading = threading.Thread(target=lambda answers=answers: answers.append(_errno(path)))
        began = time.monotonic()
        reading.start()
        _is_untouched(troubled)
        reading.join(60)
        assert answers, f"{trouble}: no answer"
        assert answers[0] in TROUBLES[trouble], trouble
        assert time.monotonic() - began < 15 * TIMEOUT_S
        bad.always = None
        _wait_until_it_is_back(troubled)
    assert path.read_bytes() == BODY
    assert "not-to-be-seen" not in troubled.said


def _wait_until_it_is_back(mounted: Mounted) -> None:
    """Wait until the store is asked again; the object is not read, for it would be cached."""
    deadline = time.monotonic() + 40
    while _errno(mounted.point / "BAD" / "unknown") != "ENOENT" and time.monotonic() < deadline:
        time.sleep(0.1)


def test_a_read_that_breaks_off_is_made_good_and_nobody_sees_it(mount: Mounting, bad: BadServer, engine: str) -> None:
    mounted = mount({"BAD": _bad_alias(bad, engine)}, daemon={"request_timeout": 20})
    bad.only = gets_of_the_object
    bad.queue.extend(["reset", "500", "503", "500", "reset", "short"])
    assert (mounted.point / "BAD" / KEY).read_bytes() == BODY
    assert not bad.queue


@pytest.mark.parametrize("engine", ["obstore"], indirect=True)
def test_while_the_store_is_away_what_is_cached_is_served(troubled: Mounted, bad: BadServer) -> None:
    path = troubled.point / "BAD" / KEY
    assert os.listdir(path.parent) == ["object"]
    assert path.read_bytes() == BODY
    for trouble in ("500", "hang"):
        bad.always = trouble  # type: ignore[assignment]
        assert path.read_bytes() == BODY
        assert os.listdir(path.parent) == ["object"]
        assert _errno(path.with_name("unknown")) in ("EIO", "ETIMEDOUT")
        _is_untouched(troubled)
    with troubled.client() as client:
        health = {alias.name: alias.health for alias in client.status().aliases}
    assert health == {"BAD": "failing", "L": "ok"}
    bad.always = None


@pytest.mark.parametrize("engine", ["obstore"], indirect=True)
def test_a_mount_starts_though_its_store_is_away_and_recovers_with_it(
    mount: Mounting, bad: BadServer, source: Path, engine: str
) -> None:
    bad.always = "500"
    mounted = mount({"BAD": _bad_alias(bad), "L": str(source)}, daemon={"request_timeout": TIMEOUT_S})
    mounted.expect(*EXPECTED)
    _is_untouched(mounted)
    assert _errno(mounted.point / "BAD" / KEY) in ("EIO", "ETIMEDOUT")
    bad.always = None
    _wait_until_it_is_back(mounted)
    assert (mounted.point / "BAD" / KEY).read_bytes() == BODY


def test_an_alias_whose_store_hangs_goes_at_once(mount: Mounting, bad: BadServer, source: Path, engine: str) -> None:
    aliases = {"BAD": _bad_alias(bad, engine), "L": str(source)}
    mounted = mount(aliases, daemon={"request_timeout": 30})
    mounted.expect(*EXPECTED)
    path = mounted.point / "BAD" / KEY
    assert path.stat().st_size == len(BODY)
    bad.only = gets_of_the_object
    bad.always = "hang"
    answers: list[str] = []
    reading = threading.Thread(target=lambda: answers.append(_errno(path)))
    reading.start()
    requests = bad.requests
    while bad.requests == requests and reading.is_alive():
        time.sleep(0.01)
    mounted.write_config({"L": str(source)})
    began = time.monotonic()
    with mounted.client() as client:
        client.reload()
    reading.join(20)
    assert time.monotonic() - began < 15, "half of what the store may take to answer"
    assert os.listdir(mounted.point) == ["L"]
    assert answers
    assert answers[0] in ("ESTALE", "EIO", "ENOENT")


# the cache


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    root = tmp_path / "www"
    root.mkdir()
    chance = random.Random(1)
    for index in range(6):
        (root / f"f{index}").write_bytes(chance.randbytes(1_500_000 + index))
    with web_server(root, etags=True) as url:
        yield root, url


def _all_match(mounted: Mounted, root: Path) -> None:
    for path in sorted(root.iterdir()):
        assert (mounted.point / "W" / path.name).read_bytes() == path.read_bytes()


def test_reads_go_on_when_the_cache_directory_vanishes(mount: Mounting, web: tuple[Path, str]) -> None:
    root, url = web
    mounted = mount({"W": {"url": url, "ttl": 0}})
    mounted.expect("cache")
    _all_match(mounted, root)
    shutil.rmtree(mounted.cache_dir)
    _drop_page_cache(mounted)
    _all_match(mounted, root)
    (root / "f9").write_bytes(os.urandom(2_000_000))
    _all_match(mounted, root)


def test_reads_go_on_when_the_cache_cannot_be_made(mount: Mounting, web: tuple[Path, str], tmp_path: Path) -> None:
    root, url = web
    (tmp_path / "in-the-way").write_bytes(b"a file, not a directory")
    mounted = mount({"W": {"url": url}}, cache={"dir": str(tmp_path / "in-the-way" / "cache")})
    mounted.expect("cache")
    _all_match(mounted, root)
    with mounted.client() as client:
        cache = client.status().cache
    assert cache.state == "failed"
    assert str(tmp_path / "in-the-way") in cache.reason


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_reads_go_on_when_the_disk_of_the_cache_is_full_or_read_only(
    mount: Mounting, web: tuple[Path, str], tmp_path: Path
) -> None:
    root, url = web
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", disk], check=True)
    try:
        mounted = mount({"W": {"url": url, "ttl": 0}}, cache={"dir": str(disk / "cache")})
        mounted.expect("cache", "No space")
        _all_match(mounted, root)
        with contextlib.suppress(OSError):
            (disk / "filler").write_bytes(b"x" * 4_000_000)
        _drop_page_cache(mounted)
        _all_match(mounted, root)
        mounted.stop()
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        assert mounted.start().ready
        _all_match(mounted, root)
        with mounted.client() as client:
            assert client.status().cache.state == "failed"
        mounted.stop()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_the_cache_keeps_to_its_budget(mount: Mounting, web: tuple[Path, str]) -> None:
    root, url = web
    budget = 4_000_000
    mounted = mount({"W": {"url": url, "ttl": 0}}, cache={"size": budget})
    mounted.expect("cache")
    for _ in range(3):
        _all_match(mounted, root)
        used = sum(path.lstat().st_blocks * 512 for path in mounted.cache_dir.rglob("*"))
        assert used <= budget + 65536
    with mounted.client() as client:
        assert client.status().cache.used_bytes <= budget


def test_damage_in_the_cache_is_never_seen(mount: Mounting, web: tuple[Path, str]) -> None:
    root, url = web
    chance = random.Random(3)
    mounted = mount({"W": {"url": url, "ttl": 0}})
    mounted.expect("cache", "block", "dropped", "damaged")
    for _ in range(3):
        _all_match(mounted, root)
        mounted.stop()
        for path in mounted.cache_dir.rglob("*"):
            if path.is_file() and path.stat().st_size and path.name != "lock":
                with path.open("r+b") as file:
                    file.seek(chance.randrange(path.stat().st_size))
                    file.write(chance.randbytes(100))
        assert mounted.start().ready
    _all_match(mounted, root)


def test_two_daemons_never_share_one_cache(mount: Mounting, source: Path) -> None:
    first = mount({"L": str(source)})
    second = mount({"L": str(source)}, folder="second", cache={"dir": str(first.cache_dir)}, start=False)
    second.expect("ERROR")
    readiness = second.start()
    assert not readiness.ready
    assert str(first.cache_dir) in readiness.error
    assert str(first.server_pid) in readiness.error
    assert "Traceback" not in second.said
    assert second.process is not None
    assert second.process.wait(10) == readiness.exit != 0


def _drop_page_cache(mounted: Mounted) -> None:
    """Have the kernel forget what it keeps of the files of the alias W, so that reads reach the daemon."""
    for path in (mounted.point / "W").iterdir():
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


# kill -9

KILLS = 20

LOAD = """
import hashlib, os, random, sys
root, seed = sys.argv[1], int(sys.argv[2])
expected = dict(item.split("=") for item in sys.argv[3:])
chance = random.Random(seed)
while True:
    name = chance.choice(sorted(expected))
    try:
        with open(os.path.join(root, name), "rb", buffering=0) as file:
            digest = hashlib.md5()
            while piece := file.read(1 << 17):
                digest.update(piece)
    except OSError:
        continue
    if digest.hexdigest() != expected[name]:
        print("WRONG", name, flush=True)
        sys.exit(3)
"""


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_kill_9_of_keeper_and_server_under_load_leaves_no_wrong_byte_in_the_cache(
    mount: Mounting, web: tuple[Path, str]
) -> None:
    root, url = web
    expected = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in root.iterdir()}
    chance = random.Random(5)
    mounted = mount({"W": {"url": url, "ttl": 1}}, limit_s=170, cache={"size": 7_000_000})
    for _ in range(KILLS):
        items = [f"{name}={digest}" for name, digest in expected.items()]
        readers = [
            subprocess.Popen([sys.executable, "-S", "-c", LOAD, mounted.point / "W", str(seed), *items])
            for seed in (chance.randrange(1000), chance.randrange(1000))
        ]
        try:
            time.sleep(chance.uniform(0.05, 0.6))
            mounted.kill()
            assert [reader.poll() for reader in readers] == [None, None], "a reader saw a wrong byte"
        finally:
            for reader in readers:
                reader.send_signal(signal.SIGKILL)
                reader.wait()
        assert mounted.start().ready, mounted.said
    _all_match(mounted, root)
    mounted.stop()
    said = _verify(mounted.cache_dir)
    assert said["bad_blocks"] == 0, "a kill may cost blocks, but leaves none that does not verify"


def _verify(cache_dir: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "mountd", "cache", "verify", "--dir", cache_dir, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report
