"""The bytes of the redo log: a bounded format of ours that can say rows and nothing else.

    file      = header, frames
    header    = magic, version, uuid, boot id, st_dev and st_ino of the database, token of the commit it follows, crc
    frame     = length (4 bytes), crc32 (4 bytes), body; a frame that is cut short or damaged ends the log
    body      = kind (1 byte), and by kind
        OPERATION  next inode number, next object, number of statements, number of notes; the notes; the statements
        SEALED     token of a commit that was made, and may be durable; all content noted so far is
        FAILED     what the storage answered when something could not be made durable, as text
    note      = object, bytes of it that rows may rely on from now on; below zero: ~bytes, it was cut to them
    statement = its number (engine/statements.py), number of values, a type for each; the integers (8 bytes), the
                lengths of the others (4 bytes), these others

All numbers are little-endian.  Nothing read is believed before the header, then the frame's crc, then each length has
been looked at; reading takes no more memory than the largest frame.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from minifo.engine.db import Params, Statement

MAGIC = b"minifo redo\0"
VERSION = 2  # 1 was another format, without a magic
FRAME_MAX = 64 << 20  # bytes; an operation that takes more is not logged, but committed by itself

HEADER = struct.Struct("<12sI16s16sQQqI")
FRAME = struct.Struct("<II")
OPERATION, SEALED, FAILED = 1, 2, 3

_OPERATION = struct.Struct("<BqqII")
_NOTE = struct.Struct("<qq")
_STATEMENT = struct.Struct("<IB")
_TOKEN = struct.Struct("<Bq")
_NULL, _INT, _BYTES, _TEXT = range(4)
_PLAIN = frozenset((type(None), int, bytes))
_TYPES: dict[type, int] = {type(None): _NULL, int: _INT, bytes: _BYTES, str: _TEXT}

Note = tuple[int, int]
_Getter = Callable[[Params], tuple[Any, ...]]


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
    """How values of certain types are written; ``None`` for a part that is not needed."""

    pack: Callable[..., bytes]
    types: bytes
    integers: _Getter | None  # None: all values are
    others: _Getter | None


_shapes: dict[tuple[type, ...], _Shape] = {}


def _getter(places: list[int]) -> _Getter:
    if len(places) > 1:
        return itemgetter(*places)
    return lambda values: tuple([values[place] for place in places])


def _shape(types: tuple[type, ...]) -> _Shape:
    if not _PLAIN.issuperset(types):
        raise KeyError(types)
    count = len(types)
    integers = [place for place, kind in enumerate(types) if kind is int]
    others = [place for place, kind in enumerate(types) if kind is bytes]
    made = _Shape(
        struct.Struct(f"<I{count + 1}s{len(integers)}q{len(others)}I").pack,
        bytes([count, *(_TYPES[kind] for kind in types)]),
        None if len(integers) == count else _getter(integers),
        _getter(others) if others else None,
    )
    _shapes[types] = made
    return made


def pack_operation(statements: Sequence[Statement], next_ino: int, next_object: int, notes: list[Note]) -> bytes:
    """The frame of one operation.

    Raises:
        OverflowError: it is too large for the log.
    """
    parts = [_OPERATION.pack(OPERATION, next_ino, next_object, len(statements), len(notes))]
    if notes:
        parts += [_NOTE.pack(*note) for note in notes]
    for number, params in statements:
        types = tuple(map(type, params))
        try:
            pack, head, integers, others = _shapes.get(types) or _shape(types)
        except KeyError:
            parts.append(_pack_texts(number, params))
            continue
        if integers is None:
            parts.append(pack(number, head, *params))
        elif others is None:
            parts.append(pack(number, head, *integers(params)))
        else:
            found = others(params)
            parts.append(pack(number, head, *integers(params), *map(len, found)))
            parts += found
    return frame(b"".join(parts))


def _pack_texts(number: int, params: Params) -> bytes:
    """A statement with text among its values, which is rare; SQLite has taken the text, so it is UTF-8."""
    plain = [value if value is None or isinstance(value, bytes | str) else int(value) for value in params]
    others = [value.encode() if isinstance(value, str) else value for value in plain if isinstance(value, bytes | str)]
    integers = [value for value in plain if isinstance(value, int)]
    head = _STATEMENT.pack(number, len(plain)) + bytes(_TYPES[type(value)] for value in plain)
    lengths = struct.pack(f"<{len(integers)}q{len(others)}I", *integers, *map(len, others))
    return b"".join((head, lengths, *others))


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
        _, next_ino, next_object, count, noted = _OPERATION.unpack_from(body)
        at = _OPERATION.size
        if at + noted * _NOTE.size + count * _STATEMENT.size > len(body):
            raise BadRecord("a record of it is damaged")
        notes = [_NOTE.unpack_from(body, at + index * _NOTE.size) for index in range(noted)]
        at += noted * _NOTE.size
        statements: list[Statement] = []
        for _ in range(count):
            number, params, at = _parse_statement(body, at)
            statements.append((number, params))
    except (struct.error, UnicodeDecodeError) as error:
        raise BadRecord("a record of it is damaged") from error
    if at != len(body):
        raise BadRecord("a record of it is damaged")
    return Operation(statements, next_ino, next_object, notes)


def _parse_statement(body: bytes, at: int) -> tuple[int, Params, int]:
    number, count = _STATEMENT.unpack_from(body, at)
    at += _STATEMENT.size
    types = body[at : at + count]
    if len(types) != count or any(kind > _TEXT for kind in types):
        raise BadRecord("a record of it is damaged")
    sizes = struct.Struct(f"<{types.count(_INT)}q{types.count(_BYTES) + types.count(_TEXT)}I")
    fields = sizes.unpack_from(body, at + count)
    at += count + sizes.size
    integers, lengths = iter(fields[: types.count(_INT)]), iter(fields[types.count(_INT) :])
    params: list[int | bytes | str | None] = []
    for kind in types:
        if kind == _NULL:
            params.append(None)
        elif kind == _INT:
            params.append(next(integers))
        else:
            length = next(lengths)
            value = body[at : at + length]
            if len(value) != length:
                raise BadRecord("a record of it is damaged")
            at += length
            params.append(value.decode() if kind == _TEXT else value)
    return number, tuple(params), at
