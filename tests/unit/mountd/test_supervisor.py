"""Real keepers of real mounts, whose servers die, hang, refuse and talk nonsense on purpose."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from support.kept import Kept, kept
from support.plain_server import TERMS, set_plan
from support.unserved import NEEDS_FUSE

from mountd import fusemount

pytestmark = [pytest.mark.mount, NEEDS_FUSE]

READ = "import os, sys; print(os.getxattr(sys.argv[1], 'user.aliasfs.server').decode())"
ENDS_S = 20.0


@pytest.fixture
def keeper() -> Iterator[Kept]:
    with kept() as keeper:
        yield keeper
        assert "a bug in the keeper" not in keeper.log


def _reader(keeper: Kept) -> subprocess.Popen[str]:
    """Begin to read in a process of its own, which may wait for as long as it likes."""
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", READ, keeper.point], stdout=pipe, stderr=pipe, text=True)


def _terms(keeper: Kept, **terms: float) -> None:
    (keeper.folder / "terms").write_text(json.dumps(json.loads(TERMS) | terms))


def _serving(status: dict[str, Any]) -> bool:
    return bool(status["state"] == "serving")


def _has_followed(pid: int) -> Callable[[dict[str, Any]], bool]:
    return lambda status: _serving(status) and status["server_pid"] != pid


# the start


def test_a_server_that_says_why_it_cannot_start_ends_the_first_start(keeper: Kept) -> None:
    told = keeper.start("fail")
    assert (told["ready"], told["error"], told["exit"]) == (False, "the plan is bad", 78)
    assert keeper.ended() == 78
    assert not keeper.is_mounted()
    assert not keeper.control.exists()
    assert (keeper.folder / "starts").read_text() == "x"


def test_one_that_ends_without_a_word_does_so_too(keeper: Kept) -> None:
    told = keeper.start("crash")
    assert (told["ready"], told["error"], told["exit"]) == (False, "exit code 3", 70)
    assert keeper.ended() == 70


def test_a_program_that_cannot_be_run_is_no_server(keeper: Kept) -> None:
    told = keeper.start("serve", program="/nonexistent/python")
    assert not told["ready"]
    assert "cannot start /nonexistent/python: " in told["error"]
    assert keeper.ended() == 70


def test_a_place_that_cannot_be_mounted_on_is_said_and_left_alone(keeper: Kept) -> None:
    os.rmdir(keeper.point)
    told = keeper.start("serve")
    assert (told["ready"], told["exit"]) == (False, 69)
    assert f"cannot mount {keeper.point}: " in told["error"]
    assert keeper.ended() == 69
    os.mkdir(keeper.point)


def test_a_mount_that_is_kept_is_not_kept_twice(keeper: Kept) -> None:
    keeper.start("serve")
    assert keeper.process is not None
    second = subprocess.run(
        [sys.executable, "-m", "mountd.keeper", "--point", keeper.point, "--socket", keeper.control],
        capture_output=True,
        text=True,
        timeout=ENDS_S,
        check=False,
    )
    assert second.returncode == 69
    assert f"already mounted by pid {keeper.process.pid}" in second.stderr
    assert keeper.server_pid() == keeper.ask("status")["server_pid"]


def test_what_the_keeper_says_of_itself(keeper: Kept) -> None:
    keeper.start("serve")
    status = keeper.ask("status")
    assert keeper.process is not None
    assert (status["pid"], status["server_pid"]) == (keeper.process.pid, keeper.server_pid())
    assert (status["state"], status["said"], status["version"]) == ("serving", "serve as planned", "serve")
    assert status["device"] == fusemount.device_of(keeper.point)
    assert (status["deaths"], status["last_death"], status["systemd"]) == (0, "", False)


# deaths


def test_who_reads_while_a_server_dies_waits_for_the_next_one(keeper: Kept) -> None:
    keeper.start("hang", "serve")
    reader = _reader(keeper)
    keeper.wait_until(_serving)
    os.kill(keeper.ask("status")["server_pid"], signal.SIGKILL)
    out, err = reader.communicate(timeout=ENDS_S)
    assert not err
    status = keeper.ask("status")
    assert int(out) == status["server_pid"]
    assert (status["deaths"], status["last_death"], status["generation"]) == (1, "signal 9 (SIGKILL)", 1)


def test_a_kernel_that_cannot_send_again_fails_what_was_taken_and_nothing_else(keeper: Kept) -> None:
    told = keeper.start("hang", "serve", resend=False)
    assert told["ready"]
    reader = _reader(keeper)
    server = keeper.wait_until(_serving)["server_pid"]
    while not _has_in_work(reader):
        assert reader.poll() is None
    time.sleep(0.5)  # until the server has taken the request: only then is it lost with the server
    os.kill(server, signal.SIGKILL)
    _out, err = reader.communicate(timeout=ENDS_S)
    assert os.strerror(errno.ECONNABORTED) in err or os.strerror(errno.EIO) in err
    assert keeper.server_pid() == keeper.ask("status")["server_pid"] != server
    assert keeper.ask("status")["resend"] is False


def _has_in_work(reader: subprocess.Popen[str]) -> bool:
    """Whether *reader* waits for an answer (it sleeps in the kernel's FUSE code)."""
    try:
        with open(f"/proc/{reader.pid}/wchan") as where:
            return "request_wait_answer" in where.read()
    except OSError:
        return True


def test_servers_that_die_at_once_are_given_up_until_somebody_has_mended_that(keeper: Kept) -> None:
    keeper.start("serve", "quit")
    os.kill(keeper.server_pid(), signal.SIGKILL)
    status = keeper.wait_until(lambda status: status["state"] == "failing")
    assert status["deaths"] >= 4
    assert "exit code 3" in status["said"]
    assert "aliasfs restart" in status["said"]
    with pytest.raises(OSError) as caught:
        keeper.server_pid()
    assert caught.value.errno == errno.EIO
    keeper.ask("restart")
    keeper.wait_until(lambda status: status["state"] == "failing")
    set_plan(keeper.folder, "serve")
    assert keeper.ask("restart")["ok"]
    assert keeper.server_pid() == keeper.ask("status")["server_pid"]


def test_servers_that_cannot_start_any_more_are_given_up_too(keeper: Kept) -> None:
    keeper.start("serve", "crash")
    os.kill(keeper.server_pid(), signal.SIGKILL)
    status = keeper.wait_until(lambda status: status["state"] == "failing")
    assert "exit code 3" in status["last_death"]


def test_a_keeper_that_has_given_up_tries_again_by_itself(keeper: Kept) -> None:
    keeper.start("serve", "crash", "crash", "crash", "crash", "serve", RETRY_S=0.1)
    os.kill(keeper.server_pid(), signal.SIGKILL)
    keeper.wait_until(lambda status: _serving(status) and status["deaths"] > 3)
    assert "died at once" in keeper.log
    assert keeper.server_pid() == keeper.ask("status")["server_pid"]


def test_one_that_does_not_get_on_with_its_start_is_ended(keeper: Kept) -> None:
    keeper.start("serve", "stall", "serve", START_S=3.0)
    reader = _killing(keeper)
    assert int(reader.communicate(timeout=ENDS_S)[0]) == keeper.ask("status")["server_pid"]
    assert "does not serve after 3 s" in keeper.log


def _killing(keeper: Kept) -> subprocess.Popen[str]:
    """Kill the server and begin to read."""
    os.kill(keeper.server_pid(), signal.SIGKILL)
    return _reader(keeper)


# hangs


def test_a_server_that_stands_still_is_replaced_and_who_reads_waits(keeper: Kept) -> None:
    keeper.start("serve")
    _terms(keeper, hang_timeout_s=1)
    assert keeper.ask("restart")["ok"]
    server = keeper.server_pid()
    os.kill(server, signal.SIGSTOP)
    reader = _reader(keeper)
    assert int(reader.communicate(timeout=ENDS_S)[0]) != server
    status = keeper.ask("status")
    assert (status["hangs"], status["deaths"]) == (1, 1)
    assert "for it hung" in status["last_death"]


def test_when_servers_hang_in_a_row_the_mount_is_made_anew(keeper: Kept) -> None:
    keeper.start("serve", "hang", "hang", "hang", "serve")
    _terms(keeper, hang_timeout_s=0.5)
    assert keeper.ask("restart")["ok"]
    reader = _reader(keeper)
    keeper.wait_until(lambda status: _serving(status) and status["hangs"] >= 3)
    assert "mounted anew" in keeper.log
    reader.communicate(timeout=ENDS_S)
    assert reader.returncode == 1
    assert keeper.server_pid()


def test_who_asks_for_it_gets_another_server_at_once(keeper: Kept) -> None:
    keeper.start("hang", "serve")
    reader = _reader(keeper)
    answer = keeper.ask("unhang")
    assert answer["ok"]
    assert int(reader.communicate(timeout=ENDS_S)[0]) == answer["pid"]
    assert (keeper.ask("status")["deaths"], keeper.ask("status")["hangs"]) == (1, 1)


def test_who_asks_for_it_where_no_other_server_can_start_is_told(keeper: Kept) -> None:
    keeper.start("serve", "fail")
    answer = keeper.ask("unhang")
    assert (answer["ok"], answer["error"], answer["exit"]) == (False, "the plan is bad", 78)
    keeper.wait_until(lambda status: status["state"] == "failing")


# planned restarts


def test_a_restart_takes_another_server_without_a_death(keeper: Kept) -> None:
    keeper.start("serve")
    before = keeper.server_pid()
    answer = keeper.ask("restart")
    assert answer["ok"]
    assert answer["pid"] == keeper.server_pid() != before
    status = keeper.ask("status")
    assert (status["deaths"], status["generation"]) == (0, 1)
    assert not os.path.exists(f"/proc/{before}")


def test_sighup_is_a_restart(keeper: Kept) -> None:
    keeper.start("serve")
    before = keeper.server_pid()
    assert keeper.process is not None
    keeper.process.send_signal(signal.SIGHUP)
    keeper.wait_until(_has_followed(before))


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"python": "/nonexistent/python"},
        {"python": "/usr/bin/false"},
        {"python": "a\0b"},
        {"python": "\ud800"},
        {"python": {"a": 1}},
        {"python": sys.executable, "pythonpath": "/nonexistent\0"},
        {"python": "/"},
    ],
    ids=lambda facts: repr(facts)[:30],
)
def test_one_that_cannot_start_leaves_the_old_one(keeper: Kept, facts: dict[str, Any]) -> None:
    keeper.start("serve", "fail")
    before = keeper.server_pid()
    answer = keeper.ask("restart", **facts)
    assert (answer["ok"], bool(answer["error"])) == (False, True)
    assert keeper.server_pid() == before
    assert keeper.ask("status")["state"] == "serving"


