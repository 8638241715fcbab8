"""One suite for every store: what `aliasfs.store.base` promises, checked against real servers and real files."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing

import pytest
from support.places import PLACES, Place

from aliasfs.errors import CorruptObject, InvalidName, NotADirectory, NotALink, NotFound, StaleObject
from aliasfs.extents import Extent
from aliasfs.store.base import NO_ETAG, Kind, ObjectId, ObjectInfo, Store


@pytest.fixture(params=sorted(PLACES))
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """An empty place of each kind, which another client can write to."""
    made = PLACES[request.param](request)
    yield made
    await made.store.aclose()


@pytest.fixture(params=sorted(name for name, kind in PLACES.items() if kind.flat))
async def flat_place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """An empty place of each kind whose keys need not be paths."""
    made = PLACES[request.param](request)
    yield made
    await made.store.aclose()


async def listed(store: Store, key: str = "") -> dict[str, ObjectInfo]:
    entries: dict[str, ObjectInfo] = {}
    async with aclosing(store.list(key)) as pages:  # type: ignore[type-var]
        async for page in pages:
            assert page, "an empty page says nothing"
            for info in page:
                assert info.name not in entries, f"{info.name!r} came twice"
                entries[info.name] = info
    return entries


def object_id(store: Store, info: ObjectInfo) -> ObjectId:
    return ObjectId(store.target, info.key, info.etag, info.size)


async def content(store: Store, key: str) -> bytes:
    info = await store.stat(key)
    return bytes(await store.read(object_id(store, info), Extent(0, info.size)))


STALE = b"(stale)"


async def old_or_stale(place: Place, old: ObjectId, extent: Extent) -> bytes:
    try:
        return bytes(await place.store.read(old, extent))
    except StaleObject:
        return STALE


class TestStat:
    async def test_a_file(self, place: Place) -> None:
        place.put({"folder/file.bin": b"12345"})
        info = await place.store.stat("folder/file.bin")
        assert (info.key, info.kind, info.size, info.name) == ("folder/file.bin", Kind.FILE, 5, "file.bin")
        assert info.etag != NO_ETAG

    async def test_a_directory_is_what_keys_lie_below(self, place: Place) -> None:
        place.put({"a/b/c": b"x"})
        for key in ("a", "a/b"):
            info = await place.store.stat(key)
            assert (info.key, info.kind, info.size, info.etag) == (key, Kind.DIRECTORY, 0, NO_ETAG)

    async def test_the_root(self, place: Place) -> None:
        place.put({"a": b"x"})
        assert (await place.store.stat("")).kind is Kind.DIRECTORY

    async def test_what_is_not_there(self, place: Place) -> None:
        place.put({"folder/file": b"x"})
        for key in ("nothing", "folder/nothing", "folder/file/nothing", "fold", "no folder/x"):
            with pytest.raises(NotFound):
                await place.store.stat(key)

    async def test_keys_that_are_no_paths(self, place: Place) -> None:
        place.put({"a": b"x"})
        for key in ("../x", "a//b", "./a", "a/..", "/a", "a/", "x\0y"):
            with pytest.raises(InvalidName):
                await place.store.stat(key)

    async def test_an_empty_file(self, place: Place) -> None:
        place.put({"empty": b""})
        info = await place.store.stat("empty")
        assert (info.kind, info.size) == (Kind.FILE, 0)


class TestList:
    async def test_entries_are_what_stat_says(self, place: Place) -> None:
        place.put({"top": b"1", "d/one": b"22", "d/two": b"333", "d/deep/three": b"4444", "z/x": b""})
        root = await listed(place.store)
        assert set(root) == {"top", "d", "z"}
        entries = await listed(place.store, "d")
        assert set(entries) == {"one", "two", "deep"}
        for info in (*root.values(), *entries.values()):
            assert info == await place.store.stat(info.key)

    async def test_a_file_is_no_directory(self, place: Place) -> None:
        place.put({"file": b"x"})
        with pytest.raises(NotADirectory):
            await listed(place.store, "file")

    async def test_what_is_not_there(self, place: Place) -> None:
        place.put({"file": b"x"})
        for key in ("nothing", "file/nothing"):
            with pytest.raises(NotFound):
                await listed(place.store, key)

    async def test_names_of_every_kind(self, place: Place) -> None:
        names = [
            "with space",
            "plus+sign",
            "percent%20sign",
            "per%cent",
            "hash#sign",
            "question?mark",
            "ünïcödé",
            "日本語",
            "e\u0301-decomposed",
            "quote'\"s",
            "a&b<c>;",
            "~tilde*star",
            "[brackets]{braces}",
            "...",
            "-dash",
            "a=b,c@d!$^",
            "tab\tand\nnewline",
        ]
        wanted = [name for name in names if place.can_hold(name)]
        place.put({f"odd names/{name}": name.encode() for name in wanted})
        entries = await listed(place.store, "odd names")
        assert sorted(entries) == sorted(wanted)
        for name in wanted:
            assert await content(place.store, f"odd names/{name}") == name.encode(), name

    async def test_pages(self, place: Place) -> None:
        wanted = {f"big/{number:04d}": b"" for number in range(2500)}
        place.put(wanted)
        entries = await listed(place.store, "big")
        assert {f"big/{name}" for name in entries} == set(wanted)

    async def test_stopping_early(self, place: Place) -> None:
        place.put({f"d/{number}": b"" for number in range(10)})
        async with aclosing(place.store.list("d")) as pages:  # type: ignore[type-var]
            async for _ in pages:
                break


class TestRead:
    @pytest.mark.parametrize(("start", "stop"), [(0, 10), (0, 1), (9, 10), (3, 7)])
    async def test_ranges(self, place: Place, start: int, stop: int) -> None:
        place.put({"f": b"0123456789"})
        info = await place.store.stat("f")
        got = await place.store.read(object_id(place.store, info), Extent(start, stop))
        assert bytes(got) == b"0123456789"[start:stop]

    async def test_by_the_etag_of_a_listing(self, place: Place) -> None:
        place.put({"d/f": b"0123456789"})
        info = (await listed(place.store, "d"))["f"]
        assert bytes(await place.store.read(object_id(place.store, info), Extent(2, 4))) == b"23"

    async def test_a_replaced_object_is_stale(self, place: Place) -> None:
        place.put({"f": b"old bytes"})
        old = object_id(place.store, await place.store.stat("f"))
        assert bytes(await place.store.read(old, Extent(0, 3))) == b"old"
        place.put({"f": b"new bytes!"})
        assert await old_or_stale(place, old, Extent(0, 3)) in (STALE, b"old" if place.keeps_open_files else STALE)
        assert await content(place.store, "f") == b"new bytes!"

    async def test_a_shrunk_object_is_stale(self, place: Place) -> None:
        place.put({"f": b"long enough"})
        old = object_id(place.store, await place.store.stat("f"))
        place.put({"f": b"x"})
        assert await old_or_stale(place, old, Extent(5, 9)) == STALE

    async def test_a_removed_object(self, place: Place) -> None:
        place.put({"f": b"bytes", "other": b"x"})
        old = object_id(place.store, await place.store.stat("f"))
        place.remove("f")
        with pytest.raises((NotFound, StaleObject)):
            await place.store.read(old, Extent(0, 3))

    async def test_a_size_that_was_never_announced_is_refused(self, place: Place) -> None:
        place.put({"f": b"12345"})
        info = await place.store.stat("f")
        wrong = ObjectId(place.store.target, "f", info.etag, 9)
        with pytest.raises((CorruptObject, StaleObject)):
            await place.store.read(wrong, Extent(0, 9))

    async def test_megabytes(self, place: Place) -> None:
        body = bytes(range(256)) * 20_000
        place.put({"f": body})
        info = await place.store.stat("f")
        got = await place.store.read(object_id(place.store, info), Extent(1_000_001, 5_000_001))
        assert bytes(got) == body[1_000_001:5_000_001]


class TestTheRest:
    async def test_readlink_of_what_is_no_link(self, place: Place) -> None:
        place.put({"d/f": b"x"})
        for key in ("d/f", "d"):
            with pytest.raises(NotALink):
                await place.store.readlink(key)
        with pytest.raises(NotFound):
            await place.store.readlink("nothing")

    async def test_a_place_that_does_not_exist(self, place: Place) -> None:
        store = place.missing()
        try:
            for call in (store.stat(""), store.stat("x"), listed(store)):
                with pytest.raises(NotFound):
                    await call
        finally:
            await store.aclose()

    async def test_closing_twice(self, place: Place) -> None:
        place.put({"f": b"x"})
        await place.store.stat("f")
        await place.store.aclose()
        await place.store.aclose()

    async def test_the_target_names_the_place_and_no_credential(self, place: Place) -> None:
        assert place.store.target
        assert isinstance(place.store, Store)
        for secret in place.secrets:
            assert secret not in place.store.target
            assert secret not in repr(place.store)


def left_out(records: Iterable[logging.LogRecord]) -> list[str]:
    return [record.getMessage() for record in records if record.levelno == logging.WARNING]


class TestKeysThatNoFileSystemHas:
    async def test_they_are_left_out_with_one_warning(
        self, flat_place: Place, caplog: pytest.LogCaptureFixture
    ) -> None:
        odd = [
            key for key in ("d//x", "d/./x", "d/../x", "d/" + "n" * 300, "d/" + "ü" * 200) if flat_place.can_hold(key)
        ]
        flat_place.put({"d/good": b"1", **dict.fromkeys(odd, b"2")})
        with caplog.at_level(logging.WARNING):
            assert set(await listed(flat_place.store, "d")) == {"good"}
        assert len(left_out(caplog.records)) == (1 if odd else 0)

    async def test_a_directory_hides_the_object_of_its_name(
        self, flat_place: Place, caplog: pytest.LogCaptureFixture
    ) -> None:
        flat_place.put({"d/a": b"1", "d/a-b": b"2", "d/a.txt": b"3", "d/a/x": b"4"})
        with caplog.at_level(logging.WARNING):
            entries = await listed(flat_place.store, "d")
        assert {name: info.kind for name, info in entries.items()} == {
            "a": Kind.DIRECTORY,
            "a-b": Kind.FILE,
            "a.txt": Kind.FILE,
        }
        assert len(left_out(caplog.records)) == 1
        assert (await flat_place.store.stat("d/a")).kind is Kind.DIRECTORY

    async def test_a_marker_is_the_directory_itself(self, flat_place: Place) -> None:
        flat_place.put({"d/": b"", "d/sub/": b"", "d/f": b"x"})
        assert {name: info.kind for name, info in (await listed(flat_place.store, "d")).items()} == {
            "f": Kind.FILE,
            "sub": Kind.DIRECTORY,
        }
        assert (await flat_place.store.stat("d/sub")).kind is Kind.DIRECTORY
        assert await listed(flat_place.store, "d/sub") == {}
