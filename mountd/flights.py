"""One request for blocks that is on its way to a store, and what all those who wait for it are given."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from aliasfs.errors import AliasfsError, StoreUnavailable
from aliasfs.extents import Extent
from aliasfs.store.base import ObjectId
from mountd.lines import Line
from mountd.memory import Part, extent_of


@dataclass(slots=True, eq=False)
class Flight:
    """A request for *blocks* of *oid* on *line*: *part* or *error* is set when *done*; *readers* wait for that."""

    line: Line
    oid: ObjectId
    blocks: range
    readers: int = 0
    done: trio.Event = field(default_factory=trio.Event)
    part: Part | None = None
    error: AliasfsError | None = None

    @property
    def extent(self) -> Extent:
        """The bytes that are asked for."""
        return extent_of(self.oid, self.blocks)

    def must_be_awaited(self) -> None:
        """Raise StoreUnavailable when all its readers have gone: what nobody waits for is not worth a turn."""
        if not self.readers:
            raise StoreUnavailable(f"{self.oid.key}: the read was given up before its turn came")

    def result(self) -> Part:
        """Return what came; raises what went wrong, a copy for each of those who waited."""
        if self.part is not None:
            return self.part
        assert self.error is not None
        raise copy.copy(self.error) from self.error


@contextmanager
def awaited(flights: Collection[Flight]) -> Iterator[None]:
    """Be a reader of *flights* within the block."""
    for flight in flights:
        flight.readers += 1
    try:
        yield
    finally:
        for flight in flights:
            flight.readers -= 1
