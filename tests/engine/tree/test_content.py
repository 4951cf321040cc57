"""File bytes: ranges, holes, and the errnos of reading and writing."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from minifo.engine import FsError
from minifo.engine.model import FILE_MAX
from tests.model.compared_trees import DenseStorage, NarrowDenseStorage, NarrowStorage
from tests.shared.overlay_sandbox import OverlaySandbox

KIB = 1 << 10
BLOCKS = b"".join(bytes([index]) * 4096 for index in range(64))  # 256 KiB


def test_touching_ranges_become_one(sandbox: OverlaySandbox) -> None:
    """Extents that touch are merged: on the left, on the right and on both sides."""
    sandbox.put("f", BLOCKS)
    for offset in (8192, 16384, 4096, 12288):
        sandbox.write("f", b"!" * 4096, offset)
    assert sandbox.extents() == [(4096, 20480)]


def test_write_across_ranges(sandbox: OverlaySandbox) -> None:
    """A write over several extents and the base between them makes one extent."""
    sandbox.put("f", BLOCKS)
    for offset in (10_000, 30_000, 50_000):
        sandbox.write("f", b"!" * 1000, offset)
    sandbox.write("f", b"?" * 60_000, 5_000)
    assert sandbox.extents() == [(5_000, 65_000)]
    assert sandbox.read("f") == BLOCKS[:5000] + b"?" * 60_000 + BLOCKS[65_000:]


@pytest.mark.parametrize("options", [{}, {"storage_io": DenseStorage}], ids=["holes", "dense"])
def test_shrink_and_grow_shows_zeros(sandbox: OverlaySandbox, options: dict[str, Any]) -> None:
    """Bytes that a shrink has cut off read as zeros after a grow, be they of the base, an object or an extent."""
    sandbox.put("base", BLOCKS)
    sandbox.open(**options)
    sandbox.create("made", BLOCKS)
    sandbox.put("mixed", BLOCKS)
    sandbox.write("mixed", b"!" * 100_000, 50_000)
    for name in ("base", "made", "mixed"):
        before = sandbox.read(name)[:70_000]
        sandbox.set(name, size=70_000)
        sandbox.set(name, size=len(BLOCKS))
        assert sandbox.read(name) == before + bytes(len(BLOCKS) - 70_000)
        sandbox.write(name, b"end", 200_000)
        expected = before + bytes(130_000) + b"end" + bytes(len(BLOCKS) - 200_003)
        assert sandbox.read(name) == expected
        sandbox.ov.commit()
        sandbox.reopen(**options)
        assert sandbox.read(name) == expected


def test_dense_storage_moved_to_one_with_holes(sandbox: OverlaySandbox) -> None:
    """Packed blocks, and blocks written at their own offsets after storage has moved, do not share an object."""
    sandbox.put("f", BLOCKS)
    sandbox.open(storage_io=DenseStorage)
    sandbox.write("f", b"a" * 4096, 8192)
    sandbox.write("f", b"b" * 4096, 4096)  # the second block of the file could be the second one of the object
    sandbox.reopen()
    for offset in (0, 16_384):
        sandbox.write("f", b"c" * 4096, offset)
    expected = bytearray(BLOCKS)
    for byte, offset in ((b"a", 8192), (b"b", 4096), (b"c", 0), (b"c", 16_384)):
        expected[offset : offset + 4096] = byte * 4096
    assert sandbox.read("f") == expected
    sandbox.reopen(storage_io=DenseStorage)
    sandbox.write("f", b"d" * 4096, 12_288)
    expected[12_288:16_384] = b"d" * 4096
    assert sandbox.read("f") == expected


def test_dense_storage_takes_what_is_written(sandbox: OverlaySandbox) -> None:
    """On storage without holes a write far into a base file takes only its own blocks."""
    sandbox.put("f", BLOCKS * 64)
    sandbox.open(storage_io=DenseStorage)
    sandbox.write("f", b"!", 10 << 20)
    sandbox.write("f", b"!", 15 << 20)
    assert sum(sandbox.objects().values()) <= 16 * KIB


def test_write_far_beyond_the_end(sandbox: OverlaySandbox) -> None:
    """A write far beyond the end allocates no blocks for the hole before it."""
    sandbox.create("f", b"start")
    sandbox.write("f", b"end", 1 << 40)
    assert sandbox.attr("f").size == (1 << 40) + 3
    assert sandbox.ov.read(sandbox.ino("f"), (1 << 40) - 2, 10) == b"\0\0end"
    assert sandbox.allocated() <= 64 * KIB


def test_largest_offset(sandbox: OverlaySandbox) -> None:
    """A write or truncate beyond the largest offset fails with EFBIG, and changes nothing."""
    sandbox.create("f", b"x")
    for action in (lambda: sandbox.write("f", b"12", FILE_MAX - 1), lambda: sandbox.set("f", size=FILE_MAX + 1)):
        with pytest.raises(FsError) as caught:
            action()
        assert caught.value.errno == errno.EFBIG
    assert sandbox.read("f") == b"x"


def test_wrong_types(sandbox: OverlaySandbox) -> None:
    """Reading, writing and truncating anything but a regular file fails with EISDIR or EINVAL."""
    sandbox.mkdir("d")
    fifo = sandbox.ov.mknod(*sandbox.split("p"), 0o010644, 0, sandbox.me).ino
    for code, action in (
        (errno.EISDIR, lambda: sandbox.write("d", b"x")),
        (errno.EISDIR, lambda: sandbox.ov.read(sandbox.ino("d"), 0, 1)),
        (errno.EISDIR, lambda: sandbox.set("d", size=0)),
        (errno.EINVAL, lambda: sandbox.ov.write(fifo, 0, b"x")),  # type: ignore[arg-type]
        (errno.EINVAL, lambda: sandbox.set("p", size=0)),
        (errno.EINVAL, lambda: sandbox.ov.readlink(sandbox.ino("d"))),
    ):
        with pytest.raises(FsError) as caught:
            action()
        assert caught.value.errno == code


def test_failed_write_leaves_the_old_bytes_and_no_object(
    sandbox: OverlaySandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If storage is full at the first write to a base file, the write fails and leaves neither a row nor an object."""
    sandbox.put("f", BLOCKS)
    sandbox.names()
    real = os.pwrite

    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        sandbox.write("f", b"x" * 5000)
    monkeypatch.setattr(os, "pwrite", real)
    assert sandbox.read("f") == BLOCKS
    assert (sandbox.rows("modified"), sandbox.rows("inode"), sandbox.objects()) == (0, 0, {})
    sandbox.write("f", b"y")
    assert sandbox.read("f")[:2] == b"y\0"


