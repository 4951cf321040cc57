"""The file systems that are compared: how each is mounted over a base, and taken away again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path


def run(*words: str | Path, check: bool = True) -> None:
    """Run a command and fail with what it said."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{words}: {done.stderr or done.stdout}")


@dataclass
class System:
    """One way to make a base writable.

    Attributes:
        name: as the table shows it.
        kind: plain, overlay, fuse-overlayfs, unionfs or minifo.
        options: mount options beyond the directories.
    """

    name: str
    kind: str
    options: str = ""
    needs: str = ""
    mounted: Path | None = field(default=None, repr=False)

    @property
    def available(self) -> bool:
        """True if its program is installed."""
        return not self.needs or shutil.which(self.needs) is not None

    def mount(self, base: Path, work: Path) -> Path:
        """Mount over *base* with storage below *work*, and return where."""
        upper, scratch, mnt = work / "upper", work / "scratch", work / "mnt"
        for directory in (upper, scratch, mnt):
            directory.mkdir(parents=True, exist_ok=True)
        layers = f"lowerdir={base},upperdir={upper},workdir={scratch}"
        more = f",{self.options}" if self.options else ""
        if self.kind == "plain":
            if not any(mnt.iterdir()):
                run("cp", "-a", f"{base}/.", mnt)
            return mnt
        if self.kind == "overlay":
            run("mount", "-t", "overlay", "overlay", "-o", layers + more, mnt)
        elif self.kind == "fuse-overlayfs":
            run("fuse-overlayfs", "-o", layers + more, mnt)
        elif self.kind == "unionfs":
            run("unionfs", "-o", "cow,allow_other,use_ino,suid,dev", f"{upper}=RW:{base}=RO", mnt)
        else:
            words = ["minifo", "mount", "-o", f"base={base},sto={upper}{more}", str(mnt)]
            run(os.path.join(os.path.dirname(sys.executable), words[0]), *words[1:])
        self.mounted = mnt
        return mnt

    def unmount(self) -> None:
        """Unmount, and wait until the daemon is gone."""
        if self.mounted is None:
            return
        mnt, self.mounted = self.mounted, None
        if self.kind == "minifo":
            run(os.path.join(os.path.dirname(sys.executable), "minifo"), "umount", mnt)
            return
        for _ in range(50):
            if subprocess.run(["umount", mnt], capture_output=True, check=False).returncode == 0:
                return
            time.sleep(0.1)
        run("umount", "-l", mnt)


SYSTEMS = [
    System("plain directory", "plain"),
    System("kernel overlayfs", "overlay"),
    System("overlayfs redirect+metacopy+index", "overlay", "redirect_dir=on,metacopy=on,index=on"),
    System("fuse-overlayfs", "fuse-overlayfs", needs="fuse-overlayfs"),
    System("unionfs-fuse", "unionfs", needs="unionfs"),
    System("minifo", "minifo"),
    System("minifo, no hook", "minifo", "plain"),
]
