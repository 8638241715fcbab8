"""`aliasfs doctor`: looks at everything a mount needs, and says what mends what is wrong.

Each check returns findings and raises nothing; none waits longer than a few seconds, and none touches a
mount that could hang.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from aliasfs.cli.options import ConfigOption, JsonOption, examples
from aliasfs.errors import AliasfsError, ConfigError, DaemonUnreachable, MountError, exit_code

if TYPE_CHECKING:
    from aliasfs.config import Config
    from aliasfs.mounts import Mount
    from aliasfs.wire import KeeperStatus

_COST_OF_A_CRASH = (
    "cannot resend requests (6.9 can): a crash of the server costs those in flight (EIO); planned restarts lose nothing"
)

PROBE_WITHIN_S = 10.0
_IMPORT_WITHIN_S = 30.0

SYSTEMD = Path("/run/systemd/system")
"""There where systemd is the init of this machine, sd_booted(3)."""

UNIT = "aliasfs-mountd.service"
UNIT_DIRECTORIES = (
    Path("/etc/systemd"),
    Path("/run/systemd"),
    Path("/usr/local/lib/systemd"),
    Path("/usr/lib/systemd"),
)

MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs"})
NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "lustre", "beegfs", "afs"})

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check; *said* ends with the command that mends it, *exit* is 0 unless it failed."""

    check: str
    level: Level
    said: str
    exit: int = 0


def register(app: typer.Typer) -> None:
    """Add `doctor` to *app*."""
    app.command(
        epilog=examples(
            "aliasfs doctor", "aliasfs doctor --config project.yaml --json", "aliasfs doctor --unhang /mnt/aliases"
        )
    )(doctor)


