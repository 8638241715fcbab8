"""Sixteen programs that read a mount all the time, what they must see, and how long they had to wait at worst.

`lake` makes the same tree as a local directory, in a bucket and in a container; `Readers` starts the programs
(`steady_reader.py`) over aliases of all three and fails as soon as one of them saw an error or a wrong byte.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from support.mounted import Mounted
from support.processes import AZURITE_ACCOUNT, AZURITE_KEY

PROGRAM = Path(__file__).with_name("steady_reader.py")
ALIASES = ("LOCAL", "S3", "AZURE")
TROUPE = [
    *((kind, alias) for kind in ("sequential", "random", "mmap", "walk", "held") for alias in ALIASES),
    ("listing", "S3"),
]
"""Sixteen readers."""

UNFORGIVING = ("mmap", "listing")
"""A page that cannot be read is SIGBUS; a directory that fails has to be read from its start."""

END_S = 60.0
BUCKET = "lake"
BIG_BYTES, MAPPED_BYTES = 5_000_001, 2_000_003
SMALL_SIZES = (0, 1, 700, 4096, 30_000, 90_001)


def fill(truth: Path) -> None:
    """Make the tree that readers expect below *truth*: two big files, a tree of small ones, a long directory."""
    chance = random.Random(20)
    (truth / "big").write_bytes(chance.randbytes(BIG_BYTES))
    (truth / "mapped").write_bytes(chance.randbytes(MAPPED_BYTES))
    for number in range(6):
        folder = truth / "tree" / f"d{number % 3}" / f"e{number}"
        folder.mkdir(parents=True)
        for index, size in enumerate(SMALL_SIZES):
            (folder / f"f{index}").write_bytes(chance.randbytes(size))
    (truth / "names").mkdir()
    for number in range(400):
        (truth / "names" / f"{number:04}-{'n' * 100}").write_bytes(b"x")


@dataclass(frozen=True)
class Lake:
    """The same tree three times; *truth* is that of the local alias, and what all are compared with."""

    truth: Path
    s3_url: str
    azure_url: str

    def aliases(self, *, s3_url: str = "", azure_url: str = "") -> dict[str, Any]:
        """Return the aliases of a mount of it, by way of other addresses than its own if any are given."""
        endpoint = azure_url or self.azure_url
        keys = f"AccountName={AZURITE_ACCOUNT};AccountKey={AZURITE_KEY};BlobEndpoint={endpoint};"
        s3 = {"key": "test", "secret": "test", "endpoint_url": s3_url or self.s3_url}
        azure = {"connection_string": f"DefaultEndpointsProtocol=http;{keys}"}
        return {
            "LOCAL": {"url": str(self.truth), "ttl": 0.5},
            "S3": {"url": f"s3://{BUCKET}", "options": s3, "ttl": 3},
            "AZURE": {"url": f"az://{BUCKET}", "options": azure, "ttl": 3},
        }


def lake(folder: Path, s3_url: str, s3_client: Any, azure_url: str, azure_service: Any) -> Lake:
    """Fill *folder*, a bucket and a container with the same tree."""
    fill(folder)
    s3_client.create_bucket(Bucket=BUCKET)
    container = azure_service.create_container(BUCKET)

    def put(path: Path) -> None:
        key, body = str(path.relative_to(folder)), path.read_bytes()
        s3_client.put_object(Bucket=BUCKET, Key=key, Body=body)
        container.upload_blob(key, body)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(put, (path for path in folder.rglob("*") if path.is_file())))
    return Lake(folder, s3_url, azure_url)


class Readers:
    """The programs of `TROUPE` on *mounted*; a context manager that leaves none of them behind.

    *forgiving* ones bear requests that fail with their server; those of `UNFORGIVING` cannot, and stay away.
    """

    def __init__(self, mounted: Mounted, truth: Path, *, forgiving: bool = False) -> None:
        self._forgiving = forgiving
        self._mounted = mounted
        self._truth = truth
        self._processes: dict[subprocess.Popen[str], Any] = {}

    def __enter__(self) -> Readers:
        for seed, (kind, alias) in enumerate(TROUPE):
            if self._forgiving and kind in UNFORGIVING:
                continue
            output = tempfile.TemporaryFile("w+")
            command = [
                sys.executable,
                "-S",
                str(PROGRAM),
                kind,
                str(self._mounted.point / alias),
                str(self._truth),
                str(seed),
            ]
            command += ["forgiving"] if self._forgiving else []
            self._processes[subprocess.Popen(command, stdout=output, stderr=output, text=True)] = output
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        for process, output in self._processes.items():
            process.kill()
            process.wait(END_S)
            output.close()

    def check(self) -> None:
        """Fail if one of them has ended."""
        for process, output in self._processes.items():
            if process.poll() is not None:
                raise AssertionError(
                    f"a reader ended with {process.returncode}: {_said(output)}\n{_times(self._mounted)}"
                )

    def go_on(self, duration_s: float) -> None:
        """Let them read for a while."""
        deadline = time.monotonic() + duration_s
        while (left_s := deadline - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left_s, 0.25))
        self.check()

    def end(self) -> list[dict[str, Any]]:
        """End them, and return what they report."""
        self.check()
        for process in self._processes:
            process.terminate()
        reports = []
        for process, output in self._processes.items():
            try:
                code = process.wait(END_S)
            except subprocess.TimeoutExpired:
                raise AssertionError(f"a reader waits for ever: {process.args!r}\n{_times(self._mounted)}") from None
            assert code == 0, f"a reader ended with {code}: {_said(output)}\n{_times(self._mounted)}"
            reports.append(json.loads(_said(output)))
        return reports


def _said(output: Any) -> str:
    output.seek(0)
    return str(output.read())


def _times(mounted: Mounted) -> str:
    """Return the end of the log, which says what happened when."""
    return f"it is {time.time():.3f}; the end of the log:\n" + "\n".join(mounted.said.splitlines()[-60:])


@dataclass(frozen=True)
class Stalls:
    """How long readers waited while *trouble* was made *rounds* times; times in seconds."""

    trouble: str
    rounds: int
    reports: list[dict[str, Any]]
    pauses_s: list[float]

    @property
    def all_s(self) -> list[float]:
        return sorted(took_s for report in self.reports for _, took_s in report["stalls"])

    @property
    def longest_s(self) -> float:
        return max((float(report["longest_s"]) for report in self.reports), default=0.0)

    def facts(self) -> Mapping[str, Any]:
        """Return all of it, as JSON has it."""
        stalls_s, pauses_s = self.all_s, sorted(self.pauses_s)
        return {
            "trouble": self.trouble,
            "rounds": self.rounds,
            "operations": sum(report["operations"] for report in self.reports),
            "bytes": sum(report["bytes"] for report in self.reports),
            "failed_in_flight": sum(report["forgiven"] for report in self.reports),
            "stalls": len(stalls_s),
            "longest_stall_s": self.longest_s,
            "stall_percentiles_s": _percentiles(stalls_s),
            "pause_percentiles_s": _percentiles(pauses_s),
            "longest_by_reader_s": {
                f"{report['kind']} {Path(report['shown']).name}": report["longest_s"] for report in self.reports
            },
        }

    def __str__(self) -> str:
        """Say it in one line."""
        facts = self.facts()
        said = f"{self.trouble}: {self.rounds} times, pauses up to {max(self.pauses_s, default=0.0):.2f} s"
        if not self.reports:
            return said
        half_s, most_s = (facts["stall_percentiles_s"].get(share, 0.0) for share in ("50", "95"))
        return (
            f"{said}; {facts['operations']} reads of {facts['bytes'] / 1e6:.0f} MB, the longest took "
            f"{self.longest_s:.2f} s; of {facts['stalls']} above 0.1 s, 50 % took {half_s:.2f} s, 95 % {most_s:.2f} s"
        )


def _percentiles(sorted_values: list[float]) -> dict[str, float]:
    """Return some percentiles of *sorted_values*, none of an empty list."""
    if not sorted_values:
        return {}
    last = len(sorted_values) - 1
    return {str(share): round(sorted_values[last * share // 100], 3) for share in (50, 90, 95, 99, 100)}
