"""pyfuse3 on a mount that somebody else has made: the handshake is played to it, then the kernel's descriptor put in.

Relies on libfuse taking `/dev/fd/N` for a mount that is open already (fuse_session_mount, since 3.3), and on it
speaking over any descriptor that keeps messages apart. So it first gets one end of a socket pair, and over the other
end the request by which the kernel once began; its answer is dropped, for the keeper has given one. Then the
kernel's descriptor takes the place of the socket, under the same number. There can be one session in a process:
pyfuse3 is global.
"""

from __future__ import annotations

import errno
import logging
import os
import socket

import pyfuse3
import trio

from mountd import fusewire

log = logging.getLogger(__name__)

MAX_TASKS = 1000
"""Requests in work at once; each holds a buffer that takes no memory until it is used. pyfuse3's 99 are fewer than
the threads of one data loader, and those beyond would wait behind a slow store, whatever they want."""

HANDSHAKE_S, CLOSING_S = 10.0, 0.001


class Session:
    """The kernel's requests, answered by *ops*."""

    def __init__(self, ops: pyfuse3.Operations) -> None:
        self._ops = ops
        self._ended = False

    async def begin(self, kernel: int, init: bytes) -> None:
        """Shake hands as the kernel did in *init*, and take over *kernel*.

        Raises TooSlowError when libfuse does not answer the handshake.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        number = theirs.detach()
        pyfuse3.init(self._ops, f"/dev/fd/{number}", set())
        with ours:
            async with trio.open_nursery() as nursery:
                over = trio.Event()
                nursery.start_soon(_run_until_closed, over)
                ours.send(init)
                with trio.fail_after(HANDSHAKE_S):
                    await trio.lowlevel.wait_readable(ours)
                ours.recv(fusewire.REQUEST_BYTES)
                while not over.is_set():  # a second waiting task takes the place of the first
                    trio.lowlevel.notify_closing(number)
                    await trio.sleep(CLOSING_S)
        os.dup2(kernel, number, inheritable=False)
        os.close(kernel)

    async def run(self) -> None:
        """Answer the kernel until told to stop, or until the mount is gone; what is in work is finished."""
        try:
            await pyfuse3.main(max_tasks=MAX_TASKS)
        except* OSError as group:
            if group.split(_says_that_it_is_gone)[1] is not None:
                raise
        finally:
            self._ended = True

    def stop(self) -> None:
        """Take no more requests. Once the session has ended there is nothing to end: libfuse would crash."""
        if not self._ended:
            pyfuse3.terminate()

    def close(self) -> None:
        """Give back what libfuse holds; the mount stays."""
        self._ended = True
        pyfuse3.close(unmount=False)


def _says_that_it_is_gone(exc: BaseException) -> bool:
    """Say whether *exc* is how the kernel tells that the mount was taken away; libfuse knows only ENODEV as that."""
    return isinstance(exc, OSError) and exc.errno in (errno.ECONNABORTED, errno.ENODEV)


async def _run_until_closed(over: trio.Event) -> None:
    await pyfuse3.main()
    over.set()
