"""File bytes: what is copied and what is not, ranges, holes, and the errnos of reading and writing."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest
from lab import Lab
from twins import DenseStorage, NarrowDenseStorage, NarrowStorage

from minifo.engine import FsError
from minifo.engine.model import FILE_MAX

KIB = 1 << 10
BLOCKS = b"".join(bytes([index]) * 4096 for index in range(64))  # 256 KiB


def extents(lab: Lab) -> list[tuple[int, int]]:
    """The ranges that storage holds."""
    return [(start, end) for start, end in lab.ov.db.rows('SELECT start, "end" FROM extent ORDER BY start')]


def allocated(lab: Lab) -> int:
    """Bytes that content objects really take."""
    return sum(path.stat().st_blocks * 512 for path in (lab.sto / "content").glob("*/*"))


def test_one_byte_copies_one_block(lab: Lab) -> None:
    """A byte written to a large base file costs a block, not the file."""
    lab.put("f", BLOCKS * 16)
    lab.write("f", b"!", 2 << 20)
    assert extents(lab) == [(2 << 20, (2 << 20) + 1)]
    assert allocated(lab) <= 8 * KIB
    expected = bytearray(BLOCKS * 16)
    expected[2 << 20] = ord("!")
    assert lab.read("f") == expected


def test_small_base_file_is_copied_whole(lab: Lab) -> None:
    """Up to 128 KiB a base file is copied at the first write; above that it is not."""
    lab.put("edge", BLOCKS[: 128 * KIB])
    lab.put("over", BLOCKS[: 128 * KIB + 1])
    lab.write("edge", b"!", 5)
    lab.write("over", b"!", 5)
    assert sorted(lab.objects().values()) == [6, 128 * KIB]
    assert lab.read("edge") == BLOCKS[:5] + b"!" + BLOCKS[6 : 128 * KIB]
    assert lab.read("over") == BLOCKS[:5] + b"!" + BLOCKS[6 : 128 * KIB + 1]


def test_tiny_files_are_rows(lab: Lab) -> None:
    """Files of up to 2 KiB need no object, and move to one when they grow."""
    lab.create("f", b"x" * 2048)
    assert lab.objects() == {}
    lab.write("f", b"y", 2048)
    assert list(lab.objects().values()) == [2049]
    assert lab.rows("small") == 0
    assert lab.read("f") == b"x" * 2048 + b"y"


def test_touching_ranges_become_one(lab: Lab) -> None:
    """Ranges that touch are merged, from the left, from the right and between."""
    lab.put("f", BLOCKS)
    for offset in (8192, 16384, 4096, 12288):
        lab.write("f", b"!" * 4096, offset)
    assert extents(lab) == [(4096, 20480)]


def test_write_across_ranges(lab: Lab) -> None:
    """A write over several ranges and the base between them fills every gap."""
    lab.put("f", BLOCKS)
    for offset in (10_000, 30_000, 50_000):
        lab.write("f", b"!" * 1000, offset)
    lab.write("f", b"?" * 60_000, 5_000)
    assert extents(lab) == [(5_000, 65_000)]
    assert lab.read("f") == BLOCKS[:5000] + b"?" * 60_000 + BLOCKS[65_000:]


@pytest.mark.parametrize("options", [{}, {"storage_io": DenseStorage}], ids=["holes", "dense"])
def test_shrink_and_grow_shows_zeros(lab: Lab, options: dict[str, Any]) -> None:
    """What a shrink cut off never comes back, from the base, from an object or from a range."""
    lab.put("base", BLOCKS)
    lab.open(**options)
    lab.create("made", BLOCKS)
    lab.put("mixed", BLOCKS)
    lab.write("mixed", b"!" * 100_000, 50_000)
    for name in ("base", "made", "mixed"):
        before = lab.read(name)[:70_000]
        lab.set(name, size=70_000)
        lab.set(name, size=len(BLOCKS))
        assert lab.read(name) == before + bytes(len(BLOCKS) - 70_000)
        lab.write(name, b"end", 200_000)
        expected = before + bytes(130_000) + b"end" + bytes(len(BLOCKS) - 200_003)
        assert lab.read(name) == expected
        lab.ov.commit()
        lab.reopen(**options)
        assert lab.read(name) == expected


def test_dense_storage_moved_to_one_with_holes(lab: Lab) -> None:
    """Ranges packed on one file system and ranges at their offsets on another do not meet in one object."""
    lab.put("f", BLOCKS)
    lab.open(storage_io=DenseStorage)
    lab.write("f", b"a" * 4096, 8192)
    lab.write("f", b"b" * 4096, 4096)  # the second block of the file could be the second one of the object
    lab.reopen()
    for offset in (0, 16_384):
        lab.write("f", b"c" * 4096, offset)
    expected = bytearray(BLOCKS)
    for byte, offset in ((b"a", 8192), (b"b", 4096), (b"c", 0), (b"c", 16_384)):
        expected[offset : offset + 4096] = byte * 4096
    assert lab.read("f") == expected
    lab.reopen(storage_io=DenseStorage)
    lab.write("f", b"d" * 4096, 12_288)
    expected[12_288:16_384] = b"d" * 4096
    assert lab.read("f") == expected


def test_dense_storage_takes_what_is_written(lab: Lab) -> None:
    """Where files have no holes a far range costs its own bytes, not the way there."""
    lab.put("f", BLOCKS * 64)
    lab.open(storage_io=DenseStorage)
    lab.write("f", b"!", 10 << 20)
    lab.write("f", b"!", 15 << 20)
    assert sum(lab.objects().values()) <= 16 * KIB


def test_holes_survive_copy_up(lab: Lab) -> None:
    """A sparse base file that is copied stays sparse."""
    full = lab.put("f", b"")
    os.truncate(full, 120 * KIB)
    with full.open("r+b") as file:
        file.seek(64 * KIB)
        file.write(b"data")
    lab.write("f", b"!", 100)
    assert allocated(lab) <= 16 * KIB
    assert lab.read("f") == bytes(100) + b"!" + bytes(64 * KIB - 101) + b"data" + bytes(120 * KIB - 64 * KIB - 4)


def test_write_far_beyond_the_end(lab: Lab) -> None:
    """A file may be huge and empty: nothing is allocated for the hole."""
    lab.create("f", b"start")
    lab.write("f", b"end", 1 << 40)
    assert lab.attr("f").size == (1 << 40) + 3
    assert lab.ov.read(lab.ino("f"), (1 << 40) - 2, 10) == b"\0\0end"
    assert allocated(lab) <= 64 * KIB


def test_largest_offset(lab: Lab) -> None:
    """Beyond what an offset can address it is EFBIG, and nothing happened."""
    lab.create("f", b"x")
    for action in (lambda: lab.write("f", b"12", FILE_MAX - 1), lambda: lab.set("f", size=FILE_MAX + 1)):
        with pytest.raises(FsError) as caught:
            action()
        assert caught.value.errno == errno.EFBIG
    assert lab.read("f") == b"x"


def test_wrong_types(lab: Lab) -> None:
    """Reading, writing and cutting what is no regular file."""
    lab.mkdir("d")
    fifo = lab.ov.mknod(*lab.split("p"), 0o010644, 0, lab.me).ino
    for code, action in (
        (errno.EISDIR, lambda: lab.write("d", b"x")),
        (errno.EISDIR, lambda: lab.ov.read(lab.ino("d"), 0, 1)),
        (errno.EISDIR, lambda: lab.set("d", size=0)),
        (errno.EINVAL, lambda: lab.ov.write(fifo, 0, b"x")),  # type: ignore[arg-type]
        (errno.EINVAL, lambda: lab.set("p", size=0)),
        (errno.EINVAL, lambda: lab.ov.readlink(lab.ino("d"))),
    ):
        with pytest.raises(FsError) as caught:
            action()
        assert caught.value.errno == code


def test_failed_write_leaves_the_old_bytes_and_no_object(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full storage at the first write to a base file: ENOSPC, the base's bytes, no row, no object."""
    lab.put("f", BLOCKS)
    lab.names()
    real = os.pwrite

    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        lab.write("f", b"x" * 5000)
    monkeypatch.setattr(os, "pwrite", real)
    assert lab.read("f") == BLOCKS
    assert (lab.rows("modified"), lab.rows("inode"), lab.objects()) == (0, 0, {})
    lab.write("f", b"y")
    assert lab.read("f")[:2] == b"y\0"