def test_a_program_that_did_not_work_is_not_tried_again(keeper: Kept) -> None:
    keeper.start("serve", "crash", "serve")
    os.kill(keeper.server_pid(), signal.SIGKILL)
    keeper.ask("restart", python="/nonexistent/python")
    keeper.wait_until(_serving)
    assert keeper.server_pid() == keeper.ask("status")["server_pid"]


def test_a_server_that_does_not_let_go_is_ended(keeper: Kept) -> None:
    keeper.start("stubborn", "serve")
    before = keeper.server_pid()
    assert keeper.ask("restart")["ok"]
    assert keeper.server_pid() != before
    assert keeper.ask("status")["deaths"] == 0


def test_the_old_one_may_die_while_the_new_one_gets_ready(keeper: Kept) -> None:
    keeper.start("serve")
    with keeper.connect() as visitor, visitor.makefile("rb") as lines:
        visitor.sendall(b'{"do":"restart"}\n')
        os.kill(keeper.ask("status")["server_pid"], signal.SIGKILL)
        assert lines.readline()
    keeper.wait_until(_serving)
    assert keeper.server_pid() == keeper.ask("status")["server_pid"]


# the end


@pytest.mark.parametrize("how", ["stop", "SIGTERM", "SIGINT"])
def test_the_end_takes_the_mount_away(keeper: Kept, how: str) -> None:
    keeper.start("serve")
    assert keeper.process is not None
    server = keeper.server_pid()
    if how == "stop":
        assert keeper.ask("stop") == {"ok": True}
    else:
        keeper.process.send_signal(signal.Signals[how])
    assert keeper.ended() == 0
    assert not keeper.is_mounted()
    assert not os.path.exists(f"/proc/{server}")
    assert not keeper.control.exists()


