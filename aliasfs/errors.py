"""The exception tree: one class per meaning, and the exit code each has on a command line.

Classes say *what happened*; boundaries say what it means there (`mountd.errnos`, `mountd.control`, the
table of exit codes below). Providers' exceptions are translated once, in their store file, with
`raise ... from exc`. Every message is one sentence that can be shown to a user as it is: what is wrong,
where, and what to do; it never contains a credential.
"""

from __future__ import annotations


class AliasfsError(Exception):
    """Base of everything this project raises on purpose; `str()` is fit for a user's eyes."""


class NotFound(AliasfsError):
    """No such name, object, inode or revision."""


class UnknownAlias(NotFound):
    """No alias of that name is configured."""


class AlreadyExists(AliasfsError):
    """An exclusive creation met something that is there."""


class NotADirectory(AliasfsError):
    """A directory was needed; something else is there."""


class IsADirectory(AliasfsError):
    """A file was needed; a directory is there."""


class NotALink(AliasfsError):
    """A symbolic link was needed; something else is there (readlink(2) answers EINVAL)."""


class InvalidName(AliasfsError):
    """A name that cannot be: empty, `.`, `..`, with NUL or a slash."""


class NameTooLong(AliasfsError):
    """A name of more than 255 bytes, the limit of Linux (NAME_MAX)."""


class BadHandle(AliasfsError):
    """An unknown or closed handle."""


class NoAttribute(AliasfsError):
    """The extended attribute is absent."""


class AccessDenied(AliasfsError):
    """Policy forbids it, or the store answered 401 or 403, or the object is archived."""


class ReadOnly(AliasfsError):
    """A write on something read-only."""


class NotSupported(AliasfsError):
    """This alias cannot do that (never ENOSYS: the kernel would remember it for all aliases)."""


class OutOfSpace(AliasfsError):
    """The local disk is full."""


class StoreError(AliasfsError):
    """A store failed in a way that no subclass names better."""


class StaleObject(StoreError):
    """The version that was opened is no longer in the store (HTTP 412: the etag changed)."""


class StoreTimeout(StoreError):
    """A store did not answer within its deadline."""


class StoreUnavailable(StoreError):
    """Throttled, 5xx, no route, reset: after the client's own retries. Trying later may help."""


class CorruptObject(StoreError):
    """A store sent fewer or other bytes than it promised."""


class ConfigError(AliasfsError):
    """The configuration is wrong; the message names file, line and what to write instead."""


class DaemonUnreachable(AliasfsError):
    """No daemon serves that mount point, or it does not answer."""


class MountError(AliasfsError):
    """The mount could not be made or undone; the message says why and what to do."""


EXIT_CODES: dict[type[AliasfsError], int] = {
    # sysexits.h; a subclass without a row of its own takes its parent's.
    AliasfsError: 70,
    NotFound: 66,
    AlreadyExists: 73,
    NotADirectory: 65,
    IsADirectory: 65,
    NotALink: 65,
    InvalidName: 65,
    NameTooLong: 65,
    BadHandle: 70,
    NoAttribute: 66,
    AccessDenied: 77,
    ReadOnly: 77,
    NotSupported: 69,
    OutOfSpace: 73,
    StoreError: 74,
    StaleObject: 75,
    StoreTimeout: 75,
    StoreUnavailable: 75,
    CorruptObject: 74,
    ConfigError: 78,
    DaemonUnreachable: 69,
    MountError: 69,
}


def exit_code(error: BaseException) -> int:
    """Return the exit code for *error*: that of its nearest class in EXIT_CODES; 70 for a bug of ours."""
    for cls in type(error).__mro__:
        if cls in EXIT_CODES:
            return EXIT_CODES[cls]
    return 70
