"""What daemon and command line say to each other: where the control socket is, and the shape of the answers.

Each mount has one Unix socket in a directory that only its owner may enter; its name is a digest of the
mount point, for a socket's path has at most 107 bytes (unix(7)). Answers are tolerant readers' models:
unknown fields are ignored and new ones have defaults, so that a daemon and a command line of neighbouring
versions understand each other. No field ever holds a credential.

The keeper of a mount, which outlives its servers, listens on the control socket for them, and on a door of
its own beside it, where one line of JSON is asked and one is answered.
"""

from __future__ import annotations

import hashlib
import os
import socket as socketlib
import stat
import struct
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from aliasfs.errors import MountError
from aliasfs.mounts import canonical_point

SOCKET_SUFFIX = ".sock"
KEEPER_SUFFIX = ".keeper"
"""Of the keeper's door, in place of SOCKET_SUFFIX: whoever looks for control sockets does not find it."""

_SOCKET_PATH_MAX_BYTES = 107
"""sizeof(sun_path) less the NUL that ends it, unix(7)."""

_UCRED = struct.Struct("3i")
"""struct ucred of unix(7): pid, uid, gid; the kernel keeps that of whoever called listen(2)."""

_KNOCK_S = 2.0
"""A connection to a Unix socket waits only while 100 others wait already."""


def runtime_dir() -> Path:
    """Return the directory of this user's control sockets; it need not exist yet.

    Raises MountError where the fallback below /tmp exists and another user could have made it.
    """
    uid = os.geteuid()
    if uid == 0:
        return Path("/run/aliasfs")
    if given := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(given, "aliasfs")
    fallback = Path(f"/tmp/aliasfs-{uid}")
    if fallback.is_symlink() or fallback.exists():
        _check_private(fallback, uid)
    return fallback


def make_runtime_dir() -> Path:
    """Return `runtime_dir()`, made with mode 0700 where it was missing."""
    directory = runtime_dir()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise MountError(
            f"cannot make {directory} for the control socket: {exc.strerror}; "
            "set XDG_RUNTIME_DIR to a directory of your own"
        ) from exc
    return runtime_dir()


def socket_path(point: Path) -> Path:
    """Return where the daemon of the mount *point* listens; does not touch the mount."""
    digest = hashlib.sha256(os.fsencode(canonical_point(point))).hexdigest()[:16]
    path = runtime_dir() / f"{digest}{SOCKET_SUFFIX}"
    if len(os.fsencode(path)) > _SOCKET_PATH_MAX_BYTES:
        raise MountError(
            f"the path of the control socket, {path}, is longer than {_SOCKET_PATH_MAX_BYTES} bytes; "
            "set XDG_RUNTIME_DIR to a shorter one"
        )
    return path


def keeper_path(socket: Path) -> Path:
    """Return where the keeper of the mount with the control *socket* has its own door."""
    return socket.with_suffix(KEEPER_SUFFIX)


def listener_pid(socket: Path) -> int:
    """Return the pid of the process that listens on *socket*, also of one that hangs; 0 where none does.

    Of several that have called listen(2), as keeper and server do on the control socket, it is the last, even
    when it has died and another holds the socket. Raises TimeoutError where its queue of connections is full,
    OSError where the socket is not ours to ask.
    """
    with socketlib.socket(socketlib.AF_UNIX, socketlib.SOCK_STREAM) as visitor:
        visitor.settimeout(_KNOCK_S)
        try:
            visitor.connect(os.fspath(socket))
        except (FileNotFoundError, ConnectionRefusedError):
            return 0
        credentials = visitor.getsockopt(socketlib.SOL_SOCKET, socketlib.SO_PEERCRED, _UCRED.size)
    pid, _uid, _gid = _UCRED.unpack(credentials)
    return int(pid)


def _check_private(directory: Path, uid: int) -> None:
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or stat.S_IMODE(found.st_mode) & 0o077:
        raise MountError(
            f"{directory} is not a directory that only you may enter, so it could be somebody's trap; "
            "remove it, or set XDG_RUNTIME_DIR"
        )