def test_attributes_follow_the_bytes(lab: Lab) -> None:
    """A write moves size, mtime and ctime; an empty write and a cut to the same size move nothing."""
    full = lab.put("f", b"12345")
    before = full.stat()
    lab.write("f", b"")
    lab.set("f", size=5)
    assert lab.rows("inode") == 0
    lab.write("f", b"678", 4)
    attr = lab.attr("f")
    assert (attr.size, attr.atime) == (7, before.st_atime_ns)
    assert attr.mtime == attr.ctime > before.st_mtime_ns


@pytest.mark.parametrize("storage", [NarrowStorage, NarrowDenseStorage], ids=["holes", "dense"])
@pytest.mark.parametrize("base", [0, 140_000, 400_000], ids=["created", "copied", "in part"])
def test_a_file_larger_than_storage_holds(lab: Lab, storage: type[NarrowStorage], base: int) -> None:
    """It is spread over several objects, none larger than storage can hold, and reads as it was written."""
    expected = bytearray(b"base" * (base // 4))
    if base:
        lab.put("f", bytes(expected))
    lab.open(storage_io=storage, clone=False)
    if not base:
        lab.create("f")
    for at, size in ((10, 100), (149_990, 20), (100_000, 400_000), (900_000, 1_000_000), (5, 5), (300_000, 200_000)):
        data = os.urandom(size)
        expected.extend(bytes(max(0, at - len(expected))))
        expected[at : at + size] = data
        lab.write("f", data, at)
        assert lab.read("f") == expected
        assert lab.ov.check() == []
    lab.ov.commit()
    assert max(lab.objects().values()) <= NarrowStorage.largest
    lab.reopen(storage_io=storage)
    assert lab.read("f") == expected
    lab.set("f", size=1_200_000)
    lab.set("f", size=1_300_000)
    assert lab.read("f") == expected[:1_200_000] + bytes(100_000)
    lab.set("f", size=0)
    lab.unlink("f")
    lab.ov.commit()
    assert lab.ov.check() == []


def test_storage_that_holds_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not even a block fits the error is storage's, and no trace is left."""
    lab.open(storage_io=NarrowStorage)
    monkeypatch.setattr(NarrowStorage, "largest", 0)
    ino = lab.create("f")
    with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        lab.ov.write(ino, 0, b"x" * 10_000)
    assert lab.attr("f").size == 0
    assert lab.ov.check() == []


def test_cut_to_more_than_storage_holds(lab: Lab) -> None:
    """A file cut from one size that storage could never hold to another leaves its object alone, and all is well."""
    ino = lab.create("f", b"x" * 5000)
    lab.ov.commit()
    before = lab.objects()
    lab.set("f", size=1 << 60)
    lab.set("f", size=1 << 50)
    lab.ov.commit()
    assert lab.objects() == before
    lab.set("f", size=4000)
    lab.ov.commit()
    assert lab.ov.read(ino, 0, 1 << 20) == b"x" * 4000
    assert set(lab.objects().values()) == {4000}


def test_a_lost_object_is_cut(lab: Lab) -> None:
    """What is lost cannot be trimmed after the commit, and that is no reason to take no more changes."""
    lab.create("f", b"x" * 5000)
    lab.reopen()
    for path in (lab.sto / "content").glob("*/*"):
        path.unlink()
    lab.set("f", size=4500)
    lab.ov.commit()
    lab.create("g", b"y" * 5000)
    lab.ov.commit()


@pytest.mark.parametrize("base", [0, 200_000], ids=["created", "in part"])
def test_the_first_write_is_beyond_what_storage_holds(lab: Lab, base: int) -> None:
    """No object is left that holds nothing of the file, and none is empty as if it had lost its bytes."""
    if base:
        lab.put("f", b"b" * base)
    lab.open(storage_io=NarrowStorage, clone=False)
    ino = lab.ino("f") if base else lab.create("f")
    lab.ov.write(ino, 500_000, b"x")
    lab.reopen(storage_io=NarrowStorage)
    row = lab.ov.inodes.row(ino)
    assert row is not None
    named = lab.ov.stored.objects_of(row)
    assert len(lab.objects()) == len(named)
    assert all(lab.objects().values())
    assert lab.read("f") == b"b" * base + bytes(500_000 - base) + b"x"
