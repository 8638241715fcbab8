"""Who is called when something happens to a descriptor, and who is not."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from mountd.events import ENDED_ONLY, Events


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_what_can_be_read_is_told_until_it_has_been_read(pair: tuple[socket.socket, socket.socket]) -> None:
    events, calls = Events(), []
    events.watch(pair[0].fileno(), lambda: calls.append(1))
    events.wait(0)
    pair[1].send(b"x")
    events.wait(0)
    events.wait(0)
    assert len(calls) == 2
    pair[0].recv(1)
    events.wait(0)
    assert len(calls) == 2


def test_who_asks_for_the_end_alone_is_not_told_of_anything_else(pair: tuple[socket.socket, socket.socket]) -> None:
    events, calls = Events(), []
    events.watch(pair[0].fileno(), lambda: calls.append(1), ENDED_ONLY)
    pair[1].send(b"x")
    events.wait(0)
    assert not calls
    pair[1].close()
    events.wait(0)
    assert calls


def test_a_later_callback_takes_the_place_of_an_earlier_one(pair: tuple[socket.socket, socket.socket]) -> None:
    events, calls = Events(), []
    events.watch(pair[0].fileno(), lambda: calls.append("ended"), ENDED_ONLY)
    events.watch(pair[0].fileno(), lambda: calls.append("readable"))
    pair[1].send(b"x")
    events.wait(0)
    assert calls == ["readable"]


def test_who_is_unwatched_by_another_callback_is_not_called(pair: tuple[socket.socket, socket.socket]) -> None:
    events, calls = Events(), []
    for mine, other in (pair, pair[::-1]):
        other.send(b"x")
        events.watch(mine.fileno(), lambda mine=mine, other=other: (calls.append(mine), events.unwatch(other.fileno())))
    events.wait(0)
    assert len(calls) == 1


def test_what_is_not_watched_can_be_unwatched() -> None:
    events = Events()
    reader, writer = os.pipe()
    os.close(writer)
    calls: list[bool] = []
    events.unwatch(reader)
    events.watch(reader, lambda: calls.append(True))
    events.unwatch(reader)
    events.unwatch(reader)
    events.wait(0)
    os.close(reader)
    events.wait(0)
    assert not calls
