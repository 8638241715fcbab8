"""The kernel's end of one mount: the descriptor of /dev/fuse, and what has to be known to go on answering on it.

Relies on `fusemount` for mounting and on `fusewire` for the protocol. Never waits but for fusermount3, which mounts.
What a process needs to take a mount over (the kernel's first request, the session, how many servers there were) is
kept in a memory file beside the descriptor, so that systemd can hold both over a restart. Standard library only.

What happens to the requests a server had taken when it dies depends on which descriptor it had. Where the kernel can
send them again, servers share ours, which outlives them. Where it cannot (before 6.9), each gets a descriptor of its
own for the same mount (FUSE_DEV_IOC_CLONE): when the last holder of that is gone, the kernel fails just the requests
that were taken through it (ECONNABORTED, fuse_dev_release in fs/fuse/dev.c).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import secrets
import select
import struct

from mountd import fusemount, fusewire
from mountd.fusemount import MountFailed
from mountd.servicemanager import ServiceManager

log = logging.getLogger("mountd.keeper")

KERNEL, STATE = "aliasfs-fuse", "aliasfs-state"
"""Names of what systemd keeps."""

STATE_BYTES = 65536

DEVICE = "/dev/fuse"
CLONE = 0x8004E500
"""FUSE_DEV_IOC_CLONE, _IOR(229, 0, uint32_t): makes an open DEVICE one more descriptor of a mount; since Linux 4.2."""


class KernelEnd:
    """The mount on *point*, once `mount` or `adopt` has made it ours.

    *session* names this mount and no other; *generation* is the number of the server that has it, from 0.
    """

    def __init__(self, point: str, manager: ServiceManager, *, resend: bool) -> None:
        """Without *resend* the kernel is treated as one before 6.9."""
        self.point = point
        self.fd: int | None = None
        self.init = b""
        self.device = ""
        self.session = secrets.token_hex(16)
        self.generation = -1
        self._may_resend = resend
        self._manager = manager
        self._memory = os.memfd_create(STATE)
        self._refusing: int | None = None
        self._dead = ""

    @property
    def resends(self) -> bool:
        """Whether the kernel sends again what a dead server had taken."""
        return self._may_resend and fusewire.can_resend(self.init)

    def mount(self, options: str) -> None:
        """Mount, and shake hands with the kernel. Raises MountFailed; nothing is left mounted then."""
        self.detach()
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
        """Take over the mount that systemd has kept for us; say whether there was one that lives on our point."""
        kept = self._manager.descriptors
        fd, memory = kept.pop(KERNEL, None), kept.pop(STATE, None)
        if fd is None or memory is None:
            return False
        self.fd = fd
        try:
            state = json.loads(os.pread(memory, STATE_BYTES, 0))
            self.init, self.session = bytes.fromhex(state["init"]), str(state["session"])
            self.generation, self.device = int(state["generation"]), str(state["device"])
            place = str(state["point"])
        except (OSError, ValueError, KeyError, TypeError) as exc:
            log.error("what systemd kept of %s cannot be understood (%s); it is mounted anew", self.point, exc)
            os.close(memory)
            self.device = fusemount.device_of(self.point)
            self.take_away()
            return False
        os.close(self._memory)
        self._memory = memory
        if place != self.point:
            log.warning("%s is taken away, for the service now mounts on %s", place, self.point)
            if fusemount.device_of(place) == self.device:
                fusemount.detach(place)
        if place != self.point or self.has_ended() or not self.is_in_tree():
            self.take_away()
            return False
        return True

    def next_generation(self) -> int:
        """Return the number of the server that is to come."""
        self.generation += 1
        self.remember()
        return self.generation

    def remember(self) -> None:
        """Write down what a process needs that is to take the mount over."""
        state = {
            "point": self.point,
            "init": self.init.hex(),
            "session": self.session,
            "generation": self.generation,
            "device": self.device,
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
        """Say whether the mount still lies at its place in the tree; one that was detached lazily does not."""
        return fusemount.is_mounted(self.device, self.point)

    def for_server(self) -> int:
        """Return a descriptor for the next server, to be closed when it has it; what the last one had is sent again.

        Raises OSError.
        """
        assert self.fd is not None
        if not self.resends:
            return self._clone()
        os.write(self.fd, fusewire.resend())
        return os.dup(self.fd)

    def _clone(self) -> int:
        assert self.fd is not None
        fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, CLONE, struct.pack("=I", self.fd))
        except OSError:
            os.close(fd)
            raise
        return fd

    def begin_to_refuse(self) -> int:
        """Have requests answered with EIO by `refuse_next`; return the descriptor to be watched for them."""
        if self._refusing is None:
            self._refusing = self._clone()
            os.set_blocking(self._refusing, False)  # a descriptor that servers have must block: pyfuse3 relies on it
            if self.resends and self.fd is not None:
                os.write(self.fd, fusewire.resend())
        return self._refusing

    def end_refusing(self) -> int | None:
        """Leave requests to a server again; return the descriptor that is to be watched no longer."""
        fd, self._refusing = self._refusing, None
        return fd

    def refuse_next(self) -> None:
        """Answer one request with EIO; nothing when there is none, or the mount has ended."""
        if self._refusing is None:
            return
        with contextlib.suppress(OSError):  # whoever asked has gone
            request = fusewire.parse(os.read(self._refusing, fusewire.REQUEST_BYTES))
            if request.wants_answer:
                os.write(self._refusing, fusewire.error(request.unique))

    def detach(self) -> None:
        """Take the mount out of the tree; it ends when nobody has it any more."""
        there = fusemount.device_of(self.point)
        if there and there in (self.device, self._dead):
            why = fusemount.detach(self.point)
            if why:
                log.error("cannot unmount %s: %s; 'umount -l %s' does it as root", self.point, why, self.point)
        self._dead = ""

    def abort(self) -> None:
        """Have every request fail; needs /sys/fs/fuse/connections, without which closing has to do.

        Nothing when the mount has ended: its number may be that of another mount by now.
        """
        why = "" if self.has_ended() else fusemount.abort(self.device)
        if why:
            log.info("cannot abort %s: %s", self.point, why)

    def forget(self) -> None:
        """Have systemd keep nothing of the mount any longer."""
        self._manager.give_up(KERNEL)
        self._manager.give_up(STATE)

    def take_away(self) -> None:
        """End the mount, whoever uses it; `mount` may then make another one, with a session of its own.

        Until then it stays in the tree, where it answers ENOTCONN: an empty directory in its place would be taken for
        what there is, and an rsync would empty its mirror.
        """
        self.abort()
        self._dead = self.device or self._dead
        if self.fd is not None:
            self.forget()
            os.close(self.fd)
        if self._refusing is not None:
            os.close(self._refusing)
        self.fd, self._refusing, self.device, self.init = None, None, "", b""
        self.session = secrets.token_hex(16)
