"""The files of one object version in the cache directory: their format, and raw reads and writes of blocks.

Two files stand for one version. `NAME.bytes` is sparse, as long as the object, and holds its bytes at their own
offsets and nothing else, so that a complete one can be handed to the kernel. `NAME.map` says which blocks of it
are good: a header that repeats the whole identity, then one 16-byte record per block at a place computed from
the block's index. A record carries the xxh3_64 of the block, seeded with identity and index, so bytes that
belong to another version or another place never verify.

Invariants: bytes are written before their record and a record is zeroed before its bytes are punched out, so
a process killed at any instant leaves blocks that are right or absent. Nothing is fsynced: after a power loss a
record without its bytes fails its checksum, which is a miss. Everything here blocks and raises OSError as the
system gives it; callers of one `ObjectFiles` may read in many threads, and change it in one.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from xxhash import xxh3_64, xxh3_64_intdigest, xxh32_intdigest

from aliasfs.store.base import ObjectId
from mountd.pagetrail import PageTrail

BLOCK_BYTES = 256 * 1024
"""One checksum, one record: two kernel reads of 128 KiB, and small enough that a random 4 KiB read costs one
request of about the size that an object store answers at its first-byte time."""

SEGMENT_BLOCKS = 64
"""Blocks that are evicted together (16 MiB): large files lose their oldest parts in few system calls, and a
20 GB cache is ordered by 1,200 entries."""

SEGMENT_BYTES = SEGMENT_BLOCKS * BLOCK_BYTES

PAGE_BYTES = 4096
"""What file systems allocate at least; every charge is rounded up to it."""

FORMAT_VERSION = 1

_PREFIX = struct.Struct("<6sHI")  # magic, format version, length of the JSON that follows
_CHECKSUM = struct.Struct("<Q")  # xxh3_64 of all that stands before it
_RECORD = struct.Struct("<QII")  # xxh3_64 of the block, its length in bytes, xxh32 of both seeded with the index
_MAGIC = b"AFSMAP"
_GROUP_BYTES = SEGMENT_BLOCKS * _RECORD.size  # the records of a segment: 1 KiB, within one page
_HEADER_LIMIT_BYTES = 1 << 20
_U64 = (1 << 64) - 1

_HASH_STEP_BYTES = BLOCK_BYTES // 2
"""xxhash lets go of the interpreter lock for longer inputs, and getting it back from a busy thread takes up to 5 ms,
where the hash of a block takes 0.01 ms (measured with xxhash 4.1, 2026-11-20)."""

_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE = 1, 2  # linux/falloc.h

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class BadHeader(Exception):
    """A map file is of another format, of another object, or damaged: both files are to be removed."""


def round_up(value: int, unit: int) -> int:
    """Return the least multiple of *unit* that is not below *value*."""
    return -(-value // unit) * unit


class Identity:
    """What a pair of cache files belongs to: its name on disk, its header, and where everything lies in it."""

    __slots__ = ("blocks", "digest", "header", "oid", "records_at", "seed")

    def __init__(self, oid: ObjectId) -> None:
        fields = json.dumps(oid, separators=(",", ":")).encode("ascii")
        prefix = _PREFIX.pack(_MAGIC, FORMAT_VERSION, len(fields)) + fields
        self.oid = oid
        self.digest = hashlib.blake2b(fields, digest_size=20).digest()
        self.seed = int.from_bytes(self.digest[:8], "little")
        self.header = prefix + _CHECKSUM.pack(xxh3_64_intdigest(prefix))
        self.blocks = -(-oid.size // BLOCK_BYTES)
        self.records_at = round_up(len(self.header), _GROUP_BYTES)

    @property
    def segments(self) -> int:
        """Number of segments of the object."""
        return -(-self.blocks // SEGMENT_BLOCKS)

    @property
    def base_charge(self) -> int:
        """Bytes that the map file takes before any block is cached, its first page of records included."""
        return round_up(self.records_at + _GROUP_BYTES, PAGE_BYTES)

    def segment_charge(self, segment: int, bitmap: int) -> int:
        """Return the bytes that *segment* takes with the blocks of *bitmap*, the file system's extent tree included.

        A page of map and a page of extent tree per segment of a large object; ext4 keeps the four extents that a
        small one needs at most in its inode.
        """
        if not bitmap:
            return 0
        charge = bitmap.bit_count() * BLOCK_BYTES + (2 * PAGE_BYTES if self.segments > 1 else 0)
        last_segment, slot = divmod(self.blocks - 1, SEGMENT_BLOCKS)
        if segment == last_segment and bitmap >> slot & 1:
            charge -= BLOCK_BYTES - round_up(self.block_length(self.blocks - 1), PAGE_BYTES)
        return charge

    def record_at(self, block: int) -> int:
        """Return the offset of the record of *block* in the map: each segment's 64 lie in a page of their own."""
        segment, slot = divmod(block, SEGMENT_BLOCKS)
        return self.records_at + segment * PAGE_BYTES + slot * _RECORD.size

    def blocks_of(self, segment: int, bitmap: int) -> Iterator[int]:
        """Yield the blocks of *segment* that are set in *bitmap*."""
        return (segment * SEGMENT_BLOCKS + slot for slot in range(SEGMENT_BLOCKS) if bitmap >> slot & 1)

    def block_length(self, block: int) -> int:
        """Return the length of *block* in bytes: BLOCK_BYTES, but for the last."""
        return min(BLOCK_BYTES, self.oid.size - block * BLOCK_BYTES)

    def run_length(self, blocks: range) -> int:
        """Return the length of a non-empty run of blocks in bytes."""
        return (len(blocks) - 1) * BLOCK_BYTES + self.block_length(blocks[-1])

    def pack_record(self, block: int, piece: memoryview) -> bytes:
        """Return the record that vouches for *piece* as the bytes of *block*."""
        state = xxh3_64(piece[:_HASH_STEP_BYTES], seed=(self.seed + block) & _U64)
        state.update(piece[_HASH_STEP_BYTES:])
        digest = state.intdigest()
        check = xxh32_intdigest(struct.pack("<QI", digest, len(piece)), seed=block & 0xFFFFFFFF)
        return _RECORD.pack(digest, len(piece), check)

    def is_record(self, block: int, record: bytes | memoryview) -> bool:
        """Say whether *record* is whole and speaks of this block; zeros (absent) and torn ones are not."""
        if len(record) != _RECORD.size:
            return False
        _, length, check = _RECORD.unpack(record)
        expected = xxh32_intdigest(bytes(record[:12]), seed=block & 0xFFFFFFFF)
        return bool(length == self.block_length(block) and check == expected)


