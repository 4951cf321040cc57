"""Frames of rows: the format of the copy of names.  Nothing but numbers, bytes and text, of bounded size, is read.

    file    = frame ...
    frame   = magic, format of the database, length of payload, crc32 of payload, payload
    payload = zlib(table, columns, rows, column ...)
    column  = a tag for each row, all integers (8 bytes), all lengths (4 bytes), all bytes and texts in one piece

Frames are checked one by one, so that what is damaged costs no more than itself; whoever made a file, reading it takes
time in proportion to its size, and the memory of one frame beside the rows.  All numbers are little-endian.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

Value = int | bytes | str | None

ROWS = 500  # rows in one frame: what one damaged byte can cost
COLUMNS = 32  # more than any table has
PLAIN_MAX = 1 << 20  # bytes of a payload before it is compressed; the largest row is a tenth of it
_PAYLOAD_MAX = PLAIN_MAX + 4096  # zlib makes what cannot be compressed a little larger
_MAGIC = b"mfoF"
_FRAME = struct.Struct("<4sIII")
_HEAD = struct.Struct("<BBH")  # length of the table's name, columns, rows
_LEVEL = 1  # of zlib: twice as fast as the default, a tenth larger
_WINDOW = 1 << 20  # bytes searched at a time for the next frame
_SIZE_MOST = 1 << 32  # bytes of a file that are looked at
_SEARCHED = 4  # times its own size that may be read of a file
_NULL, _INT, _BYTES, _TEXT = range(4)
_TAGS: dict[type, int] = {type(None): _NULL, int: _INT, bytes: _BYTES, str: _TEXT}


class Frame(NamedTuple):
    """Rows of one table, and the format number of the database they are of."""

    version: int
    table: str
    rows: list[tuple[Value, ...]]


def pack(version: int, table: str, rows: Sequence[tuple[Value, ...]]) -> bytes:
    """Frames that hold these rows of a table, at most ``ROWS`` of them.

    Raises:
        ValueError: a row is too large, or holds something else than integers of 64 bits, bytes and texts.
    """
    try:
        name = table.encode()
        columns = [_pack_column(column) for column in zip(*rows, strict=True)]
        plain = b"".join([_HEAD.pack(len(name), len(columns), len(rows)), name, *columns])
    except (KeyError, struct.error) as error:
        raise ValueError(f"a row of {table} is of no known kind ({error})") from error
    if len(plain) > PLAIN_MAX:
        if len(rows) == 1:
            raise ValueError(f"a row of {table} has {len(plain)} bytes")
        half = len(rows) // 2
        return pack(version, table, rows[:half]) + pack(version, table, rows[half:])
    payload = zlib.compress(plain, _LEVEL)
    return _FRAME.pack(_MAGIC, version, len(payload), zlib.crc32(payload)) + payload


def _pack_column(column: tuple[Value, ...]) -> bytes:
    tags = bytes([_TAGS[type(value)] for value in column])
    numbers = [value for value in column if type(value) is int]
    pieces = [value.encode() if type(value) is str else value for value in column if type(value) in (bytes, str)]
    lengths = struct.pack(f"<{len(pieces)}I", *map(len, pieces))  # type: ignore[arg-type]
    return b"".join([tags, struct.pack(f"<{len(numbers)}q", *numbers), lengths, *pieces])  # type: ignore[list-item]


def read(fd: int) -> Iterator[Frame]:
    """Every frame of an open file that is whole.

    Raises:
        OSError: it cannot be read.
    """
    size = min(os.fstat(fd).st_size, _SIZE_MOST)
    left = _SEARCHED * size + _WINDOW  # else many that only look like frames would take time without end
    at = 0
    while at + _FRAME.size <= size and left > 0:
        header = os.pread(fd, _FRAME.size, at)
        if len(header) < _FRAME.size:
            return
        magic, version, length, crc = _FRAME.unpack(header)
        if magic == _MAGIC and length <= _PAYLOAD_MAX:
            payload = os.pread(fd, length, at + _FRAME.size)
            left -= length
            if len(payload) == length and zlib.crc32(payload) == crc:
                at += _FRAME.size + length
                frame = _unpack(version, payload)
                if frame is not None:
                    yield frame
                continue
        window = os.pread(fd, _WINDOW, at + 1)
        left -= len(window)
        found = window.find(_MAGIC)
        at += 1 + (found if found >= 0 else max(1, len(window) - len(_MAGIC) + 1))


def _unpack(version: int, payload: bytes) -> Frame | None:
    """The rows in a payload, or None where it holds none."""
    try:
        inflate = zlib.decompressobj()
        plain = inflate.decompress(payload, PLAIN_MAX + 1)
        if len(plain) > PLAIN_MAX or not inflate.eof:
            return None
        length, width, count = _HEAD.unpack_from(plain)
        cursor = _Cursor(plain, _HEAD.size)
        table = cursor.take(length).decode("ascii")
        if not 0 < width <= COLUMNS or count > ROWS:
            return None
        columns = [_unpack_column(cursor, count) for _ in range(width)]
    except (ValueError, struct.error, zlib.error):
        return None
    return Frame(version, table, list(zip(*columns, strict=True)))


class _Cursor:
    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at

    def take(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + size]
        if len(piece) < size:
            raise ValueError("it ends early")
        self._at += size
        return piece


def _unpack_column(cursor: _Cursor, count: int) -> list[Value]:
    tags = cursor.take(count)
    numbers = tags.count(_INT)
    pieces = tags.count(_BYTES) + tags.count(_TEXT)
    ints = iter(struct.unpack(f"<{numbers}q", cursor.take(8 * numbers)))
    lengths = iter(struct.unpack(f"<{pieces}I", cursor.take(4 * pieces)))
    column: list[Value] = []
    for tag in tags:
        if tag == _INT:
            column.append(next(ints))
        elif tag == _NULL:
            column.append(None)
        elif tag in (_BYTES, _TEXT):
            piece = cursor.take(next(lengths))
            column.append(piece if tag == _BYTES else piece.decode())
        else:
            raise ValueError(f"tag {tag}")
    return column
