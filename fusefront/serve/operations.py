"""FUSE requests as pyfuse3 brings them: its objects in, its objects out, and waiting where a request needs it.

What a request means is said in handlers.py.  Handles are stateless: a file handle is the inode number, always, so there
is no table of open files.  An object lives until the kernel has forgotten it as often as it was told of it.

Only this mount changes the tree, so the kernel may keep names, attributes, negative entries, pages and listings for
ever; it sees its own changes go by.  Any exception but FUSEError would end the main loop with the mount in place: the
decorator ``_answered`` is the one place that turns exceptions into errnos.

Import this module after ``hook.load()``: it imports pyfuse3.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, ReaddirToken, RequestContext, SetattrFields, StatvfsData

from ...engine import Attr, Ino, Overlay
from ...engine.model import NAME_MAX
from .committer import Committer
from .handlers import Handlers, errno_for
from .range_handlers import RangeHandlers, Request

_FOR_EVER = 1e9  # seconds

P = ParamSpec("P")
T = TypeVar("T")
Handler = Callable[Concatenate["FuseOperations", P], Coroutine[Any, Any, T]]


def _answered(handler: Handler[P, T]) -> Handler[P, T]:
    """Make every exception an errno."""

    @functools.wraps(handler)
    async def answer(self: FuseOperations, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await handler(self, *args, **kwargs)
        except FUSEError:
            raise
        except Exception as error:
            raise FUSEError(errno_for(error, handler.__name__)) from None

    return answer


def _changes(handler: Handler[P, T]) -> Handler[P, T]:
    """Like ``_answered``, for changes: durable before they are acknowledged where the mount asks for that."""

    @functools.wraps(handler)
    async def change(self: FuseOperations, /, *args: P.args, **kwargs: P.kwargs) -> T:
        result = await handler(self, *args, **kwargs)
        if self.synchronous or self._durability.volatile:
            await self.committer.durable()
        return result

    return _answered(change)


class FuseOperations(pyfuse3.Operations):
    """Serves one overlay to the kernel.

    Args:
        overlay: the open overlay.
        requests: serves it.
        committer: makes changes durable.
        ranges: serves what the session hook passes on, or None in plain mode.
        synchronous: every change is durable before it is acknowledged (mount option ``sync``).
    """

    supports_dot_lookup = True
    enable_writeback_cache = True
    enable_acl = True

    def __init__(
        self,
        overlay: Overlay,
        requests: Handlers,
        committer: Committer,
        ranges: RangeHandlers | None,
        *,
        synchronous: bool,
    ) -> None:
        super().__init__()
        self.overlay = overlay
        self._durability = overlay.durability
        self.committer = committer
        self.synchronous = synchronous
        self._requests = requests
        self._ranges = ranges

    # -- answers

    def _entry(self, attr: Attr) -> EntryAttributes:
        """The kernel's form of attributes."""
        entry = EntryAttributes()
        entry.entry_timeout = _FOR_EVER
        entry.attr_timeout = _FOR_EVER
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

    # -- looking

    @_answered
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        attr = self._requests.lookup(parent_inode, name)
        if attr is not None:
            return self._entry(attr)
        negative = EntryAttributes()
        negative.st_ino = 0  # "there is none" may be kept like any entry
        negative.entry_timeout = _FOR_EVER
        return negative

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        self._requests.forget(inode_list)

    @_answered
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return self._entry(self._requests.getattr(inode, ctx.pid))

    @_answered
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        return self._requests.readlink(inode)

    @_answered
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        return inode

    @_answered
    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        form = EntryAttributes()  # one for all: it is copied
        for name, attr, cookie in self._requests.readdir(fh, start_id):
            # what is listed has a link, but for a stand-in (engine/tree/merged_view.py): the kernel asks for its own
            form.entry_timeout = form.attr_timeout = _FOR_EVER if attr.nlink else 0
            if not pyfuse3.readdir_reply(token, name, self._fill(form, attr), cookie):
                break

    @_answered
    async def releasedir(self, fh: int) -> None:
        return None

    @_answered
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        figures = self.overlay.statfs()
        answer = StatvfsData()
        for name in ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail"):
            setattr(answer, name, getattr(figures, name))
        answer.f_namemax = NAME_MAX
        return answer

    # -- changing names

    @_changes
    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        return self._entry(self._requests.mknod(parent_inode, name, mode, rdev, ctx.uid, ctx.gid, ctx.umask))

    @_answered
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        # said once: from then on the kernel uses mknod and open, of which open costs nothing
        raise FUSEError(errno.ENOSYS)

    @_changes
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        return self._entry(self._requests.mkdir(parent_inode, name, mode, ctx.uid, ctx.gid, ctx.umask))

    @_changes
    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        return self._entry(self._requests.symlink(parent_inode, name, target, ctx.uid, ctx.gid, ctx.umask))

    @_changes
    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext) -> EntryAttributes:
        return self._entry(self._requests.link(inode, new_parent_inode, new_name))

    @_changes
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        self._requests.unlink(parent_inode, name)

    @_changes
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        self._requests.rmdir(parent_inode, name)

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
        source = self._requests.replacing(*names)
        if source is not None and stat.S_ISREG(source.mode):
            # a file that replaces another is written back first (promise P3); the engine looks at everything anew
            await self.committer.write_back(source.ino)
        self._requests.rename(*names)

    # -- changing objects

    @_changes
    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        changed = self._requests.setattr(
            inode,
            attr.st_mode if fields.update_mode else None,
            attr.st_uid if fields.update_uid else None,
            attr.st_gid if fields.update_gid else None,
            attr.st_size if fields.update_size else None,
            attr.st_atime_ns if fields.update_atime else None,
            attr.st_mtime_ns if fields.update_mtime else None,
            attr.st_ctime_ns if fields.update_ctime else None,
            attr.st_rdev,  # where the hook marks a truncate that drops set-id bits
            ctx.uid,
            ctx.gid,
            ctx.pid,
        )
        return self._entry(changed)

    @_changes
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        # plain mode only: with the hook no open is ever sent
        if flags & os.O_TRUNC:
            self._requests.truncate(inode, ctx.uid, ctx.gid, ctx.pid)
        return FileInfo(fh=inode, keep_cache=True)

    @_answered
    async def read(self, fh: int, off: int, size: int) -> bytes:
        return await self._requests.read(fh, off, size)

    @_changes
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        self._requests.write(fh, off, buf)
        return len(buf)

    @_answered
    async def flush(self, fh: int) -> None:
        raise FUSEError(errno.ENOSYS)  # said once: the kernel flushes pages by itself at close

    @_answered
    async def release(self, fh: int) -> None:
        return None

    @_answered
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self.committer.durable()

    @_answered
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self.committer.durable()

    # -- extended attributes

    @_answered
    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        if not name and self._ranges is not None:
            return await self._range(self._ranges.take())
        return self._requests.getxattr(inode, name)

    @_changes
    async def _range(self, request: Request) -> bytes:
        assert self._ranges is not None
        return await self._ranges.answer(request)

    @_answered
    async def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[Any]:
        names = self.overlay.listxattr(Ino(inode))
        # the kernel refuses trusted attributes to others, and leaves it to file systems not to list them (xattr(7))
        return names if ctx.uid == 0 else [name for name in names if not name.startswith(b"trusted.")]

    @_changes
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        self._requests.setxattr(inode, name, value, ctx.uid, ctx.gid, ctx.pid)

    @_changes
    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        self.overlay.removexattr(Ino(inode), name)
