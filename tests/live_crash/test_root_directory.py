"""An overlay that the system runs on, moved over / as docs/examples/bootinit does it, below a process 1 of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from minifo.engine.store.memory_directory import memory_directory
from tests.live_crash.load_check import storage_uuid
from tests.mount.mount_sandbox import MountSandbox, minifo_program, run

_BOOT = """set -e
mount -t tmpfs none /run/mount # what is noted about mounts concerns nobody else
mount -t proc proc /proc
"$1" mount -o commit=0.2 $5 --base / --sto "$2" "$3"
daemon=$(cat "$2/lock")
mount --rbind /dev "$3/dev"
mount -t proc proc "$3/proc"
cd "$3"
mount --move . /
exec chroot . "$4" -c "$6" "$daemon"
"""
_INIT = """if True:
    import errno, os, signal, sys, time
    assert os.getpid() == 1
    daemon = int(sys.argv[1])
    os.mkdir("/minifo-test")
    dirty = open("/minifo-test/dirty", "w")
    dirty.write("of the kernel " * 10_000)
    dirty.flush()
    with open("/minifo-test/target", "w") as file:
        file.write("old")
    source = open("/minifo-test/source", "w")
    source.write("new " * 5000)
    source.flush()
    os.rename("/minifo-test/source", "/minifo-test/target")
    time.sleep(2)
    os.mkdir("/minifo-test/before")
    os.kill(daemon, signal.SIGTERM)
    time.sleep(1)
    for number in range(100):
        os.mkdir(f"/minifo-test/{number}")
        open(f"/minifo-test/{number}/file", "w").write("after")
    os.kill(daemon, signal.SIGKILL)
    try:
        os.stat("/minifo-test/nothing")
    except OSError as error:
        print(error.errno in (errno.ENOTCONN, errno.ECONNABORTED))
"""


@pytest.mark.parametrize("option", ["", "-oplain"])
def test_shutdown(sandbox: MountSandbox, option: str) -> None:
    """SIGTERM to all does not take the root directory away, and SIGKILL then loses nothing, not even the redo log's.

    Before that timed commits and replacing renames take along what the kernel holds, as anywhere.
    """
    sto, mnt = sandbox.directory(), sandbox.directory()
    words = ["unshare", "--pid", "--fork", "--mount", "--propagation", "private", "sh", "-c", _BOOT, "boot"]
    done = run(*words, minifo_program(), sto, mnt, sys.executable, option or "-oasync", _INIT, check=False)
    assert done.stdout == "True\n", done.stderr
    directory = memory_directory()
    assert directory is not None
    for log in Path(directory).glob(f"{storage_uuid(sto)}*.redo"):
        log.unlink()  # as a power cut does
    overlay = sandbox.overlay(sto=sto, base=Path("/"))
    overlay.mount()
    found = overlay.mnt / "minifo-test"
    assert (found / "dirty").read_text() == "of the kernel " * 10_000
    assert (found / "target").read_text() == "new " * 5000
    assert (found / "before").is_dir()
    assert [(found / f"{number}/file").read_text() for number in range(100)] == ["after"] * 100
