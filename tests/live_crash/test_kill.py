"""A killed daemon loses nothing acknowledged (promise P4), whatever it was doing, replaced files stay whole (P3)."""

from __future__ import annotations

import random
import time

import pytest

from minifo.engine import Overlay as Engine
from minifo.engine.model import ROOT, Process
from tests.live_crash.load_check import Load, check_storage, kill, mount_and_kill, rounds, seed, unmount_dead
from tests.mount.mount_sandbox import MountSandbox, in_child

_ROUNDS = 14
_REPLAY = 0.06  # seconds after it has taken the lock in which a daemon replays, sweeps, commits and mounts


@pytest.mark.parametrize("commit", ["0.05", "1"])
def test_kill(sandbox: MountSandbox, commit: str) -> None:
    """Kill the daemon of a loaded mount again and again; at times also the next one, while it replays."""
    choose = random.Random(f"{seed()} {commit}")
    overlay = sandbox.overlay(f"commit={commit}")
    load = Load(overlay, sandbox.directory())
    overlay.mount()
    mounted_early = 0
    for _ in range(rounds(_ROUNDS) // 2):
        load.start()
        time.sleep(choose.uniform(0.1, 0.9))
        when = kill(overlay)
        load.stop()
        unmount_dead(overlay)
        for _ in range(choose.choice([0, 0, 1, 2, 3])):
            mounted_early += mount_and_kill(overlay, choose.uniform(0, _REPLAY))
        overlay.mount()
        check_storage(overlay.sto)
        load.check_killed(when)
    overlay.umount()
    check_storage(overlay.sto)
    print(f"{load.round} kills, {load.operations} operations, {sum(load.rows.values())} rows")


def test_many_crashes_in_a_row(sandbox: MountSandbox) -> None:
    """However often a process dies between two commits, the next one finds what it left without looking far."""
    base, storage = sandbox.directory(), sandbox.directory()

    def crash() -> int:
        overlay = Engine.open(str(base), str(storage))
        looked_at = overlay.objects.limit - overlay.objects.committed_next
        for name in (b"committed", b"lost"):
            if overlay.lookup(ROOT, name) is None:
                made = overlay.mknod(ROOT, name, 0o644, 0, Process())
                overlay.write(made.ino, 0, bytes(100_000))
            if name == b"committed":
                overlay.commit()
        return looked_at

    assert max(in_child(crash) for _ in range(12)) < 10_000
