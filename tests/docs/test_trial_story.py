"""docs/trial-story.md, done as it stands, on a partition that loses power where it says so."""

from __future__ import annotations

import pytest

from tests.docs.document import check, steps
from tests.live_crash.load_check import forget_memory, kill, storage_uuid, unmount_dead
from tests.live_crash.loop_device import Device
from tests.mount.mount_sandbox import MountSandbox, daemon_of

DOCUMENT = "trial-story.md"
CUT = "*The power is cut.*"


@pytest.mark.timeout(300)
def test_every_command(sandbox: MountSandbox) -> None:
    """Each succeeds, and prints what the reader is told."""
    root = sandbox.directory()
    for name in ("etc/cron.d", "mnt/etc", "var"):
        (root / name).mkdir(parents=True)
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (root / "etc/cron.d/job").write_text("job\n")
    device = Device(sandbox, "ext4", 100)
    (root / "var/lib").symlink_to(device.path)
    overlay = sandbox.overlay(base=root / "etc", sto=device.path / "etc-changes", mnt=root / "mnt/etc")
    cuts = 0
    for command, expected in steps(DOCUMENT):
        if command != CUT:
            check(root, command, expected, device.path)
            continue
        cuts += 1
        uuid = storage_uuid(overlay.sto)
        overlay.pid = daemon_of(overlay.sto)
        device.cut(log=False)
        kill(overlay)
        unmount_dead(overlay)
        device.umount()
        forget_memory(uuid)
        device.mount()
    assert cuts == 4
    overlay.pid = daemon_of(overlay.sto)
    overlay.umount()
    assert overlay.violations() == []
