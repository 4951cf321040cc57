"""After a power cut the next mount shows a state that existed (P1), fsync held (P2), and little is lost (P4)."""

from __future__ import annotations

import random
import time

import pytest

from tests.live_crash.load_check import (
    Load,
    check_storage,
    forget_memory,
    kill,
    rounds,
    seed,
    storage_uuid,
    unmount_dead,
)
from tests.live_crash.loop_device import Device
from tests.mount.mount_sandbox import MountSandbox

_COMMIT = 0.3  # seconds
_SLACK = 2.0  # seconds a commit may take, on a machine that has other things to do
_CUTS = {"ext4": 6, "xfs": 3}
_MEGABYTES = 400


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_power_cut(sandbox: MountSandbox, kind: str) -> None:
    """Stop the device under a loaded mount again and again, lose what was in memory, and look what is there."""
    choose = random.Random(f"{seed()} {kind}")
    device = Device(sandbox, kind, _MEGABYTES)
    overlay = sandbox.overlay(f"commit={_COMMIT}", sto=device.directory("sto"))
    load = Load(overlay, sandbox.directory())
    overlay.mount()
    uuid = storage_uuid(overlay.sto)
    for _ in range(rounds(_CUTS[kind])):
        load.start()
        time.sleep(choose.choice([choose.uniform(0.1, 1), choose.uniform(1, _COMMIT + _SLACK + 1)]))
        when = time.monotonic_ns()
        device.cut(log=choose.random() < 0.3)
        time.sleep(choose.uniform(0, 0.2))
        kill(overlay)
        load.stop()
        unmount_dead(overlay)
        device.umount()
        forget_memory(uuid)
        device.mount()
        said = overlay.mount().stderr
        assert said == ""
        check_storage(overlay.sto)
        load.check_cut(when, when - int((_COMMIT + _SLACK) * 1e9))
    overlay.umount()
    check_storage(overlay.sto)
    print(f"{kind}: {load.round} cuts, {load.operations} operations, {sum(load.rows.values())} rows")
