"""The format of the metadata backup: packed rows are read back, and a hostile file does no harm."""

from __future__ import annotations

import os
import struct
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifo.engine.store import backup_format
from minifo.engine.store.backup_format import COLUMNS, PLAIN_MAX, ROWS, Frame, Value, pack

VALUES = st.one_of(st.none(), st.integers(-(1 << 63), (1 << 63) - 1), st.binary(max_size=50), st.text(max_size=20))


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """An open, empty file."""
    fd = os.open(tmp_path / "frames", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def read(fd: int, data: bytes) -> list[Frame]:
    """Return the frames that are read from a file with these bytes."""
    os.ftruncate(fd, 0)
    os.pwrite(fd, data, 0)
    return list(backup_format.read(fd))


def frame(plain: bytes, payload: bytes | None = None) -> bytes:
    """Return a frame with a right checksum, and with any payload."""
    payload = zlib.compress(plain) if payload is None else payload
    return struct.pack("<4sIII", b"mfoF", 1, len(payload), zlib.crc32(payload)) + payload


@given(rows=st.integers(1, 6).flatmap(lambda width: st.lists(st.tuples(*[VALUES] * width), min_size=1, max_size=30)))
def test_rows_come_back(rows: list[tuple[Value, ...]]) -> None:
    """Rows with any values are read back, with any bytes before and after their frame."""
    fd = os.memfd_create("frames")
    try:
        data = b"mfoF before" + pack(7, "small", rows) + b"between" + pack(8, "xattr", rows) + b"mfoF"
        assert read(fd, data) == [Frame(7, "small", rows), Frame(8, "xattr", rows)]
    finally:
        os.close(fd)


def test_large_rows_take_several_frames(file: int) -> None:
    """Large rows are split into several frames; a single row that is too large is refused."""
    rows: list[tuple[Value, ...]] = [(n, os.urandom(65_536)) for n in range(ROWS)]
    found = read(file, pack(1, "xattr", rows))
    assert len(found) > 1
    assert [row for part in found for row in part.rows] == rows
    with pytest.raises(ValueError, match="too large"):
        pack(1, "xattr", [(bytes(PLAIN_MAX),)])
    with pytest.raises(ValueError, match="unknown type"):
        pack(1, "overlay", [(1.5,)])  # type: ignore[list-item]


def test_damage_loses_one_frame_only(file: int) -> None:
    """A changed byte in the middle one of three frames loses the rows of that frame only."""
    parts = [pack(1, "created", [(n, b"name", n)]) for n in range(3)]
    whole = [Frame(1, "created", [(n, b"name", n)]) for n in (0, 2)]
    for at in range(len(parts[1])):
        hurt = bytearray(parts[1])
        hurt[at] ^= 0x20
        found = read(file, parts[0] + bytes(hurt) + parts[2])
        assert [part for part in found if part.version == 1] == whole


@pytest.mark.parametrize(
    "plain",
    [
        b"",
        b"\5\1",
        struct.pack("<BBH", 5, 0, 1) + b"small",
        struct.pack("<BBH", 5, COLUMNS + 1, 1) + b"small" + bytes(100),
        struct.pack("<BBH", 5, 1, ROWS + 1) + b"small" + bytes(ROWS + 1),
        struct.pack("<BBH", 5, 1, 2) + b"small" + b"\0\4",
        struct.pack("<BBH", 5, 1, 1) + b"small" + b"\2\xff\xff\xff\xff",
        struct.pack("<BBH", 5, 1, 1) + b"small" + b"\3\1\0\0\0\xff",
        struct.pack("<BBH", 5, 1, 1) + b"sm\xe4ll" + b"\0",
        struct.pack("<BBH", 5, 1, 1) + b"small" + b"\1\0",
        bytes(PLAIN_MAX + 1),
    ],
)
def test_invalid_payloads_are_skipped(plain: bytes, file: int) -> None:
    """A payload that is not valid is skipped, also with a right checksum, and the next frame is read."""
    after = pack(2, "small", [(1, b"x")])
    assert read(file, frame(plain) + after) == [Frame(2, "small", [(1, b"x")])]
    assert read(file, frame(plain, b"no zlib") + after) == [Frame(2, "small", [(1, b"x")])]


def test_decompression_bombs_take_no_memory(file: int) -> None:
    """A payload that decompresses to 64 MiB, and lengths beyond its end, are refused without taking memory."""
    inflate = zlib.compressobj(9)
    bomb = b"".join(inflate.compress(bytes(1 << 20)) for _ in range(64)) + inflate.flush()
    tracemalloc.start()
    try:
        assert read(file, frame(b"", bomb[:PLAIN_MAX]) + struct.pack("<4sIII", b"mfoF", 1, 0xFFFFFFFF, 0)) == []
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_false_frames_take_bounded_time(file: int) -> None:
    """A file full of headers of large frames is read in time proportional to its size."""
    began = time.process_time()
    assert read(file, struct.pack("<4sIII", b"mfoF", 1, PLAIN_MAX, 0) * 200_000) == []
    assert time.process_time() - began < 10


def test_a_hole_is_searched_quickly(file: int) -> None:
    """A sparse file is searched for frames quickly, without taking memory."""
    os.ftruncate(file, 1 << 28)
    os.pwrite(file, pack(1, "small", [(1, b"x")]), (1 << 28) - 100)
    assert [found.table for found in backup_format.read(file)] == ["small"]
