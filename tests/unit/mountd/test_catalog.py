"""Names are remembered for exactly `ttl`, asked for once, and kept while the store is away."""

from __future__ import annotations

import gc
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing

import pytest
import trio
from trio.testing import MockClock

from aliasfs.errors import AccessDenied, NotADirectory, NotFound, StoreTimeout, StoreUnavailable
from aliasfs.store.base import Kind, ObjectInfo
from aliasfs.store.memory import MemoryStore
from mountd.catalog import (
    ABANDONED_AFTER_S,
    LIST_AFTER_MISSES,
    LIST_AHEAD_PAGES,
    MAX_LISTINGS,
    UNREACHABLE_VALIDITY_S,
    Catalog,
    CatalogSettings,
    Known,
    Listing,
)

TTL_S = 60.0
NO_LIST = CatalogSettings(list_ahead=False)


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    store.put("d/a", b"first")
    return store


Making = Callable[..., Catalog]


@pytest.fixture
async def make() -> AsyncIterator[Making]:
    """Makes catalogs, and closes them when the test ends."""
    made: list[Catalog] = []

    def new(store: MemoryStore, ttl_s: float = TTL_S, settings: CatalogSettings | None = None) -> Catalog:
        made.append(Catalog(store, ttl_s, settings))
        return made[-1]

    yield new
    for catalog in made:
        await catalog.aclose()


def _size(known: Known) -> int | None:
    return None if known.info is None else known.info.size


async def _all(listing: Listing) -> list[str]:
    while await listing.ensure(len(listing.entries) + 1):
        pass
    return [info.name for info in listing.entries]


# ttl


async def test_an_answer_is_kept_for_the_ttl_and_not_a_moment_longer(
    make: Making, store: MemoryStore, autojump_clock: MockClock
) -> None:
    catalog = make(store)
    assert _size(await catalog.stat("d/a")) == 5
    store.put("d/a", b"second")
    autojump_clock.jump(TTL_S - 0.001)
    assert _size(await catalog.stat("d/a")) == 5
    autojump_clock.jump(0.001)
    assert _size(await catalog.stat("d/a")) == 6
    assert store.requests["stat"] == 2
    assert catalog.statistics().hits == 1


async def test_age_counts_from_the_question_not_from_the_answer(
    make: Making, store: MemoryStore, autojump_clock: MockClock
) -> None:
    catalog = make(store)
    store.faults.delay("stat", 10)
    asked_at = trio.current_time()
    assert (await catalog.stat("d/a")).expires_at == asked_at + TTL_S


async def test_that_a_name_does_not_exist_is_remembered_as_long(
    make: Making, store: MemoryStore, autojump_clock: MockClock
) -> None:
    catalog = make(store, TTL_S, NO_LIST)
    assert (await catalog.stat("d/new")).info is None
    store.put("d/new", b"x")
    autojump_clock.jump(TTL_S - 1)
    assert (await catalog.stat("d/new")).info is None
    autojump_clock.jump(1)
    assert _size(await catalog.stat("d/new")) == 1


async def test_ttl_0_always_asks(make: Making, store: MemoryStore, autojump_clock: MockClock) -> None:
    catalog = make(store, 0)
    for content in (b"1", b"22", b"333"):
        store.put("d/a", content)
        assert _size(await catalog.stat("d/a")) == len(content)
        assert [info.size for info in (await catalog.listing("d")).entries] == [len(content)]
    assert store.requests == {"stat": 3, "list": 3}


async def test_ttl_0_does_not_share_a_request_that_began_before(
    make: Making, store: MemoryStore, autojump_clock: MockClock
) -> None:
    catalog = make(store, 0)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(catalog.stat, "d/a")
    assert store.requests["stat"] == 3


async def test_a_new_ttl_holds_at_once(make: Making, store: MemoryStore, autojump_clock: MockClock) -> None:
    catalog = make(store, 3600)
    await catalog.stat("d/a")
    await catalog.listing("d")
    store.put("d/a", b"second")
    catalog.set_ttl(1)
    assert _size(await catalog.stat("d/a")) == 6
    assert [info.size for info in (await catalog.listing("d")).entries] == [6]


# single flight


async def test_many_who_ask_the_same_share_one_request(
    make: Making, store: MemoryStore, autojump_clock: MockClock
) -> None:
    catalog = make(store)
    store.faults.delay("stat", 1)
    store.faults.delay("list", 1)
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(catalog.stat, "d/a")
            nursery.start_soon(catalog.listing, "d")
    assert store.requests == {"stat": 1, "list": 1}


