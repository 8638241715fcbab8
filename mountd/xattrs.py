"""Extended attributes: what can be asked of a file or directory beside what stat(2) shows.

Relies on the volume of an inode for its store and its bytes. All names are in the namespace `user`.
"""

from __future__ import annotations

import os

from aliasfs.errors import NoAttribute, NotSupported
from aliasfs.store.base import Kind
from mountd.inodes import Inode
from mountd.readahead import ReadAhead
from mountd.volumes import Volume

ALIAS = b"user.aliasfs.alias"
URL = b"user.aliasfs.url"
ETAG = b"user.aliasfs.etag"
CACHED_BYTES = b"user.aliasfs.cached_bytes"
SERVER = b"user.aliasfs.server"
"""The pid of the process that serves, on the root alone; not listed: it is for those who ask whether anyone answers."""


def names_of(inode: Inode[Volume]) -> tuple[bytes, ...]:
    """Return the names of the extended attributes of *inode*."""
    if inode.volume is None:
        return ()
    return (ALIAS, URL, ETAG, CACHED_BYTES) if inode.info.kind is Kind.FILE else (ALIAS, URL)


def check_namespace(name: bytes) -> None:
    """Raise NotSupported for a *name* outside the namespace `user`.

    `ls -l` takes that as an answer for the whole mount: it asks for an ACL and a security label of the first file only.
    """
    if not name.startswith(b"user."):
        raise NotSupported("there are no extended attributes but those of the namespace user")


async def value_of(inode: Inode[Volume], name: bytes) -> bytes:
    """Return the extended attribute *name* of *inode*; NoAttribute when there is none of that name.

    Waits for nothing but the disk cache, and for that only when asked for `CACHED_BYTES`.
    """
    volume, info = inode.volume, inode.info
    if volume is None and name == SERVER:
        return str(os.getpid()).encode()
    if volume is None or name not in names_of(inode):
        raise NoAttribute(f"no attribute {os.fsdecode(name)}")
    if name == ALIAS:
        return volume.alias.name.encode()
    if name == URL:
        return os.fsencode(f"{volume.alias.url}/{info.key}" if info.key else volume.alias.url)
    if name == ETAG:
        return info.etag.encode()
    if not isinstance(volume.content, ReadAhead):
        return b"0"
    return str(await volume.content.cached_bytes(volume.object_id(info))).encode()
