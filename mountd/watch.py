"""Ends requests that take too long, and the server when one of them cannot even be ended.

Relies on `Ops` for the table of requests. A request that still has no answer after its handler was cancelled sits in a
thread or in code that shields itself; the keeper starts another server, which the kernel asks again. What hangs the
event loop itself is found by the keeper's probe and not here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import NoReturn

import trio

from mountd import stacks
from mountd.ops import Ops, Request

log = logging.getLogger(__name__)

EXIT_HANGS = 75

LOOK_S = 1.0
LOOKS = 30
"""Looks per hang time-out at least, so that a short one is kept, too."""

GRACE = 0.05
"""Part of the hang time-out that a handler has to end after it was cancelled. Counted from then on, so that a server
that was stopped for a minute (SIGSTOP, a busy machine) does not take its own absence for a hang."""

NAMED = 10
"""Requests that the log names when more of them are stuck."""


async def watch_requests(ops: Ops, hang_timeout_s: float, end: Callable[[int], NoReturn] = os._exit) -> None:
    """Keep the deadlines of *ops* until cancelled.

    When a request has no answer for *hang_timeout_s* although it was given up, all stacks are logged and *end* is
    called with exit code 75.
    """
    while True:
        await trio.sleep(min(LOOK_S, hang_timeout_s / LOOKS))
        ops.end_overdue()
        stuck = [request for request in ops.at_work() if _is_stuck(request, hang_timeout_s)]
        if stuck:
            try:
                await _report(ops, stuck)
            finally:
                end(EXIT_HANGS)


async def _report(ops: Ops, stuck: list[Request]) -> None:
    """Log what cannot be ended, and where everything stands."""
    log.error(
        "%d requests can be neither answered nor given up, for %.0f s by now: %s; this server ends, and a new one "
        "answers them\n%s",
        len(stuck),
        trio.current_time() - stuck[0].since_s,
        "; ".join([await ops.describe(request) for request in stuck[:NAMED]]),
        stacks.all_stacks(),
    )


def _is_stuck(request: Request, hang_timeout_s: float) -> bool:
    now_s = trio.current_time()
    return (
        request.given_up_s is not None
        and now_s - request.since_s >= hang_timeout_s
        and now_s - request.given_up_s >= hang_timeout_s * GRACE
    )
