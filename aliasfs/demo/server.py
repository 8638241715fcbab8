"""The process that serves the sample data as S3 for as long as it is mounted.

It listens on loopback, says where in one line on its standard output, and stays while its starter holds
its standard input open; from then on the mount keeps it: it ends within a second after the mount point
has left the mount table, however that came about.
"""

from __future__ import annotations

import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any, cast

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from aliasfs.demo.s3 import read_only_s3
from aliasfs.mounts import mount_at

BUCKET = "samples"

_MOUNT_CHECK_S = 1.0
"""Reading the mount table takes some ten microseconds, so once a second costs nothing."""


async def serve_while_mounted(samples: Path, point: Path, port: int) -> None:
    """Serve *samples* on *port* of 127.0.0.1, or on a free port where that one is taken, as said above."""
    listener = _listen(port)
    endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.graceful_timeout = 1.0
    async with trio.open_nursery() as nursery:
        no_longer_needed = partial(_wait_no_longer_needed, point)
        app = cast(Any, read_only_s3(BUCKET, samples))  # the two libraries spell the types of ASGI differently
        start = partial(serve, app, config, shutdown_trigger=no_longer_needed)
        await nursery.start(start)
        sys.stdout.write(f"{endpoint}\n")
        sys.stdout.flush()


def _listen(port: int) -> socket.socket:
    """Return a socket bound to *port* of loopback, or to any free one where that is taken."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError:
        listener.bind(("127.0.0.1", 0))
    return listener


async def _wait_no_longer_needed(point: Path) -> None:
    await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
    while mount_at(point):  # noqa: ASYNC110  # the kernel tells of it by POLLPRI alone, which trio cannot wait for
        await trio.sleep(_MOUNT_CHECK_S)
