"""Ranges of files: rows of holes, when blocks are freed, and fallocate, copy_file_range and SEEK_DATA."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from minifo.engine import FsError
from minifo.engine.model import FILE_MAX
from minifo.engine.store.storage import Storage
from minifo.engine.store.syscalls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE
from tests.model.compared_trees import DenseStorage
from tests.shared.overlay_sandbox import OverlaySandbox

KEEP = FALLOC_FL_KEEP_SIZE
PUNCH = FALLOC_FL_PUNCH_HOLE | KEEP
ZERO = FALLOC_FL_ZERO_RANGE
BLOCK = 4096
BYTES = b"".join(bytes([index]) * BLOCK for index in range(1, 65))  # 256 KiB without a zero


class StubbornStorage(Storage):
    """Storage on a file system without fallocate(2)."""

    def allocate(self, fd: int, size: int, offset: int = 0) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def punch(self, fd: int, size: int, offset: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def allocated(sandbox: OverlaySandbox) -> int:
    """Return the bytes that all content objects take on disk."""
    return sum(path.stat().st_blocks * 512 for path in (sandbox.sto / "content").glob("*/*"))


def fallocate(sandbox: OverlaySandbox, path: str, mode: int, offset: int, size: int) -> None:
    """Call fallocate on a file, and check the invariants."""
    sandbox.ov.ranges.fallocate(sandbox.ino(path), mode, offset, size)
    assert sandbox.ov.check() == []


def extents(sandbox: OverlaySandbox) -> list[tuple[int, int, bool]]:
    """Return start and end of all extents, and whether each is a hole."""
    return sandbox.ov.db.rows('SELECT start, "end", object = 0 FROM extent ORDER BY ino, start')


def parts(sandbox: OverlaySandbox, path: str) -> list[tuple[int, int]]:
    """Return the ranges in which a file has data, by SEEK_DATA and SEEK_HOLE."""
    ino, size = sandbox.ino(path), sandbox.attr(path).size
    found: list[tuple[int, int]] = []
    at = 0
    while at < size:
        try:
            start = sandbox.ov.ranges.seek(ino, at, os.SEEK_DATA)
        except FsError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        at = sandbox.ov.ranges.seek(ino, start, os.SEEK_HOLE)
        found.append((start, at))
    return found


def zeroed(data: bytes, start: int, end: int) -> bytes:
    """Return the bytes with zeros in a range."""
    return data[:start] + bytes(end - start) + data[end:]


def test_what_is_punched_twice_goes_once(sandbox: OverlaySandbox) -> None:
    """Overlapping holes that are not durable yet are counted once, and all their blocks are freed."""
    sandbox.create("f", BYTES)
    sandbox.ov.commit()
    for first, last in ((4, 6), (10, 12), (5, 11), (0, 20), (30, 31), (19, 30)):
        fallocate(sandbox, "f", PUNCH, first * BLOCK, (last - first) * BLOCK)
    assert sandbox.attr("f").blocks * 512 == len(BYTES) - 31 * BLOCK
    sandbox.ov.commit()
    assert allocated(sandbox) == len(BYTES) - 31 * BLOCK
    assert sandbox.ov.objects.holes == {}
    assert sandbox.read("f") == zeroed(BYTES, 0, 31 * BLOCK)


@pytest.mark.parametrize("options", [{}, {"storage_io": DenseStorage}], ids=["holes", "dense"])
def test_blocks_stay_until_the_hole_is_durable(sandbox: OverlaySandbox, options: dict[str, Any]) -> None:
    """Blocks that a commit shows are freed after the next commit, but st_blocks shrinks at once."""
    sandbox.open(**options)
    sandbox.create("f", BYTES)
    sandbox.ov.commit()
    fallocate(sandbox, "f", PUNCH, 8192, 65_536)
    assert sandbox.read("f") == zeroed(BYTES, 8192, 8192 + 65_536)
    assert sandbox.attr("f").blocks * 512 == len(BYTES) - 65_536
    commits = sandbox.ov.commits
    commits.presync(commits.pending())
    sealed = commits.seal()
    commits.harden()
    assert allocated(sandbox) == len(BYTES)
    commits.finish(sealed)
    assert allocated(sandbox) == len(BYTES) - 65_536
    assert sandbox.attr("f").blocks * 512 == len(BYTES) - 65_536
    sandbox.reopen()
    assert sandbox.read("f") == zeroed(BYTES, 8192, 8192 + 65_536)


def test_blocks_that_no_commit_has_named_go_at_once(sandbox: OverlaySandbox) -> None:
    """Blocks of a file created since the last commit are freed within the operation."""
    sandbox.create("f", BYTES)
    fallocate(sandbox, "f", PUNCH, 100, 100_000)
    assert allocated(sandbox) == len(BYTES) - 92 * 1024  # whole blocks only
    assert sandbox.read("f") == zeroed(BYTES, 100, 100_100)


def test_what_is_written_again_meanwhile_stays(sandbox: OverlaySandbox) -> None:
    """Bytes written into a hole before its blocks are freed stay."""
    sandbox.create("f", BYTES)
    sandbox.ov.commit()
    fallocate(sandbox, "f", PUNCH, 0, 128 << 10)
    commits = sandbox.ov.commits
    sealed = commits.seal()
    sandbox.write("f", b"!" * 5000, 10_000)
    commits.harden()
    commits.finish(sealed)
    expected = zeroed(BYTES, 0, 128 << 10)
    expected = expected[:10_000] + b"!" * 5000 + expected[15_000:]
    assert sandbox.read("f") == expected
    assert sandbox.objects() == {"0/1": len(BYTES)}
    assert allocated(sandbox) == len(BYTES) - (128 << 10) + 2 * BLOCK
    sandbox.reopen()
    assert sandbox.read("f") == expected


def test_a_hole_over_the_base(sandbox: OverlaySandbox) -> None:
    """A hole over base bytes is a row: no byte is copied, adjacent holes merge, and later writes go to an object."""
    sandbox.put("f", BYTES)
    fallocate(sandbox, "f", PUNCH, 8192, 8192)
    fallocate(sandbox, "f", PUNCH, 0, 8192)
    fallocate(sandbox, "f", PUNCH, 12_288, 10_000)
    assert extents(sandbox) == [(0, 22_288, True)]
    assert sandbox.objects() == {}
    assert sandbox.lists().modified == {"f": 1}
    sandbox.write("f", b"!" * 100, 9000)
    assert extents(sandbox) == [(0, 9000, True), (9000, 9100, False), (9100, 22_288, True)]
    expected = zeroed(BYTES, 0, 22_288)
    expected = expected[:9000] + b"!" * 100 + expected[9100:]
    assert sandbox.read("f") == expected
    fallocate(sandbox, "f", PUNCH, 8192, 4096)
    assert extents(sandbox) == [(0, 22_288, True)]
    assert sandbox.objects() == {}, "nobody named the object yet"
    sandbox.set("f", size=10_000)
    sandbox.set("f", size=20_000)
    assert extents(sandbox) == [(0, 10_000, True)]
    assert sandbox.read("f") == bytes(20_000)


def test_holes_where_there_is_nothing(sandbox: OverlaySandbox) -> None:
    """Punching where the backing has a hole, or beyond its end, adds no row."""
    sandbox.put("sparse", b"")
    os.truncate(sandbox.base / "sparse", 1 << 20)
    fallocate(sandbox, "sparse", PUNCH, 4096, 500_000)
    sandbox.create("f", BYTES)
    fallocate(sandbox, "f", PUNCH, len(BYTES), 1 << 20)
    assert extents(sandbox) == []
    assert sandbox.attr("f").size == len(BYTES)


def test_the_whole_file_is_a_hole(sandbox: OverlaySandbox) -> None:
    """Punching a whole file deletes its object, and hides all bytes of its base file."""
    sandbox.create("f", BYTES)
    sandbox.put("g", BYTES)
    sandbox.ov.commit()
    for path in "fg":
        fallocate(sandbox, path, PUNCH, 0, 1 << 30)
        assert sandbox.read(path) == bytes(len(BYTES))
        assert parts(sandbox, path) == []
        assert sandbox.attr(path).blocks == 0
    assert extents(sandbox) == []
    sandbox.ov.commit()
    assert sandbox.objects() == {}
    sandbox.write("g", b"!", 200_000)
    assert sandbox.read("g") == bytes(200_000) + b"!" + bytes(len(BYTES) - 200_001)


def test_small_files_are_zeroed_in_their_row(sandbox: OverlaySandbox) -> None:
    """A small file is zeroed in its row, and needs no object."""
    sandbox.create("f", b"x" * 1000)
    fallocate(sandbox, "f", PUNCH, 10, 20)
    assert sandbox.read("f") == b"x" * 10 + bytes(20) + b"x" * 970
    fallocate(sandbox, "f", ZERO, 990, 20)
    assert sandbox.read("f") == b"x" * 10 + bytes(20) + b"x" * 960 + bytes(20)
    assert (sandbox.rows("small"), sandbox.objects()) == (1, {})


def test_zeroed_ranges_keep_their_blocks(sandbox: OverlaySandbox) -> None:
    """Zeroing frees no blocks, allocates missing ones, and extends the file unless FALLOC_FL_KEEP_SIZE is given."""
    sandbox.create("f", BYTES)
    sandbox.ov.commit()
    fallocate(sandbox, "f", ZERO | KEEP, 65_536, 1 << 20)
    assert sandbox.read("f") == zeroed(BYTES, 65_536, len(BYTES))
    fallocate(sandbox, "f", ZERO, 65_536, 1 << 20)
    sandbox.ov.commit()
    assert sandbox.attr("f").size == 65_536 + (1 << 20)
    assert allocated(sandbox) >= 65_536 + (1 << 20)
    assert parts(sandbox, "f") == [(0, 65_536)]
    assert sandbox.read("f") == BYTES[:65_536] + bytes(1 << 20)


def test_reserving_takes_blocks(sandbox: OverlaySandbox) -> None:
    """fallocate allocates blocks, beyond the end too, and extends the file unless FALLOC_FL_KEEP_SIZE is given."""
    sandbox.create("f")
    fallocate(sandbox, "f", KEEP, 0, 1 << 20)
    assert allocated(sandbox) >= 1 << 20
    assert sandbox.attr("f").size == 0
    sandbox.set("f", size=100)
    sandbox.ov.commit()
    fallocate(sandbox, "f", 0, 1 << 20, 1 << 20)
    assert allocated(sandbox) >= 2 << 20
    assert sandbox.read("f") == bytes(2 << 20)
    fallocate(sandbox, "f", PUNCH, 0, 2 << 20)
    sandbox.ov.commit()
    assert allocated(sandbox) == 0


def test_reserving_keeps_what_was_about_to_go(sandbox: OverlaySandbox) -> None:
    """A hole that is allocated again before it is durable keeps its blocks."""
    sandbox.create("f", BYTES)
    sandbox.ov.commit()
    fallocate(sandbox, "f", PUNCH, 0, 65_536)
    fallocate(sandbox, "f", 0, 0, 65_536)
    sandbox.ov.commit()
    assert allocated(sandbox) == len(BYTES)


def test_reserving_over_the_base_asks_for_room_only(sandbox: OverlaySandbox) -> None:
    """fallocate copies no large base file, but fails with ENOSPC if storage has too little space for it."""
    sandbox.open(max_size=4 << 20)
    sandbox.put("f", BYTES)
    fallocate(sandbox, "f", 0, 0, 1 << 20)
    assert (sandbox.objects(), sandbox.attr("f").size) == ({}, 1 << 20)
    assert sandbox.read("f") == BYTES.ljust(1 << 20, b"\0")
    with pytest.raises(FsError) as caught:
        fallocate(sandbox, "f", 0, 0, 8 << 20)
    assert caught.value.errno == errno.ENOSPC
    assert sandbox.attr("f").size == 1 << 20


def test_no_room_leaves_no_trace(sandbox: OverlaySandbox) -> None:
    """fallocate of more than the free space fails without a change, and the count of used bytes stays right."""
    sandbox.open(max_size=8 << 20)
    sandbox.create("f", BYTES)
    before = sandbox.attr("f")
    for mode in (0, KEEP, ZERO):
        with pytest.raises(FsError) as caught:
            fallocate(sandbox, "f", mode, 0, 16 << 20)
        assert caught.value.errno == errno.ENOSPC
    assert sandbox.attr("f") == before
    assert allocated(sandbox) == len(BYTES)
    fallocate(sandbox, "f", 0, 0, 2 << 20)
    fallocate(sandbox, "f", PUNCH, 0, 1 << 20)
    sandbox.ov.commit()
    assert sandbox.ov.objects.used == allocated(sandbox) == 1 << 20


def test_what_is_reserved_can_be_written_when_nothing_else_can(sandbox: OverlaySandbox) -> None:
    """Allocated blocks can be written after other files have filled the storage."""
    sandbox.open(max_size=4 << 20)
    sandbox.create("f")
    fallocate(sandbox, "f", 0, 0, 3 << 20)
    sandbox.create("g")
    for at in range(0, 4 << 20, 65_536):
        try:
            sandbox.write("g", b"g" * 65_536, at)
        except FsError as error:
            if error.errno != errno.ENOSPC:
                raise
            break
    else:
        pytest.fail("there was room for everything")
    for at in range(0, 3 << 20, len(BYTES)):
        sandbox.write("f", BYTES, at)
    with pytest.raises(FsError) as caught:
        sandbox.write("f", BYTES, 3 << 20)
    assert caught.value.errno == errno.ENOSPC
    sandbox.reopen()
    assert sandbox.read("f") == BYTES * 12


@pytest.mark.parametrize("mode", [FALLOC_FL_PUNCH_HOLE, 0x08, 0x20, 0x40, KEEP | 0x08, PUNCH | ZERO])
def test_other_modes_are_not_served(sandbox: OverlaySandbox, mode: int) -> None:
    """Other modes of fallocate fail with EOPNOTSUPP, so that callers use another way."""
    sandbox.create("f", b"x")
    with pytest.raises(FsError) as caught:
        fallocate(sandbox, "f", mode, 0, 1)
    assert caught.value.errno == errno.EOPNOTSUPP


def test_errnos(sandbox: OverlaySandbox) -> None:
    """Empty, negative and too large ranges, and objects that are not regular files, give the errnos of fallocate(2)."""
    ino = sandbox.create("f", b"x")
    directory = sandbox.mkdir("d")
    ranges = sandbox.ov.ranges
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


def test_where_there_is_data(sandbox: OverlaySandbox) -> None:
    """SEEK_DATA and SEEK_HOLE find extents, holes, the base's own holes and the end of the file, in whole blocks."""
    sandbox.put("f", b"")
    with open(sandbox.base / "f", "r+b") as file:
        os.pwrite(file.fileno(), b"b" * BLOCK * 16, 0)
        os.pwrite(file.fileno(), b"b" * BLOCK, 512 << 10)
    assert parts(sandbox, "f") == [(0, 16 * BLOCK), (512 << 10, (512 << 10) + BLOCK)]
    fallocate(sandbox, "f", PUNCH, 4 * BLOCK, 4 * BLOCK)
    sandbox.write("f", b"!", 300_000)
    sandbox.set("f", size=700_000)
    block = 300_000 // BLOCK * BLOCK
    expected = [(0, 4 * BLOCK), (8 * BLOCK, 16 * BLOCK), (block, block + BLOCK), (512 << 10, (512 << 10) + BLOCK)]
    assert parts(sandbox, "f") == expected
    assert sandbox.ov.ranges.seek(sandbox.ino("f"), 600_000, os.SEEK_HOLE) == 600_000
    sandbox.create("small", b"x" * 10)
    sandbox.set("small", size=100_000)
    assert parts(sandbox, "small") == [(0, BLOCK)]


