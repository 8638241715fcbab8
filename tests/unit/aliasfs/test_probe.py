from collections.abc import Mapping
from typing import Any

import pytest
import trio

from aliasfs.errors import AccessDenied, AliasfsError, ConfigError, CorruptObject, NotFound, StoreUnavailable, exit_code
from aliasfs.probe import ProbeResult, describe_credentials, probe, probe_all
from aliasfs.registry import Alias
from aliasfs.store.memory import MemoryStore

ALIAS = Alias("A", "s3://bucket/x")


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    store.put("d/nested", b"x")
    store.put("f", b"content")
    return store


async def test_a_place_that_works_is_described(store: MemoryStore, autojump_clock: trio.testing.MockClock) -> None:
    store.faults.delay("stat", 0.05)
    assert await probe(store, ALIAS) == ProbeResult("A", True, True, "default chain", pytest.approx(50), 2, "", 0)


async def test_an_empty_place_is_readable() -> None:
    found = await probe(MemoryStore(), ALIAS)
    assert (found.readable, found.entries_seen, found.exit) == (True, 0, 0)


@pytest.mark.parametrize(
    ("operation", "error", "reachable"),
    [
        ("stat", StoreUnavailable, False),
        ("stat", AccessDenied, True),
        ("stat", NotFound, True),
        ("list", AccessDenied, True),
        ("list", StoreUnavailable, True),
        ("read", AccessDenied, True),
        ("read", CorruptObject, True),
    ],
)
async def test_what_fails_is_told_with_its_exit_code(
    store: MemoryStore, operation: Any, error: type[AliasfsError], reachable: bool
) -> None:
    store.faults.fail(operation, error)
    found = await probe(store, ALIAS)
    assert (found.reachable, found.readable) == (reachable, False)
    assert found.exit == exit_code(error())
    assert found.error


async def test_all_are_looked_at_together_and_each_within_the_deadline(
    store: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    hanging = MemoryStore()
    hanging.faults.delay("stat", 1e6)
    stores = {"HANGS": hanging, "WORKS": store, "HANGS_TOO": hanging}
    seen: list[tuple[int, int]] = []
    began = trio.current_time()
    results = await probe_all(
        [Alias(name, "s3://b") for name in stores],
        lambda alias: stores[alias.name],
        deadline_s=5,
        report=lambda done, total: seen.append((done, total)),
    )
    assert trio.current_time() - began == pytest.approx(5)
    assert [(found.name, found.exit) for found in results] == [("HANGS", 75), ("WORKS", 0), ("HANGS_TOO", 75)]
    assert "within 5 s" in results[0].error
    assert seen[0] == (0, 3)
    assert seen[-1] == (1, 3)


async def test_options_that_open_nothing_are_told(store: MemoryStore) -> None:
    def refuse(alias: Alias) -> MemoryStore:
        raise ConfigError("no such option")

    (found,) = await probe_all([ALIAS], refuse)
    assert (found.error, found.exit, found.reachable) == ("no such option", 78, False)


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("/x", {}, "none needed"),
        ("s3://b", {}, "default chain"),
        ("https://host/x", {}, "none given"),
        ("s3://b", {"anon": True}, "anonymous"),
        ("s3://b", {"profile": "work"}, "profile work"),
        ("s3://b", {"key": "hunter2", "secret": "hunter2"}, "from options: key, secret"),
        ("az://c", {"account_key": "hunter2", "account_name": "acc"}, "from options: account_key"),
    ],
)
def test_credentials_are_described_never_shown(url: str, options: Mapping[str, Any], words: str) -> None:
    assert describe_credentials(Alias("A", url, options=options)) == words
