"""A file is told from the next one that gets its inode number."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from aliasfs.store.handles import UNKNOWN, fingerprint


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY)
    if fingerprint(fd) == UNKNOWN:
        os.close(fd)
        pytest.skip("this file system gives no handles")
    yield fd
    os.close(fd)


def test_it_stays_with_the_file_and_goes_with_it(directory: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    first = fingerprint(directory, b"file")
    (tmp_path / "file").write_bytes(b"more")
    (tmp_path / "file").rename(tmp_path / "other")
    (tmp_path / "link").hardlink_to(tmp_path / "other")
    assert fingerprint(directory, b"other") == fingerprint(directory, b"link") == first
    with (tmp_path / "other").open("rb") as file:
        assert fingerprint(file.fileno()) == first
    (tmp_path / "link").unlink()
    seen = {first}
    for _ in range(20):
        (tmp_path / "other").unlink()
        (tmp_path / "other").touch()
        seen.add(fingerprint(directory, b"other"))
    assert len(seen) == 21, "inode numbers come again, handles do not"


def test_a_link_is_not_followed_and_what_is_not_there_is_unknown(directory: int, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    assert fingerprint(directory, b"link") not in (UNKNOWN, fingerprint(directory, b"file"))
    assert fingerprint(directory, b"missing") == UNKNOWN
    assert fingerprint(-1) == UNKNOWN
