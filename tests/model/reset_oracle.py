"""What must show after a reset: what was chosen as it was, and all else as in the base, path by path."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from minifo.engine import ROOT, Ino
from minifo.fusefront.control.patterns import Patterns
from tests.model.compared_trees import ComparedTrees, Seen
from tests.shared import file_trees


def _without_times(seen: Seen) -> Seen:
    """Of directories the times and of all else the links and the change time may be others."""
    if stat.S_ISDIR(seen.mode):
        seen = seen._replace(mtime=0)
    return seen._replace(nlink=0, changed=None, atime=None)


class ResetOracle:
    """Compares one overlay after a reset with what was there before, and with the base.

    Args:
        t: the trees; the plain one is as the overlay was before.
        patterns: what was to be kept.
        before: the engine's number of each path before.
        touched: the numbers of objects that were made, renamed or modified.
    """

    def __init__(self, t: ComparedTrees, patterns: list[str], before: dict[bytes, Ino], touched: set[int]) -> None:
        self.t = t
        self.base = os.fsencode(t.base)
        self.wanted = Patterns(patterns) if patterns else None
        self.before = before
        self.touched = touched
        self.after = self._walk()

    def _walk(self) -> dict[bytes, Ino]:
        """All that shows, by path."""
        found, waiting = {b"": ROOT}, [b""]
        while waiting:
            path = waiting.pop()
            for entry in list(self.t.ov.readdir(found[path]))[2:]:
                below = path + b"/" + entry.name
                found[below] = Ino(entry.attr.ino)
                self.t.ov.add_lookup(found[below])
                if stat.S_ISDIR(entry.attr.mode):
                    waiting.append(below)
        return found

    def is_chosen(self, path: bytes) -> bool:
        """Whether a path was to be kept."""
        return self.wanted is not None and self.wanted.match(path)

    def compare(self) -> None:
        """Compare everything."""
        for path, ino in self.before.items():
            if path and self.is_chosen(path):
                if ino not in self.touched and self.after.get(path) != ino:
                    continue  # it was there only because a directory above was renamed, which is not kept
                assert path in self.after, self.t.told(f"{path!r} was to be kept")
                self._same(path, Path(os.fsdecode(self.t.root + path)))
        linked = {ino for path, ino in self.after.items() if self.is_chosen(path)}
        for path in sorted(self.after):
            if path and not self.is_chosen(path):
                self._compare_other(path, linked)
        for full in file_trees.walk(self.base):
            path = full[len(self.base) :]
            if path not in self.after and not self.is_chosen(path):
                self._compare_missing(path)
        for path in self.after:
            if path and self.is_chosen(path) and path not in self.before:
                above = path.rpartition(b"/")[0]
                is_same = self.before.get(above) == self.after[above]
                assert not is_same, self.t.told(f"{path!r} was hidden, and shows now")

    def _compare_other(self, path: bytes, linked: set[Ino]) -> None:
        if self.after[path] in linked:
            return  # another name of what is kept
        full = self.base + path
        mode = self.t.ov.getattr(self.after[path]).mode
        there = os.lstat(full).st_mode if os.path.lexists(full) else 0
        if stat.S_ISDIR(mode) and not stat.S_ISDIR(there):
            holds = any(other.startswith(path + b"/") and self.is_chosen(other) for other in self.after)
            assert holds, self.t.told(f"{path!r} is a directory without anything that is kept")
            self._same(path, Path(os.fsdecode(self.t.root + path)), content=False)
        elif there == 0:
            above = path.rpartition(b"/")[0]
            assert self.is_chosen(above), self.t.told(f"{path!r} was to be taken away")  # an exception in its directory
        else:
            self._same(path, Path(os.fsdecode(full)))

    def _compare_missing(self, path: bytes) -> None:
        """What the base has does not show because something else that is kept is there, or the object is elsewhere."""
        above = path.rpartition(b"/")[0]
        if above not in self.after or self.is_chosen(above):
            return  # that one is looked at for itself
        if self.after[above] != self._number(above):
            return  # not the base's directory, but what is needed
        moved = self._number(path) in self.after.values()
        assert moved, self.t.told(f"{path!r} of the base does not show")

    def _number(self, path: bytes) -> int:
        return os.lstat(self.base + path).st_ino if path else ROOT

    def _same(self, path: bytes, full: Path, *, content: bool = True) -> None:
        ino = self.after[path]
        mine = _without_times(self.t.seen_by_engine(ino))
        theirs = _without_times(self.t.seen_on_disk(os.fsencode(full)))
        assert mine == theirs, self.t.told(f"{path!r} after a reset: {mine}, not {theirs}")
        if content and stat.S_ISREG(mine.mode):
            bytes_ = self.t.ov.read(ino, 0, 1 << 20)
            assert bytes_ == file_trees.content(os.fsencode(full)), self.t.told(f"bytes of {path!r} after a reset")