def segments_of(blocks: range) -> range:
    """Return the segments that a non-empty run of blocks touches."""
    return range(blocks[0] // SEGMENT_BLOCKS, blocks[-1] // SEGMENT_BLOCKS + 1)


def bits_in(blocks: range, segment: int) -> int:
    """Return the bitmap of those of *blocks* (a run) that lie in *segment*."""
    first = max(blocks.start - segment * SEGMENT_BLOCKS, 0)
    last = min(blocks.stop - segment * SEGMENT_BLOCKS, SEGMENT_BLOCKS)
    return ((1 << last) - (1 << first)) if first < last else 0


def runs(blocks: Iterable[int], limit: int = 1 << 62) -> Iterator[range]:
    """Yield ascending *blocks* as runs of neighbours, of at most *limit* blocks each."""
    start = stop = -1
    for block in blocks:
        if block == stop and stop - start < limit:
            stop += 1
            continue
        if start >= 0:
            yield range(start, stop)
        start, stop = block, block + 1
    if start >= 0:
        yield range(start, stop)


def paths_in(objects: Path, digest: bytes) -> tuple[Path, Path]:
    """Return the places of the bytes and the map of *digest* below the directory *objects*.

    Sixteen directories of sixteen: a million objects are 4,000 names in each, and all of them take 1.1 MiB.
    """
    name = digest.hex()
    folder = objects / name[0] / name[1]
    return folder / f"{name}.bytes", folder / f"{name}.map"


def read_identity(map_path: Path) -> Identity:
    """Return whose map this is; BadHeader when it is no map of this format, FileNotFoundError when it is gone."""
    with open(map_path, "rb") as file:
        prefix = file.read(_PREFIX.size)
        if len(prefix) < _PREFIX.size:
            raise BadHeader("too short")
        magic, version, length = _PREFIX.unpack(prefix)
        if magic != _MAGIC or version != FORMAT_VERSION or length > _HEADER_LIMIT_BYTES:
            raise BadHeader("another format")
        header = prefix + file.read(length + _CHECKSUM.size)
    try:
        identity = Identity(ObjectId(*json.loads(header[_PREFIX.size : _PREFIX.size + length])))
    except (ValueError, TypeError) as exc:
        raise BadHeader("no identity") from exc
    if identity.header != header or identity.digest.hex() != map_path.stem:
        raise BadHeader("checksum or name")
    return identity


@dataclass(frozen=True, slots=True)
class Damage:
    """A block that could not be used: *corrupt* when its record stands but its bytes do not match it."""

    block: int
    corrupt: bool


class ObjectFiles:
    """The open pair of files of one version."""

    __slots__ = ("_bytes_fd", "_closed", "_map_fd", "identity")

    def __init__(self, identity: Identity, bytes_fd: int, map_fd: int) -> None:
        self.identity = identity
        self._bytes_fd = bytes_fd
        self._map_fd = map_fd
        self._closed = False

    @classmethod
    def open(cls, identity: Identity, objects: Path) -> ObjectFiles:
        """Open the files of *identity*; FileNotFoundError when one is absent, BadHeader when they are not its."""
        bytes_path, map_path = paths_in(objects, identity.digest)
        map_fd = os.open(map_path, os.O_RDWR | os.O_CLOEXEC)
        try:
            bytes_fd = os.open(bytes_path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            os.close(map_fd)
            raise
        files = cls(identity, bytes_fd, map_fd)
        try:
            if os.pread(map_fd, len(identity.header), 0) != identity.header:
                raise BadHeader("not the header of this object")
            if os.fstat(bytes_fd).st_size != identity.oid.size:
                raise BadHeader("bytes of another length")
        except BaseException:
            files.close()
            raise
        return files

    @classmethod
    def create(cls, identity: Identity, objects: Path) -> ObjectFiles:
        """Make and open the files of *identity*, without blocks; what a killed process left there is replaced."""
        bytes_path, map_path = paths_in(objects, identity.digest)
        bytes_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_TRUNC
        bytes_fd = os.open(bytes_path, flags, 0o600)
        try:
            os.ftruncate(bytes_fd, identity.oid.size)
            map_fd = os.open(map_path, flags, 0o600)
        except OSError:
            os.close(bytes_fd)
            raise
        files = cls(identity, bytes_fd, map_fd)
        try:
            _write_all(map_fd, memoryview(identity.header), 0)
        except OSError:
            files.close()
            raise
        return files

    def close(self) -> None:
        """Close both files; no thread may be using them."""
        self._closed = True
        os.close(self._bytes_fd)
        os.close(self._map_fd)

    def touch(self) -> None:
        """Note now as the time of last use, which orders objects after a restart."""
        os.utime(self._map_fd)

    def allocated_bytes(self) -> int:
        """Return what both files take on disk now, in bytes."""
        return 512 * (os.fstat(self._bytes_fd).st_blocks + os.fstat(self._map_fd).st_blocks)

    def presence(self) -> dict[int, int]:
        """Return the bitmap of each segment that has a block with a whole record."""
        found: dict[int, int] = {}
        for segment in self._written_segments():
            first = segment * SEGMENT_BLOCKS
            group = os.pread(self._map_fd, _GROUP_BYTES, self.identity.record_at(first))
            bitmap = 0
            for slot in range(min(SEGMENT_BLOCKS, self.identity.blocks - first)):
                if self.identity.is_record(first + slot, group[slot * _RECORD.size : (slot + 1) * _RECORD.size]):
                    bitmap |= 1 << slot
            if bitmap:
                found[segment] = bitmap
        return found

    def _written_segments(self) -> Iterator[int]:
        """Yield the segments whose page of the map is no hole, so that a map of a huge object loads quickly."""
        base = position = self.identity.records_at
        while True:
            try:
                position = os.lseek(self._map_fd, position, os.SEEK_DATA)
            except OSError:  # ENXIO: no more data
                return
            segment = -(-(position - base) // PAGE_BYTES)
            if segment >= self.identity.segments:
                return
            yield segment
            position = base + (segment + 1) * PAGE_BYTES

    def read(self, blocks: range, into: memoryview, flags: int = 0) -> Sequence[Damage]:
        """Fill *into* with the bytes of the run *blocks* and return those that may not be used.

        With `os.RWF_NOWAIT` raises BlockingIOError where the page cache lacks something, and OSError
        EOPNOTSUPP where the file system cannot tell.
        """
        identity = self.identity
        base = identity.record_at(blocks[0])
        records = memoryview(bytearray(identity.record_at(blocks[-1]) + _RECORD.size - base))
        _read_full(self._map_fd, records, base, flags)
        at = blocks[0] * BLOCK_BYTES
        _read_full(self._bytes_fd, into, at, flags)
        self.drop_pages(at, len(into))  # the mount's own pages are enough
        damaged = []
        for block in blocks:
            at = (block - blocks[0]) * BLOCK_BYTES
            piece = into[at : at + identity.block_length(block)]
            start = identity.record_at(block) - base
            record = records[start : start + _RECORD.size]
            if identity.pack_record(block, piece) != record:
                still = os.pread(self._map_fd, _RECORD.size, identity.record_at(block))
                damaged.append(Damage(block, corrupt=still == record and any(record)))
        return damaged

    def write(self, first: int, content: memoryview, trail: PageTrail) -> None:
        """Store *content*, whole blocks from block *first* on: the bytes, then their records.

        The kernel's pages of it are given back through *trail*.
        """
        _write_all(self._bytes_fd, content, first * BLOCK_BYTES)
        trail.wrote(self, first * BLOCK_BYTES, len(content))
        count = -(-len(content) // BLOCK_BYTES)
        for segment in segments_of(range(first, first + count)):
            start = max(first, segment * SEGMENT_BLOCKS)
            stop = min(first + count, (segment + 1) * SEGMENT_BLOCKS)
            records = b"".join(
                self.identity.pack_record(
                    block, content[(block - first) * BLOCK_BYTES : (block - first + 1) * BLOCK_BYTES]
                )
                for block in range(start, stop)
            )
            _write_all(self._map_fd, memoryview(records), self.identity.record_at(start))

    def drop_pages(self, offset: int, length: int) -> None:
        """Have the kernel write a range of the bytes and drop its clean pages (posix_fadvise(2)); only advice."""
        if not self._closed:
            with suppress(OSError):
                os.posix_fadvise(self._bytes_fd, offset, length, os.POSIX_FADV_DONTNEED)

    def forget_block(self, block: int) -> None:
        """Give the disk space of *block* back: its record first, then its bytes."""
        _write_all(self._map_fd, memoryview(bytes(_RECORD.size)), self.identity.record_at(block))
        _punch(self._bytes_fd, block * BLOCK_BYTES, BLOCK_BYTES)

    def punch_segment(self, segment: int) -> None:
        """Give the disk space of *segment* back: its records first, then its bytes."""
        at = self.identity.record_at(segment * SEGMENT_BLOCKS)
        _write_all(self._map_fd, memoryview(bytes(_GROUP_BYTES)), at)
        _punch(self._bytes_fd, segment * SEGMENT_BYTES, SEGMENT_BYTES)
        if segment:  # the page of segment 0 may be that of the header; that of another holds no other records
            _punch(self._map_fd, at - at % PAGE_BYTES, PAGE_BYTES)

    def will_need(self, blocks: range) -> None:
        """Ask the kernel to read *blocks* into its page cache; in steps, as one request is cut to one device I/O."""
        for offset in range(blocks.start * BLOCK_BYTES, blocks.stop * BLOCK_BYTES, BLOCK_BYTES // 2):
            os.posix_fadvise(self._bytes_fd, offset, BLOCK_BYTES // 2, os.POSIX_FADV_WILLNEED)


def _read_full(fd: int, into: memoryview, offset: int, flags: int) -> None:
    """Fill *into* from *offset*; what lies beyond the end of the file reads as zeros."""
    done = 0
    while done < len(into):
        count = os.preadv(fd, [into[done:]], offset + done, flags)
        if not count:
            return
        done += count


def _write_all(fd: int, content: memoryview, offset: int) -> None:
    """Write all of *content* at *offset*."""
    done = 0
    while done < len(content):
        done += os.pwrite(fd, content[done:], offset + done)


def _punch(fd: int, offset: int, length: int) -> None:
    """Deallocate a range of a file (fallocate(2)); OSError EOPNOTSUPP where the file system cannot."""
    if _libc.fallocate(fd, _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE, offset, length):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
