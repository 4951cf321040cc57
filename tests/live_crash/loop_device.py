"""File systems of their own for tests: in an image file on a loop device, which can lose power or run full."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from minifo.engine.store.syscall_numbers import ior
from tests.mount.mount_sandbox import MountSandbox, is_mounted, run

_SHUTDOWN = ior(ord("X"), 125, 4)  # EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN alike
_WITH_LOG, _WITHOUT_LOG = 1, 2
_SET_STATUS, _GET_STATUS = 0x4C04, 0x4C05  # linux/loop.h: LOOP_SET_STATUS64 and its sibling, struct loop_info64
_STATUS_SIZE, _SIZE_LIMIT = 232, 32  # bytes of it, and where lo_sizelimit is
_MAKE = {"ext4": ("mkfs.ext4", "-q", "-F"), "xfs": ("mkfs.xfs", "-q", "-f")}


class Device:
    """A file system in an image file, mounted until the sandbox closes.

    Args:
        sandbox: where it is made.
        kind: ``ext4`` or ``xfs``.
        megabytes: its size.
    """

    def __init__(self, sandbox: MountSandbox, kind: str, megabytes: int) -> None:
        self.path = sandbox.directory()
        self._image = self.path.with_suffix(".img")
        with open(self._image, "wb") as file:
            file.truncate(megabytes << 20)
        run(*_MAKE[kind], self._image)
        self.loop = run("losetup", "-f", "--show", self._image).stdout.strip()
        sandbox.undo(self._remove)
        self.mount()

    def mount(self) -> None:
        """Mount it."""
        run("mount", "-o", "noatime", self.loop, self.path)

    def umount(self) -> None:
        """Unmount it, without mercy."""
        run("umount", self.path)

    def _remove(self) -> None:
        while is_mounted(self.path):
            run("umount", "-l", self.path)
        run("losetup", "-d", self.loop, check=False)

    def cut(self, *, log: bool) -> None:
        """Cut the power: from now on nothing reaches the device.

        Args:
            log: what the journal holds in memory is written just before; else it is lost, too.
        """
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _WITH_LOG if log else _WITHOUT_LOG))
        finally:
            os.close(fd)

    def shrink(self, megabytes: int) -> None:
        """Let the device end early: what is written beyond fails; 0 gives it back whole, with what is there."""
        fd = os.open(self.loop, os.O_RDWR)
        try:
            info = bytearray(fcntl.ioctl(fd, _GET_STATUS, bytes(_STATUS_SIZE)))
            struct.pack_into("Q", info, _SIZE_LIMIT, megabytes << 20)
            fcntl.ioctl(fd, _SET_STATUS, bytes(info))
        finally:
            os.close(fd)

    def abort(self) -> None:
        """Let the file system turn read-only by itself, as after an error (ext4)."""
        run("mount", "-o", "remount,abort", self.path, check=False)

    def come_back(self) -> None:
        """Mount it again, as whole as it ever was."""
        self.umount()
        self.shrink(0)
        self.mount()

    def directory(self, name: str) -> Path:
        """A directory in it, made if need be."""
        path = self.path / name
        path.mkdir(exist_ok=True)
        return path

    def figures(self) -> dict[str, int]:
        """What the device has done so far: ``bytes`` written, ``writes`` and ``flushes``."""
        fields = [int(word) for word in Path(f"/sys/block/{Path(self.loop).name}/stat").read_text().split()]
        return {"bytes": fields[6] * 512, "writes": fields[4], "flushes": fields[15]}