def test_copies_keep_holes(sandbox: OverlaySandbox) -> None:
    """A copy copies data, makes holes where the source has some, and extends the target."""
    sandbox.put("f", BYTES)
    fallocate(sandbox, "f", PUNCH, 65_536, 65_536)
    sandbox.create("g", b"g" * 300_000)
    sandbox.create("h")
    for path, at in (("g", 4096), ("h", 8192)):
        assert sandbox.ov.ranges.copy(sandbox.ino("f"), 4096, sandbox.ino(path), at, 1 << 30) == len(BYTES) - 4096
    copied = zeroed(BYTES, 65_536, 131_072)[4096:]
    assert sandbox.read("g") == b"g" * 4096 + copied + b"g" * (300_000 - len(BYTES))
    assert sandbox.read("h") == bytes(8192) + copied
    assert parts(sandbox, "h") == [(8192, 69_632), (135_168, len(BYTES) + 4096)]
    assert sandbox.ov.ranges.copy(sandbox.ino("f"), len(BYTES), sandbox.ino("h"), 0, 10) == 0
    assert sandbox.ov.check() == []


def test_a_copy_is_done_piece_by_piece(sandbox: OverlaySandbox) -> None:
    """One call copies a few megabytes and returns how many bytes, so that other requests are answered in between."""
    sandbox.create("f", BYTES * 40)  # 10 MiB
    sandbox.create("g")
    done = 0
    counts = []
    while count := sandbox.ov.ranges.copy(sandbox.ino("f"), done, sandbox.ino("g"), done, 1 << 30):
        counts.append(count)
        done += count
    assert counts == [4 << 20, 4 << 20, 2 << 20]
    assert sandbox.read("g") == BYTES * 40