@pytest.mark.parametrize("question", ["stat", "listing"])
async def test_many_who_ask_a_dead_store_wait_for_one_deadline_not_one_after_another(
    make: Making, store: MemoryStore, autojump_clock: MockClock, question: str
) -> None:
    catalog = make(store)
    for operation in ("stat", "list"):
        store.faults.delay(operation, 30)  # type: ignore[arg-type]
        store.faults.fail(operation, StoreTimeout, times=100)  # type: ignore[arg-type]
    failures = 0

    async def ask() -> None:
        nonlocal failures
        with pytest.raises(StoreTimeout):
            await getattr(catalog, question)("d/a" if question == "stat" else "d")
        failures += 1

    before = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(ask)
    assert failures == 16
    assert trio.current_time() - before <= 60


async def test_one_who_gives_up_does_not_take_the_others_along(
    make: Making, store: MemoryStore, autojump_clock: MockClock
) -> None:
    catalog = make(store)
    store.faults.delay("stat", 5)
    sizes: list[int | None] = []

    async def ask() -> None:
        sizes.append(_size(await catalog.stat("d/a")))

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(1):
            async with trio.open_nursery() as impatient:
                impatient.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(ask)
    assert sizes == [5]


# lists


async def test_a_complete_listing_answers_for_its_names_and_for_those_it_lacks(
    make: Making, store: MemoryStore, autojump_clock: MockClock
) -> None:
    catalog = make(store)
    assert await _all(await catalog.listing("d")) == ["a"]
    assert _size(await catalog.stat("d/a")) == 5
    assert (await catalog.stat("d/b")).info is None
    assert store.requests["stat"] == 0
    autojump_clock.jump(TTL_S)
    store.put("d/b", b"")
    assert _size(await catalog.stat("d/b")) == 0


async def test_names_that_have_not_arrived_yet_are_asked_for(make: Making, autojump_clock: MockClock) -> None:
    store = MemoryStore(page_keys=2)
    for name in "abcde":
        store.put(name, b"x")
    catalog = make(store)
    listing = await catalog.listing("")
    assert len(listing.entries) == 2
    assert _size(await catalog.stat("e")) == 1
    assert _size(await catalog.stat("b")) == 1
    assert store.requests["stat"] == 1
    assert await _all(listing) == list("abcde")


async def test_pages_are_pulled_only_as_they_are_read(make: Making, autojump_clock: MockClock) -> None:
    store = MemoryStore(page_keys=10)
    for index in range(100):
        store.put(f"{index:03}", b"")
    listing = await make(store).listing("")
    assert store.requests["list"] == 1
    await listing.ensure(15)
    assert store.requests["list"] == 2
    assert len(await _all(listing)) == 100


async def test_two_readers_of_one_listing_do_not_pull_a_page_twice(make: Making, autojump_clock: MockClock) -> None:
    store = MemoryStore(page_keys=10)
    for index in range(100):
        store.put(f"{index:03}", b"")
    store.faults.delay("list", 1)
    catalog = make(store)
    seen: list[list[str]] = []

    async def read() -> None:
        seen.append(await _all(await catalog.listing("")))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(read)
    assert seen == [[f"{index:03}" for index in range(100)]] * 5
    assert store.requests["list"] == 10


async def test_a_directory_is_listed_when_several_of_its_names_were_asked_for(
    make: Making, autojump_clock: MockClock
) -> None:
    store = MemoryStore()
    for index in range(500):
        store.put(f"d/{index}", b"x")
    catalog = make(store)
    for index in range(500):
        assert _size(await catalog.stat(f"d/{index}")) == 1
    assert (await catalog.stat("d/none")).info is None
    assert store.requests == {"stat": LIST_AFTER_MISSES - 1, "list": 1}


async def test_a_huge_directory_is_not_listed_whole_to_answer_for_a_name(
    make: Making, autojump_clock: MockClock
) -> None:
    store = MemoryStore(page_keys=1)
    for index in range(100):
        store.put(f"d/{index:03}", b"x")
    catalog = make(store)
    for index in range(90, 100):
        assert _size(await catalog.stat(f"d/{index:03}")) == 1
    assert store.requests["list"] <= LIST_AHEAD_PAGES + 1


async def test_when_listing_is_not_allowed_lookups_still_work(
    make: Making, store: MemoryStore, autojump_clock: MockClock
) -> None:
    store.faults.fail("list", AccessDenied, times=100)
    catalog = make(store)
    for name in ("d/x", "d/y", "d/z", "d/w", "d/a"):
        assert (await catalog.stat(name)).info is None or name == "d/a"


async def test_the_errors_of_a_listing_come_before_its_first_page(
    make: Making, store: MemoryStore, autojump_clock: MockClock
) -> None:
    catalog = make(store)
    with pytest.raises(NotADirectory):
        await catalog.listing("d/a")
    with pytest.raises(NotFound):
        await catalog.listing("nowhere")
    store.put("nowhere/now", b"")
    assert await _all(await catalog.listing("nowhere")) == ["now"]


