"""Who answers the kernel's requests just now: one server, or nobody who could, and then they are refused.

Relies on `KernelEnd` for the descriptor, and has it watched, so that the end of the mount is noticed whoever has it.
Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from mountd.events import ENDED_ONLY, Events
from mountd.kernelend import KernelEnd
from mountd.serverprocess import ServerProcess


class Handover:
    """The kernel's requests, handed from one to the next; *ended* is called when there will be no more."""

    def __init__(self, kernel: KernelEnd, events: Events, ended: Callable[[], None]) -> None:
        self._kernel = kernel
        self._events = events
        self._ended = ended

    def give(self, server: ServerProcess, mount_options: str) -> None:
        """Give them to *server*; mounts when there is no mount. Raises MountFailed and OSError."""
        if self._kernel.fd is None:
            self._kernel.mount(mount_options)
        fd = self._kernel.for_server()
        self._end_refusing()
        if self._kernel.fd is not None:
            self._events.watch(self._kernel.fd, self._ended, ENDED_ONLY)
        server.hand(fd, do="serve", init=self._kernel.init.hex())
        os.close(fd)

    def refuse(self) -> None:
        """Answer them with EIO, until they are given to a server."""
        if self._kernel.fd is not None:
            self._events.watch(self._kernel.begin_to_refuse(), self._refuse_next)

    def _refuse_next(self) -> None:
        self._kernel.refuse_next()
        self._ended()

    def _end_refusing(self) -> None:
        refusing = self._kernel.end_refusing()
        if refusing is not None:
            self._events.unwatch(refusing)
            os.close(refusing)

    def rest(self) -> None:
        """Expect nothing of a mount that has ended."""
        if self._kernel.fd is not None:
            self._events.unwatch(self._kernel.fd)

    def take_away(self) -> None:
        """End the mount, whoever has its requests."""
        self._end_refusing()
        self.rest()
        self._kernel.take_away()
