"""The keeper's words with systemd: what to show, that it lives, and descriptors to keep over a restart.

Source: sd_notify(3), sd_listen_fds(3), the datagram protocol on $NOTIFY_SOCKET. Without systemd everything here does
nothing. Standard library only.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import time
from collections.abc import Mapping

log = logging.getLogger(__name__)

FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START."""

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
"""Of systemd's words to one process; its children must not take them for theirs."""

PLAIN = ("--no-legend", "--plain", "--full")
"""One job a line, as `40 aliasfs-mountd.service restart running`; seen with systemd 252, which answers in 5 ms."""

TELL_S = 1.0
"""How long a service manager that is busy may keep us waiting; it takes what is said from a queue."""

ASK_S = 5.0
"""How long systemctl may take to say what it is about to do."""


class ServiceManager:
    """systemd as *environment* describes it to this process, or nobody."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._is_for_user = "MANAGERPID" in environment and os.geteuid() != 0
        self._said = ""
        self._fed_at = 0.0
        self.watchdog_s = _for_us(environment, "WATCHDOG_PID") * _number(environment, "WATCHDOG_USEC") / 1e6
        self.descriptors: dict[str, int] = {}
        if environment.get("LISTEN_PID") == str(os.getpid()):
            names = environment.get("LISTEN_FDNAMES", "").split(":")
            for index in range(_number(environment, "LISTEN_FDS")):
                name = names[index] if index < len(names) else "unknown"
                self.descriptors[name] = FIRST_DESCRIPTOR + index
                os.set_inheritable(FIRST_DESCRIPTOR + index, False)

    def __bool__(self) -> bool:
        return bool(self._address)

    def tell(self, state: str, descriptor: int | None = None) -> None:
        """Send *state*, lines of `NAME=value`, with *descriptor* if there is one."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.settimeout(TELL_S)
                channel.connect(address)
                if descriptor is None:
                    channel.sendall(state.encode())
                else:
                    socket.send_fds(channel, [state.encode()], [descriptor])
        except OSError as exc:
            log.info("systemd does not listen on %s: %s", self._address, exc)

    def feed(self) -> None:
        """Say that all is well, when systemd waits to hear that; more often than it has to be is left out."""
        if self.watchdog_s and time.monotonic() >= self._fed_at + self.watchdog_s / 8:
            self._fed_at = time.monotonic()
            self.tell("WATCHDOG=1")

    def allow_silence(self, silence_s: float) -> None:
        """Have systemd wait for a sign of life for *silence_s* at least."""
        if 0 < self.watchdog_s < silence_s:
            self.watchdog_s = silence_s
            self.tell(f"WATCHDOG_USEC={int(silence_s * 1e6)}")

    def show(self, sentence: str) -> None:
        """Show *sentence* as the state of the unit; once when it stays the same."""
        if sentence != self._said:
            self._said = sentence
            self.tell(f"STATUS={sentence.splitlines()[0] if sentence else ''}")

    def keep(self, name: str, descriptor: int) -> None:
        """Have *descriptor* kept over a restart under *name*, in place of an earlier one of that name.

        FDPOLL=0 keeps it out of what systemd polls: each request would wake it.
        """
        self.tell(f"FDSTOREREMOVE=1\nFDNAME={name}")
        self.tell(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", descriptor)

    def give_up(self, name: str) -> None:
        """Have what is kept under *name* closed."""
        self.tell(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def is_restarting(self) -> bool:
        """Say whether our unit, which was told to end, is to be started again; asks systemctl, so it takes a moment."""
        if not self:
            return False
        try:
            jobs = [line.split() for line in self._ask("list-jobs", *PLAIN).splitlines()]
            units = [job[1] for job in jobs if len(job) > 2 and job[2] in ("restart", "start")]
            if not units:
                return False
            main = self._ask("show", "--property=MainPID", "--value", "--", *units)
        except (OSError, subprocess.SubprocessError) as exc:
            log.warning("systemctl cannot say whether this is a restart: %s; the mount is taken away", exc)
            return False
        return str(os.getpid()) in main.split()

    def _ask(self, *question: str) -> str:
        command = ["systemctl", *(["--user"] if self._is_for_user else []), "--no-pager", *question]
        asked = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=ASK_S, check=True)
        return asked.stdout.decode(errors="replace")


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name, "")
    return int(value) if value.isdecimal() else 0


def _for_us(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, str(os.getpid())) == str(os.getpid())
