"""The file systems that are compared: how each is mounted over a base, and taken away again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.bench.volume import run

PLAIN = "plain directory"
KERNEL = "kernel overlayfs"
REDIRECT = "overlayfs, redirect"
PEER = "fuse-overlayfs"
UNIONFS = "unionfs-fuse"
OURS = "minifo"
UNHOOKED = "minifo, no hook"

_UNIONFS = "cow,hide_meta_files,allow_other,use_ino,suid,dev"
_PATIENCE = 60.0  # seconds a daemon may take to end


@dataclass(frozen=True)
class System:
    """One way to make a base writable.

    Attributes:
        name: as the tables show it.
        kind: plain, overlay, fuse-overlayfs, unionfs or minifo.
        options: mount options beyond the directories.
        needs: the program it cannot do without.
    """

    name: str
    kind: str
    options: str = ""
    needs: str = ""

    @property
    def available(self) -> bool:
        """True if its program is installed."""
        return not self.needs or shutil.which(self.needs) is not None

    @property
    def fuse(self) -> bool:
        """True if a daemon does the work."""
        return self.kind not in ("plain", "overlay")

    def command(self, base: Path, work: Path, mnt: Path) -> list[str]:
        """The mount command, for storage below *work*."""
        upper = work / "upper"
        more = f",{self.options}" if self.options else ""
        layers = f"lowerdir={base},upperdir={upper},workdir={work / 'scratch'}{more}"
        if self.kind == "overlay":
            return ["mount", "-t", "overlay", "overlay", "-o", layers, str(mnt)]
        if self.kind == "fuse-overlayfs":
            return ["fuse-overlayfs", "-o", layers, str(mnt)]
        if self.kind == "unionfs":
            return ["unionfs", "-o", _UNIONFS, f"{upper}=RW:{base}=RO", str(mnt)]
        return [_minifo(), "mount", "-o", f"base={base},sto={upper}{more}", str(mnt)]


def _minifo() -> str:
    return os.path.join(os.path.dirname(sys.executable), "minifo")


def _runs(pid: int) -> bool:
    """Whether a process runs; one that has ended need not have been collected."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


SYSTEMS = [
    System(PLAIN, "plain"),
    System(KERNEL, "overlay"),
    System(REDIRECT, "overlay", "redirect_dir=on,metacopy=on,index=on"),
    System(PEER, "fuse-overlayfs", needs="fuse-overlayfs"),
    System(UNIONFS, "unionfs", needs="unionfs"),
    System(OURS, "minifo"),
    System(UNHOOKED, "minifo", "plain"),
]


class Mount:
    """A mounted system.

    Args:
        system: which.
        base: the directory below.
        work: an empty directory, or that of an earlier mount, for its storage.
        mnt: where to mount.
        writes: a plain directory that is written to must be a copy of the base; else the base itself will do.

    Attributes:
        path: where the work is to be done.
        seconds: from the start of the mount command until the mount answered.
    """

    def __init__(self, system: System, base: Path, work: Path, mnt: Path, *, writes: bool) -> None:
        self._system = system
        for directory in (work / "upper", work / "scratch", mnt):
            directory.mkdir(parents=True, exist_ok=True)
        self.path = mnt
        self.seconds = 0.0
        if system.kind == "plain":
            self.path = work / "upper" if writes else base
            if writes:
                run("cp", "-a", f"{base}/.", self.path)
            return
        words = system.command(base, work, mnt)
        below = os.stat(mnt).st_dev
        start = time.perf_counter()
        run(*words)
        os.listdir(mnt)
        self.seconds = time.perf_counter() - start
        if os.stat(mnt).st_dev == below:
            raise RuntimeError(f"{' '.join(words)}: nothing is mounted")

    def processes(self) -> list[int]:
        """The daemon and its helpers: everything started by a command line that names the mount point."""
        if not self._system.fuse:
            return []
        found = []
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                words = (directory / "cmdline").read_bytes().split(b"\0")
            except OSError:  # it has ended meanwhile
                continue
            if os.fsencode(self.path) in words:
                found.append(int(directory.name))
        return found

    def memory(self) -> tuple[int, int]:
        """Bytes resident in the largest process, and the proportional share of all of them."""
        largest = total = 0
        for pid in self.processes():
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            figures = {words[0]: int(words[1]) << 10 for words in map(str.split, text.splitlines()[1:])}
            largest = max(largest, figures["Rss:"])
            total += figures["Pss:"]
        return largest, total

    def flush(self) -> None:
        """Make everything durable that was done, in the way each system offers."""
        run("sync", "-f", self.path)  # pages the kernel holds of the mount
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)  # what the daemon holds
        finally:
            os.close(fd)

    def close(self) -> None:
        """Unmount, and wait until the daemon is gone."""
        if self._system.kind == "plain":
            return
        pids = self.processes()
        limit = time.monotonic() + _PATIENCE
        words = [_minifo(), "umount", str(self.path)] if self._system.kind == "minifo" else ["umount", str(self.path)]
        while subprocess.run(words, capture_output=True, check=False).returncode:
            if time.monotonic() > limit:
                run("umount", "-l", self.path)
                raise RuntimeError(f"{self._system.name} could not be unmounted")
            time.sleep(0.1)
        while any(map(_runs, pids)):
            if time.monotonic() > limit:
                raise RuntimeError(f"the daemon of {self._system.name} does not end")
            time.sleep(0.01)
