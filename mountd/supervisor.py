"""What the keeper does: it holds the kernel's end of one mount, hands it to a server, and to another when that dies.

A mount lives as long as somebody holds the descriptor of /dev/fuse. While there is no server, requests wait in the
kernel; those a dead one had taken are sent again (FUSE_NOTIFY_RESEND), or, by kernels before 6.9, which cannot, they
fail. A server goes through these stages, each ended by what it says: it loads its code and configuration
("warm"), opens its cache once the server before it is gone ("opened"), takes the kernel's descriptor and reads the
mount through the kernel ("ready").

Standard library only, one thread, nothing that waits: it shall hardly be able to fail. What may hang is done by
children: servers, fusermount3, and the probe that reads from the mount.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import time
from typing import Any

from mountd import oomscore
from mountd.chronicle import Chronicle
from mountd.deaths import Death, Deaths, Verdict
from mountd.events import Events
from mountd.fusemount import MountFailed
from mountd.handover import Handover
from mountd.kernelend import KernelEnd
from mountd.reception import TEMPORARY, Reception
from mountd.serverprocess import Program, ServerProcess, how_it_ended
from mountd.servicemanager import ServiceManager
from mountd.sockets import Sockets
from mountd.starter import Starter
from mountd.vigil import Vigil

log = logging.getLogger("mountd.keeper")

START_S = 60.0
"""How long a server may need until it serves; on a busy machine it takes seconds."""

RETRY_S = 60.0
"""How often a keeper that has given up tries again by itself."""

DRAIN_S = 0.7
"""How long requests in work may hold up a restart, where the kernel can send them again: nobody is to wait for a
second. Where it cannot, as long as a hang is bearable."""

STOP_S = 10.0
"""How long they may hold up the end."""

UNKILLABLE_S = 10.0
"""A process that outlives SIGKILL for so long waits for the kernel, and the kernel perhaps for us."""

TICK_S = 0.25
UNAVAILABLE, INTERNAL = 69, 70
"""Exit codes of sysexits.h; a server that ends itself because a request hangs has TEMPORARY."""


class Keeper:
    """One mount and its server; `run` is all there is to call.

    *keeps_mount* says, at the end, that the mount was left for the next keeper.
    """

    def __init__(self, given: argparse.Namespace, sockets: Sockets, manager: ServiceManager, starter: Starter) -> None:
        """*given* has `point`, `serve` (arguments of every server) and `without_resend`."""
        self._given = given
        self._sockets = sockets
        self._manager = manager
        self._starter = starter
        self._kernel = KernelEnd(given.point, manager, resend=not given.without_resend)
        self._deaths = Deaths()
        self._vigil = Vigil(self._kernel, manager, self._deaths)
        self._events = Events()
        self._handover = Handover(self._kernel, self._events, self._connection_ended)
        self._reception = Reception(self, self._events, sockets.door)
        self.program = Program.own()
        self._wish: Program | None = None
        self._server: ServerProcess | None = None
        self._candidate: ServerProcess | None = None
        self._chronicle = Chronicle(self._kernel, self._deaths, manager)
        self._is_first_start = True
        self._hang_s, self._options = 30.0, "ro"
        self._is_wanted = False
        self._stop_by: float | None = None
        self.keeps_mount = False
        self._next_start = 0.0
        self._code: int | None = None
        self._oom_score = oomscore.become_unlikely_victim()

    # the loop

    def run(self, wakeup: socket.socket) -> int:
        """Keep the mount until it is gone; return the exit code. *wakeup* gets the numbers of signals."""
        self._events.watch(wakeup.fileno(), lambda: self._obey(wakeup.recv(4096)))
        if self._kernel.adopt():
            self._is_first_start = False
            log.info("took over the mount %s, which systemd had kept", self._given.point)
        while self._code is None:
            try:
                self._events.wait(TICK_S)
                self._tick(time.monotonic())
            except Exception:
                log.exception("a bug in the keeper of %s; it goes on", self._given.point)
                time.sleep(TICK_S)
        self._leave_nobody()
        return self._code

    def _tick(self, now: float) -> None:
        for server in (self._server, self._candidate):
            if server is not None:
                self._mind(server, now)
        if self.is_stopping:
            self._go_on_stopping(now)
        elif self._server is None:
            self._manager.feed()
            if now >= self._next_start:
                self._start()
        elif self._code is None:
            self._look_after(self._server, now)

    def _mind(self, server: ServerProcess, now: float) -> None:
        """See whether *server* has ended, or takes too long to start or to end."""
        code = server.ended()
        server.kill_when_dumped(now)
        if code is not None:
            self._hear(server)
            self._died(server, code)
        elif server.killed_at is not None:
            if now > server.killed_at + UNKILLABLE_S and server is self._server:
                self._events.unwatch(server.link.fileno())
                self._server = None
                self._mount_anew(f"the server (pid {server.pid}) does not end, not even by SIGKILL")
        elif server.ready_at is None and now > server.started_at + START_S:
            log.error("the server (pid %d) does not serve after %.0f s and is ended", server.pid, START_S)
            server.kill()

    # a server comes

    def _start(self) -> None:
        program, self._wish = self._wish or self.program, None
        try:
            self._server = self._spawn(program)
        except (OSError, ValueError) as exc:
            self._bury(Death(f"cannot start {program.python}: {exc}"))

    def _spawn(self, program: Program, *more: str) -> ServerProcess:
        arguments = ["--point", self._given.point, *more, *self._given.serve]
        server = ServerProcess(program, arguments, self._sockets.control)
        server.set_oom_score(self._oom_score)
        self._events.watch(server.link.fileno(), lambda: self._hear(server))
        return server

    def _hear(self, server: ServerProcess) -> None:
        """Take what *server* says."""
        while (said := server.hear()) is not None:
            try:
                self._take(server, said)
            except (TypeError, ValueError) as exc:
                log.warning("the server (pid %d) says what cannot be understood: %s", server.pid, exc)
                if server is self._candidate:
                    server.kill()
        if server.is_silent:
            self._events.unwatch(server.link.fileno())

    def _take(self, server: ServerProcess, said: dict[str, Any]) -> None:
        match said.get("say"):
            case "warm":
                self._warm(server, said)
            case "opened":
                self._hand_over(server)
            case "ready":
                self._ready(server, said)
            case "failed":
                server.failure = (str(said.get("error", "")), int(said.get("exit", INTERNAL)))
            case "worn" if server is self._server and self._candidate is None:
                log.warning("the server (pid %d) is to be replaced: %s", server.pid, said.get("why"))
                self.replace(self.program)
            case "stop":
                self.stop("it was asked to")

    def _warm(self, server: ServerProcess, said: dict[str, Any]) -> None:
        """Let a server that has loaded all it needs go on, once the one before it is gone."""
        server.version = str(said.get("version", ""))
        self._hang_s = float(said.get("hang_timeout_s", self._hang_s))
        self._deaths.limit = int(said.get("restart_limit", self._deaths.limit))
        self._options = str(said.get("mount_options", self._options))
        self._manager.allow_silence(2 * self._hang_s + START_S)
        if server is not self._candidate:
            self._open(server)
        elif self._server is not None:
            self._chronicle.pause()
            self._chronicle.say("replacing", "another server takes over")
            self._server.is_draining = True
            self._server.say(do="drain")
        else:
            self._promote()

    def _promote(self) -> None:
        self._server, self._candidate = self._candidate, None
        if self._server is not None:
            self._open(self._server)

    def _open(self, server: ServerProcess) -> None:
        server.say(do="open", session=self._kernel.session, generation=self._kernel.next_generation())

    def _hand_over(self, server: ServerProcess) -> None:
        """Give the kernel's requests to a server that is waiting for them."""
        try:
            self._handover.give(server, self._options)
        except (MountFailed, OSError) as exc:
            server.failure = (str(exc), UNAVAILABLE)
            server.kill()

    def _ready(self, server: ServerProcess, said: dict[str, Any]) -> None:
        server.ready_at = time.monotonic()
        self.program = server.program
        self._is_first_start = False
        self._chronicle.resume()
        self._vigil.begin()
        log.info("the server (pid %d, version %s) serves", server.pid, server.version)
        self._chronicle.say("serving", str(said.get("status", "serving")))
        self._manager.tell("READY=1")
        self._starter.tell(ready=True)
        self._reception.answer(ok=True, pid=server.pid, version=server.version, pause_s=self._chronicle.pause_s)

    # a server goes

    def _died(self, server: ServerProcess, code: int) -> None:
        self._events.unwatch(server.link.fileno())
        server.link.close()
        why, exit_code = server.failure or (how_it_ended(code), INTERNAL)
        if server is self._candidate:
            self._candidate = None
            if not self.is_stopping:
                log.error("the new server did not start: %s; the old one serves on", why)
                self._reception.answer(ok=False, error=why, exit=exit_code)
            return
        self._server = None
        if server.has_kernel:
            self._chronicle.pause()
        if self._kernel.has_ended():
            self._connection_ended()
        elif not self.is_stopping and self._candidate is not None and server.is_draining:
            self._promote()
        elif not self.is_stopping:
            log.log(logging.INFO if self._is_first_start else logging.WARNING, "server %d died: %s", server.pid, why)
            lived_s = time.monotonic() - server.ready_at if server.ready_at is not None else 0.0
            hung = server.hung or (code == TEMPORARY and server.failure is None)
            self._bury(Death(f"{why}, for it hung" if hung else why, exit_code, lived_s, hung))

    def _bury(self, death: Death) -> None:
        """Note a death, and see to it that another server comes, or that nobody waits for one in vain."""
        wanted, self._is_wanted = self._is_wanted, False
        if not wanted and self._candidate is None:
            self._reception.answer(ok=False, error=death.why, exit=death.exit_code)
        if self._is_first_start:
            self._end_before_it_began(death.why, death.exit_code)
            return
        verdict = self._deaths.note(death, wanted=wanted)
        self._next_start = time.monotonic() + self._deaths.pause_s()
        if verdict is Verdict.GIVE_UP:
            self._fail(death.why)
        else:
            if verdict is Verdict.MOUNT_ANEW:
                self._mount_anew("several servers in a row hung")
            self._chronicle.say("replacing", f"the server died ({death.why}); another one is being started")
        if self._candidate is not None:  # it was to take over anyway
            self._server, self._candidate = self._candidate, None

    def _end_before_it_began(self, why: str, exit_code: int) -> None:
        """Tell the starter that there will be no mount, and end."""
        log.error("there will be no mount on %s: %s", self._given.point, why)
        self._starter.tell(ready=False, error=why, exit=exit_code)
        self._manager.show(why)
        self._end(exit_code)

    def _fail(self, why: str) -> None:
        """Answer everything with EIO, rather than hang, until a server comes that stays."""
        self._next_start = time.monotonic() + RETRY_S
        sentence = (
            f"{self._deaths.quick_in_row} servers in a row died at once ({why}): every request is answered with EIO; "
            f"mend that, then 'aliasfs restart {self._given.point}'"
        )
        self._chronicle.say("failing", sentence)
        log.error("%s", sentence)
        self._handover.refuse()

    def _connection_ended(self) -> None:
        """Take note that the mount was taken away, which is our end, or was aborted, and is made anew."""
        if not self._kernel.has_ended() or self._code is not None:
            return
        self._handover.rest()
        if self._kernel.is_in_tree() and not self.is_stopping:
            self._mount_anew("the connection was aborted")
        elif not self.is_stopping:
            self._begin_to_stop()

    # whether it answers

    def _look_after(self, server: ServerProcess, now: float) -> None:
        """See whether the mount answers, and do something about it when it does not."""
        if server.ready_at is None:
            self._manager.feed()  # `_mind` bounds how long this goes on
        elif server.killed_at is not None or server.hung:
            return
        elif server.is_draining:
            if now > self._chronicle.pause() + (DRAIN_S if self._kernel.resends else self._hang_s):
                log.info("the server (pid %d) takes long to finish and is ended", server.pid)
                server.kill()
        elif self._vigil.hangs(server.ready_at, self._hang_s):
            log.error("%s has not answered for %.0f s: the server hangs", self._given.point, self._hang_s)
            self._end_hanging(server)

    def _end_hanging(self, server: ServerProcess) -> None:
        self._vigil.pause()
        self._chronicle.pause()
        server.end_hanging()

    def _mount_anew(self, why: str) -> None:
        """The last resort: what is open breaks off, but the path works again."""
        sentence = f"{why}: {self._given.point} is mounted anew, and what was open there breaks off"
        log.error("%s", sentence)
        self._chronicle.pause()
        self._chronicle.say("replacing", sentence)
        if self._server is not None:
            self._server.has_kernel = False
            self._server.kill()
        self._handover.take_away()

    # what it is asked for

    @property
    def is_stopping(self) -> bool:
        """Whether the mount is being taken away."""
        return self._stop_by is not None

    def status(self) -> dict[str, Any]:
        """Return all facts, for the door."""
        return self._chronicle.facts(self._server)

    def replace(self, program: Program) -> None:
        """Begin a planned restart: the new server loads what it needs while the old one serves."""
        if self._server is None:
            self._wish, self._next_start = program, 0.0
        elif self._candidate is None and not self.is_stopping:
            try:
                self._candidate = self._spawn(program, "--load-all")
            except (OSError, ValueError) as exc:
                self._reception.answer(ok=False, error=f"cannot start {program.python}: {exc}", exit=INTERNAL)

    def unhang(self) -> None:
        """Replace the server at once, however it is."""
        self._is_wanted = self._server is not None
        if self._server is None:
            self._next_start = 0.0
        else:
            self._end_hanging(self._server)

    def _obey(self, numbers: bytes) -> None:
        for number in numbers:
            if number in (signal.SIGTERM, signal.SIGINT):
                self.stop(signal.Signals(number).name)
            elif number == signal.SIGHUP and os.isatty(0):
                self.stop("its terminal was closed")
            elif number == signal.SIGHUP:
                self.replace(self.program)

    # the end

    def stop(self, why: str) -> None:
        """Take the mount away, unless systemd is about to start us again, and end."""
        if self.is_stopping:
            return
        self.keeps_mount = self._manager.is_restarting()
        if self.keeps_mount:
            log.info("%s: ending, the mount stays for the next start", why)
        else:
            log.info("%s: unmounting %s", why, self._given.point)
            self._kernel.detach()
            self._kernel.forget()
        self._begin_to_stop()

    def _begin_to_stop(self) -> None:
        self._stop_by = time.monotonic() + STOP_S
        self._chronicle.say("stopping", "the mount is being left" if self.keeps_mount else "unmounting")
        self._manager.tell("STOPPING=1")
        self._reception.answer(ok=False, error="the mount is being taken away", exit=TEMPORARY)
        if self._candidate is not None:
            self._candidate.kill()
        if self._server is not None:
            self._server.is_draining = True
            self._server.say(do="drain")

    def _go_on_stopping(self, now: float) -> None:
        if self._server is None:
            log.info("%s %s", "left mounted:" if self.keeps_mount else "unmounted", self._given.point)
            self._end(0)
        elif now > (self._stop_by or now):
            self._server.kill()

    def _leave_nobody(self) -> None:
        """See every child end: what follows us is not to meet the locks of our servers."""
        self._vigil.close(UNKILLABLE_S)
        for server in (self._server, self._candidate):
            if server is not None:
                server.kill()
                server.wait(UNKILLABLE_S)

    def _end(self, code: int) -> None:
        self._code = code
        self._starter.tell(ready=False, error="the mount was taken away before it was ready", exit=TEMPORARY)
        if self._is_first_start:
            self._kernel.detach()
