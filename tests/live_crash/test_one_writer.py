"""One writer (P7), an orderly end, and a log that stays short."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minifo.engine.store.memory_directory import memory_directory
from tests.live_crash.load_check import check_storage, kill, storage_uuid, unmount_dead
from tests.live_crash.loop_device import Device
from tests.mount.mount_sandbox import MountSandbox, OverlayMount, await_end, daemon_of, is_mounted, minifo, run

_STORE = """
import itertools, sys
for number in itertools.count():
    with open(f"{sys.argv[1]}/{number % 3000}", "w") as file:
        file.write("x" * 100)
"""


def test_second_writer(sandbox: MountSandbox) -> None:
    """A second writable mount is refused with the holder's pid; the lock is free as soon as the holder was killed."""
    overlay = sandbox.overlay()
    overlay.mount()
    other = sandbox.directory()
    refused = minifo("mount", "--base", overlay.base, "--sto", overlay.sto, other, check=False)
    assert refused.returncode != 0
    assert f"process {overlay.pid}" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not is_mounted(other)
    (overlay.mnt / "file").write_text("kept")
    kill(overlay)
    minifo("mount", "--base", overlay.base, "--sto", overlay.sto, other)
    try:
        assert (other / "file").read_text() == "kept"
    finally:
        minifo("umount", other)
    unmount_dead(overlay)


def test_dead_mount(sandbox: MountSandbox) -> None:
    """A mount whose daemon died is reported with the command that clears it."""
    overlay = sandbox.overlay()
    overlay.mount()
    (overlay.mnt / "file").write_text("kept")
    kill(overlay)
    refused = overlay.mount(check=False)
    assert refused.returncode != 0
    command = f"umount -l {overlay.mnt}"
    assert command in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    run(*command.split(), "-i")
    overlay.mount()
    assert (overlay.mnt / "file").read_text() == "kept"
    overlay.umount()


def test_umount_is_durable(sandbox: MountSandbox) -> None:
    """When umount has returned a power cut takes nothing, whatever the commit interval and beside an outside reader."""
    device = Device(sandbox, "ext4", 64)
    overlay = sandbox.overlay("commit=0.02", sto=device.directory("sto"))
    overlay.mount()
    uuid = storage_uuid(overlay.sto)
    for number in range(10):
        if number == 5:
            overlay.umount()
            overlay.options = ["commit=3600"]
            overlay.mount()
        with _reader(overlay.sto):
            # the reader keeps SQLite from moving the log into the database at the end, which would sync it
            for name in range(30):
                (overlay.mnt / f"{number}.{name}").write_text(f"{number} {name}")
            pid = overlay.pid
            minifo("umount", overlay.mnt)
            device.cut(log=False)
        await_end(pid)
        device.umount()
        assert not list(Path(str(memory_directory())).glob(f"{uuid}-*.redo"))
        device.mount()
        overlay.mount()
        found = {path.name: path.read_text() for path in overlay.mnt.iterdir()}
        assert found == {f"{n}.{name}": f"{n} {name}" for n in range(number + 1) for name in range(30)}
        check_storage(overlay.sto)
    overlay.umount()


def test_mount_again_at_once(sandbox: MountSandbox) -> None:
    """``umount`` and ``mount`` may follow each other at once, by the system's own umount as well."""
    overlay = sandbox.overlay()
    overlay.mount()
    for number in range(20):
        (overlay.mnt / "number").write_text(str(number))
        if number % 2:
            run("umount", overlay.mnt)
        else:
            minifo("umount", overlay.mnt)
        overlay.mount()
        assert (overlay.mnt / "number").read_text() == str(number)
    overlay.umount()


def test_terminate(sandbox: MountSandbox) -> None:
    """SIGTERM commits and unmounts, also with a long commit interval, also with files that are still open."""
    for used in (False, True):
        overlay = sandbox.overlay("commit=3600")
        overlay.mount()
        uuid = storage_uuid(overlay.sto)
        (overlay.mnt / "file").write_text("kept")
        with open(overlay.mnt / "open", "w") as file:
            file.write("flushed")
            file.flush()
            if not used:
                file.close()
            os.kill(overlay.pid, signal.SIGTERM)
            await_end(overlay.pid)
        assert not is_mounted(overlay.mnt)
        assert not list(Path(str(memory_directory())).glob(f"{uuid}-*.redo"))
        overlay.mount()
        assert (overlay.mnt / "file").read_text() == "kept"
        assert (overlay.mnt / "open").read_text() == "flushed"
        overlay.umount()


def test_log_stays_short(sandbox: MountSandbox) -> None:
    """The database's log is bounded while load goes on without a pause, and an outside reader blocks nobody."""
    device = Device(sandbox, "ext4", 128)  # small storage: its log may have 512 KiB
    overlay = sandbox.overlay("commit=0.1", sto=device.directory("sto"))
    overlay.mount()
    log = overlay.sto / "minifo.db-wal"
    with _load(overlay):
        longest = _watch(log, 4)
        with _reader(overlay.sto) as reader:
            begin = time.monotonic()
            reader.execute("SELECT count(*) FROM inode").fetchone()
            assert time.monotonic() - begin < 5
            beside = _watch(log, 3)
        afterwards = _watch(log, 1), _watch(log, 3)
    print(f"log: {longest >> 10} KiB under load, {beside >> 10} beside a reader, then {afterwards[1] >> 10}")
    assert longest <= 2 << 20
    assert beside > 0
    assert afterwards[1] <= 10 << 20  # what it keeps of its greatest size
    overlay.umount()
    check_storage(overlay.sto)


def _watch(log: Path, seconds: float) -> int:
    """The greatest size of a file within some time."""
    limit = time.monotonic() + seconds
    longest = 0
    while time.monotonic() < limit:
        longest = max(longest, log.stat().st_size)
        time.sleep(0.01)
    return longest


@contextmanager
def _reader(storage: Path) -> Iterator[sqlite3.Connection]:
    """Somebody who reads the database and does not come to an end."""
    reader = sqlite3.connect(f"file:{storage}/minifo.db?mode=ro", uri=True, isolation_level=None)
    try:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM overlay").fetchone()
        yield reader
    finally:
        reader.close()


@contextmanager
def _load(overlay: OverlayMount) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", _STORE, overlay.mnt])
    try:
        yield
    finally:
        process.kill()
        process.wait()
        assert daemon_of(overlay.sto)
