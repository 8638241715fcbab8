"""Says what can be done with the place behind an alias: one bounded look at its store.

All errors of a store become part of the result; only bugs and cancellation pass through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import trio

from aliasfs.errors import AccessDenied, AliasfsError, NotADirectory, NotFound, StoreTimeout, exit_code
from aliasfs.extents import Extent
from aliasfs.registry import Alias
from aliasfs.store.base import Kind, ObjectId, ObjectInfo, Store
from aliasfs.urls import parse_object_url

DEADLINE_S = 20.0  # longer than a cold TLS and token handshake, shorter than a person's patience
_REPORT_EVERY_S = 0.25

_KEYS = frozenset({"key", "secret", "token", "account_key", "sas_token", "connection_string", "credential", "password"})


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What was found behind one alias.

    *reachable*: something answered. *readable*: it could be listed, and the first file in it (if any)
    could be read. *credentials* says in words which were used. *round_trip_ms* is one request on a warm
    connection; None where none succeeded. *entries_seen* counts the first page of the listing. *error*
    is "" and *exit* 0 when all is well, else a sentence and its exit code.
    """

    name: str
    reachable: bool
    readable: bool
    credentials: str
    round_trip_ms: float | None
    entries_seen: int
    error: str
    exit: int


async def probe_all(
    aliases: Sequence[Alias],
    open_store: Callable[[Alias], Store],
    *,
    deadline_s: float = DEADLINE_S,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[ProbeResult]:
    """Return what is behind each of *aliases*, in their order; all are looked at together.

    A store that has not answered within *deadline_s* seconds is given up. *report* is called now and then
    with how many are done, and how many there are.
    """
    results: dict[str, ProbeResult] = {}

    async def one(alias: Alias) -> None:
        results[alias.name] = await _open_and_probe(alias, open_store, deadline_s)

    async def tell() -> None:
        while True:
            report(len(results), len(aliases))
            await trio.sleep(_REPORT_EVERY_S)

    async with trio.open_nursery() as telling:
        telling.start_soon(tell)
        async with trio.open_nursery() as nursery:
            for alias in aliases:
                nursery.start_soon(one, alias)
        telling.cancel_scope.cancel()
    return [results[alias.name] for alias in aliases]


async def probe(store: Store, alias: Alias) -> ProbeResult:
    """Return what can be done with *store*, which serves *alias*; takes as long as the store lets it."""
    round_trip_ms: float | None = None
    entries: Sequence[ObjectInfo] = ()
    try:
        root = await store.stat("")
        started = trio.current_time()
        await store.stat("")
        round_trip_ms = round((trio.current_time() - started) * 1000, 3)
        entries = [root] if root.kind is Kind.FILE else await _first_page(store)
        await _read_one_byte(store, entries)
    except AliasfsError as exc:
        reachable = round_trip_ms is not None or isinstance(exc, AccessDenied | NotFound | NotADirectory)
        return _failed(alias, exc, reachable=reachable, round_trip_ms=round_trip_ms, entries_seen=len(entries))
    return ProbeResult(alias.name, True, True, describe_credentials(alias), round_trip_ms, len(entries), "", 0)


def describe_credentials(alias: Alias) -> str:
    """Return in words which credentials *alias* uses, never one of them."""
    options = alias.options
    if alias.is_local:
        return "none needed"
    if options.get("anon") is True:
        return "anonymous"
    if "profile" in options:
        return f"profile {options['profile']}"
    if given := sorted(_KEYS & options.keys()):
        return f"from options: {', '.join(given)}"
    return "default chain" if parse_object_url(alias.url) else "none given"


async def _open_and_probe(alias: Alias, open_store: Callable[[Alias], Store], deadline_s: float) -> ProbeResult:
    with trio.move_on_after(deadline_s):
        try:
            store = open_store(alias)
        except AliasfsError as exc:
            return _failed(alias, exc)
        try:
            return await probe(store, alias)
        finally:
            with trio.move_on_after(1) as closing:
                closing.shield = True
                await store.aclose()
    return _failed(
        alias, StoreTimeout(f"nothing answered within {deadline_s:g} s; check the URL, the network and any proxy")
    )


def _failed(
    alias: Alias,
    error: AliasfsError,
    *,
    reachable: bool = False,
    round_trip_ms: float | None = None,
    entries_seen: int = 0,
) -> ProbeResult:
    credentials = describe_credentials(alias)
    return ProbeResult(
        alias.name, reachable, False, credentials, round_trip_ms, entries_seen, str(error), exit_code(error)
    )


async def _first_page(store: Store) -> Sequence[ObjectInfo]:
    async with aclosing(store.list("")) as pages:  # type: ignore[type-var]
        async for page in pages:
            return page
    return ()


async def _read_one_byte(store: Store, entries: Sequence[ObjectInfo]) -> None:
    for info in entries:
        if info.kind is Kind.FILE and info.size:
            await store.read(ObjectId(store.target, info.key, info.etag, info.size), Extent(0, 1))
            return
