"""What a process that is asked where it stands says: in a real process, also one that is stuck."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trio

from mountd.stacks import all_stacks

END = "SIGUSR1: end of the stacks"

PROGRAM = """
import ctypes, sys, threading, time
import trio
from mountd.stacks import install

def ready():
    print("ready", flush=True)

async def pages():
    await trio.sleep_forever()
    yield "page"

async def reader_of_pages():
    await anext(pages(), None)

async def waits_in_thread():
    await trio.to_thread.run_sync(time.sleep, 60, abandon_on_cancel=True)

async def tasks():
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(trio.sleep_forever)
        nursery.start_soon(reader_of_pages)
        nursery.start_soon(waits_in_thread)
        await trio.sleep(0.05)
        ready()
        await trio.sleep(60)

async def blocked_in_python():
    secret = "s3cr3t"
    ready()
    until = time.monotonic() + 60
    while time.monotonic() < until:
        time.sleep(0.01)

async def blocked_in_c_with_the_interpreter():
    ready()
    ctypes.PyDLL(None).sleep(60)

install()
trio.run(globals()[sys.argv[1]])
"""


@contextmanager
def _running(behaviour: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process of that behaviour; it has said that it is ready."""
    command = [sys.executable, "-c", PROGRAM, behaviour]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def _said(process: subprocess.Popen[str], until: str) -> str:
    """Ask *process* for its stacks; return what it says up to a line with *until*."""
    process.send_signal(signal.SIGUSR1)
    said = ""
    assert process.stderr is not None
    while until not in said:
        line = process.stderr.readline()
        assert line, f"it ended and said only: {said}"
        said += line
    return said


def test_a_process_that_waits_tells_all_tasks_and_threads_and_goes_on() -> None:
    with _running("tasks") as process:
        for _ in range(2):
            said = _said(process, END)
            assert "trio tasks:" in said
            assert "sleep_forever (x3)" in said
            assert "reader_of_pages\n" in said
            assert "<string>:10 pages" in said, "asynchronous generators are looked into"
            assert "waits_in_thread" in said
            assert "MainThread" in said
            assert "to_thread_run_sync.<locals>.worker_fn" in said
        assert process.poll() is None


def test_a_process_whose_loop_is_blocked_tells_where_without_any_value() -> None:
    with _running("blocked_in_python") as process:
        said = _said(process, END)
        assert "in blocked_in_python" in said, "from faulthandler"
        assert "trio tasks:" in said
        assert "blocked_in_python" in said.partition("SIGUSR1:")[2]
        assert "s3cr3t" not in said


def test_a_process_stuck_in_c_code_that_has_the_interpreter_tells_its_threads() -> None:
    with _running("blocked_in_c_with_the_interpreter") as process:
        assert "in blocked_in_c_with_the_interpreter" in _said(process, "in <module>")


def test_outside_a_run_there_are_threads_alone() -> None:
    said = all_stacks()
    assert said.startswith("no trio tasks in this thread\n")
    assert "MainThread" in said
    assert "test_outside_a_run_there_are_threads_alone" in said


async def test_the_innermost_frame_is_last() -> None:
    async def inner(started: trio.Event) -> None:
        started.set()
        await trio.sleep_forever()

    async def outer(started: trio.Event) -> None:
        await inner(started)

    async with trio.open_nursery() as nursery:
        started = trio.Event()
        nursery.start_soon(outer, started)
        await started.wait()
        said = all_stacks()
        nursery.cancel_scope.cancel()
    assert said.index("<locals>.outer\n") < said.index("<locals>.inner\n") < said.index("sleep_forever\n")


async def test_awaitables_of_a_class_of_its_own_are_looked_through() -> None:
    class Wrapped:
        """An awaitable and its own iterator around another one."""

        def __init__(self, started: trio.Event) -> None:
            self.started = started
            self.inner = waits().__await__()

        def __await__(self) -> Wrapped:
            return self

        def __iter__(self) -> Wrapped:
            return self

        def __next__(self) -> Any:
            self.started.set()
            return next(self.inner)

        def send(self, value: Any) -> Any:
            return self.inner.send(value)

        def throw(self, *raised: Any) -> Any:
            return self.inner.throw(*raised)

    async def waits() -> None:
        await trio.sleep_forever()

    async def outer(started: trio.Event) -> None:
        await Wrapped(started)  # type: ignore[misc]

    async with trio.open_nursery() as nursery:
        started = trio.Event()
        nursery.start_soon(outer, started)
        await started.wait()
        said = all_stacks()
        nursery.cancel_scope.cancel()
    assert said.index("<locals>.outer\n") < said.index("<locals>.waits\n") < said.index("sleep_forever\n")
