"""Files larger than storage's own file system can hold one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.mount.mount_sandbox import MountSandbox, run

PLACES = [(16 << 30) - 5_000_000, 20 << 30, 1 << 44, 1 << 61]  # below, across and beyond what ext2 can hold
DATA = os.urandom(10_000_000)


def ext2(sandbox: MountSandbox) -> Path:
    """An empty file system whose files end at 16 GiB."""
    where = sandbox.directory()
    image = where.with_suffix(".img")
    with open(image, "wb") as file:
        file.truncate(200 << 20)
    run("mkfs.ext4", "-q", "-b", "1024", "-O", "^extent,^huge_file,^64bit,^has_journal", image)
    sandbox.mount("-o", "loop", image, where)
    with open(where / "probe", "wb") as file, pytest.raises(OSError, match=r"Invalid argument|File too large"):
        os.pwrite(file.fileno(), b"x", PLACES[1])
    os.unlink(where / "probe")
    return where


@pytest.mark.parametrize("name", ["created", "base"])
def test_larger_than_storage_holds(sandbox: MountSandbox, name: str) -> None:
    """write(2), fsync(2) and close(2) succeed, and everything is there, after a new mount too."""
    overlay = sandbox.overlay(sto=ext2(sandbox) / "sto")
    (overlay.base / "base").write_bytes(b"base" * 100_000)
    overlay.mount()
    fd = os.open(overlay.mnt / name, os.O_RDWR | os.O_CREAT)
    for place in PLACES[::-1]:
        assert os.pwrite(fd, DATA, place) == len(DATA)
        os.fsync(fd)
    os.pwrite(fd, b"head", 0)
    os.close(fd)
    overlay.remount()
    with open(overlay.mnt / name, "rb", buffering=0) as file:
        assert os.pread(file.fileno(), 4, 0) == b"head"
        for place in PLACES:
            assert os.pread(file.fileno(), len(DATA) + 20, place - 10)[:10] == bytes(10)
            assert os.pread(file.fileno(), len(DATA), place) == DATA
        assert os.fstat(file.fileno()).st_size == PLACES[-1] + len(DATA)
    os.truncate(overlay.mnt / name, PLACES[2] + 5)
    assert (overlay.mnt / name).stat().st_size == PLACES[2] + 5
    overlay.umount()
    assert overlay.violations() == []
    assert "clean" in run("minifo-fsck", "-n", "-f", overlay.sto).stdout
