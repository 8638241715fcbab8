"""What the control door asks of the daemon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from aliasfs.wire import CacheStatus, DaemonStatus, EvictReport, EvictRequest, VerifyProgress, VerifyReport


class Backend(Protocol):
    """The daemon, seen from the control door; raises only classes of `aliasfs.errors`."""

    def status(self) -> DaemonStatus:
        """Return all facts of the mount; never blocks."""
        ...

    def cache_status(self) -> CacheStatus:
        """Return the facts of the disk cache; never blocks."""
        ...

    def metrics_text(self) -> bytes:
        """Return the metrics in Prometheus' text format; never blocks."""
        ...

    async def reload(self) -> list[str]:
        """Read the configuration anew and apply it; return what changed, one sentence each.

        Raises ConfigError, and then nothing has changed.
        """
        ...

    def stop(self) -> None:
        """Ask the daemon to unmount and end; returns at once."""
        ...

    async def cache_evict(self, request: EvictRequest) -> EvictReport:
        """Give cached bytes back, least recently used first, as *request* says."""
        ...

    async def cache_verify(self, report: Callable[[VerifyProgress], None]) -> VerifyReport:
        """Check every cached block against its checksum and drop the bad ones.

        Calls *report* as often as it likes; the call does not block. Cancelled when the asker goes away.
        """
        ...
