"""Builds one server from the bottom up, runs it, and takes it down in reverse; the one file that knows every room."""

from __future__ import annotations

import functools
import logging
import os
import shutil
import signal
import socket
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from pathlib import Path

import trio

from aliasfs import __version__
from aliasfs.config import CacheSettings, Config
from aliasfs.errors import ConfigError, MountError
from aliasfs.mounts import canonical_point
from aliasfs.registry import Alias
from aliasfs.store import open_store, preload
from aliasfs.store.aio import AsyncioBridge
from aliasfs.store.base import Content
from aliasfs.store.guard import GuardConfig, GuardedStore
from aliasfs.wire import socket_path
from mountd.blocks import BlockCache, BlockCacheSettings
from mountd.catalog import Catalog, CatalogSettings
from mountd.control import serve_control
from mountd.daemon import Daemon
from mountd.disk import CacheDisk
from mountd.exhaustion import end_out_of_memory, for_want_of_memory
from mountd.inodes import ROOT_INODE
from mountd.kernel import mount_options, raise_limits
from mountd.link import Link, Order
from mountd.nodelog import NodeLog
from mountd.ops import Ops
from mountd.pressure import Pressure
from mountd.readahead import ReadAhead, ReadAheadPolicy, ReadAheadSettings
from mountd.session import Session
from mountd.settings import ServeOptions, vfs_settings
from mountd.sockets import NODES_SUFFIX
from mountd.vfs import Vfs
from mountd.volumes import Volume
from mountd.watch import watch_requests

log = logging.getLogger(__name__)

FIRST_ANSWER_S = 30.0
"""How long the first answer through the kernel may take; milliseconds, unless many requests have waited for us."""

ANSWER_WITHIN = 0.9
"""Part of the hang time-out after which a request is given up, so that a slow store is not taken for a hang."""

STORE_WITHIN = 0.8
"""Part of it that the longest read of a local alias may take, so that the error of the store comes first and names it.
What is read into the cache may take longer: who asked for it gives up, asks again, and finds it there."""

ARRIVES_WITHIN = 1 / 6
"""Part of it in which all that is under way from one store should arrive: 1 MiB more still arrives within the rest."""


async def serve(options: ServeOptions, config: Config, link: Link, listener: socket.socket) -> None:
    """Serve the mount that the keeper hands over, until it is taken away or the keeper wants it back.

    *listener* is the control socket. Raises MountError, ConfigError and what else stands in the way of a start.
    """
    point = canonical_point(options.point)
    link.say("warm", **_terms(options, config))
    order = await _expect(link, "open")
    if order is None:
        return
    async with AsyncExitStack() as stack:
        cache = BlockCache(await _open_disk(config, stack), _cache_settings(config))
        fetching = await stack.enter_async_context(trio.open_nursery())
        stack.callback(fetching.cancel_scope.cancel)
        await fetching.start(cache.run)
        bridge = AsyncioBridge()
        stack.push_async_callback(bridge.aclose)
        nodes = await _open_nodes(point, order, stack)
        vfs = Vfs(_volume_opener(config, point, cache, bridge), vfs_settings(config.mount), nodes)
        stack.push_async_callback(vfs.aclose)
        await vfs.refresh(config.registry)
        ops = Ops(vfs, config.daemon.hang_timeout_s * ANSWER_WITHIN)
        session = Session(ops)
        ask_to_stop, generation = functools.partial(link.say, "stop"), int(order.facts["generation"])
        daemon = Daemon(point, options, config, vfs, ops, cache, ask_to_stop, generation)
        movers = await stack.enter_async_context(trio.open_nursery())
        stack.callback(movers.cancel_scope.cancel)
        await movers.start(_control, daemon, listener)
        link.say("opened")
        order = await _expect(link, "serve")
        if order is None or order.kernel is None:
            return
        await session.begin(order.kernel, bytes.fromhex(order.facts["init"]))
        stack.callback(session.close)
        for mover in _movers(daemon, config, link):
            movers.start_soon(_dispensable, mover)
        movers.start_soon(_obey_keeper, link, session)
        movers.start_soon(_obey_signals, daemon, session)
        movers.start_soon(_greet, link, point, _status(len(config.registry), point))
        remote = [alias for alias in config.registry.values() if not alias.is_local]
        movers.start_soon(_preload, bridge, remote)
        await session.run()
    log.info("this server has ended")


def _status(aliases: int, point: Path) -> str:
    return f"serving {aliases} {'alias' if aliases == 1 else 'aliases'} on {point}"


def _terms(options: ServeOptions, config: Config) -> dict[str, object]:
    """Return what the keeper is to know of us and of the configuration."""
    allow_other = options.allow_other or config.mount.allow_other
    return {
        "version": __version__,
        "mount_options": ",".join(sorted(mount_options(allow_other=allow_other))),
        "hang_timeout_s": config.daemon.hang_timeout_s,
        "restart_limit": config.daemon.restart_limit,
    }


async def _expect(link: Link, wish: str) -> Order | None:
    """Return the order *wish*; None when it does not come, because we are not wanted any more."""
    order = await link.hear()
    return order if order is not None and order.wish == wish else None


