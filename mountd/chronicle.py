"""What a keeper tells of itself: at its door, to systemd, and to whoever asks how long readers had to wait.

Standard library only.
"""

from __future__ import annotations

import os
import time
from typing import Any

from mountd.deaths import Deaths
from mountd.kernelend import KernelEnd
from mountd.serverprocess import ServerProcess
from mountd.servicemanager import ServiceManager


class Chronicle:
    """*state* is one word, *said* a sentence, *pause_s* how long requests waited for the present server."""

    def __init__(self, kernel: KernelEnd, deaths: Deaths, manager: ServiceManager) -> None:
        self.state, self.said = "starting", "starting"
        self.pause_s = 0.0
        self.paused_at: float | None = None
        self._kernel = kernel
        self._deaths = deaths
        self._manager = manager

    def say(self, state: str, sentence: str) -> None:
        """Note *state*, and have systemd show *sentence*."""
        self.state, self.said = state, sentence
        self._manager.show(sentence)

    def pause(self) -> float:
        """Note that nobody answers requests from now on; return since when (monotonic clock)."""
        if self.paused_at is None:
            self.paused_at = time.monotonic()
        return self.paused_at

    def resume(self) -> None:
        """Note that requests are answered again."""
        self.pause_s = round(time.monotonic() - self.paused_at, 3) if self.paused_at is not None else 0.0
        self.paused_at = None

    def facts(self, server: ServerProcess | None) -> dict[str, Any]:
        """Return all, with what *server* is."""
        return {
            "pid": os.getpid(),
            "state": self.state,
            "server_pid": server.pid if server else 0,
            "version": server.version if server else "",
            "said": self.said,
            "generation": self._kernel.generation,
            "deaths": self._deaths.all,
            "hangs": self._deaths.hangs,
            "last_death": self._deaths.last,
            "last_death_at": self._deaths.last_at,
            "resend": self._kernel.resends,
            "device": self._kernel.device,
            "pause_s": self.pause_s,
            "systemd": bool(self._manager),
        }
