"""Times that stay: what stat tells right after a change is what it tells after a new mount, to the nanosecond.

With the writeback cache the kernel keeps the times of the files it holds and hands them on later, so the overlay must
neither miss nor second-guess them.
"""

from __future__ import annotations

import mmap
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount.mount_sandbox import BIG, MountSandbox, run


def _write(path: Path) -> None:
    path.write_bytes(b"written anew")


def _append(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


def _many_writes(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY)
    for turn in range(50):
        os.pwrite(fd, b"%d" % turn, turn * 5000)
    os.close(fd)


def _direct(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
    os.pwritev(fd, [mmap.mmap(-1, 4096)], 4096)
    os.close(fd)


def _synchronous(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_SYNC)
    os.write(fd, b"synced")
    os.close(fd)


def _mapped(path: Path) -> None:
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[10:15] = b"mapped"[:5]


def _copied(path: Path) -> None:
    with open(path, "r+b") as file:
        os.copy_file_range(file.fileno(), file.fileno(), 100, 0, 5000)


def _kept_open(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, b"one")
    os.fsync(fd)
    os.write(fd, b"two")
    os.close(fd)


def _database(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (x)")
    connection.executemany("INSERT INTO t VALUES (?)", [(number,) for number in range(1000)])
    connection.commit()
    connection.close()


CHANGES: dict[str, Callable[[Path], object]] = {
    "write": _write,
    "append": _append,
    "many writes": _many_writes,
    "direct": _direct,
    "synchronous": _synchronous,
    "mapped": _mapped,
    "copied inside": _copied,
    "fsync between": _kept_open,
    "database": _database,
    "truncate": lambda path: os.truncate(path, 5),
    "grow": lambda path: os.truncate(path, 500_000),
    "chmod": lambda path: path.chmod(0o600),
    "utime": lambda path: os.utime(path, ns=(1, 2)),
    "write, then utime": lambda path: (_append(path), os.utime(path, ns=(1, 2))),
    "utime, then write": lambda path: (os.utime(path, ns=(1, 2)), _append(path)),
    "rename": lambda path: os.rename(path, f"{path}-moved"),
    "link": lambda path: os.link(path, f"{path}-link"),
    "copy over": lambda path: run("cp", "-p", "/bin/true", path),
}


@pytest.mark.parametrize("mode", ["hook", "plain"])
def test_times_survive(sandbox: MountSandbox, mode: str) -> None:
    """Whatever changed a base or a created file, large or small: size and times stay through a new mount."""
    overlay = sandbox.overlay(*(["plain"] if mode == "plain" else []))
    for name in CHANGES:
        (overlay.base / name).mkdir()
        (overlay.base / name / "large").write_bytes(BIG)
        (overlay.base / name / "small").write_bytes(BIG[:20_000])
    overlay.mount()
    for name, change in CHANGES.items():
        (overlay.mnt / name / "created").write_bytes(BIG[:10_000])
        for path in sorted((overlay.mnt / name).iterdir()):
            change(path)
    paths = sorted(overlay.mnt.rglob("*"))

    def look() -> dict[str, tuple[int, int, int, int]]:
        stats = {str(path): os.lstat(path) for path in paths}
        return {path: (st.st_size, st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns) for path, st in stats.items()}

    before = look()
    overlay.remount()
    after = look()
    assert [(path, before[path], after[path]) for path in before if before[path] != after[path]] == []


@pytest.fixture
def restless() -> Iterator[None]:
    """Another process makes the kernel show fine times all the while, as one does that looks at a file it writes."""
    code = "import os, time\nfd = os.memfd_create('x')\nwhile True: os.utime(fd); os.fstat(fd); time.sleep(0.0005)"
    process = subprocess.Popen([sys.executable, "-c", code])
    yield
    process.kill()
    process.wait()


@pytest.mark.parametrize("mode", ["hook", "plain"])
def test_one_clock(sandbox: MountSandbox, restless: None, mode: str) -> None:
    """Whatever is done later is not stamped earlier, whoever stamps it: the kernel what is written, we the rest.

    So ``make`` and ``test -nt`` are told the order in which things were done.
    """
    overlay = sandbox.overlay(*(["plain"] if mode == "plain" else []))
    overlay.mount()
    home = overlay.mnt
    last = 0
    back: dict[str, int] = {}

    def check(step: str, *times: int) -> None:
        nonlocal last
        if min(times) < last:
            back[step] = back.get(step, 0) + 1
        last = max(last, *times)

    for turn in range(1000):
        path, other = home / f"f{turn}", home / f"g{turn}"
        fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        check("create", os.fstat(fd).st_mtime_ns, os.fstat(fd).st_ctime_ns)
        os.write(fd, b"x")
        check("write", os.fstat(fd).st_mtime_ns, os.fstat(fd).st_ctime_ns)
        os.link(path, other)
        check("link", os.fstat(fd).st_ctime_ns, home.stat().st_mtime_ns)
        os.write(fd, b"x")
        check("write again", os.fstat(fd).st_mtime_ns)
        os.fchmod(fd, 0o600)
        check("chmod", os.fstat(fd).st_ctime_ns)
        os.write(fd, b"x")
        check("write once more", os.fstat(fd).st_mtime_ns)
        os.rename(path, home / "there")
        check("rename", os.fstat(fd).st_ctime_ns, home.stat().st_mtime_ns)
        os.write(fd, b"x")
        check("write at last", os.fstat(fd).st_mtime_ns)
        os.unlink(other)
        check("unlink", os.fstat(fd).st_ctime_ns, home.stat().st_mtime_ns)
        os.close(fd)
    assert back == {}


def test_touched_at_one_time(sandbox: MountSandbox) -> None:
    """``touch`` sets both times to the same now."""
    overlay = sandbox.overlay()
    overlay.mount()
    run("touch", overlay.mnt / "file")
    st = (overlay.mnt / "file").stat()
    assert st.st_atime_ns == st.st_mtime_ns == st.st_ctime_ns