def test_attributes_follow_the_bytes(sandbox: OverlaySandbox) -> None:
    """A write updates size, mtime and ctime; an empty write and a truncate to the same size update nothing."""
    full = sandbox.put("f", b"12345")
    before = full.stat()
    sandbox.write("f", b"")
    sandbox.set("f", size=5)
    assert sandbox.rows("inode") == 0
    sandbox.write("f", b"678", 4)
    attr = sandbox.attr("f")
    assert (attr.size, attr.atime) == (7, before.st_atime_ns)
    assert attr.mtime == attr.ctime > before.st_mtime_ns


@pytest.mark.parametrize("storage", [NarrowStorage, NarrowDenseStorage], ids=["holes", "dense"])
@pytest.mark.parametrize("base", [0, 140_000, 400_000], ids=["created", "copied", "in part"])
def test_a_file_larger_than_storage_holds(sandbox: OverlaySandbox, storage: type[NarrowStorage], base: int) -> None:
    """A file larger than storage's largest file is spread over several objects, and reads as it was written."""
    expected = bytearray(b"base" * (base // 4))
    if base:
        sandbox.put("f", bytes(expected))
    sandbox.open(storage_io=storage, clone=False)
    if not base:
        sandbox.create("f")
    for at, size in ((10, 100), (149_990, 20), (100_000, 400_000), (900_000, 1_000_000), (5, 5), (300_000, 200_000)):
        data = os.urandom(size)
        expected.extend(bytes(max(0, at - len(expected))))
        expected[at : at + size] = data
        sandbox.write("f", data, at)
        assert sandbox.read("f") == expected
        assert sandbox.ov.check() == []
    sandbox.ov.commit()
    assert max(sandbox.objects().values()) <= NarrowStorage.largest
    sandbox.reopen(storage_io=storage)
    assert sandbox.read("f") == expected
    sandbox.set("f", size=1_200_000)
    sandbox.set("f", size=1_300_000)
    assert sandbox.read("f") == expected[:1_200_000] + bytes(100_000)
    sandbox.set("f", size=0)
    sandbox.unlink("f")
    sandbox.ov.commit()
    assert sandbox.ov.check() == []


def test_storage_that_holds_nothing(sandbox: OverlaySandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """If storage cannot hold even one block, the write fails with storage's error and changes nothing."""
    sandbox.open(storage_io=NarrowStorage)
    monkeypatch.setattr(NarrowStorage, "largest", 0)
    ino = sandbox.create("f")
    with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        sandbox.ov.write(ino, 0, b"x" * 10_000)
    assert sandbox.attr("f").size == 0
    assert sandbox.ov.check() == []


def test_cut_to_more_than_storage_holds(sandbox: OverlaySandbox) -> None:
    """A truncate between two sizes above storage's largest file leaves the object unchanged."""
    ino = sandbox.create("f", b"x" * 5000)
    sandbox.ov.commit()
    before = sandbox.objects()
    sandbox.set("f", size=1 << 60)
    sandbox.set("f", size=1 << 50)
    sandbox.ov.commit()
    assert sandbox.objects() == before
    sandbox.set("f", size=4000)
    sandbox.ov.commit()
    assert sandbox.ov.read(ino, 0, 1 << 20) == b"x" * 4000
    assert set(sandbox.objects().values()) == {4000}


@pytest.mark.logs("bytes of /f")
def test_a_lost_object_is_cut(sandbox: OverlaySandbox) -> None:
    """If an object to be trimmed after a commit is missing, the overlay stays writable."""
    sandbox.create("f", b"x" * 5000)
    sandbox.reopen()
    for path in (sandbox.sto / "content").glob("*/*"):
        path.unlink()
    sandbox.set("f", size=4500)
    sandbox.ov.commit()
    sandbox.create("g", b"y" * 5000)
    sandbox.ov.commit()


@pytest.mark.parametrize("base", [0, 200_000], ids=["created", "in part"])
def test_the_first_write_is_beyond_what_storage_holds(sandbox: OverlaySandbox, base: int) -> None:
    """A first write beyond storage's largest file leaves no object that holds no bytes of the file."""
    if base:
        sandbox.put("f", b"b" * base)
    sandbox.open(storage_io=NarrowStorage, clone=False)
    ino = sandbox.ino("f") if base else sandbox.create("f")
    sandbox.ov.write(ino, 500_000, b"x")
    sandbox.reopen(storage_io=NarrowStorage)
    row = sandbox.ov.inodes.row(ino)
    assert row is not None
    named = sandbox.ov.stored.objects_of(row)
    assert len(sandbox.objects()) == len(named)
    assert all(sandbox.objects().values())
    assert sandbox.read("f") == b"b" * base + bytes(500_000 - base) + b"x"
