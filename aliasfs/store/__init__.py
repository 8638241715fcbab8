"""Where bytes come from: `open_store` turns an alias into a `Store`; the only scheme table.

Importing this package is cheap, and so is opening a store: libraries are loaded by the function that
needs them, and nothing is asked of a disk or a network before the first call.
"""

from __future__ import annotations

from aliasfs.errors import ConfigError
from aliasfs.registry import Alias
from aliasfs.store.base import Store


def open_store(alias: Alias, *, request_timeout_s: float = 30.0) -> Store:
    """Return the store of *alias*.

    *request_timeout_s* is how long a store may take to answer one request. Raises ConfigError when the
    URL or the options are wrong.
    """
    if alias.is_local:
        from aliasfs.store.local import LocalStore

        return LocalStore(alias.url)
    raise ConfigError(f"alias {alias.name}: nothing opens {alias.url}")