def test_a_server_that_hears_nothing_does_not_hold_up_the_end(keeper: Kept) -> None:
    keeper.start("stubborn", STOP_S=0.5)
    server = keeper.server_pid()
    os.kill(server, signal.SIGSTOP)
    keeper.ask("stop")
    assert keeper.ended() == 0
    assert not os.path.exists(f"/proc/{server}")
    assert not keeper.is_mounted()


def test_who_waits_for_a_restart_is_told_of_the_end(keeper: Kept) -> None:
    keeper.start("serve")
    set_plan(keeper.folder, "crash")
    os.kill(keeper.ask("status")["server_pid"], signal.SIGSTOP)
    with keeper.connect() as visitor, visitor.makefile("rb") as lines:
        visitor.sendall(b'{"do":"unhang"}\n')
        keeper.ask("stop")
        assert json.loads(lines.readline())["ok"] is False
    assert keeper.ended() == 0


def test_a_mount_that_is_taken_away_by_somebody_else_is_the_end(keeper: Kept) -> None:
    keeper.start("serve")
    subprocess.run(["umount", keeper.point], check=True, timeout=ENDS_S)
    assert keeper.ended() == 0


def test_a_mount_that_is_aborted_is_made_anew(keeper: Kept) -> None:
    keeper.start("serve")
    before = keeper.ask("status")
    assert not fusemount.abort(before["device"])
    status = keeper.wait_until(_has_followed(before["server_pid"]))
    assert "mounted anew" in keeper.log
    assert keeper.server_pid() == status["server_pid"]


