"""Where every trio task and every thread is, as text: what a server that hangs leaves behind in its log.

Names files, lines and functions and never a value, which might be a credential. Nothing here raises or waits: it is
called in a signal handler and while a server is about to be ended.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import trio

STANDARD_ERROR = 2

DEEPEST = 100
"""Frames told of one task or thread; more are the same ones again."""

_SUSPENDED = (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await"))
"""Where coroutines, generators and asynchronous generators keep their frame, and what they wait for."""


def install(number: int = signal.SIGUSR1) -> None:
    """Have the signal *number* write all stacks to standard error; to be called in the main thread.

    faulthandler writes those of the threads at once, also while the interpreter is stuck in C code. Those of the
    tasks follow when the main thread runs Python code again or waits for events.
    """
    signal.signal(number, _write)
    faulthandler.register(number, file=STANDARD_ERROR, all_threads=True, chain=True)


def _write(number: int, frame: FrameType | None) -> None:
    """Write all stacks past the log, whose locks the interrupted code may hold."""
    name = signal.Signals(number).name
    text = memoryview(f"{name}: {all_stacks()}\n{name}: end of the stacks\n".encode(errors="backslashreplace"))
    try:
        while text:
            text = text[os.write(STANDARD_ERROR, text) :]
    except OSError:
        return  # nobody listens


def all_stacks() -> str:
    """Return the stacks of all trio tasks of this thread's run and of all threads, innermost frame last."""
    try:
        return f"{_tasks()}\n{_threads()}"
    except Exception as exc:  # noqa: BLE001 - a report that cannot be made must not hold up the end of the server
        return f"the stacks cannot be read ({type(exc).__name__})"


def _tasks() -> str:
    try:
        root = trio.lowlevel.current_root_task()
    except RuntimeError:
        root = None
    if root is None:
        return "no trio tasks in this thread"
    alike: dict[str, list[str]] = {}
    for task in _below(root):
        alike.setdefault("\n".join(_lines(task.coro)), []).append(task.name)
    count = sum(map(len, alike.values()))
    return f"{count} trio tasks:\n" + "\n".join(f"  {_names(names)}\n{stack}" for stack, names in alike.items())


def _below(root: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    """Iterate over *root* and all tasks in its nurseries, parents first."""
    waiting = [root]
    while waiting:
        task = waiting.pop()
        yield task
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]


def _names(names: list[str]) -> str:
    """Return the names of tasks that are at the same place, each once with how many have it."""
    counts = {name: names.count(name) for name in names}
    return ", ".join(f"{name} (x{count})" if count > 1 else name for name, count in counts.items())


def _lines(awaited: Any) -> Iterator[str]:
    """Iterate over the frames of a coroutine that is suspended, and of all it waits for."""
    for _ in range(DEEPEST):
        if awaited is None:
            return
        for frame_name, next_name in _SUSPENDED:
            if hasattr(awaited, frame_name):
                frame = getattr(awaited, frame_name)
                yield _line(frame) if isinstance(frame, FrameType) else f"    {_name(awaited)}"
                awaited = getattr(awaited, next_name, None)
                break
        else:
            awaited = _wrapped(awaited)


def _wrapped(wrapper: Any) -> Any:
    """Return the coroutine or generator within *wrapper*, an object made by `anext` or `__await__`, or None."""
    inner = (thing for thing in gc.get_referents(wrapper) if any(hasattr(thing, name) for name, _ in _SUSPENDED))
    return next(inner, None) or next((thing for thing in gc.get_referents(wrapper) if _is_wrapper(thing)), None)


def _is_wrapper(thing: Any) -> bool:
    return type(thing).__name__ in ("async_generator_asend", "async_generator_athrow", "coroutine_wrapper")


def _name(compiled: Any) -> str:
    """Return the name of a coroutine of compiled code, which has no frame."""
    return f"(compiled) {getattr(compiled, '__qualname__', type(compiled).__name__)}"


def _threads() -> str:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    stacks = []
    for ident, frame in sys._current_frames().items():
        lines: list[str] = []
        current: FrameType | None = frame
        while current is not None and len(lines) < DEEPEST:
            lines.append(_line(current))
            current = current.f_back
        stacks.append("\n".join([f"  {names.get(ident, 'unnamed')} ({ident:#x})", *reversed(lines)]))
    return f"{len(stacks)} threads:\n" + "\n".join(stacks)


def _line(frame: FrameType) -> str:
    code = frame.f_code
    return f"    {code.co_filename}:{frame.f_lineno} {code.co_qualname}"
