"""Ranges of files: what a hole is in the tables, when blocks are given back, what is reserved, copied and told."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest
from lab import Lab
from twins import DenseStorage

from minifo.engine import FsError
from minifo.engine.model import FILE_MAX
from minifo.engine.store.storage import Storage
from minifo.engine.store.syscalls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE

KEEP = FALLOC_FL_KEEP_SIZE
PUNCH = FALLOC_FL_PUNCH_HOLE | KEEP
ZERO = FALLOC_FL_ZERO_RANGE
BLOCK = 4096
BYTES = b"".join(bytes([index]) * BLOCK for index in range(1, 65))  # 256 KiB without a zero


class StubbornStorage(Storage):
    """Storage on a file system that knows no fallocate."""

    def allocate(self, fd: int, size: int, offset: int = 0) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def punch(self, fd: int, size: int, offset: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def allocated(lab: Lab) -> int:
    """Bytes that content objects really take."""
    return sum(path.stat().st_blocks * 512 for path in (lab.sto / "content").glob("*/*"))


def fallocate(lab: Lab, path: str, mode: int, offset: int, size: int) -> None:
    """Do it, and check the invariants."""
    lab.ov.ranges.fallocate(lab.ino(path), mode, offset, size)
    assert lab.ov.check() == []


def extents(lab: Lab) -> list[tuple[int, int, bool]]:
    """Start and end of each, and whether it is a hole."""
    return lab.ov.db.rows('SELECT start, "end", object = 0 FROM extent ORDER BY ino, start')


def parts(lab: Lab, path: str) -> list[tuple[int, int]]:
    """Where a file has data, as SEEK_DATA and SEEK_HOLE tell."""
    ino, size = lab.ino(path), lab.attr(path).size
    found: list[tuple[int, int]] = []
    at = 0
    while at < size:
        try:
            start = lab.ov.ranges.seek(ino, at, os.SEEK_DATA)
        except FsError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        at = lab.ov.ranges.seek(ino, start, os.SEEK_HOLE)
        found.append((start, at))
    return found


def zeroed(data: bytes, start: int, end: int) -> bytes:
    """The bytes with a range of zeros."""
    return data[:start] + bytes(end - start) + data[end:]


def test_what_is_punched_twice_goes_once(lab: Lab) -> None:
    """Ranges that overlap before they are durable are counted once, and all of them are given back."""
    lab.create("f", BYTES)
    lab.ov.commit()
    for first, last in ((4, 6), (10, 12), (5, 11), (0, 20), (30, 31), (19, 30)):
        fallocate(lab, "f", PUNCH, first * BLOCK, (last - first) * BLOCK)
    assert lab.attr("f").blocks * 512 == len(BYTES) - 31 * BLOCK
    lab.ov.commit()
    assert allocated(lab) == len(BYTES) - 31 * BLOCK
    assert lab.ov.objects.holes == {}
    assert lab.read("f") == zeroed(BYTES, 0, 31 * BLOCK)


@pytest.mark.parametrize("options", [{}, {"storage_io": DenseStorage}], ids=["holes", "dense"])
def test_blocks_stay_until_the_hole_is_durable(lab: Lab, options: dict[str, Any]) -> None:
    """A commit has named the bytes: their blocks go after the next one, and st_blocks tells at once."""
    lab.open(**options)
    lab.create("f", BYTES)
    lab.ov.commit()
    fallocate(lab, "f", PUNCH, 8192, 65_536)
    assert lab.read("f") == zeroed(BYTES, 8192, 8192 + 65_536)
    assert lab.attr("f").blocks * 512 == len(BYTES) - 65_536
    commits = lab.ov.commits
    commits.presync(commits.pending())
    sealed = commits.seal()
    commits.harden()
    assert allocated(lab) == len(BYTES)
    commits.finish(sealed)
    assert allocated(lab) == len(BYTES) - 65_536
    assert lab.attr("f").blocks * 512 == len(BYTES) - 65_536
    lab.reopen()
    assert lab.read("f") == zeroed(BYTES, 8192, 8192 + 65_536)


def test_blocks_that_no_commit_has_named_go_at_once(lab: Lab) -> None:
    """A file made since the last commit gives its blocks back with the operation."""
    lab.create("f", BYTES)
    fallocate(lab, "f", PUNCH, 100, 100_000)
    assert allocated(lab) == len(BYTES) - 92 * 1024  # whole blocks only
    assert lab.read("f") == zeroed(BYTES, 100, 100_100)


def test_what_is_written_again_meanwhile_stays(lab: Lab) -> None:
    """Bytes written into a hole before its blocks are given back are in place, and are not taken away with them."""
    lab.create("f", BYTES)
    lab.ov.commit()
    fallocate(lab, "f", PUNCH, 0, 128 << 10)
    commits = lab.ov.commits
    sealed = commits.seal()
    lab.write("f", b"!" * 5000, 10_000)
    commits.harden()
    commits.finish(sealed)
    expected = zeroed(BYTES, 0, 128 << 10)
    expected = expected[:10_000] + b"!" * 5000 + expected[15_000:]
    assert lab.read("f") == expected
    assert lab.objects() == {"0/1": len(BYTES)}
    assert allocated(lab) == len(BYTES) - (128 << 10) + 2 * BLOCK
    lab.reopen()
    assert lab.read("f") == expected


def test_a_hole_over_the_base(lab: Lab) -> None:
    """It is a row: nothing is copied, neighbours become one, and bytes written into it go to an object."""
    lab.put("f", BYTES)
    fallocate(lab, "f", PUNCH, 8192, 8192)
    fallocate(lab, "f", PUNCH, 0, 8192)
    fallocate(lab, "f", PUNCH, 12_288, 10_000)
    assert extents(lab) == [(0, 22_288, True)]
    assert lab.objects() == {}
    assert lab.lists().modified == {"f": 1}
    lab.write("f", b"!" * 100, 9000)
    assert extents(lab) == [(0, 9000, True), (9000, 9100, False), (9100, 22_288, True)]
    expected = zeroed(BYTES, 0, 22_288)
    expected = expected[:9000] + b"!" * 100 + expected[9100:]
    assert lab.read("f") == expected
    fallocate(lab, "f", PUNCH, 8192, 4096)
    assert extents(lab) == [(0, 22_288, True)]
    assert lab.objects() == {}, "nobody named the object yet"
    lab.set("f", size=10_000)
    lab.set("f", size=20_000)
    assert extents(lab) == [(0, 10_000, True)]
    assert lab.read("f") == bytes(20_000)


def test_holes_where_there_is_nothing(lab: Lab) -> None:
    """Where the backing has a hole, or beyond its end, there is nothing to hide, and no row."""
    lab.put("sparse", b"")
    os.truncate(lab.base / "sparse", 1 << 20)
    fallocate(lab, "sparse", PUNCH, 4096, 500_000)
    lab.create("f", BYTES)
    fallocate(lab, "f", PUNCH, len(BYTES), 1 << 20)
    assert extents(lab) == []
    assert lab.attr("f").size == len(BYTES)


def test_the_whole_file_is_a_hole(lab: Lab) -> None:
    """Then the object itself goes, and of a base file nothing shows any more."""
    lab.create("f", BYTES)
    lab.put("g", BYTES)
    lab.ov.commit()
    for path in "fg":
        fallocate(lab, path, PUNCH, 0, 1 << 30)
        assert lab.read(path) == bytes(len(BYTES))
        assert parts(lab, path) == []
        assert lab.attr(path).blocks == 0
    assert extents(lab) == []
    lab.ov.commit()
    assert lab.objects() == {}
    lab.write("g", b"!", 200_000)
    assert lab.read("g") == bytes(200_000) + b"!" + bytes(len(BYTES) - 200_001)


def test_small_files_are_zeroed_in_their_row(lab: Lab) -> None:
    """A row of bytes stays one."""
    lab.create("f", b"x" * 1000)
    fallocate(lab, "f", PUNCH, 10, 20)
    assert lab.read("f") == b"x" * 10 + bytes(20) + b"x" * 970
    fallocate(lab, "f", ZERO, 990, 20)
    assert lab.read("f") == b"x" * 10 + bytes(20) + b"x" * 960 + bytes(20)
    assert (lab.rows("small"), lab.objects()) == (1, {})


def test_zeroed_ranges_keep_their_blocks(lab: Lab) -> None:
    """Zeroing gives nothing back, reserves what is missing, and enlarges the file unless told to keep its size."""
    lab.create("f", BYTES)
    lab.ov.commit()
    fallocate(lab, "f", ZERO | KEEP, 65_536, 1 << 20)
    assert lab.read("f") == zeroed(BYTES, 65_536, len(BYTES))
    fallocate(lab, "f", ZERO, 65_536, 1 << 20)
    lab.ov.commit()
    assert lab.attr("f").size == 65_536 + (1 << 20)
    assert allocated(lab) >= 65_536 + (1 << 20)
    assert parts(lab, "f") == [(0, 65_536)]
    assert lab.read("f") == BYTES[:65_536] + bytes(1 << 20)


def test_reserving_takes_blocks(lab: Lab) -> None:
    """Blocks are there afterwards, beyond the end, too; the size follows only if it may."""
    lab.create("f")
    fallocate(lab, "f", KEEP, 0, 1 << 20)
    assert allocated(lab) >= 1 << 20
    assert lab.attr("f").size == 0
    lab.set("f", size=100)
    lab.ov.commit()
    fallocate(lab, "f", 0, 1 << 20, 1 << 20)
    assert allocated(lab) >= 2 << 20
    assert lab.read("f") == bytes(2 << 20)
    fallocate(lab, "f", PUNCH, 0, 2 << 20)
    lab.ov.commit()
    assert allocated(lab) == 0


def test_reserving_keeps_what_was_about_to_go(lab: Lab) -> None:
    """A hole that is reserved again before it is durable keeps its blocks."""
    lab.create("f", BYTES)
    lab.ov.commit()
    fallocate(lab, "f", PUNCH, 0, 65_536)
    fallocate(lab, "f", 0, 0, 65_536)
    lab.ov.commit()
    assert allocated(lab) == len(BYTES)


def test_reserving_over_the_base_asks_for_room_only(lab: Lab) -> None:
    """A large base file is not copied for it, but where there is no room it is refused."""
    lab.open(max_size=4 << 20)
    lab.put("f", BYTES)
    fallocate(lab, "f", 0, 0, 1 << 20)
    assert (lab.objects(), lab.attr("f").size) == ({}, 1 << 20)
    assert lab.read("f") == BYTES.ljust(1 << 20, b"\0")
    with pytest.raises(FsError) as caught:
        fallocate(lab, "f", 0, 0, 8 << 20)
    assert caught.value.errno == errno.ENOSPC
    assert lab.attr("f").size == 1 << 20


def test_no_room_leaves_no_trace(lab: Lab) -> None:
    """Reserving more than there is fails as a whole, and what is counted stays right."""
    lab.open(max_size=8 << 20)
    lab.create("f", BYTES)
    before = lab.attr("f")
    for mode in (0, KEEP, ZERO):
        with pytest.raises(FsError) as caught:
            fallocate(lab, "f", mode, 0, 16 << 20)
        assert caught.value.errno == errno.ENOSPC
    assert lab.attr("f") == before
    assert allocated(lab) == len(BYTES)
    fallocate(lab, "f", 0, 0, 2 << 20)
    fallocate(lab, "f", PUNCH, 0, 1 << 20)
    lab.ov.commit()
    assert lab.ov.objects.used == allocated(lab) == 1 << 20


def test_what_is_reserved_can_be_written_when_nothing_else_can(lab: Lab) -> None:
    """That is what reserving is for: others use up the room, and the blocks are there all the same."""
    lab.open(max_size=4 << 20)
    lab.create("f")
    fallocate(lab, "f", 0, 0, 3 << 20)
    lab.create("g")
    for at in range(0, 4 << 20, 65_536):
        try:
            lab.write("g", b"g" * 65_536, at)
        except FsError as error:
            if error.errno != errno.ENOSPC:
                raise
            break
    else:
        pytest.fail("there was room for everything")
    for at in range(0, 3 << 20, len(BYTES)):
        lab.write("f", BYTES, at)
    with pytest.raises(FsError) as caught:
        lab.write("f", BYTES, 3 << 20)
    assert caught.value.errno == errno.ENOSPC
    lab.reopen()
    assert lab.read("f") == BYTES * 12


@pytest.mark.parametrize("mode", [FALLOC_FL_PUNCH_HOLE, 0x08, 0x20, 0x40, KEEP | 0x08, PUNCH | ZERO])
def test_other_modes_are_not_served(lab: Lab, mode: int) -> None:
    """What cannot be done is said to be unsupported, so that callers do it otherwise."""
    lab.create("f", b"x")
    with pytest.raises(FsError) as caught:
        fallocate(lab, "f", mode, 0, 1)
    assert caught.value.errno == errno.EOPNOTSUPP


def test_errnos(lab: Lab) -> None:
    """Ranges that are none, or too far, and what is no regular file."""
    ino = lab.create("f", b"x")
    directory = lab.mkdir("d")
    ranges = lab.ov.ranges
    found = []
    for call in (
        lambda: ranges.fallocate(ino, 0, -1, 5),
        lambda: ranges.fallocate(ino, PUNCH, 0, 0),
        lambda: ranges.fallocate(ino, 0, FILE_MAX, 1),
        lambda: ranges.fallocate(directory, 0, 0, 1),
        lambda: ranges.seek(ino, 1, os.SEEK_HOLE),
        lambda: ranges.seek(ino, -1, os.SEEK_DATA),
        lambda: ranges.seek(ino, 0, os.SEEK_END),
        lambda: ranges.copy(ino, 0, ino, 0, 1),
        lambda: ranges.copy(ino, 0, directory, 0, 1),
    ):
        with pytest.raises(FsError) as caught:
            call()
        found.append(errno.errorcode[caught.value.errno or 0])
    assert found == ["EINVAL", "EINVAL", "EFBIG", "EISDIR", "ENXIO", "ENXIO", "EINVAL", "EINVAL", "EISDIR"]


def test_where_there_is_data(lab: Lab) -> None:
    """Extents, holes, the base's own holes and the end are told apart, in whole blocks."""
    lab.put("f", b"")
    with open(lab.base / "f", "r+b") as file:
        os.pwrite(file.fileno(), b"b" * BLOCK * 16, 0)
        os.pwrite(file.fileno(), b"b" * BLOCK, 512 << 10)
    assert parts(lab, "f") == [(0, 16 * BLOCK), (512 << 10, (512 << 10) + BLOCK)]
    fallocate(lab, "f", PUNCH, 4 * BLOCK, 4 * BLOCK)
    lab.write("f", b"!", 300_000)
    lab.set("f", size=700_000)
    block = 300_000 // BLOCK * BLOCK
    expected = [(0, 4 * BLOCK), (8 * BLOCK, 16 * BLOCK), (block, block + BLOCK), (512 << 10, (512 << 10) + BLOCK)]
    assert parts(lab, "f") == expected
    assert lab.ov.ranges.seek(lab.ino("f"), 600_000, os.SEEK_HOLE) == 600_000
    lab.create("small", b"x" * 10)
    lab.set("small", size=100_000)
    assert parts(lab, "small") == [(0, BLOCK)]


