"""The kernel's door: decode a FUSE request, make one call on `Vfs`, encode the answer.

Relies on pyfuse3's rule that `FUSEError` alone becomes a reply: any other exception ends the mount, so every
handler wears `@replies`; `forget` and `init` must not raise at all. Relies on `mountd.watch` to call `end_overdue`.
Invariants: every request that may wait stands in the table of those at work until it is answered; one that finds
no memory is never answered, because it ends the server. Nothing else is decided here.
"""

from __future__ import annotations

import collections
import errno
import functools
import logging
import math
import os
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, InodeT, ReaddirToken, RequestContext, StatvfsData
from typing_extensions import Buffer

from aliasfs.errors import AliasfsError, NoAttribute, NotFound, NotSupported, StoreError, StoreTimeout
from mountd.errnos import errno_of
from mountd.exhaustion import end_out_of_memory, for_want_of_memory
from mountd.inodes import InodeNo
from mountd.vfs import NAME_MAX, HandleNo, Vfs
from mountd.volumes import Attr

log = logging.getLogger(__name__)

BLOCK_BYTES = 4096
CAPACITY_BLOCKS = 1 << 38
"""What statfs reports as total and free, 1 PiB: stores have no size, and tools stumble over 0."""

P = ParamSpec("P")
T = TypeVar("T")
Handler = Callable[Concatenate["Ops", P], Coroutine[Any, Any, T]]


@dataclass(slots=True, eq=False)
class Request:
    """A request at work; *since_s* and *given_up_s*, which is None before its deadline, are on trio's clock."""

    operation: str
    arguments: tuple[Any, ...]
    since_s: float
    scope: trio.CancelScope
    given_up_s: float | None = None


def replies(handler: Handler[P, T]) -> Handler[P, T]:
    """Wrap a handler so that it is at work for a bounded time, and whatever it raises becomes an errno.

    Errors are counted and, unless expected, logged. Costs 5 us (2026-11-21), most of it trio's cancel scope.
    """
    name = handler.__name__

    async def wrapped(self: Ops, /, *args: P.args, **kwargs: P.kwargs) -> T:
        self.requests[name] += 1
        scope = trio.CancelScope()
        self._at_work[scope] = request = Request(name, args, trio.current_time(), scope)
        try:
            with scope:
                return await handler(self, *args, **kwargs)
            raise await self._overdue(request)
        except FUSEError:
            raise
        except (NotFound, NoAttribute, NotSupported) as exc:
            raise FUSEError(errno_of(exc)) from exc
        except Exception as exc:
            # A server that comes down answers nothing any more: what it was asked is asked of the next one.
            await trio.lowlevel.checkpoint_if_cancelled()
            raise FUSEError(self._failed(request, exc)) from exc
        finally:
            del self._at_work[scope]

    functools.update_wrapper(wrapped, handler)
    return wrapped


