"""Which keys and names a file system can show; pure, but for one warning per directory.

Object stores allow keys that no path can say (`a//b`, `./x`, NUL). Those are left out of listings here, so
that every store leaves out the same ones, and a key made of them is refused before it reaches a library.
"""

from __future__ import annotations

import logging
from collections import Counter

from aliasfs.errors import InvalidName

log = logging.getLogger(__name__)

NAME_MAX_BYTES = 255
"""NAME_MAX of Linux (limits.h): a longer name cannot be looked up through the kernel."""


def checked_key(key: str) -> str:
    """Return *key* as it is; raises InvalidName when a part of it is empty, `.`, `..` or has a NUL."""
    if key and any(part in ("", ".", "..") or "\0" in part for part in key.split("/")):
        raise InvalidName(f"{key!r} is no path within an alias: no empty part, '.', '..' or NUL may be in it")
    return key


def child_key(directory: str, name: str) -> str:
    """Return the key of the entry *name* of *directory*."""
    return f"{directory}/{name}" if directory else name


def printable(path: str) -> str:
    """Return *path* fit for a message or a log: bytes that are no UTF-8 become U+FFFD."""
    return path.encode(errors="surrogateescape").decode(errors="replace")


def why_hidden(name: str) -> str | None:
    """Return why a file system cannot show *name*, None when it can."""
    if not name:
        return "with '//' in the key"
    if name in (".", ".."):
        return "named '.' or '..'"
    if "\0" in name:
        return "with a NUL"
    if len(name) > NAME_MAX_BYTES // 4 and len(name.encode(errors="surrogateescape")) > NAME_MAX_BYTES:
        return f"longer than {NAME_MAX_BYTES} bytes"
    return None


class LeftOut:
    """Counts what one listing leaves out, and says it once."""

    def __init__(self, target: str, directory: str) -> None:
        self._place = f"{target}/{directory}" if directory else target
        self._counts: Counter[str] = Counter()

    def hides(self, name: str) -> bool:
        """Say whether *name* cannot be shown, counting it if so."""
        if name.isascii() and 2 < len(name) <= NAME_MAX_BYTES and "\0" not in name:
            return False
        reason = why_hidden(name)
        if reason is not None:
            self._counts[reason] += 1
        return reason is not None

    def add(self, reason: str) -> None:
        """Count one entry that is left out because of *reason* (a phrase such as `that are sockets`)."""
        self._counts[reason] += 1

    def warn(self) -> None:
        """Log one warning that counts what was left out since the last one, if anything was."""
        if self._counts:
            counted = ", ".join(f"{count} {reason}" for reason, count in sorted(self._counts.items()))
            log.warning("%s: left out of the listing: %s", printable(self._place), counted)
            self._counts.clear()
