"""What follows from the death of a server: another one at once, after a pause, or none for a while.

A death is quick when the server had served for less than `QUICK_S`, or not at all. The first quick ones cost no
pause, for a machine that runs out of memory may end two in a row; then pauses grow, and at the limit it is said
that something is wrong which another attempt will not mend.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum

QUICK_S = 1.0
FREE, FIRST_PAUSE_S, LONGEST_PAUSE_S = 2, 0.1, 5.0
"""So many quick deaths cost no pause; each further one costs twice that of the one before."""

HANGS = 3
"""So many servers in a row that hang: not the server is at fault but what hangs it, the connection perhaps."""


class Verdict(Enum):
    """What is to be done."""

    START = "start another server"
    GIVE_UP = "answer everything with an error"
    MOUNT_ANEW = "begin with a new mount"


@dataclass(frozen=True)
class Death:
    """Of one server: *why*, the exit code for whoever waited for it, how long it had served, whether it hung."""

    why: str
    exit_code: int = 70
    lived_s: float = 0.0
    hung: bool = False


@dataclass
class Deaths:
    """Counts of one mount; *limit* is how many quick deaths in a row are too many."""

    limit: int = 8
    all: int = 0
    hangs: int = 0
    quick_in_row: int = 0
    hangs_in_row: int = 0
    last: str = ""
    last_at: float = 0.0

    def note(self, death: Death, *, wanted: bool) -> Verdict:
        """Count *death*; *wanted* says that we ended the server on request."""
        self.all += 1
        self.hangs += death.hung
        self.last, self.last_at = death.why, time.time()
        self.hangs_in_row += death.hung and not wanted
        self.quick_in_row = self.quick_in_row + 1 if death.lived_s < QUICK_S and not wanted else 0
        if self.hangs_in_row >= HANGS:
            self.hangs_in_row = 0
            return Verdict.MOUNT_ANEW
        return Verdict.GIVE_UP if self.quick_in_row >= self.limit else Verdict.START

    def pause_s(self) -> float:
        """Return how long to wait before the next start."""
        paid = self.quick_in_row - FREE
        return min(FIRST_PAUSE_S * 2.0 ** min(paid - 1, 10), LONGEST_PAUSE_S) if paid > 0 else 0.0

    def note_answer(self, lived_s: float, hang_s: float) -> None:
        """Note that a server that has served for *lived_s* seconds was seen to answer."""
        if lived_s >= QUICK_S:
            self.quick_in_row = 0
        if lived_s >= hang_s:
            self.hangs_in_row = 0
