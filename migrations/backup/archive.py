"""A backup as a tar archive, written and read in one pass.  Files with holes are sparse files of pax (GNU tar, 1.0)."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from ...engine.errors import StateError
from ...engine.store.syscalls import data_ranges
from ..exchange.entries import Entry, What
from ..exchange.formats import Format
from ..exchange.tar_reader import TarReader
from .contents import damaged

_COPY = 1 << 20  # bytes
_BLOCK = tarfile.BLOCKSIZE
_MAX = 0o77777777777  # bytes that the size in a header can say without an extended one


class ArchiveWriter:
    """Writes one archive.

    Args:
        out: takes the bytes, in order.
    """

    def __init__(self, out: BinaryIO) -> None:
        self._out = out

    def put(self, name: str, data: bytes) -> None:
        """Write a file with these bytes."""
        self._head(name, len(data), {})
        self._body(io.BytesIO(data), [(0, len(data))])

    def put_file(self, name: str, fd: int) -> None:
        """Write a file that has the bytes of another one, and its holes.

        Raises:
            OSError: it cannot be read or written.
        """
        size = os.fstat(fd).st_size
        ranges = list(data_ranges(fd, 0, size))
        with open(fd, "rb", closefd=False) as file:
            if ranges == [(0, size)] or not size:
                self._head(name, size, {})
                self._body(file, ranges)
                return
            lines = [len(ranges), *(number for start, end in ranges for number in (start, end - start))]
            # a sparse file without data has one empty range at its end, as GNU tar writes it
            lines = lines if ranges else [1, size, 0]
            listed = "".join(f"{number}\n" for number in lines).encode()
            listed += bytes(-len(listed) % _BLOCK)
            real = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": name}
            self._head(
                name,
                len(listed) + sum(end - start for start, end in ranges),
                {**real, "GNU.sparse.realsize": str(size)},
            )
            self._out.write(listed)
            self._body(file, ranges)

    def finish(self) -> None:
        """Write the end."""
        self._out.write(bytes(2 * _BLOCK))

    def _head(self, name: str, size: int, headers: dict[str, str]) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o600
        info.pax_headers = headers
        self._out.write(info.tobuf(tarfile.PAX_FORMAT))

    def _body(self, file: BinaryIO, ranges: list[tuple[int, int]]) -> None:
        written = 0
        for start, end in ranges:
            file.seek(start)
            while start < end:
                data = file.read(min(_COPY, end - start))
                if not data:
                    raise OSError(0, "a file became shorter while it was read")
                self._out.write(data)
                start += len(data)
                written += len(data)
        self._out.write(bytes(-written % _BLOCK))


class File(NamedTuple):
    """A file of a backup; its bytes can be read until the next one is asked for.

    Attributes:
        name: in the storage.
        size: bytes.
        pieces: its bytes with their offsets, without those that are zeros.
    """

    name: str
    size: int
    pieces: Iterator[tuple[int, bytes]]


def files_in(stream: BinaryIO, source: str) -> Iterator[File]:
    """Yield the files of an archive in their order.

    Args:
        stream: its bytes, not compressed.
        source: its name, for messages.

    Raises:
        StateError: it is damaged, or has what no backup has.
    """
    try:
        for entry in TarReader(stream, source, Format.TAR).entries():
            yield _file(entry, source)
    except StateError as error:
        raise StateError(error.message, "nothing was restored; fetch it again") from error


def _file(entry: Entry, source: str) -> File:
    name = os.fsdecode(entry.place[1:])
    if entry.what is not What.OBJECT or entry.pieces is None or entry.mode & 0o170000 != 0o100000:
        raise damaged(source, f"{name!r:.100} is no file")
    return File(name, entry.size, entry.pieces())
