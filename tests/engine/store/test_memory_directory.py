"""The directory in memory: which one is taken, and that a look at it makes none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minifo.engine.store.memory_directory import expected_memory_directory, memory_directory

pytestmark = pytest.mark.root

_ASK = (
    "from minifo.engine.store import memory_directory as m; print(m.expected_memory_directory(), m.memory_directory())"
)


def asked(before: str) -> list[str]:
    """What is expected, and what is taken after that, on a machine that commands of the shell change."""
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", f'{before}\nexec "$@"', "sh"]
    done = subprocess.run([*words, sys.executable, "-c", _ASK], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.split()


def test_what_is_expected_is_taken() -> None:
    """Where it is there already."""
    taken = memory_directory()
    assert taken is not None
    assert expected_memory_directory() == taken


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("mount -t tmpfs none /run; mount -t tmpfs none /dev/shm", "/run/minifo"),
        ("mount -t tmpfs none /run; mkdir -m 700 /run/minifo", "/run/minifo"),
        ("mount --bind DISK /run; mount -t tmpfs none /dev/shm", "/dev/shm/minifo-0"),
        ("mount -t tmpfs none /run; mkdir -m 777 /run/minifo; mount -t tmpfs none /dev/shm", "/dev/shm/minifo-0"),
        ("mount -t tmpfs none /run; mkdir /run/minifo; chown 1 /run/minifo; mount --bind DISK /dev/shm", "None"),
        ("mount -t tmpfs none /run; ln -s /tmp /run/minifo; mount --bind DISK /dev/shm", "None"),
        ("mount -t tmpfs none /run; touch /run/minifo; mount --bind DISK /dev/shm", "None"),
        ("mount --bind DISK /run; mount --bind DISK /dev/shm", "None"),
    ],
)
def test_machines(tmp_path: Path, before: str, expected: str) -> None:
    """Present and absent ones, other users', links, disks: what is expected is what is taken."""
    disk = tmp_path / "disk"
    disk.mkdir()
    assert os.statvfs(disk).f_fsid != os.statvfs("/dev/shm").f_fsid
    assert asked(before.replace("DISK", str(disk))) == [expected, expected]
