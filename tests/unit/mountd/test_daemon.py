"""A running mount as the control door sees it: facts, reloads that change nothing when they fail, rates."""

from __future__ import annotations

from pathlib import Path

import pyfuse3
import pytest
import trio
from support.worlds import World
from trio.testing import MockClock

from aliasfs.errors import ConfigError
from aliasfs.wire import EvictRequest, VerifyProgress
from mountd.blocks import BlockCache
from mountd.daemon import Daemon
from mountd.ops import Ops
from mountd.settings import ServeOptions


class Mount:
    """A `Daemon` without a kernel; *dropped* are the names of the root that the kernel was told to drop."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.dropped: list[str] = []
        self.config_file = folder / "config.yaml"
        self.world = World()
        self._drop_from(monkeypatch)
        self.write("aliases: {A: /a, B: 'memory://b'}")
        options = ServeOptions(point=folder, config_file=self.config_file)
        self.config = options.load()
        self.ops = Ops(self.world.vfs)
        self.asked_to_stop: list[bool] = []
        self.daemon = Daemon(
            folder,
            options,
            self.config,
            self.world.vfs,
            self.ops,
            BlockCache(None),
            lambda: self.asked_to_stop.append(True),
        )

    def _drop_from(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def drop(parent: int, name: bytes, **_: object) -> None:
            assert parent == pyfuse3.ROOT_INODE
            self.dropped.append(name.decode())

        monkeypatch.setattr(pyfuse3, "invalidate_entry_async", drop)

    def write(self, text: str) -> None:
        self.config_file.write_text(text + "\n")


@pytest.fixture
async def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mount:
    mount = Mount(tmp_path, monkeypatch)
    await mount.world.vfs.refresh(mount.config.registry)
    return mount


async def test_a_reload_says_what_changed_and_tells_the_kernel_what_to_drop(mount: Mount) -> None:
    mount.write("aliases: {B: 'memory://elsewhere', C: /c}")
    said = await mount.daemon.reload()
    assert said == ["alias C added: /c", "alias A removed", "alias B now points to memory://elsewhere"]
    assert mount.dropped == ["A", "B"]
    assert list(mount.world.vfs.volumes) == ["B", "C"]
    assert await mount.daemon.reload() == []


async def test_what_is_taken_up_at_the_next_mount_only_is_said(mount: Mount) -> None:
    mount.write("aliases: {A: {url: /a, ttl: 5}, B: 'memory://b'}\ncache: {size: 1GB}")
    said = await mount.daemon.reload()
    assert said == [
        "alias A has a new mode or ttl",
        "the sections cache, mount and daemon are taken up at the next mount",
    ]
    assert mount.world.vfs.volumes["A"].catalog.ttl_s == 5


@pytest.mark.parametrize("text", ["aliases: {a: /x}", "aliases: {A: relative}", "nonsense: 1", "aliases: [", ""])
async def test_a_file_that_does_not_load_changes_nothing(mount: Mount, text: str) -> None:
    mount.write(text)
    if text:
        with pytest.raises(ConfigError):
            await mount.daemon.reload()
        assert list(mount.world.vfs.volumes) == ["A", "B"]
    mount.write("aliases: {A: /a, B: 'memory://b', C: /c}")
    await mount.daemon.reload()
    assert list(mount.world.vfs.volumes) == ["A", "B", "C"]


async def test_an_alias_that_cannot_be_opened_changes_nothing_and_is_told_again(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = mount.world._open_volume

    def refuse(alias):  # type: ignore[no-untyped-def]
        if alias.name == "C":
            raise ConfigError("C cannot be opened")
        return opening(alias)

    monkeypatch.setattr(mount.world.vfs, "_open_volume", refuse)
    mount.write("aliases: {A: /a, C: 'memory://c'}")
    for _ in range(2):
        with pytest.raises(ConfigError):
            await mount.daemon.reload()
        assert list(mount.world.vfs.volumes) == ["A", "B"]
    monkeypatch.setattr(mount.world.vfs, "_open_volume", opening)
    assert await mount.daemon.reload() == ["alias C added: memory://c", "alias B removed"]


async def test_a_reload_by_signal_logs_its_error_and_goes_on(mount: Mount, caplog: pytest.LogCaptureFixture) -> None:
    mount.write("aliases: {a: /x}")
    await mount.daemon.reload_or_say()
    assert "was not taken up" in caplog.text
    assert "config.yaml:1" in caplog.text


async def test_the_status_has_every_alias_and_no_more(mount: Mount) -> None:
    status = mount.daemon.status()
    assert [(alias.name, alias.url) for alias in status.aliases] == [("A", "/a"), ("B", "memory://b")]
    assert status.config_files == [str(mount.config_file)]
    assert status.cache.state == "off"
    assert b"aliasfs_store_up" in mount.daemon.metrics_text()


async def test_rates_are_those_of_the_last_ten_seconds(mount: Mount, autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mount.daemon.sample)
        await trio.sleep(100.5)
        assert mount.daemon.status().kernel.rates.requests_per_s == 0
        for _ in range(20):
            mount.ops.requests["read"] += 10
            await trio.sleep(1)
        rates = mount.daemon.status().kernel.rates
        nursery.cancel_scope.cancel()
    assert rates.window_s == 10
    assert rates.requests_per_s == 10


async def test_without_a_cache_there_is_nothing_to_evict_or_to_verify(mount: Mount) -> None:
    progress: list[VerifyProgress] = []
    assert (await mount.daemon.cache_evict(EvictRequest(to_bytes=0))).evicted_bytes == 0
    assert (await mount.daemon.cache_verify(progress.append)).blocks == 0


async def test_to_be_stopped_is_asked_of_the_keeper(mount: Mount) -> None:
    mount.daemon.stop()
    assert mount.asked_to_stop == [True]
