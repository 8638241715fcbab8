"""Mount points are named and recognised from /proc alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from aliasfs import mounts
from aliasfs.errors import MountError
from aliasfs.mounts import Mount, canonical_point, mount_at, mount_table, parse_mountinfo

MOUNTINFO = r"""
22 1 0:21 / /proc rw,nosuid - proc proc rw
40 28 0:52 / /mnt/aliases rw,nosuid,nodev,relatime shared:9 - fuse.aliasfs aliasfs rw,user_id=1000,group_id=1000
41 28 0:53 / /mnt/with\040space rw - fuse.rclone remote:x rw,user_id=0,group_id=0
42 28 0:54 / /mnt/aliases rw - tmpfs none rw
""".strip()


def test_parse() -> None:
    table = parse_mountinfo(MOUNTINFO)
    assert table[1] == Mount(Path("/mnt/aliases"), "fuse.aliasfs", "aliasfs", "0:52", 1000)
    assert table[1].is_ours
    assert table[2].point == Path("/mnt/with space")
    assert table[0].owner is None
    assert not table[0].is_ours


def test_the_topmost_of_stacked_mounts_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "mountinfo"
    file.write_text(MOUNTINFO)
    monkeypatch.setattr(mounts, "MOUNTINFO", file)
    top = mount_at(Path("/mnt/aliases"))
    assert top is not None
    assert top.fs_type == "tmpfs"
    assert mount_at(Path("/mnt")) is None


def test_the_real_table_has_a_proc() -> None:
    assert any(mount.fs_type == "proc" for mount in mount_table())


def test_canonical_resolves_parents_links_and_dots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real" / "mnt").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "direct").symlink_to(tmp_path / "real" / "mnt")
    monkeypatch.chdir(tmp_path)
    expected = tmp_path.resolve() / "real" / "mnt"
    for spelling in ("link/mnt", "direct", "real/mnt/", "real/../link/mnt", "real/mnt/."):
        assert canonical_point(Path(spelling)) == expected, spelling
    assert canonical_point(Path("real/mnt/..")) == expected.parent
    assert canonical_point(Path("/")) == Path("/")
    assert canonical_point(Path("missing/dir")) == tmp_path.resolve() / "missing" / "dir"


def test_a_loop_of_links_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(MountError, match="too many symbolic links"):
        canonical_point(tmp_path / "a")
