"""A daemon's `Backend` without a mount: answers from plain values and remembers what it was asked."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio

from aliasfs import wire
from mountd.control import serve_control


@dataclass
class FakeBackend:
    """*failure* is raised by whatever may fail; *stopped* is set by `stop`; *hold* blocks `cache_verify`."""

    point: str = "/mnt/aliases"
    config_files: list[str] = field(default_factory=list)
    cache: wire.CacheStatus = field(default_factory=wire.CacheStatus)
    failure: Exception | None = None
    changes: list[str] = field(default_factory=list)
    progress: list[wire.VerifyProgress] = field(default_factory=list)
    reloads: int = 0
    evictions: list[int] = field(default_factory=list)
    stopped: trio.Event = field(default_factory=trio.Event)
    hold: bool = False
    verify_cancelled: trio.Event = field(default_factory=trio.Event)

    def status(self) -> wire.DaemonStatus:
        self._maybe_fail()
        return wire.DaemonStatus(
            point=self.point,
            pid=os.getpid(),
            version="0",
            started_at=0.0,
            uptime_s=61.0,
            config_files=self.config_files,
            aliases=[wire.AliasStatus(name="A", url="/a", engine="local", health="ok", requests=3)],
            cache=self.cache,
        )

    def cache_status(self) -> wire.CacheStatus:
        return self.cache

    def metrics_text(self) -> bytes:
        return b"# TYPE aliasfs_up gauge\naliasfs_up 1.0\n"

    async def reload(self) -> list[str]:
        await trio.lowlevel.checkpoint()
        self._maybe_fail()
        self.reloads += 1
        return self.changes

    def stop(self) -> None:
        self.stopped.set()

    async def cache_evict(self, request: wire.EvictRequest) -> wire.EvictReport:
        await trio.lowlevel.checkpoint()
        self._maybe_fail()
        self.evictions.append(request.to_bytes)
        return wire.EvictReport(evicted_bytes=5, evicted_objects=1, used_bytes=request.to_bytes)

    async def cache_verify(self, report: Callable[[wire.VerifyProgress], None]) -> wire.VerifyReport:
        for progress in self.progress:
            report(progress)
            await trio.lowlevel.checkpoint()
        if self.hold:
            try:
                await trio.sleep_forever()
            finally:
                self.verify_cancelled.set()
        self._maybe_fail()
        return wire.VerifyReport(objects=1, blocks=2, bytes=3, bad_blocks=0)

    def _maybe_fail(self) -> None:
        if self.failure is not None:
            raise self.failure


@contextmanager
def served(backend: FakeBackend) -> Iterator[Path]:
    """Serve *backend* on the socket of its mount point, in a thread, for tests that block; yield the socket.

    Ends when the block does, or when the backend is told to stop.
    """
    path = wire.make_runtime_dir() / wire.socket_path(Path(backend.point)).name
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    started = threading.Event()
    tokens: list[trio.lowlevel.TrioToken] = []

    async def main() -> None:
        tokens.append(trio.lowlevel.current_trio_token())
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_control, backend, listener)
            started.set()
            await backend.stopped.wait()
            nursery.cancel_scope.cancel()
        listener.close()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    assert started.wait(10)
    try:
        yield path
    finally:
        with suppress(trio.RunFinishedError):
            tokens[0].run_sync_soon(backend.stopped.set)
        thread.join(10)
        path.unlink(missing_ok=True)
