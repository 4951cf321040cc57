"""Serves fallocate, lseek and copy_file_range, the requests about ranges of files that pyfuse3 has no handlers for.

The session hook passes them on as a getxattr of an empty name (ranges.c).  ``FuseOperations.getxattr`` calls this
module for them, and the bytes returned here are the body of the reply to the kernel.  Before fallocate and
copy_file_range the kernel writes back the range that is to be zeroed or copied, and afterwards it drops its pages of
that range; it sets times and sizes itself, as for a write, and asks to clear set-id bits first.  Before lseek it writes
nothing back: so this module has the whole file written back first, for bytes that only the page cache holds would be
reported as a hole.
"""

from __future__ import annotations

import errno
import logging
import struct
from types import ModuleType
from typing import NamedTuple

from ...engine import Ino, Overlay
from ...engine.errors import FsError
from .committer import Committer

log = logging.getLogger(__name__)

_LSEEK_REPLY = struct.Struct("=Q")  # struct fuse_lseek_out
_COPY_REPLY = struct.Struct("=II")  # struct fuse_write_out


class Request(NamedTuple):
    """One request, as the hook's ``range_request()`` returns it."""

    kind: str  # fallocate, lseek or copy_file_range
    ino: int
    offset: int
    size: int
    mode: int  # fallocate: its mode; lseek: SEEK_DATA or SEEK_HOLE; copy_file_range: its flags
    target: int  # copy_file_range: inode number of the file that is written
    at: int  # copy_file_range: offset in that file


class RangeHandlers:
    """Serves requests about ranges of files.

    Args:
        overlay: the open overlay.
        committer: makes the kernel write files back.
        hook: the C extension.
    """

    def __init__(self, overlay: Overlay, committer: Committer, hook: ModuleType) -> None:
        self._overlay = overlay
        self._committer = committer
        self._last_request = hook.range_request

    def take(self) -> Request:
        """Return the request that the hook passed on last.

        Call it before the handler awaits anything: the next request replaces this one in the hook.
        """
        return Request._make(self._last_request())

    async def answer(self, request: Request) -> bytes:
        """Serve a request and return the body of the reply to the kernel.

        Raises:
            OSError: the request fails with this errno.
        """
        overlay = self._overlay
        ino, offset, size, mode = Ino(request.ino), request.offset, request.size, request.mode
        if request.kind == "fallocate":
            overlay.fallocate(ino, mode, offset, size, times=False)
            return b""
        if request.kind == "lseek":
            await self._write_back(ino)
            return _LSEEK_REPLY.pack(overlay.seek(ino, offset, mode))
        if request.kind == "copy_file_range":
            if mode != 0:
                raise FsError(errno.EINVAL, f"copy with flags {mode}")
            done = overlay.copy(ino, offset, Ino(request.target), request.at, size, times=False)
            return _COPY_REPLY.pack(done, 0)
        raise FsError(errno.ENOSYS, f"request {request.kind}")

    async def _write_back(self, ino: Ino) -> None:
        try:
            await self._committer.write_back(ino)
        except OSError as error:
            # not an error of this request: the process that wrote gets it at close or fsync
            log.debug("inode %d cannot be written back: %s", ino, error)
