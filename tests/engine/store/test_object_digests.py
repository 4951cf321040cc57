"""Digests of content objects: what they depend on, and that holes cost nothing."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from minifo.engine.store import object_digests
from minifo.engine.store.object_digests import SIZE, Digest, DigestReader, digest_of
from minifo.engine.store.syscalls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, fallocate

BLOCK = 64 << 10


def of(path: Path) -> Digest:
    """The digest of a file."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return digest_of(fd)
    finally:
        os.close(fd)


def expected(data: bytes) -> Digest:
    """The same, as the description says it."""
    text = b""
    for at in range(0, len(data), BLOCK):
        block = data[at : at + BLOCK]
        text += at.to_bytes(8, "little") + block if block.strip(b"\0") else b""
    return Digest(len(data), hashlib.sha256(text + len(data).to_bytes(8, "little")).digest()[:SIZE])


@pytest.mark.parametrize("size", [0, 1, 4096, BLOCK - 1, BLOCK, BLOCK + 1, 1_000_000])
def test_it_is_what_the_description_says(tmp_path: Path, size: int) -> None:
    """Of files of every length: with bytes, with zeros, and with zeros in places."""
    random = os.urandom(size)
    for data in (random, bytes(size), bytes(size // 2) + random[size // 2 :], random[: size // 2] + bytes(size // 4)):
        (tmp_path / "f").write_bytes(data)
        assert of(tmp_path / "f") == expected(data)


def test_it_does_not_depend_on_holes(tmp_path: Path) -> None:
    """Zeros that are written, and zeros of a hole, wherever it lies."""
    data = bytearray(os.urandom(600_000))
    for start, end in ((4096, 12_288), (100_000, 400_000), (500_001, 500_002)):
        data[start:end] = bytes(end - start)
    (tmp_path / "written").write_bytes(data)
    (tmp_path / "punched").write_bytes(data)
    with open(tmp_path / "punched", "r+b") as file:
        for start, end in ((4096, 12_288), (102_400, 356_352)):
            fallocate(file.fileno(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, start, end - start)
    assert (tmp_path / "punched").stat().st_blocks < (tmp_path / "written").stat().st_blocks
    assert of(tmp_path / "punched") == of(tmp_path / "written") == expected(bytes(data))


def test_every_byte_counts(tmp_path: Path) -> None:
    """A flipped bit, a byte that became zero, and one at the end."""
    data = bytes(100_000) + os.urandom(100_000)
    (tmp_path / "f").write_bytes(data)
    before = of(tmp_path / "f")
    for at in (0, 70_000, 131_072, 199_999):
        other = bytearray(data)
        other[at] ^= 4
        (tmp_path / "f").write_bytes(other)
        assert of(tmp_path / "f") != before
    (tmp_path / "f").write_bytes(data + b"\0")
    assert of(tmp_path / "f") != before


def test_a_terabyte_that_is_a_hole_is_not_read(tmp_path: Path) -> None:
    """Only the blocks with data are."""
    with open(tmp_path / "f", "wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 39)
        file.write(b"in the middle")
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    reader = DigestReader(fd)
    read = 0
    while not reader.is_done:
        read += reader.advance(1 << 30)
    os.close(fd)
    assert 0 < read <= object_digests._READ
    assert reader.result().size == 1 << 40


def test_in_slices(tmp_path: Path) -> None:
    """However little is read at a time."""
    data = os.urandom(1 << 20)
    (tmp_path / "f").write_bytes(data)
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    reader = DigestReader(fd)
    slices = 0
    while not reader.is_done:
        assert reader.advance(1) <= object_digests._READ
        slices += 1
    os.close(fd)
    assert slices > 3
    assert reader.result() == expected(data)


def test_a_file_that_becomes_shorter_is_an_error(tmp_path: Path) -> None:
    """As is one that cannot be read."""
    (tmp_path / "f").write_bytes(os.urandom(1 << 20))
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    reader = DigestReader(fd)
    reader.advance(1)
    os.truncate(tmp_path / "f", 300_000)
    with pytest.raises(OSError, match="became shorter"):
        reader.advance(1 << 20)
    os.close(fd)
