"""Answers HTTP on the control socket of one mount, which the keeper has made and which outlives this server."""

from __future__ import annotations

import logging
import os
import socket

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from mountd.control.app import control_app
from mountd.control.backend import Backend

log = logging.getLogger(__name__)

_GRACEFUL_S = 2.0
"""How long requests in flight may go on after the daemon was told to end."""


async def serve_control(
    backend: Backend, listener: socket.socket, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve *backend* on *listener* until cancelled; started once connections are accepted."""
    config = Config()
    served = os.dup(listener.fileno())  # hypercorn closes it when it ends
    config.bind = [f"fd://{served}"]
    config.errorlog = logging.getLogger("hypercorn.error")
    config.graceful_timeout = _GRACEFUL_S
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, control_app(backend), config)
        # hypercorn makes its sockets inheritable; no child of ours is to get this one.
        os.set_inheritable(served, False)
        log.debug("the control door is open")
        task_status.started()
