"""FUSE requests that need no wait: plain values in, engine calls, plain values out.

Every file-system rule lives in the engine; here is what only a front end knows: how often the kernel was told of an
object, what the hook was told, and which writer has to hear that there is no room.  Both roads from the kernel meet
here, through pyfuse3 (operations.py) and past it (fast_path.py).

Import this module after ``hook.load()``: it imports pyfuse3.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import pyfuse3

from ...engine import Attr, DirEntry, Ino, Overlay, Process, RenameFlags, SetAttr, StateError
from ...engine.errors import CommitPostponed
from .base_reader import BaseReader
from .reply_cache import ReplyCache

log = logging.getLogger(__name__)

_REFUSED_MAX = 4096  # files in trouble at once that are remembered
_ACL_ACCESS = b"system.posix_acl_access"


def errno_for(error: Exception, what: str) -> int:
    """The errno that stands for an exception; what the caller has not caused is logged.

    Args:
        error: the exception.
        what: the request, for the log.
    """
    if isinstance(error, OSError):
        return error.errno or errno.EIO
    if isinstance(error, StateError):
        log.error("%s", error)
        return error.code if isinstance(error, CommitPostponed) else errno.EIO
    log.error("%s failed", what, exc_info=error)
    return errno.EIO


class Handlers:
    """Serves one overlay.

    Args:
        overlay: the open overlay.
        slow_base: reads files.
        published: what the session hook may answer by itself, or None in plain mode.
        is_writing: tells whether a process, by its id, has a file open for writing, by its inode number.
        access_times: which reads set access times (mount/options.py).
    """

    def __init__(
        self,
        overlay: Overlay,
        slow_base: BaseReader,
        published: ReplyCache | None,
        is_writing: Callable[[int, int], bool],
        access_times: Literal["relatime", "strictatime"] | None = None,
    ) -> None:
        self._overlay = overlay
        self._slow_base = slow_base
        self._published = published
        self._is_writing = is_writing
        self._access_times = access_times
        self._refused: set[int] = set()

    # -- looking

    def _told(self, attr: Attr) -> Attr:
        """The same, noting that the kernel will refer to the object once more."""
        self._overlay.hold(Ino(attr.ino))
        return attr

    def lookup(self, parent: int, name: bytes) -> Attr | None:
        """What stands at a name, or None."""
        attr = self._overlay.lookup(Ino(parent), name)
        if attr is not None:
            return self._told(attr)
        if self._published is not None:
            self._published.missed(Ino(parent))
        return None

    def forget(self, counts: Iterable[tuple[int, int]]) -> None:
        """The kernel has forgotten objects, each as often as said."""
        forgotten = [(Ino(ino), count) for ino, count in counts]
        try:
            self._overlay.release(forgotten)
        except (OSError, StateError) as error:
            # what could not be deleted is swept at the next mount
            log.error("forget: %s", error)
        if self._refused:
            self._refused -= {ino for ino, _ in forgotten if not self._overlay.is_held(ino)}

    def getattr(self, ino: int, pid: int) -> Attr:
        """The attributes of an object; *pid* asks."""
        if ino in self._refused and self._is_writing(pid, ino):
            self._refused.discard(ino)
            raise OSError(errno.ENOSPC, "an earlier write")
        attr = self._overlay.getattr(Ino(ino))
        self._publish(attr)
        return attr

    def _publish(self, attr: Attr) -> None:
        # attributes of a file in trouble are asked for here, until its writer has heard
        if self._published is not None and attr.ino not in self._refused:
            self._published.told(attr)

    def readlink(self, ino: int) -> bytes:
        """The target of a symlink."""
        return self._overlay.readlink(Ino(ino))

    def readdir(self, ino: int, after: int) -> Iterator[DirEntry]:
        """The entries of a directory after a cookie; to ask for one more says that the kernel gets the one before."""
        for entry in self._overlay.readdir(Ino(ino), after):
            child = Ino(entry.attr.ino)
            try:
                yield entry
            except GeneratorExit:
                if not self._overlay.is_held(child):
                    self._overlay.forget([child])
                raise
            if entry.cookie > 2:  # "." and ".." refer to nothing new
                self._overlay.hold(child)

    def getxattr(self, ino: int, name: bytes) -> bytes:
        """The value of an extended attribute."""
        try:
            return self._overlay.getxattr(Ino(ino), name)
        except OSError:
            if self._published is not None and not self._overlay.listxattr(Ino(ino)):
                self._published.bare(Ino(ino))
            raise

    async def read(self, ino: int, offset: int, size: int) -> bytes:
        """Bytes of a file, perhaps after others have been served."""
        if self._access_times is not None:
            self._accessed(Ino(ino))
        return self._was_read(Ino(ino), offset, size, await self._slow_base.read(Ino(ino), offset, size))

    def read_now(self, ino: int, offset: int, size: int, flags: int) -> Any:
        """The same at once; NotImplemented where that could take long.  *flags* are those the file is open with."""
        if not self._slow_base.is_quick:
            return NotImplemented
        # the kernel itself reads what is overwritten in part
        if self._access_times is not None and not flags & os.O_NOATIME and flags & os.O_ACCMODE != os.O_WRONLY:
            self._accessed(Ino(ino))
        return self._was_read(Ino(ino), offset, size, self._slow_base.read_now(Ino(ino), offset, size))

    def _accessed(self, ino: Ino) -> None:
        try:
            self._overlay.accessed(ino, strict=self._access_times == "strictatime")
        except OSError as error:
            log.debug("access time of %d: %s", ino, error)  # a full storage: no reason not to read

    def _was_read(self, ino: Ino, offset: int, size: int, data: bytes) -> bytes:
        if self._published is not None:
            if offset == 0:
                # reading has made the atime that the kernel knows invalid: it asks for it at the next stat(2)
                self._publish(self._overlay.getattr(ino))
            if len(data) == size and self._slow_base.is_quick:
                self._published.base_file(ino)
        return data

    # -- changing names

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, uid: int, gid: int, umask: int) -> Attr:
        """Create a file or a node."""
        return self._told(self._overlay.mknod(Ino(parent), name, mode, rdev, Process(uid, gid, umask)))

    def mkdir(self, parent: int, name: bytes, mode: int, uid: int, gid: int, umask: int) -> Attr:
        """Create a directory."""
        return self._told(self._overlay.mkdir(Ino(parent), name, mode, Process(uid, gid, umask)))

    def symlink(self, parent: int, name: bytes, target: bytes, uid: int, gid: int, umask: int) -> Attr:
        """Create a symlink."""
        return self._told(self._overlay.symlink(Ino(parent), name, target, Process(uid, gid, umask)))

    def link(self, ino: int, new_parent: int, new_name: bytes) -> Attr:
        """Give an object one more name."""
        return self._told(self._overlay.link(Ino(ino), Ino(new_parent), new_name))

    def tmpfile(self, parent: int, flags: int, mode: int, uid: int, gid: int, umask: int) -> Attr:
        """Create a file without a name; *flags* are those of open(2)."""
        linkable = not flags & os.O_EXCL
        return self._told(self._overlay.tmpfile(Ino(parent), mode, Process(uid, gid, umask), linkable=linkable))

    def unlink(self, parent: int, name: bytes) -> None:
        """Take a name away."""
        self._overlay.unlink(Ino(parent), name)

    def rmdir(self, parent: int, name: bytes) -> None:
        """Take a directory's name away."""
        self._overlay.rmdir(Ino(parent), name)

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        """Move a name, once ``replacing`` has said None or its file was written back."""
        self._overlay.rename(Ino(parent), name, Ino(new_parent), new_name, flags)

    def replacing(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> Attr | None:
        """What a rename is about to put in the place of something else."""
        if flags != RenameFlags.NONE or self._overlay.lookup(Ino(new_parent), new_name) is None:
            return None
        return self._overlay.lookup(Ino(parent), name)

    # -- changing objects

    def setattr(
        self,
        ino: int,
        mode: int | None,
        uid: int | None,
        gid: int | None,
        size: int | None,
        atime: int | None,
        mtime: int | None,
        ctime: int | None,
        kill: int,
        caller_uid: int,
        caller_gid: int,
        pid: int,
    ) -> Attr:
        """Change attributes.

        Args:
            ino: the object.
            mode, uid, gid, size, atime, mtime, ctime: new values, in bytes and ns; None leaves one as it is.
            kill: 1 for a truncate that drops set-id bits; before a write that does, the kernel asks for nothing at all.
            caller_uid, caller_gid, pid: who asks.
        """
        change = SetAttr(mode, uid, gid, size, atime, mtime, ctime)
        if kill == 1 or (mode is uid is gid is size is atime is mtime is ctime is None):
            change.kill_priv = True
            change.in_group = self._in_group(ino, caller_uid, caller_gid, pid)
        return self._overlay.setattr(Ino(ino), change)

    def truncate(self, ino: int, caller_uid: int, caller_gid: int, pid: int) -> None:
        """Cut a file at its opening."""
        in_group = self._in_group(ino, caller_uid, caller_gid, pid)
        self._overlay.setattr(Ino(ino), SetAttr(size=0, kill_priv=caller_uid != 0, in_group=in_group))

    def write(self, ino: int, offset: int, data: bytes) -> None:
        """Write all of *data*."""
        try:
            # with the writeback cache the kernel owns the times of what it holds, and sends them after the bytes; ours
            # would be milliseconds later, and seen as soon as it forgets the file
            self._overlay.write(Ino(ino), offset, data, times=False)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                self._tell_writer(ino)
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

    def setxattr(self, ino: int, name: bytes, value: bytes, caller_uid: int, caller_gid: int, pid: int) -> None:
        """Set an extended attribute."""
        keep_sgid = name != _ACL_ACCESS or self._in_group(ino, caller_uid, caller_gid, pid)
        self._overlay.setxattr(Ino(ino), name, value, keep_sgid=keep_sgid)

    def _in_group(self, ino: int, uid: int, gid: int, pid: int) -> bool:
        # a privileged process keeps set-group-ID; so does one in the file's group (posix_acl_update_mode in the kernel)
        group = self._overlay.getattr(Ino(ino)).gid
        return uid == 0 or gid == group or group in pyfuse3.get_sup_groups(pid)
