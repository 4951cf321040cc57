"""Storage that lacks what others have: shared memory maps, or figures of its room."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.mount.mount_sandbox import MountSandbox, OverlayMount, minifo, run


def _without_shared_memory(sandbox: MountSandbox) -> Path:
    """A directory of a FUSE file system that maps no file for several (mmap(2), MAP_SHARED)."""
    path = sandbox.directory()
    run("bindfs", "-o", "direct_io", sandbox.directory(), path)
    sandbox.undo(lambda: run("umount", "-l", path, check=False))
    return path


def _work(overlay: OverlayMount) -> None:
    """Something of every kind."""
    for number in range(30):
        (overlay.mnt / f"f{number}").write_bytes(b"x" * 500 * number)
    with open(overlay.mnt / "based", "r+b") as file:
        file.write(b"changed")
        os.fsync(file.fileno())
    (overlay.mnt / "f1").rename(overlay.mnt / "f2")
    (overlay.mnt / "f3").unlink()


def _shown(overlay: OverlayMount) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in overlay.mnt.iterdir()}


@pytest.fixture
def odd(sandbox: MountSandbox) -> OverlayMount:
    """An overlay on storage without shared memory maps."""
    overlay = sandbox.overlay(sto=_without_shared_memory(sandbox))
    (overlay.base / "based").write_bytes(b"base" * 50_000)
    return overlay


def test_storage_without_shared_memory(odd: OverlayMount) -> None:
    """It is mounted, again and again, writable and read-only, and after a kill nothing is lost."""
    odd.mount()
    _work(odd)
    shown = _shown(odd)
    odd.remount()
    assert _shown(odd) == shown
    (odd.mnt / "late").write_bytes(b"late" * 5000)
    shown = _shown(odd)
    odd.kill()
    odd.clear()
    # what is in the log shows read-only as well: all of the last commit
    odd.mount("ro")
    assert _shown(odd).items() >= {"based": shown["based"], "f2": shown["f2"]}.items()
    odd.umount()
    odd.mount()
    assert _shown(odd) == shown
    odd.umount()
    assert run("minifo-fsck", "-n", odd.sto, "--base", odd.base).returncode == 0
    assert odd.violations() == []


def test_nobody_looks_on_there(odd: OverlayMount) -> None:
    """While it is mounted others are told who has it; nothing is called damaged."""
    odd.mount()
    _work(odd)
    said = minifo("fsck", "-n", odd.sto, check=False)
    assert said.returncode == 8
    assert "cannot be read (database is locked); unmount it" in said.stderr
    assert said.stderr.count("\n") == 1
    again = minifo("mount", "--base", odd.base, "--sto", odd.sto, odd.base, check=False)
    assert again.returncode == 32
    assert f"process {odd.pid}" in again.stderr
    odd.umount()


def test_storage_that_tells_nothing_of_its_room(sandbox: MountSandbox) -> None:
    """0 blocks of 0 are no reason to refuse a write (ramfs; some FUSE and network file systems)."""
    place = sandbox.directory()
    sandbox.mount("-t", "ramfs", "none", place)
    assert os.statvfs(place).f_blocks == 0
    for options in ((), ("max_size=64m",)):
        sto = place / f"sto{len(options)}"
        sto.mkdir()
        overlay = sandbox.overlay(*options, sto=sto)
        (overlay.base / "based").write_bytes(b"base" * 50_000)
        overlay.mount()
        _work(overlay)
        shown = _shown(overlay)
        assert subprocess.run(["df", overlay.mnt], capture_output=True, check=False).stdout
        overlay.remount()
        assert _shown(overlay) == shown
        overlay.umount()
        assert overlay.violations() == []


def test_status_where_there_is_one_connection(odd: OverlayMount) -> None:
    """SQLite keeps all other connections out there; the daemon counts the bytes by its own."""
    odd.mount()
    for _ in range(2):
        before = json.loads(minifo("status", "--json", odd.mnt).stdout)["usage"]["content"]
        (odd.mnt / f"more{before}").write_bytes(b"x" * 10_000)
        minifo("sync", odd.mnt)
        assert json.loads(minifo("status", "--json", odd.mnt).stdout)["usage"]["content"] == before + 10_000
