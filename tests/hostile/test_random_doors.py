"""Storages edited as an attacker would, with the real commands: mount(8)-style mounts, unmounting, repair, merge.

test_random_edits.py goes through the same doors within one process, thirty times as fast; here the helper process, the
daemon's own start and end, and the commands as programs are part of it.  ``MINIFO_HOSTILE_MOUNTS`` is the number of
storages.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.hostile.hostile_storage import HostileStorage
from tests.hostile.storage_edits import EDITS, Edit, Extents, SetCells, StoragePaths, apply

STORAGES = int(os.environ.get("MINIFO_HOSTILE_MOUNTS", "0")) or max(3, settings().max_examples // 25)
pytestmark = pytest.mark.timeout(120 + 30 * STORAGES)

_DOORS = ("mount-ro", "check", "plan", "mount", "repair", "mount")


@example(edits=(Extents(0),), door="rescue")  # a file of 8 EiB
@example(edits=(Extents(1),), door="rescue")  # a file that gives EIO
@example(edits=(SetCells("inode", "mode", 0, 0),), door="rescue")  # a root that is not a directory
@settings(max_examples=STORAGES, suppress_health_check=list(HealthCheck))
@given(edits=EDITS, door=st.sampled_from(("rescue", "export", "merge")))
def test_real_commands(fuse_required: None, edits: tuple[Edit, ...], door: str) -> None:
    """Nothing outside is changed or read, no command leaves a traceback, and no mount or daemon stays."""
    top = Path(tempfile.mkdtemp(prefix="minifo-hostile-"))
    hostile = HostileStorage(top)
    try:
        apply(edits, StoragePaths(str(top), str(hostile.storage)))
        hostile.know_outside()  # a hard link to what is outside is the attacker's doing
        for verb in ("status", "diff", "du"):
            hostile.run("minifo", verb, "--base", hostile.base, hostile.storage)
        for name in (*_DOORS, door):
            hostile.go_through(name)
            assert not hostile.is_mounted(), name
            hostile.assert_unharmed()
    finally:
        hostile.clear()
        subprocess.run(["rm", "-rf", top], check=True)
