"""How things look to stat(2) that a store says little about."""

from __future__ import annotations

import stat

import trio
from support.worlds import SETTINGS, local, remote
from trio.testing import MockClock

from aliasfs.registry import Alias
from aliasfs.store.base import NO_ETAG, Etag, Kind, LocalMeta, ObjectInfo, directory_info
from aliasfs.store.memory import MemoryStore
from mountd.catalog import Catalog
from mountd.inodes import InodeNo
from mountd.volumes import FOREVER_S, Attr, VfsSettings, Volume, attr_of


def _volume(alias: Alias) -> Volume:
    store = MemoryStore()
    return Volume(alias, store, store, Catalog(store, alias.ttl_s))


def _attr(info: ObjectInfo, alias: Alias, settings: VfsSettings = SETTINGS, expires_at: float = 0.0) -> Attr:
    return attr_of(InodeNo(7), info, expires_at, _volume(alias), settings)


async def test_a_version_never_changes_so_its_attributes_are_valid_for_long(autojump_clock: MockClock) -> None:
    attr = _attr(ObjectInfo("a", Kind.FILE, 5, 123, Etag("e")), remote())
    assert attr == Attr(InodeNo(7), stat.S_IFREG | 0o444, 5, 123, SETTINGS.uid, SETTINGS.gid, FOREVER_S)


async def test_modes_and_owner_are_configurable(autojump_clock: MockClock) -> None:
    settings = VfsSettings(uid=1, gid=2, file_mode=0o640, dir_mode=0o750)
    file = _attr(ObjectInfo("a", Kind.FILE, 5, 123, Etag("e")), remote(), settings)
    directory = _attr(directory_info("d"), remote(), settings)
    assert (file.mode, file.uid, file.gid) == (stat.S_IFREG | 0o640, 1, 2)
    assert directory.mode == stat.S_IFDIR | 0o750


async def test_a_directory_of_a_store_has_the_time_of_its_mount_and_is_valid_for_ttl(
    autojump_clock: MockClock,
) -> None:
    volume = _volume(remote(ttl_s=7))
    attr = attr_of(InodeNo(7), directory_info("d"), 0.0, volume, SETTINGS)
    assert (attr.mtime_ns, attr.valid_s) == (volume.attached_ns, 7)


async def test_a_link_of_a_store_is_a_link(autojump_clock: MockClock) -> None:
    assert stat.S_ISLNK(_attr(ObjectInfo("l", Kind.SYMLINK, 3, 5, NO_ETAG), remote()).mode)


async def test_local_things_look_as_on_the_disk_and_for_as_long_as_they_are_known(autojump_clock: MockClock) -> None:
    meta = LocalMeta(1, 2, 0o4751, 33, 44)
    for kind, bits in ((Kind.FILE, stat.S_IFREG), (Kind.DIRECTORY, stat.S_IFDIR), (Kind.SYMLINK, stat.S_IFLNK)):
        info = ObjectInfo("a", kind, 5, 123, NO_ETAG, meta)
        attr = _attr(info, Alias("L", "/x"), expires_at=trio.current_time() + 0.5)
        assert attr == Attr(InodeNo(7), bits | 0o4751, 5, 123, 33, 44, 0.5)
        assert _attr(info, Alias("L", "/x"), expires_at=trio.current_time() - 9).valid_s == 0


async def test_a_local_root_that_nobody_looked_at_lets_nobody_else_in(autojump_clock: MockClock, tmp_path) -> None:  # type: ignore[no-untyped-def]
    attr = _attr(directory_info(""), local("L", tmp_path))
    assert attr.mode == stat.S_IFDIR | 0o500
    assert attr.valid_s == 0


async def test_a_retired_volume_has_closed_its_store(autojump_clock: MockClock) -> None:
    volume = _volume(remote())
    await volume.aclose()
    assert volume.retired
    await volume.aclose()