async def _open_nodes(point: Path, order: Order, stack: AsyncExitStack) -> NodeLog:
    path = socket_path(point).with_suffix(NODES_SUFFIX)
    session, generation = str(order.facts["session"]), int(order.facts["generation"])
    nodes = await trio.to_thread.run_sync(NodeLog.open, path, session, generation)
    stack.callback(nodes.close)
    return nodes


def _movers(daemon: Daemon, config: Config, link: Link) -> list[Callable[[], Awaitable[None]]]:
    """Return what goes on beside the requests."""
    movers: list[Callable[[], Awaitable[None]]] = [
        daemon.sample,
        daemon.watch_config,
        daemon.vfs.compact_nodes,
        functools.partial(watch_requests, daemon.ops, config.daemon.hang_timeout_s),
    ]
    if config.daemon.memory_max is not None:
        pressure = Pressure(
            config.daemon.memory_max, daemon.cache, daemon.catalogs, lambda why: link.say("worn", why=why)
        )
        movers.append(pressure.run)
    return movers


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
    return BlockCacheSettings(
        memory_bytes=_memory_bytes(config) * 2 // 3,
        total_bytes=_memory_bytes(config),
        within_s=config.daemon.hang_timeout_s * ARRIVES_WITHIN,
    )


def _memory_bytes(config: Config) -> int:
    """Return what reads may take of memory, enough for two of the longest requests at least."""
    return max(config.daemon.read_memory, 2 * BlockCacheSettings().part_bytes)


def _volume_opener(config: Config, point: Path, cache: BlockCache, bridge: AsyncioBridge) -> Callable[[Alias], Volume]:
    """Return how an alias becomes a volume: guarded store, names by catalog, bytes by cache unless they are local."""
    longest_s = max(config.daemon.request_timeout_s, config.daemon.hang_timeout_s * STORE_WITHIN)
    guard = GuardConfig(request_timeout_s=config.daemon.request_timeout_s)
    uncached = GuardConfig(request_timeout_s=config.daemon.request_timeout_s, longest_s=longest_s)
    policy = ReadAheadPolicy(ReadAheadSettings(ahead_bytes=_memory_bytes(config) * 2 // 3))

    def open_volume(alias: Alias) -> Volume:
        inner = open_store(alias, request_timeout_s=guard.silence_s, bridge=bridge)
        store = GuardedStore(inner, alias.name, uncached if alias.is_local else guard)
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


async def _dispensable(mover: Callable[[], Awaitable[None]]) -> None:
    """Run *mover*; a bug in it costs what it does, not the mount."""
    try:
        await mover()
    except Exception as exc:
        if for_want_of_memory(exc):
            end_out_of_memory()
        log.exception("a bug in aliasfs: %s has ended, the mount goes on without it", mover)


async def _control(
    daemon: Daemon, listener: socket.socket, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve the control door; once it is open, a bug in it does not end the mount."""
    is_open = False
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_control, daemon, listener)
            is_open = True
            task_status.started()
    except Exception:
        if not is_open:
            raise
        log.exception("a bug in aliasfs: the control door has closed, the mount goes on without it")


def load_libraries(aliases: Iterable[Alias]) -> None:
    """Import the storage libraries of *aliases*; what cannot be imported is said by who needs it."""
    try:
        preload([alias for alias in aliases if not alias.is_local])
    except ImportError as exc:
        if for_want_of_memory(exc):
            end_out_of_memory()
        log.warning("a storage library cannot be loaded: %s", exc)


async def _preload(bridge: AsyncioBridge, aliases: list[Alias]) -> None:
    """Import storage libraries before they are needed.

    In the thread in which stores import them: two threads that import `azure.core` at once, whose modules
    import each other in circles, see one another's half-made modules.
    """

    async def load() -> None:
        load_libraries(aliases)

    if aliases:
        await bridge.call(load)


async def _greet(link: Link, point: Path, status: str) -> None:
    """Read the mount through the kernel, ask the kernel for its larger limits, and say that we are ready."""
    with trio.move_on_after(FIRST_ANSWER_S):
        facts = await trio.to_thread.run_sync(os.stat, point, abandon_on_cancel=True)
        if facts.st_ino != ROOT_INODE:
            raise MountError(f"{point} was mounted, but something else answers there; was it mounted over?")
        raised = await trio.to_thread.run_sync(raise_limits, facts.st_dev)
        for sentence in raised.why_not:
            log.info("%s; reads come in smaller pieces", sentence)
        link.say("ready", status=status)
        log.info("%s", status)
        return
    raise MountError(f"the kernel did not get an answer from {point} within {FIRST_ANSWER_S:.0f} s")


async def _obey_keeper(link: Link, session: Session) -> None:
    """End when the keeper wants the mount back; without a keeper, serve on."""
    while (order := await link.hear()) is not None:
        if order.wish == "drain":
            log.info("the keeper wants the mount back: finishing what is in work")
            session.stop()
    log.error("the keeper is gone; this server serves on, and when it ends so does the mount")


async def _obey_signals(daemon: Daemon, session: Session) -> None:
    """SIGTERM has another server take our place; SIGHUP reads the configuration anew; SIGINT is for the keeper."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
        async for number in signals:
            if number == signal.SIGHUP:
                await daemon.reload_or_say()
            else:
                log.info("SIGTERM: finishing what is in work")
                session.stop()
