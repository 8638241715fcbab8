"""Which account an alias means, by URL, options and environment, and how it is signed for."""

from __future__ import annotations

from typing import Any

import pytest

from aliasfs.errors import ConfigError
from aliasfs.store.azure_account import AzureAccount
from aliasfs.urls import parse_object_url


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCOUNT_NAME", "ACCOUNT_KEY", "SAS_TOKEN", "CONNECTION_STRING", "ANON"):
        monkeypatch.delenv(f"AZURE_STORAGE_{name}", raising=False)


def account(url: str, **options: Any) -> AzureAccount:
    parts = parse_object_url(url)
    assert parts is not None
    return AzureAccount.of(parts, options)


@pytest.mark.parametrize(
    ("url", "options", "endpoint"),
    [
        ("az://c/p", {"account_name": "acc"}, "https://acc.blob.core.windows.net"),
        ("abfss://c@acc.dfs.core.windows.net/p", {}, "https://acc.blob.core.windows.net"),
        ("abfss://c@acc.dfs.core.chinacloudapi.cn", {}, "https://acc.blob.core.chinacloudapi.cn"),
        ("azfs://acc/c/p", {}, "https://acc.blob.core.windows.net"),
        ("az://c", {"connection_string": "AccountName=acc;AccountKey=k==;EndpointSuffix=x.y"}, "https://acc.blob.x.y"),
        ("az://c", {"connection_string": "BlobEndpoint=http://h:1/acc/;AccountName=acc"}, "http://h:1/acc"),
        ("az://c", {"account_name": "acc", "account_host": "acc.z1.blob.example"}, "https://acc.z1.blob.example"),
    ],
)
def test_the_end_point(url: str, options: dict[str, str], endpoint: str) -> None:
    found = account(url, **options)
    assert (found.name, found.endpoint) == ("acc", endpoint)


def test_the_environment_fills_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "acc")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    found = account("az://c")
    assert (found.name, found.key) == ("acc", "a2V5")


@pytest.mark.parametrize(
    ("options", "key", "sas"),
    [
        ({"account_key": "a2V5"}, "a2V5", ""),
        ({"sas_token": "?sv=1&sig=x"}, "", "sv=1&sig=x"),
        ({"credential": "a2V5"}, "a2V5", ""),
        ({"credential": "?sv=1&sig=x"}, "", "sv=1&sig=x"),
        ({"account_key": "a2V5", "sas_token": "sig=x"}, "a2V5", ""),
        ({"connection_string": "AccountKey=a2V5=="}, "a2V5==", ""),
        ({"connection_string": "SharedAccessSignature=sv=1&sig=x"}, "", "sv=1&sig=x"),
    ],
)
def test_how_it_is_signed_for(options: dict[str, str], key: str, sas: str) -> None:
    found = account("azfs://acc/c", **options)
    assert (found.key, found.sas) == (key, sas)
    assert "a2V5" not in repr(found)
    assert "sig=" not in repr(found)


def test_without_an_account_it_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="account_name"):
        account("az://c")
