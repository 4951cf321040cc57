"""What the verbs that go back cost, on a large overlay: run by hand, as root.

    python tests/bench/going_back.py
    python tests/bench/going_back.py --entries 10000 --turns 1

The overlay has as many changes as its base has files, 100,000 by default.  Each verb is called as a user calls it, on
the mounted overlay and at rest: the time from the command to its end, the bytes that the storage's device was told to
write until all was in its place, and, mounted, the longest time that a program waited which made and deleted files all
the while.  A checkpoint is made of it, then 10,000 entries are changed, which rollback, undo and redo bring back and
forth.  The last lines are about a device that changes ten files a day.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.asking import populate
from tests.live_crash.loop_device import Device
from tests.mount.mount_sandbox import MountSandbox, OverlayMount, minifo_program, run

_MEGABYTES = 2000
_CHANGED = 10_000
_DAYS = 10
_KEPT = 300


class Cost(NamedTuple):
    """What one call cost: seconds in all, bytes at the device, and the longest wait of another program in seconds."""

    seconds: float
    written: int
    waited: float


class Bench:
    """One overlay on a device of its own.

    Args:
        sandbox: where it is made.
        entries: how many changes it has.
    """

    def __init__(self, sandbox: MountSandbox, entries: int) -> None:
        self.device = Device(sandbox, "ext4", _MEGABYTES)
        self.overlay: OverlayMount = sandbox.overlay("commit=600", sto=self.device.path / "sto")
        populate(self.overlay, entries)
        self.keep = sandbox.directory() / "keep"
        self.keep.write_text("".join(f"/d{number % 10}/newf{number * 10}\n" for number in range(_KEPT)))
        self.clones = itertools.count()

    def call(self, *words: str | Path, is_mounted: bool) -> Cost:
        """Call minifo while another program works, and settle the device."""
        run("sync", "-f", self.device.path)
        before = self.device.figures()["bytes"]
        done = threading.Event()
        waits: list[float] = []
        busy = threading.Thread(target=_work, args=(self.overlay.mnt, done, waits))
        if is_mounted:
            busy.start()
        begin = time.monotonic()
        subprocess.run([minifo_program(), *map(str, words)], stdout=subprocess.DEVNULL, check=True)
        seconds = time.monotonic() - begin
        done.set()
        if is_mounted:
            busy.join()
        run("sync", "-f", self.device.path)
        return Cost(seconds, self.device.figures()["bytes"] - before, max(waits, default=0.0))

    def change(self, turn: int) -> None:
        """Change many entries: a third is written, a third is new, a third is deleted."""
        for number in range(_CHANGED // 3):
            directory = self.overlay.mnt / f"d{number % 10}"
            (directory / f"f{number // 10}").write_bytes(b"changed %d" % turn)
            (directory / f"more{turn}.{number}").mkdir()
            (directory / f"newf{number // 10 % 5 + number // 100 * 10}").unlink(missing_ok=True)

    def round(self, turn: int, *, is_mounted: bool) -> dict[str, Cost]:
        """Call each verb once."""
        target = self.overlay.mnt if is_mounted else self.overlay.sto
        found: dict[str, Cost] = {}

        def call(name: str, *words: str | Path) -> None:
            found[name] = self.call(*words, is_mounted=is_mounted)

        self.overlay.mount()
        if not is_mounted:
            self.overlay.umount()
        call("checkpoint create", "checkpoint", "create", target, f"c{turn}")
        if not is_mounted:
            self.overlay.mount()
        self.change(turn)
        if not is_mounted:
            self.overlay.umount()
        call("rollback of 10,000", "rollback", target, f"c{turn}")
        call("undo", "undo", target)
        call("redo", "redo", target)
        call("undo of the redo", "undo", target)
        if is_mounted:
            call("revert of a directory", "revert", self.overlay.mnt / "d1")
        else:
            call("revert of a directory", "revert", "--sto", self.overlay.sto, "d1")
        call("undo of the revert", "undo", target)
        call("reset, 300 kept", "reset", target, "--keep-file", self.keep)
        call("undo of the reset", "undo", target)
        call("clone", "clone", target, self.device.path / f"clone{next(self.clones)}")
        call("checkpoint delete", "checkpoint", "delete", target, f"c{turn}")
        if is_mounted:
            self.overlay.umount()
        return found

    def days(self) -> tuple[int, int]:
        """Change ten files a day, with a checkpoint each day; bytes at the device, and bytes of all checkpoints."""
        self.overlay.mount()
        run("sync", "-f", self.device.path)
        before = self.device.figures()["bytes"]
        for day in range(_DAYS):
            subprocess.run([minifo_program(), "checkpoint", "create", self.overlay.mnt, f"day{day}"], check=True,
                           stdout=subprocess.DEVNULL)  # fmt: skip
            for number in range(10):
                (self.overlay.mnt / f"d{number}/f1").write_bytes(b"day %d" % day)
            run("sync", "-f", self.overlay.mnt)
        run("sync", "-f", self.device.path)
        written = self.device.figures()["bytes"] - before
        listed = run(minifo_program(), "checkpoint", "list", "--json", self.overlay.mnt).stdout.splitlines()
        own = sum(json.loads(line)["own"] for line in listed if json.loads(line)["name"].startswith("day"))
        self.overlay.umount()
        return written, own


def _work(where: Path, done: threading.Event, waits: list[float]) -> None:
    """Make and delete a directory again and again."""
    path = where / f"work{threading.get_ident()}"
    while not done.is_set():
        begin = time.monotonic()
        with contextlib.suppress(FileExistsError, FileNotFoundError):  # a return may bring it back, or take it away
            path.mkdir()
            path.rmdir()
        waits.append(time.monotonic() - begin)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="what the verbs that go back cost")
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root: it mounts")
    sandbox = MountSandbox()
    try:
        bench = Bench(sandbox, arguments.entries)
        turns = itertools.count()
        for is_mounted in (True, False):
            rounds = [bench.round(next(turns), is_mounted=is_mounted) for _ in range(arguments.turns)]
            print(f"{'mounted' if is_mounted else 'at rest':24}{'time':>10}{'written':>12}{'wait':>10}")
            for name in rounds[0]:
                costs = [found[name] for found in rounds]
                seconds, written, waited = (statistics.median(column) for column in zip(*costs, strict=True))
                wait = f"{waited * 1e3:7.0f} ms" if is_mounted else ""
                print(f"{name:24}{seconds:8.2f} s{written / 1024:8.0f} KiB{wait:>10}")
        written, own = bench.days()
        print(f"{_DAYS} days of 10 files: {written / 1024:.0f} KiB written, checkpoints of {own / 1024:.0f} KiB in all")
    finally:
        sandbox.close()


if __name__ == "__main__":
    main()
