"""Aliases and where they point; pure values, no files and no stores.

An `Alias` is a name and a policy for one place; a `Location` is a key within one alias; a `Registry` is
an immutable set of aliases, replaced whole when the configuration changes, so that a reader never sees
half an edit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple

from aliasfs.errors import ConfigError, UnknownAlias

ALIAS_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
"""The grammar of a name, matched whole, ASCII only, so that each name is also a `<NAME>` token."""

LOCAL_TTL_S = 1.0
REMOTE_TTL_S = 60.0


class Mode(StrEnum):
    """What a mount may do with the data of an alias."""

    RO = "ro"
    RW = "rw"


class Engine(StrEnum):
    """Which library carries the bytes; `auto` takes obstore where it can and fsspec elsewhere."""

    AUTO = "auto"
    OBSTORE = "obstore"
    FSSPEC = "fsspec"


class Tier(IntEnum):
    """Where an alias came from, lowest first: a higher tier replaces a lower one per alias."""

    SYSTEM = 0
    USER = 1
    FILE = 2
    ENVIRONMENT = 3
    COMMAND_LINE = 4


@dataclass(frozen=True, slots=True)
class Alias:
    """One name for one place.

    *url* is canonical (see `aliasfs.urls`): an absolute path for local data, else a URL without query,
    credentials or trailing slash. *options* are fsspec storage options and may hold secrets, so they are
    left out of `repr`. *ttl_s* is how many seconds a name, size or listing may be old. *origin* is
    `FILE:LINE`, the name of an environment variable, or `--alias`.
    """

    name: str
    url: str
    mode: Mode = Mode.RO
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    ttl_s: float = REMOTE_TTL_S
    engine: Engine = Engine.AUTO
    tier: Tier = Tier.FILE
    origin: str = ""

    def __post_init__(self) -> None:
        if not ALIAS_NAME.fullmatch(self.name):
            raise ConfigError(
                f"{self.name!r} is no alias name: capital letters, digits and '_' only, beginning with a letter"
            )

    @property
    def is_local(self) -> bool:
        """Whether the data is on a local file system."""
        return self.url.startswith("/")

    def serves_like(self, other: Alias) -> bool:
        """Say whether *other* reaches the same bytes in the same way, so that a store can be kept."""
        return (self.url, self.options, self.engine) == (other.url, other.options, other.engine)


class Location(NamedTuple):
    """A place within an alias: *key* is relative to its root, without leading or trailing slash; "" is the root."""

    alias: str
    key: str

    @property
    def parent(self) -> Location:
        """The directory that holds this location; the root is its own parent."""
        return Location(self.alias, self.key.rpartition("/")[0])

    @property
    def name(self) -> str:
        """The last part of the key; the alias name for its root."""
        return self.key.rpartition("/")[2] if self.key else self.alias

    def child(self, name: str) -> Location:
        """Return the location of the entry *name* in this directory."""
        return Location(self.alias, f"{self.key}/{name}" if self.key else name)


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs between two registries, as alias names.

    *retargeted* reach other bytes than before (url, options or engine); *adjusted* differ only in mode
    or ttl.
    """

    added: frozenset[str]
    removed: frozenset[str]
    retargeted: frozenset[str]
    adjusted: frozenset[str]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.retargeted or self.adjusted)


class Registry(Mapping[str, Alias]):
    """An immutable mapping of name to alias, in the order in which they were given."""

    def __init__(self, aliases: Iterable[Alias] = ()) -> None:
        self._aliases = {alias.name: alias for alias in aliases}

    def __getitem__(self, name: str) -> Alias:
        try:
            return self._aliases[name]
        except KeyError:
            raise UnknownAlias(f"no alias is named {name}; 'aliasfs alias list' shows those that are") from None

    def __contains__(self, name: object) -> bool:
        return name in self._aliases

    def __iter__(self) -> Iterator[str]:
        return iter(self._aliases)

    def __len__(self) -> int:
        return len(self._aliases)

    def changes_to(self, new: Registry) -> Changes:
        """Return what has to be done to get from this registry to *new*."""
        both = self._aliases.keys() & new._aliases.keys()
        retargeted = {name for name in both if not self._aliases[name].serves_like(new._aliases[name])}
        adjusted = {
            name
            for name in both - retargeted
            if (self._aliases[name].mode, self._aliases[name].ttl_s)
            != (new._aliases[name].mode, new._aliases[name].ttl_s)
        }
        return Changes(
            added=frozenset(new._aliases.keys() - self._aliases.keys()),
            removed=frozenset(self._aliases.keys() - new._aliases.keys()),
            retargeted=frozenset(retargeted),
            adjusted=frozenset(adjusted),
        )
