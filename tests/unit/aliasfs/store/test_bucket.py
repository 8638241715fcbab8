"""How raw pages become a directory, however they are cut."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aliasfs.store.base import Etag, Kind
from aliasfs.store.bucket import Listing, RawObject, RawPage, content_range


def raw(key: str) -> RawObject:
    return RawObject(key, 1, 0, Etag('"e"'))


@given(
    names=st.sets(st.text(st.sampled_from("ab-./!0"), min_size=1, max_size=4).filter(lambda n: "/" not in n)),
    directories=st.sets(st.text(st.sampled_from("ab-.!0"), min_size=1, max_size=4)),
    page_size=st.integers(1, 5),
)
def test_each_name_comes_once_and_directories_win(names: set[str], directories: set[str], page_size: int) -> None:
    hidden = {".", ".."}
    entries = sorted([*(f"p/{name}" for name in names), *(f"p/{name}/" for name in directories)])
    pages = [entries[i : i + page_size] for i in range(0, len(entries), page_size)] or [[]]
    listing = Listing("s3://b", "d", "p/")
    found = []
    for number, page in enumerate(pages):
        objects = [raw(key) for key in page if not key.endswith("/")]
        prefixes = [key for key in page if key.endswith("/")]
        found += listing.add(RawPage(objects, prefixes, None if number == len(pages) - 1 else "more"))
    assert sorted(info.name for info in found) == sorted((names | directories) - hidden)
    assert {info.name for info in found if info.kind is Kind.DIRECTORY} == directories - hidden
    assert all(info.key == f"d/{info.name}" for info in found)


def test_what_is_left_out_is_counted_in_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    listing = Listing("s3://b", "d", "d/")
    page = RawPage([raw("d/."), raw("d/" + "n" * 256), raw("d/a"), raw("d/x\0y")], ["d//", "d/a/"], None)
    assert [info.name for info in listing.add(page)] == ["a"]
    listing.finish()
    assert len(caplog.records) == 1
    assert caplog.records[0].levelno == logging.WARNING
    said = caplog.records[0].getMessage()
    for part in ("s3://b/d", "1 with '//'", "1 named '.'", "1 longer than 255 bytes", "1 with a NUL", "1 hidden by"):
        assert part in said


@pytest.mark.parametrize(
    ("header", "meaning"),
    [("bytes 5-9/20", (5, 20)), ("", (-1, -1)), ("bytes */20", (-1, -1)), ("bytes 5-9/*", (-1, -1))],
)
def test_content_range(header: str, meaning: tuple[int, int]) -> None:
    assert content_range(header) == meaning