async def test_a_listing_that_broke_off_is_not_remembered(make: Making, autojump_clock: MockClock) -> None:
    store = MemoryStore(page_keys=1)
    for name in "abc":
        store.put(name, b"")
    catalog = make(store)
    listing = await catalog.listing("")
    store.faults.fail("list", StoreUnavailable)
    with pytest.raises(StoreUnavailable):
        await listing.ensure(3)
    with pytest.raises(StoreUnavailable):
        await listing.ensure(3)
    assert await _all(await catalog.listing("")) == ["a", "b", "c"]
    assert (await catalog.stat("zz")).info is None


async def test_a_reader_who_gives_up_in_the_middle_of_a_page_breaks_nothing(
    make: Making, autojump_clock: MockClock
) -> None:
    store = MemoryStore(page_keys=1)
    for name in "abc":
        store.put(name, b"")
    catalog = make(store)
    listing = await catalog.listing("")
    store.faults.delay("list", 5)
    with trio.move_on_after(1) as scope:
        await listing.ensure(3)
    assert scope.cancelled_caught
    store.faults.clear()
    assert await _all(await catalog.listing("")) == ["a", "b", "c"]


@pytest.mark.parametrize("ttl_s", [0.0, TTL_S])
async def test_listings_that_nobody_reads_to_the_end_leave_nothing_open(
    make: Making, autojump_clock: MockClock, ttl_s: float
) -> None:
    store = MemoryStore(page_keys=1)
    for name in "abc":
        store.put(name, b"")
    catalog = make(store, ttl_s)
    for _ in range(5):
        await catalog.listing("")
        autojump_clock.jump(ttl_s + 1)
    await catalog.aclose()
    gc.collect()  # an async generator that was left open is a ResourceWarning, which fails this test
    await trio.testing.wait_all_tasks_blocked()


async def test_what_is_kept_is_bounded(make: Making, autojump_clock: MockClock) -> None:
    store = MemoryStore()
    for directory in range(30):
        for name in range(10):
            store.put(f"{directory}/{name}", b"")
    catalog = make(store, TTL_S, CatalogSettings(max_entries=50))
    for directory in range(30):
        await _all(await catalog.listing(str(directory)))
    assert sum(len(listing.entries) for listing in catalog._listings.values()) <= 60
    assert len(catalog._listings) < MAX_LISTINGS
    assert await _all(await catalog.listing("0")) == [str(name) for name in range(10)]
    for index in range(200):
        await catalog.stat(f"{index}/x")
    assert len(catalog._known) <= 50


class _SlowPages(MemoryStore):
    """Takes a second for each page."""

    async def list(self, key: str) -> AsyncGenerator[Sequence[ObjectInfo], None]:
        async with aclosing(super().list(key)) as pages:
            async for page in pages:
                await trio.sleep(1)
                yield page


