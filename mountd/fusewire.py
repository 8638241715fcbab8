"""The few messages of the kernel's FUSE protocol that the keeper speaks itself: the handshake, errors, resend.

Pure: bytes in, bytes out. Source: `include/uapi/linux/fuse.h` of Linux 6.18, protocol 7.x, in the byte order of
the machine. Standard library only, as all that the keeper is made of.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass

IN_HEADER = struct.Struct("=IIQQIIIHH")
"""struct fuse_in_header: length, opcode, unique, node id, uid, gid, pid, length of extensions, padding."""

OUT_HEADER = struct.Struct("=IiQ")
"""struct fuse_out_header: length, error, unique."""

INIT_IN = struct.Struct("=IIIII")
"""The part of struct fuse_init_in that every kernel sends, and flags2: major, minor, max_readahead, flags, flags2."""

INIT_OUT = struct.Struct("=IIIIHHIIHHI28x")
"""struct fuse_init_out: major, minor, max_readahead, flags, max_background, congestion_threshold, max_write,
time_gran, max_pages, map_alignment, flags2; the rest unused."""

FORGET, INIT, INTERRUPT, DESTROY, BATCH_FORGET = 2, 26, 36, 38, 42
"""Opcodes."""

UNANSWERED = frozenset({FORGET, BATCH_FORGET, INTERRUPT})
"""Requests to which no reply belongs; one to INTERRUPT would say that it is to be sent again."""

NOTIFY_RESEND = 7
HAS_RESEND = 1 << (39 - 32)
"""Among flags2: the kernel (6.9 and later) queues unanswered requests again when told to."""

INIT_EXT = 1 << 30
ASYNC_READ, ATOMIC_O_TRUNC, BIG_WRITES = 1 << 0, 1 << 3, 1 << 5
AUTO_INVAL_DATA, DO_READDIRPLUS, ASYNC_DIO = 1 << 12, 1 << 13, 1 << 15
PARALLEL_DIROPS, MAX_PAGES = 1 << 18, 1 << 22

WANTED = (
    ASYNC_READ
    | ATOMIC_O_TRUNC
    | BIG_WRITES
    | AUTO_INVAL_DATA
    | DO_READDIRPLUS
    | ASYNC_DIO
    | PARALLEL_DIROPS
    | MAX_PAGES
    | INIT_EXT
)
"""What libfuse 3.14 under pyfuse3 asks for itself, so that the server's own handshake, which the kernel never sees,
says the same; and PARALLEL_DIROPS: names in one directory may be looked up at the same time."""

MAJOR, MINOR = 7, 38
"""The newest protocol this was written for; a newer kernel then speaks this one."""

REQUEST_BYTES = (1 << 20) + 4096
"""The longest request: a write of MAX_WRITE bytes and its headers."""

MAX_WRITE = 1 << 20
PAGES = 256
"""Of 4 KiB: 1 MiB in one request, what kernels allow unless fs.fuse.max_pages_limit says otherwise."""

BACKGROUND = 64
"""Read-ahead and asynchronous requests the kernel may have waiting: four readers of 16 MiB each."""


@dataclass(frozen=True)
class Request:
    """The header of a request, and the whole of it."""

    opcode: int
    unique: int
    message: bytes

    @property
    def wants_answer(self) -> bool:
        """Whether somebody waits for a reply."""
        return self.opcode not in UNANSWERED


def parse(message: bytes) -> Request:
    """Return what *message*, as it was read from the kernel, is; ValueError when it is too short to be a request."""
    if len(message) < IN_HEADER.size:
        raise ValueError(f"{len(message)} bytes are too few for a request")
    _length, opcode, unique, *_rest = IN_HEADER.unpack_from(message)
    return Request(opcode, unique, message)


def can_resend(init: bytes) -> bool:
    """Say whether the kernel that sent *init* can be told to send unanswered requests again."""
    if len(init) < IN_HEADER.size + INIT_IN.size:
        return False
    _major, _minor, _read_ahead, flags, flags2 = INIT_IN.unpack_from(init, IN_HEADER.size)
    return bool(flags & INIT_EXT and flags2 & HAS_RESEND)


def answer_init(init: bytes) -> bytes:
    """Return the reply to the request *init*; ValueError for a kernel too old to be spoken to."""
    request = parse(init)
    fields = init[IN_HEADER.size :].ljust(INIT_IN.size, b"\0")
    major, minor, read_ahead, flags, _flags2 = INIT_IN.unpack_from(fields)
    if request.opcode != INIT or major != MAJOR or minor < 28:
        raise ValueError(f"the kernel speaks FUSE {major}.{minor}; 7.28 (Linux 4.20) or later is needed")
    body = INIT_OUT.pack(
        MAJOR,
        min(minor, MINOR),
        read_ahead,
        flags & WANTED,
        BACKGROUND,
        BACKGROUND * 3 // 4,
        MAX_WRITE,
        1,
        PAGES,
        0,
        0,
    )
    return OUT_HEADER.pack(OUT_HEADER.size + len(body), 0, request.unique) + body


def error(unique: int, number: int = errno.EIO) -> bytes:
    """Return the reply that request *unique* failed with the errno *number*; 0 says that it succeeded."""
    return OUT_HEADER.pack(OUT_HEADER.size, -number, unique)


def resend() -> bytes:
    """Return the notification upon which the kernel queues again what was read and not answered."""
    return OUT_HEADER.pack(OUT_HEADER.size, NOTIFY_RESEND, 0)
