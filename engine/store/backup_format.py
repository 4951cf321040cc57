"""The format of the metadata backup: frames of rows, which hold integers, bytes and text of bounded size only.

    file    = frame ...
    frame   = magic, schema version of the database, length of payload, crc32 of payload, payload
    payload = zlib(length of the table's name, count of columns, count of rows, the name, column ...)
    column  = a type tag for each row, all integers (8 bytes each), the lengths of all bytes and texts (4 bytes each),
              these bytes and texts

Each frame has its own checksum, so that damage to one frame loses only the rows in it.  Reading any file, also one that
an attacker made, takes time in proportion to its size, and the memory of one frame beside the rows.  All numbers are
little-endian.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

Value = int | bytes | str | None

ROWS = 500  # most rows in one frame, which one damaged byte can lose
COLUMNS = 32  # most columns of a table that are read; every table has fewer
PLAIN_MAX = 1 << 20  # bytes of a payload before compression; minifo's largest row has a tenth of it
_PAYLOAD_MAX = PLAIN_MAX + 4096  # zlib makes incompressible data a little larger
_MAGIC = b"mfoF"
_FRAME = struct.Struct("<4sIII")
_HEAD = struct.Struct("<BBH")  # length of the table's name, columns, rows
_ZLIB_LEVEL = 1  # twice as fast as zlib's default, and the result is a tenth larger
_WINDOW = 1 << 20  # bytes that are searched at a time for the next frame
_SIZE_MAX = 1 << 32  # bytes of a file that are read at most
_READ_RATIO = 4  # times its own size that may be read of a file
_NULL, _INT, _BYTES, _TEXT = range(4)
_TAGS: dict[type, int] = {type(None): _NULL, int: _INT, bytes: _BYTES, str: _TEXT}


class Frame(NamedTuple):
    """Rows of one table, and the schema version of the database that they were read from."""

    version: int
    table: str
    rows: list[tuple[Value, ...]]


def pack(version: int, table: str, rows: Sequence[tuple[Value, ...]]) -> bytes:
    """Return the frames that hold rows of a table: more than one if the rows exceed PLAIN_MAX bytes.

    Args:
        version: the schema version of the database.
        table: the table's name.
        rows: at most ``ROWS`` rows.

    Raises:
        ValueError: a row exceeds PLAIN_MAX bytes, or has a value other than a 64-bit integer, bytes, text or None.
    """
    try:
        name = table.encode()
        columns = [_pack_column(column) for column in zip(*rows, strict=True)]
        plain = b"".join([_HEAD.pack(len(name), len(columns), len(rows)), name, *columns])
    except (KeyError, struct.error) as error:
        raise ValueError(f"a row of {table} has a value of an unknown type ({error})") from error
    if len(plain) > PLAIN_MAX:
        if len(rows) == 1:
            raise ValueError(f"a row of {table} is too large ({len(plain)} bytes, at most {PLAIN_MAX})")
        half = len(rows) // 2
        return pack(version, table, rows[:half]) + pack(version, table, rows[half:])
    payload = zlib.compress(plain, _ZLIB_LEVEL)
    return _FRAME.pack(_MAGIC, version, len(payload), zlib.crc32(payload)) + payload


def _pack_column(column: tuple[Value, ...]) -> bytes:
    tags = bytes([_TAGS[type(value)] for value in column])
    numbers = [value for value in column if type(value) is int]
    strings = [value.encode() if type(value) is str else value for value in column if type(value) in (bytes, str)]
    lengths = struct.pack(f"<{len(strings)}I", *map(len, strings))  # type: ignore[arg-type]
    return b"".join([tags, struct.pack(f"<{len(numbers)}q", *numbers), lengths, *strings])  # type: ignore[list-item]


def read(fd: int) -> Iterator[Frame]:
    """Yield all undamaged frames of an open file.

    Raises:
        OSError: the file cannot be read.
    """
    size = min(os.fstat(fd).st_size, _SIZE_MAX)
    left = _READ_RATIO * size + _WINDOW  # bounds the time that a file with many false frames can take
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


def is_whole(fd: int) -> bool:
    """Return whether an open file consists of undamaged frames and nothing else.

    Raises:
        OSError: the file cannot be read.
    """
    size, at = os.fstat(fd).st_size, 0
    while at < size:
        header = os.pread(fd, _FRAME.size, at)
        if len(header) < _FRAME.size:
            return False
        magic, version, length, crc = _FRAME.unpack(header)
        payload = os.pread(fd, length, at + _FRAME.size) if length <= _PAYLOAD_MAX else b""
        if magic != _MAGIC or zlib.crc32(payload) != crc or _unpack(version, payload) is None:
            return False
        at += _FRAME.size + length
    return size > 0


def _unpack(version: int, payload: bytes) -> Frame | None:
    """Return the frame with a payload's rows, or None if the payload is not valid."""
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
    """Reads bytes one after the other from a position on."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at

    def take(self, size: int) -> bytes:
        """Return the next *size* bytes; raise ValueError if there are fewer."""
        taken = self._data[self._at : self._at + size]
        if len(taken) < size:
            raise ValueError(f"{size} bytes expected, {len(taken)} left")
        self._at += size
        return taken


def _unpack_column(cursor: _Cursor, count: int) -> list[Value]:
    tags = cursor.take(count)
    numbers = tags.count(_INT)
    strings = tags.count(_BYTES) + tags.count(_TEXT)
    ints = iter(struct.unpack(f"<{numbers}q", cursor.take(8 * numbers)))
    lengths = iter(struct.unpack(f"<{strings}I", cursor.take(4 * strings)))
    column: list[Value] = []
    for tag in tags:
        if tag == _INT:
            column.append(next(ints))
        elif tag == _NULL:
            column.append(None)
        elif tag in (_BYTES, _TEXT):
            string = cursor.take(next(lengths))
            column.append(string if tag == _BYTES else string.decode())
        else:
            raise ValueError(f"unknown type tag {tag}")
    return column
