"""The server's end of the link; the other end is in the hands of the test."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from mountd.link import Link, Order


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, Link]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.set_inheritable(theirs.fileno(), True)
    link = Link(theirs.detach())
    with ours:
        yield ours, link
    link.close()


async def test_orders_come_one_by_one_with_their_facts(ends: tuple[socket.socket, Link]) -> None:
    keeper, link = ends
    keeper.send(b'{"do": "open", "session": "ab", "generation": 3}')
    keeper.send(b'{"do": "drain"}')
    assert await link.hear() == Order("open", {"session": "ab", "generation": 3})
    assert await link.hear() == Order("drain")


async def test_a_descriptor_comes_with_its_order(ends: tuple[socket.socket, Link]) -> None:
    keeper, link = ends
    reader, writer = os.pipe()
    socket.send_fds(keeper, [b'{"do": "serve"}'], [writer])
    order = await link.hear()
    assert order is not None
    assert order.kernel is not None
    assert os.fstat(order.kernel).st_ino == os.fstat(writer).st_ino
    for fd in (reader, writer, order.kernel):
        os.close(fd)


async def test_an_order_is_waited_for(ends: tuple[socket.socket, Link]) -> None:
    keeper, link = ends
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_say_later, keeper)
        assert await link.hear() == Order("drain")


async def _say_later(keeper: socket.socket) -> None:
    await trio.testing.wait_all_tasks_blocked()
    keeper.send(b'{"do": "drain"}')


async def test_without_a_keeper_there_are_no_orders_and_nobody_hears(ends: tuple[socket.socket, Link]) -> None:
    keeper, link = ends
    keeper.close()
    assert await link.hear() is None
    assert await link.hear() is None
    link.say("ready")


async def test_a_keeper_that_dies_with_words_unread_is_gone_too(ends: tuple[socket.socket, Link]) -> None:
    keeper, link = ends
    link.say("warm")
    keeper.close()  # the kernel then says ECONNRESET
    assert await link.hear() is None


def test_what_is_said_is_one_message(ends: tuple[socket.socket, Link]) -> None:
    keeper, link = ends
    link.say("warm", version="1")
    link.say("opened")
    assert json.loads(keeper.recv(1000)) == {"say": "warm", "version": "1"}
    assert json.loads(keeper.recv(1000)) == {"say": "opened"}


def test_saying_never_waits(ends: tuple[socket.socket, Link]) -> None:
    keeper, link = ends
    for _ in range(2000):
        link.say("worn", why="x" * 1000)
    assert json.loads(keeper.recv(2000)) == {"say": "worn", "why": "x" * 1000}, "what did fit came whole"
