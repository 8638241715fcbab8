"""Watches over one mount: probes it through the kernel every few seconds, and says when it hangs.

What systemd hears of us depends on it: its watchdog is fed when a probe was answered, never by a timer alone. The
probes have a second use. pyfuse3 waits until the kernel has a request and then reads it without looking again; when
the request was withdrawn in between (somebody pressed Ctrl-C), the server stands still until the next one comes, and
a probe is one. Standard library only.
"""

from __future__ import annotations

import time

from mountd.deaths import Deaths
from mountd.kernelend import KernelEnd
from mountd.pulse import Beat, Pulse
from mountd.servicemanager import ServiceManager

PROBE_S = 2.0
"""Between two probes: a fork of a small process and one request, about 3 ms of processor."""


class Vigil:
    """The probes of *kernel*; what they find is told to *manager* and *deaths*."""

    def __init__(self, kernel: KernelEnd, manager: ServiceManager, deaths: Deaths) -> None:
        self._kernel = kernel
        self._manager = manager
        self._deaths = deaths
        self._pulse = Pulse(kernel.point)
        self._next_at = 0.0

    def begin(self) -> None:
        """Begin anew with a server that has just been seen to answer."""
        self._pulse.give_up()
        self._next_at = time.monotonic() + PROBE_S

    def pause(self) -> None:
        """Expect nothing for a while."""
        self._pulse.give_up()

    def close(self, longest_s: float) -> None:
        """End for good, within *longest_s*."""
        self._pulse.close(longest_s)

    def hangs(self, serving_since: float, hang_s: float) -> bool:
        """Go on probing the server that serves since then; say whether it has not answered for *hang_s*."""
        now = time.monotonic()
        beat = self._pulse.result()
        if beat is Beat.ANSWERED:
            self._deaths.note_answer(now - serving_since, hang_s)
        if beat is Beat.ANSWERED or beat is Beat.ELSEWHERE:
            self._manager.feed()
        if self._pulse.waiting_s > hang_s:
            return True
        if now >= self._next_at and not self._pulse.waiting_s:
            self._next_at = now + min(PROBE_S, self._manager.watchdog_s / 4 or PROBE_S)
            if self._kernel.is_in_tree():
                self._pulse.start(self._kernel.device, self._kernel.fd)
            else:  # detached while files are open: there is no path to read by
                self._manager.feed()
        return False
