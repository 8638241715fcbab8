"""Which engine opens which alias, what that costs, and what is said of it."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest

from aliasfs.errors import ConfigError
from aliasfs.registry import Alias, Engine
from aliasfs.store import open_store
from aliasfs.store.base import Store


@pytest.mark.parametrize(
    ("url", "options", "kind"),
    [
        ("/data", {}, "LocalStore"),
        ("s3://bucket/p", {"key": "k", "secret": "s"}, "ObjectStore"),
        ("s3://bucket", {"anon": True, "client_kwargs": {"region_name": "eu-west-1"}}, "ObjectStore"),
        ("az://container", {"account_name": "acc", "account_key": "a2V5"}, "ObjectStore"),
        ("abfss://container@acc.dfs.core.windows.net/p", {"anon": True}, "ObjectStore"),
        ("http://host/folder", {}, "ObjectStore"),
        ("memory://x", {}, "FsspecStore"),
        ("zip://::s3://bucket/a.zip", {}, "FsspecStore"),
    ],
)
def test_each_place_has_its_store(url: str, options: dict[str, Any], kind: str) -> None:
    store = open_store(Alias("A", url, options=options))
    assert type(store).__name__ == kind
    assert isinstance(store, Store)


def test_an_option_that_obstore_lacks_means_fsspec_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    options = {"key": "k", "secret": "very-secret", "config_kwargs": {"signature_version": "s3"}}
    with caplog.at_level(logging.INFO):
        open_store(Alias("A", "s3://bucket", options=options))
    assert [record.getMessage() for record in caplog.records] == [
        "alias A: read through fsspec, because obstore has no option config_kwargs"
    ]


def test_engine_obstore_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ConfigError, match="config_kwargs"):
        open_store(Alias("A", "s3://bucket", options={"config_kwargs": {}}, engine=Engine.OBSTORE))
    with pytest.raises(ConfigError, match="obstore"):
        open_store(Alias("A", "memory://x", engine=Engine.OBSTORE))


def test_a_container_without_an_account_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_CONNECTION_STRING"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="account_name"):
        open_store(Alias("A", "az://container"))


def test_the_end_point_is_part_of_the_target_and_its_password_is_not() -> None:
    one = open_store(Alias("A", "s3://b", options={"endpoint_url": "http://user:password@host:9000"}))
    two = open_store(Alias("A", "s3://b"))
    assert one.target != two.target
    assert "host:9000" in one.target
    assert "password" not in one.target


def test_opening_loads_no_library_and_no_thread() -> None:
    program = """
import sys, threading
from aliasfs.registry import Alias
from aliasfs.store import open_store
open_store(Alias("A", "s3://bucket/prefix"))
open_store(Alias("B", "/data"))
heavy = {"s3fs", "adlfs", "fsspec", "obstore", "botocore", "azure", "aiohttp"} & set(sys.modules)
assert not heavy, heavy
assert threading.active_count() == 1
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
