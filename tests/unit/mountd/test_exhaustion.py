"""Out of memory is recognised wherever it hides, and nothing else is taken for it; the process then ends."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from aliasfs.errors import CorruptObject, StoreError, StoreUnavailable
from mountd.exhaustion import EXIT_OUT_OF_MEMORY, is_out_of_memory

LACKS = [
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError("can't start new thread"),
    ImportError("libssl.so.3: failed to map segment from shared object: Cannot allocate memory"),
    ExceptionGroup("two", [ValueError(), ExceptionGroup("inner", [MemoryError()])]),
]


@pytest.mark.parametrize("lack", LACKS, ids=repr)
def test_it_is_recognised_bare_behind_our_errors_and_while_another_was_handled(lack: Exception) -> None:
    assert is_out_of_memory(lack)
    outer = StoreError("R/file: internal error in the store")
    outer.__cause__ = StoreUnavailable("R/file: the connection broke")
    outer.__cause__.__cause__ = lack
    assert is_out_of_memory(outer)
    later = CorruptObject("R/file: it ended early")
    later.__context__, later.__suppress_context__ = outer, True
    assert is_out_of_memory(later)
    assert is_out_of_memory(BaseExceptionGroup("with others", [KeyboardInterrupt(), later]))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "full"),
        RuntimeError("a bug"),
        ImportError("no module named fuse"),
        StoreUnavailable("R/Cannot allocate memory: the store is away"),
        ValueError("can't start new thread"),
    ],
    ids=repr,
)
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert not is_out_of_memory(ExceptionGroup("one", [error]))


def test_causes_in_a_circle_are_walked_once() -> None:
    first, second = StoreError("a"), StoreError("b")
    first.__cause__, second.__cause__ = second, first
    assert not is_out_of_memory(first)


def test_what_python_says_when_there_is_no_thread_is_recognised() -> None:
    """The sentence is CPython's; a process of its own runs out of address space, and so of stacks."""
    program = (
        "import resource, threading\n"
        "from mountd.exhaustion import is_out_of_memory\n"
        "threading.stack_size(1 << 29)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))\n"
        "try:\n"
        "    threading.Thread(target=print).start()\n"
        "except Exception as exc:\n"
        "    print(is_out_of_memory(exc), repr(exc))\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.startswith("True"), ran.stdout


def test_the_end_is_at_once_with_a_line_and_its_code() -> None:
    program = "from mountd.exhaustion import end_out_of_memory\ntry:\n  end_out_of_memory()\nfinally:\n  print('never')"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == EXIT_OUT_OF_MEMORY == 70
    assert "out of memory" in ran.stderr
    assert not ran.stdout


STARVED = """
import logging, resource, sys
sys.path[:0] = sys.argv[1:]
import pyfuse3, trio
from support.worlds import World, remote
from mountd.blocks import BlockCache
from mountd.ops import Ops

async def main():
    async with trio.open_nursery() as nursery:
        cache = BlockCache(None)
        await nursery.start(cache.run)
        world = World(remote(), wrap=cache.wrap)
        world.store().put("file", b"0" * 100)
        await world.mount()
        ops = Ops(world.vfs)
        number = 1
        for name in (b"R", b"file"):
            number = (await ops.lookup(number, name, None)).st_ino
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 26),) * 2)

        async def read(oid, extent):
            return bytes(1 << 28)

        world.store().read = read
        await ops.read(number, 0, 100)

trio.run(main)
"""


def test_a_server_that_really_runs_out_of_memory_in_a_request_ends_without_an_answer() -> None:
    paths = [path for path in sys.path if path]
    ran = subprocess.run(
        [sys.executable, "-c", STARVED, *paths], capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == EXIT_OUT_OF_MEMORY, ran.stderr
    assert "out of memory" in ran.stderr.splitlines()[-1]


UNHANDLED = {
    "in a thread": "threading.Thread(target=lack).start(); time.sleep(10)",
    "in a destructor": "type('T', (), {'__del__': lambda self: lack()})()",
    "at the top": "lack()",
    "in a callback of asyncio": "asyncio.run(callback())",
    "in a log": "log()",
}


@pytest.mark.parametrize("statement", UNHANDLED.values(), ids=UNHANDLED)
def test_a_lack_that_nobody_handles_ends_the_process(statement: str) -> None:
    program = f"""
import asyncio, logging, threading, time
from mountd.exhaustion import end_when_seen_anywhere

def lack():
    raise MemoryError

async def callback():
    asyncio.get_running_loop().call_soon(lack)
    await asyncio.sleep(10)

def log():
    try:
        lack()
    except MemoryError:
        logging.getLogger("x").exception("it failed")

end_when_seen_anywhere()
{statement}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=30, check=False)
    assert done.returncode == EXIT_OUT_OF_MEMORY, done.stderr
    assert b"out of memory" in done.stderr
