"""`./run bench`: mount every system on the same rig in the same run, measure, write the tables.

The rig runs in a process of its own; repetitions go round all systems, so that whatever else the machine
does falls on all of them. Everything lies below one scratch directory and is removed at the end.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from benchmarks import report, steps, systems
from benchmarks.bucket import Layout
from benchmarks.mounts import BenchError, Mount, drop_page_cache, emptied, touch_memory

_ROOT = Path(__file__).resolve().parent.parent
_DOCUMENT = _ROOT / "docs" / "BENCHMARKS.md"
_QUICK = Layout(big_bytes=128 << 20, first_byte_objects=2, small_count=400, listed_count=3_000)
_LIMIT = "limit"
_ONCE_S = 120.0  # what takes longer in the first round is not repeated
_SYSTEMS = (_LIMIT, *systems.RECIPES)


class Run:
    """One run over one rig: the samples taken so far and where the systems live."""

    def __init__(self, scratch: Path, port: int, layout: Layout) -> None:
        self.samples: list[steps.Sample] = []
        self._scratch = scratch
        self._port = port
        self._layout = layout
        self._rig = steps.RigControl(port)
        self._slow: set[tuple[str, str]] = set()

    def measure(self, group: str, system: str) -> None:
        """Run one group of steps on one system, unless an earlier round was very slow.

        What fails becomes a sample that says so.
        """
        if (group, system) in self._slow:
            return
        begin = time.monotonic()
        try:
            if system == _LIMIT:
                self._measure_limit(group)
            else:
                self._measure_mount(group, system)
        except BenchError as problem:
            print(f"  {system}: {problem}", file=sys.stderr, flush=True)
            if not any(sample.problem for sample in self.samples if sample.system == system):
                self.samples.append(steps.Sample(group, system, 0.0, 0, problem=str(problem)))
        if time.monotonic() - begin > _ONCE_S:
            self._slow.add((group, system))

    def _measure_mount(self, group: str, system: str) -> None:
        home = emptied(self._scratch / system)
        site = systems.Site(self._port, emptied(home / "mnt"), emptied(home / "cache"), home)
        drop_page_cache()
        with Mount(systems.RECIPES[system](site), site.point, home / "log") as mount:
            session = steps.Session(system, mount, self._rig, self._layout)
            try:
                steps.GROUPS[group](session)
            finally:
                self.samples += session.samples
        shutil.rmtree(home)

    def _measure_limit(self, group: str) -> None:
        for step, command, expected in steps.limit_commands(self._layout, self._port, self._scratch / "ext4")[group]:
            if step == "sequential from disk cache":
                drop_page_cache()
            touch_memory(steps.TOUCHED_COPIES * expected)
            self._rig.reset()
            result = json.loads(_output(command))
            problem = "" if result["bytes"] == expected else f"wrong: got {result['bytes']} of {expected}"
            self.samples.append(steps.Sample(step, _LIMIT, result["seconds"], int(result["bytes"]), problem=problem))

    def copy_to_disk(self) -> None:
        """Put the same data on the disk's own file system, for the limits of the warm steps."""
        copy = emptied(self._scratch / "ext4")
        subprocess.run(
            [sys.executable, "-m", "benchmarks.limits", str(self._port), "copy", str(copy)],
            check=True,
            timeout=600,
            stdout=subprocess.DEVNULL,
        )


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=steps.STEP_LIMIT_S, check=True)
    except subprocess.TimeoutExpired:
        raise BenchError(f"no end after {steps.STEP_LIMIT_S:.0f} s") from None
    except subprocess.CalledProcessError as problem:
        raise BenchError(f"failed with {problem.returncode}: {problem.stderr[-300:]}") from None
    return done.stdout


@contextmanager
def _rig(layout: Layout) -> Iterator[int]:
    """Run a rig in a process of its own; yields its port."""
    flags = [part for name, value in asdict(layout).items() for part in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "benchmarks.rig", *flags]
    rig = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if rig.stdin is None or rig.stdout is None:
        raise AssertionError("pipes were asked for")
    try:
        yield json.loads(rig.stdout.readline())["port"]
    finally:
        rig.stdin.close()
        rig.wait(timeout=30)


def _facts(options: argparse.Namespace, layout: Layout) -> list[str]:
    """Return what a reader must know to judge the numbers."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    versions = [systems.version(name) for name in options.systems if name != _LIMIT]
    rounds = 1 if options.quick else options.repetitions
    return [
        f"Date: {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        f"Machine: Linux {platform.release()} {platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB memory; "
        f"load average of the last 15 minutes {os.getloadavg()[2]:.1f}",
        f"Command: `{shlex.join(['./run', 'bench', *sys.argv[1:]])}`",
        f"Versions: {'; '.join(versions) or 'none'}; Python {platform.python_version()}",
        f"Data: one object of {layout.big_bytes >> 20} MiB, {layout.small_count:,} of {layout.small_bytes:,} bytes, "
        f"a directory of {layout.listed_count:,} keys; "
        f"{steps.random_reads(layout)} random reads; medians of {rounds} round{'s' if rounds > 1 else ''}, "
        f"but one of what takes a system more than {_ONCE_S:.0f} s",
    ]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./run bench",
        description="Speed and memory beside rclone mount and s3fs-fuse, on an S3 endpoint as slow as a network.",
        epilog="example: ./run bench --quick --systems rclone aliasfs --steps sequential small",
    )
    parser.add_argument("--systems", nargs="+", choices=_SYSTEMS, default=list(_SYSTEMS), help="which to measure")
    parser.add_argument("--steps", nargs="+", choices=steps.GROUPS, default=list(steps.GROUPS), help="what to measure")
    parser.add_argument("--repetitions", type=int, default=3, help="rounds over everything (default 3)")
    parser.add_argument("--quick", action="store_true", help="one round on little data, to see that all works")
    parser.add_argument(
        "--scratch",
        type=Path,
        default=Path("/var/tmp/aliasfs-bench"),
        help="for mount points and caches; removed after",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample to FILE")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/BENCHMARKS.md")
    return parser.parse_args()


def main() -> None:
    """Measure what was asked for; exit 1 when anything failed."""
    options = _parse()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that mounts and processes go too
    layout = _QUICK if options.quick else Layout()
    with _rig(layout) as port:
        run = Run(options.scratch, port, layout)
        try:
            if _LIMIT in options.systems:
                run.copy_to_disk()
            for number in range(1 if options.quick else options.repetitions):
                for group in options.steps:
                    for system in options.systems:
                        print(f"round {number + 1}: {group} on {system}", file=sys.stderr, flush=True)
                        run.measure(group, system)
        finally:
            shutil.rmtree(options.scratch, ignore_errors=True)
    results = report.Results(run.samples, options.systems)
    section = report.render(results, _facts(options, layout))
    print(section)
    if options.json:
        options.json.write_text(json.dumps([sample.as_json() for sample in run.samples], indent=1) + "\n")
    if options.write_docs:
        _DOCUMENT.write_text(report.splice(_DOCUMENT.read_text(), section))
    sys.exit(1 if results.problems() else 0)


if __name__ == "__main__":
    main()
