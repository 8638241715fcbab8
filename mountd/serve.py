"""Builds one mount from the bottom up, runs it, and takes it down in reverse; the one file that knows every room."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pyfuse3
import trio

from aliasfs.config import CacheSettings, Config
from aliasfs.errors import ConfigError, MountError
from aliasfs.mounts import canonical_point
from aliasfs.registry import Alias
from aliasfs.store import open_store, preload
from aliasfs.store.aio import AsyncioBridge
from aliasfs.store.base import Content
from aliasfs.store.guard import GuardConfig, GuardedStore
from aliasfs.wire import make_runtime_dir, socket_path
from mountd.blocks import BlockCache, BlockCacheSettings
from mountd.catalog import Catalog, CatalogSettings
from mountd.control import serve_control
from mountd.daemon import Daemon
from mountd.disk import CacheDisk
from mountd.inodes import ROOT_INODE
from mountd.kernel import mount_options, raise_limits
from mountd.notify import Starter
from mountd.ops import Ops
from mountd.readahead import ReadAhead, ReadAheadPolicy, ReadAheadSettings
from mountd.settings import ServeOptions, vfs_settings
from mountd.vfs import Vfs
from mountd.volumes import Volume

log = logging.getLogger(__name__)

FIRST_ANSWER_S = 10.0
"""How long the kernel may take to get its first answer through a new mount; it takes milliseconds."""


async def serve(options: ServeOptions, config: Config, starter: Starter) -> None:
    """Mount and serve until unmounted, told to stop, or signalled.

    Raises MountError, ConfigError and what else stands in the way of a start; nothing is left mounted.
    """
    point = canonical_point(options.point or config.mount.point)
    make_runtime_dir()
    async with AsyncExitStack() as stack:
        cache = BlockCache(await _open_disk(config, stack), _cache_settings(config))
        fetching = await stack.enter_async_context(trio.open_nursery())
        stack.callback(fetching.cancel_scope.cancel)
        await fetching.start(cache.run)
        bridge = AsyncioBridge()
        stack.push_async_callback(bridge.aclose)
        vfs = Vfs(_volume_opener(config, point, cache, bridge), vfs_settings(config.mount))
        stack.push_async_callback(vfs.aclose)
        await vfs.refresh(config.registry)
        ops = Ops(vfs)
        daemon = Daemon(point, options, config, vfs, ops, cache)
        movers = await stack.enter_async_context(trio.open_nursery())
        movers.start_soon(_preload, bridge, [alias for alias in config.registry.values() if not alias.is_local])
        await movers.start(_control, daemon, socket_path(point))
        _mount(ops, point, allow_other=options.allow_other or config.mount.allow_other)
        stack.callback(pyfuse3.close)
        for mover in (daemon.sample, daemon.watch_config):
            movers.start_soon(_dispensable, mover)
        movers.start_soon(_obey_signals, daemon)
        movers.start_soon(_greet, starter, point, f"serving {len(config.registry)} aliases on {point}")
        try:
            await pyfuse3.main()
        finally:
            daemon.ended = True
        starter.systemd("STOPPING=1")
        movers.cancel_scope.cancel()
    log.info("unmounted %s", point)


async def _open_disk(config: Config, stack: AsyncExitStack) -> CacheDisk | None:
    """Return the cache directory, locked for this process, or None when it is switched off.

    Raises MountError when another daemon has it.
    """
    settings = config.cache
    if not settings.enabled:
        return None
    disk = await trio.to_thread.run_sync(CacheDisk.open, settings.dir, settings.size, _min_free_bytes(settings))
    stack.callback(disk.close)
    return disk


def _min_free_bytes(settings: CacheSettings) -> int:
    """Return how much of the cache's file system stays free; the directory itself may not exist yet."""
    there = next(path for path in (settings.dir, *settings.dir.parents) if path.is_dir())
    return settings.min_free_bytes(shutil.disk_usage(there).total)


