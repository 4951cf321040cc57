"""The bytes of the redo log: a bounded format of ours that can say rows and nothing else.

    file      = header, frames
    header    = magic, version, uuid, boot id, st_dev and st_ino of the database, token of the commit it follows, crc
    frame     = length (4 bytes), crc32 (4 bytes), body; a frame that is cut short or damaged ends the log
    body      = kind (1 byte), and by kind
        OPERATION  next inode number, next object, number of statements, number of notes; of each statement its number
                   (store/statements.py), of each how many values it has, of each value its type; the integers (8
                   bytes), the lengths of the others (4 bytes), these others; the notes
        SEALED     token of a commit that was made, and may be durable; all content noted so far is
        FAILED     what the storage answered when something could not be made durable, as text
    note      = object, bytes of it that rows may rely on from now on; below zero: ~bytes, it was cut to them

All numbers are little-endian.  Nothing read is believed before the header, then the frame's crc, then each length has
been looked at; reading takes no more memory than the largest frame.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from itertools import chain, islice
from operator import itemgetter
from typing import Any, NamedTuple

from .database import Params, Statement

MAGIC = b"minifo redo\0"
VERSION = 2  # 1 was another format, without a magic
FRAME_MAX = 64 << 20  # bytes; an operation that takes more is not logged, but committed by itself

HEADER = struct.Struct("<12sI16s16sQQqI")
FRAME = struct.Struct("<II")
OPERATION, SEALED, FAILED = 1, 2, 3

_OPERATION = struct.Struct("<BqqII")
_NOTE = struct.Struct("<qq")
_TOKEN = struct.Struct("<Bq")
_NULL, _INT, _BYTES, _TEXT = range(4)
_TYPES: dict[type, int] = {type(None): _NULL, int: _INT, bytes: _BYTES, str: _TEXT}

Note = tuple[int, int]
_Getter = Callable[[tuple[Any, ...]], tuple[Any, ...]]


class BadRecord(ValueError):
    """Bytes that no log of ours has."""


class Header(NamedTuple):
    """What a log is of: storage, boot, database file, and the commit it follows."""

    uuid: bytes
    boot: bytes
    dev: int
    ino: int
    token: int

    def pack(self) -> bytes:
        """Its bytes."""
        fields = HEADER.pack(MAGIC, VERSION, *self, 0)[:-4]
        return fields + struct.pack("<I", zlib.crc32(fields))

    @classmethod
    def parse(cls, data: bytes) -> Header:
        """The header in the first bytes of a log.

        Raises:
            BadRecord: it is none of this version.
        """
        if not data.startswith(MAGIC) or len(data) < HEADER.size:
            raise BadRecord("it is of an unknown kind")
        _, version, *fields, crc = HEADER.unpack_from(data)
        if version != VERSION:
            raise BadRecord(f"it has version {version}, this minifo knows {VERSION}")
        if crc != zlib.crc32(data[: HEADER.size - 4]):
            raise BadRecord("its header is damaged")
        return cls(*fields)


class Operation(NamedTuple):
    """One operation: its statements, the counters after it, and the content written since the one before."""

    statements: list[Statement]
    next_ino: int
    next_object: int
    notes: list[Note]


class _Shape(NamedTuple):
    """How operations of certain statements, with values of certain types, are written."""

    pack: Callable[..., bytes]
    head: bytes  # numbers, counts and types
    integers: _Getter
    others: _Getter | None
    has_text: bool


_shapes: dict[tuple[tuple[int, ...], tuple[type, ...]], _Shape] = {}
_SHAPES = 4096  # kept; there are some hundreds


def _getter(places: list[int]) -> _Getter:
    if len(places) > 1:
        return itemgetter(*places)
    return lambda values: tuple([values[place] for place in places])


def _shape(numbers: tuple[int, ...], types: tuple[type, ...], counts: bytes) -> _Shape:
    integers = [place for place, kind in enumerate(types) if kind is int]
    others = [place for place, kind in enumerate(types) if kind is bytes or kind is str]
    head = struct.pack(f"<{len(numbers)}I", *numbers) + counts + bytes([_TYPES[kind] for kind in types])
    made = _Shape(
        struct.Struct(f"<BqqII{len(head)}s{len(integers)}q{len(others)}I").pack,
        head,
        _getter(integers),
        _getter(others) if others else None,
        str in types,
    )
    if len(_shapes) >= _SHAPES:
        _shapes.clear()
    _shapes[numbers, types] = made
    return made


def pack_operation(statements: Sequence[Statement], next_ino: int, next_object: int, notes: list[Note]) -> bytes:
    """The frame of one operation.

    It is called for each operation, so all values of all its statements are written by one call, in a form that is
    worked out once.

    Raises:
        OverflowError: it is too large for the log.
    """
    numbers: tuple[int, ...]
    params: tuple[Params, ...]
    numbers, params = zip(*statements, strict=True) if statements else ((), ())
    values = tuple(chain.from_iterable(params))
    types = tuple(map(type, values))
    shape = _shapes.get((numbers, types))
    if shape is None:
        values = tuple(map(_plain, values))
        types = tuple(map(type, values))
        shape = _shape(numbers, types, bytes(map(len, params)))
    pack, head, integers, others, has_text = shape
    if others is None:
        body = pack(OPERATION, next_ino, next_object, len(numbers), len(notes), head, *integers(values))
    else:
        found = others(values)
        if has_text:
            found = tuple([value.encode() if isinstance(value, str) else value for value in found])
        lengths = map(len, found)
        fixed = pack(OPERATION, next_ino, next_object, len(numbers), len(notes), head, *integers(values), *lengths)
        body = b"".join((fixed, *found))
    if notes:
        body += b"".join([_NOTE.pack(*note) for note in notes])
    return frame(body)


def _plain(value: int | bytes | str | None) -> int | bytes | str | None:
    """A value of exactly one of the types that are written."""
    if value is None or type(value) in _TYPES:
        return value
    return int(value) if isinstance(value, int) else bytes(value)  # type: ignore[arg-type]


def pack_sealed(token: int) -> bytes:
    """The frame that says that a commit was made."""
    return frame(_TOKEN.pack(SEALED, token))


def pack_failed(reason: str) -> bytes:
    """The frame that says that storage failed."""
    return frame(bytes([FAILED]) + reason.encode(errors="replace")[:1000])


def frame(body: bytes) -> bytes:
    """A body with its length and checksum before it.

    Raises:
        OverflowError: it is too large.
    """
    if len(body) > FRAME_MAX:
        raise OverflowError(f"{len(body)} bytes in one operation")
    return FRAME.pack(len(body), zlib.crc32(body)) + body


def parse_token(body: bytes) -> int:
    """The token of a SEALED body.

    Raises:
        BadRecord: it has none.
    """
    if len(body) != _TOKEN.size:
        raise BadRecord("a record of it is damaged")
    return int(_TOKEN.unpack(body)[1])


def parse_operation(body: bytes) -> Operation:
    """An OPERATION body.

    Raises:
        BadRecord: it is not whole, or holds what no operation has.
    """
    try:
        return _parse_operation(body)
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise BadRecord("a record of it is damaged") from error


def _parse_operation(body: bytes) -> Operation:
    """The same; raises whatever comes of bytes that are no operation."""
    _, next_ino, next_object, count, noted = _OPERATION.unpack_from(body)
    if count * 5 + noted * _NOTE.size > len(body):
        raise BadRecord("it says that it is longer than it is")
    at = _OPERATION.size
    numbers = struct.unpack_from(f"<{count}I", body, at)
    counts = body[at + 4 * count : at + 5 * count]
    at += 5 * count
    types = body[at : at + sum(counts)]
    if len(types) != sum(counts) or any(kind > _TEXT for kind in types):
        raise BadRecord("types that there are not")
    fields = struct.Struct(f"<{types.count(_INT)}q{len(types) - types.count(_INT) - types.count(_NULL)}I")
    found = fields.unpack_from(body, at + len(types))
    at += len(types) + fields.size
    integers, lengths = iter(found[: types.count(_INT)]), iter(found[types.count(_INT) :])
    values: list[int | bytes | str | None] = []
    for kind in types:
        if kind in (_NULL, _INT):
            values.append(next(integers) if kind == _INT else None)
            continue
        length = next(lengths)
        value = body[at : at + length]
        if len(value) != length:
            raise BadRecord("it is cut short")
        at += length
        values.append(value.decode() if kind == _TEXT else value)
    notes = [(number, size) for number, size in _NOTE.iter_unpack(body[at:])]
    if len(notes) != noted:
        raise BadRecord("it is longer than it says")
    rest = iter(values)
    statements: list[Statement] = [
        (number, tuple(islice(rest, size))) for number, size in zip(numbers, counts, strict=True)
    ]
    return Operation(statements, next_ino, next_object, notes)
