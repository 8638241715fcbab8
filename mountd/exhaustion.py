"""Whether an error means that memory has run out, and the end of the server when it has.

A server without memory does not answer with an error: it ends, the keeper has the kernel send the request again, and
a new server answers it. Relies on the state of the disk cache being good at any instant (`mountd.disk`).
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import NoReturn

EXIT_OUT_OF_MEMORY = 70

ROOM_BYTES = 32 << 20
"""Address space without which a server cannot go on: a thread's stack takes 8 MiB, the buffer of a read up to 4."""

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


def for_want_of_memory(error: BaseException) -> bool:
    """Say whether *error* came of a lack of memory, also where it has lost all words for that.

    C code under pressure raises what it likes ("error return without exception set"). So when something has gone
    wrong, it is tried whether there is room at all; some microseconds, on errors alone.
    """
    if is_out_of_memory(error):
        return True
    try:
        mmap.mmap(-1, ROOM_BYTES).close()
    except OSError:
        return True
    return False


def end_when_seen_anywhere() -> None:
    """End this process also for a lack of memory that nobody handles: in a callback, a destructor, a thread, a log.

    Libraries swallow what is raised in their callbacks (asyncio logs it, pyo3 gives it to `sys.excepthook`), and
    whoever waits for the result would wait for ever.
    """
    at_top, at_thread, unraisable = sys.excepthook, threading.excepthook, sys.unraisablehook

    def seen(error: BaseException | None) -> None:
        if error is not None and for_want_of_memory(error):
            end_out_of_memory()

    def on_top(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        seen(error)
        at_top(kind, error, trace)

    def on_thread(args: threading.ExceptHookArgs) -> None:
        seen(args.exc_value)
        at_thread(args)

    def on_unraisable(args: sys.UnraisableHookArgs) -> None:
        seen(args.exc_value)
        unraisable(args)

    sys.excepthook, threading.excepthook, sys.unraisablehook = on_top, on_thread, on_unraisable
    logging.getLogger().addHandler(_Seer(seen))


class _Seer(logging.Handler):
    """Shows *seen* every exception that is logged."""

    def __init__(self, seen: Callable[[BaseException | None], None]) -> None:
        super().__init__(logging.DEBUG)
        self._seen = seen

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self._seen(record.exc_info[1])


def end_out_of_memory() -> NoReturn:
    """End this process with exit code 70, after a line on standard error; nothing is allocated or cleaned up."""
    with suppress(OSError):  # nobody is left to be told that nobody listens
        os.write(_STANDARD_ERROR, _SAID)
    os._exit(EXIT_OUT_OF_MEMORY)