def test_copies_within_a_file(sandbox: OverlaySandbox) -> None:
    """A copy within a file fails if its ranges overlap; ranges that only touch do not."""
    ino = sandbox.create("f", BYTES)
    assert sandbox.ov.ranges.copy(ino, 0, ino, 8192, 8192) == 8192
    assert sandbox.read("f") == BYTES[:8192] * 2 + BYTES[16_384:]


@pytest.mark.logs("operations of a killed daemon were replayed")
def test_a_kill_keeps_holes(sandbox: OverlaySandbox, tmp_path: Any) -> None:
    """Holes survive a kill through the redo log, and the bytes below them do not show."""
    redo = tmp_path / "redo"
    redo.mkdir()
    sandbox.open(redo_directory=str(redo))
    sandbox.create("f", BYTES)
    sandbox.ov.commit()
    fallocate(sandbox, "f", PUNCH, 8192, 65_536)
    sandbox.write("f", b"!" * 100, 10_000)
    sandbox.kill()
    sandbox.open(redo_directory=str(redo))
    expected = zeroed(BYTES, 8192, 8192 + 65_536)
    assert sandbox.read("f") == expected[:10_000] + b"!" * 100 + expected[10_100:]
    assert sandbox.ov.check() == []


def test_storage_that_cannot_give_back(sandbox: OverlaySandbox) -> None:
    """Without fallocate(2) in storage, holes read as zeros but free no blocks; allocating checks the free space."""
    sandbox.open(storage_io=StubbornStorage)
    sandbox.create("f", BYTES)
    sandbox.ov.commit()
    fallocate(sandbox, "f", PUNCH, 0, 65_536)
    fallocate(sandbox, "f", 0, 0, 1 << 20)
    sandbox.ov.commit()
    fallocate(sandbox, "f", PUNCH, 65_536, 65_536)
    sandbox.ov.commit()
    assert sandbox.read("f") == zeroed(BYTES, 0, 131_072).ljust(1 << 20, b"\0")
    assert allocated(sandbox) == len(BYTES)
