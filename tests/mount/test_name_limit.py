"""Above a number of names all that nobody uses are forgotten, and found again when somebody looks for them."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.mount.mount_sandbox import MountSandbox, OverlayMount, is_mounted, minifo, minifo_program

_NAMES = 3000
_LIMIT = 2900  # so that few are left to be found when it is reached
_PTRACE_DETACH, _PTRACE_SEIZE, _PTRACE_INTERRUPT = 17, 0x4206, 0x4207
_WALL = 0x40000000  # waitpid(2): threads as well
_LINE = re.compile(r"of (\d+) inodes (\d+) are still referenced")


def _list(top: Path) -> list[tuple[str, int, int, int]]:
    """Path, inode number, type and size of everything."""
    found = []
    for where, directories, files in os.walk(top):
        for name in (*directories, *files):
            st = os.lstat(os.path.join(where, name))
            found.append((os.path.join(where, name), st.st_ino, stat.S_IFMT(st.st_mode), st.st_size))
    return sorted(found)


@contextmanager
def _mounted(sandbox: MountSandbox, *, hold: bool = False) -> Iterator[tuple[OverlayMount, Path]]:
    """A mount of many names that may not all be known, and the log of its daemon; no violation is left behind.

    Its helper process is held at once if *hold*, so the daemon never hears that the mount answers.
    """
    overlay = sandbox.overlay()
    for number in range(_NAMES):
        (overlay.base / f"d{number % 10}").mkdir(exist_ok=True)
        (overlay.base / f"d{number % 10}" / f"f{number}").write_bytes(b"x" * (number % 7))
    words = [
        "mount",
        "-f",
        "-o",
        f"debug,max_names={_LIMIT}",
        "--base",
        overlay.base,
        "--sto",
        overlay.sto,
        overlay.mnt,
    ]
    log = sandbox.directory() / "log"
    with open(log, "wb") as stderr:
        daemon = subprocess.Popen([minifo_program(), *words], stderr=stderr)
    overlay.pid = daemon.pid
    try:
        deadline = time.monotonic() + 60
        while not is_mounted(overlay.mnt):
            if hold and (helper := _child(daemon.pid)) is not None:
                _hold(helper)
                hold = False
            assert daemon.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        yield overlay, log
        minifo("umount", overlay.mnt)
        assert daemon.wait(30) == 0
        assert overlay.violations() == []
    finally:
        daemon.kill()
        daemon.wait()


def _child(pid: int) -> int | None:
    """The helper process of a daemon; whatever else it starts does not ignore SIGTERM."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(FileNotFoundError):
            status = Path(f"/proc/{child}/status").read_text()
            ignored = int(status.partition("SigIgn:")[2].split()[0], 16)
            if ignored & 1 << (signal.SIGTERM - 1):
                return int(child)
    return None


def _ptrace(request: int, thread: int) -> None:
    if ctypes.CDLL(None, use_errno=True).ptrace(ctypes.c_long(request), thread, None, None) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")


def _hold(pid: int) -> None:
    """Make a process wait as a slow one would: the daemon would hear of SIGSTOP, and replace it (ptrace(2))."""
    held: set[str] = set()
    while threads := set(os.listdir(f"/proc/{pid}/task")) - held:
        for thread in map(int, threads):
            _ptrace(_PTRACE_SEIZE, thread)
            _ptrace(_PTRACE_INTERRUPT, thread)
            os.waitpid(thread, _WALL)
        held |= threads


def _release(pid: int) -> None:
    """Let it go on."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        _ptrace(_PTRACE_DETACH, int(thread))


def _forgotten(log: Path) -> None:
    """Return when the daemon has said that it knows few names."""
    deadline = time.monotonic() + 60
    while (told := _LINE.search(log.read_text())) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    known, left = int(told[1]), int(told[2])
    assert known >= _LIMIT
    assert left < _LIMIT // 3


def test_many_names_are_forgotten(sandbox: MountSandbox) -> None:
    """After a walk of many names few are known, open files go on, and everything is where and what it was."""
    with _mounted(sandbox) as (overlay, log):
        (overlay.mnt / "made").write_bytes(b"made")
        with open(overlay.mnt / "d3" / "f13", "r+b") as used, open(overlay.mnt / "deleted", "w+b") as deleted:
            deleted.write(b"still here")
            os.unlink(overlay.mnt / "deleted")
            before = _list(overlay.mnt)
            _forgotten(log)
            used.seek(0, os.SEEK_END)
            used.write(b"end")
            used.flush()
            deleted.seek(0)
            assert deleted.read() == b"still here"
        after = _list(overlay.mnt)
        grown = str(overlay.mnt / "d3" / "f13")
        assert [entry for entry in after if entry[0] != grown] == [entry for entry in before if entry[0] != grown]
        assert (overlay.mnt / "made").read_bytes() == b"made"
        assert Path(grown).read_bytes() == b"x" * (13 % 7) + b"end"


def test_forgotten_before_the_mount_has_answered(sandbox: MountSandbox) -> None:
    """A mount may be used before its daemon knows that it answers; nothing asked of the helper meanwhile is lost."""
    with _mounted(sandbox, hold=True) as (overlay, log):
        helper = _child(overlay.pid)
        assert helper is not None
        assert Path(f"/proc/{helper}/stat").read_text().rsplit(")", 1)[1].split()[0] == "t"
        assert len(_list(overlay.mnt)) > _LIMIT
        time.sleep(0.5)  # the daemon asks for forgetting now, and waits
        _release(helper)
        _forgotten(log)
