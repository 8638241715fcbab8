"""What tells a file from a later one that was given its inode number: the handle the kernel gives it.

Disks give the numbers of deleted files away again, often at once. A file handle has a generation beside the number
(name_to_handle_at(2)), and is the same as long as the file lives. Getting one needs no privilege; some file systems
have none (most of FUSE, overlayfs before Linux 6.6), and there a number is all there is.
"""

from __future__ import annotations

import ctypes
import errno

import xxhash

AT_EMPTY_PATH = 0x1000
AT_HANDLE_FID = 0x200
"""A handle to compare only, not to open by: more file systems have these (overlayfs), since Linux 6.5."""

HANDLE_BYTES = 128
"""MAX_HANDLE_SZ of the kernel."""

UNKNOWN = 0


class _FileHandle(ctypes.Structure):
    _fields_ = (
        ("handle_bytes", ctypes.c_uint),
        ("handle_type", ctypes.c_int),
        ("f_handle", ctypes.c_ubyte * HANDLE_BYTES),
    )


_name_to_handle_at = ctypes.CDLL(None, use_errno=True).name_to_handle_at
_name_to_handle_at.argtypes = (
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.POINTER(_FileHandle),
    ctypes.POINTER(ctypes.c_int),
    ctypes.c_int,
)


def fingerprint(directory: int, name: bytes = b"") -> int:
    """Return a digest of the handle of *name* in the open *directory*, of *directory* itself when there is no name.

    A link is not followed. UNKNOWN where the file system gives no handles, or nothing is there any more. Blocks.
    """
    handle, mount_id = _FileHandle(HANDLE_BYTES), ctypes.c_int()
    flags = 0 if name else AT_EMPTY_PATH
    if _name_to_handle_at(directory, name, handle, mount_id, flags):
        if ctypes.get_errno() != errno.EOPNOTSUPP:
            return UNKNOWN
        handle.handle_bytes = HANDLE_BYTES
        if _name_to_handle_at(directory, name, handle, mount_id, flags | AT_HANDLE_FID):
            return UNKNOWN
    content = ctypes.string_at(ctypes.addressof(handle), 8 + handle.handle_bytes)
    return xxhash.xxh3_64_intdigest(content) or 1
