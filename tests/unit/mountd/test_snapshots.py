"""Readers of directories: what each reads, and how it goes on by name when a later server lists the directory anew."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from aliasfs.store.base import ObjectInfo, directory_info
from mountd.catalog import Listing
from mountd.inodes import ROOT_INODE
from mountd.noderecords import MAX_CURSORS, CursorRecord, Remembered, header, line_of
from mountd.snapshots import END, Names, Resumed, Snapshots

DIRECTORY = 5


class Pages:
    """Pages of *length* one-letter names; no generator, as nobody has to close it."""

    def __init__(self, names: str, length: int) -> None:
        self._pages = [names[start : start + length] for start in range(0, len(names), length)]

    def __aiter__(self) -> Pages:
        return self

    async def __anext__(self) -> Sequence[ObjectInfo]:
        if not self._pages:
            raise StopAsyncIteration
        return [directory_info(name) for name in self._pages.pop(0)]


async def _listing(names: str, length: int = 2) -> Listing:
    listing = Listing(Pages(names, length), 60)
    await listing.ensure(1)
    return listing


async def _rest(listing: Listing | Resumed, index: int) -> str:
    while await listing.ensure(len(listing.entries) + 1):
        pass
    return "".join(name.decode() for name in listing.names[index:])


async def test_two_readers_of_one_listing_are_two(autojump_clock: MockClock) -> None:
    snapshots, listing = Snapshots(), await _listing("abc")
    first, second = (snapshots.keep(DIRECTORY, listing, 0) for _ in range(2))
    assert first != second
    assert snapshots.keep(DIRECTORY, listing, first + 1) == first
    assert snapshots.get(DIRECTORY, second + 1) is listing
    assert snapshots.get(DIRECTORY, 0) is None
    assert snapshots.get(DIRECTORY + 1, first + 1) is None


async def test_cookies_fit_into_what_the_kernel_takes_for_a_place(autojump_clock: MockClock) -> None:
    snapshots, listing = Snapshots(), await _listing("abc")
    assert all(0 < snapshots.keep(DIRECTORY, listing, 0) + END < 1 << 62 for _ in range(3))


async def test_of_too_many_readers_the_oldest_are_dropped(autojump_clock: MockClock) -> None:
    snapshots, listing = Snapshots(), await _listing("abc")
    first = snapshots.keep(DIRECTORY, listing, 0)
    for _ in range(MAX_CURSORS):
        snapshots.keep(DIRECTORY, listing, 0)
    assert snapshots.get(DIRECTORY, first + 1) is None


async def test_each_name_is_written_down_once_and_nothing_after_the_end(autojump_clock: MockClock) -> None:
    snapshots, listing = Snapshots(), await _listing("abcdef", 6)
    base = snapshots.keep(DIRECTORY, listing, 0)
    generation = base >> 32
    assert snapshots.told(DIRECTORY, 0) is None
    assert snapshots.told(DIRECTORY, base + 2) == CursorRecord(DIRECTORY, generation, 0, "a/b")
    assert snapshots.told(DIRECTORY, base + 2) is None
    assert snapshots.told(DIRECTORY, base + 1) is None
    assert snapshots.told(DIRECTORY, base + 5) == CursorRecord(DIRECTORY, generation, 2, "c/d/e")
    assert list(snapshots.cursors()) == [CursorRecord(DIRECTORY, generation, 0, "a/b/c/d/e")]
    assert snapshots.told(DIRECTORY, base + END) is None
    assert snapshots.finish(DIRECTORY, base + END)
    assert not snapshots.finish(DIRECTORY, base + END)
    assert list(snapshots.cursors()) == []


async def test_of_a_directory_that_is_read_at_once_there_is_nothing_to_write(autojump_clock: MockClock) -> None:
    snapshots, listing = Snapshots(), await _listing("ab")
    base = snapshots.keep(DIRECTORY, listing, 0)
    assert snapshots.told(DIRECTORY, base + END) is None
    assert not snapshots.finish(DIRECTORY, base + END)


async def _resumed(told: str, index: int, fresh: str) -> tuple[Snapshots, Listing | Resumed, int]:
    snapshots = Snapshots()
    snapshots.restore(CursorRecord(DIRECTORY, 9, 0, "/".join(told)), ())
    cookie = (9 << 32) + index
    assert isinstance(snapshots.get(DIRECTORY, cookie), Names)
    return snapshots, snapshots.resume(DIRECTORY, cookie, await _listing(fresh)), cookie


@pytest.mark.parametrize(
    ("told", "index", "fresh", "rest"),
    [
        ("abc", 3, "abcdef", "def"),
        ("abc", 2, "abcdef", "cdef"),
        ("abc", 3, "fedcba", "fed"),
        ("abc", 3, "abXcdYef", "XdYef"),
        ("abc", 3, "def", "def"),
        ("abc", 3, "cab", ""),
        ("abc", 3, "x", "x"),
    ],
)
async def test_a_reader_goes_on_by_name(
    told: str, index: int, fresh: str, rest: str, autojump_clock: MockClock
) -> None:
    snapshots, listing, cookie = await _resumed(told, index, fresh)
    assert await _rest(listing, index) == rest
    assert listing.complete
    assert snapshots.keep(DIRECTORY, listing, cookie) == cookie - index
    assert snapshots.resume(DIRECTORY, cookie, await _listing("other")) is listing


async def test_a_reader_of_whom_too_little_is_known_goes_on_by_index(autojump_clock: MockClock) -> None:
    snapshots, listing, cookie = await _resumed("ab", 3, "abcdef")
    assert await _rest(listing, 3) == "def"
    assert snapshots.keep(DIRECTORY, listing, cookie) != cookie - 3
    assert snapshots.resume(DIRECTORY + 1, cookie, await _listing("xyz")).names == [b"x", b"y"]


async def test_a_new_reader_is_never_taken_for_one_of_before(autojump_clock: MockClock) -> None:
    snapshots, listing = Snapshots(), await _listing("abc")
    upcoming = (snapshots.keep(DIRECTORY, listing, 0) >> 32) + 1
    snapshots.restore(CursorRecord(DIRECTORY, upcoming, 0, "a"), ())
    assert snapshots.keep(DIRECTORY, listing, 0) >> 32 == upcoming + 1


def test_in_the_root_what_was_not_told_yet_comes_next() -> None:
    snapshots = Snapshots()
    snapshots.restore(CursorRecord(ROOT_INODE, 9, 0, "A/B"), [b"C", b"B", b"D"])
    names = snapshots.get(ROOT_INODE, (9 << 32) + 2)
    assert isinstance(names, Names)
    assert list(names.names) == [b"A", b"B", b"C", b"D"]
    assert [cursor.names for cursor in snapshots.cursors()] == ["A/B"]


def test_a_long_directory_is_written_anew_in_pieces_that_make_one_again() -> None:
    names = "/".join(f"{number}\udcff" for number in range(2500))
    snapshots = Snapshots()
    snapshots.restore(CursorRecord(DIRECTORY, 9, 0, names), ())
    pieces = list(snapshots.cursors())
    assert len(pieces) == 3
    lines = [line_of(header("s", 0)), *(line_of({"c": [piece]}) for piece in pieces)]
    remembered = Remembered.of(lines, "s")
    assert remembered is not None
    assert remembered.cursors() == [CursorRecord(DIRECTORY, 9, 0, names)]


@given(st.data())
async def test_through_any_number_of_servers_what_was_there_all_the_time_comes_once(data: st.DataObject) -> None:
    alphabet = st.characters(min_codepoint=97, max_codepoint=122)
    always = data.draw(st.lists(alphabet, unique=True, max_size=12))
    found: list[str] = []
    lines = [line_of(header("s", 0))]
    cookie, at_end = 0, False
    while not at_end:
        remembered = Remembered.of(lines, "s")
        assert remembered is not None
        snapshots = Snapshots()
        for cursor in remembered.cursors():
            snapshots.restore(cursor, ())
        other = data.draw(st.lists(alphabet.map(str.upper), unique=True, max_size=4))
        fresh = "".join(data.draw(st.permutations([*always, *other])))
        listing: Listing | Resumed = Listing(Pages(fresh, 3), 60)
        if cookie:
            listing = snapshots.resume(DIRECTORY, cookie, listing)
        for _ in range(data.draw(st.integers(1, 3))):
            told, cookie = await _read_on(snapshots, listing, cookie, data.draw(st.integers(1, 5)))
            found += told
            at_end = not told
            cursor_now = snapshots.told(DIRECTORY, cookie)
            if cursor_now is not None:
                lines.append(line_of({"c": [cursor_now]}))
    assert sorted(name for name in found if name.islower()) == sorted(always)


async def _read_on(
    snapshots: Snapshots, listing: Listing | Resumed, cookie: int, at_once: int
) -> tuple[list[str], int]:
    index = cookie & END
    await listing.ensure(index + 1)
    base = snapshots.keep(DIRECTORY, listing, cookie)
    told = [os.fsdecode(name) for name in listing.names[index : index + at_once]]
    return told, base + index + len(told)
