"""`aliasfs ls`, `cat` and `stat`: read what is behind an alias without a mount, straight from its store.

A file is read as one version: every range is asked for by the etag that was seen first, so what `cat`
writes is never a mix of two.
"""

from __future__ import annotations

import json
import os
import posixpath
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from typing_extensions import Buffer

from aliasfs.cli.options import ConfigOption, JsonOption, complete_alias, examples
from aliasfs.errors import AccessDenied, AliasfsError, InvalidName, IsADirectory, OutOfSpace
from aliasfs.extents import Extent
from aliasfs.registry import Location

if TYPE_CHECKING:
    from aliasfs.registry import Alias, Registry
    from aliasfs.store.base import ObjectInfo, Store

RANGE_BYTES = 8 * 1024 * 1024
"""One request: large enough that a round trip of 20 ms costs little at 1 GB/s."""

RANGES_AHEAD = 6
"""Requests in flight, so that at most 48 MiB wait in memory for whoever reads the output."""

_CLOSE_WITHIN_S = 1.0

_MAX_LINKS = 40
"""As many as the kernel follows (path_resolution(7))."""

ResultT = TypeVar("ResultT")


def _complete_location(ctx: typer.Context, incomplete: str) -> list[str]:
    return [f"{name}/" for name in complete_alias(ctx, incomplete)]


LocationArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME/PATH",
        autocompletion=_complete_location,
        show_default=False,
        help="A place: the name of an alias and a path in it; <NAME>/PATH will do, too.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add `ls`, `cat` and `stat` to *app*."""
    app.command("ls", epilog=examples("aliasfs ls", "aliasfs ls COMPANY/runs -l"))(list_entries)
    app.command(
        "cat",
        epilog=examples("aliasfs cat COMPANY/a.json | jq .", "aliasfs cat COMPANY/big.bin --offset 1000 --length 16"),
    )(cat)
    app.command("stat", epilog=examples("aliasfs stat COMPANY/runs/1/model.pt --json"))(stat)


def parse_location(text: str) -> Location:
    """Return the place that *text* names: `NAME`, `NAME/`, `NAME/path` or `<NAME>/path`.

    Raises InvalidName where a part of the path is empty, `.` or `..`.
    """
    name, _, key = text.partition("/")
    if name.startswith("<") and name.endswith(">"):
        name = name[1:-1]
    key = key.removesuffix("/")
    if key and any(part in ("", ".", "..") for part in key.split("/")):
        raise InvalidName(f"{text}: no part of a path may be empty, '.' or '..'; write NAME/dir/file")
    return Location(name, key)


