"""Few descriptors: 64 are enough, whatever is asked of a mount, and a shortage that passes leaves nothing behind."""

from __future__ import annotations

import errno
import os
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from minifo.fusefront.process.descriptor_limits import raise_limit
from tests.mount.mount_sandbox import MountSandbox, OverlayMount, daemon_of, minifo_program, run

_FEW = 64
_FILES = 300
_THREADS = 64


def _descriptors(overlay: OverlayMount) -> int:
    return len(os.listdir(f"/proc/{overlay.pid}/fd"))


@contextmanager
def _no_more(overlay: OverlayMount) -> Iterator[None]:
    """Meanwhile the daemon can open nothing."""
    before = resource.prlimit(overlay.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(overlay.pid, resource.RLIMIT_NOFILE, (0, before[1]))
    yield
    resource.prlimit(overlay.pid, resource.RLIMIT_NOFILE, before)


def _all(act: Callable[[Path], object], paths: list[Path]) -> None:
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(act, paths))


def _mount(overlay: OverlayMount, *options: str) -> None:
    words = [word for option in options for word in ("-o", option)]
    places = ("--base", overlay.base, "--sto", overlay.sto, overlay.mnt)
    run("prlimit", f"--nofile={_FEW}:{_FEW}", minifo_program(), "mount", *words, *places)
    overlay.pid = daemon_of(overlay.sto)


@pytest.mark.parametrize("option", ["commit=0.2", "sync", "plain", "journal=1000"])
def test_64_descriptors(sandbox: MountSandbox, option: str) -> None:
    """Creating, copying up, syncing, replacing and looking for holes, by many threads at once: all of it works."""
    overlay = sandbox.overlay()
    based = []
    for number in range(_FILES):
        path = overlay.base / f"d{number % 30}" / f"f{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"base" * 1000)
        based.append(overlay.mnt / path.relative_to(overlay.base))
    _mount(overlay, option, "commit=0.2")
    top = 0

    def create(path: Path) -> None:
        path.with_suffix(".new").write_bytes(b"new" * 1000)

    def change(path: Path) -> None:
        with open(path, "r+b") as file:
            file.seek(100)
            file.write(b"changed")

    def sync(path: Path) -> None:
        with open(path, "r+b") as file:
            file.write(b"synced")
            os.fsync(file.fileno())

    def replace(path: Path) -> None:
        nonlocal top
        fresh = path.with_suffix(".tmp")
        fresh.write_bytes(b"replaced" * 1000)
        fresh.rename(path)
        top = max(top, _descriptors(overlay))

    def look(path: Path) -> None:
        nonlocal top
        fd = os.open(path, os.O_RDONLY)
        try:
            assert os.lseek(fd, 0, os.SEEK_DATA) == 0
        finally:
            os.close(fd)
        top = max(top, _descriptors(overlay))

    for act in (create, change, sync, replace, look, Path.unlink):
        _all(act, based)
    assert 0 < top < _FEW
    left = {path.name for path in overlay.mnt.glob("*/*")}
    assert left == {f"f{number}.new" for number in range(_FILES)}
    (overlay.mnt / "still writable").touch()
    overlay.umount()
    assert overlay.violations() == []


def test_64_descriptors_for_large_files(sandbox: MountSandbox) -> None:
    """Many large base files are read piece by piece, which the extension does from open descriptors: some are left."""
    overlay = sandbox.overlay()
    for number in range(_THREADS + 10):
        (overlay.base / f"f{number}").write_bytes(b"x" * 3_000_000)
    _mount(overlay)
    for path in overlay.mnt.iterdir():
        assert path.read_bytes() == b"x" * 3_000_000
    (overlay.mnt / "new").write_bytes(b"new" * 1000)
    assert _descriptors(overlay) < _FEW


def test_the_limit_is_raised(sandbox: MountSandbox) -> None:
    """A soft limit of 64 is no limit."""
    overlay = sandbox.overlay()
    places = ("--base", overlay.base, "--sto", overlay.sto, overlay.mnt)
    run("prlimit", f"--nofile={_FEW}:4096", minifo_program(), "mount", *places)
    overlay.pid = daemon_of(overlay.sto)
    assert resource.prlimit(overlay.pid, resource.RLIMIT_NOFILE) == (4096, 4096)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    raise_limit()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= before[0]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_pipes_do_not_grow_with_callers(sandbox: MountSandbox) -> None:
    """400 who look for holes at once are served in turns."""
    overlay = sandbox.overlay()
    overlay.mount()
    paths = [overlay.mnt / f"f{number}" for number in range(400)]
    for path in paths:
        path.write_bytes(b"x" * 5000)
    top = 0

    def look(path: Path) -> None:
        nonlocal top
        fd = os.open(path, os.O_RDONLY)
        try:
            for _ in range(5):
                os.lseek(fd, 0, os.SEEK_HOLE)
                top = max(top, sum("pipe" in _target(overlay, name) for name in os.listdir(f"/proc/{overlay.pid}/fd")))
        finally:
            os.close(fd)

    with ThreadPoolExecutor(400) as pool:
        list(pool.map(look, paths))
    assert top < 80


def _target(overlay: OverlayMount, name: str) -> str:
    try:
        return os.readlink(f"/proc/{overlay.pid}/fd/{name}")
    except FileNotFoundError:
        return ""


def _change(path: Path) -> None:
    with open(path, "r+b", 0) as file:
        file.write(b"changed")
        os.fsync(file.fileno())


def test_a_shortage_passes(sandbox: MountSandbox) -> None:
    """Who needs a descriptor gets EMFILE and leaves no trace; commits wait, and nothing turns read-only."""
    overlay = sandbox.overlay()
    (overlay.base / "based").write_bytes(b"base" * 5000)
    overlay.mount("commit=0.2")
    (overlay.mnt / "before").write_bytes(b"before" * 1000)
    (overlay.mnt / "small").touch()
    with _no_more(overlay):
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            _change(overlay.mnt / "based")
        (overlay.mnt / "small").write_bytes(b"few")
        time.sleep(1)  # commits are due
    with open(overlay.mnt / "before", "r+b") as file:
        os.fsync(file.fileno())
    assert (overlay.mnt / "based").read_bytes() == b"base" * 5000
    (overlay.mnt / "after").write_bytes(b"after" * 1000)
    overlay.remount()
    assert {path.name: path.stat().st_size for path in overlay.mnt.iterdir()} == {
        "based": 20_000,
        "before": 6000,
        "small": 3,
        "after": 5000,
    }
    overlay.umount()
    assert overlay.violations() == []


def test_fsync_waits_for_a_shortage_to_pass(sandbox: MountSandbox) -> None:
    """It returns when it is over, and what it says is true."""
    overlay = sandbox.overlay()
    overlay.mount("commit=60")
    with open(overlay.mnt / "file", "wb") as file, ThreadPoolExecutor(1) as pool:
        file.write(b"x" * 10_000)
        file.flush()
        os.lseek(file.fileno(), 0, os.SEEK_DATA)  # written back
        with _no_more(overlay):
            waiting = pool.submit(os.fsync, file.fileno())
            time.sleep(1)
            assert not waiting.done()
        waiting.result(10)
    overlay.kill()
    overlay.clear()
    overlay.mount()
    assert (overlay.mnt / "file").read_bytes() == b"x" * 10_000
