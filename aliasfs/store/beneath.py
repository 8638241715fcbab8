"""Opening paths that cannot leave a directory: symbolic links are followed only as far as they stay in it.

Paths are resolved from a descriptor of the root, by openat2(2) with RESOLVE_BENEATH where the kernel has
it, else step by step with O_PATH | O_NOFOLLOW, holding a descriptor of every directory on the way. No
decision is made on path strings, so a rename during the walk cannot lead out. An absolute link target
counts as inside when walking it passes the very root directory (device and inode). All functions block.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from aliasfs.errors import AccessDenied

MAX_LINKS = 40
"""Symbolic links followed in one path; the limit of Linux (path_resolution(7))."""

_SYS_OPENAT2 = 437  # the same on every architecture: asm-generic/unistd.h
_RESOLVE_NO_MAGICLINKS = 0x02  # linux/openat2.h
_RESOLVE_BENEATH = 0x08
_WALK_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


def open_beneath(root: int, key: str, flags: int) -> int:
    """Return a new descriptor of *key*, resolved below the directory *root*; "" is the root itself.

    *flags* are those of open(2); with O_NOFOLLOW a link as the last part is not followed. Raises OSError
    as open(2) does, AccessDenied when a link on the way leads out of the root.
    """
    try:
        return _openat2(root, key, flags | os.O_CLOEXEC)
    except OSError as exc:
        # EXDEV: a link leads out, or is absolute, which may still lead in. EAGAIN: a rename raced with "..".
        # ENOSYS, EPERM: an old kernel, or a seccomp filter that does not know the call.
        if exc.errno not in (errno.EXDEV, errno.EAGAIN, errno.ENOSYS, errno.EPERM):
            raise
    with Walk(root) as walk:
        return walk.open(key, flags | os.O_CLOEXEC)


def _openat2(root: int, key: str, flags: int) -> int:
    how = _OpenHow(flags=flags, resolve=_RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    path = ctypes.c_char_p(os.fsencode(key or "."))
    fd: int = _syscall(_SYS_OPENAT2, ctypes.c_int(root), path, ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how)))
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), key)
    return fd


class Walk:
    """A place below a root, as the descriptors of all directories from the root down to it."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._fds: list[int] = []
        self._names: list[str] = []
        self._links = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._fds:
            os.close(self._fds.pop())

    @property
    def _top(self) -> int:
        return self._fds[-1] if self._fds else self._root

    def open(self, key: str, flags: int) -> int:
        """Open *key* as `open_beneath` does, step by step."""
        name = self._walk(key.split("/"), follow_last=not flags & os.O_NOFOLLOW)
        return os.open(name or ".", flags | os.O_NOFOLLOW, dir_fd=self._top)

    def canonical(self, directory: str, target: str) -> list[str]:
        """Return the parts, from the root, of where the link *target* found in *directory* leads.

        None of the parts is a link, as far as they exist; a target that dangles is allowed. Raises
        AccessDenied when it leads out of the root.
        """
        pending = [*directory.split("/"), *self._steps(target, directory.split("/"))]
        last = self._walk(pending, follow_last=True, may_dangle=True)
        return [*self._names, last] if last else list(self._names)

    def _walk(self, parts: Iterable[str], *, follow_last: bool, may_dangle: bool = False) -> str:
        """Go down to the directory of the last part and return the name of that part; "" for the directory itself."""
        pending = deque(part for part in parts if part not in ("", "."))
        while pending:
            name = pending.popleft()
            if name == "..":
                self._up()
                continue
            if not pending and not follow_last:
                return name
            try:
                fd = os.open(name, _WALK_FLAGS, dir_fd=self._top)
            except FileNotFoundError:
                if may_dangle:
                    return self._dangle(name, pending)
                if pending:
                    raise
                return name
            mode = os.fstat(fd).st_mode
            if stat.S_ISLNK(mode):
                pending.extendleft(reversed(self._follow(fd)))
            elif stat.S_ISDIR(mode):
                self._fds.append(fd)
                self._names.append(name)
            else:
                os.close(fd)
                if pending:
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
                return name
        return ""

    def _up(self) -> None:
        if not self._fds:
            raise AccessDenied("a symbolic link leads out of the alias; only links that stay inside are followed")
        os.close(self._fds.pop())
        self._names.pop()

    def _dangle(self, name: str, rest: Iterable[str]) -> str:
        """Take the parts that do not exist by their words alone; returns the last."""
        missing = [name]
        for part in rest:
            if part != "..":
                missing.append(part)
            elif missing:
                missing.pop()
            else:
                self._up()
        self._names.extend(missing)
        return ""

    def _follow(self, fd: int) -> list[str]:
        """Return the steps that the link *fd* stands for, closing it."""
        try:
            target = os.readlink("", dir_fd=fd)
        finally:
            os.close(fd)
        self._links += 1
        if self._links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), target)
        return self._steps(target, self._names)

    def _steps(self, target: str, here: list[str]) -> list[str]:
        """Return *target* as steps from the directory *here*; an absolute one begins with steps up to the root."""
        if not target.startswith("/"):
            return target.split("/")
        identity = os.fstat(self._root)
        parts = target.split("/")
        for count in range(1, len(parts) + 1):
            try:
                found = os.stat("/".join(parts[:count]) or "/")
            except OSError:
                break
            if (found.st_dev, found.st_ino) == (identity.st_dev, identity.st_ino):
                return [".."] * len([part for part in here if part]) + parts[count:]
        raise AccessDenied("a symbolic link leads out of the alias; only links that stay inside are followed")
