"""The disk everything happens on: an ext4 in an image file on a loop device of its own, so that bytes can be counted.

Bases, storages and plain copies all live here; nothing else does.  The image is written once from end to end, for a
block that is written for the first time costs more than the same block later.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import subprocess
from pathlib import Path

from minifo.engine.store.syscall_numbers import iow

_CHECKPOINT = iow(ord("f"), 43, 4)  # EXT4_IOC_CHECKPOINT: write what the journal holds to its place
_MEBI = 1 << 20


def run(*words: str | Path, check: bool = True) -> str:
    """Run a command, return what it printed, and fail with what it complained about."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))}: {done.stderr or done.stdout}".strip())
    return done.stdout.strip()


def drop_caches() -> None:
    """Make the next reads cold; what is dirty stays."""
    Path("/proc/sys/vm/drop_caches").write_text("3")


def touch_memory(size: int) -> None:
    """Let the machine have *size* bytes of free memory that was used before, or half of what is free.

    A virtual machine gets memory from its host when it is first touched, page by page, and may have given back what was
    free for seconds: to fill the page cache with such memory takes several times as long, whatever file system does it.
    """
    figures = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    size = min(size, int(figures["MemFree"].split()[0]) << 9)
    mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()


class Volume:
    """The mounted image.

    Args:
        home: directory of the image and of its mount point.
        mebibytes: its size when it must be made.
    """

    def __init__(self, home: Path, mebibytes: int) -> None:
        self.path = home / "volume"
        image = home / "volume.img"
        if os.path.ismount(self.path):
            raise RuntimeError(f"{self.path} is mounted: another run, or umount it")
        self.path.mkdir(parents=True, exist_ok=True)
        if not image.exists():
            self._make(image, mebibytes)
        self._loop = run("losetup", "--direct-io=on", "-f", "--show", image)
        try:
            run("mount", "-o", "noatime", self._loop, self.path)
        except RuntimeError:
            run("losetup", "-d", self._loop)
            raise
        self._fd = os.open(self.path, os.O_RDONLY)

    @staticmethod
    def _make(image: Path, mebibytes: int) -> None:
        part = image.with_suffix(".part")
        with open(part, "wb") as file:
            for _ in range(mebibytes):
                file.write(bytes(_MEBI))
            os.fsync(file.fileno())
        run("mkfs.ext4", "-q", "-F", "-i", "8192", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", part)
        part.rename(image)

    def settle(self) -> None:
        """Bring everything to its final place on the device."""
        run("sync", "-f", self.path)
        fcntl.ioctl(self._fd, _CHECKPOINT, struct.pack("I", 0))

    def written(self) -> int:
        """Bytes the device was told to write so far."""
        fields = Path(f"/sys/block/{Path(self._loop).name}/stat").read_text().split()
        return int(fields[6]) * 512

    def close(self) -> None:
        """Unmount it."""
        os.close(self._fd)
        try:
            run("umount", self.path)
        finally:
            run("losetup", "-d", self._loop)
            with contextlib.suppress(OSError):  # not empty only when the unmount failed, which is being reported
                self.path.rmdir()