class Answer(BaseModel):
    """Base of every message: immutable, unknown fields ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


Health = Literal["ok", "failing", "unused"]
CacheState = Literal["on", "off", "failed"]


class AliasStatus(Answer):
    """One alias of a running mount, with what its store has done since the start.

    *engine* is the one in use: local, obstore, fsspec or memory. *mean_ms* is the mean time of a request
    in ms, *bytes_read* counts what came from the store. *health* is `failing` while the latest request
    failed, and *last_error* says how.
    """

    name: str
    url: str
    mode: str = "ro"
    engine: str = ""
    tier: str = ""
    ttl_s: float = 0.0
    health: Health = "unused"
    requests: int = 0
    errors: int = 0
    bytes_read: int = 0
    mean_ms: float = 0.0
    last_error: str = ""


class CacheStatus(Answer):
    """The disk cache. *state* is `off` where none is configured, `failed` where reads go on without it."""

    dir: str = ""
    state: CacheState = "off"
    reason: str = ""
    used_bytes: int = 0
    budget_bytes: int = 0
    min_free_bytes: int = 0
    free_bytes: int = 0
    objects: int = 0
    hits: int = 0
    misses: int = 0
    bytes_fetched: int = 0
    bytes_from_disk: int = 0
    bad_blocks: int = 0
    evicted_bytes: int = 0


class Rates(Answer):
    """What the kernel asked for per second, over the last *window_s* seconds."""

    window_s: float = 10.0
    requests_per_s: float = 0.0
    bytes_per_s: float = 0.0


class KernelStatus(Answer):
    """The kernel's requests since the start, per operation; *errors* counts replies per errno name.

    *restored_inodes* were taken over from the server before this one, *node_table_bytes* is the size of the file
    that the next one takes over.
    """

    requests: dict[str, int] = Field(default_factory=dict)
    errors: dict[str, int] = Field(default_factory=dict)
    open_inodes: int = 0
    restored_inodes: int = 0
    node_table_bytes: int = 0
    rates: Rates = Rates()


class KeeperStatus(Answer):
    """What the keeper of a mount says of itself and of its servers; *said* is that in words.

    *state* is `starting`, `serving`, `replacing`, `failing` (no server stays up: readers get EIO) or
    `stopping`, and where nobody at its door says so, `silent` (it is there and does not answer) or `gone`.
    *generation* numbers the servers of this mount, from 0; *deaths* counts those that died, *hangs* those
    among them that were ended because they hung.
    *last_death_at* is in seconds since the epoch, 0 where none died; *pause_s* is how long readers waited
    for the present server. *resend* says whether the kernel repeats what a dead server had not answered
    (Linux 6.9). *device* is the mount's, `major:minor`.
    """

    pid: int
    state: str = ""
    server_pid: int = 0
    version: str = ""
    said: str = ""
    generation: int = 0
    deaths: int = 0
    hangs: int = 0
    last_death: str = ""
    last_death_at: float = 0.0
    resend: bool = True
    device: str = ""
    pause_s: float = 0.0
    systemd: bool = False


class RestartReport(Answer):
    """What became of a planned restart, or of `unhang`: the new server, or why the old one serves on."""

    ok: bool = False
    pid: int = 0
    version: str = ""
    pause_s: float = 0.0
    error: str = ""
    exit: int = 0


class DaemonStatus(Answer):
    """All facts of one mount. *started_at* is in seconds since the epoch, *generation* counts earlier servers.

    *keeper* is added by who asks, at the keeper's door; None for a daemon from before there were keepers.
    *answers* is False where the server did not, and all that is known is what the keeper says.
    """

    point: str
    pid: int
    version: str
    started_at: float
    uptime_s: float
    foreground: bool = False
    generation: int = 0
    config_files: list[str] = Field(default_factory=list)
    aliases: list[AliasStatus] = Field(default_factory=list)
    cache: CacheStatus = CacheStatus()
    kernel: KernelStatus = KernelStatus()
    keeper: KeeperStatus | None = None
    answers: bool = True


class HealthAnswer(Answer):
    """The answer to "are you there"; costs the daemon nothing."""

    ok: bool = True
    pid: int


class ReloadReport(Answer):
    """What a reload changed, one sentence each; empty where nothing did."""

    changes: list[str] = Field(default_factory=list)


class StopReport(Answer):
    """The daemon has heard and is about to unmount."""

    stopping: bool = True
    pid: int


class EvictRequest(Answer):
    """Evict least recently used blocks until at most *to_bytes* are left; 0 empties the cache."""

    to_bytes: int = Field(default=0, ge=0)


class EvictReport(Answer):
    """What an eviction gave back, and what is left."""

    evicted_bytes: int = 0
    evicted_objects: int = 0
    used_bytes: int = 0


class VerifyProgress(Answer):
    """How far a verification is, in bytes of cached data."""

    done_bytes: int = 0
    total_bytes: int = 0
    bad_blocks: int = 0


class VerifyReport(Answer):
    """What a verification found; bad blocks have been dropped, so that the next read fetches them anew."""

    objects: int = 0
    blocks: int = 0
    bytes: int = 0
    bad_blocks: int = 0


class Failure(Answer):
    """An error as an answer: *error* is one sentence for the user, *kind* its class in `aliasfs.errors`."""

    error: str
    kind: str = "AliasfsError"


class Readiness(Answer):
    """The one line a starting daemon writes to `--ready-fd`: it serves, or why not and its exit code."""

    ready: bool = False
    pid: int = 0
    error: str = ""
    exit: int = 0
