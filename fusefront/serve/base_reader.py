"""Reads of a slow base leave the event loop, so that one of them does not hold up everybody else.

A worker thread costs more than a read from memory or a fast disk, so a base is read in the loop as long as it is quick.
Once a read took long the next ones go to workers, until they find it quick again; those of a base that lies behind a
network or another file-system daemon do from the start, for it may also stop answering.
"""

from __future__ import annotations

import errno
import os
import time

import trio

from ...engine import Ino, Overlay
from ..process.descriptor_limits import acquired, thread_limit, waiting_requests_limit

#: File-system types whose reads may wait for another machine or process.
REMOTE = {"nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "virtiofs", "afs", "ocfs2", "gfs2", "glusterfs"}

_LONG = 0.005  # seconds for a read that others should not have to wait for
_SUSPECTED = 32  # reads that do not wait in the loop after a long one
_WORKERS = 16  # beside those that commits need: a base that hangs must not take them


def is_remote(fstype: str) -> bool:
    """True for the type of a file system (as in /proc/self/mountinfo) that may wait for something else."""
    return fstype in REMOTE or fstype == "fuse" or fstype.startswith("fuse.")


class BaseReader:
    """Reads base files of one overlay in worker threads where that is better.

    Args:
        overlay: the open overlay.
        remote: the base may stop answering: never read it in the loop, but for what is in memory.
    """

    def __init__(self, overlay: Overlay, *, remote: bool) -> None:
        self._overlay = overlay
        self._remote = remote
        self._suspected = 0
        self._limiter = trio.CapacityLimiter(min(_WORKERS, thread_limit()))
        self._turns = trio.Semaphore(waiting_requests_limit())  # of reads: each holds a descriptor
        self._buffer = bytearray()  # kept: to make one of a MiB takes as long as to fill it

    @property
    def is_quick(self) -> bool:
        """True while there is no reason to expect that a read takes long."""
        return not self._remote and not self._suspected

    async def read(self, ino: Ino, offset: int, size: int) -> bytes:
        """What ``Overlay.read`` returns, perhaps after others have been served."""
        if not self.is_quick:
            data = await self._aside(ino, offset, size)
            # whoever has changed the file meanwhile has changed it for this reader as well
            if data is not None and self._overlay.is_unchanged(ino):
                return data
        return self.read_now(ino, offset, size)

    def read_now(self, ino: Ino, offset: int, size: int) -> bytes:
        """The same at once, however long it takes."""
        begin = time.perf_counter()
        if offset == 0:
            self._overlay.read_ahead(ino)
        data = self._overlay.read(ino, offset, size)
        if time.perf_counter() - begin > _LONG:
            self._suspected = _SUSPECTED
        return data

    async def _aside(self, ino: Ino, offset: int, size: int) -> bytes | None:
        """Read a file that is all in the base, without waiting in the loop; None for another."""
        fd = self._overlay.base_file(ino)
        if fd is None:
            return None
        try:
            data, seconds = self._cached(fd, offset, size), 0.0
        finally:
            os.close(fd)
        if data is None:
            async with acquired(self._turns):
                fd = self._overlay.base_file(ino)
                if fd is None:
                    return None
                # given up with its task at the end: nobody waits for a base that does not answer
                data, seconds = await trio.to_thread.run_sync(
                    _read, fd, offset, size, abandon_on_cancel=True, limiter=self._limiter
                )
        self._suspected = _SUSPECTED if seconds > _LONG else max(0, self._suspected - 1)
        return data

    def _cached(self, fd: int, offset: int, size: int) -> bytes | None:
        """The bytes, if all are in memory (preadv2(2), RWF_NOWAIT); None also where that cannot be told."""
        if len(self._buffer) < size:
            self._buffer = bytearray(size)
        with memoryview(self._buffer)[:size] as room:
            try:
                count = os.preadv(fd, [room], offset, os.RWF_NOWAIT)
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
                    return None
                raise
            all_of_it = count == min(size, max(0, os.fstat(fd).st_size - offset))
            return bytes(room[:count]) if all_of_it else None


def _read(fd: int, offset: int, size: int) -> tuple[bytes, float]:
    try:
        begin = time.perf_counter()
        return os.pread(fd, size, offset), time.perf_counter() - begin
    finally:
        os.close(fd)
