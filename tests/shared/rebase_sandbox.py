"""An overlay whose base is replaced: ``old`` is what it was made over, ``base`` what is there now."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minifo.engine.recovery import BaseCheck
from minifo.migrations.rebase.apply import RebaseReport, rebase
from minifo.tools.cli import main
from tests.shared.overlay_sandbox import OverlaySandbox

BIG = 200_000  # bytes; more than is copied whole
Shown = dict[str, tuple[object, ...]]


class RebaseSandbox(OverlaySandbox):
    """An overlay, its old base and its new one."""

    def __init__(self, top: Path) -> None:
        super().__init__(top)
        self.old = top / "old"
        self.base_check = BaseCheck.IGNORE

    def replace(self, change: Callable[[Path], object] = lambda base: None) -> None:
        """Put a changed copy of the base in its place, and keep the old one."""
        self.close()
        self.base.rename(self.old)
        copy(self.old, self.base)
        change(self.base)

    def rebase(self, *policies: str, apply: bool = True, old: bool = False) -> RebaseReport:
        """Rebase; afterwards no rule is broken, and fsck has nothing to say."""
        self.close()
        old_base = str(self.old) if old else None
        report = rebase(str(self.sto), str(self.base), policies=policies, apply=apply, old_base=old_base, any_base=True)
        self.check()
        return report

    def check(self) -> None:
        """No invariant is broken, and fsck finds nothing but notes."""
        assert self.ov.check() == []
        self.close()
        with contextlib.redirect_stdout(None):
            assert main(["fsck", "-f", "-n", "--base", str(self.base), str(self.sto)]) == 0

    def shown(self, path: str = "") -> Shown:
        """All that shows: types, attributes and bytes by path; what cannot be read is its errno."""
        seen: Shown = {}
        for name in self.names(path):
            place = os.path.join(path, name)
            attr = self.attr(place)
            facts: tuple[object, ...] = (attr.mode, attr.uid, attr.gid)
            if stat.S_ISDIR(attr.mode):
                seen[place] = facts
                seen |= self.shown(place)
                continue
            facts += (attr.nlink, attr.mtime)
            if stat.S_ISREG(attr.mode):
                try:
                    seen[place] = (*facts, self.read(place))
                except OSError as error:
                    seen[place] = (*facts, error.errno)
            else:
                seen[place] = facts
        return seen


def rewrite(base: Path, name: str, data: bytes, *, later: int = 1) -> None:
    """Give a base file other bytes, by a new file in its place; its mtime moves on by some seconds."""
    path = base / name
    old = path.stat()
    path.unlink()
    path.write_bytes(data)
    path.chmod(stat.S_IMODE(old.st_mode))
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns + later * 10**9))


def remove(base: Path, name: str) -> None:
    """Remove a file or a tree."""
    path = base / name
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def copy(source: Path, target: Path) -> None:
    """``cp -a``."""
    subprocess.run(["cp", "-a", "--", str(source), str(target)], check=True)


def as_json(text: str) -> Any:
    """What a command wrote with --json."""
    return json.loads(text)