def doctor(
    point: Annotated[
        Path | None,
        typer.Argument(
            parser=Path, metavar="POINT", show_default=False, help="For --unhang; your only mount when left out."
        ),
    ] = None,
    unhang: Annotated[
        bool, typer.Option("--unhang", help="Make a mount that hangs answer again, by a new server or a new mount.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check what a mount needs on this machine, every alias, and every mount that is there."""
    from aliasfs.cli import output

    if unhang:
        _unhang(point, config)
        return
    if point is not None:
        raise typer.BadParameter(f"POINT goes with --unhang only; 'aliasfs status {point}' shows one mount")

    found = list(examine(config))
    if as_json:
        output.print_json([asdict(finding) for finding in found])
    else:
        output.print_table(("", "CHECK", "FOUND"), [(f.level, f.check, f.said) for f in found])
    raise typer.Exit(max(finding.exit for finding in found))


def _unhang(point: Path | None, config_file: Path | None) -> None:
    from aliasfs.cli import output
    from aliasfs.cli.points import only_mount
    from aliasfs.cli.unhang import unhang
    from aliasfs.keeperdoor import REPLACED_WITHIN_S
    from aliasfs.mounts import canonical_point

    where = canonical_point(point or only_mount(config_file))
    with output.progress(f"making {where} answer") as report:
        unhang(where, typer.echo, lambda waited_s: report(int(waited_s), int(REPLACED_WITHIN_S)))
    typer.echo(f"{where} answers")


def examine(config_file: Path | None) -> Iterator[Finding]:
    """Yield the outcome of every check, most basic first."""
    from aliasfs import config as configuration
    from aliasfs.cli import preflight

    yield _tried("fuse device", preflight.check_fuse_device, f"{preflight.FUSE_DEVICE} can be opened")
    yield _tried("fusermount3", preflight.check_fusermount, _fusermount_version)
    yield _python()
    yield _kernel(platform.release())
    try:
        settings = configuration.load(config_file)
    except ConfigError as exc:
        yield from (Finding("config", "fail", line, exit_code(exc)) for line in str(exc).splitlines())
    else:
        files = [str(path) for path in settings.files if path.exists()]
        yield Finding("config", "ok", f"{len(settings.registry)} aliases; files: {', '.join(files) or 'none yet'}")
        if settings.mount.allow_other:
            yield _tried("allow_other", preflight.check_allow_other, "other users may be let in")
        yield _cache(settings)
        yield from _aliases(settings)
    yield from _mounts()
    yield _read_ahead()
    yield _units()


def _tried(check: str, look: Callable[[], None], good: str | Callable[[], str]) -> Finding:
    try:
        look()
    except MountError as exc:
        return Finding(check, "fail", str(exc), exit_code(exc))
    return Finding(check, "ok", good if isinstance(good, str) else good())


def _fusermount_version() -> str:
    asked = subprocess.run(["fusermount3", "--version"], capture_output=True, text=True, check=False, timeout=5)
    return asked.stdout.strip() or "present"


def _python() -> Finding:
    """Load pyfuse3, and with it libfuse, in a process of its own: only the daemon may have it in its own."""
    asked = subprocess.run(
        [sys.executable, "-P", "-c", "import pyfuse3"],
        capture_output=True,
        text=True,
        check=False,
        timeout=_IMPORT_WITHIN_S,
    )
    if asked.returncode != 0:
        reason = (asked.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        return Finding("python", "fail", f"pyfuse3 does not load ({reason}): run 'sudo apt install libfuse3-3'", 69)
    version = importlib.metadata.version("pyfuse3")
    return Finding("python", "ok", f"Python {platform.python_version()}, pyfuse3 {version}, Linux {platform.release()}")


def _kernel(release: str) -> Finding:
    """Say what a crash of a server costs on the Linux *release*; 6.9 has FUSE_NOTIFY_RESEND."""
    version = tuple(map(int, re.findall(r"\d+", release)[:2]))
    if version >= (6, 9):
        return Finding("kernel", "ok", f"Linux {release}: a crash of a server costs readers a moment, and no request")
    return Finding("kernel", "warn", f"Linux {release} {_COST_OF_A_CRASH}")


def _cache(settings: Config) -> Finding:
    from aliasfs.cli.output import human_bytes

    cache = settings.cache
    if not cache.enabled:
        return Finding("cache", "warn", "switched off (cache.enabled): every read goes to the store")
    there = next(path for path in (cache.dir, *cache.dir.parents) if path.exists())
    quoted = shlex.quote(str(cache.dir))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding(
            "cache",
            "fail",
            f"{there} cannot be written: run 'sudo install -d -o \"$USER\" {quoted}' or set cache.dir",
            69,
        )
    disk = shutil.disk_usage(there)
    kind = _file_system(there)
    facts = f"{cache.dir} on {kind}, {human_bytes(disk.free)} free, budget {human_bytes(cache.size)}"
    if kind in MEMORY_FILE_SYSTEMS:
        return Finding("cache", "warn", f"{facts}: cached bytes take memory and are lost at a restart; set cache.dir")
    if kind in NETWORK_FILE_SYSTEMS or kind.startswith("fuse"):
        return Finding("cache", "warn", f"{facts}: not a local disk, so slow, and not safely locked; set cache.dir")
    if disk.total < cache.size + cache.min_free_bytes(disk.total):
        return Finding("cache", "warn", f"{facts}: the disk is smaller than the budget; set cache.size lower")
    return Finding("cache", "ok", facts)


def _file_system(path: Path) -> str:
    """Return the type of the file system that holds *path*."""
    from aliasfs.mounts import mount_table

    real = path.resolve()
    holding = [mount for mount in mount_table() if mount.point == real or mount.point in real.parents]
    return max(holding, key=lambda mount: len(mount.point.parts)).fs_type if holding else "an unknown file system"


def _aliases(settings: Config) -> list[Finding]:
    from functools import partial

    import trio

    from aliasfs.cli import output
    from aliasfs.probe import probe_all
    from aliasfs.store import open_store

    aliases = list(settings.registry.values())
    with output.progress("asking the stores") as report:
        results = trio.run(partial(probe_all, aliases, open_store, deadline_s=PROBE_WITHIN_S, report=report))
    return [
        Finding(
            f"alias {one.name}", "fail", f"{one.error} ('aliasfs alias show {one.name}' has its settings)", one.exit
        )
        if one.exit
        else Finding(
            f"alias {one.name}", "ok", f"readable in {one.round_trip_ms or 0:.0f} ms, credentials: {one.credentials}"
        )
        for one in results
    ]


def _mounts() -> list[Finding]:
    from aliasfs.mounts import mount_table

    found = [finding for mount in mount_table() if mount.is_ours for finding in _mount(mount)]
    return found or [Finding("mounts", "ok", "none is there")]


def _mount(mount: Mount) -> Iterator[Finding]:
    from aliasfs.keeperdoor import keeper_of, why_no_keeper

    keeper = keeper_of(mount.point) if mount.owner == os.geteuid() else None
    root = _root(mount, keeper)
    yield root
    if keeper is not None:
        yield _keeper(mount.point, keeper)
    elif root.level == "ok":
        yield Finding(f"keeper {mount.point}", "warn", why_no_keeper(mount.point))


def _root(mount: Mount, keeper: KeeperStatus | None) -> Finding:
    from aliasfs.cli.preflight import Pulse, pulse

    check, quoted = f"mount {mount.point}", shlex.quote(str(mount.point))
    if keeper is not None and keeper.state == "failing":
        return Finding(check, "fail", f"answers everything with an error; {keeper.said}", 69)
    match pulse(mount):
        case Pulse.DEAD if keeper is None:
            return Finding(check, "fail", f"dead: its daemon is gone; run 'aliasfs umount --force {quoted}'", 69)
        case Pulse.DEAD | Pulse.HANGING:
            mend = "aliasfs doctor --unhang" if keeper is not None else "aliasfs umount --force"
            return Finding(check, "fail", f"does not answer; run '{mend} {quoted}'", 69)
    return _daemon(mount, check)


def _keeper(point: Path, keeper: KeeperStatus) -> Finding:
    from aliasfs.cli.status import keeper_line, without_keeper

    check, said = f"keeper {point}", keeper_line(keeper)
    match keeper.state:
        case "gone":
            return Finding(check, "warn", without_keeper(str(point)))
        case "silent" | "failing":
            return Finding(check, "fail", said, 69)
        case "serving" if not keeper.resend:
            return Finding(check, "warn", f"{said}; Linux {platform.release()} {_COST_OF_A_CRASH}")
        case "serving":
            return Finding(check, "ok", said)
        case _:
            return Finding(check, "warn", said)


def _daemon(mount: Mount, check: str) -> Finding:
    from aliasfs.client import DaemonClient

    try:
        with DaemonClient(mount.point) as daemon:
            status = daemon.status()
    except DaemonUnreachable as exc:
        return Finding(check, "warn", str(exc))
    except AliasfsError as exc:
        return Finding(check, "fail", str(exc), exit_code(exc))
    failing = [alias.name for alias in status.aliases if alias.health == "failing"]
    if failing or status.cache.state == "failed":
        what = ", ".join([*failing, *(["its cache"] if status.cache.state == "failed" else [])])
        return Finding(check, "warn", f"pid {status.pid} answers, with trouble in {what}; run 'aliasfs status'")
    return Finding(check, "ok", f"pid {status.pid} answers")


def _read_ahead() -> Finding:
    if os.geteuid() == 0 and os.access("/sys/class/bdi", os.W_OK):
        return Finding("read-ahead", "ok", "the kernel can be asked for reads of 1 MiB")
    return Finding(
        "read-ahead",
        "warn",
        "reads come in pieces of 128 KiB, for only root may ask for more: run 'sudo aliasfs mount'",
    )


def _units() -> Finding:
    if not SYSTEMD.is_dir():
        return Finding("systemd", "ok", "does not run here; 'aliasfs mount' needs none")
    home = Path.home() / ".config" / "systemd"
    found = [
        str(unit)
        for directory in (*UNIT_DIRECTORIES, home)
        for kind in ("system", "user")
        if (unit := directory / kind / UNIT).exists()
    ]
    said = ", ".join(found) or f"no unit is installed: copy systemd/{UNIT} to /etc/systemd/system to mount at boot"
    return Finding("systemd", "ok", said)
