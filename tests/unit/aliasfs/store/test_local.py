"""What the local store adds to the contract: links that cannot lead out, versions, open files."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from aliasfs.errors import AccessDenied, NotFound, StaleObject
from aliasfs.extents import Extent
from aliasfs.store.base import Kind, ObjectId
from aliasfs.store.beneath import Walk, open_beneath
from aliasfs.store.local import LocalStore

OUTSIDE = ("../outside", "../../etc", "/etc", "a/../../outside", "up/../../outside")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    (made / "a/b").mkdir(parents=True)
    (made / "a/b/file").write_bytes(b"0123456789")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_bytes(b"secret")
    (made / "up").symlink_to("a/..")
    return made


async def object_id(store: LocalStore, key: str) -> ObjectId:
    info = await store.stat(key)
    return ObjectId(store.target, key, info.etag, info.size)


class TestLinks:
    async def test_stat_tells_of_the_link_itself(self, root: Path) -> None:
        (root / "link").symlink_to("a/b/file")
        assert (await LocalStore(str(root)).stat("link")).kind is Kind.SYMLINK

    async def test_parents_are_followed(self, root: Path) -> None:
        (root / "link").symlink_to("a/b")
        (root / "absolute").symlink_to(root / "a")
        store = LocalStore(str(root))
        assert (await store.stat("link/file")).size == 10
        assert (await store.stat("absolute/b/file")).size == 10

    @pytest.mark.parametrize("target", OUTSIDE)
    async def test_those_that_lead_out_are_refused(self, root: Path, target: str) -> None:
        (root / "link").symlink_to(target)
        store = LocalStore(str(root))
        with pytest.raises(AccessDenied, match="leads out"):
            await store.readlink("link")
        with pytest.raises(AccessDenied):
            await store.stat("link/secret")
        with pytest.raises(AccessDenied):
            async for _ in store.list("link"):
                pass

    async def test_an_absolute_target_inside_becomes_relative(self, root: Path) -> None:
        (root / "a/link").symlink_to(root / "a/b/file")
        assert await LocalStore(str(root)).readlink("a/link") == "b/file"

    async def test_the_root_may_be_named_by_another_path(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "other name").symlink_to(root)
        (root / "a/link").symlink_to(tmp_path / "other name" / "a")
        assert await LocalStore(str(root)).readlink("a/link") == "."

    async def test_relative_targets_stay_as_they_are(self, root: Path) -> None:
        for name, target in {"one": "b/file", "two": "../a/b", "dangling": "nothing/here"}.items():
            (root / "a" / name).symlink_to(target)
            assert await LocalStore(str(root)).readlink(f"a/{name}") == target

    async def test_a_loop_is_refused(self, root: Path) -> None:
        (root / "x").symlink_to("y")
        (root / "y").symlink_to("x")
        with pytest.raises(AccessDenied):
            await LocalStore(str(root)).stat("x/file")


class TestThePortableWalk:
    """It must answer as openat2 does, which the store prefers."""

    @pytest.mark.parametrize("key", ["a/b/file", "a", "", "up/a/b/file"])
    def test_it_opens_the_same(self, root: Path, key: str) -> None:
        fd = os.open(root, os.O_PATH)
        with Walk(fd) as walk:
            slow, fast = walk.open(key, os.O_PATH), open_beneath(fd, key, os.O_PATH)
            assert os.path.sameopenfile(slow, fast)
        for each in (slow, fast, fd):
            os.close(each)

    @pytest.mark.parametrize("target", OUTSIDE)
    def test_it_does_not_leave(self, root: Path, target: str) -> None:
        (root / "link").symlink_to(target)
        fd = os.open(root, os.O_PATH)
        with Walk(fd) as walk, pytest.raises(AccessDenied):
            walk.open("link/secret", os.O_RDONLY)
        os.close(fd)

    def test_it_leaves_no_descriptor_open(self, root: Path) -> None:
        before = len(os.listdir("/proc/self/fd"))
        fd = os.open(root, os.O_PATH)
        for key in ("a/b/file", "a/b/file/x", "nothing/x", "up/up/a"):
            with Walk(fd) as walk:
                try:
                    os.close(walk.open(key, os.O_PATH))
                except OSError:
                    continue
        os.close(fd)
        assert len(os.listdir("/proc/self/fd")) == before


class TestVersions:
    async def test_a_file_changed_in_place_is_stale(self, root: Path) -> None:
        store = LocalStore(str(root))
        old = await object_id(store, "a/b/file")
        await store.read(old, Extent(0, 5))
        os.utime(root / "a/b/file", ns=(1, 1))
        with pytest.raises(StaleObject):
            await store.read(old, Extent(0, 5))
        await store.aclose()

    async def test_an_unlinked_file_stays_readable_while_it_is_open(self, root: Path) -> None:
        store = LocalStore(str(root))
        old = await object_id(store, "a/b/file")
        await store.read(old, Extent(0, 5))
        (root / "a/b/file").unlink()
        assert bytes(await store.read(old, Extent(5, 10))) == b"56789"
        await store.aclose()

    async def test_what_is_local_is_told(self, root: Path) -> None:
        (root / "a/b/file").chmod(0o640)
        info = await LocalStore(str(root)).stat("a/b/file")
        found = (root / "a/b/file").stat()
        assert info.local is not None
        assert (info.local.inode, info.local.mode, info.mtime_ns) == (found.st_ino, 0o640, found.st_mtime_ns)

    async def test_closing_gives_back_the_descriptors(self, root: Path) -> None:
        store = LocalStore(str(root))
        before = len(os.listdir("/proc/self/fd"))
        await store.read(await object_id(store, "a/b/file"), Extent(0, 5))
        assert len(os.listdir("/proc/self/fd")) == before + 1
        await store.aclose()
        assert len(os.listdir("/proc/self/fd")) == before


class TestOddFiles:
    async def test_pipes_are_left_out_with_one_warning(self, root: Path, caplog: pytest.LogCaptureFixture) -> None:
        os.mkfifo(root / "pipe")
        os.mkfifo(root / "pipe two")
        store = LocalStore(str(root))
        names = {info.name for page in [page async for page in store.list("")] for info in page}
        assert names == {"a", "up"}
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        with pytest.raises(NotFound):
            await store.stat("pipe")

    async def test_names_that_are_no_utf8(self, root: Path) -> None:
        (Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9"))).write_bytes(b"x")
        store = LocalStore(str(root))
        names = {info.name for page in [page async for page in store.list("")] for info in page}
        assert os.fsdecode(b"caf\xe9") in names
        assert (await store.stat(os.fsdecode(b"caf\xe9"))).size == 1

    async def test_a_root_that_is_made_later_is_seen(self, tmp_path: Path) -> None:
        store = LocalStore(str(tmp_path / "later"))
        with pytest.raises(NotFound, match="mount it"):
            await store.stat("")
        (tmp_path / "later").mkdir()
        assert (await store.stat("")).kind is Kind.DIRECTORY
