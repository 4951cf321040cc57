"""A full storage refuses, never corrupts, and lets go of space again (promise P6)."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live_crash.load_check import check_storage
from tests.live_crash.loop_device import Device
from tests.mount.mount_sandbox import MountSandbox, OverlayMount, run
from tests.shared.waiting import wait_until

_MEGABYTE = 1 << 20
_WRITER = Path(__file__).with_name("fill_worker.py")
_WRITERS = ("big", "small", "empty", "big")
_LIMIT = 60.0  # seconds a writer may go on


def _fill(overlay: OverlayMount, records: Path) -> dict[str, bytes]:
    """Fill the storage with several writers until each is refused; returns what was acknowledged, by path."""
    processes = []
    for number, kind in enumerate(_WRITERS):
        (overlay.mnt / f"{number}").mkdir(exist_ok=True)
        record = records / str(number)
        record.unlink(missing_ok=True)
        words = [sys.executable, "-I", "-S", _WRITER, kind, overlay.mnt / f"{number}", record]
        processes.append(subprocess.Popen(words, stdin=subprocess.DEVNULL))
    acknowledged = {}
    for number, process in enumerate(processes):
        assert process.wait(_LIMIT) == 0, "a writer met something else than ENOSPC"
        for line in (records / str(number)).read_text().splitlines():
            name, size, letter = line.split()
            acknowledged[f"{number}/{name}"] = letter.encode() * int(size)
    return acknowledged


def _check(overlay: OverlayMount, acknowledged: dict[str, bytes]) -> None:
    for path, content in acknowledged.items():
        assert (overlay.mnt / path).read_bytes() == content, path


def _settle(overlay: OverlayMount) -> None:
    """Make everything durable, and so what was deleted free; a commit that was postponed is tried again."""
    for _ in range(2):
        wait_until(lambda: _is_durable(overlay), "all is durable")


def _is_durable(overlay: OverlayMount) -> bool:
    fd = os.open(overlay.mnt, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
    finally:
        os.close(fd)
    return True


def _free(overlay: OverlayMount) -> int:
    figures = os.statvfs(overlay.mnt)
    return figures.f_bavail * figures.f_frsize


def _storage(sandbox: MountSandbox, kind: str) -> tuple[Path, Path]:
    """A small storage directory, and the file system it is in."""
    if kind == "tmpfs":
        where = sandbox.directory()
        sandbox.mount("-t", "tmpfs", "-o", "size=24m", "none", where)
        (where / "sto").mkdir()
        return where / "sto", where
    device = Device(sandbox, kind, {"ext4": 24, "xfs": 320}[kind])
    if kind == "xfs":
        with open(device.path / "ballast", "wb") as file:
            figures = os.statvfs(device.path)
            os.posix_fallocate(file.fileno(), 0, figures.f_bavail * figures.f_frsize - 24 * _MEGABYTE)
    return device.directory("sto"), device.path


@pytest.mark.parametrize("kind", ["ext4", "xfs", "tmpfs"])
def test_fill_to_the_brim(sandbox: MountSandbox, kind: str) -> None:
    """Several writers fill a small storage: each gets ENOSPC, nothing acknowledged is lost, deleting works."""
    storage, where = _storage(sandbox, kind)
    overlay = sandbox.overlay("commit=0.2", sto=storage)
    overlay.mount()
    acknowledged = _fill(overlay, sandbox.directory())
    _check(overlay, acknowledged)
    # somebody else takes the last bytes
    _exhaust(where / "theirs")
    full = _free(overlay)
    _check(overlay, acknowledged)
    names = sorted(acknowledged)
    for path in names[::2]:
        os.unlink(overlay.mnt / path)
        del acknowledged[path]
    shrunk = max(acknowledged, key=lambda path: len(acknowledged[path]))
    os.truncate(overlay.mnt / shrunk, 10)
    acknowledged[shrunk] = acknowledged[shrunk][:10]
    _settle(overlay)
    wait_until(lambda: _free(overlay) > full, "deleted files give their space back")
    (where / "theirs").unlink()
    overlay.remount()
    _check(overlay, acknowledged)
    check_storage(overlay.sto)
    # the mount lives on: everything can go, and then as much fits as before
    for name in os.listdir(overlay.mnt):
        shutil.rmtree(overlay.mnt / name)
    _settle(overlay)
    wait_until((overlay.sto / "reserve").exists, "the reserve is back")
    (overlay.mnt / "again").write_bytes(bytes(4 * _MEGABYTE))
    overlay.umount()
    check_storage(overlay.sto)


def _exhaust(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        for size in (65536, 4096, 512):
            try:
                while file.write(b"x" * size) == size:
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


def test_endless_writer(sandbox: MountSandbox) -> None:
    """A program that writes until it is refused comes to an end, and the space it took can be had again."""
    storage, _ = _storage(sandbox, "ext4")
    overlay = sandbox.overlay(sto=storage)
    overlay.mount()
    for _ in range(3):
        written = run("dd", "if=/dev/zero", f"of={overlay.mnt}/endless", "bs=64k", check=False, timeout=_LIMIT)
        assert written.returncode != 0
        assert "No space left on device" in written.stderr
        (overlay.mnt / "endless").unlink()
        _settle(overlay)
    (overlay.mnt / "after").write_bytes(b"x" * 4 * _MEGABYTE)
    overlay.umount()
    check_storage(overlay.sto)


def test_max_size(sandbox: MountSandbox) -> None:
    """max_size bounds what an overlay takes: statfs shows the limit, writers get ENOSPC, deleting works."""
    overlay = sandbox.overlay("max_size=8M", "commit=0.2")
    overlay.mount()
    figures = os.statvfs(overlay.mnt)
    assert figures.f_blocks * figures.f_frsize == 8 * _MEGABYTE
    assert 6 * _MEGABYTE < _free(overlay) <= 8 * _MEGABYTE
    acknowledged = _fill(overlay, sandbox.directory())
    _settle(overlay)
    taken = sum(path.stat().st_blocks * 512 for path in overlay.sto.rglob("*") if path.is_file())
    assert taken <= 11 * _MEGABYTE, "the limit, and the log and the reserve beside it"
    assert _free(overlay) < 2 * _MEGABYTE
    overlay.remount()
    _check(overlay, acknowledged)
    for name in os.listdir(overlay.mnt):  # what was refused in its middle, too
        shutil.rmtree(overlay.mnt / name)
    _settle(overlay)

    def rows() -> int:
        """Bytes of the database and its log, which stay: more or less, as quick as each writer was."""
        return sum((overlay.sto / name).stat().st_blocks * 512 for name in ("minifo.db", "minifo.db-wal"))

    wait_until(lambda: _free(overlay) + rows() > 7 * _MEGABYTE, "deleted files give their space back")
    (overlay.mnt / "again").write_bytes(bytes(2 * _MEGABYTE))
    overlay.umount()
    check_storage(overlay.sto)
