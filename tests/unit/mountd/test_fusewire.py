"""The kernel's protocol as the keeper speaks it: what real kernels send, what they are answered, and any garbage."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.recorded import LINUX_5_4, LINUX_6_1, LINUX_6_18

from mountd import fusewire

FORGET = struct.pack("=IIQQIIIHHQ", 48, fusewire.FORGET, 8, 5, 0, 0, 0, 0, 0, 1)


def _answer(init: bytes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    reply = fusewire.answer_init(init)
    head = fusewire.OUT_HEADER.unpack_from(reply)
    assert head[0] == len(reply) == 80
    return head, fusewire.INIT_OUT.unpack_from(reply, fusewire.OUT_HEADER.size)


def test_a_present_kernel_is_answered_in_the_protocol_this_was_written_for() -> None:
    head, body = _answer(LINUX_6_18)
    assert head[1:] == (0, 2)
    assert body[:4] == (7, fusewire.MINOR, 131072, fusewire.WANTED)
    assert body[4:] == (fusewire.BACKGROUND, 48, fusewire.MAX_WRITE, 1, fusewire.PAGES, 0, 0)


def test_an_older_kernel_is_answered_in_its_own_protocol_and_with_flags_it_has() -> None:
    _head, body = _answer(LINUX_5_4)
    assert body[1] == 31
    assert body[3] == fusewire.WANTED & ~fusewire.INIT_EXT
    assert body[3] & ~0x03FFFFFB == 0


@pytest.mark.parametrize(("init", "can"), [(LINUX_6_18, True), (LINUX_6_1, False), (LINUX_5_4, False), (b"", False)])
def test_which_kernels_send_again_what_was_not_answered(init: bytes, can: bool) -> None:
    assert fusewire.can_resend(init) is can


def test_flags2_count_only_where_the_kernel_says_that_it_sends_them() -> None:
    without_ext = bytearray(LINUX_6_18)
    struct.pack_into("=I", without_ext, fusewire.IN_HEADER.size + 12, 0x73FFFFFB & ~fusewire.INIT_EXT)
    assert not fusewire.can_resend(bytes(without_ext))


@pytest.mark.parametrize("length", [0, 39, 40])
def test_a_handshake_that_breaks_off_is_refused(length: int) -> None:
    with pytest.raises(ValueError):
        fusewire.answer_init(LINUX_6_18[:length])


@pytest.mark.parametrize(("major", "minor"), [(7, 27), (6, 40), (8, 0)])
def test_a_protocol_that_is_not_spoken_is_refused_in_words(major: int, minor: int) -> None:
    other = bytearray(LINUX_6_18)
    struct.pack_into("=II", other, fusewire.IN_HEADER.size, major, minor)
    with pytest.raises(ValueError, match=rf"FUSE {major}\.{minor}; 7\.28 .* is needed"):
        fusewire.answer_init(bytes(other))


def test_a_first_request_that_is_no_handshake_is_refused() -> None:
    with pytest.raises(ValueError):
        fusewire.answer_init(FORGET)


def test_nobody_waits_for_an_answer_to_a_forget_or_an_interrupt() -> None:
    assert fusewire.parse(LINUX_6_18) == fusewire.Request(fusewire.INIT, 2, LINUX_6_18)
    assert fusewire.parse(LINUX_6_18).wants_answer
    assert not fusewire.parse(FORGET).wants_answer
    for opcode in (fusewire.INTERRUPT, fusewire.BATCH_FORGET):
        assert not fusewire.Request(opcode, 2, b"").wants_answer


def test_errors_and_the_notification_have_nothing_but_a_header() -> None:
    assert fusewire.OUT_HEADER.unpack(fusewire.error(12)) == (16, -errno.EIO, 12)
    assert fusewire.OUT_HEADER.unpack(fusewire.error(12, errno.ESTALE)) == (16, -errno.ESTALE, 12)
    assert fusewire.OUT_HEADER.unpack(fusewire.resend()) == (16, 7, 0)


@given(st.binary(max_size=200))
def test_garbage_is_a_value_error_and_nothing_else(message: bytes) -> None:
    for read in (fusewire.parse, fusewire.answer_init):
        try:
            read(message)
        except ValueError:
            assert len(message) < 40 or read is fusewire.answer_init
    fusewire.can_resend(message)


@given(st.binary(max_size=80))
def test_whatever_follows_the_header_of_a_handshake_it_is_answered_or_refused(body: bytes) -> None:
    try:
        reply = fusewire.answer_init(LINUX_6_18[:40] + body)
    except ValueError:
        return
    _major, minor, _read_ahead, flags, *_rest = fusewire.INIT_OUT.unpack_from(reply, 16)
    assert 28 <= minor <= fusewire.MINOR
    assert flags & ~fusewire.WANTED == 0
