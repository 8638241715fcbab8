"""Servers are killed, hang, crash, run out of memory or disk, stores go away: no reader sees an error or a wrong byte.

Sixteen programs read local, S3 and Azure data in every way there is, and compare all of it; see `support.endurance`.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Mounting, Telling
from support.endurance import Lake, Readers, Stalls
from support.mounted import Mounted
from support.relay import Relay, relay

pytestmark = [pytest.mark.slow, pytest.mark.s3, pytest.mark.azure]

KILLS = 200
LONGEST_LIFE_S = 1.5
CACHE_BYTES = 9_000_000
"""About half of what is read, so that it comes from memory, disk and store in turn."""

SETTLED_S = 2.0
SPARE_BYTES, STARVED_S = 4 << 20, 6.0
STORE_AWAY_S = 20.0
STORE_COMPLAINTS = ("is down", "Store(Unavailable|Timeout|Error)")


@pytest.fixture
def steady(mount: Mounting, lake: Lake) -> Callable[..., Mounted]:
    """Makes mounts of the lake whose server may die as often as it likes."""

    def make(limit_s: float, aliases: dict[str, Any] | None = None, **settings: Any) -> Mounted:
        daemon = {"restart_limit": 1000} | settings.pop("daemon", {})
        cache = {"size": CACHE_BYTES} | settings.pop("cache", {})
        return mount(aliases or lake.aliases(), limit_s=limit_s, daemon=daemon, cache=cache, **settings)

    return make


@pytest.mark.timeout(560)
def test_200_kills_at_random_instants(steady: Callable[..., Mounted], lake: Lake, tell: Telling) -> None:
    chance = random.Random(int.from_bytes(os.urandom(4)))
    mounted = steady(540)
    pauses_s = []
    killed = 0
    with Readers(mounted, lake.truth) as readers:
        readers.go_on(SETTLED_S)
        for number in range(KILLS):
            if number % 10 == 9:
                killed = _wait_for_another(mounted, killed)
                readers.go_on(chance.uniform(0, 0.8))
            else:
                pauses_s.append(mounted.wait_serving(instead_of=killed)["pause_s"])
                readers.go_on(chance.uniform(0, LONGEST_LIFE_S))
            killed = mounted.kill_server()
        mounted.wait_serving(instead_of=killed)
        readers.go_on(SETTLED_S)
        tell(Stalls("SIGKILL", KILLS, readers.end(), pauses_s))


def _wait_for_another(mounted: Mounted, before: int) -> int:
    """Wait until a server that is not *before* has been started, however far it has come; return its pid."""
    while (pid := mounted.server_pid) in (0, before):
        time.sleep(0.01)
    return pid


@pytest.mark.timeout(120)
def test_servers_that_crash(steady: Callable[..., Mounted], lake: Lake, tell: Telling) -> None:
    mounted = steady(110)
    _suffer(mounted, lake, tell, ("SIGSEGV", 8), lambda: mounted.kill_server(signal.SIGSEGV))


@pytest.mark.timeout(150)
def test_servers_that_hang(steady: Callable[..., Mounted], lake: Lake, tell: Telling) -> None:
    """Between two of them the mount answers for long enough that it does not take them for a row."""
    hang_timeout_s = 6.0
    mounted = steady(140, daemon={"hang_timeout": hang_timeout_s, "request_timeout": 5.0})
    mounted.expect("the server hangs", *STORE_COMPLAINTS)

    def hang() -> int:
        time.sleep(hang_timeout_s)
        return mounted.kill_server(signal.SIGSTOP)

    _suffer(mounted, lake, tell, ("SIGSTOP", 3), hang)


@pytest.mark.timeout(150)
def test_servers_without_memory(steady: Callable[..., Mounted], lake: Lake, tell: Telling) -> None:
    """What `ulimit -v` does, to a server that has just begun and has little memory of its own yet."""
    mounted = steady(140)
    mounted.expect(r"(WARNING|ERROR|CRITICAL) (?!mountd\.keeper)", "Traceback")  # a starving server says this and that
    starved = 0

    def starve() -> int:
        nonlocal starved
        pid = mounted.wait_serving(instead_of=mounted.kill_server())["server_pid"]
        size_kb = int(re.findall(r"VmSize:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[0])
        resource.prlimit(pid, resource.RLIMIT_AS, (size_kb * 1024 + SPARE_BYTES, resource.RLIM_INFINITY))
        deadline = time.monotonic() + STARVED_S
        while mounted.server_pid == pid and time.monotonic() < deadline:
            time.sleep(0.05)
        if mounted.server_pid != pid:
            starved += 1
            return int(pid)
        resource.prlimit(pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return 0  # it got by with what it had

    _suffer(mounted, lake, tell, ("memory exhaustion", 6), starve)
    assert starved, "no server ever ran out of memory"


def _suffer(
    mounted: Mounted, lake: Lake, tell: Telling, trouble: tuple[str, int], make_trouble: Callable[[], int]
) -> None:
    """Make a *trouble* so many times that ends the server whose pid it returns, while readers go on."""
    name, rounds = trouble
    pauses_s = []
    with Readers(mounted, lake.truth) as readers:
        readers.go_on(SETTLED_S)
        for _ in range(rounds):
            pauses_s.append(mounted.wait_serving(instead_of=make_trouble())["pause_s"])
            readers.go_on(SETTLED_S)
        tell(Stalls(name, rounds, readers.end(), pauses_s))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", disk], check=True)
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.timeout(120)
def test_a_cache_disk_that_fills(small_disk: Path, steady: Callable[..., Mounted], lake: Lake, tell: Telling) -> None:
    """It fills and empties, and a server that is killed meanwhile finds it full."""
    mounted = steady(110, cache={"dir": str(small_disk / "cache")})
    mounted.expect("cache", "No space")
    filler = small_disk / "filler"

    def fill() -> int:
        with contextlib.suppress(OSError):
            filler.write_bytes(bytes(16 << 20))
        time.sleep(SETTLED_S)
        killed = mounted.kill_server()
        mounted.wait_serving(instead_of=killed)
        time.sleep(SETTLED_S)
        filler.unlink()
        return killed

    _suffer(mounted, lake, tell, ("full cache disk and SIGKILL", 4), fill)
    mounted.stop()


@pytest.mark.parametrize("how", ["refuses", "says nothing"])
@pytest.mark.timeout(120)
def test_stores_that_are_away_for_20_s(how: str, steady: Callable[..., Mounted], lake: Lake, tell: Telling) -> None:
    """In the middle of it the server is killed: the next one starts, and waits, without them."""
    with relay(lake.s3_url) as s3, relay(lake.azure_url) as azure:
        mounted = steady(110, lake.aliases(s3_url=s3.url, azure_url=azure.url))
        mounted.expect(*STORE_COMPLAINTS)
        with Readers(mounted, lake.truth) as readers:
            readers.go_on(SETTLED_S)
            _break(how, s3, azure)
            readers.go_on(STORE_AWAY_S / 2)
            killed = mounted.kill_server()
            readers.go_on(STORE_AWAY_S / 2)
            s3.open()
            azure.open()
            pause_s = mounted.wait_serving(instead_of=killed)["pause_s"]
            readers.go_on(3 * SETTLED_S)
            tell(Stalls(f"store that {how} for {STORE_AWAY_S:.0f} s, and SIGKILL", 1, readers.end(), [pause_s]))


def _break(how: str, *relays: Relay) -> None:
    for one in relays:
        if how == "refuses":
            one.cut()
        else:
            one.swallow()
