"""Speaks to running daemons over their control sockets; blocking, for the command line.

Every call is bounded in time. A daemon that is gone, belongs to somebody else or hangs is
DaemonUnreachable with one sentence that says which; an error the daemon answers with is raised here as
the class it had there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from aliasfs import errors, wire
from aliasfs.errors import AliasfsError, DaemonUnreachable
from aliasfs.mounts import canonical_point, mount_at

_CONNECT_S = 2.0
_ANSWER_S = 5.0
"""Facts come from memory: a daemon that needs longer than this hangs."""
_WORK_S = 120.0
"""A reload may open stores, an eviction may unlink a full disk of files."""

AnswerT = TypeVar("AnswerT", bound=BaseModel)


class DaemonClient:
    """The control API of the daemon that serves *point*; use as a context manager."""

    def __init__(self, point: Path, *, socket: Path | None = None) -> None:
        """*socket* says where to ask when only the socket is known; *point* then only names it in messages."""
        self.point = point if socket else canonical_point(point)
        self._socket = socket or wire.socket_path(point)
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self._socket)),
            base_url="http://aliasfs",
            timeout=httpx.Timeout(_ANSWER_S, connect=_CONNECT_S),
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
            answer = self._http.request(method, path, json=body, timeout=timeout_s or _ANSWER_S)
            if answer.is_success:
                return shape.model_validate_json(answer.content)
            content = answer.json()
        raise _as_raised(content)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            # Asked before each request: httpcore 1.0 leaks the descriptor of a refused connection.
            if not wire.listener_pid(self._socket):
                raise DaemonUnreachable(_why_unreachable(self.point))
            yield
        except (httpx.TimeoutException, TimeoutError) as exc:
            raise DaemonUnreachable(
                f"the daemon of {self.point} does not answer; 'aliasfs umount --force {self.point}' ends the mount"
            ) from exc
        except (httpx.TransportError, OSError) as exc:
            raise DaemonUnreachable(_why_unreachable(self.point)) from exc
        except (ValidationError, ValueError) as exc:
            raise DaemonUnreachable(
                f"the daemon of {self.point} answers in a way this version does not understand; "
                "unmount and mount again to run the same version on both sides"
            ) from exc


def running_daemons(complain: Callable[[str], None] = lambda sentence: None) -> list[wire.DaemonStatus]:
    """Return the status of every daemon of this user that answers, ordered by mount point.

    *complain* is told of each that lives and does not answer as it should; the others are not held up by it.
    """
    found = []
    for socket in _sockets():
        try:
            if pid := wire.listener_pid(socket):  # 0: of a dead daemon; the next one on that point replaces it
                with DaemonClient(Path(f"pid {pid}"), socket=socket) as daemon:
                    found.append(daemon.status())
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


def _as_raised(content: object) -> AliasfsError:
    """Return the error that the daemon answered with, as the class it had there."""
    failure = wire.Failure.model_validate(content)
    kind = getattr(errors, failure.kind, AliasfsError)
    return (
        kind(failure.error)
        if isinstance(kind, type) and issubclass(kind, AliasfsError)
        else AliasfsError(failure.error)
    )


def _why_unreachable(point: Path) -> str:
    mount = mount_at(point)
    if mount is None:
        return f"nothing is mounted on {point}; 'aliasfs mount {point}' mounts it"
    if not mount.is_ours:
        return f"{point} is a {mount.fs_type} mount, which aliasfs did not make"
    if mount.owner != os.geteuid():
        return f"the mount {point} belongs to uid {mount.owner}; ask as that user, for example with sudo"
    return f"the daemon of {point} is gone and its mount is dead; 'aliasfs umount --force {point}' clears it"
