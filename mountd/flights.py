"""One request for blocks that is on its way to a store, and what all those who wait for it are given."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import trio

from aliasfs.errors import AliasfsError
from aliasfs.extents import Extent
from aliasfs.store.base import ObjectId
from mountd.memory import Part, extent_of


@dataclass(slots=True, eq=False)
class Flight:
    """A request for *blocks* of *oid*: *part* or *error* is set when *done*."""

    oid: ObjectId
    blocks: range
    done: trio.Event = field(default_factory=trio.Event)
    part: Part | None = None
    error: AliasfsError | None = None

    @property
    def extent(self) -> Extent:
        """The bytes that are asked for."""
        return extent_of(self.oid, self.blocks)

    def result(self) -> Part:
        """Return what came; raises what went wrong, a copy for each of those who waited."""
        if self.part is not None:
            return self.part
        assert self.error is not None
        raise copy.copy(self.error) from self.error
