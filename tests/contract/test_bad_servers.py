"""Servers that misbehave: each trouble is one class and one sentence, on both engines, and never wrong bytes."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator

import pytest
import trio
from support.bad_server import BODY, ETAG, KEY, BadServer, Trouble, bad_server, gets_of_the_object

from aliasfs.errors import (
    AccessDenied,
    AliasfsError,
    CorruptObject,
    NotFound,
    StaleObject,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
)
from aliasfs.extents import Extent
from aliasfs.registry import Alias, Engine
from aliasfs.store import open_store
from aliasfs.store.base import Etag, ObjectId, ObjectInfo, Store

SECRET = "a-secret-that-no-message-holds"

WHOLE = Extent(0, len(BODY))


@pytest.fixture
def server() -> Iterator[BadServer]:
    with bad_server() as running:
        yield running


def alias(url: str, engine: Engine) -> Alias:
    options = {"key": "test", "secret": SECRET, "endpoint_url": url, "client_kwargs": {"region_name": "us-east-1"}}
    return Alias("BAD", "s3://bucket", options=options, engine=engine)


@pytest.fixture(params=[Engine.OBSTORE, Engine.FSSPEC], ids=["obstore", "s3fs"])
async def store(server: BadServer, request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    made = open_store(alias(server.url, request.param), request_timeout_s=4.0)
    yield made
    await made.aclose()


@pytest.fixture(params=[Engine.OBSTORE, Engine.FSSPEC], ids=["obstore", "s3fs"])
async def impatient(server: BadServer, request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    made = open_store(alias(server.url, request.param), request_timeout_s=0.5)
    yield made
    await made.aclose()


def oid(store: Store) -> ObjectId:
    return ObjectId(store.target, KEY, Etag(ETAG), len(BODY))


async def listed(store: Store) -> list[ObjectInfo]:
    return [info async for page in store.list("folder") for info in page]


async def test_it_behaves_when_it_is_not_told_otherwise(store: Store) -> None:
    assert (await store.stat(KEY)).etag == ETAG
    assert bytes(await store.read(oid(store), WHOLE)) == BODY
    assert [info.key for info in await listed(store)] == [KEY]


@pytest.mark.parametrize(
    ("trouble", "meaning"),
    [
        ("403", AccessDenied),
        ("404", NotFound),
        ("500", StoreUnavailable),
        ("503", StoreUnavailable),
    ],
)
async def test_what_it_does_always(
    server: BadServer, store: Store, trouble: Trouble, meaning: type[AliasfsError], caplog: pytest.LogCaptureFixture
) -> None:
    server.always = trouble
    with caplog.at_level(logging.INFO):
        for call in (store.stat, lambda key: store.read(oid(store), WHOLE), lambda key: listed(store)):
            with trio.fail_after(30), pytest.raises(meaning) as raised:
                await call(KEY)
            said = str(raised.value)
            assert "s3://bucket" in said
            assert "\n" not in said
            assert SECRET not in said
    assert SECRET not in caplog.text


async def test_it_does_not_answer(server: BadServer, impatient: Store) -> None:
    server.always = "hang"
    for call in (impatient.stat, lambda key: impatient.read(oid(impatient), WHOLE), lambda key: listed(impatient)):
        with trio.fail_after(10), pytest.raises(StoreTimeout, match="in time"):
            await call(KEY)


async def test_the_root_of_a_missing_bucket(server: BadServer, store: Store) -> None:
    server.always = "404"
    with pytest.raises(NotFound, match="no such bucket"):
        await store.stat("")


async def test_errors_that_pass_are_not_seen(server: BadServer, store: Store) -> None:
    for call in (store.stat, lambda key: store.read(oid(store), WHOLE), lambda key: listed(store)):
        server.queue.extend(["500"])
        await call(KEY)
        assert not server.queue, "the error was never met"


@pytest.mark.parametrize("trouble", ["reset", "short"])
async def test_a_body_that_breaks_off_once_is_asked_for_again(
    server: BadServer, store: Store, trouble: Trouble
) -> None:
    server.only = gets_of_the_object
    server.queue.append(trouble)
    assert bytes(await store.read(oid(store), WHOLE)) == BODY


@pytest.mark.parametrize("trouble", ["reset", "short"])
async def test_a_body_that_always_breaks_off(server: BadServer, store: Store, trouble: Trouble) -> None:
    server.only = gets_of_the_object
    server.always = trouble
    with trio.fail_after(30), pytest.raises((StoreUnavailable, CorruptObject)):
        await store.read(oid(store), WHOLE)


async def test_another_version_after_a_body_broke_off(server: BadServer, store: Store) -> None:
    server.only = gets_of_the_object
    server.queue.append("reset")
    server.always = "412"
    with trio.fail_after(30), pytest.raises(StaleObject):
        await store.read(oid(store), WHOLE)


@pytest.mark.parametrize(
    ("trouble", "meaning"),
    [("412", StaleObject), ("other etag", StaleObject), ("wrong range", CorruptObject)],
)
async def test_answers_that_are_not_what_was_asked_for(
    server: BadServer, store: Store, trouble: Trouble, meaning: type[AliasfsError]
) -> None:
    server.only = gets_of_the_object
    server.always = trouble
    with trio.fail_after(30), pytest.raises(meaning):
        await store.read(oid(store), Extent(10, 200))


async def test_a_listing_that_is_none(server: BadServer, store: Store) -> None:
    server.always = "nonsense"
    with pytest.raises(StoreError, match="end point"):
        await listed(store)


@pytest.mark.parametrize("engine", [Engine.OBSTORE, Engine.FSSPEC])
async def test_no_server_at_all(engine: Engine) -> None:
    with bad_server() as gone:
        url = gone.url
    store = open_store(alias(url, engine), request_timeout_s=4.0)
    for call in (store.stat, lambda key: store.read(oid(store), WHOLE), lambda key: listed(store)):
        with trio.fail_after(30), pytest.raises(StoreUnavailable):
            await call(KEY)
    await store.aclose()


async def test_a_cancelled_read_ends_at_once(server: BadServer, store: Store) -> None:
    await store.stat(KEY)
    server.always = "hang"
    with trio.fail_after(10):
        with trio.move_on_after(0.2) as scope:
            await store.read(oid(store), WHOLE)
        assert scope.cancelled_caught
