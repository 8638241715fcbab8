"""Azurite checks signatures, so wrong and expired ones can be tried, on both engines."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.processes import AZURITE_ACCOUNT, AZURITE_KEY

from aliasfs.errors import AccessDenied, AliasfsError
from aliasfs.extents import Extent
from aliasfs.registry import Alias, Engine
from aliasfs.store import open_store
from aliasfs.store.base import Etag, ObjectId, Store

WRONG_KEY = base64.b64encode(b"a key that opens nothing").decode()


@pytest.fixture(scope="module")
def container(azure_service: Any) -> str:
    azure_service.create_container("credentials").upload_blob("d/f", b"12345")
    return "credentials"


def sas(container: str, *, valid_for_s: int) -> str:
    from azure.storage.blob import generate_container_sas

    until = datetime.now(UTC) + timedelta(seconds=valid_for_s)
    start = until - timedelta(days=1)
    token: str = generate_container_sas(
        AZURITE_ACCOUNT, container, AZURITE_KEY, permission="rl", expiry=until, start=start
    )
    return token


def opened(endpoint: str, container: str, engine: Engine, credential: str) -> Store:
    options = {"connection_string": f"AccountName={AZURITE_ACCOUNT};BlobEndpoint={endpoint};{credential}"}
    return open_store(Alias("A", f"az://{container}", options=options, engine=engine), request_timeout_s=5)


@pytest.fixture(params=[Engine.AUTO, Engine.FSSPEC], ids=["obstore", "adlfs"])
def engine(request: pytest.FixtureRequest) -> Engine:
    chosen: Engine = request.param
    return chosen


async def refusal(store: Store, call: Any) -> AliasfsError:
    with pytest.raises(AccessDenied) as raised:
        await call
    await store.aclose()
    return raised.value


@pytest.mark.parametrize("operation", ["stat", "root", "list", "read"])
async def test_a_wrong_key_is_refused(azure_endpoint: str, container: str, engine: Engine, operation: str) -> None:
    store = opened(azure_endpoint, container, engine, f"AccountKey={WRONG_KEY}")
    oid = ObjectId(store.target, "d/f", Etag('"0x1"'), 5)
    calls = {
        "stat": lambda: store.stat("d/f"),
        "root": lambda: store.stat(""),
        "list": lambda: anext(store.list("d")),
        "read": lambda: store.read(oid, Extent(0, 5)),
    }
    said = str(await refusal(store, calls[operation]()))
    assert "credentials" in said
    assert WRONG_KEY not in said


async def test_an_expired_sas_is_refused_and_not_shown(azure_endpoint: str, container: str, engine: Engine) -> None:
    token = sas(container, valid_for_s=-60)
    store = opened(azure_endpoint, container, engine, f"SharedAccessSignature={token}")
    error = await refusal(store, store.stat("d/f"))
    signature = token.partition("sig=")[2].partition("&")[0]
    cause: BaseException | None = error
    while cause is not None:
        assert signature not in str(cause)
        cause = cause.__cause__


async def test_a_sas_that_is_good_reads(azure_endpoint: str, container: str, engine: Engine) -> None:
    token = sas(container, valid_for_s=600)
    store = opened(azure_endpoint, container, engine, f"SharedAccessSignature={token}")
    info = await store.stat("d/f")
    oid = ObjectId(store.target, "d/f", info.etag, info.size)
    assert bytes(await store.read(oid, Extent(1, 4))) == b"234"
    assert [entry.key async for page in store.list("d") for entry in page] == ["d/f"]
    assert "sig" not in store.target
    await store.aclose()
