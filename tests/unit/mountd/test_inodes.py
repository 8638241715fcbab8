"""Numbers stand for versions in object stores and for files on disks, and live as long as the kernel knows them."""

from __future__ import annotations

import pytest

from aliasfs.errors import StaleObject
from aliasfs.store.base import NO_ETAG, Etag, Kind, LocalMeta, ObjectInfo, directory_info
from mountd.inodes import ROOT_INODE, InodeTable


def _file(key: str, etag: str = '"1"', size: int = 3) -> ObjectInfo:
    return ObjectInfo(key, Kind.FILE, size, 0, Etag(etag))


def _on_disk(key: str, inode: int, size: int = 3, device: int = 7) -> ObjectInfo:
    return ObjectInfo(key, Kind.FILE, size, 0, Etag(f"{size}"), LocalMeta(device, inode, 0o644, 0, 0))


def _table() -> InodeTable[str]:
    return InodeTable(directory_info(""))


def test_one_version_has_one_number_and_another_version_another() -> None:
    table = _table()
    first = table.intern("v", _file("a"), 1)
    assert table.intern("v", _file("a"), 2) is first
    others = [
        table.intern("v", _file("a", '"2"'), 1),
        table.intern("v", _file("a", size=4), 1),
        table.intern("v", _file("b"), 1),
        table.intern("w", _file("a"), 1),
        table.intern("v", directory_info("a"), 1),
        table.intern("v", ObjectInfo("a", Kind.SYMLINK, 3, 0, NO_ETAG), 1),
    ]
    assert len({first.number, *(inode.number for inode in others)}) == 7


def test_a_local_file_keeps_its_number_when_it_is_renamed_or_written_to() -> None:
    table = _table()
    inode = table.intern("v", _on_disk("a", 5), 1)
    assert table.intern("v", _on_disk("b", 5, size=9), 2) is inode
    assert (inode.info.key, inode.info.size) == ("b", 9)
    assert table.intern("v", _on_disk("b", 6), 2) is not inode
    assert table.intern("v", _on_disk("b", 5, device=8), 2) is not inode


def test_older_news_do_not_replace_newer() -> None:
    table = _table()
    inode = table.intern("v", _on_disk("a", 5, size=9), 10)
    table.intern("v", _on_disk("a", 5, size=3), 9)
    assert (inode.info.size, inode.expires_at) == (9, 10)


def test_a_version_that_came_back_is_not_stale_any_more() -> None:
    table = _table()
    inode = table.intern("v", _file("a"), 1)
    inode.stale = True
    assert not table.intern("v", _file("a"), 2).stale


def test_an_inode_lives_until_the_last_lookup_is_forgotten() -> None:
    table = _table()
    inode = table.intern("v", _file("a"), 1)
    for _ in range(3):
        table.count_lookup(inode)
    table.forget([(inode.number, 2)])
    assert table.get(inode.number) is inode
    table.forget([(inode.number, 1)])
    with pytest.raises(StaleObject):
        table.get(inode.number)
    again = table.intern("v", _file("a"), 1)
    assert again.number > inode.number
    assert len(table) == 2


def test_an_entry_that_the_kernel_did_not_take_is_dropped_only_if_nobody_else_knows_it() -> None:
    table = _table()
    inode = table.intern("v", _file("a"), 1)
    table.count_lookup(inode)
    table.drop_unused(table.intern("v", _file("a"), 1))
    assert table.get(inode.number) is inode
    unknown = table.intern("v", _file("b"), 1)
    table.drop_unused(unknown)
    with pytest.raises(StaleObject):
        table.get(unknown.number)


def test_forgetting_what_is_not_known_or_too_often_is_no_matter() -> None:
    table = _table()
    inode = table.intern("v", _file("a"), 1)
    table.count_lookup(inode)
    table.forget([(12345, 1), (inode.number, 99), (inode.number, 1), (ROOT_INODE, 1000)])
    assert table.get(ROOT_INODE) is table.root
    assert len(table) == 1


def test_a_local_inode_whose_file_was_replaced_does_not_take_the_new_one_along() -> None:
    table = _table()
    old = table.intern("v", _on_disk("a", 5), 1)
    table.count_lookup(old)
    new = table.intern("v", _on_disk("a", 6), 1)
    table.count_lookup(new)
    table.forget([(old.number, 1)])
    assert table.intern("v", _on_disk("a", 6), 1) is new