def test_also_while_no_server_stays_up(keeper: Kept) -> None:
    keeper.start("serve", "crash", RETRY_S=1.0)
    os.kill(keeper.server_pid(), signal.SIGKILL)
    device = keeper.wait_until(lambda status: status["state"] == "failing")["device"]
    set_plan(keeper.folder, "serve")
    fusemount.abort(device)
    status = keeper.wait_until(_serving)
    assert keeper.server_pid() == status["server_pid"]
    assert "mounted anew" in keeper.log


# nonsense


def test_a_server_that_talks_nonsense_is_a_server_all_the_same() -> None:
    with kept() as keeper:
        assert keeper.start("talk")["ready"]
        assert keeper.server_pid() == keeper.ask("status")["server_pid"]


def test_nothing_that_comes_to_the_door_ends_the_keeper(keeper: Kept) -> None:
    keeper.start("serve")
    server, chance = keeper.server_pid(), random.Random(42)
    questions = [b"\n", b"{}\n", b'{"do":null}\n', b"[" * 60_000 + b"\n", b"x" * 70_000, b'{"do":"status"', b""]
    with ExitStack() as stack:
        for number in range(300):
            visitor = stack.enter_context(keeper.connect())
            asked = questions[number] if number < len(questions) else chance.randbytes(chance.randrange(100))
            if chance.random() < 0.5:
                asked += b"\n"
            try:
                visitor.sendall(asked)
                if chance.random() < 0.3:
                    visitor.shutdown(socket.SHUT_WR)
                elif chance.random() < 0.3:
                    visitor.close()
            except OSError:
                assert keeper.process is not None  # it was answered, and hung up on, before it had said all
                assert keeper.process.poll() is None
        assert keeper.ask("status")["state"] == "serving"
    assert keeper.server_pid() == server
