"""FUSE requests in, engine calls, errnos out.  Every file-system rule lives in the engine; here is only translation.

Handles are stateless: a file handle is the inode number, always, so there is no table of open files.  An object lives
until the kernel has forgotten it as often as it was told of it.

Only this mount changes the tree, so the kernel may keep names, attributes, negative entries, pages and listings for
ever; it sees its own changes go by.  Any exception but FUSEError would end the main loop with the mount in place: the
decorator ``_answered`` is the one place that turns exceptions into errnos.

Import this module after ``hook.load()``: it imports pyfuse3.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import stat
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, ReaddirToken, RequestContext, SetattrFields, StatvfsData

from minifo.engine import Attr, Ino, Overlay, RenameFlags, SetAttr, StateError
from minifo.engine.errors import CommitPostponed
from minifo.engine.model import NAME_MAX
from minifo.fusefront.committer import Committer
from minifo.fusefront.processes import is_writing
from minifo.fusefront.published import Published
from minifo.fusefront.ranges import RangeRequests, Request
from minifo.fusefront.slowbase import SlowBase

log = logging.getLogger(__name__)

_FOR_EVER = 1e9  # seconds
_REFUSED_MAX = 4096  # files in trouble at once that are remembered
_ACL_ACCESS = b"system.posix_acl_access"

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
        except OSError as error:
            raise FUSEError(error.errno or errno.EIO) from None
        except StateError as error:
            log.error("%s", error)
            full = isinstance(error, CommitPostponed)
            raise FUSEError(errno.ENOSPC if full else errno.EIO) from None
        except Exception:
            log.exception("%s failed", handler.__name__)
            raise FUSEError(errno.EIO) from None

    return answer


def _changes(handler: Handler[P, T]) -> Handler[P, T]:
    """Like ``_answered``, for changes: durable before they are acknowledged where the mount asks for that."""

    @functools.wraps(handler)
    async def change(self: FuseOperations, /, *args: P.args, **kwargs: P.kwargs) -> T:
        result = await handler(self, *args, **kwargs)
        if self.synchronous or self.overlay.commits.volatile:
            await self.committer.durable()
        return result

    return _answered(change)


class FuseOperations(pyfuse3.Operations):
    """Serves one overlay to the kernel.

    Args:
        overlay: the open overlay.
        committer: makes changes durable.
        slow_base: reads files.
        published: what the session hook may answer by itself, or None in plain mode.
        ranges: serves what the session hook passes on, or None in plain mode.
        synchronous: every change is durable before it is acknowledged (mount option ``sync``).
    """

    supports_dot_lookup = True
    enable_writeback_cache = True
    enable_acl = True

    def __init__(
        self,
        overlay: Overlay,
        committer: Committer,
        slow_base: SlowBase,
        published: Published | None,
        ranges: RangeRequests | None,
        *,
        synchronous: bool,
    ) -> None:
        super().__init__()
        self.overlay = overlay
        self.committer = committer
        self.synchronous = synchronous
        self._slow_base = slow_base
        self._published = published
        self._ranges = ranges
        self._refused: set[int] = set()

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

    def _told(self, attr: Attr) -> EntryAttributes:
        """The same for an answer that makes the kernel refer to the object once more."""
        self.overlay.hold(Ino(attr.ino))
        return self._entry(attr)

    # -- looking

    @_answered
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        attr = self.overlay.lookup(Ino(parent_inode), name)
        if attr is not None:
            return self._told(attr)
        negative = EntryAttributes()
        negative.st_ino = 0  # "there is none" may be kept like any entry
        negative.entry_timeout = _FOR_EVER
        return negative

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        try:
            self.overlay.release((Ino(ino), count) for ino, count in inode_list)
        except (OSError, StateError) as error:
            # what could not be deleted is swept at the next mount
            log.error("forget: %s", error)
        if self._refused:
            self._refused -= {ino for ino, _ in inode_list if not self.overlay.is_held(Ino(ino))}

    @_answered
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        if inode in self._refused and is_writing(ctx.pid, inode):
            self._refused.discard(inode)
            raise FUSEError(errno.ENOSPC)
        attr = self.overlay.getattr(Ino(inode))
        if self._published is not None:
            self._published.told(attr)
        return self._entry(attr)

    @_answered
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        return self.overlay.readlink(Ino(inode))

    @_answered
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        return inode

    @_answered
    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        form = EntryAttributes()  # one for all: it is copied
        form.entry_timeout = form.attr_timeout = _FOR_EVER
        for name, attr, cookie in self.overlay.readdir(Ino(fh), start_id):
            ino = Ino(attr.ino)
            if not pyfuse3.readdir_reply(token, name, self._fill(form, attr), cookie):
                if not self.overlay.is_held(ino):
                    self.overlay.forget([ino])
                break
            if cookie > 2:  # "." and ".." refer to nothing new
                self.overlay.hold(ino)

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
        return self._told(self.overlay.mknod(Ino(parent_inode), name, mode, rdev, ctx))

    @_answered
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        # said once: from then on the kernel uses mknod and open, of which open costs nothing
        raise FUSEError(errno.ENOSYS)

    @_changes
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        return self._told(self.overlay.mkdir(Ino(parent_inode), name, mode, ctx))

    @_changes
    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        return self._told(self.overlay.symlink(Ino(parent_inode), name, target, ctx))

    @_changes
    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext) -> EntryAttributes:
        return self._told(self.overlay.link(Ino(inode), Ino(new_parent_inode), new_name))

    @_changes
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        self.overlay.unlink(Ino(parent_inode), name)

    @_changes
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        self.overlay.rmdir(Ino(parent_inode), name)

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
        old, new = Ino(parent_inode_old), Ino(parent_inode_new)
        if flags == RenameFlags.NONE and self.overlay.lookup(new, name_new) is not None:
            await self._flush(self.overlay.lookup(old, name_old))
        self.overlay.rename(old, name_old, new, name_new, flags)

    async def _flush(self, attr: Attr | None) -> None:
        """Make the kernel write back a file that is about to replace another (promise P3).

        The engine looks at everything anew afterwards.
        """
        if attr is not None and stat.S_ISREG(attr.mode):
            await self.committer.write_back(attr.ino)

    # -- changing objects

    @_changes
    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        change = SetAttr(
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime=attr.st_atime_ns if fields.update_atime else None,
            mtime=attr.st_mtime_ns if fields.update_mtime else None,
            ctime=attr.st_ctime_ns if fields.update_ctime else None,
        )
        # the hook marks a truncate that drops set-id bits; before a write that does, the kernel asks for nothing at all
        if attr.st_rdev == 1 or change == SetAttr():
            change.kill_priv = True
            change.in_group = self._in_group(inode, ctx)
        return self._entry(self.overlay.setattr(Ino(inode), change))

    @_changes
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        # plain mode only: with the hook no open is ever sent
        if flags & os.O_TRUNC:
            change = SetAttr(size=0, kill_priv=ctx.uid != 0, in_group=self._in_group(inode, ctx))
            self.overlay.setattr(Ino(inode), change)
        return FileInfo(fh=inode, keep_cache=True)

    @_answered
    async def read(self, fh: int, off: int, size: int) -> bytes:
        data = await self._slow_base.read(Ino(fh), off, size)
        if self._published is not None:
            if off == 0:
                # reading has made the atime that the kernel knows invalid: it asks for it at the next stat(2)
                self._published.told(self.overlay.getattr(Ino(fh)))
            if len(data) == size and self._slow_base.is_quick:
                self._published.base_file(Ino(fh))
        return data

    @_changes
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        try:
            # with the writeback cache the kernel owns the times of what it holds, and sends them after the bytes; ours
            # would be milliseconds later, and seen as soon as it forgets the file
            return self.overlay.write(Ino(fh), off, buf, times=False)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                self._tell_writer(fh)
            raise

    def _tell_writer(self, ino: int) -> None:
        """Let the next write(2) to a file fail, whose pages just found no room.

        The kernel says so at fsync and close only, and a program that just writes on would never end.  Before each
        write(2) it asks for attributes that are not valid any more: that request can fail.
        """
        if len(self._refused) < _REFUSED_MAX:
            self._refused.add(ino)
            if self._published is not None:
                self._published.changed(Ino(ino))
            pyfuse3.invalidate_inode(ino, attr_only=True)

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
        try:
            return self.overlay.getxattr(Ino(inode), name)
        except OSError:
            if self._published is not None and not self.overlay.listxattr(Ino(inode)):
                self._published.bare(Ino(inode))
            raise

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
        keep_sgid = name != _ACL_ACCESS or self._in_group(inode, ctx)
        self.overlay.setxattr(Ino(inode), name, value, keep_sgid=keep_sgid)

    def _in_group(self, inode: int, ctx: RequestContext) -> bool:
        # a privileged process keeps set-group-ID; so does one in the file's group (posix_acl_update_mode in the kernel)
        gid = self.overlay.getattr(Ino(inode)).gid
        return ctx.uid == 0 or ctx.gid == gid or gid in pyfuse3.get_sup_groups(ctx.pid)

    @_changes
    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        self.overlay.removexattr(Ino(inode), name)
