"""The kernel's end of one mount: the descriptor of /dev/fuse, and what has to be known to go on answering on it.

Relies on `fusemount` for mounting and on `fusewire` for the protocol. Never waits but for fusermount3, which mounts.
What a process needs to take a mount over (the kernel's first request, the session, how many servers there were) is
kept in a memory file beside the descriptor, so that systemd can hold both over a restart. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import select
import time

from mountd import fusemount, fusewire
from mountd.fusemount import MountFailed
from mountd.servicemanager import ServiceManager

log = logging.getLogger("mountd.keeper")

KERNEL, STATE = "aliasfs-fuse", "aliasfs-state"
"""Names of what systemd keeps."""

AT_ONCE_S = 1.0
"""How long requests in flight are looked for before the next server gets its turn; the newest come first."""

SLICE_IDS = 20_000
"""Then so many ids at a time, between other things: about 20 ms."""

STATE_BYTES = 65536


class KernelEnd:
    """The mount on *point*, once `mount` or `adopt` has made it ours.

    *session* names this mount and no other; *generation* is the number of the server that has it, from 0.
    *lost* says that requests were taken by a server that is dead.
    """

    def __init__(self, point: str, manager: ServiceManager, *, resend: bool) -> None:
        self.point = point
        self.fd: int | None = None
        self.init = b""
        self.device = ""
        self.session = secrets.token_hex(16)
        self.generation = -1
        self.lost = False
        self._may_resend = resend
        self._manager = manager
        self._memory = os.memfd_create(STATE)
        self._answered_below = 0
        self._sweep: tuple[int, int] | None = None

    @property
    def resends(self) -> bool:
        """Whether the kernel sends again what a dead server had taken."""
        return self._may_resend and fusewire.can_resend(self.init)

    def mount(self, options: str) -> None:
        """Mount, and shake hands with the kernel. Raises MountFailed; nothing is left mounted then."""
        fd = fusemount.mount(self.point, options)
        try:
            self.init = os.read(fd, fusewire.REQUEST_BYTES)
            os.write(fd, fusewire.answer_init(self.init))
        except (OSError, ValueError) as exc:
            os.close(fd)
            fusemount.detach(self.point)
            raise MountFailed(f"cannot mount {self.point}: {exc}") from exc
        self.fd, self.device = fd, fusemount.device_of(self.point)
        self.remember()
        self._manager.keep(KERNEL, fd)
        self._manager.keep(STATE, self._memory)

    def adopt(self) -> bool:
        """Take over the mount that systemd has kept for us; say whether there was one that lives."""
        kept = self._manager.descriptors
        fd, memory = kept.pop(KERNEL, None), kept.pop(STATE, None)
        if fd is None or memory is None:
            return False
        try:
            state = json.loads(os.pread(memory, STATE_BYTES, 0))
            self.init = bytes.fromhex(state["init"])
            self.session, self.generation, self.device = state["session"], state["generation"], state["device"]
            self._answered_below = state["answered_below"]
        except (ValueError, KeyError, TypeError) as exc:
            log.error("what systemd kept of %s cannot be understood (%s); it is mounted anew", self.point, exc)
            self.fd = fd
            self.release()
            return False
        os.close(self._memory)
        self.fd, self._memory, self.lost = fd, memory, True
        if not self.has_ended():
            return True
        self.release()
        return False

    def next_generation(self) -> int:
        """Return the number of the server that is to come."""
        self.generation += 1
        self.remember()
        return self.generation

    def remember(self) -> None:
        """Write down what a process needs that is to take the mount over."""
        state = {
            "init": self.init.hex(),
            "session": self.session,
            "generation": self.generation,
            "device": self.device,
            "answered_below": self._answered_below,
        }
        text = json.dumps(state).encode()
        os.pwrite(self._memory, text.ljust(STATE_BYTES), 0)

    def has_ended(self) -> bool:
        """Say whether the kernel has nothing more for us: the mount was taken away, or aborted."""
        if self.fd is None:
            return False
        poll = select.poll()
        poll.register(self.fd, 0)
        return bool(poll.poll(0))

    def is_in_tree(self) -> bool:
        """Say whether the mount still lies at some place of the tree; one that was detached lazily does not."""
        return fusemount.is_mounted(self.device)

    def revive(self) -> list[bytes]:
        """See to the requests that dead servers had taken; return those that came while we looked.

        They are sent again, or they fail with EIO where the kernel cannot send them again.
        """
        if self.fd is None or not self.lost:
            return []
        self.lost = False
        if self.resends:
            os.write(self.fd, fusewire.resend())
            return []
        return self._fail_in_flight(self.fd)

    def _fail_in_flight(self, fd: int) -> list[bytes]:
        """Answer EIO to all ids up to that of the oldest request that nobody has taken yet.

        Ids are consecutive, and those that are not in flight are refused by the kernel (ENOENT), so nothing but
        the requests in flight is touched. The caller sees to it that a request is there or soon will be.
        """
        waiting: list[bytes] = []
        newest = 0
        while not newest and select.select([fd], [], [], AT_ONCE_S)[0]:
            request = fusewire.parse(os.read(fd, fusewire.REQUEST_BYTES))
            waiting.append(request.message)
            newest = request.unique if request.wants_answer else 0
        self._sweep = (newest - fusewire.ID_STEP, self._answered_below)
        self._answered_below = newest
        until = time.monotonic() + AT_ONCE_S
        while self._sweep is not None and time.monotonic() < until:
            self.sweep()
        return waiting

    def sweep(self) -> None:
        """Fail some more of the requests that were in flight when a server died, the newest first."""
        if self._sweep is None or self.fd is None:
            return
        newest, oldest = self._sweep
        stop = max(oldest, newest - SLICE_IDS * fusewire.ID_STEP)
        for unique in range(newest, stop, -fusewire.ID_STEP):
            with contextlib.suppress(OSError):
                os.write(self.fd, fusewire.error(unique))
        self._sweep = (stop, oldest) if stop > oldest else None

    def refuse(self, message: bytes) -> None:
        """Answer the request *message* with EIO, if it is one that is answered."""
        request = fusewire.parse(message)
        if request.wants_answer and self.fd is not None:
            with contextlib.suppress(OSError):  # ENOENT: whoever asked has gone
                os.write(self.fd, fusewire.error(request.unique))

    def refuse_next(self) -> None:
        """Read one request and answer it with EIO; nothing when the mount has ended."""
        if self.fd is not None:
            with contextlib.suppress(OSError):
                self.refuse(os.read(self.fd, fusewire.REQUEST_BYTES))

    def detach(self) -> None:
        """Take the mount out of the tree; it ends when nobody has it any more."""
        if self.device and fusemount.device_of(self.point) == self.device:
            why = fusemount.detach(self.point)
            if why:
                log.error("cannot unmount %s: %s; 'umount -l %s' does it as root", self.point, why, self.point)

    def abort(self) -> None:
        """Have every request fail; needs /sys/fs/fuse/connections, without which closing has to do."""
        why = fusemount.abort(self.device)
        if why:
            log.info("cannot abort %s: %s", self.point, why)

    def forget(self) -> None:
        """Have systemd keep nothing of the mount any longer."""
        self._manager.give_up(KERNEL)
        self._manager.give_up(STATE)

    def release(self) -> None:
        """Let go of the descriptor, and begin a session of its own with what comes next."""
        if self.fd is not None:
            self.forget()
            os.close(self.fd)
        self.fd, self.device, self.init, self.lost = None, "", b"", False
        self._sweep, self._answered_below = None, 0
        self.session = secrets.token_hex(16)
