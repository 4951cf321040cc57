"""A power cut during minifo txn: the next mount shows what was there before it, or all of it."""

from __future__ import annotations

import random
import subprocess
import time

import pytest

from tests.live_crash.load_check import check_storage, forget_memory, kill, rounds, seed, storage_uuid, unmount_dead
from tests.live_crash.loop_device import Device
from tests.mount.mount_sandbox import MountSandbox, minifo_program

_FILES = 40
_WORK = f"for i in $(seq {_FILES}); do echo $1 > f$i; [ $i != 20 ] || sync .; done"


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_power_cut(sandbox: MountSandbox, kind: str) -> None:
    """Whenever it comes, every file has the same turn; and one that was acknowledged is there."""
    choose = random.Random(f"{seed()} {kind}")
    device = Device(sandbox, kind, 400)
    overlay = sandbox.overlay("commit=0.1", sto=device.directory("sto"))
    overlay.mount()
    uuid = storage_uuid(overlay.sto)
    turn, least, seen = 0, 0, set()
    for _ in range(rounds(6)):
        turn += 1
        words = [minifo_program(), "txn", "-q", overlay.mnt, "--", "sh", "-c", _WORK, "sh", str(turn)]
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
            limit = time.monotonic() + choose.uniform(0.2, 2.0)
            while running.poll() is None and time.monotonic() < limit:
                time.sleep(0.01)
            if running.poll() == 0:
                least = turn
            device.cut(log=choose.random() < 0.5)
            kill(overlay)
            running.kill()
        unmount_dead(overlay)
        device.umount()
        forget_memory(uuid)
        device.mount()
        overlay.mount()
        turns = {int(path.read_text()) for path in overlay.mnt.glob("f*")} or {0}
        assert len(turns) == 1, "half of a transaction"
        assert least <= max(turns) <= turn
        assert max(turns) == 0 or len(list(overlay.mnt.glob("f*"))) == _FILES
        least = max(turns)
        seen.add(least == turn)
    overlay.umount()
    check_storage(overlay.sto)
    print(f"{kind}: {turn} cuts, {'both outcomes' if len(seen) == 2 else 'one outcome'} seen")
