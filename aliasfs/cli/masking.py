"""Which options of an alias may be shown; every other value is replaced, for it may be a secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MASK = "***"

_SHOWN = frozenset(
    {
        "account_name",
        "addressing_style",
        "anon",
        "cache_regions",
        "default_block_size",
        "endpoint_url",
        "location_mode",
        "max_concurrency",
        "path_style",
        "profile",
        "project",
        "region",
        "region_name",
        "requester_pays",
        "signature_version",
        "timeout",
        "use_ssl",
        "verify",
        "version_aware",
    }
)
_SECRET_PARTS = ("key", "secret", "token", "password", "credential", "connection_string", "sas")


def masked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return *options* with every value that is not known to be harmless replaced by `***`."""
    return {name: _masked(name, value) for name, value in options.items()}


def may_be_secret(name: str) -> bool:
    """Say whether an option of that name usually holds a secret."""
    return any(part in name.lower() for part in _SECRET_PARTS)


def _masked(name: str, value: object) -> object:
    if isinstance(value, Mapping):
        return masked(value)
    # An address may carry a user name and password, or a signature.
    is_shown = name in _SHOWN and not (isinstance(value, str) and ("@" in value or "?" in value))
    return value if is_shown else MASK
