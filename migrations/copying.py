"""Bytes and extended attributes on their way from one tree to another: what importer, exporter and merge share.

Holes stay holes: only ranges that hold data are read and written.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from minifo.engine.base import BaseView

_STEP = 1 << 20  # bytes read at once
_SPACES = (b"user.", b"trusted.", b"security.", b"system.posix_acl_access", b"system.posix_acl_default")


def data_ranges(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """The ranges of a file that hold data (lseek(2), SEEK_DATA); the whole file where its file system does not tell.

    Args:
        fd: the file, open for reading.
        size: bytes to look at.
    """
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # only a hole is left
            if error.errno != errno.EINVAL:
                raise
            start, end = end, size
        if start < size:
            yield start, min(end, size)


def data_of(fd: int, start: int, end: int) -> Iterator[bytes]:
    """The bytes of a range, in pieces.

    Raises:
        OSError: EIO where the file is shorter than it was.
    """
    while start < end:
        data = os.pread(fd, min(_STEP, end - start), start)
        if not data:
            raise OSError(errno.EIO, "the file became shorter while it was read")
        yield data
        start += len(data)


def xattrs_of(view: BaseView, path: bytes) -> dict[bytes, bytes]:
    """All extended attributes of an object that an overlay can hold."""
    return {name: view.getxattr(path, name) for name in view.listxattr(path) if name.startswith(_SPACES)}