def list_entries(
    location: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME/PATH",
            autocompletion=_complete_location,
            show_default=False,
            help="A directory or file; the aliases when left out.",
        ),
    ] = None,
    config: ConfigOption = None,
    long: Annotated[bool, typer.Option("-l", "--long", help="Kind, size and time of each entry, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List a directory without a mount, entry by entry as the store sends them; with --json one object a line."""
    registry = _registry(config)
    if location is None:
        for one in registry.values():
            named = json.dumps({"name": one.name, "url": one.url})
            typer.echo(named if as_json else f"{one.name}/\t{one.url}" if long else f"{one.name}/")
        return
    place = parse_location(location)
    alias = registry[place.alias]
    show = _as_json if as_json else _long if long else _short

    async def run(store: Store) -> None:
        info = await _followed(store, alias, place.key)
        if not _is_directory(info):
            _print_name(show(info))
            return
        # The contract is an asynchronous generator in all but name: the caller closes it.
        async with aclosing(store.list(info.key)) as pages:  # type: ignore[type-var]
            async for page in pages:
                for entry in page:
                    _print_name(show(entry))

    _with_store(alias, run)


def cat(
    location: LocationArgument,
    config: ConfigOption = None,
    offset: Annotated[int, typer.Option(min=0, metavar="BYTES", help="Begin here.")] = 0,
    length: Annotated[
        int | None, typer.Option(min=0, metavar="BYTES", show_default=False, help="Stop after so many bytes.")
    ] = None,
) -> None:
    """Write the bytes of one file to the standard output, without a mount."""
    from aliasfs.cli import output

    place = parse_location(location)
    alias = _registry(config)[place.alias]

    async def run(store: Store) -> None:
        info = await _followed(store, alias, place.key)
        if _is_directory(info):
            raise IsADirectory(f"{location} is a directory; 'aliasfs ls {location}' lists it")
        wanted = Extent(offset, info.size if length is None else offset + length).clip(info.size)
        with output.progress(f"reading {location}", is_bytes=True) as report:
            await copy_ranges(store, info, wanted, _StandardOutput(wanted.length, report).write)

    _with_store(alias, run)
    sys.stdout.buffer.flush()


def stat(location: LocationArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show all that the store knows of one place, without a mount."""
    from aliasfs.cli import output

    place = parse_location(location)
    alias = _registry(config)[place.alias]

    async def run(store: Store) -> dict[str, object]:
        return _facts(alias, await store.stat(place.key))

    facts = _with_store(alias, run)
    if as_json:
        output.print_json(facts)
    else:
        output.print_facts({name: str(value) for name, value in facts.items()})


class _StandardOutput:
    """Where `cat` writes to; reports how far it is, unless that would be drawn between the bytes."""

    def __init__(self, total_bytes: int, report: Callable[[int, int], None]) -> None:
        self._out = sys.stdout.buffer
        self._total_bytes = total_bytes
        self._written_bytes = 0
        self._report = report if not self._out.isatty() else None

    def write(self, piece: Buffer) -> None:
        """Write all of *piece*; blocks. Raises OutOfSpace where the bytes do not fit, BrokenPipeError."""
        try:
            self._out.write(piece)
        except BrokenPipeError:
            raise
        except OSError as exc:
            raise OutOfSpace(f"cannot write to the standard output: {exc.strerror}") from exc
        self._written_bytes += memoryview(piece).nbytes
        if self._report is not None:
            self._report(self._written_bytes, self._total_bytes)


async def copy_ranges(store: Store, info: ObjectInfo, wanted: Extent, write: Callable[[Buffer], object]) -> None:
    """Hand the bytes *wanted* of the version *info* to *write*, in order, with several requests in flight.

    *write* may block; it runs in a thread. Raises StaleObject when the object was replaced meanwhile, and
    what else Store.read and *write* raise; what came before the failing range has been written.
    """
    import trio

    from aliasfs.store.base import ObjectId

    oid = ObjectId(store.target, info.key, info.etag, info.size)
    starts = iter(range(wanted.start, wanted.stop, RANGE_BYTES))
    ahead: deque[trio.MemoryReceiveChannel[Buffer]] = deque()
    failures: list[AliasfsError | OSError] = []

    async def fetch(extent: Extent, done: trio.MemorySendChannel[Buffer]) -> None:
        try:
            done.send_nowait(await store.read(oid, extent))
        except AliasfsError as exc:
            failures.append(exc)
            nursery.cancel_scope.cancel()

    def ask_for_next() -> None:
        if (start := next(starts, None)) is not None:
            done, piece = trio.open_memory_channel[Buffer](1)
            ahead.append(piece)
            nursery.start_soon(fetch, Extent(start, min(start + RANGE_BYTES, wanted.stop)), done)

    async with trio.open_nursery() as nursery:
        for _ in range(RANGES_AHEAD):
            ask_for_next()
        while ahead:
            piece = await ahead.popleft().receive()
            ask_for_next()
            try:
                await trio.to_thread.run_sync(write, piece)
            except (AliasfsError, OSError) as exc:  # raised below, out of the nursery's exception group
                failures.append(exc)
                nursery.cancel_scope.cancel()
    if failures:
        raise failures[0]


async def _followed(store: Store, alias: Alias, key: str) -> ObjectInfo:
    """Return what *key* is, after the symbolic links in its last part; AccessDenied where one leads out."""
    from aliasfs.store.base import Kind

    info = await store.stat(key)
    for _ in range(_MAX_LINKS):
        if info.kind is not Kind.SYMLINK:
            return info
        target = posixpath.join(alias.url, posixpath.dirname(info.key), await store.readlink(info.key))
        inside = posixpath.relpath(target, alias.url)
        if inside.split("/")[0] == "..":
            raise AccessDenied(f"{alias.name}/{info.key} is a link that leads out of the alias, to {target}")
        info = await store.stat("" if inside == "." else inside)
    raise AccessDenied(f"{alias.name}/{key} leads through too many symbolic links")


def _registry(config_file: Path | None) -> Registry:
    from aliasfs import config as configuration

    return configuration.load(config_file).registry


def _with_store(alias: Alias, use: Callable[[Store], Awaitable[ResultT]]) -> ResultT:
    """Return what *use* makes of the store of *alias*, which is closed afterwards."""
    import trio

    from aliasfs.store import open_store

    async def run() -> ResultT:
        store = open_store(alias)
        try:
            return await use(store)
        finally:
            with trio.move_on_after(_CLOSE_WITHIN_S, shield=True):
                await store.aclose()

    return trio.run(run)


def _is_directory(info: ObjectInfo) -> bool:
    from aliasfs.store.base import Kind

    return info.kind is Kind.DIRECTORY


def _facts(alias: Alias, info: ObjectInfo) -> dict[str, object]:
    facts: dict[str, object] = {
        "alias": alias.name,
        "url": f"{alias.url}/{info.key}" if info.key else alias.url,
        "kind": info.kind.value,
        "size": info.size,
        "modified": _time(info.mtime_ns),
        "etag": info.etag,
    }
    if info.local is not None:
        facts |= {
            "mode": f"{info.local.mode & 0o7777:04o}",
            "uid": info.local.uid,
            "gid": info.local.gid,
            "inode": info.local.inode,
        }
    return facts


def _short(info: ObjectInfo) -> str:
    return f"{info.name}/" if _is_directory(info) else info.name


def _long(info: ObjectInfo) -> str:
    return f"{info.kind.value[0]} {info.size:>14} {_time(info.mtime_ns) or '-':<20} {_short(info)}"


def _as_json(info: ObjectInfo) -> str:
    facts = {"name": info.name, "kind": info.kind.value, "size": info.size, "modified": _time(info.mtime_ns)}
    return json.dumps(facts | {"etag": info.etag})


def _print_name(line: str) -> None:
    """Print *line* byte by byte as the store has it, for names need not be UTF-8; harmless at a terminal."""
    if sys.stdout.isatty():
        line = "".join(character if character.isprintable() else "?" for character in line)
    typer.echo(os.fsencode(line))


def _time(mtime_ns: int) -> str:
    """Return *mtime_ns* in UTC to the second, "" where the store knows none."""
    if not mtime_ns:
        return ""
    return datetime.fromtimestamp(mtime_ns // 10**9, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