def _cache_settings(config: Config) -> BlockCacheSettings:
    return BlockCacheSettings(memory_bytes=_memory_bytes(config) * 2 // 3, total_bytes=_memory_bytes(config))


def _memory_bytes(config: Config) -> int:
    """Return what reads may take of memory, enough for two of the longest requests at least."""
    return max(config.daemon.read_memory, 2 * BlockCacheSettings().part_bytes)


def _volume_opener(config: Config, point: Path, cache: BlockCache, bridge: AsyncioBridge) -> Callable[[Alias], Volume]:
    """Return how an alias becomes a volume: guarded store, names by catalog, bytes by cache unless they are local."""
    guard = GuardConfig(request_timeout_s=config.daemon.request_timeout_s)
    policy = ReadAheadPolicy(ReadAheadSettings(ahead_bytes=_memory_bytes(config) * 2 // 3))

    def open_volume(alias: Alias) -> Volume:
        inner = open_store(alias, request_timeout_s=guard.request_timeout_s, bridge=bridge)
        store = GuardedStore(inner, alias.name, guard)
        content: Content = store if alias.is_local else ReadAhead(cache.wrap(store), policy)
        catalog = Catalog(store, alias.ttl_s, CatalogSettings(list_ahead=not alias.is_local))
        return Volume(alias, store, content, catalog, hidden_key=_mount_within(alias, point))

    return open_volume


def _mount_within(alias: Alias, point: Path) -> str | None:
    """Return where the mount lies within a local *alias*, if it does; ConfigError when the alias lies in the mount."""
    if not alias.is_local:
        return None
    root = Path(alias.url)
    if root == point or point in root.parents:
        raise ConfigError(
            f"alias {alias.name}: {root} lies inside the mount {point}, so reading it would wait for itself; "
            "point it to where the data really is"
        )
    return str(point.relative_to(root)) if root in point.parents else None


def _mount(ops: Ops, point: Path, *, allow_other: bool) -> None:
    try:
        pyfuse3.init(ops, str(point), mount_options(allow_other=allow_other))
    except RuntimeError as exc:
        raise MountError(f"cannot mount {point}: {exc}; 'aliasfs doctor' says what is missing") from exc


async def _dispensable(mover: Callable[[], Awaitable[None]]) -> None:
    """Run *mover*; a bug in it costs what it does, not the mount."""
    try:
        await mover()
    except Exception:
        log.exception("a bug in aliasfs: %s has ended, the mount goes on without it", mover.__name__)


async def _control(
    daemon: Daemon, socket: Path, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve the control door; once it is open, a bug in it does not end the mount."""
    is_open = False
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_control, daemon, socket)
            is_open = True
            task_status.started()
    except Exception:
        if not is_open:
            raise
        log.exception("a bug in aliasfs: the control door has closed, the mount goes on without it")


async def _preload(bridge: AsyncioBridge, aliases: list[Alias]) -> None:
    """Import storage libraries while the mount is being made; what cannot be imported is said by who needs it.

    In the thread in which stores import them: two threads that import `azure.core` at once, whose modules
    import each other in circles, see one another's half-made modules.
    """

    async def load() -> None:
        preload(aliases)

    try:
        if aliases:
            await bridge.call(load)
    except ImportError as exc:
        log.warning("a storage library cannot be loaded: %s", exc)


async def _greet(starter: Starter, point: Path, status: str) -> None:
    """Read the mount through the kernel, ask the kernel for its larger limits, and say that we are ready."""
    with trio.move_on_after(FIRST_ANSWER_S):
        facts = await trio.to_thread.run_sync(os.stat, point, abandon_on_cancel=True)
        if facts.st_ino != ROOT_INODE:
            raise MountError(f"{point} was mounted, but something else answers there; was it mounted over?")
        raised = await trio.to_thread.run_sync(raise_limits, facts.st_dev)
        for sentence in raised.why_not:
            log.info("%s; reads come in smaller pieces", sentence)
        starter.ready(status)
        log.info("%s", status)
        return
    raise MountError(f"the kernel did not get an answer from {point} within {FIRST_ANSWER_S:.0f} s")


async def _obey_signals(daemon: Daemon) -> None:
    """SIGTERM and SIGINT unmount and end; SIGHUP reads the configuration anew."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            if number == signal.SIGHUP:
                await daemon.reload_or_say()
            else:
                log.info("%s: unmounting", signal.Signals(number).name)
                daemon.stop()
