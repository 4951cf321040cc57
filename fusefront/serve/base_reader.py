"""Reads base files, in worker threads while the base is slow, so that one read does not delay other requests.

To use a worker thread costs more than a read from memory or from a fast disk.  So base files are read in the event loop
as long as reads are fast.  After a slow read the next ones use worker threads, until some of them in a row were fast
again.  A base on a network, or one that another daemon serves, is always read in worker threads, for it may also stop
responding.
"""

from __future__ import annotations

import errno
import os
import time

import trio

from ...engine import Ino, Overlay
from ..process.descriptor_limits import acquired, thread_limit, waiting_requests_limit
from .shared_rules import SLOW_READ

#: Types of file systems whose reads may wait for another machine or process.
REMOTE = {"nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "virtiofs", "afs", "ocfs2", "gfs2", "glusterfs"}

_READS_UNTIL_FAST = 32  # fast reads by worker threads after a slow read, before the event loop reads again
_WORKERS = 16  # a limit of their own: a base that hangs must not use up the threads that commits need


def is_remote(fstype: str) -> bool:
    """Return whether reads of a file system of type *fstype* may wait for another machine or process.

    Args:
        fstype: the type as /proc/self/mountinfo shows it.
    """
    return fstype in REMOTE or fstype == "fuse" or fstype.startswith("fuse.")


class BaseReader:
    """Reads files of one overlay; slow base files in worker threads.

    Args:
        overlay: the open overlay.
        remote: the base may stop responding: in the event loop read from it only what is in the page cache.
    """

    def __init__(self, overlay: Overlay, *, remote: bool) -> None:
        self._overlay = overlay
        self._remote = remote
        self._reads_until_fast = 0
        self._limiter = trio.CapacityLimiter(min(_WORKERS, thread_limit()))
        self._reads = trio.Semaphore(waiting_requests_limit())  # each holds a descriptor while it waits
        self._buffer = bytearray()  # reused: to allocate 1 MiB takes as long as to fill it

    @property
    def is_fast(self) -> bool:
        """Return whether the next read is expected to be fast: the base is not remote and was not slow just now."""
        return not self._remote and not self._reads_until_fast

    async def read(self, ino: Ino, offset: int, size: int) -> bytes:
        """Return bytes of a file; other requests may be served, and may change the file, before it returns.

        Args:
            ino: the file.
            offset: position of the first byte.
            size: number of bytes; fewer are returned at the end of the file only.

        Raises:
            OSError: the file cannot be read.
        """
        if not self.is_fast:
            data = await self._read_base(ino, offset, size)
            # if another request changed the file meanwhile, this read must return the new content
            if data is not None and self._overlay.is_unchanged(ino):
                return data
        return self.read_now(ino, offset, size)

    def read_now(self, ino: Ino, offset: int, size: int) -> bytes:
        """Return bytes of a file, and block the event loop until they are read.

        Args:
            ino: the file.
            offset: position of the first byte.
            size: number of bytes; fewer are returned at the end of the file only.

        Raises:
            OSError: the file cannot be read.
        """
        begin = time.perf_counter()
        if offset == 0:
            self._overlay.read_ahead(ino)
        data = self._overlay.read(ino, offset, size)
        if time.perf_counter() - begin > SLOW_READ:
            self._reads_until_fast = _READS_UNTIL_FAST
        return data

    async def _read_base(self, ino: Ino, offset: int, size: int) -> bytes | None:
        """Return bytes from the page cache or by a worker thread; None if the overlay has some of the file's bytes."""
        fd = self._overlay.base_file(ino)
        if fd is None:
            return None
        try:
            data, seconds = self._read_cached(fd, offset, size), 0.0
        finally:
            os.close(fd)
        if data is None:
            async with acquired(self._reads):
                fd = self._overlay.base_file(ino)
                if fd is None:
                    return None
                # at the end of the mount the thread is abandoned: a base may never respond
                data, seconds = await trio.to_thread.run_sync(
                    _read, fd, offset, size, abandon_on_cancel=True, limiter=self._limiter
                )
        slow = seconds > SLOW_READ
        self._reads_until_fast = _READS_UNTIL_FAST if slow else max(0, self._reads_until_fast - 1)
        return data

    def _read_cached(self, fd: int, offset: int, size: int) -> bytes | None:
        """Return bytes if the page cache holds all of them (preadv2(2), RWF_NOWAIT); None if not, or if unknown."""
        if len(self._buffer) < size:
            self._buffer = bytearray(size)
        with memoryview(self._buffer)[:size] as view:
            try:
                count = os.preadv(fd, [view], offset, os.RWF_NOWAIT)
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
                    return None
                raise
            complete = count == min(size, max(0, os.fstat(fd).st_size - offset))
            return bytes(view[:count]) if complete else None


def _read(fd: int, offset: int, size: int) -> tuple[bytes, float]:
    """Return bytes of *fd* and the seconds that the read took; close *fd*."""
    try:
        begin = time.perf_counter()
        return os.pread(fd, size, offset), time.perf_counter() - begin
    finally:
        os.close(fd)