def test_copies_keep_holes(lab: Lab) -> None:
    """Data is copied, holes are made where the target had bytes, and the size follows."""
    lab.put("f", BYTES)
    fallocate(lab, "f", PUNCH, 65_536, 65_536)
    lab.create("g", b"g" * 300_000)
    lab.create("h")
    for path, at in (("g", 4096), ("h", 8192)):
        assert lab.ov.ranges.copy(lab.ino("f"), 4096, lab.ino(path), at, 1 << 30) == len(BYTES) - 4096
    copied = zeroed(BYTES, 65_536, 131_072)[4096:]
    assert lab.read("g") == b"g" * 4096 + copied + b"g" * (300_000 - len(BYTES))
    assert lab.read("h") == bytes(8192) + copied
    assert parts(lab, "h") == [(8192, 69_632), (135_168, len(BYTES) + 4096)]
    assert lab.ov.ranges.copy(lab.ino("f"), len(BYTES), lab.ino("h"), 0, 10) == 0
    assert lab.ov.check() == []


def test_a_copy_is_done_piece_by_piece(lab: Lab) -> None:
    """One call moves a few megabytes and says how many, so that other requests get their turn."""
    lab.create("f", BYTES * 40)  # 10 MiB
    lab.create("g")
    done = 0
    counts = []
    while count := lab.ov.ranges.copy(lab.ino("f"), done, lab.ino("g"), done, 1 << 30):
        counts.append(count)
        done += count
    assert counts == [4 << 20, 4 << 20, 2 << 20]
    assert lab.read("g") == BYTES * 40


