"""Mounts the sample data and unmounts it; blocking, for a terminal.

State, all below one directory: `samples/` (the data), `config.yaml` (written once, then the user's to
edit; only the address of the S3 server in it is kept up to date), `cache/`, `demo.json` (which mount
point and address the latest demo has), `s3.log`. One demo per state directory at a time.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, cast

from aliasfs.client import DaemonClient
from aliasfs.demo.samples import write_samples
from aliasfs.demo.server import BUCKET
from aliasfs.errors import DaemonUnreachable, MountError
from aliasfs.mounts import canonical_point, mount_at

PREFERRED_PORT = 18333
"""Of the S3 server; the same at each start where it is free, because the cache knows an object by its address."""

CONFIG = """\
# The sample data of './run mount'. Yours to edit: a mounted tree takes every change up at once.
aliases:
  SAMPLES: {samples}
  SAMPLES_S3:
    url: s3://{bucket}
    options: {{endpoint_url: "{endpoint}", anon: true}}
cache: {{dir: {cache}, size: 1GB}}
mount: {{point: {point}}}
"""

_ENDPOINT = re.compile(r'(?<=endpoint_url: ")http://127\.0\.0\.1:\d+(?=")')

TOUR = """\
The sample data is mounted on {point}{already}:
  SAMPLES     from {samples}
  SAMPLES_S3  the same through S3, {endpoint} (a server of its own, which ends with the mount)

Try:
  ls -l {point}/SAMPLES_S3
  md5sum {point}/SAMPLES*/sound/sweep.wav
  cp -r {point}/SAMPLES_S3/images /tmp/
  python3 -c "import csv; print(len(list(csv.DictReader(open('{point}/SAMPLES_S3/labels.csv')))))"

  export ALIASFS_CONFIG={config} PATH={commands}:$PATH
  aliasfs status
  aliasfs alias add MINE /usr/share && ls {point}/MINE

Undo it with: ./run umount
"""


@dataclass(frozen=True, slots=True)
class Demo:
    """What the latest demo of a state directory has: its mount point, and its S3 server's address."""

    point: str
    endpoint: str


def default_state() -> Path:
    """Return the state directory of this user (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "aliasfs-demo"


def default_point() -> Path:
    """Return where the sample data is mounted when nothing else is said."""
    return Path("/mnt/aliases") if os.geteuid() == 0 else Path.home() / "aliases"


def mount_demo(wanted: Path | None, state: Path) -> None:
    """Mount the sample data on *wanted* and say what to try; when it is mounted there already, only say so.

    Raises MountError when a demo of this state directory is mounted elsewhere, or the mount fails.
    """
    state.mkdir(parents=True, exist_ok=True)
    latest = _latest(state)
    if latest and mount_at(Path(latest.point)):
        _check_running(latest, wanted)
        _say(latest, state, already=" already")
        return
    point = canonical_point(wanted or default_point())
    _make_point(point)
    write_samples(state / "samples")
    with _s3_server(point, state, latest) as endpoint:
        demo = Demo(str(point), endpoint)
        write_config(demo, state)
        (state / "demo.json").write_text(json.dumps(asdict(demo)))
        _aliasfs("mount", demo.point, "--config", str(state / "config.yaml"))
    _say(demo, state)


def umount_demo(wanted: Path | None, state: Path) -> None:
    """Unmount *wanted*, or else what `mount_demo` mounted; the S3 server ends by itself."""
    latest = _latest(state)
    point = wanted or (Path(latest.point) if latest else default_point())
    _aliasfs("umount", str(point))


def _latest(state: Path) -> Demo | None:
    try:
        return Demo(**json.loads((state / "demo.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _check_running(demo: Demo, wanted: Path | None) -> None:
    """Raise MountError unless the mounted *demo* is where it is *wanted* and answers."""
    if wanted and canonical_point(wanted) != Path(demo.point):
        raise MountError(
            f"the sample data is mounted on {demo.point} already; './run umount' first to have it elsewhere"
        )
    try:
        with DaemonClient(Path(demo.point)) as daemon:
            daemon.health()
    except DaemonUnreachable as exc:
        raise MountError(f"{demo.point} is mounted, but its daemon is gone; './run umount', then mount again") from exc


@contextmanager
def _s3_server(point: Path, state: Path, latest: Demo | None) -> Iterator[str]:
    """Start the S3 server and yield its address; afterwards it stays for as long as *point* is mounted."""
    port = int(latest.endpoint.rpartition(":")[2]) if latest else PREFERRED_PORT
    command = [sys.executable, "-P", "-m", "aliasfs.demo", "serve", str(state / "samples"), str(point), str(port)]
    with (state / "s3.log").open("w") as log:
        server = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # Ctrl-C in this terminal is not meant for it
        )
    with cast(IO[str], server.stdin), cast(IO[str], server.stdout) as says:
        endpoint = says.readline().strip()
        if not endpoint:
            raise MountError(f"the S3 server of the sample data did not start; see {log.name}")
        yield endpoint


def write_config(demo: Demo, state: Path) -> None:
    """Write `config.yaml` where there is none; otherwise replace no more than the address of the S3 server."""
    path = state / "config.yaml"
    if path.exists():
        text = _ENDPOINT.sub(demo.endpoint, path.read_text())
    else:
        quoted = {name: json.dumps(str(state / name)) for name in ("samples", "cache")}
        text = CONFIG.format(bucket=BUCKET, endpoint=demo.endpoint, point=json.dumps(demo.point), **quoted)
    partial = path.with_name("config.yaml.partial")
    partial.write_text(text)
    partial.replace(path)


def _make_point(point: Path) -> None:
    try:
        point.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise MountError(f"cannot make {point}: {exc.strerror}; name another: ./run mount POINT") from exc


def _aliasfs(*arguments: str) -> None:
    """Run the command `aliasfs` of this installation; it says itself what is wrong, and its exit code becomes ours."""
    done = subprocess.run([_commands() / "aliasfs", *arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def _commands() -> Path:
    return Path(sys.executable).parent


def _say(demo: Demo, state: Path, already: str = "") -> None:
    facts = {"samples": state / "samples", "config": state / "config.yaml", "commands": _commands()}
    sys.stdout.write(TOUR.format(point=demo.point, already=already, endpoint=demo.endpoint, **facts))
