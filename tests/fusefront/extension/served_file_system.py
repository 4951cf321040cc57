"""The file system of memory_file_system.py as a test has it: mounted, given orders, asked what it heard.

And calls that the kernel cannot answer from its memory.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Served:
    """The mount under test."""

    def __init__(self, home: Path) -> None:
        self.path = home / "mnt"
        self.path.mkdir()
        self.report = home / "report.json"
        self.errors = home / "stderr"
        self.seen = 0
        self.numbers = itertools.count()
        with self.errors.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, Path(__file__).with_name("memory_file_system.py"), self.path, self.report],
                stderr=stderr,
            )

    def order(self, kind: str, what: str) -> None:
        """Say what the function for a kind of request is to do: answer, leave, raise, or return a literal."""
        os.setxattr(self.path, f"user.{kind}", what.encode())

    def heard(self) -> dict[str, Any]:
        """What has happened since this was called last."""
        os.setxattr(self.path, "user.report", b"")
        found: dict[str, Any] = json.loads(self.report.read_text())
        return found

    def roads(self, kind: str) -> set[str]:
        """Which roads requests of a kind took since ``heard`` was called last."""
        return {event[0] for event in self.heard()["log"] if event[1] == kind}

    def complaint(self) -> str:
        """What was written to stderr since this was called last."""
        text = self.errors.read_text()
        self.seen, seen = len(text), self.seen
        return text[seen:]

    def new(self, make: Callable[[Path], object] = lambda path: None) -> Path:
        """A path that nobody used before, and what *make* made there."""
        path = self.path / f"new{next(self.numbers)}"
        make(path)
        return path

    def file(self) -> Path:
        """A new regular file."""
        return self.new(Path.touch)


@contextmanager
def serving(home: Path) -> Iterator[Served]:
    """Mount for the body of the with statement."""
    served = Served(home)
    try:
        deadline = time.monotonic() + 90
        while not os.path.ismount(served.path):
            assert served.process.poll() is None, served.errors.read_text()
            assert time.monotonic() < deadline, "the file system did not mount in time"
            time.sleep(0.02)
        yield served
        subprocess.run(["umount", served.path], check=True, timeout=60)
        assert served.process.wait(30) == 0, served.errors.read_text()
    finally:
        if served.process.poll() is None:
            served.process.kill()
            served.process.wait()
            subprocess.run(["umount", "-l", served.path], check=False)


def uncached(path: Path) -> str:
    """Mode and size of a file as the file system says now, whatever the kernel remembers."""
    command = ["stat", "--cached=never", "-c", "%a %s", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        code = next(code for code in errno.errorcode if os.strerror(code) in done.stderr)
        raise OSError(code, done.stderr)
    return str(done.stdout.strip())


def read_anew(path: Path, size: int = 100, offset: int = 0) -> bytes:
    """Bytes of a file that are not in the kernel's memory."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return os.pread(fd, size, offset)
    finally:
        os.close(fd)


def synced(path: Path) -> None:
    """Make a file of some bytes, none of which is in the kernel's memory only."""
    with path.open("wb") as file:
        file.write(b"some bytes")
        file.flush()
        os.fsync(file.fileno())


def write_through(path: Path) -> bytes:
    """Write into a file, and return what it holds afterwards."""
    fd = os.open(path, os.O_RDWR)
    try:
        os.write(fd, b"written")
        os.fsync(fd)
    finally:
        os.close(fd)
    return read_anew(path)


def forget() -> None:
    """Have the kernel let go of names and inodes nobody uses."""
    Path("/proc/sys/vm/drop_caches").write_text("2")
