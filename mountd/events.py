"""Which descriptors are watched, and what is called when something happens to one. Standard library only."""

from __future__ import annotations

import select
from collections.abc import Callable

READABLE, ENDED_ONLY = select.POLLIN, 0
"""What to be called for; that the other end is gone is always told."""


class Events:
    """poll(2) and a callback per descriptor."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._callbacks: dict[int, Callable[[], None]] = {}

    def watch(self, fd: int, callback: Callable[[], None], events: int = READABLE) -> None:
        """Have *callback* called upon *events* of *fd*, in place of an earlier one, until it is unwatched."""
        self._callbacks[fd] = callback
        self._poll.register(fd, events)

    def unwatch(self, fd: int) -> None:
        """Watch *fd* no longer; to be called before it is closed."""
        if self._callbacks.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def wait(self, longest_s: float) -> None:
        """Wait for events, but not longer than *longest_s*, and make the calls."""
        for fd, _events in self._poll.poll(longest_s * 1000):
            callback = self._callbacks.get(fd)
            if callback is not None:
                callback()
