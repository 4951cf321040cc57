"""The handlers that pyfuse3 calls: they convert its objects for handlers.py, and wait where a request needs it.

handlers.py says what each request does.  Handles are stateless: a file handle always is the inode number, so there is
no table of open files.  An inode stays in memory until the kernel has sent FORGET for all its references (nlookup).

Only this mount changes the tree, so the kernel may cache names, negative entries, attributes, pages and listings for
ever; it knows of every change, for each one is a request that it sent.  An exception other than FUSEError would end
pyfuse3's main loop and leave the mount in place without a server: only the decorator ``_replies_errno`` turns
exceptions into errnos.

Import this module after ``extension.loader.load()``: it imports pyfuse3.
"""

from __future__ import annotations

import errno
import functools
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, ReaddirToken, RequestContext, SetattrFields, StatvfsData

from ...engine import Attr, Ino, Overlay
from ...engine.model import NAME_MAX
from . import trace
from .committer import Committer
from .counters import counters
from .handlers import Handlers, errno_for
from .range_handlers import RangeHandlers, Request
from .shared_rules import FOR_EVER

P = ParamSpec("P")
T = TypeVar("T")
Handler = Callable[Concatenate["FuseOperations", P], Coroutine[Any, Any, T]]


def _replies_errno(handler: Handler[P, T]) -> Handler[P, T]:
    """Return a handler that raises FUSEError with an errno in the place of any other exception of *handler*.

    It counts each call and its time.
    """
    kind = handler.__name__.strip("_")

    @functools.wraps(handler)
    async def wrapper(self: FuseOperations, /, *args: P.args, **kwargs: P.kwargs) -> T:
        began = time.monotonic_ns()
        code = 0
        try:
            return await handler(self, *args, **kwargs)
        except FUSEError as error:
            code = error.errno
            counters.errors[code] += 1
            raise
        except Exception as error:
            code = errno_for(error, handler.__name__)
            counters.errors[code] += 1
            raise FUSEError(code) from None
        finally:
            counters.served[kind].add(time.monotonic_ns() - began)
            if trace.is_on():
                trace.note(kind, args, began, code)

    return wrapper


def _changes(handler: Handler[P, T]) -> Handler[P, T]:
    """Return a handler for a change: it also waits for a commit if the mount option ``sync`` or the redo log needs one.

    The journal is told who has sent the request: its context is the last argument of all but WRITE.

    Exceptions become errnos, as ``_replies_errno`` does it.
    """

    @functools.wraps(handler)
    async def wrapper(self: FuseOperations, /, *args: P.args, **kwargs: P.kwargs) -> T:
        self._note_caller(args[-1])
        result = await handler(self, *args, **kwargs)
        if self.synchronous or self._durability.volatile:
            await self.committer.make_durable()
        return result

    return _replies_errno(wrapper)


