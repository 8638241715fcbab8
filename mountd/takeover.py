"""What one server writes down of what the kernel knows, and what the next server takes over.

Relies on `NodeLog` for a file that outlives the process, on `InodeTable` and `Snapshots` for what is to be written.
Invariants:

- what a reply reveals is written before it; written and replied are one step, with no await between them;
- an inode is taken over only by the same alias at the same target; every other number stays unknown, which is ESTALE;
- an inode that is written whole carries its whole lookup count, so it may be written again at any time.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from itertools import count

import trio

from mountd.inodes import Inode, InodeTable
from mountd.nodelog import NodeLog
from mountd.noderecords import CursorRecord, Remembered, VolumeRecord, node_fields
from mountd.snapshots import Snapshots
from mountd.volumes import Volume

log = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0
"""How often the size of the file is looked at: what a busy mount writes meanwhile is a few MB."""

SLICE_NODES = 500
"""Inodes written anew between two other tasks: about a millisecond."""


class Takeover:
    """The tables of one mount and the file that stands for them; *nodes* None is a mount that nobody takes over."""

    def __init__(self, nodes: NodeLog | None, inodes: InodeTable[Volume], snapshots: Snapshots) -> None:
        self.restored = 0
        self._nodes = nodes
        self._inodes = inodes
        self._snapshots = snapshots
        self._volumes: dict[int, Volume] = {}
        self._noted: list[Inode[Volume]] = []
        self._remembered = nodes.take_over() if nodes is not None else None
        self._volume_numbers = count(self._remembered.next_volume if self._remembered else 1)

    @property
    def node_bytes(self) -> int:
        """Size of the file, 0 where there is none."""
        return self._nodes.size if self._nodes is not None else 0

    def detach(self) -> None:
        """Write nothing down any more: what follows is our end, not that of what is mounted."""
        self._nodes = None

    # aliases

    def mounted(self, opened: Collection[Volume], retired: Collection[Volume], root: Sequence[bytes]) -> None:
        """Note which volumes are new and which are served no more; *root* are the names in the root now.

        The first call takes over what the kernel knows of the volumes that are *opened* as they were before.
        """
        if self._nodes is None:
            return
        remembered, self._remembered = self._remembered, None
        before = remembered.volumes if remembered is not None else {}
        numbers = {(record.alias, record.target): record.volume for record in before.values()}
        for volume in opened:
            number = numbers.pop((volume.alias.name, volume.store.target), 0)
            if number:
                volume.attached_ns = before[number].attached_ns
            volume.record = number or next(self._volume_numbers)
            self._volumes[volume.record] = volume
        for volume in retired:
            del self._volumes[volume.record]
        gone = [volume.record for volume in retired] + [number for number in before if number not in self._volumes]
        new = [_volume_record(volume) for volume in opened if volume.record not in before]
        if new or gone:
            self._nodes.append({"v": new, "r": gone})
        if remembered is not None:
            self._restore(remembered, root)

    def _restore(self, remembered: Remembered, root: Sequence[bytes]) -> None:
        for node in remembered.nodes:
            volume = self._volumes.get(node.volume)
            if volume is not None:
                self._inodes.restore(node.number, volume, node.info, node.lookups)
                self.restored += 1
        for cursor in remembered.cursors():
            if cursor.directory in self._inodes:
                self._snapshots.restore(cursor, root)
        if self.restored:
            log.info("took over %d inodes that the kernel knows from the server before this one", self.restored)

    # what the kernel is told

    def tell(self, told: Sequence[Inode[Volume]], cursor: CursorRecord | None = None) -> None:
        """Write down that the kernel is told of *told*, whose lookups are counted already, and how far a reader is."""
        if self._nodes is None or not (told or cursor):
            return
        record: dict[str, object] = {}
        whole = [inode for inode in told if not inode.recorded]
        if len(whole) < len(told):
            record["l"] = [inode.number for inode in told if inode.recorded]
        if whole:
            record["i"] = [_fields(inode) for inode in whole]
        if cursor is not None:
            record["c"] = [cursor]
        for inode in whole:
            inode.recorded = True
        self._nodes.append(record)

    def note(self, inode: Inode[Volume]) -> None:
        """Note that *inode* is part of the reply that `tell_noted` writes down."""
        if self._nodes is not None:
            self._noted.append(inode)

    def tell_noted(self, cursor: CursorRecord | None) -> None:
        """Write down a reply that was put together by `note`."""
        noted, self._noted = self._noted, []
        self.tell(noted, cursor)

    def forget(self, counts: Sequence[tuple[int, int]]) -> None:
        """Write down that the kernel takes *counts* of (number, lookups) back; before they are taken from the table."""
        if self._nodes is not None:
            known = [(number, lookups) for number, lookups in counts if number in self._inodes]
            if known:
                self._nodes.append({"f": known})

    def finish(self, directory: int, cookie: int) -> None:
        """Write down that the reader at *cookie* knows that there is no more."""
        if self._nodes is not None and self._snapshots.finish(directory, cookie):
            self._nodes.append({"e": (directory, cookie >> 32)})

    # compaction

    async def compact(self) -> None:
        """Write the file anew whenever it has grown over what it stands for, or could not be written; never ends."""
        while True:
            await trio.sleep(LOOK_EVERY_S)
            nodes = self._nodes
            if nodes is not None and nodes.is_overgrown(len(self._inodes)):
                await self._write_anew(nodes)

    async def _write_anew(self, nodes: NodeLog) -> None:
        """Copy what lives in slices; what happens meanwhile goes to both files, so the order does not matter."""
        nodes.begin_copy()
        nodes.append_to_copy({"v": [_volume_record(volume) for volume in self._volumes.values()]})
        for inodes in self._inodes.in_slices(SLICE_NODES):
            live = [_fields(inode) for inode in inodes if inode.volume is not None and not inode.volume.retired]
            nodes.append_to_copy({"i": live})
            await trio.lowlevel.checkpoint()
        for cursor in self._snapshots.cursors():
            nodes.append_to_copy({"c": [cursor]})
            await trio.lowlevel.checkpoint()
        nodes.finish_copy(len(self._inodes))


def _fields(inode: Inode[Volume]) -> tuple[object, ...]:
    record = inode.volume.record if inode.volume is not None else 0
    return node_fields(inode.number, record, inode.info, inode.lookups)


def _volume_record(volume: Volume) -> VolumeRecord:
    return VolumeRecord(volume.record, volume.alias.name, volume.store.target, volume.attached_ns)
