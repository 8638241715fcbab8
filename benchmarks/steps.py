"""The steps: what is read, in which order, on which fresh mount, and what is noted of each.

A session is one fresh mount with an empty cache; its cold steps run once, its warm steps several times.
The requests and bytes of a step are those the rig counts until it has been quiet for a while, so
read-ahead that nobody waited for is counted where it was caused.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.bucket import Layout
from benchmarks.mounts import BenchError, Mount, drop_page_cache, touch_memory

STEP_LIMIT_S = 300.0
_QUIET_S = 0.4
_WARM_PASSES = 3
_SLOW_S = 10.0
RANDOM_BYTES = 64 << 10
TOUCHED_COPIES = 3
"""Memory that is made ready before each step, as a multiple of what it reads: both page caches and the daemon."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: wall time, bytes the reader got (entries for a listing), and what it cost."""

    step: str
    system: str
    seconds: float
    got: int
    requests: dict[str, int] = field(default_factory=dict)
    fetched_bytes: int = 0
    peak_bytes: int = 0
    cpu_s: float = 0.0
    problem: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the fields for the JSON report."""
        return asdict(self)


class RigControl:
    """The control paths of the rig."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}/__rig__"

    def reset(self) -> None:
        """Count from now."""
        urllib.request.urlopen(urllib.request.Request(f"{self._base}/reset", method="POST"), timeout=10).read()

    def counters(self) -> dict[str, int]:
        """Return requests by kind and bytes since the last reset."""
        counted: dict[str, int] = json.load(urllib.request.urlopen(f"{self._base}/counters", timeout=10))
        return counted

    def settled(self, limit_s: float = 20.0) -> dict[str, int]:
        """Return the counters once nothing was counted for a while."""
        deadline = time.monotonic() + limit_s
        seen = self.counters()
        while time.monotonic() < deadline:
            time.sleep(_QUIET_S)
            now = self.counters()
            if now == seen:
                break
            seen = now
        return seen

    def digests(self, prefix: str) -> dict[str, str]:
        """Return the SHA-256 of every object whose key begins with *prefix*."""
        answer = json.load(urllib.request.urlopen(f"{self._base}/digests?prefix={prefix}", timeout=120))
        return {key: digest for key, (_, digest) in answer.items()}


class Session:
    """One fresh mount on which steps are measured; a step that fails ends the session."""

    def __init__(self, system: str, mount: Mount, rig: RigControl, layout: Layout) -> None:
        self.system = system
        self.layout = layout
        self.samples: list[Sample] = []
        self._mount = mount
        self._rig = rig

    def path(self, key: str) -> str:
        """Return where *key* is on the mount."""
        return f"{self._mount.root}/{key}"

    def measure(self, step: str, command: Sequence[str], expected: int) -> None:
        """Run a reader, note what it took; raises BenchError when it got other than *expected*."""
        touch_memory(TOUCHED_COPIES * expected)
        self._mount.reset_peak()
        self._rig.reset()
        cpu_before = self._mount.cpu_s()
        try:
            result = json.loads(self._mount.run(reader(*command), STEP_LIMIT_S))
        except BenchError as failure:
            self.samples.append(Sample(step, self.system, 0.0, 0, problem=str(failure)))
            raise
        counted = self._rig.settled()
        problem = "" if result["bytes"] == expected else f"wrong: got {result['bytes']} of {expected}"
        self.samples.append(
            Sample(
                step=step,
                system=self.system,
                seconds=result["seconds"],
                got=int(result["bytes"]),
                fetched_bytes=counted.pop("bytes"),
                requests=counted,
                peak_bytes=self._mount.peak_bytes(),
                cpu_s=self._mount.cpu_s() - cpu_before,
                problem=problem,
            )
        )
        if problem:
            raise BenchError(problem)

    def measure_warm(self, step: str, command: Sequence[str], expected: int) -> None:
        """Measure several times; once is enough for what is slow."""
        for _ in range(_WARM_PASSES):
            self.measure(step, command, expected)
            if self.samples[-1].seconds > _SLOW_S:
                return

    def verify(self, keys: str) -> None:
        """Compare what the mount gives, from its caches, with what the rig holds; takes no part in any time."""
        shown = json.loads(self._mount.run(reader("digests", self._mount.root, keys), STEP_LIMIT_S))
        if shown != self._rig.digests(keys):
            self.samples.append(Sample(f"verify {keys}", self.system, 0.0, 0, problem="wrong bytes"))
            raise BenchError(f"wrong bytes in {keys}")


