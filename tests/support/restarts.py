"""What is asked of a number that an earlier server gave out."""

from __future__ import annotations

import os

import pytest

from aliasfs.errors import StaleObject
from mountd.inodes import InodeNo
from mountd.vfs import HandleNo
from support.worlds import World


async def bytes_of(world: World, number: int, offset: int = 0, size: int = 100) -> bytes:
    """Return up to *size* bytes of an open file."""
    return bytes(memoryview(await world.vfs.read(HandleNo(number), offset, size)))


async def check_stale(world: World, number: InodeNo) -> None:
    """Check that nothing at all can be had under *number*."""
    vfs = world.vfs
    for ask in (vfs.getattr, vfs.opendir, vfs.readlink, lambda number: vfs.open(number, os.O_RDONLY)):
        with pytest.raises(StaleObject):
            await ask(number)
    with pytest.raises(StaleObject):
        await vfs.read(HandleNo(number), 0, 1)
    with pytest.raises(StaleObject):
        await vfs.lookup(number, b"a")
