"""Hypothesis rules for ranges of files: punched, zeroed, reserved, copied, asked for data; beside state_machine.py."""

from __future__ import annotations

import os
from collections.abc import Callable

import hypothesis.strategies as st
from hypothesis.stateful import rule

from minifo.engine.store.syscalls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE, fallocate
from tests.model.compared_trees import Handle
from tests.model.state_machine import LENGTHS, OFFSETS, PICK, SIZES, ContentRules

KEEP, PUNCH, ZERO = FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE
MODES = st.sampled_from([PUNCH, PUNCH, PUNCH, ZERO, ZERO | KEEP, 0, KEEP])
RANGES = st.one_of(LENGTHS, st.sampled_from([4096, 8192, 65_536, 300_000]))
_TIME = 1_600_000_000 * 10**9


class RangeRules(ContentRules):
    """fallocate, copy_file_range and lseek, by path and through handles."""

    @rule(pick=PICK, mode=MODES, offset=OFFSETS, size=RANGES)
    def fallocate(self, pick: int, mode: int, offset: int, size: int) -> None:
        target = self.file(pick)
        if target is not None:
            self.t.make_room()
            self.fallocate_target(target, mode, offset, size)

    def fallocate_target(self, target: bytes | Handle, mode: int, offset: int, size: int) -> None:
        fd = os.open(self.full(target), os.O_RDWR)
        try:
            self.t.both(
                f"fallocate {self.told_target(target)} mode {mode:#x}, {size} at {offset}",
                lambda: self.t.ov.ranges.fallocate(self.ino(target), mode, offset, size),
                lambda: self.plain_fallocate(fd, mode, offset, size),
            )
        finally:
            os.close(fd)
        self.changed(target)

    @rule(pick=PICK, hollow=SIZES, mode=MODES, offset=OFFSETS, size=RANGES)
    def fallocate_hollow(self, pick: int, hollow: int, mode: int, offset: int, size: int) -> None:
        """The same on a file that is nothing but a hole."""
        target = self.file(pick)
        if target is None:
            return
        self.t.make_room()
        for length in (0, hollow):
            self.do_truncate(target, length)
        self.written(target)
        self.fallocate_target(target, mode, offset, size)

    @staticmethod
    def plain_fallocate(fd: int, mode: int, offset: int, size: int) -> None:
        if mode & ZERO and size > 0:
            # tmpfs does not serve it: write the zeros it promises
            end = offset + size if not mode & KEEP else min(offset + size, os.fstat(fd).st_size)
            os.pwrite(fd, bytes(max(0, end - offset)), offset)
        else:
            fallocate(fd, mode, offset, size)

    @rule(pick=PICK, pick2=PICK, offset=OFFSETS, at=OFFSETS, size=RANGES)
    def copy(self, pick: int, pick2: int, offset: int, at: int, size: int) -> None:
        giver, taker = self.file(pick), self.file(pick2)
        if giver is None or taker is None:
            return
        self.t.make_room()
        first, second = os.open(self.full(giver), os.O_RDONLY | os.O_NOATIME), os.open(self.full(taker), os.O_RDWR)
        try:
            outcome = self.t.both(
                f"copy {self.told_target(giver)} {offset} to {self.told_target(taker)} {at}, {size}",
                lambda: self.t.ov.ranges.copy(self.ino(giver), offset, self.ino(taker), at, size),
                lambda: os.copy_file_range(first, second, size, offset, at),
            )
        finally:
            os.close(first)
            os.close(second)
        assert outcome is None or outcome[0] == outcome[1], self.t.told("another count")
        self.changed(taker)

    def changed(self, target: bytes | Handle) -> None:
        """Compare a file, its times apart: file systems disagree on whether these move where no byte does."""
        os.utime(self.full(target), ns=(_TIME, _TIME))
        self.t.setattr(self.ino(target), atime=_TIME, mtime=_TIME)
        self.written(target)

    @rule(pick=PICK)
    def seek(self, pick: int) -> None:
        """What is told to be a hole reads as zeros, and the parts follow each other up to the end of the file."""
        target = self.file(pick)
        if target is None:
            return
        ino = self.ino(target)
        size = os.stat(self.full(target)).st_size
        data = self.t.ov.read(ino, 0, size)
        self.t.log.append(f"seek {self.told_target(target)}")
        at = 0
        while at < size:
            start = self.told(lambda at=at: self.t.ov.ranges.seek(ino, at, os.SEEK_DATA), size)  # type: ignore[misc]
            assert at <= start <= size
            assert not data[at:start].strip(b"\0"), self.t.told(f"a hole from {at} to {start} holds bytes")
            if start == size:
                break
            at = self.t.ov.ranges.seek(ino, start, os.SEEK_HOLE)
            assert start < at <= size
            assert self.t.ov.ranges.seek(ino, start, os.SEEK_DATA) == start

    @staticmethod
    def told(seek: Callable[[], int], size: int) -> int:
        try:
            return seek()
        except OSError:
            return size
