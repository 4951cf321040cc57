"""The requests about ranges of files: fallocate, lseek and copy_file_range, which pyfuse3 has no handlers for.

The session hook passes them on as a getxattr of an empty name (ranges.c), so ``FuseOperations.getxattr`` comes here
with them, and what is returned here goes to the kernel as it is.  The kernel has written back the range that is zeroed
or copied, and drops what it holds of it afterwards; it sets times and sizes itself, as for a write, and asks to drop
set-id bits before.  For lseek it does nothing, so the whole file is written back first: what is in its memory only
would be told to be a hole.
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

_FALLOCATE, _LSEEK, _COPY = 43, 46, 47  # the opcodes of the FUSE protocol
_LSEEK_REPLY = struct.Struct("=Q")  # struct fuse_lseek_out
_COPY_REPLY = struct.Struct("=II")  # struct fuse_write_out


class Request(NamedTuple):
    """One request, as the hook tells it."""

    opcode: int
    ino: int
    offset: int
    size: int
    mode: int  # of fallocate; of lseek, what to look for; of a copy, its flags
    target: int  # of a copy, with the offset there
    at: int


class RangeHandlers:
    """Answers requests about ranges of files.

    Args:
        overlay: the open overlay.
        committer: reaches what the kernel holds.
        hook: the extension.
    """

    def __init__(self, overlay: Overlay, committer: Committer, hook: ModuleType) -> None:
        self._overlay = overlay
        self._committer = committer
        self._asked = hook.asked

    def take(self) -> Request:
        """The request that has just come; to be called before anything is awaited, for the next one takes its place."""
        return Request._make(self._asked())

    async def answer(self, request: Request) -> bytes:
        """Serve a request.

        Returns:
            The body of the reply.

        Raises:
            OSError: what the caller gets.
        """
        overlay = self._overlay
        ino, offset, size, mode = Ino(request.ino), request.offset, request.size, request.mode
        if request.opcode == _FALLOCATE:
            overlay.fallocate(ino, mode, offset, size, times=False)
            return b""
        if request.opcode == _LSEEK:
            await self._write_back(ino)
            return _LSEEK_REPLY.pack(overlay.seek(ino, offset, mode))
        if request.opcode == _COPY:
            if mode != 0:
                raise FsError(errno.EINVAL, f"copy with flags {mode}")
            done = overlay.copy(ino, offset, Ino(request.target), request.at, size, times=False)
            return _COPY_REPLY.pack(done, 0)
        raise FsError(errno.ENOSYS, f"request {request.opcode}")

    async def _write_back(self, ino: Ino) -> None:
        try:
            await self._committer.write_back(ino)
        except OSError as error:
            # no reason to refuse this request: whoever wrote hears of it at close or fsync
            log.debug("write-back of %d: %s", ino, error)
