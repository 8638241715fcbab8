"""What the table of nodes says on file: its lines, and what a run of lines amounts to.

Pure: no files here. A line is a checksum and one JSON object, all that one request had to say, so a request is
written whole or not at all. The fields of a line, each optional, unknown ones ignored:

    v   [[volume, alias, target, attached_ns], ...]     aliases that were mounted
    r   [volume, ...]                                   aliases that are served no more
    i   [[number, volume, kind, size, mtime_ns, etag, key, lookups, local], ...]   nodes; *lookups* replaces the count
    l   [number, ...]                                   nodes the kernel was told of once more
    f   [[number, count], ...]                          lookups that the kernel took back
    c   [[directory, generation, start, names], ...]    names a reader was told, from the index *start* on
    e   [directory, generation]                         the reader has come to the end

*local* is null or [device, inode, mode, uid, gid, fingerprint]; *names* are joined by slashes. Invariants: a line that
is damaged says nothing and hides no other; what depends on a line that is lost is itself unknown, never something else.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import xxhash

from aliasfs.store.base import Etag, Kind, LocalMeta, ObjectInfo

FORMAT = 1
"""Raised with every change that an older reader would misunderstand; another format is read as nothing."""

MAX_CURSORS = 256
"""Readers in the midst of a directory that are remembered; those that have not moved for longest go first."""

_CHECKSUM_DIGITS = 16
"""xxh3-64 in hex: it stands before the text, with a space between."""

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_FILE = Kind.FILE
_CODES = {Kind.FILE: "f", Kind.DIRECTORY: "d", Kind.SYMLINK: "l"}
_KINDS = {code: kind for kind, code in _CODES.items()}

Record = Mapping[str, object]
Fields = list[Any]


class VolumeRecord(NamedTuple):
    """An alias as it was mounted; *target* is `Store.target`."""

    volume: int
    alias: str
    target: str
    attached_ns: int


class NodeRecord(NamedTuple):
    """A node the kernel knows, in the volume of that number."""

    number: int
    volume: int
    info: ObjectInfo
    lookups: int


class CursorRecord(NamedTuple):
    """The *names*, joined by slashes, that a reader of the directory was told from the index *start* on."""

    directory: int
    generation: int
    start: int
    names: str


def line_of(record: Record) -> bytes:
    """Return the line for *record*."""
    text = _encode(record).encode("ascii")
    return b"%s %s\n" % (xxhash.xxh3_64_hexdigest(text).encode("ascii"), text)


def record_in(line: bytes) -> dict[str, Any] | None:
    """Return what *line* says; None when it is damaged or not ended."""
    checksum, text = line[:_CHECKSUM_DIGITS], line[_CHECKSUM_DIGITS + 1 : -1]
    if line[-1:] != b"\n" or checksum != xxhash.xxh3_64_hexdigest(text).encode("ascii"):
        return None
    try:
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def header(session: str, started_ns: int) -> Record:
    """Return what the first line of a table says: whose it is, and since when (ns since the epoch) that is served."""
    return {"aliasfs-nodes": FORMAT, "session": session, "started_ns": started_ns}


def node_fields(number: int, volume: int, info: ObjectInfo, lookups: int) -> tuple[object, ...]:
    """Return a node as it stands in `i`."""
    local = info.local
    about_local = (
        None if local is None else (local.device, local.inode, local.mode, local.uid, local.gid, local.fingerprint)
    )
    code = "f" if info.kind is _FILE else _CODES[info.kind]
    return number, volume, code, info.size, info.mtime_ns, info.etag, info.key, lookups, about_local


def _node(fields: Fields) -> NodeRecord:
    number, volume, code, size, mtime_ns, etag, key, lookups, local = fields[:9]
    about_local = None if local is None else LocalMeta(*local[:6])
    info = ObjectInfo(key, _KINDS[code], size, mtime_ns, Etag(etag), about_local)
    return NodeRecord(number, volume, info, lookups)


@dataclass
class Remembered:
    """What the lines of a table amount to.

    *nodes* are those the kernel knows in volumes that are known. *next_volume* and *next_number* are above all that
    were ever said, *damaged* counts the lines that said nothing.
    """

    started_ns: int = 0
    volumes: dict[int, VolumeRecord] = field(default_factory=dict)
    next_volume: int = 1
    next_number: int = 0
    nodes: list[NodeRecord] = field(default_factory=list)
    damaged: int = 0
    _fields: dict[int, Fields] = field(default_factory=dict)
    _cursors: OrderedDict[tuple[int, int], list[str]] = field(default_factory=OrderedDict)

    @classmethod
    def of(cls, lines: Iterable[bytes], session: str) -> Remembered | None:
        """Return what *lines* say; None when they are not of this *session* and format.

        Raises ValueError, TypeError or LookupError for a line that is whole but none of ours.
        """
        lines = iter(lines)
        first = record_in(next(lines, b"")) or {}
        if first.get("aliasfs-nodes") != FORMAT or first.get("session") != session:
            return None
        remembered = cls(started_ns=int(first.get("started_ns", 0)))
        for line in lines:
            record = record_in(line)
            if record is None:
                remembered.damaged += 1
            else:
                remembered._take(record)
        known = (fields for fields in remembered._fields.values() if fields[1] in remembered.volumes)
        remembered.nodes = [_node(fields) for fields in known]
        remembered._fields = {}
        return remembered

    def cursors(self) -> list[CursorRecord]:
        """Return the readers in the midst of a directory, each with all names it was told."""
        return [CursorRecord(*key, 0, "/".join(names)) for key, names in self._cursors.items()]

    def _take(self, record: Mapping[str, Any]) -> None:
        for fields in record.get("v", ()):
            volume = VolumeRecord(*fields[:4])
            self.volumes[volume.volume] = volume
            self.next_volume = max(self.next_volume, volume.volume + 1)
        for number in record.get("r", ()):
            self.volumes.pop(number, None)
        for fields in record.get("i", ()):
            self._fields[fields[0]] = fields
            self.next_number = max(self.next_number, fields[0] + 1)
            self.next_volume = max(self.next_volume, fields[1] + 1)
        for number in record.get("l", ()):
            if number in self._fields:
                self._fields[number][7] += 1
        for number, count in record.get("f", ()):
            self._forget(number, count)
        for fields in record.get("c", ()):
            self._move(CursorRecord(*fields[:4]))
        if "e" in record:
            directory, generation = record["e"]
            self._cursors.pop((directory, generation), None)

    def _forget(self, number: int, count: int) -> None:
        fields = self._fields.get(number)
        if fields is not None:
            fields[7] -= count
            if fields[7] <= 0:
                del self._fields[number]

    def _move(self, cursor: CursorRecord) -> None:
        """Note how far a reader is; after a gap in what is known of it, what it was told later says nothing."""
        key = (cursor.directory, cursor.generation)
        names = self._cursors.pop(key, [])
        if cursor.start <= len(names):
            names[cursor.start :] = cursor.names.split("/")
        if names:
            self._cursors[key] = names
        while len(self._cursors) > MAX_CURSORS:
            self._cursors.popitem(last=False)
