"""One trio loop in a thread, for tests that are driven from outside of it: state machines, and the kernel's callers."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

T = TypeVar("T")

PATIENCE_S = 30.0
"""How long the loop may take to begin and to end."""


class Portal:
    """Runs async functions to their end, one call after the other, on a loop that stays; *clock* is the loop's."""

    def __init__(self, clock: trio.abc.Clock | None = None) -> None:
        self._started = threading.Event()
        self._clock = clock
        self._thread = threading.Thread(target=trio.run, args=(self._main,), kwargs={"clock": clock}, daemon=True)
        self._thread.start()
        assert self._started.wait(PATIENCE_S), "the loop did not start"

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._end = trio.Event()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._started.set()
            await self._end.wait()
            nursery.cancel_scope.cancel()

    def call(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Return what the async *function* returns; its exception is raised here."""
        return trio.from_thread.run(function, *args, trio_token=self._token)

    def call_sync(self, function: Callable[..., T], *args: object) -> T:
        """Return what the sync *function* returns on the loop's thread."""
        return trio.from_thread.run_sync(function, *args, trio_token=self._token)

    def start(self, function: Callable[..., Awaitable[object]]) -> Callable[[], None]:
        """Run *function*, which takes a task_status, in the background once it has started; return what ends it."""
        scope = trio.CancelScope()
        ended = trio.Event()

        async def background(task_status: trio.TaskStatus[None]) -> None:
            try:
                with scope:
                    await function(task_status=task_status)
            finally:
                ended.set()

        async def end() -> None:
            scope.cancel()
            await ended.wait()

        self.call(self._nursery.start, background)
        return lambda: self.call(end)

    def close(self) -> None:
        """End the loop and whatever still runs in it."""
        self.call_sync(self._end.set)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the loop did not end"
