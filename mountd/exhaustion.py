"""Whether an error means that memory has run out, and the end of the server when it has.

A server without memory does not answer with an error: it ends, the keeper has the kernel send the request again, and
a new server answers it. Relies on the state of the disk cache being good at any instant (`mountd.disk`).
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import NoReturn

EXIT_OUT_OF_MEMORY = 70

_SAID = b"CRITICAL mountd.exhaustion: out of memory: this server ends, and a new one answers what it was asked\n"
_STANDARD_ERROR = 2


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether *error*, one of its causes or contexts, or a member of a group among them is a lack of memory.

    So is a thread that cannot be started, whose stack is what there is no room for, and a library that cannot be
    mapped. Texts are looked at only where nobody outside can have written them.
    """
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if _says_so(current):
            return True
        waiting += (current.__cause__, current.__context__)
        if isinstance(current, BaseExceptionGroup):
            waiting += current.exceptions
    return False


def _says_so(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, RuntimeError):
        return str(error) == "can't start new thread"
    if isinstance(error, ImportError):
        return os.strerror(errno.ENOMEM) in str(error)
    return isinstance(error, MemoryError)


def end_out_of_memory() -> NoReturn:
    """End this process with exit code 70, after a line on standard error; nothing is allocated or cleaned up."""
    with suppress(OSError):  # nobody is left to be told that nobody listens
        os.write(_STANDARD_ERROR, _SAID)
    os._exit(EXIT_OUT_OF_MEMORY)