def test_copies_within_a_file(lab: Lab) -> None:
    """Ranges that touch are no overlap."""
    ino = lab.create("f", BYTES)
    assert lab.ov.ranges.copy(ino, 0, ino, 8192, 8192) == 8192
    assert lab.read("f") == BYTES[:8192] * 2 + BYTES[16_384:]


def test_a_kill_keeps_holes(lab: Lab, tmp_path: Any) -> None:
    """The redo log has them; their blocks are not given back, and nothing comes through."""
    redo = tmp_path / "redo"
    redo.mkdir()
    lab.open(redo_directory=str(redo))
    lab.create("f", BYTES)
    lab.ov.commit()
    fallocate(lab, "f", PUNCH, 8192, 65_536)
    lab.write("f", b"!" * 100, 10_000)
    lab.kill()
    lab.open(redo_directory=str(redo))
    expected = zeroed(BYTES, 8192, 8192 + 65_536)
    assert lab.read("f") == expected[:10_000] + b"!" * 100 + expected[10_100:]
    assert lab.ov.check() == []


def test_storage_that_cannot_give_back(lab: Lab) -> None:
    """Without fallocate below, holes are holes all the same; they only save nothing, and reserving needs room."""
    lab.open(storage_io=StubbornStorage)
    lab.create("f", BYTES)
    lab.ov.commit()
    fallocate(lab, "f", PUNCH, 0, 65_536)
    fallocate(lab, "f", 0, 0, 1 << 20)
    lab.ov.commit()
    fallocate(lab, "f", PUNCH, 65_536, 65_536)
    lab.ov.commit()
    assert lab.read("f") == zeroed(BYTES, 0, 131_072).ljust(1 << 20, b"\0")
    assert allocated(lab) == len(BYTES)