class Ops(pyfuse3.Operations):
    """FUSE requests in, replies out."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(
        self, vfs: Vfs, answer_within_s: float = math.inf, out_of_memory: Callable[[], NoReturn] = end_out_of_memory
    ) -> None:
        """Answer ETIMEDOUT to what is at work for *answer_within_s*; *out_of_memory* ends the server."""
        super().__init__()
        self._vfs = vfs
        self._answer_within_s = answer_within_s
        self._out_of_memory = out_of_memory
        self._at_work: dict[trio.CancelScope, Request] = {}
        self._scratch = _blank()
        self.requests: collections.Counter[str] = collections.Counter()
        self.errors: collections.Counter[str] = collections.Counter()

    # requests at work

    def at_work(self) -> list[Request]:
        """Return the requests that are being answered, the oldest first."""
        return list(self._at_work.values())

    def end_overdue(self) -> None:
        """Give up the requests whose deadline has passed: their handlers are cancelled and answer ETIMEDOUT."""
        now_s = trio.current_time()
        for request in self._at_work.values():
            if now_s - request.since_s < self._answer_within_s:
                break
            if request.given_up_s is None:
                request.given_up_s = now_s
                request.scope.cancel()

    async def describe(self, request: Request) -> str:
        """Return what *request* asks for, as far as that is known; does not wait."""
        place = ""
        if request.operation != "statfs":
            number = InodeNo(request.arguments[0])
            try:
                place = f" of {os.fsdecode(await self._vfs.getxattr(number, b'user.aliasfs.url'))}"
            except AliasfsError:  # the root, which has no address, or a number that is forgotten by now
                place = f" of inode {number}"
        name = f" {os.fsdecode(request.arguments[1])!r}" if request.operation in ("lookup", "getxattr") else ""
        return f"{request.operation}{name}{place}"

    async def _overdue(self, request: Request) -> StoreTimeout:
        within_s = trio.current_time() - request.since_s
        return StoreTimeout(f"{await self.describe(request)} had no answer after {within_s:.0f} s and was given up")

    def _failed(self, request: Request, error: Exception) -> int:
        """Count and log what went wrong; return the errno. Does not return when memory has run out."""
        if for_want_of_memory(error):
            self._out_of_memory()
        code = errno_of(error)
        self.errors[errno.errorcode[code]] += 1
        if isinstance(error, AliasfsError):
            level = logging.WARNING if isinstance(error, StoreError) else logging.INFO
            log.log(level, "%s: %s: %s", request.operation, type(error).__name__, error)
        else:
            what = (request.operation, request.arguments[:1])
            log.error("%s%r: a bug in aliasfs; the request was answered with EIO", *what, exc_info=error)
        return code

    @replies
    async def lookup(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> EntryAttributes:
        entry = await self._vfs.lookup(InodeNo(parent_inode), name)
        return _fill(_blank(), entry.attr, entry.name_valid_s)

    @replies
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return _fill(_blank(), await self._vfs.getattr(InodeNo(inode)), 0.0)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        self._vfs.forget(inode_list)

    @replies
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> bytes:
        return await self._vfs.readlink(InodeNo(inode))

    @replies
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> pyfuse3.FileHandleT:
        return pyfuse3.FileHandleT(await self._vfs.opendir(InodeNo(inode)))

    @replies
    async def readdir(self, fh: pyfuse3.FileHandleT, start_id: int, token: ReaddirToken) -> None:
        vfs, attributes, cookie = self._vfs, self._scratch, start_id
        for entry in await vfs.readdir(HandleNo(fh), start_id):
            _fill(attributes, vfs.attr(entry.inode), entry.name_valid_s)
            if not pyfuse3.readdir_reply(token, entry.name, attributes, entry.cookie):
                vfs.drop_unused(entry)
                break
            vfs.count_lookup(entry)
            cookie = entry.cookie
        vfs.record_told(HandleNo(fh), cookie)

    async def releasedir(self, fh: pyfuse3.FileHandleT) -> None:
        """Nothing to do: a handle is an inode number."""

    @replies
    async def open(self, inode: InodeT, flags: int, ctx: RequestContext) -> FileInfo:
        return FileInfo(fh=await self._vfs.open(InodeNo(inode), flags), keep_cache=True)

    @replies
    async def read(  # type: ignore[override]  # pyfuse3 takes any contiguous buffer, its stub says bytes
        self, fh: pyfuse3.FileHandleT, off: int, size: int
    ) -> Buffer:
        return await self._vfs.read(HandleNo(fh), off, size)

    async def flush(self, fh: pyfuse3.FileHandleT) -> None:
        """Answer ENOSYS, for the whole mount on purpose: nothing is written here, and the kernel stops asking."""
        raise FUSEError(errno.ENOSYS)

    async def release(self, fh: pyfuse3.FileHandleT) -> None:
        """Nothing to do: a handle is an inode number."""

    @replies
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        facts = StatvfsData()
        facts.f_bsize = facts.f_frsize = BLOCK_BYTES
        facts.f_blocks = facts.f_bfree = facts.f_bavail = CAPACITY_BLOCKS
        facts.f_files = facts.f_ffree = facts.f_favail = CAPACITY_BLOCKS
        facts.f_namemax = NAME_MAX
        return facts

    @replies
    async def getxattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> bytes:
        return await self._vfs.getxattr(InodeNo(inode), name)

    @replies
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[bytes]:
        return self._vfs.listxattr(InodeNo(inode))


def _blank() -> EntryAttributes:
    """Return pyfuse3's form with what is the same for all."""
    attributes = EntryAttributes()
    attributes.generation = 0
    attributes.st_nlink = 1
    attributes.st_blksize = BLOCK_BYTES
    return attributes


def _fill(attributes: EntryAttributes, attr: Attr, name_valid_s: float) -> EntryAttributes:
    """Put *attr* into a form from `_blank`. One may be filled again and again, as replies copy it."""
    number, mode, size, mtime_ns, uid, gid, valid_s = attr
    attributes.st_ino = number
    attributes.entry_timeout = name_valid_s
    attributes.attr_timeout = valid_s
    attributes.st_mode = mode
    attributes.st_uid = uid
    attributes.st_gid = gid
    attributes.st_size = size
    attributes.st_blocks = (size + 511) // 512
    attributes.st_atime_ns = attributes.st_mtime_ns = attributes.st_ctime_ns = mtime_ns
    return attributes
