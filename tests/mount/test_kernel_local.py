"""A local directory through the kernel: what programs see, and what they are refused."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Mounting
from support.mounted import Mounted

ALWAYS_ASK = {"ttl": 0}
NOBODY = 65534


@pytest.fixture
def point(mount: Mounting, source: Path) -> Path:
    return mount({"L": {"url": str(source), **ALWAYS_ASK}}).point / "L"


def test_a_tree_is_shown_read_and_copied_as_it_is(point: Path, source: Path, tmp_path: Path) -> None:
    (source / "big").write_bytes(os.urandom(5_000_000))
    for name in (b"\xff\xfe", b"new\nline", b"n" * 255, "ü".encode() * 127, b"-rf"):
        (source / os.fsdecode(name)).write_bytes(name)
    assert sorted(os.listdir(point)) == sorted(os.listdir(source))
    assert subprocess.run(["diff", "-r", point, source], check=False).returncode == 0
    shutil.copytree(point, tmp_path / "copy")
    assert (tmp_path / "copy" / "big").read_bytes() == (source / "big").read_bytes()


WRITES: dict[str, Callable[[Path], object]] = {
    "open for writing": lambda root: os.open(root / "file", os.O_WRONLY),
    "open for both": lambda root: os.open(root / "file", os.O_RDWR),
    "truncate on open": lambda root: os.open(root / "file", os.O_RDONLY | os.O_TRUNC),
    "append": lambda root: (root / "file").open("ab"),
    "create": lambda root: os.open(root / "new", os.O_CREAT | os.O_WRONLY),
    "create in a directory": lambda root: (root / "dir" / "new").touch(),
    "truncate": lambda root: os.truncate(root / "file", 3),
    "unlink": lambda root: (root / "file").unlink(),
    "rmdir": lambda root: (root / "dir").rmdir(),
    "mkdir": lambda root: (root / "new").mkdir(),
    "rename": lambda root: (root / "file").rename(root / "other"),
    "rename the alias": lambda root: root.rename(root.with_name("OTHER")),
    "link": lambda root: (root / "other").hardlink_to(root / "file"),
    "symlink": lambda root: (root / "other").symlink_to("file"),
    "chmod": lambda root: (root / "file").chmod(0o600),
    "chown": lambda root: os.chown(root / "file", 1, 1),
    "utime": lambda root: os.utime(root / "file"),
    "setxattr": lambda root: os.setxattr(root / "file", "user.x", b"y"),
    "removexattr": lambda root: os.removexattr(root / "file", "user.aliasfs.etag"),
    "mknod": lambda root: os.mkfifo(root / "pipe"),
    "mkdir in the root": lambda root: (root.parent / "NEW").mkdir(),
    "rmdir an alias": lambda root: root.rmdir(),
}


def test_every_way_to_write_is_refused_with_erofs(point: Path, source: Path) -> None:
    before = {path: path.lstat().st_mtime_ns for path in source.rglob("*")}
    answers: dict[str, str] = {}
    for how, write in WRITES.items():
        with pytest.raises(OSError) as caught:
            write(point)
        answers[how] = errno.errorcode[caught.value.errno or 0]
    assert answers == dict.fromkeys(WRITES, "EROFS")
    assert {path: path.lstat().st_mtime_ns for path in source.rglob("*")} == before


def test_changes_of_the_source_are_seen_at_once_when_ttl_is_0(point: Path, source: Path) -> None:
    assert (point / "file").read_bytes() == b"0123456789"
    (source / "file").write_bytes(b"abcdefghij")
    assert (point / "file").read_bytes() == b"abcdefghij"
    (source / "file").write_bytes(b"longer than before")
    assert (point / "file").read_bytes() == b"longer than before"
    (source / "new").write_bytes(b"new")
    assert sorted(os.listdir(point)) == ["dir", "file", "new"]
    (source / "new").unlink()
    with pytest.raises(FileNotFoundError):
        (point / "new").read_bytes()
    (source / "file").unlink()
    (source / "file").mkdir()
    assert os.listdir(point / "file") == []


def test_what_is_open_while_its_file_changes(point: Path, source: Path) -> None:
    (source / "kept").write_bytes(b"k" * 300_000)
    (source / "written").write_bytes(b"w" * 300_000)
    with (point / "kept").open("rb", buffering=0) as kept, (point / "written").open("rb", buffering=0) as written:
        assert kept.read(10) == b"k" * 10
        assert written.read(10) == b"w" * 10
        (source / "fresh").write_bytes(b"f" * 300_000)
        (source / "fresh").rename(source / "kept")
        kept.seek(200_000)
        assert set(kept.read(1000)) == {ord("k")}
        with (source / "written").open("ab") as file:
            file.write(b"tail")
        os.stat(point / "written")
        written.seek(300_000)
        assert written.read() == b"tail"
    assert (point / "kept").read_bytes() == b"f" * 300_000


def test_links_in_and_out_of_the_root(point: Path, source: Path) -> None:
    outside = source.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    links = {
        "near": "dir/inner",
        "absolute": str(source / "file"),
        "folder": "dir",
        "out": str(outside / "secret"),
        "out-by-dots": "../outside/secret",
        "out-folder": str(outside),
        "dangling": "nothing",
        "loop": "loop",
    }
    for name, target in links.items():
        (source / name).symlink_to(target)
    (source / "dir" / "up").symlink_to("../file")
    assert (point / "near").read_bytes() == b"inner"
    assert (point / "absolute").read_bytes() == b"0123456789"
    assert (point / "folder" / "inner").read_bytes() == b"inner"
    assert (point / "dir" / "up").read_bytes() == b"0123456789"
    for name in ("out", "out-by-dots", "out-folder/secret"):
        with pytest.raises(PermissionError):
            (point / name).read_bytes()
    with pytest.raises(FileNotFoundError):
        (point / "dangling").read_bytes()
    with pytest.raises(OSError, match=r"symbolic links|Permission denied"):
        (point / "loop").read_bytes()
    assert stat.S_ISLNK((point / "out").lstat().st_mode)


def test_a_name_of_256_bytes_is_too_long(point: Path) -> None:
    with pytest.raises(OSError) as caught:
        (point / ("n" * 256)).stat()
    assert caught.value.errno == errno.ENAMETOOLONG


def test_attributes_are_those_of_the_disk(point: Path, source: Path) -> None:
    (source / "file").chmod(0o640)
    os.chown(source / "file", 1234, 4321)
    os.utime(source / "file", ns=(1, 1_600_000_000_123_456_789))
    seen, real = (point / "file").stat(), (source / "file").stat()
    assert (seen.st_mode, seen.st_uid, seen.st_gid) == (real.st_mode, real.st_uid, real.st_gid)
    assert (seen.st_size, seen.st_mtime_ns) == (real.st_size, real.st_mtime_ns)
    assert seen.st_ino != 0


def test_extended_attributes(point: Path, source: Path) -> None:
    file = point / "dir" / "inner"
    assert set(os.listxattr(file)) == {f"user.aliasfs.{name}" for name in ("alias", "url", "etag", "cached_bytes")}
    assert os.getxattr(file, "user.aliasfs.url") == os.fsencode(source / "dir" / "inner")
    assert os.getxattr(point, "user.aliasfs.alias") == b"L"
    assert os.listxattr(point.parent) == []
    with pytest.raises(OSError) as caught:
        os.getxattr(file, "user.none")
    assert caught.value.errno == errno.ENODATA
    with pytest.raises(OSError) as caught:
        os.getxattr(file, "security.capability")
    assert caught.value.errno in (errno.ENODATA, errno.EOPNOTSUPP)


def test_statfs(point: Path) -> None:
    room = os.statvfs(point)
    assert room.f_blocks * room.f_frsize > 10**12
    assert room.f_namemax == 255
    assert room.f_flag & os.ST_RDONLY


def test_mmap_and_direct_reads(point: Path, source: Path) -> None:
    content = os.urandom(3 * mmap.PAGESIZE + 17)
    (source / "mapped").write_bytes(content)
    with (point / "mapped").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        assert view[:] == content
        with pytest.raises(OSError):
            mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_WRITE)
    fd = os.open(point / "mapped", os.O_RDONLY | os.O_DIRECT)
    try:
        buffer = mmap.mmap(-1, 4 * mmap.PAGESIZE)
        assert os.preadv(fd, [buffer], 0) == len(content)
        assert buffer[: len(content)] == content
    finally:
        os.close(fd)


def test_a_directory_can_be_read_again_from_any_place(point: Path, source: Path) -> None:
    for index in range(3000):
        (source / "dir" / f"{index:04}").touch()
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(point / "dir", os.O_RDONLY)
    try:
        buffer = ctypes.create_string_buffer(2000)
        first = libc.syscall(217, fd, buffer, 2000)  # getdents64
        assert first > 0
        os.lseek(fd, 0, os.SEEK_SET)
        assert libc.syscall(217, fd, buffer, 2000) == first
    finally:
        os.close(fd)
    assert len(os.listdir(point / "dir")) == 3001


def test_20_000_files_are_listed_and_then_stated_without_asking_again(point: Path, source: Path) -> None:
    for index in range(20_000):
        (source / "dir" / f"{index:05}").touch()
    with os.scandir(point / "dir") as entries:
        assert sum(entry.is_file() for entry in entries) == 20_001


def _as_nobody(*command: str | Path) -> subprocess.CompletedProcess[str]:
    setpriv = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    return subprocess.run([*setpriv, *map(str, command)], capture_output=True, text=True, check=False)


def _opened_to_all(folder: Path) -> None:
    for parent in (folder, *folder.parents[:-2]):
        parent.chmod(0o755)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_other_users_get_what_the_permission_bits_give_them(mount: Mounting, source: Path) -> None:
    (source / "private").write_bytes(b"private")
    (source / "private").chmod(0o600)
    (source / "shut").mkdir(mode=0o700)
    (source / "shut" / "inside").write_bytes(b"inside")
    (source / "file").chmod(0o644)
    open_to_all: Mounted = mount({"L": {"url": str(source), **ALWAYS_ASK}}, "--allow-other")
    _opened_to_all(open_to_all.point.parent)
    root = open_to_all.point / "L"
    assert _as_nobody("cat", root / "file").stdout == "0123456789"
    for path in ("private", "shut/inside"):
        assert "Permission denied" in _as_nobody("cat", root / path).stderr
        assert (root / path).read_bytes()
    assert "Permission denied" in _as_nobody("ls", root / "shut").stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_without_allow_other_nobody_else_gets_in(mount: Mounting, source: Path) -> None:
    shut = mount({"L": str(source)})
    _opened_to_all(shut.point.parent)
    assert "Permission denied" in _as_nobody("ls", shut.point).stderr
    assert os.listdir(shut.point) == ["L"]
