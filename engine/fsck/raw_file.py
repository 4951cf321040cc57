"""A file of a damaged storage, read in parts; a page that the medium cannot return reads as zeros.

Only the requested bytes are read, and holes can be skipped: so a database file of a terabyte that has few data blocks
takes little time and memory.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Protocol

from ..store.storage import Storage

PAGE = 4096  # bytes; a bad block of the medium costs at most one such page
_STEP = 1 << 20  # bytes copied at once


class Source(Protocol):
    """A source of the bytes of a database file or its write-ahead log."""

    @property
    def size(self) -> int:
        """The length in bytes."""

    def read(self, at: int, size: int) -> bytes:
        """Return up to *size* bytes from the offset *at* on; fewer at the end."""

    def data(self) -> Iterator[tuple[int, int]]:
        """Yield the ranges [start, end) that are not holes."""


class Memory:
    """A source that reads from bytes in memory."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    @property
    def size(self) -> int:
        """The length in bytes."""
        return len(self._content)

    def read(self, at: int, size: int) -> bytes:
        """Return up to *size* bytes from the offset *at* on; fewer at the end."""
        return self._content[at : at + size]

    def data(self) -> Iterator[tuple[int, int]]:
        """Yield one range with all bytes."""
        yield 0, len(self._content)


class RawFile:
    """A file in storage that is open until ``close``; a file that cannot be opened counts as empty.

    Args:
        storage: the storage directory.
        name: the name of the file in it.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage = storage
        try:
            self._fd: int | None = storage.open(name, write=False)
        except OSError:
            self._fd = None
        self._size = os.fstat(self._fd).st_size if self._fd is not None else 0

    @property
    def size(self) -> int:
        """The length in bytes."""
        return self._size

    def read(self, at: int, size: int) -> bytes:
        """Return up to *size* bytes from the offset *at* on, with zeros for each page that cannot be read."""
        if self._fd is None:
            return b""
        end = min(at + size, self._size)
        try:
            found = os.pread(self._fd, max(0, end - at), at)
        except OSError:
            if end - at <= PAGE:
                return bytes(end - at)  # a bad block of the medium: only this page is lost
            return b"".join(self.read(start, min(PAGE, end - start)) for start in range(at, end, PAGE))
        return found.ljust(max(0, end - at), b"\0")

    def data(self) -> Iterator[tuple[int, int]]:
        """Yield the ranges [start, end) that are not holes (lseek(2), SEEK_DATA)."""
        at = 0
        while self._fd is not None and at < self._size:
            try:
                start = os.lseek(self._fd, at, os.SEEK_DATA)
                end = os.lseek(self._fd, start, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return  # a hole up to the end
                start, end = at, self._size  # the file system cannot tell: take all as data
            yield start, min(end, self._size)
            at = end

    def copy_to(self, fd: int) -> None:
        """Copy the file to the empty file *fd* of the storage; holes stay holes."""
        for start, end in self.data():
            for at in range(start, end, _STEP):
                self._storage.write(fd, self.read(at, min(_STEP, end - at)), at)
        self._storage.truncate(fd, self._size)

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> RawFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
