"""`ls`, `cat` and `stat` on a local alias as they are typed; ranges on a store in memory."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aliasfs import errors
from aliasfs.cli import files
from aliasfs.cli.app import build
from aliasfs.cli.files import copy_ranges, parse_location
from aliasfs.extents import Extent
from aliasfs.registry import Location
from aliasfs.store.memory import MemoryStore


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory behind the alias D."""
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "a.txt").write_bytes(b"0123456789")
    os.utime(root / "a.txt", ns=(0, 1_700_000_000 * 10**9))
    (tmp_path / "outside").write_text("not yours")
    for link, target in {
        "link": "a.txt",
        "sub/up": "../link",
        "absolute": root / "a.txt",
        "out": "../outside",
        "away": "/etc/passwd",
        "loop": "loop",
        "dir": "sub",
    }.items():
        (root / link).symlink_to(target)
    config = tmp_path / "config.yaml"
    config.write_text(f"aliases:\n  D: {root}\n")
    monkeypatch.setenv("ALIASFS_CONFIG", str(config))
    return root


def typed(*arguments: str) -> bytes:
    result = CliRunner().invoke(build(), arguments)
    if result.exception is not None:
        raise result.exception
    return result.stdout_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NAME", Location("NAME", "")),
        ("NAME/", Location("NAME", "")),
        ("NAME/a/b", Location("NAME", "a/b")),
        ("NAME/a/", Location("NAME", "a")),
        ("<NAME>/a", Location("NAME", "a")),
        ("<NAME>", Location("NAME", "")),
    ],
)
def test_spellings_of_a_place(text: str, expected: Location) -> None:
    assert parse_location(text) == expected


@pytest.mark.parametrize("text", ["D/../etc", "D/a//b", "D/./a"])
def test_places_that_cannot_be(text: str) -> None:
    with pytest.raises(errors.InvalidName, match="no part of a path"):
        parse_location(text)


def test_ls_without_a_place_lists_the_aliases(root: Path) -> None:
    assert typed("ls") == b"D/\n"
    assert typed("ls", "-l").decode() == f"D/\t{root}\n"
    assert json.loads(typed("ls", "--json")) == {"name": "D", "url": str(root)}


def test_ls_of_a_directory(root: Path) -> None:
    (root / os.fsdecode(b"caf\xe9")).touch()  # Latin-1, as old disks have it
    assert sorted(typed("ls", "D").splitlines()) == sorted(
        [b"a.txt", b"sub/", b"link", b"absolute", b"out", b"away", b"loop", b"dir", b"caf\xe9"]
    )
    assert typed("ls", "D/dir") == typed("ls", "<D>/sub/") == b"up\n"
    assert typed("ls", "-l", "D/a.txt") == b"f             10 2023-11-14T22:13:20Z a.txt\n"
    assert {json.loads(line)["kind"] for line in typed("ls", "--json", "D").splitlines()} == {
        "file",
        "directory",
        "symlink",
    }


def test_cat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "RANGE_BYTES", 3)
    assert typed("cat", "D/a.txt") == b"0123456789"
    assert typed("cat", "D/a.txt", "--offset", "4") == b"456789"
    assert typed("cat", "D/a.txt", "--offset", "4", "--length", "4") == b"4567"
    assert typed("cat", "D/a.txt", "--offset", "99") == b""
    assert typed("cat", "D/a.txt", "--length", "0") == b""
    for link in ("link", "absolute", "sub/up"):
        assert typed("cat", f"D/{link}") == b"0123456789"


@pytest.mark.parametrize(
    ("place", "kind", "sentence"),
    [
        ("D/sub", errors.IsADirectory, "'aliasfs ls D/sub' lists it"),
        ("D/none", errors.NotFound, "none"),
        ("X/none", errors.UnknownAlias, "no alias is named X"),
        ("D/out", errors.AccessDenied, "link.* leads out of the alias"),
        ("D/away", errors.AccessDenied, "link.* leads out of the alias"),
        ("D/loop", errors.AccessDenied, "symbolic links"),
    ],
)
def test_cat_of_what_is_no_file_of_the_alias(place: str, kind: type[Exception], sentence: str) -> None:
    with pytest.raises(kind, match=sentence):
        typed("cat", place)


def test_stat(root: Path) -> None:
    facts = json.loads(typed("stat", "D/a.txt", "--json"))
    assert facts["url"] == f"{root}/a.txt"
    assert (facts["kind"], facts["size"], facts["modified"]) == ("file", 10, "2023-11-14T22:13:20Z")
    assert facts["inode"] == (root / "a.txt").stat().st_ino
    assert b"kind\tsymlink\n" in typed("stat", "D/link")
    assert b"kind\tdirectory\n" in typed("stat", "D")


async def test_ranges_arrive_in_order_and_several_are_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "RANGE_BYTES", 10)
    store = MemoryStore()
    store.put("k", bytes(range(256)))
    written: list[bytes] = []
    await copy_ranges(store, await store.stat("k"), Extent(5, 251), lambda piece: written.append(bytes(piece)))
    assert b"".join(written) == bytes(range(5, 251))
    assert [len(piece) for piece in written] == [10] * 24 + [6]


async def test_a_file_that_is_replaced_meanwhile_is_not_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "RANGE_BYTES", 10)
    store = MemoryStore()
    store.put("k", b"old" * 100)
    info = await store.stat("k")
    written = bytearray()

    def write(piece: bytes) -> None:
        written.extend(piece)
        store.put("k", b"new" * 100)

    with pytest.raises(errors.StaleObject):
        await copy_ranges(store, info, Extent(0, 300), write)
    assert (b"old" * 100).startswith(written)


async def test_a_reader_that_goes_away_ends_the_copy() -> None:
    store = MemoryStore()
    store.put("k", b"x")

    def refuse(piece: bytes) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        await copy_ranges(store, await store.stat("k"), Extent(0, 1), refuse)
