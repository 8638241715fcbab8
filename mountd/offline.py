"""`python -m mountd cache`: work on a cache directory while no daemon has it; prints one JSON object a line.

A line with the one key `progress` tells how far a verification is; the last line is the result.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel

from aliasfs.wire import VerifyProgress
from mountd import upkeep
from mountd.disk import CacheDisk

NO_BUDGET = 1 << 62
"""A budget under which nothing is evicted: only the daemon's configuration knows the real one."""

PROGRESS_S = 0.2
"""Seconds between two lines of progress."""


def status(directory: Path) -> None:
    """Print the facts of the cache in *directory*; its budget is unknown here, and told as 0."""
    with _opened(directory) as disk:
        found = upkeep.status(disk, hits=0, misses=0, bytes_fetched=0)
        _print(found.model_copy(update={"budget_bytes": 0}))


def evict(directory: Path, to_bytes: int) -> None:
    """Give back what was used longest ago until *to_bytes* are left."""
    with _opened(directory) as disk:
        _print(upkeep.evict_report(disk, to_bytes))


def verify(directory: Path) -> None:
    """Check every cached block and drop the bad ones."""
    told_at = time.monotonic()

    def report(progress: VerifyProgress) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= PROGRESS_S:
            told_at = time.monotonic()
            _print_line({"progress": progress.model_dump(mode="json")})

    with _opened(directory) as disk:
        _print(upkeep.verify_report(disk, report))


@contextmanager
def _opened(directory: Path) -> Iterator[CacheDisk]:
    disk = upkeep.open_offline(directory, NO_BUDGET)
    try:
        yield disk
    finally:
        disk.close()


def _print(result: BaseModel) -> None:
    _print_line(result.model_dump(mode="json"))


def _print_line(content: object) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()
