"""Servers that live as long as the test session, each in a process of its own; and no warning goes unnoticed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from support.processes import AZURITE_ACCOUNT, AZURITE_KEY, azurite_server, moto_server


@pytest.fixture(autouse=True)
def no_logged_warnings(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test during which one of our loggers warned, unless it takes `caplog` itself or is marked so."""
    yield
    if "caplog" in request.node._fixtureinfo.argnames or request.node.get_closest_marker("warns_in_log"):
        return
    complaints = [
        f"{record.name}: {record.getMessage()}"
        for record in caplog.get_records("call")
        if record.levelno >= logging.WARNING and record.name.partition(".")[0] in ("aliasfs", "mountd")
    ]
    assert not complaints, "logged: " + "; ".join(complaints)


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The URL of an S3 server; it accepts any credentials."""
    with moto_server() as url:
        yield url


@pytest.fixture(scope="session")
def s3_client(s3_endpoint: str) -> Iterator[Any]:
    """A client of that server with which a test plays the rest of the world."""
    from botocore.config import Config
    from botocore.session import Session

    session = Session()
    session.set_credentials("test", "test")
    config = Config(s3={"addressing_style": "path"})
    client = session.create_client("s3", endpoint_url=s3_endpoint, region_name="us-east-1", config=config)
    yield client
    client.close()


@pytest.fixture(scope="session")
def azure_endpoint() -> Iterator[str]:
    """The URL of the account of an Azure Blob server; it checks keys and signatures."""
    with azurite_server() as url:
        yield url


@pytest.fixture(scope="session")
def azure_service(azure_endpoint: str) -> Iterator[Any]:
    """A client of that server with which a test plays the rest of the world."""
    from azure.storage.blob import BlobServiceClient

    credential = {"account_name": AZURITE_ACCOUNT, "account_key": AZURITE_KEY}
    with BlobServiceClient(azure_endpoint, credential=credential) as service:
        yield service
