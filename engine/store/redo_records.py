"""The format of the redo log: a bounded encoding of row changes, which cannot hold SQL or other program text.

    file      = header, frames
    header    = magic, version, uuid, boot id, st_dev and st_ino of the database, token of the commit it follows, crc
    frame     = length of the body (4 bytes), crc32 of the body (4 bytes), body; an incomplete or damaged frame ends
                the log
    body      = kind (1 byte), and by kind
        OPERATION  next inode number, next object id, count of statements, count of notes; for each statement its number
                   (store/statements.py); for each statement its count of values; for each value its type (1 byte);
                   the integers (8 bytes each); the lengths of the other values (4 bytes each); their bytes; the notes
        SEALED     token of a commit that was made, and may be durable; all content noted before it is durable
        FAILED     the storage's answer when something could not be made durable, as text
    note      = object id, least size of the object in bytes that rows rely on from here on; below zero: ~size, the
                object was truncated to that size

All numbers are little-endian.  The reader checks the header, then the crc of each frame, then each length before it
uses a value, and takes no more memory than the largest frame.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from itertools import chain, islice
from operator import itemgetter
from typing import Any, NamedTuple

from .database import Params, Statement

MAGIC = b"minifo redo\0"
VERSION = 2  # 1 was another format, without a magic
FRAME_MAX = 64 << 20  # bytes; an operation that takes more is not logged, but committed at once

HEADER = struct.Struct("<12sI16s16sQQqI")
FRAME = struct.Struct("<II")
OPERATION, SEALED, FAILED = 1, 2, 3

_OPERATION = struct.Struct("<BqqII")
_NOTE = struct.Struct("<qq")
_TOKEN = struct.Struct("<Bq")
_NULL, _INT, _BYTES, _TEXT = range(4)
_TYPES: dict[type, int] = {type(None): _NULL, int: _INT, bytes: _BYTES, str: _TEXT}

Note = tuple[int, int]
#: Encodes an operation, as ``encode_operation`` does.
Encode = Callable[[list[Statement], int, int, list[Note]], bytes]
_Getter = Callable[[tuple[Any, ...]], tuple[Any, ...]]


class BadRecord(ValueError):
    """The bytes read are not a redo log, or not one that this version can read; the message says why."""


class Header(NamedTuple):
    """What a log belongs to: the storage, the boot, the database file, and the commit it follows."""

    uuid: bytes
    boot: bytes
    dev: int
    ino: int
    token: int

    def pack(self) -> bytes:
        """Return the header's bytes, with their crc."""
        fields = HEADER.pack(MAGIC, VERSION, *self, 0)[:-4]
        return fields + struct.pack("<I", zlib.crc32(fields))

    @classmethod
    def parse(cls, data: bytes) -> Header:
        """Return the header at the start of *data*.

        Raises:
            BadRecord: there is no header, or one of another version, or a damaged one.
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
    """One operation: its statements, the counters after it, and notes of content written since the previous one."""

    statements: list[Statement]
    next_ino: int
    next_object: int
    notes: list[Note]


class _Shape(NamedTuple):
    """How to encode operations that have the same statements, and the same types of values."""

    pack: Callable[..., bytes]
    head: bytes  # the statements' numbers and counts of values, and the types of values
    integers: _Getter  # picks the integers out of all values
    others: _Getter | None  # picks bytes and text; None if there are none
    has_text: bool


_shapes: dict[tuple[tuple[int, ...], tuple[type, ...]], _Shape] = {}
_SHAPES_MAX = 4096  # real use makes some hundreds


def _getter(positions: list[int]) -> _Getter:
    """Return a function that picks the values at *positions* out of a tuple, always as a tuple."""
    if len(positions) > 1:
        return itemgetter(*positions)
    return lambda values: tuple([values[position] for position in positions])


def _shape(numbers: tuple[int, ...], types: tuple[type, ...], counts: bytes) -> _Shape:
    integers = [position for position, kind in enumerate(types) if kind is int]
    others = [position for position, kind in enumerate(types) if kind is bytes or kind is str]
    head = struct.pack(f"<{len(numbers)}I", *numbers) + counts + bytes([_TYPES[kind] for kind in types])
    shape = _Shape(
        struct.Struct(f"<BqqII{len(head)}s{len(integers)}q{len(others)}I").pack,
        head,
        _getter(integers),
        _getter(others) if others else None,
        str in types,
    )
    if len(_shapes) >= _SHAPES_MAX:
        _shapes.clear()
    _shapes[numbers, types] = shape
    return shape


def encode_operation(statements: list[Statement], next_ino: int, next_object: int, notes: list[Note]) -> bytes:
    """Return the body of the record of one operation.

    A single ``struct`` call packs all values of all statements; its format is computed once for each shape and kept.
    A mount uses the extension's function of the same name, which does the same in a fifth of the time.

    Args:
        statements: the statements the operation executed, in order.
        next_ino, next_object: the counters after it.
        notes: content written since the previous operation.
    """
    numbers: tuple[int, ...]
    params: tuple[Params, ...]
    numbers, params = zip(*statements, strict=True) if statements else ((), ())
    values = tuple(chain.from_iterable(params))
    types = tuple(map(type, values))
    shape = _shapes.get((numbers, types))
    if shape is None:
        values = tuple(map(_to_storable, values))
        types = tuple(map(type, values))
        shape = _shape(numbers, types, bytes(map(len, params)))
    pack, head, integers, others, has_text = shape
    if others is None:
        body = pack(OPERATION, next_ino, next_object, len(numbers), len(notes), head, *integers(values))
    else:
        strings = others(values)
        if has_text:
            strings = tuple([value.encode() if isinstance(value, str) else value for value in strings])
        lengths = map(len, strings)
        fixed = pack(OPERATION, next_ino, next_object, len(numbers), len(notes), head, *integers(values), *lengths)
        body = b"".join((fixed, *strings))
    if notes:
        body += b"".join([_NOTE.pack(*note) for note in notes])
    return body


def _to_storable(value: int | bytes | str | None) -> int | bytes | str | None:
    """Return *value* as exactly int, bytes, str or None, where it is a subclass or another buffer (memoryview)."""
    if value is None or type(value) in _TYPES:
        return value
    return int(value) if isinstance(value, int) else bytes(value)  # type: ignore[arg-type]


def pack_sealed(token: int) -> bytes:
    """Return the frame that marks the commit with *token*."""
    return frame(_TOKEN.pack(SEALED, token))


def pack_failed(reason: str) -> bytes:
    """Return the frame that says that storage failed, and why."""
    return frame(bytes([FAILED]) + reason.encode(errors="replace")[:1000])


def frame(body: bytes) -> bytes:
    """Return *body* with its length and checksum before it.

    Raises:
        OverflowError: the body has more than FRAME_MAX bytes.
    """
    if len(body) > FRAME_MAX:
        raise OverflowError(f"an operation of {len(body)} bytes is too large for the redo log (at most {FRAME_MAX})")
    return FRAME.pack(len(body), zlib.crc32(body)) + body


def parse_token(body: bytes) -> int:
    """Return the commit token in a SEALED body.

    Raises:
        BadRecord: the body has another length.
    """
    if len(body) != _TOKEN.size:
        raise BadRecord("one of its records is damaged")
    return int(_TOKEN.unpack(body)[1])


def parse_operation(body: bytes) -> Operation:
    """Return the operation in an OPERATION body.

    Raises:
        BadRecord: a length or a type in it is wrong.
    """
    try:
        return _parse_operation(body)
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise BadRecord("one of its records is damaged") from error


def _parse_operation(body: bytes) -> Operation:
    """Decode an OPERATION body; raise struct.error, UnicodeDecodeError or ValueError (BadRecord) if it is damaged."""
    _, next_ino, next_object, count, noted = _OPERATION.unpack_from(body)
    if count * 5 + noted * _NOTE.size > len(body):
        raise BadRecord("its counts exceed its length")
    at = _OPERATION.size
    numbers = struct.unpack_from(f"<{count}I", body, at)
    counts = body[at + 4 * count : at + 5 * count]
    at += 5 * count
    types = body[at : at + sum(counts)]
    if len(types) != sum(counts) or any(kind > _TEXT for kind in types):
        raise BadRecord("it has an unknown type of value")
    fields = struct.Struct(f"<{types.count(_INT)}q{len(types) - types.count(_INT) - types.count(_NULL)}I")
    unpacked = fields.unpack_from(body, at + len(types))
    at += len(types) + fields.size
    integers, lengths = iter(unpacked[: types.count(_INT)]), iter(unpacked[types.count(_INT) :])
    values: list[int | bytes | str | None] = []
    for kind in types:
        if kind in (_NULL, _INT):
            values.append(next(integers) if kind == _INT else None)
            continue
        length = next(lengths)
        value = body[at : at + length]
        if len(value) != length:
            raise BadRecord("a value exceeds its length")
        at += length
        values.append(value.decode() if kind == _TEXT else value)
    notes = [(number, size) for number, size in _NOTE.iter_unpack(body[at:])]
    if len(notes) != noted:
        raise BadRecord("it has bytes after its last note")
    rest = iter(values)
    statements: list[Statement] = [
        (number, tuple(islice(rest, size))) for number, size in zip(numbers, counts, strict=True)
    ]
    return Operation(statements, next_ino, next_object, notes)
