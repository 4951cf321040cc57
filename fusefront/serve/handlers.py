"""Serves FUSE requests that need no wait: it calls the engine, and takes and returns plain values.

Every rule of the file system is in the engine.  This module adds what only a front end knows: the number of references
that the kernel holds to an inode (nlookup), what is published to the session hook, and which file's next write(2) must
fail because an earlier one found no space.  Requests arrive through pyfuse3 (operations.py) or by a direct call of the
session hook (fast_path.py).

Import this module after ``extension.loader.load()``: it imports pyfuse3.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import pyfuse3

from ...engine import Attr, DirEntry, Ino, Overlay, Process, RenameFlags, SetAttr, StateError
from ...engine.errors import FULL, errno_of
from ...engine.model import ACL_ACCESS, FIRST_COOKIE
from .base_reader import BaseReader
from .reply_cache import ReplyCache

log = logging.getLogger(__name__)

_UNREPORTED_MAX = 4096  # files


def errno_for(error: Exception, what: str) -> int:
    """Return the errno to reply for an exception; log the exception unless it is an OSError, which the caller sees.

    Args:
        error: the exception.
        what: name of the request, for the log.
    """
    if isinstance(error, OSError):
        return error.errno or errno.EIO
    if isinstance(error, StateError):
        log.error("%s", error)
        return errno_of(error)
    log.error("request %s failed", what, exc_info=error)
    return errno.EIO


class Handlers:
    """Serves requests on one overlay.

    Args:
        overlay: the open overlay.
        base_reader: reads files.
        reply_cache: publishes replies to the session hook; None in plain mode.
        is_writing: takes a process id and an inode number; returns whether that process has that file open for writing.
        access_times: which reads set access times (``MountOptions.access_times``).
    """

    def __init__(
        self,
        overlay: Overlay,
        base_reader: BaseReader,
        reply_cache: ReplyCache | None,
        is_writing: Callable[[int, int], bool],
        access_times: Literal["relatime", "strictatime"] | None = None,
    ) -> None:
        self._overlay = overlay
        self._base_reader = base_reader
        self._reply_cache = reply_cache
        self._is_writing = is_writing
        self._access_times = access_times
        self._unreported: set[int] = set()  # files with a lost write that no write(2) has reported yet

    # -- reading

    def _counted(self, attr: Attr) -> Attr:
        """Return *attr*; count one more reference of the kernel to its inode (nlookup), for the reply creates one."""
        self._overlay.add_lookup(Ino(attr.ino))
        return attr

    def lookup(self, parent: int, name: bytes) -> Attr | None:
        """Return the attributes of the inode with a name; None if the directory has no such name."""
        attr = self._overlay.lookup(Ino(parent), name)
        if attr is not None:
            return self._counted(attr)
        if self._reply_cache is not None:
            self._reply_cache.count_miss(Ino(parent))
        return None

    def forget(self, counts: Iterable[tuple[int, int]]) -> None:
        """Subtract references of the kernel; delete the inodes that have neither a reference nor a name.

        Args:
            counts: pairs of an inode number and the number of references to subtract (nlookup).
        """
        forgotten = [(Ino(ino), nlookup) for ino, nlookup in counts]
        try:
            self._overlay.subtract_lookups(forgotten)
        except (OSError, StateError) as error:
            log.error("unlinked files cannot be deleted now, the next mount deletes them: %s", error)
        if self._unreported:
            self._unreported -= {ino for ino, _ in forgotten if not self._overlay.is_referenced(ino)}

    def getattr(self, ino: int, pid: int) -> Attr:
        """Return the attributes of an inode.

        Args:
            ino: the inode.
            pid: the process that makes the request.

        Raises:
            OSError: there is no such inode; ENOSPC if *pid* is about to write to a file of which a write was lost.
        """
        if ino in self._unreported and self._is_writing(pid, ino):
            self._unreported.discard(ino)
            raise OSError(errno.ENOSPC, "an earlier write to this file was lost")
        attr = self._overlay.getattr(Ino(ino))
        self._publish(attr)
        return attr

    def _publish(self, attr: Attr) -> None:
        # never for a file with a lost write: its next GETATTR must arrive here and fail
        if self._reply_cache is not None and attr.ino not in self._unreported:
            self._reply_cache.publish(attr)

    def readlink(self, ino: int) -> bytes:
        """Return the target of a symlink."""
        return self._overlay.readlink(Ino(ino))

    def readdir(self, ino: int, after: int) -> Iterator[DirEntry]:
        """Yield the entries of a directory after cookie *after*; 0 begins the listing.

        When the caller asks for the next entry, the previous one counts as a reference of the kernel to its inode
        (nlookup).  A caller that closes the generator has not put the last entry into its reply.
        """
        for entry in self._overlay.readdir(Ino(ino), after):
            child = Ino(entry.attr.ino)
            try:
                yield entry
            except GeneratorExit:
                if not self._overlay.is_referenced(child):
                    self._overlay.forget([child])
                raise
            if entry.cookie >= FIRST_COOKIE:  # "." and ".." are no references
                self._overlay.add_lookup(child)

    def getxattr(self, ino: int, name: bytes) -> bytes:
        """Return the value of an extended attribute.

        Raises:
            OSError: ENODATA if the inode has no such attribute.
        """
        try:
            return self._overlay.getxattr(Ino(ino), name)
        except OSError:
            if self._reply_cache is not None and not self._overlay.listxattr(Ino(ino)):
                self._reply_cache.bare(Ino(ino))
            raise

    async def read(self, ino: int, offset: int, size: int) -> bytes:
        """Return bytes of a file; other requests may be served before it returns.

        Args:
            ino: the file.
            offset: position of the first byte.
            size: number of bytes; fewer are returned at the end of the file only.

        Raises:
            OSError: the file cannot be read.
        """
        if self._access_times is not None:
            self._update_atime(Ino(ino))
        return self._publish_read(Ino(ino), offset, size, await self._base_reader.read(Ino(ino), offset, size))

    def read_now(self, ino: int, offset: int, size: int, flags: int) -> Any:
        """Return bytes of a file without serving other requests meanwhile; NotImplemented while the base is slow.

        Args:
            ino: the file.
            offset: position of the first byte.
            size: number of bytes; fewer are returned at the end of the file only.
            flags: flags of open(2) that the file was opened with.

        Raises:
            OSError: the file cannot be read.
        """
        if not self._base_reader.is_fast:
            return NotImplemented
        # a read from a write-only file is the kernel's own, of a page that a program writes in part
        if self._access_times is not None and not flags & os.O_NOATIME and flags & os.O_ACCMODE != os.O_WRONLY:
            self._update_atime(Ino(ino))
        return self._publish_read(Ino(ino), offset, size, self._base_reader.read_now(Ino(ino), offset, size))

    def _update_atime(self, ino: Ino) -> None:
        try:
            self._overlay.accessed(ino, strict=self._access_times == "strictatime")
        except OSError as error:
            log.debug("the access time of inode %d cannot be set: %s", ino, error)  # storage is full; reading works

    def _publish_read(self, ino: Ino, offset: int, size: int, data: bytes) -> bytes:
        """Return *data*, the bytes read from a file; publish what the kernel is likely to ask for next."""
        if self._reply_cache is not None:
            if offset == 0:
                # a read makes the kernel's cached atime invalid: the next stat(2) sends a GETATTR
                self._publish(self._overlay.getattr(ino))
            if len(data) == size and self._base_reader.is_fast:
                self._reply_cache.publish_base_file(ino)
        return data

    # -- changing names

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, uid: int, gid: int, umask: int) -> Attr:
        """Create a regular file, device, FIFO or socket; return its attributes."""
        return self._counted(self._overlay.mknod(Ino(parent), name, mode, rdev, Process(uid, gid, umask)))

    def mkdir(self, parent: int, name: bytes, mode: int, uid: int, gid: int, umask: int) -> Attr:
        """Create a directory; return its attributes."""
        return self._counted(self._overlay.mkdir(Ino(parent), name, mode, Process(uid, gid, umask)))

    def symlink(self, parent: int, name: bytes, target: bytes, uid: int, gid: int, umask: int) -> Attr:
        """Create a symlink; return its attributes."""
        return self._counted(self._overlay.symlink(Ino(parent), name, target, Process(uid, gid, umask)))

    def link(self, ino: int, new_parent: int, new_name: bytes) -> Attr:
        """Give an inode one more name; return its attributes."""
        return self._counted(self._overlay.link(Ino(ino), Ino(new_parent), new_name))

    def tmpfile(self, parent: int, flags: int, mode: int, uid: int, gid: int, umask: int) -> Attr:
        """Create a file without a name (O_TMPFILE); return its attributes.  *flags* are those of open(2)."""
        linkable = not flags & os.O_EXCL
        return self._counted(self._overlay.tmpfile(Ino(parent), mode, Process(uid, gid, umask), linkable=linkable))

    def unlink(self, parent: int, name: bytes) -> None:
        """Remove the name of an object that is no directory."""
        self._overlay.unlink(Ino(parent), name)

    def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory."""
        self._overlay.rmdir(Ino(parent), name)

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        """Rename an object.

        The caller first makes the kernel write back the file that ``to_write_back`` returns, if any.
        """
        self._overlay.rename(Ino(parent), name, Ino(new_parent), new_name, flags)

    def to_write_back(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> int | None:
        """Return the number of the file whose pages the kernel must write back before a rename, or None.

        A regular file that is renamed onto an existing name is written back first: after a power cut the name then has
        all of the old or all of the new content (promise P3).
        """
        if flags != RenameFlags.NONE or self._overlay.lookup(Ino(new_parent), new_name) is None:
            return None
        source = self._overlay.lookup(Ino(parent), name)
        return source.ino if source is not None and stat.S_ISREG(source.mode) else None

    # -- changing inodes

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
        """Change attributes of an inode; return all attributes after the change.

        Args:
            ino: the inode.
            mode, uid, gid, size, atime, mtime, ctime: new values, in bytes and ns; None leaves a value unchanged.  If
                all are None, the request asks to clear the set-id bits before a write.
            kill: 1 for a truncate that clears the set-id bits, otherwise 0.
            caller_uid, caller_gid, pid: the process that makes the request.
        """
        change = SetAttr(mode, uid, gid, size, atime, mtime, ctime)
        if kill == 1 or (mode is uid is gid is size is atime is mtime is ctime is None):
            change.kill_priv = True
            change.in_group = self._in_group(ino, caller_uid, caller_gid, pid)
        return self._overlay.setattr(Ino(ino), change)

    def truncate(self, ino: int, caller_uid: int, caller_gid: int, pid: int) -> None:
        """Set the size of a file to 0 for open(2) with O_TRUNC; clear its set-id bits unless the caller is root."""
        in_group = self._in_group(ino, caller_uid, caller_gid, pid)
        self._overlay.setattr(Ino(ino), SetAttr(size=0, kill_priv=caller_uid != 0, in_group=in_group))

    def write(self, ino: int, offset: int, data: bytes) -> None:
        """Write all of *data* at *offset*.

        Raises:
            OSError: nothing was written; ENOSPC or EDQUOT if storage has no room.
        """
        try:
            # times=False: with the writeback cache the kernel keeps the times of a file, and sends them after its
            # bytes.  The time of this call would be milliseconds later, and visible once the kernel forgets the inode.
            self._overlay.write(Ino(ino), offset, data, times=False)
        except OSError as error:
            if error.errno in FULL:
                self._fail_next_write(ino)
            else:
                # close(2) returns EIO, whatever the reason is
                log.warning("%d bytes written to inode %d are lost: %s", len(data), ino, error)
            raise

    def _fail_next_write(self, ino: int) -> None:
        """Make the next write(2) to a file fail with ENOSPC, after storage had no room for pages of it.

        The kernel reports the lost pages at fsync(2) and close(2) only, so a program that only writes would not stop.
        Invalid attributes make the kernel send GETATTR before the next write(2), and ``getattr`` fails that request.
        """
        if len(self._unreported) < _UNREPORTED_MAX:
            self._unreported.add(ino)
            if self._reply_cache is not None:
                self._reply_cache.changed(Ino(ino))
            pyfuse3.invalidate_inode(ino, attr_only=True)

    def setxattr(self, ino: int, name: bytes, value: bytes, caller_uid: int, caller_gid: int, pid: int) -> None:
        """Set an extended attribute.

        An access ACL clears the set-group-ID bit of the file unless the caller is root or in the file's group.
        """
        keep_sgid = name != ACL_ACCESS or self._in_group(ino, caller_uid, caller_gid, pid)
        self._overlay.setxattr(Ino(ino), name, value, keep_sgid=keep_sgid)

    def _in_group(self, ino: int, uid: int, gid: int, pid: int) -> bool:
        """Return whether a process may keep the set-group-ID bit of a file: it is root's or in the file's group.

        The rule is that of posix_acl_update_mode() in the kernel.
        """
        group = self._group(ino)
        return uid == 0 or gid == group or group in pyfuse3.get_sup_groups(pid)

    def _group(self, ino: int) -> int:
        return self._overlay.getattr(Ino(ino)).gid