def reader(*arguments: str) -> list[str]:
    """Return the command line of a reader."""
    return [sys.executable, "-m", "benchmarks.readers", *arguments]


def limit_reader(port: int, *arguments: str) -> list[str]:
    """Return the command line of a reader without file system."""
    return [sys.executable, "-m", "benchmarks.limits", str(port), *arguments]


def first_byte(session: Session) -> None:
    """Open several objects that nobody has read, one after the other; the mount has not listed anything."""
    for number in range(session.layout.first_byte_objects):
        session.measure("first byte", ["first", session.path(f"big/first-{number}.bin")], 4096)


def sequential(session: Session) -> None:
    """Read the big object cold, from the disk cache, and from the page cache; then check every byte."""
    size = session.layout.big_bytes
    command = ["sequential", session.path("big/sequential.bin")]
    session.measure("sequential cold", command, size)
    drop_page_cache()
    session.measure("sequential from disk cache", command, size)
    session.measure_warm("sequential warm", [*command, "again"], size)
    session.verify("big/sequential.bin")


def small_files(session: Session) -> None:
    """Read all small files by 16 processes cold, then by 1 and by 4 processes warm; then check every byte."""
    expected = session.layout.small_count * session.layout.small_bytes
    command = ["many", session.path("small"), str(session.layout.small_count)]
    session.measure("small files cold, 16 processes", [*command, "16"], expected)
    session.measure_warm("small files warm, 1 process", [*command, "1", "again"], expected)
    session.measure_warm("small files warm, 4 processes", [*command, "4", "again"], expected)
    session.verify("small/")


def listing(session: Session) -> None:
    """`ls -l` of the big directory, cold and warm."""
    command = ["listing", session.path("listed")]
    session.measure("ls -l cold", command, session.layout.listed_count)
    session.measure_warm("ls -l warm", command, session.layout.listed_count)


def scattered(session: Session) -> None:
    """Read 64 KiB at random places of a big object that nobody has read, one after the other."""
    count = random_reads(session.layout)
    command = ["scattered", session.path("big/random.bin"), str(count), str(RANDOM_BYTES)]
    session.measure("random 64 KiB", command, count * RANDOM_BYTES)


def random_reads(layout: Layout) -> int:
    """Return how many random reads there are: few enough that most of the object stays unread."""
    return max(20, layout.big_bytes // (8 << 20))


GROUPS: dict[str, Callable[[Session], None]] = {
    "first": first_byte,
    "sequential": sequential,
    "small": small_files,
    "listing": listing,
    "random": scattered,
}


def limit_commands(layout: Layout, port: int, copy: Path) -> dict[str, list[tuple[str, list[str], int]]]:
    """Return per group (step, command, expected): obstore alone where cold, the disk's own file system where warm."""
    small = ["many", f"{copy}/small", str(layout.small_count)]
    small_bytes = layout.small_count * layout.small_bytes
    big = f"{copy}/big/sequential.bin"
    return {
        "first": [
            ("first byte", limit_reader(port, "first", f"big/first-{number}.bin"), 4096)
            for number in range(layout.first_byte_objects)
        ],
        "sequential": [
            ("sequential cold", limit_reader(port, "sequential", "big/sequential.bin"), layout.big_bytes),
            ("sequential from disk cache", reader("sequential", big), layout.big_bytes),
            *[("sequential warm", reader("sequential", big, "again"), layout.big_bytes)] * _WARM_PASSES,
        ],
        "small": [
            (
                "small files cold, 16 processes",
                limit_reader(port, "many", "small", str(layout.small_count)),
                small_bytes,
            ),
            *[("small files warm, 1 process", reader(*small, "1", "again"), small_bytes)] * _WARM_PASSES,
            *[("small files warm, 4 processes", reader(*small, "4", "again"), small_bytes)] * _WARM_PASSES,
        ],
        "listing": [
            ("ls -l cold", limit_reader(port, "listing", "listed"), layout.listed_count),
            *[("ls -l warm", reader("listing", f"{copy}/listed"), layout.listed_count)] * _WARM_PASSES,
        ],
        "random": [
            (
                "random 64 KiB",
                limit_reader(port, "scattered", "big/random.bin", str(random_reads(layout)), str(RANDOM_BYTES)),
                random_reads(layout) * RANDOM_BYTES,
            )
        ],
    }
