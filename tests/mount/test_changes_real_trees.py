"""What ``minifo diff`` says of real work on a mount, against a walk over base and mount: entry by entry.

By hand, for other trees: ``python -m tests.mount.test_changes_real_trees BASE MOUNT`` compares a mounted overlay with
its base, and prints the figures.
"""

from __future__ import annotations

import json
import os
import sys
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from minifo.engine import ROOT, Attr
from tests.model.test_changes import Line, Walk
from tests.mount.mount_sandbox import MountSandbox, minifo, run


class _Entry(NamedTuple):
    name: bytes


class MountedTree:
    """A mount, asked by system calls for what the walk asks an overlay for."""

    def __init__(self, mountpoint: str) -> None:
        self._paths: dict[int, bytes] = {ROOT: os.fsencode(mountpoint)}
        self.db = self

    def rows(self, sql: str) -> list[tuple[int]]:
        """Files with several names: which of their names went where cannot be told from a walk."""
        return [
            (ino,)
            for ino, path in self._paths.items()
            if ino != ROOT and os.lstat(path).st_nlink > 1 and not os.path.isdir(path)
        ]

    def readdir(self, ino: int) -> list[_Entry]:
        """The names in a directory."""
        return [_Entry(name) for name in os.listdir(self._paths[ino])]

    def lookup(self, ino: int, name: bytes) -> Attr:
        """The attributes of a name in a directory."""
        return self._attr(self._paths[ino] + b"/" + name)

    def getattr(self, ino: int) -> Attr:
        """The attributes of an object."""
        return self._attr(self._paths[ino])

    def _attr(self, path: bytes) -> Attr:
        st = os.lstat(path)
        self._paths.setdefault(st.st_ino, path)
        times = (st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns)
        return Attr(
            st.st_ino, st.st_mode, st.st_nlink, st.st_uid, st.st_gid, st.st_rdev, st.st_size, st.st_blocks, *times
        )

    def read(self, ino: int, offset: int, size: int) -> bytes:
        """All bytes of a file."""
        return Path(os.fsdecode(self._paths[ino])).read_bytes()

    def readlink(self, ino: int) -> bytes:
        """The target of a symlink."""
        return os.readlink(self._paths[ino])

    def listxattr(self, ino: int) -> list[bytes]:
        """The names of extended attributes."""
        return [os.fsencode(name) for name in os.listxattr(self._paths[ino], follow_symlinks=False)]

    def getxattr(self, ino: int, name: bytes) -> bytes:
        """The value of one."""
        return os.getxattr(self._paths[ino], name, follow_symlinks=False)


def _name(entry: dict[str, str], key: str) -> bytes | None:
    if f"{key}_b64" in entry:
        return b64decode(entry[f"{key}_b64"])
    return entry[key].encode() if key in entry else None


def _told(mountpoint: str) -> Iterator[Line]:
    for line in minifo("diff", "-r", "--ignore-identical", "--json", mountpoint).stdout.splitlines():
        entry: dict[str, Any] = json.loads(line)
        path = _name(entry, "path")
        assert path is not None
        yield entry["change"], path, _name(entry, "old_path")


def compared(base: str, mountpoint: str) -> tuple[list[Line], list[Line], Counter[str], int]:
    """Compare what diff says with the walk.

    Returns:
        The lines that only diff has, those that only the walk has, what both have by letters, and how many names the
        merged tree has.
    """
    tree: Any = MountedTree(mountpoint)
    walk = Walk(os.fsencode(base), tree)
    expected = set(filter(walk.is_plain, walk.lines()))
    found = set(filter(walk.is_plain, _told(mountpoint)))
    counts = Counter(letters for letters, _, _ in expected & found)
    return sorted(found - expected, key=repr), sorted(expected - found, key=repr), counts, len(walk.attrs)


def test_git_checkout_of_another_revision(sandbox: MountSandbox) -> None:
    """Files and directories come, go, move, and change their bytes, modes and types."""
    overlay = sandbox.overlay()

    def git(*words: str, where: Path = overlay.base) -> None:
        run("git", "-c", "user.name=me", "-c", "user.email=me@example.org", "-C", where, *words)

    git("init", "-q", "-b", "main")
    for number in range(60):
        path = overlay.base / f"d{number % 7}" / f"s{number % 3}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n" * number)
    git("add", "-A")
    git("commit", "-qm", "one")
    for number in range(0, 60, 4):
        (overlay.base / f"d{number % 7}" / f"s{number % 3}" / f"f{number}").write_text("other\n")
    git("mv", "d1", "moved")
    git("rm", "-qrf", "d2")
    (overlay.base / "d2").write_text("a file now\n")
    (overlay.base / "d3/s0/f3").chmod(0o755)
    (overlay.base / "new").mkdir()
    (overlay.base / "new/link").symlink_to("../d2")
    git("add", "-A")
    git("commit", "-qm", "two")
    git("checkout", "-q", "main~1")
    overlay.mount()
    git("checkout", "-q", "main", where=overlay.mnt)
    git("fsck", "--strict", where=overlay.mnt)
    only_diff, only_walk, counts, _ = compared(str(overlay.base), str(overlay.mnt))
    assert (only_diff, only_walk) == ([], [])
    assert {"A", "D", "M", "T"} <= set(counts)


def test_virtual_environment(sandbox: MountSandbox) -> None:
    """One is made, and one that the base has is upgraded in place."""
    overlay = sandbox.overlay()
    run(sys.executable, "-m", "venv", "--without-pip", overlay.base / "old")
    overlay.mount()
    run(sys.executable, "-m", "venv", "--without-pip", overlay.mnt / "new")
    run(sys.executable, "-m", "venv", "--without-pip", "--clear", "--copies", overlay.mnt / "old")
    only_diff, only_walk, counts, _ = compared(str(overlay.base), str(overlay.mnt))
    assert (only_diff, only_walk) == ([], [])
    assert counts["A"] > 5


if __name__ == "__main__":
    only_diff, only_walk, counts, names = compared(sys.argv[1], sys.argv[2])
    print(f"{names} names, {counts.total()} changes that both have: {dict(counts)}")
    for who, lines in (("diff", only_diff), ("walk", only_walk)):
        print(f"{len(lines)} that only the {who} has", *lines[:20], sep="\n  ")
    sys.exit(bool(only_diff or only_walk))
