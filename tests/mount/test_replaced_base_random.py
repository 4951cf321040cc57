"""Random calls on a real mount over a base that is replaced between mounts, and the oracle that says what shows.

``MINIFO_REPLACED_BASES`` is the number of examples, of 50 steps then, for a long run by hand: about three seconds each.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from minifo.engine.store.syscalls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, fallocate
from tests.model.state_machine_bases import Bases, Fact
from tests.mount.mount_sandbox import MountSandbox, OverlayMount
from tests.shared import file_trees

_BY_HAND = int(os.environ.get("MINIFO_REPLACED_BASES", "0"))
EXAMPLES = _BY_HAND or max(3, settings().max_examples // 12)
STEPS = 50 if _BY_HAND else 25
pytestmark = pytest.mark.timeout(120 + 15 * _BY_HAND)
_COMMIT = "commit", "forget_all"


class Live:
    """A real mount as a side of the machine.

    Args:
        home: an empty directory.
        options: ``-o`` words of every mount.
    """

    def __init__(self, home: Path, *options: str) -> None:
        self._overlay = OverlayMount(home, [*options, "base_check=ignore"])
        self.storage = self._overlay.sto
        self.mnt = os.fsencode(self._overlay.mnt)
        self._open = False

    def open(self, base: Path, *, whole: bool) -> None:
        self._overlay.base = base
        self._overlay.mount(*(["copy_up=whole"] if whole else []))
        self._open = True

    def close(self, *, kill: bool) -> None:
        if not self._open:
            return
        self._open = False
        if kill:
            self._overlay.kill()
            self._overlay.clear()
        else:
            self._overlay.umount()

    def remove(self) -> None:
        """Leave neither mount nor daemon."""
        self._overlay.clear()

    def facts(self) -> dict[bytes, Fact]:
        found = {b"": self._fact(self.mnt)}
        for full in file_trees.walk(self.mnt):
            found[full[len(self.mnt) :]] = self._fact(full)
        return found

    def _fact(self, full: bytes) -> Fact:
        st = os.lstat(full)
        target = os.readlink(full) if stat.S_ISLNK(st.st_mode) else b""
        xattrs = file_trees.xattrs(full)
        return Fact(
            st.st_mode, st.st_uid, st.st_gid, st.st_nlink, st.st_size, st.st_mtime_ns, st.st_ino, target, xattrs
        )

    def read(self, path: bytes, offset: int, size: int) -> bytes:
        fd = os.open(self.mnt + path, os.O_RDONLY)
        try:
            return os.pread(fd, size, offset)
        finally:
            os.close(fd)

    def act(self, what: str, *arguments: Any) -> None:
        if what not in _COMMIT:
            getattr(self, what)(*(self.mnt + a if isinstance(a, bytes) and a[:1] == b"/" else a for a in arguments))
            return
        fd = os.open(self.mnt, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def create(self, full: bytes) -> None:
        os.mknod(full, stat.S_IFREG | 0o644)

    def mkfifo(self, full: bytes) -> None:
        os.mkfifo(full, 0o644)

    def mkdir(self, full: bytes) -> None:
        os.mkdir(full, 0o755)

    def symlink(self, full: bytes) -> None:
        os.symlink(b"a", full)

    def link(self, full: bytes, new: bytes) -> None:
        os.link(full, new, follow_symlinks=False)

    def unlink(self, full: bytes, keep: bool) -> None:
        fd = os.open(full, os.O_PATH | os.O_NOFOLLOW) if keep else None
        try:
            os.unlink(full)
        finally:
            if fd is not None:
                os.close(fd)

    def rmdir(self, full: bytes, keep: bool) -> None:
        os.rmdir(full)

    def rename(self, full: bytes, new: bytes, exchange: bool) -> None:
        file_trees.renameat2(-100, full, -100, new, 2 if exchange else 0)

    def write(self, full: bytes, offset: int, data: bytes) -> None:
        fd = os.open(full, os.O_WRONLY)
        try:
            os.pwrite(fd, data, offset)
        finally:
            os.close(fd)

    def truncate(self, full: bytes, size: int) -> None:
        if os.stat(full).st_size != size:  # with the size it has, file systems disagree on its times
            os.truncate(full, size)

    def punch(self, full: bytes, offset: int, size: int) -> None:
        fd = os.open(full, os.O_WRONLY)
        try:
            fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, size)
        finally:
            os.close(fd)

    def chmod(self, full: bytes, mode: int) -> None:
        os.chmod(full, mode)

    def chown(self, full: bytes, uid: int) -> None:
        os.lchown(full, uid, -1)

    def utimens(self, full: bytes, mtime: int) -> None:
        os.utime(full, ns=(mtime, mtime), follow_symlinks=False)

    def setxattr(self, full: bytes, name: bytes, value: bytes) -> None:
        os.setxattr(full, name, value)

    def origins(self) -> set[tuple[bytes, int]]:
        return set()

    def check(self) -> None:
        """What minifo-fsck says is looked at while nothing is mounted."""


class LiveBases(Bases):
    """The same on a real mount, with fewer, larger steps."""

    copied = 128 << 10
    page = os.sysconf("SC_PAGE_SIZE")
    links = False  # by which of its names a base file is known would have to be read from the database

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            if hasattr(self, "overlay"):
                assert isinstance(self.overlay, Live)
                self.overlay.remove()


class PlainBases(LiveBases):
    """Without the session hook, which is what passes fallocate on."""

    def punch(self, pick: int, offset: int, size: int) -> None:
        """No rule here."""


@pytest.mark.parametrize("mode", ["hook", "plain"])
def test_random_bases(sandbox: MountSandbox, mode: str) -> None:
    """Whatever base is mounted below, what shows is what the rules say."""
    options = ["plain"] if mode == "plain" else []

    def side(top: Path) -> Live:
        return Live(top, *options)

    machine = type(LiveBases.__name__, (LiveBases if mode == "hook" else PlainBases,), {"side": staticmethod(side)})
    share = 1 if mode == "hook" else 3
    machine.second_device = sandbox.file_system("tmpfs")
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES // share, stateful_step_count=STEPS, suppress_health_check=list(HealthCheck)
        ),
    )
