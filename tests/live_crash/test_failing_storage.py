"""Storage that fails while it is mounted: whoever unmounts hears that something is not durable, and where it is."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.live_crash.loop_device import Device
from tests.mount.mount_sandbox import MountSandbox, is_mounted, run


@pytest.mark.parametrize("program", ["minifo", "umount.fuse.minifo"])
@pytest.mark.parametrize("early", [False, True])
def test_umount_after_a_failed_commit(sandbox: MountSandbox, program: str, early: bool) -> None:
    """32 and one line with the redo log's place; the storage comes back, is mounted again, and nothing is missing."""
    device = Device(sandbox, "ext4", 100)
    overlay = sandbox.overlay("commit=60", sto=device.directory("sto"))
    overlay.mount()
    (overlay.mnt / "made").mkdir()
    (overlay.mnt / "made/file").write_text("a few bytes are a row")
    device.cut(log=True)
    if early:
        run("sync", overlay.mnt, check=False)  # the commit fails while it is mounted
    command = [Path(sys.executable).with_name(program), *(["umount"] if program == "minifo" else []), overlay.mnt]
    done = run(*command, check=False)
    assert not is_mounted(overlay.mnt)
    assert done.returncode == 32
    assert done.stderr.count("\n") == 1
    assert "its last changes are not durable" in done.stderr
    assert "mount it again before this machine restarts" in done.stderr
    log = re.search(r"they are in (\S+),", done.stderr)
    assert log is not None
    assert Path(log[1]).stat().st_size > 0
    device.umount()
    device.mount()
    overlay.mount()
    assert (overlay.mnt / "made/file").read_text() == "a few bytes are a row"
    overlay.umount()
    assert not Path(log[1]).exists()
