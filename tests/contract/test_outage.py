"""A network that is cut, or swallows everything, in the middle of reads: a stall for those who read, and no error."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any

import pytest
import trio
from support.processes import AZURITE_ACCOUNT, AZURITE_KEY
from support.relay import Relay, relay

from aliasfs.errors import StoreTimeout, StoreUnavailable
from aliasfs.extents import Extent
from aliasfs.registry import Alias, Engine
from aliasfs.store import open_store
from aliasfs.store.base import ObjectId, Store
from aliasfs.store.guard import GuardConfig, GuardedStore

PATIENCE = GuardConfig(request_timeout_s=10)
OUTAGE_S = 6.0
PART_BYTES = 1 << 20
BODY = random.Random(8).randbytes(6 * PART_BYTES)
NAMES = [f"n{index:04}" for index in range(1100)]

ENGINES = [
    pytest.param(("s3", Engine.OBSTORE), id="s3-obstore", marks=pytest.mark.s3),
    pytest.param(("s3", Engine.FSSPEC), id="s3-fsspec", marks=pytest.mark.s3),
    pytest.param(("azure", Engine.OBSTORE), id="azure-obstore", marks=pytest.mark.azure),
    pytest.param(("azure", Engine.FSSPEC), id="azure-fsspec", marks=pytest.mark.azure),
]


@pytest.fixture(scope="module")
def bucket(s3_endpoint: str, s3_client: Any) -> str:
    s3_client.create_bucket(Bucket="outage")
    s3_client.put_object(Bucket="outage", Key="big", Body=BODY)
    for name in NAMES:
        s3_client.put_object(Bucket="outage", Key=f"many/{name}", Body=b"")
    return s3_endpoint


@pytest.fixture(scope="module")
def container(azure_endpoint: str, azure_service: Any) -> str:
    client = azure_service.create_container("outage")
    client.upload_blob("big", BODY)
    for name in NAMES[:20]:
        client.upload_blob(f"many/{name}", b"")
    return azure_endpoint


@pytest.fixture(params=ENGINES)
def network(request: pytest.FixtureRequest) -> Iterator[tuple[Relay, Alias]]:
    """What lies between, and an alias whose store lies behind it."""
    kind, engine = request.param
    with relay(request.getfixturevalue("bucket" if kind == "s3" else "container")) as between:
        if kind == "s3":
            options = {"key": "test", "secret": "test", "endpoint_url": between.url}
            yield between, Alias("A", "s3://outage", options=options, engine=engine)
        else:
            signs = f"AccountName={AZURITE_ACCOUNT};AccountKey={AZURITE_KEY};BlobEndpoint={between.url}"
            connection = f"DefaultEndpointsProtocol=http;{signs}"
            yield between, Alias("A", "az://outage", options={"connection_string": connection}, engine=engine)


@pytest.fixture
async def store(network: tuple[Relay, Alias]) -> AsyncIterator[Store]:
    inner = open_store(network[1], request_timeout_s=PATIENCE.silence_s)
    made = GuardedStore(inner, "A", PATIENCE)
    yield made
    await made.aclose()


async def read_all(store: Store, oid: ObjectId, part_is_read: Callable[[], None]) -> bytes:
    digest = hashlib.md5()
    for start in range(0, oid.size, PART_BYTES):
        digest.update(await store.read(oid, Extent(start, start + PART_BYTES)))
        part_is_read()
    return digest.digest()


@pytest.mark.slow
@pytest.mark.parametrize("trouble", [Relay.cut, Relay.swallow], ids=["cut", "swallow"])
async def test_an_outage_in_the_middle_of_reads_is_no_error(
    network: tuple[Relay, Alias], store: Store, trouble: Callable[[Relay], None]
) -> None:
    between, _ = network
    info = await store.stat("big")
    oid = ObjectId(store.target, "big", info.etag, info.size)
    begun = trio.Event()
    digests = []

    async def read() -> None:
        digests.append(await read_all(store, oid, begun.set))
        assert (await store.stat("big")).etag == info.etag

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(read)
            await begun.wait()
            trouble(between)
            await trio.sleep(OUTAGE_S)
            between.open()
    assert digests == [hashlib.md5(BODY).digest()] * 4


@pytest.mark.slow
async def test_a_listing_goes_on_after_an_outage_between_its_pages(network: tuple[Relay, Alias], store: Store) -> None:
    between, _ = network
    expected = [info.name async for page in store.list("many") for info in page]
    assert len(expected) >= 20

    async def cut_for_a_while() -> None:
        between.cut()
        await trio.sleep(2)
        between.open()

    names: list[str] = []
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery, aclosing(store.list("many")) as pages:  # type: ignore[type-var]
            nursery.start_soon(cut_for_a_while)
            async for page in pages:
                names += [info.name for info in page]
                if len(names) < len(expected):
                    nursery.start_soon(cut_for_a_while)
    assert names == expected


@pytest.mark.slow
@pytest.mark.warns_in_log
async def test_an_outage_that_lasts_is_an_error_in_time_and_then_at_once(
    network: tuple[Relay, Alias], store: Store
) -> None:
    between, _ = network
    await store.stat("big")
    between.cut()
    with trio.fail_after(PATIENCE.request_timeout_s + 5), pytest.raises((StoreUnavailable, StoreTimeout)):
        await store.stat("big")
    with trio.fail_after(0.5), pytest.raises(StoreUnavailable, match="down for now"):
        await store.stat("big")
    between.open()
    with trio.fail_after(20):
        while True:
            try:
                await store.stat("big")
                break
            except (StoreUnavailable, StoreTimeout):
                await trio.sleep(0.5)
