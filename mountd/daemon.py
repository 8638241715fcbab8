"""One running mount as the control door sees it: its facts, and what it can be asked to do.

Relies on the rooms it is given and pulls their statistics when asked; keeps nothing but a few samples for
the rates. Invariant: a configuration that does not load changes nothing.
"""

from __future__ import annotations

import collections
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyfuse3
import trio

from aliasfs import __version__
from aliasfs.config import Config
from aliasfs.errors import AliasfsError
from aliasfs.store.guard import GuardedStore
from aliasfs.wire import (
    AliasStatus,
    CacheStatus,
    DaemonStatus,
    EvictReport,
    EvictRequest,
    KernelStatus,
    Rates,
    VerifyProgress,
    VerifyReport,
)
from mountd.blocks import BlockCache
from mountd.catalog import Catalog
from mountd.metrics import metrics_text
from mountd.ops import Ops
from mountd.settings import ServeOptions
from mountd.vfs import Vfs
from mountd.volumes import Volume

log = logging.getLogger(__name__)

SAMPLE_S = 1.0
SAMPLES = 11
"""Rates are those of the last ten seconds."""

CONFIG_POLL_S = 1.0
"""How often the configuration files are looked at: an edit by hand is taken up about as fast as one by command."""


@dataclass(eq=False)
class Daemon:
    """The mount at *point*; implements `mountd.control.Backend`."""

    point: Path
    options: ServeOptions
    config: Config
    vfs: Vfs
    ops: Ops
    cache: BlockCache
    ask_to_stop: Callable[[], None]
    """Has the keeper take the mount away."""
    generation: int = 0
    """How many servers this mount had before this one."""
    _started_at: float = field(default_factory=time.time, init=False)
    _samples: collections.deque[tuple[float, int, int]] = field(
        default_factory=lambda: collections.deque(maxlen=SAMPLES), init=False
    )
    _reloading: trio.Lock = field(default_factory=trio.Lock, init=False)

    # facts

    def status(self) -> DaemonStatus:
        """Return all facts of the mount."""
        known = self.vfs.statistics()
        return DaemonStatus(
            point=str(self.point),
            pid=os.getpid(),
            version=__version__,
            started_at=self._started_at,
            uptime_s=time.time() - self._started_at,
            foreground=self.options.foreground,
            generation=self.generation,
            config_files=[str(path) for path in self.config.files],
            aliases=[_alias_status(volume) for volume in self.vfs.volumes.values()],
            cache=self.cache_status(),
            kernel=KernelStatus(
                requests=dict(self.ops.requests),
                errors=dict(self.ops.errors),
                open_inodes=known.inodes,
                restored_inodes=known.restored,
                node_table_bytes=known.node_bytes,
                rates=self._rates(),
            ),
        )

    def _rates(self) -> Rates:
        if len(self._samples) < 2:
            return Rates(window_s=0.0)
        (start, requests_then, bytes_then), (stop, requests_now, bytes_now) = self._samples[0], self._samples[-1]
        window_s = stop - start
        return Rates(
            window_s=window_s,
            requests_per_s=(requests_now - requests_then) / window_s,
            bytes_per_s=(bytes_now - bytes_then) / window_s,
        )

    def cache_status(self) -> CacheStatus:
        """Return the facts of the disk cache."""
        return self.cache.status()

    def metrics_text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return metrics_text(self.status())

    def catalogs(self) -> list[Catalog]:
        """Return what is known of names, per alias."""
        return [volume.catalog for volume in self.vfs.volumes.values()]

    # requests

    async def reload(self) -> list[str]:
        """Read the configuration anew and apply it; return what changed, one sentence each.

        Raises ConfigError, and then nothing has changed.
        """
        async with self._reloading:
            config = await trio.to_thread.run_sync(self.options.load)
            for name in await self.vfs.refresh(config.registry):
                # From a thread of pyfuse3's own: the kernel may hold a lock that an unanswered request waits for.
                pyfuse3.invalidate_entry_async(pyfuse3.ROOT_INODE, name.encode(), ignore_enoent=True)
            said = _sentences(self.config, config)
            self.config = config
        for sentence in said:
            log.info("%s", sentence)
        return said

    def stop(self) -> None:
        """Have the mount taken away; it is gone when the keeper has ended."""
        self.ask_to_stop()

    async def cache_evict(self, request: EvictRequest) -> EvictReport:
        """Give cached bytes back as *request* says."""
        return await self.cache.evict(request.to_bytes)

    async def cache_verify(self, report: Callable[[VerifyProgress], None]) -> VerifyReport:
        """Check every cached block and drop the bad ones."""
        return await self.cache.verify(report)

    # movers

    async def sample(self) -> None:
        """Take the samples that rates are made of, for ever."""
        while True:
            requests = sum(self.ops.requests.values())
            self._samples.append((trio.current_time(), requests, self.vfs.statistics().bytes_read))
            await trio.sleep(SAMPLE_S)

    async def watch_config(self) -> None:
        """Reload when a configuration file changes, for ever; a file that does not load is said and left."""
        seen = _fingerprint(self.config)
        while True:
            await trio.sleep(CONFIG_POLL_S)
            now = _fingerprint(self.config)
            if now != seen:
                seen = now
                await self.reload_or_say()

    async def reload_or_say(self) -> None:
        """Reload; an error is logged and the mount goes on as it was."""
        try:
            await self.reload()
        except AliasfsError as exc:
            log.error("the configuration was not taken up, the old one stays in force: %s", exc)


def _fingerprint(config: Config) -> tuple[tuple[int, int, int] | None, ...]:
    return tuple(_file_fingerprint(path) for path in config.files)


def _file_fingerprint(path: Path) -> tuple[int, int, int] | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size, facts.st_ino


def _sentences(old: Config, new: Config) -> list[str]:
    changes = old.registry.changes_to(new.registry)
    said = [f"alias {name} added: {new.registry[name].url}" for name in sorted(changes.added)]
    said += [f"alias {name} removed" for name in sorted(changes.removed)]
    said += [f"alias {name} now points to {new.registry[name].url}" for name in sorted(changes.retargeted)]
    said += [f"alias {name} has a new mode or ttl" for name in sorted(changes.adjusted)]
    if (old.cache, old.mount, old.daemon) != (new.cache, new.mount, new.daemon):
        said.append("the sections cache, mount and daemon are taken up at the next mount")
    return said


def _alias_status(volume: Volume) -> AliasStatus:
    alias, store = volume.alias, volume.store
    facts = AliasStatus(
        name=alias.name,
        url=alias.url,
        mode=alias.mode.value,
        engine=store.engine,
        tier=alias.tier.name.lower(),
        ttl_s=alias.ttl_s,
    )
    if not isinstance(store, GuardedStore):
        return facts
    health = store.health()
    return facts.model_copy(
        update={
            "health": "failing" if health.consecutive_failures else "ok" if health.requests else "unused",
            "requests": health.requests,
            "errors": health.errors,
            "bytes_read": health.bytes_read,
            "mean_ms": health.mean_latency_ms,
            "last_error": health.last_error if health.consecutive_failures else "",
        }
    )
