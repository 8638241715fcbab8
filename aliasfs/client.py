"""Speaks to running daemons over their control sockets; blocking, for the command line.

Every call is bounded in time. A daemon that is gone, belongs to somebody else or hangs is
DaemonUnreachable with one sentence that says which; an error the daemon answers with is raised here as
the class it had there. While a server is being replaced, questions wait in the queue of the control socket,
which is the keeper's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from aliasfs import errors, wire
from aliasfs.errors import AliasfsError, DaemonUnreachable
from aliasfs.keeperdoor import keeper_of, why_unreachable
from aliasfs.mounts import canonical_point, mount_table

_CONNECT_S = 2.0
_ANSWER_S = 5.0
"""Facts come from memory: a daemon that needs longer than this hangs."""
_WITHOUT_SERVER_S = 0.5
"""As long as one that the keeper is about to replace may take."""
_WORK_S = 120.0
"""A reload may open stores, an eviction may unlink a full disk of files."""

AnswerT = TypeVar("AnswerT", bound=BaseModel)


class DaemonClient:
    """The control API of the daemon that serves *point*; use as a context manager."""

    def __init__(self, point: Path, *, socket: Path | None = None, answer_s: float | None = None) -> None:
        """*socket* says where to ask when only the socket is known; *point* then only names it in messages.

        *answer_s* is how long facts may take, 5 s unless it says otherwise.
        """
        self.point = point if socket else canonical_point(point)
        self._socket = socket or wire.socket_path(point)
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self._socket)),
            base_url="http://aliasfs",
            timeout=httpx.Timeout(answer_s or _ANSWER_S, connect=_CONNECT_S),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def health(self) -> wire.HealthAnswer:
        """Return at once where the daemon lives and answers."""
        return self._ask("GET", "/v1/health", wire.HealthAnswer)

    def status(self) -> wire.DaemonStatus:
        """Return all facts of the mount."""
        return self._ask("GET", "/v1/status", wire.DaemonStatus)

    def reload(self) -> list[str]:
        """Have the configuration read anew; return what changed, one sentence each. Raises ConfigError."""
        return self._ask("POST", "/v1/reload", wire.ReloadReport, timeout_s=_WORK_S).changes

    def stop(self) -> wire.StopReport:
        """Ask the daemon to unmount and end; returns before it has."""
        return self._ask("POST", "/v1/stop", wire.StopReport)

    def cache_status(self) -> wire.CacheStatus:
        """Return the facts of the disk cache."""
        return self._ask("GET", "/v1/cache", wire.CacheStatus)

    def cache_evict(self, to_bytes: int) -> wire.EvictReport:
        """Have the cache shrunk to at most *to_bytes* bytes, least recently used first."""
        asked = wire.EvictRequest(to_bytes=to_bytes).model_dump()
        return self._ask("POST", "/v1/cache/evict", wire.EvictReport, body=asked, timeout_s=_WORK_S)

    def cache_verify(self, report: Callable[[wire.VerifyProgress], None]) -> wire.VerifyReport:
        """Have every cached block checked, calling *report* as it goes; stops when this process does."""
        with self._reaching(), self._http.stream("POST", "/v1/cache/verify", timeout=_WORK_S) as answer:
            for line in answer.iter_lines():
                content = json.loads(line)
                if "progress" in content:
                    report(wire.VerifyProgress.model_validate(content["progress"]))
                elif "error" in content:
                    raise _as_raised(content)
                else:
                    return wire.VerifyReport.model_validate(content)
        raise DaemonUnreachable(f"the daemon of {self.point} ended in the middle of its answer; see its log")

    def _ask(
        self,
        method: str,
        path: str,
        shape: type[AnswerT],
        *,
        body: dict[str, int] | None = None,
        timeout_s: float | None = None,
    ) -> AnswerT:
        with self._reaching():
            patience = httpx.USE_CLIENT_DEFAULT if timeout_s is None else timeout_s
            answer = self._http.request(method, path, json=body, timeout=patience)
            if answer.is_success:
                return shape.model_validate_json(answer.content)
            content = answer.json()
        raise _as_raised(content)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            # Asked before each request: httpcore 1.0 leaks the descriptor of a refused connection.
            if not wire.listener_pid(self._socket):
                raise DaemonUnreachable(why_unreachable(self.point))
            yield
        except (httpx.TimeoutException, TimeoutError) as exc:
            raise DaemonUnreachable(_why_silent(self.point, self._socket)) from exc
        except (httpx.TransportError, OSError) as exc:
            raise DaemonUnreachable(_why_broken_off(self.point, self._socket)) from exc
        except (ValidationError, ValueError) as exc:
            raise DaemonUnreachable(
                f"the daemon of {self.point} answers in a way this version does not understand; "
                "unmount and mount again to run the same version on both sides"
            ) from exc


def mount_status(point: Path, *, socket: Path | None = None) -> wire.DaemonStatus:
    """Return all facts of the mount with those of its keeper, or the keeper's alone where no server answers.

    *socket* is as for DaemonClient. Takes 10 s at most, and hardly any time while the keeper knows that there is
    no server. Raises DaemonUnreachable where neither answers.
    """
    keeper = keeper_of(point, socket=socket)
    if keeper is None or keeper.state in ("silent", "gone"):
        return _server_status(point, socket, _ANSWER_S, keeper)
    # While it is failing, every question would stay in the queue of the control socket, which nobody empties.
    if keeper.state != "failing":
        patience_s = _ANSWER_S if keeper.state == "serving" else _WITHOUT_SERVER_S
        with suppress(DaemonUnreachable):
            return _server_status(point, socket, patience_s, keeper)
    return wire.DaemonStatus(
        point=str(point if socket else canonical_point(point)),
        pid=keeper.server_pid,
        version=keeper.version,
        started_at=0.0,
        uptime_s=0.0,
        keeper=keeper,
        answers=False,
    )


def running_daemons(complain: Callable[[str], None] = lambda sentence: None) -> list[wire.DaemonStatus]:
    """Return the status of every mount of this user whose server or keeper answers, ordered by mount point.

    *complain* is told of each that lives and does not answer as it should; the others are not held up by it.
    """
    found = []
    for socket in _sockets():
        try:
            if pid := _listener(socket):  # 0: of a dead daemon; the next one on that point replaces it
                found.append(mount_status(_point_of(socket) or Path(f"pid {pid}"), socket=socket))
        except (AliasfsError, OSError) as exc:
            complain(f"{socket}: {exc}")
    return sorted(found, key=lambda status: status.point)


def reload_daemons(files: Sequence[Path]) -> list[str]:
    """Tell every running daemon that reads one of *files* to read it anew; return their mount points.

    All are told before the first refusal is raised, with the mount point in its sentence.
    """
    changed = {file.resolve() for file in files}
    told, refusals = [], []
    for status in running_daemons():
        if changed.isdisjoint(Path(file).resolve() for file in status.config_files):
            continue
        try:
            with DaemonClient(Path(status.point)) as daemon:
                daemon.reload()
            told.append(status.point)
        except AliasfsError as exc:
            refusals.append(type(exc)(f"the mount {status.point} did not take the change up: {exc}"))
    if refusals:
        raise refusals[0]
    return told


def _sockets() -> list[Path]:
    directory = wire.runtime_dir()
    return sorted(directory.glob(f"*{wire.SOCKET_SUFFIX}")) if directory.is_dir() else []


def _server_status(
    point: Path, socket: Path | None, patience_s: float, keeper: wire.KeeperStatus | None
) -> wire.DaemonStatus:
    with DaemonClient(point, socket=socket, answer_s=patience_s) as daemon:
        return daemon.status().model_copy(update={"keeper": keeper})


def _listener(socket: Path) -> int:
    """Return the pid of the keeper beside the control *socket*, else of who listens on that; 0 where nobody does."""
    return wire.listener_pid(wire.keeper_path(socket)) or wire.listener_pid(socket)


def _point_of(socket: Path) -> Path | None:
    """Return the mount point whose control socket is *socket*, where it is mounted."""
    points = (mount.point for mount in mount_table() if mount.is_ours)
    return next((point for point in points if wire.socket_path(point) == socket), None)


def _as_raised(content: object) -> AliasfsError:
    """Return the error that the daemon answered with, as the class it had there."""
    failure = wire.Failure.model_validate(content)
    kind = getattr(errors, failure.kind, AliasfsError)
    return (
        kind(failure.error)
        if isinstance(kind, type) and issubclass(kind, AliasfsError)
        else AliasfsError(failure.error)
    )


def _why_silent(point: Path, socket: Path) -> str:
    """Return in one sentence why the server behind *socket* does not answer, as its keeper sees it."""
    keeper = keeper_of(point, socket=socket)
    if keeper is None or keeper.state in ("silent", "gone"):
        return f"the daemon of {point} does not answer; 'aliasfs umount --force {point}' ends the mount"
    return (
        f"the server of {point} does not answer; its keeper (pid {keeper.pid}) says: {keeper.said}; "
        f"'aliasfs doctor --unhang {point}' replaces it"
    )


def _why_broken_off(point: Path, socket: Path) -> str:
    """Return in one sentence why the server behind *socket* hung up."""
    keeper = keeper_of(point, socket=socket)
    if keeper is None or keeper.state in ("silent", "gone"):
        return why_unreachable(point)
    return (
        f"the server of {point} ended before it had answered, and its keeper (pid {keeper.pid}) replaces it; ask again"
    )