class FuseOperations(pyfuse3.Operations):
    """pyfuse3's handlers for one overlay.

    Args:
        overlay: the open overlay.
        handlers: serve its requests.
        committer: makes changes durable.
        ranges: serves the requests about ranges, which the session hook passes on; None in plain mode.
        synchronous: every change is durable before it is acknowledged (mount option ``sync``).
    """

    supports_dot_lookup = True
    enable_writeback_cache = True
    enable_acl = True

    def __init__(
        self,
        overlay: Overlay,
        handlers: Handlers,
        committer: Committer,
        ranges: RangeHandlers | None,
        *,
        synchronous: bool,
    ) -> None:
        super().__init__()
        self.overlay = overlay
        self._durability = overlay.durability
        self._journal = overlay.journal
        self.committer = committer
        self.synchronous = synchronous
        self._handlers = handlers
        self._ranges = ranges

    def _note_caller(self, context: Any) -> None:
        """Tell the journal who has sent the request that is served next, without waiting in between."""
        known = (context.uid, context.pid) if isinstance(context, RequestContext) else (0, 0)
        self._journal.caller = lambda: known

    # -- replies

    def _entry(self, attr: Attr) -> EntryAttributes:
        """Return a reply entry with these attributes, which the kernel may cache for ever."""
        entry = EntryAttributes()
        entry.generation = self.overlay.generations.get(Ino(attr.ino), 0)
        entry.entry_timeout = FOR_EVER
        entry.attr_timeout = FOR_EVER
        return self._fill(entry, attr)

    @staticmethod
    def _fill(entry: EntryAttributes, attr: Attr) -> EntryAttributes:
        entry.st_ino = attr.ino
        entry.st_mode = attr.mode
        entry.st_nlink = attr.nlink
        entry.st_uid = attr.uid
        entry.st_gid = attr.gid
        entry.st_rdev = attr.rdev
        entry.st_size = attr.size
        entry.st_blocks = attr.blocks
        entry.st_atime_ns = attr.atime
        entry.st_mtime_ns = attr.mtime
        entry.st_ctime_ns = attr.ctime
        return entry

    # -- reading

    @_replies_errno
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        attr = self._handlers.lookup(parent_inode, name)
        if attr is not None:
            return self._entry(attr)
        negative = EntryAttributes()
        negative.st_ino = 0  # a negative entry: the kernel may cache that the name does not exist
        negative.entry_timeout = FOR_EVER
        return negative

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        self._handlers.forget(inode_list)

    @_replies_errno
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return self._entry(self._handlers.getattr(inode, ctx.pid))

    @_replies_errno
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        return self._handlers.readlink(inode)

    @_replies_errno
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        return inode

    @_replies_errno
    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        form = EntryAttributes()  # reused, for readdir_reply copies it
        for name, attr, cookie in self._handlers.readdir(fh, start_id):
            # nlink 0 marks placeholder attributes (engine/tree/merged_view.py): the kernel must not cache them, so that
            # it asks for the real ones
            form.entry_timeout = form.attr_timeout = FOR_EVER if attr.nlink else 0
            form.generation = self.overlay.generations.get(Ino(attr.ino), 0)
            if not pyfuse3.readdir_reply(token, name, self._fill(form, attr), cookie):
                break

    @_replies_errno
    async def releasedir(self, fh: int) -> None:
        return None

    @_replies_errno
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        figures = self.overlay.statfs()
        reply = StatvfsData()
        for name in ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail"):
            setattr(reply, name, getattr(figures, name))
        reply.f_namemax = NAME_MAX
        return reply

    # -- changing names

    @_changes
    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        return self._entry(self._handlers.mknod(parent_inode, name, mode, rdev, ctx.uid, ctx.gid, ctx.umask))

    @_replies_errno
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        # after one ENOSYS the kernel sends MKNOD and OPEN instead of CREATE, and with the hook no OPEN either
        raise FUSEError(errno.ENOSYS)

    @_changes
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        return self._entry(self._handlers.mkdir(parent_inode, name, mode, ctx.uid, ctx.gid, ctx.umask))

    @_changes
    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        return self._entry(self._handlers.symlink(parent_inode, name, target, ctx.uid, ctx.gid, ctx.umask))

    @_changes
    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext) -> EntryAttributes:
        return self._entry(self._handlers.link(inode, new_parent_inode, new_name))

    @_changes
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        self._handlers.unlink(parent_inode, name)

    @_changes
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        self._handlers.rmdir(parent_inode, name)

    @_changes
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        names = parent_inode_old, name_old, parent_inode_new, name_new, flags
        source = self._handlers.to_write_back(*names)
        if source is not None:
            # other requests may change both names meanwhile; the engine checks them again
            await self.committer.write_back(source)
            self._note_caller(ctx)
        self._handlers.rename(*names)

    # -- changing objects

    @_changes
    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        changed = self._handlers.setattr(
            inode,
            attr.st_mode if fields.update_mode else None,
            attr.st_uid if fields.update_uid else None,
            attr.st_gid if fields.update_gid else None,
            attr.st_size if fields.update_size else None,
            attr.st_atime_ns if fields.update_atime else None,
            attr.st_mtime_ns if fields.update_mtime else None,
            attr.st_ctime_ns if fields.update_ctime else None,
            attr.st_rdev,  # the hook sets it to 1 for a truncate that clears the set-id bits
            ctx.uid,
            ctx.gid,
            ctx.pid,
        )
        return self._entry(changed)

    @_changes
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        # called in plain mode only: with the hook the kernel sends no OPEN
        if flags & os.O_ACCMODE != os.O_RDONLY:
            self._journal.will_write(Ino(inode))
        if flags & os.O_TRUNC:
            self._handlers.truncate(inode, ctx.uid, ctx.gid, ctx.pid)
        return FileInfo(fh=inode, keep_cache=True)

    @_replies_errno
    async def read(self, fh: int, off: int, size: int) -> bytes:
        return await self._handlers.read(fh, off, size)

    @_changes
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        self._handlers.write(fh, off, buf)
        return len(buf)

    @_replies_errno
    async def flush(self, fh: int) -> None:
        raise FUSEError(errno.ENOSYS)  # the kernel sends no further FLUSH; at close it writes pages back without it

    @_replies_errno
    async def release(self, fh: int) -> None:
        return None

    @_replies_errno
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self.committer.make_durable()

    @_replies_errno
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self.committer.make_durable()

    # -- extended attributes

    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        if not name and self._ranges is not None:
            return await self._range(self._ranges.take(), ctx)
        return await self._getxattr(inode, name)

    @_replies_errno
    async def _getxattr(self, inode: int, name: bytes) -> bytes:
        return self._handlers.getxattr(inode, name)

    @_changes
    async def _range(self, request: Request, ctx: RequestContext) -> bytes:
        assert self._ranges is not None
        return await self._ranges.answer(request)

    @_replies_errno
    async def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[Any]:
        names = self.overlay.listxattr(Ino(inode))
        # the kernel refuses trusted attributes to processes without CAP_SYS_ADMIN, but the file system must not list
        # them either (xattr(7))
        return names if ctx.uid == 0 else [name for name in names if not name.startswith(b"trusted.")]

    @_changes
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        self._handlers.setxattr(inode, name, value, ctx.uid, ctx.gid, ctx.pid)

    @_changes
    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        self.overlay.removexattr(Ino(inode), name)
