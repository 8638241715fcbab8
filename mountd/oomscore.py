"""Whom the kernel ends first when memory runs out: the server, which can be replaced, and last of all the keeper.

Source: /proc/PID/oom_score_adj, proc(5). Standard library only.
"""

from __future__ import annotations

from pathlib import Path

OWN = Path("/proc/self/oom_score_adj")

KEEPER = -900
"""Nearly never; -1000 would be never, and then a keeper that leaks could not be ended at all."""

SERVER_EXTRA = 100
"""Added to the server's score where the keeper's cannot be lowered: only root may do that."""


def become_unlikely_victim() -> int:
    """Lower the score of this process; return the one that its servers are to have."""
    given = int(OWN.read_text(encoding="ascii"))
    try:
        OWN.write_text(f"{min(given, KEEPER)}\n", encoding="ascii")
    except OSError:
        return given + SERVER_EXTRA
    return given
