"""Parity of ranges of files: fallocate, copy_file_range, SEEK_DATA and SEEK_HOLE, by system calls and by programs.

With the session hook only: without it the kernel has its fallbacks, which other tests use.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minifo.engine.store.memory_directory import memory_directory
from minifo.engine.store.syscalls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE, fallocate
from tests.mount.mount_sandbox import USER, MountSandbox, attempt, run
from tests.mount.parity_mount import Pair, ParityMount

KEEP = FALLOC_FL_KEEP_SIZE
PUNCH = FALLOC_FL_PUNCH_HOLE | KEEP
ZERO = FALLOC_FL_ZERO_RANGE
BLOCK = 4096
FILES = ["a", "empty", "big", "sparse", "hard1", "new"]


@pytest.fixture(scope="module")
def parity_mount(fuse_required: None) -> Iterator[ParityMount]:
    """One overlay for all tests here, in hook mode."""
    made = MountSandbox()
    try:
        yield ParityMount(made, plain_mode=False, trees=60)
    finally:
        made.close()


def get(name: str) -> bytes:
    """All bytes of a file."""
    return Path(name).read_bytes()


def with_file(name: str, action: Callable[[int], Any], flags: int = os.O_RDWR | os.O_CREAT) -> Any:
    """Call *action* with the file open."""
    fd = os.open(name, flags, 0o644)
    try:
        return action(fd)
    finally:
        os.close(fd)


def data_of(fd: int) -> list[tuple[int, int]]:
    """Where a file has data, as the kernel tells."""
    found = []
    at, size = 0, os.fstat(fd).st_size
    while at < size and isinstance(start := attempt(os.lseek, fd, at, os.SEEK_DATA), int):
        at = os.lseek(fd, start, os.SEEK_HOLE)
        found.append((start, at))
    return found


def copy(source: int, target: int, size: int, offset: int = 0, at: int = 0) -> int:
    """Copy a range as programs do, call by call."""
    done = 0
    while done < size and (count := os.copy_file_range(source, target, size - done, offset + done, at + done)):
        done += count
    return done


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "mode", [0, KEEP, PUNCH, ZERO, ZERO | KEEP], ids=["grow", "keep", "punch", "zero", "zero-keep"]
)
def test_fallocate(pair: Pair, name: str, mode: int) -> None:
    """Ranges within, across and beyond the end, with dirty pages around them, and the bytes afterwards."""

    def act(_: str) -> list[Any]:
        def change(fd: int) -> list[Any]:
            seen: list[Any] = []
            for offset, size in ((1, 3), (BLOCK, 3 * BLOCK), (100_000, 50_000), (190_000, 200_000), (1 << 21, 10)):
                os.pwrite(fd, b"dirty" * 1000, offset + size // 2)
                seen.append(attempt(fallocate, fd, mode, offset, size))
                seen.append((os.fstat(fd).st_size, os.pread(fd, 5010, max(0, offset + size // 2 - 5))))
            return seen

        return [*with_file(name, change), get(name)]

    pair.same(act)
    pair.remount()


def test_fallocate_refused(pair: Pair) -> None:
    """Wrong ranges, descriptors and types fail alike; modes that move bytes are not served."""

    def act(_: str) -> list[Any]:
        def change(fd: int) -> list[Any]:
            calls = (
                (0, -1, 5),
                (PUNCH, 0, 0),
                (0, 1 << 62, 1 << 62),
                (FALLOC_FL_PUNCH_HOLE, 0, 5),
                (PUNCH | ZERO, 0, 9),
            )
            return [attempt(fallocate, fd, *call) for call in calls]

        seen = with_file("big", change)
        seen.append(with_file("big", lambda fd: attempt(fallocate, fd, PUNCH, 0, 5), os.O_RDONLY))
        seen.append(with_file("dir", lambda fd: attempt(fallocate, fd, 0, 0, 5), os.O_RDONLY))
        return seen

    pair.same(act)
    os.chdir(pair.mounted)
    for mode in (0x08, 0x20, 0x40):
        assert with_file("big", lambda fd, mode=mode: attempt(fallocate, fd, mode, 0, BLOCK)) == "ENOTSUP"
    os.chdir("/")


def test_fallocate_by_program(pair: Pair) -> None:
    """fallocate(1) of util-linux: punch, zero, dig, reserve with and without a size."""

    def act(_: str) -> list[Any]:
        seen: list[Any] = []
        for words in ("-p -o 5000 -l 20000", "-z -o 100000 -l 200000", "-n -l 1000000", "-l 400000", "-d"):
            done = run("fallocate", *words.split(), "big")
            seen.append((done.returncode, os.stat("big").st_size, get("big")))
        os.truncate("big", 50_000)
        return [*seen, get("big")]

    pair.same(act)


def test_seek_sees_what_is_in_memory_only(pair: Pair) -> None:
    """Dirty pages are data, what is punched or was never written is a hole, and both move as the file changes."""

    def act(_: str) -> list[Any]:
        def change(fd: int) -> list[Any]:
            seen = []
            os.ftruncate(fd, 1 << 20)
            for at in (0, 5 * BLOCK, 100 * BLOCK):
                os.pwrite(fd, b"d" * BLOCK * 3, at)
                seen.append(data_of(fd))
            fallocate(fd, PUNCH, BLOCK, 5 * BLOCK)
            seen.append(data_of(fd))
            os.pwrite(fd, b"d" * BLOCK, 3 * BLOCK)
            seen.append(data_of(fd))
            os.ftruncate(fd, 50 * BLOCK)
            seen.append(data_of(fd))
            return [*seen, [attempt(os.lseek, fd, at, os.SEEK_DATA) for at in (-1, 20 * BLOCK, 50 * BLOCK, 1 << 40)]]

        return [
            with_file("new", change),
            with_file("sparse", data_of),
            with_file("big", data_of),
            with_file("a", data_of),
        ]

    pair.same(act)


def test_copies(pair: Pair) -> None:
    """copy_file_range between base and created files, dirty on both sides, within one file, and beyond the end."""

    def act(_: str) -> list[Any]:
        def change(fd: int) -> list[Any]:
            seen: list[Any] = []
            for name in ("big", "sparse", "a", "empty"):
                source = os.open(name, os.O_RDWR)
                os.pwrite(source, b"fresh" * 2000, 3)
                os.pwrite(fd, b"under" * 30_000, 1000)
                seen += [copy(source, fd, 1 << 30, 7, 20_000), os.fstat(fd).st_size, os.pread(fd, 1 << 21, 0)]
                os.close(source)
            seen += [copy(fd, fd, 9000, 0, 30_000), attempt(os.copy_file_range, fd, fd, 9000, 0, 5000)]
            return [*seen, os.copy_file_range(fd, fd, 10, 1 << 30, 0), os.pread(fd, 1 << 21, 0)]

        return [with_file("new", change), get("new"), get("big")]

    pair.same(act)
    pair.remount()


@pytest.mark.parametrize("words", ["", "--sparse=always", "--sparse=never", "-a"])
def test_cp(pair: Pair, words: str) -> None:
    """cp of dense and sparse files keeps bytes, and holes as it is told."""

    def act(_: str) -> list[Any]:
        with open("zeros", "wb") as file:
            file.write(b"head" + bytes(3 << 20) + b"tail")
        seen: list[Any] = []
        for name in ("big", "sparse", "zeros", "empty", "a"):
            run("cp", *words.split(), name, "copy")
            size = os.stat("copy").st_size
            seen.append((size, os.stat("copy").st_blocks * 512 < size // 2, get("copy")))
        return seen

    pair.same(act)


def test_mapped_memory_is_punched(pair: Pair) -> None:
    """A shared mapping sees zeros at once, and what is written through it into a hole stays."""

    def act(_: str) -> list[Any]:
        def change(fd: int) -> list[Any]:
            memory = mmap.mmap(fd, 200_000)
            memory[BLOCK : BLOCK + 6] = b"mapped"
            fallocate(fd, PUNCH, 0, 3 * BLOCK)
            seen = [memory[:10], memory[BLOCK : BLOCK + 10], memory[3 * BLOCK : 3 * BLOCK + 10]]
            memory[BLOCK + 100 : BLOCK + 105] = b"again"
            memory.flush()
            return [*seen, os.pread(fd, 20_000, 0)]

        return [with_file("big", change), get("big")]

    pair.same(act)
    pair.remount()


def test_direct_io_around_holes(pair: Pair) -> None:
    """O_DIRECT reads zeros from a hole, and writes into it."""

    def act(_: str) -> list[Any]:
        def change(fd: int) -> list[Any]:
            block = mmap.mmap(-1, 2 * BLOCK)
            block.write(b"D" * 2 * BLOCK)
            os.pwritev(fd, [block], 0)
            fallocate(fd, PUNCH, BLOCK, 8 * BLOCK)
            os.pwritev(fd, [block], 4 * BLOCK)
            into = mmap.mmap(-1, 16 * BLOCK)
            return [os.preadv(fd, [into], 0), into[:], data_of(fd)]

        return [with_file("big", change, os.O_RDWR | os.O_DIRECT), get("big")]

    pair.same(act)


@pytest.mark.parametrize("name", ["mine", "open", "setuid"])
@pytest.mark.parametrize("how", ["grow", "punch", "zero", "copy"])
def test_other_users(pair: Pair, name: str, how: str) -> None:
    """Whoever may write may do all of it, and set-id bits go as they do with a write; times move."""

    def act(_: str) -> list[Any]:
        before = os.stat(name).st_mtime_ns

        def change(fd: int) -> Any:
            if how == "copy":
                return with_file("big", lambda source: copy(source, fd, 5000), os.O_RDONLY)
            return fallocate(fd, {"grow": 0, "punch": PUNCH, "zero": ZERO}[how], 3, 5)

        outcome = attempt(with_file, name, change, os.O_RDWR)
        st = os.stat(name)
        return [outcome, oct(stat.S_IMODE(st.st_mode)), st.st_size, st.st_mtime_ns > before, get(name)]

    pair.same(act, uid=USER)


def test_a_database_is_compacted(pair: Pair) -> None:
    """SQLite with auto-vacuum, holes punched where pages were freed, goes on with what it had."""

    def act(_: str) -> list[Any]:
        con = sqlite3.connect("app.db", isolation_level=None)
        con.execute("PRAGMA journal_mode = WAL")
        con.execute("CREATE TABLE t (x)")
        con.executemany("INSERT INTO t VALUES (?)", [(b"x" * 900,)] * 2000)
        con.execute("DELETE FROM t WHERE rowid > 100")
        con.execute("VACUUM")
        con.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        con.close()
        run("fallocate", "-d", "app.db")
        shutil.copyfile("app.db", "copy.db")
        with contextlib.closing(sqlite3.connect("copy.db")) as con:
            rows = con.execute("SELECT count(*), sum(length(x)) FROM t").fetchone()
        return [rows, get("app.db") == get("copy.db")]

    pair.same(act)
    pair.excused |= {"app.db", "copy.db"}  # SQLite's files say when they were written


def test_space_comes_back(sandbox: MountSandbox) -> None:
    """Blocks of a hole are free in storage once the hole is durable; those that are reserved are taken."""
    overlay = sandbox.overlay()
    overlay.mount()

    def taken() -> int:
        return sum(path.stat().st_blocks * 512 for path in (overlay.sto / "content").glob("*/*"))

    def change(fd: int) -> None:
        os.write(fd, os.urandom(8 << 20))
        os.fsync(fd)
        assert taken() == 8 << 20
        fallocate(fd, PUNCH, 1 << 20, 5 << 20)
        assert os.fstat(fd).st_blocks * 512 == 3 << 20
        os.fsync(fd)
        assert taken() == 3 << 20
        fallocate(fd, KEEP, 0, 16 << 20)
        assert taken() == 16 << 20
        assert os.fstat(fd).st_size == 8 << 20

    with_file(str(overlay.mnt / "file"), change)
    overlay.umount()
    assert overlay.violations() == []


@pytest.mark.parametrize("source", ["base", "created"])
def test_copies_share_blocks(sandbox: MountSandbox, source: str) -> None:
    """Where storage can share blocks between files a copy takes none, and a change of one leaves the other alone."""
    disk = sandbox.file_system("xfs")
    overlay = sandbox.overlay(base=disk / "base", sto=disk / "sto")
    data = os.urandom(20 << 20)
    (overlay.base / "base").write_bytes(data)
    overlay.mount()
    (overlay.mnt / "created").write_bytes(data)

    def free() -> int:
        os.sync()
        figures = os.statvfs(disk)
        return figures.f_bfree * figures.f_frsize

    before = free()
    run("cp", overlay.mnt / source, overlay.mnt / "copy")
    assert before - free() < 2 << 20
    assert get(str(overlay.mnt / "copy")) == data
    with_file(str(overlay.mnt / "copy"), lambda fd: os.pwrite(fd, b"changed", 100))
    overlay.remount()
    assert get(str(overlay.mnt / "copy")) == data[:100] + b"changed" + data[107:]
    assert get(str(overlay.mnt / source)) == data
    overlay.umount()
    assert overlay.violations() == []


def test_no_room(sandbox: MountSandbox) -> None:
    """What cannot be reserved or copied is refused with ENOSPC, and punching gives room again."""
    overlay = sandbox.overlay("max_size=8m")
    overlay.mount()

    def change(fd: int) -> None:
        assert attempt(fallocate, fd, 0, 0, 32 << 20) == "ENOSPC"
        assert os.fstat(fd).st_size == 0
        fallocate(fd, 0, 0, 5 << 20)
        os.pwrite(fd, b"x" * (5 << 20), 0)
        os.fsync(fd)
        assert attempt(copy, fd, fd, 5 << 20, 0, 5 << 20) == "ENOSPC"
        fallocate(fd, PUNCH, 0, 4 << 20)
        os.fsync(fd)
        assert copy(fd, fd, 1 << 20, 4 << 20, 5 << 20) == 1 << 20

    with_file(str(overlay.mnt / "file"), change)
    overlay.umount()
    assert overlay.violations() == []


def test_sync_means_these_too(sandbox: MountSandbox) -> None:
    """With ``-o sync`` a hole and a copy are durable before the call returns: losing daemon and log loses nothing."""
    overlay = sandbox.overlay("sync")
    (overlay.base / "file").write_bytes(b"x" * 300_000)
    overlay.mount()
    name = str(overlay.mnt / "file")
    with_file(name, lambda fd: (fallocate(fd, PUNCH, 0, 100_000), copy(fd, fd, 1000, 200_000, 50_000)))
    overlay.kill()
    run("umount", "-l", "-i", overlay.mnt)
    for (uuid,) in [(row[1],) for row in overlay.rows("overlay") if row[0] == "uuid"]:
        (log,) = Path(str(memory_directory())).glob(f"{uuid}-*.redo")
        log.unlink()
    overlay.mount()
    assert get(name) == bytes(50_000) + b"x" * 1000 + bytes(49_000) + b"x" * 200_000
    overlay.umount()
    assert overlay.violations() == []


def test_everything_survives_a_new_mount(parity_mount: ParityMount) -> None:
    """After all that, a new mount shows the same, no invariant is broken, and the base is untouched."""
    parity_mount.survive()
