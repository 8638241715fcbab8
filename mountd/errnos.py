"""What an exception means to the kernel: one table, looked up along the class's ancestry."""

from __future__ import annotations

import errno

from aliasfs import errors

ERRNOS: dict[type[BaseException], int] = {
    errors.NotFound: errno.ENOENT,
    errors.AlreadyExists: errno.EEXIST,
    errors.NotADirectory: errno.ENOTDIR,
    errors.IsADirectory: errno.EISDIR,
    errors.NotALink: errno.EINVAL,
    errors.InvalidName: errno.EINVAL,
    errors.NameTooLong: errno.ENAMETOOLONG,
    errors.BadHandle: errno.EBADF,
    errors.NoAttribute: errno.ENODATA,
    errors.AccessDenied: errno.EACCES,
    errors.ReadOnly: errno.EROFS,
    errors.NotSupported: errno.EOPNOTSUPP,
    errors.OutOfSpace: errno.ENOSPC,
    errors.StaleObject: errno.ESTALE,
    errors.StoreTimeout: errno.ETIMEDOUT,
    errors.StoreError: errno.EIO,
    errors.ConfigError: errno.EIO,
    errors.DaemonUnreachable: errno.EIO,
    errors.MountError: errno.EIO,
    errors.AliasfsError: errno.EIO,
}
"""ENOSYS is not among them: the kernel would remember it for every alias of the mount."""


def errno_of(error: BaseException) -> int:
    """Return the errno for *error*: that of its nearest ancestor in the table; EIO for a bug of ours."""
    for cls in type(error).__mro__:
        if cls in ERRNOS:
            return ERRNOS[cls]
    return errno.EIO