async def test_a_page_that_is_on_its_way_is_not_broken_off_by_another_listing(
    make: Making, autojump_clock: MockClock
) -> None:
    store = _SlowPages(page_keys=1)
    for name in ("a/1", "a/2", "a/3", "b/1"):
        store.put(name, b"")
    catalog = make(store)
    listing = await catalog.listing("a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_all, listing)
        await trio.sleep(0.5)
        nursery.start_soon(catalog.listing, "b")
    assert await _all(listing) == ["1", "2", "3"]


async def test_a_listing_that_was_given_up_long_ago_is_closed(make: Making, autojump_clock: MockClock) -> None:
    store = MemoryStore(page_keys=1)
    for name in ("a/1", "a/2", "b/1"):
        store.put(name, b"")
    catalog = make(store, 10 * ABANDONED_AFTER_S)
    abandoned = await catalog.listing("a")
    autojump_clock.jump(ABANDONED_AFTER_S + 1)
    await catalog.listing("b")
    with pytest.raises(StoreUnavailable):
        await abandoned.ensure(2)
    assert await _all(await catalog.listing("a")) == ["1", "2"]
    await catalog.aclose()


# away


@pytest.mark.parametrize("error", [StoreUnavailable, StoreTimeout])
async def test_while_the_store_is_away_what_was_known_stays_known(
    make: Making, store: MemoryStore, autojump_clock: MockClock, error: type[StoreUnavailable]
) -> None:
    catalog = make(store)
    await catalog.stat("d/a")
    autojump_clock.jump(10 * TTL_S)
    store.faults.fail("list", error, times=9)
    store.faults.fail("stat", error, times=2)
    known = await catalog.stat("d/a")
    assert _size(known) == 5
    assert known.expires_at <= trio.current_time() + UNREACHABLE_VALIDITY_S
    with pytest.raises(error):
        await catalog.stat("d/unknown")
    store.put("d/a", b"second")
    autojump_clock.jump(UNREACHABLE_VALIDITY_S)
    assert _size(await catalog.stat("d/a")) == 6
    assert catalog.statistics().served_unreachable == 1


async def test_while_the_store_is_away_names_of_an_old_listing_stay_known(
    make: Making, store: MemoryStore, autojump_clock: MockClock
) -> None:
    catalog = make(store)
    await _all(await catalog.listing("d"))
    autojump_clock.jump(10 * TTL_S)
    store.faults.fail("stat", StoreUnavailable, times=10)
    store.faults.fail("list", StoreUnavailable, times=10)
    assert await _all(await catalog.listing("d")) == ["a"]
    assert _size(await catalog.stat("d/a")) == 5
    assert await _all(await catalog.listing("d")) == ["a"]
    with pytest.raises(StoreUnavailable):
        await catalog.listing("other")


async def test_while_the_store_is_away_all_who_list_get_the_old_listing(
    make: Making, store: MemoryStore, autojump_clock: MockClock
) -> None:
    catalog = make(store)
    await _all(await catalog.listing("d"))
    autojump_clock.jump(10 * TTL_S)
    store.faults.delay("list", 3)
    store.faults.fail("list", StoreUnavailable, times=10)
    seen: list[list[str]] = []

    async def read() -> None:
        seen.append(await _all(await catalog.listing("d")))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(read)
    assert seen == [["a"]] * 4


async def test_the_newest_that_is_known_is_served_while_the_store_is_away(
    make: Making, store: MemoryStore, autojump_clock: MockClock
) -> None:
    catalog = make(store)
    await catalog.stat("d/a")
    autojump_clock.jump(2 * TTL_S)
    store.put("d/a", b"second")
    await _all(await catalog.listing("d"))
    autojump_clock.jump(2 * TTL_S)
    store.faults.fail("stat", StoreUnavailable)
    assert _size(await catalog.stat("d/a")) == 6


async def test_a_name_does_not_go_back_to_an_older_version(
    make: Making, store: MemoryStore, autojump_clock: MockClock
) -> None:
    catalog = make(store)
    await catalog.stat("d/a")
    autojump_clock.jump(TTL_S / 2)
    store.put("d/a", b"second")
    assert [info.size for info in (await catalog.listing("d")).entries] == [6]
    assert _size(await catalog.stat("d/a")) == 6


async def test_a_refusal_is_not_being_away(make: Making, store: MemoryStore, autojump_clock: MockClock) -> None:
    catalog = make(store)
    await catalog.stat("d/a")
    autojump_clock.jump(TTL_S)
    store.faults.fail("stat", AccessDenied)
    with pytest.raises(AccessDenied):
        await catalog.stat("d/a")


async def test_what_was_deleted_is_gone_though_it_was_known(
    make: Making, store: MemoryStore, autojump_clock: MockClock
) -> None:
    catalog = make(store)
    await catalog.stat("d/a")
    store.remove("d/a")
    autojump_clock.jump(TTL_S)
    assert (await catalog.stat("d/a")).info is None


async def test_what_was_forgotten_or_has_a_new_ttl_is_still_the_best_that_is_known_while_the_store_is_away(
    make: Making, store: MemoryStore, autojump_clock: MockClock
) -> None:
    catalog = make(store)
    await catalog.stat("d/a")
    store.faults.fail("stat", StoreUnavailable, times=2)
    catalog.forget("d/a")
    assert _size(await catalog.stat("d/a")) == 5
    catalog.set_ttl(1)
    assert _size(await catalog.stat("d/a")) == 5


# forget


async def test_what_is_forgotten_is_asked_again(make: Making, store: MemoryStore, autojump_clock: MockClock) -> None:
    catalog = make(store)
    await _all(await catalog.listing("d"))
    await catalog.stat("d/a")
    store.put("d/a", b"second")
    catalog.forget("d/a")
    assert _size(await catalog.stat("d/a")) == 6
    assert [info.size for info in (await catalog.listing("d")).entries] == [6]
    catalog.forget("never/seen")


async def test_the_root_can_be_asked_for_and_forgotten(
    make: Making, store: MemoryStore, autojump_clock: MockClock
) -> None:
    catalog = make(store)
    known = await catalog.stat("")
    assert known.info is not None
    assert known.info.kind is Kind.DIRECTORY
    catalog.forget("")
    store.remove_root()
    assert (await catalog.stat("")).info is None
