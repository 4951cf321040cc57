"""Access times: kept where that is asked for, of what has a row, as far as reads reach the overlay."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from minifo.fusefront.mount.mount_table import find_mount
from tests.mount.mount_sandbox import BIG, MountSandbox, OverlayMount, run

HOUR = 3600 * 10**9


def read_anew(path: Path, flags: int = 0) -> bool:
    """Read a file whose bytes the kernel does not hold; True if its access time moved."""
    before = path.stat().st_atime_ns
    run("sync", "-f", path)
    fd = os.open(path, os.O_RDONLY | flags)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    while os.read(fd, 1 << 16):
        pass
    os.close(fd)
    return path.stat().st_atime_ns > before


def ready(overlay: OverlayMount) -> OverlayMount:
    """Mounted, with a base file, one of which only the mode was changed, and a created one, all read before."""
    for name in ("base", "changed"):
        (overlay.base / name).write_bytes(BIG)
    overlay.mount()
    (overlay.mnt / "changed").chmod(0o600)
    (overlay.mnt / "created").write_bytes(BIG)
    overlay.remount()
    return overlay


def words(overlay: OverlayMount) -> set[str]:
    """The options that the kernel shows."""
    entry = find_mount(str(overlay.mnt))
    assert entry is not None
    return set(entry.options)


@pytest.mark.parametrize("options", [[], ["plain"], ["noatime"]])
def test_none_by_default(sandbox: MountSandbox, options: list[str]) -> None:
    """Reading writes nothing to storage, and /proc/mounts says ``noatime``."""
    overlay = ready(sandbox.overlay(*options))
    assert [read_anew(overlay.mnt / name) for name in ("base", "changed", "created")] == [False] * 3
    assert "noatime" in words(overlay)


@pytest.mark.parametrize("options", [["relatime"], ["atime", "plain"]])
def test_relatime(sandbox: MountSandbox, options: list[str]) -> None:
    """The first read after a change counts, the next ones do not before a day has passed; a new mount knows it."""
    overlay = ready(sandbox.overlay(*options))
    assert "noatime" not in words(overlay)
    assert [read_anew(overlay.mnt / name) for name in ("base", "changed", "created")] == [False, True, True]
    assert [read_anew(overlay.mnt / name) for name in ("base", "changed", "created")] == [False] * 3
    before = (overlay.mnt / "created").stat()
    assert before.st_atime_ns > before.st_mtime_ns
    overlay.remount()
    after = (overlay.mnt / "created").stat()
    assert (after.st_atime_ns, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_atime_ns, before.st_mtime_ns, before.st_ctime_ns,
    )  # fmt: skip
    path = overlay.mnt / "created"
    os.utime(path, ns=(path.stat().st_ctime_ns - 25 * HOUR, 0))
    assert read_anew(path)


def test_strictatime(sandbox: MountSandbox) -> None:
    """Every read that is not answered from memory counts, but for programs that ask it not to."""
    overlay = ready(sandbox.overlay("strictatime"))
    for _ in range(3):
        assert [read_anew(overlay.mnt / name) for name in ("base", "changed", "created")] == [False, True, True]
    assert not read_anew(overlay.mnt / "created", os.O_NOATIME)
    assert (overlay.mnt / "created").read_bytes() == BIG
    overlay.umount()
    assert overlay.violations() == []


def test_a_full_storage_is_read(sandbox: MountSandbox) -> None:
    """Where there is no room for an access time, the file is read all the same."""
    home = sandbox.file_system("ext4", megabytes=16)
    overlay = sandbox.overlay("strictatime", sto=home / "sto")
    overlay.mount()
    (overlay.mnt / "file").write_bytes(BIG)
    overlay.remount()
    with open(home / "ballast", "wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(bytes(4096))
    read_anew(overlay.mnt / "file")
    assert (overlay.mnt / "file").read_bytes() == BIG
