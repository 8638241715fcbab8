"""Tells whoever started the keeper how the start went: one line of JSON on the pipe it was given, once.

Its shape is `aliasfs.wire.Readiness`. Nobody has to listen. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any


class Starter:
    """The process that waits for a start to succeed or fail; *fd* None is nobody."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        if fd is not None:
            os.set_inheritable(fd, False)

    def tell(self, **facts: Any) -> None:
        """Send *facts*; what is said later is not heard any more."""
        fd, self._fd = self._fd, None
        if fd is not None:
            with contextlib.suppress(OSError):  # it went away
                os.write(fd, json.dumps({"pid": os.getpid(), **facts}).encode() + b"\n")
            os.close(fd)
