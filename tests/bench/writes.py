"""What the overlay costs its medium, and a mount after a crash: run by hand, as root.

    python tests/bench/writes.py            both tables
    python tests/bench/writes.py --creates 2000 --entries 0

The first table: files of 100 bytes are created at a steady pace, and everything is to be durable once a second; what
reaches the storage's device is read from its statistics (bytes written, flushes), the last sync included.  Peers are
told to sync each second; once more without, as most people run them: then their file system commits every five seconds.
The second table: how long a mount takes after the daemon was killed, with many entries in the overlay and with none.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from minifo.engine import Overlay as Engine
from minifo.engine.model import ROOT, Process, RenameFlags
from minifo.engine.store.memory_directory import memory_directory
from tests.live_crash.load_check import kill, storage_uuid, unmount_dead
from tests.live_crash.loop_device import Device
from tests.mount.mount_sandbox import MountSandbox, OverlayMount, run

_CONTENT = b"x" * 100
_PER_SECOND = 1000  # creates; all systems keep up with that
_MEGABYTES = 512
_IN_ONE_DIRECTORY = 1000
_SINCE_COMMIT = 1000  # operations in the redo log when the daemon is killed
_TURNS = 7


# ----------------------------------------------------------------------------------------------------------------------
# Bytes and flushes


def _create(where: Path, count: int, *, sync: bool) -> None:
    begin = time.monotonic()
    synced = 0
    for number in range(count):
        directory = where / str(number // _IN_ONE_DIRECTORY)
        if number % _IN_ONE_DIRECTORY == 0:
            directory.mkdir()
        (directory / str(number)).write_bytes(_CONTENT)
        ahead = begin + number / _PER_SECOND - time.monotonic()
        if ahead > 0.01:
            time.sleep(ahead)
        if sync and int(time.monotonic() - begin) > synced:
            synced = int(time.monotonic() - begin)
            run("sync", "-f", where)


def _measure(sandbox: MountSandbox, name: str, count: int, start: Callable[[Path, Path], Path], *, sync: bool) -> None:
    device = Device(sandbox, "ext4", _MEGABYTES)
    base = sandbox.directory()
    (base / "file").write_bytes(b"base")
    where = start(base, device.path)
    (where / "first").write_bytes(b"")  # whatever is made only once
    time.sleep(2)
    run("sync", "-f", device.path)
    before = device.figures()
    begin = time.monotonic()
    _create(where, count, sync=sync)
    seconds = time.monotonic() - begin
    run("umount", where)
    run("sync", "-f", device.path)
    after = device.figures()
    kib, writes, flushes = (after[key] - before[key] for key in ("bytes", "writes", "flushes"))
    print(f"{name:34}{seconds:7.1f} s {kib >> 10:9} KiB {kib / count:8.0f} {writes:8} {flushes:8}", flush=True)


def _minifo(sandbox: MountSandbox) -> Callable[[Path, Path], Path]:
    def start(base: Path, home: Path) -> Path:
        (home / "sto").mkdir()
        overlay = sandbox.overlay("commit=1", base=base, sto=home / "sto")
        overlay.mount()
        return overlay.mnt

    return start


def _peer(sandbox: MountSandbox, words: list[str]) -> Callable[[Path, Path], Path]:
    def start(base: Path, home: Path) -> Path:
        for name in ("upper", "work"):
            (home / name).mkdir()
        where = sandbox.directory()
        run(*words, "-o", f"lowerdir={base},upperdir={home}/upper,workdir={home}/work", where)
        sandbox.undo(lambda: run("umount", "-l", where, check=False))
        return where

    return start


def writes(sandbox: MountSandbox, count: int) -> None:
    """Print the first table."""
    print(f"{count} creates of {len(_CONTENT)} bytes, {_PER_SECOND} a second, storage on an ext4 of its own\n")
    print(f"{'':34}{'time':>9} {'written':>13} {'per file':>8} {'writes':>8} {'flushes':>8}")
    _measure(sandbox, "minifo, commit=1", count, _minifo(sandbox), sync=False)
    overlayfs, fuse = ["mount", "-t", "overlay", "overlay"], ["fuse-overlayfs"]
    _measure(sandbox, "overlayfs, synced each second", count, _peer(sandbox, overlayfs), sync=True)
    _measure(sandbox, "fuse-overlayfs, synced each second", count, _peer(sandbox, fuse), sync=True)
    _measure(sandbox, "overlayfs, not synced", count, _peer(sandbox, overlayfs), sync=False)
    _measure(sandbox, "fuse-overlayfs, not synced", count, _peer(sandbox, fuse), sync=False)


# ----------------------------------------------------------------------------------------------------------------------
# Mounting after a crash


def _populate(overlay: OverlayMount, entries: int) -> None:
    """Give an overlay entries of every kind: files small and large, hidden base names, moved ones."""
    for number in range(0, entries, 20):
        (overlay.base / f"hidden{number}").touch()
        (overlay.base / f"moved{number + 1}").touch()
    engine = Engine.open(str(overlay.base), str(overlay.sto))
    caller = Process()
    directory = ROOT
    for number in range(entries):
        name = b"%d" % number
        if number % _IN_ONE_DIRECTORY == 0:
            directory = engine.mkdir(ROOT, b"d" + name, 0o755, caller).ino
        kind = number % 20
        if kind == 0:
            engine.unlink(ROOT, b"hidden" + name)
        elif kind == 1:
            engine.rename(ROOT, b"moved" + name, directory, name, RenameFlags.NONE)
        else:
            made = engine.mknod(directory, name, 0o644, 0, caller)
            engine.write(made.ino, 0, _CONTENT * 200 if kind == 2 else _CONTENT)
    engine.close()


def _mount_after_kill(overlay: OverlayMount, *, redo: bool) -> float:
    overlay.mount("commit=3600")
    (log,) = Path(str(memory_directory())).glob(f"{storage_uuid(overlay.sto)}-*.redo")
    for number in range(_SINCE_COMMIT):
        path = overlay.mnt / f"late{number}"
        path.touch()
        path.unlink()
    kill(overlay)
    unmount_dead(overlay)
    if not redo:
        log.unlink()
    begin = time.perf_counter()
    overlay.mount()
    seconds = time.perf_counter() - begin
    overlay.umount()
    return seconds


def mounts(sandbox: MountSandbox, entries: int) -> None:
    """Print the second table."""
    empty, full = sandbox.overlay(), sandbox.overlay()
    _populate(full, entries)
    print(f"\nmount after SIGKILL, median of {_TURNS}\n\n{'':34}{'empty':>10} {f'{entries} entries':>16} {'ratio':>7}")
    for redo, name in ((False, "no redo log"), (True, f"redo log of {2 * _SINCE_COMMIT} operations")):
        times: list[list[float]] = [[], []]
        for _ in range(_TURNS):
            for overlay, found in zip((empty, full), times, strict=True):
                found.append(_mount_after_kill(overlay, redo=redo))
        one, many = (statistics.median(found) for found in times)
        print(f"{name:34}{one * 1000:7.0f} ms {many * 1000:13.0f} ms {many / one:7.2f}", flush=True)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description="what minifo writes, and how long it mounts after a crash")
    parser.add_argument("--creates", type=int, default=10_000)
    parser.add_argument("--entries", type=int, default=100_000)
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root: it mounts")
    sandbox = MountSandbox()
    try:
        if arguments.creates:
            writes(sandbox, arguments.creates)
        if arguments.entries:
            mounts(sandbox, arguments.entries)
    finally:
        sandbox.close()


if __name__ == "__main__":
    main()
