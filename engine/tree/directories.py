"""Merged paths of directories, found by number in the tables, one at a time.

Only directories are kept in memory, and of these only the ones asked for and their ancestors: an overlay of 100,000
changed files in ten directories takes no more than one of ten files.
"""

from __future__ import annotations

import stat
from functools import cached_property

from ..model import ROOT
from ..store.base_view import join, split
from ..store.database import Database
from ..store.four_lists_statements import NAMES
from ..store.typed_rows import each, rows

_NAMED = " UNION ALL ".join(
    f"SELECT t.ino, t.parent, t.name FROM {table} t JOIN inode i USING (ino) WHERE i.mode >> 12 = {stat.S_IFDIR >> 12}"
    for table in NAMES
)
_ORIGIN = "SELECT path FROM origin WHERE ino = ?"
_AT = "SELECT ino FROM origin WHERE path = ?"


class Directories:
    """Merged paths of directories.

    Args:
        db: the overlay's database; only read.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._paths: dict[int, bytes] = {ROOT: b"/"}
        self._numbers: dict[bytes, int] = {b"/": ROOT}

    @cached_property
    def _named(self) -> dict[int, tuple[int, bytes]]:
        """The parent and the name of each directory that was created or renamed."""
        return {ino: (parent, name) for ino, parent, name in each(self._db, _NAMED, "iib")}

    def path(self, ino: int) -> bytes:
        """Return the merged path of a directory; ``<inode N>`` begins the path of one that damage cut off."""
        names: list[tuple[int, bytes]] = []  # from the directory up, each with its own name
        seen: set[int] = set()
        at = ino
        while at not in self._paths:
            above = None if at in seen else self.above(at)
            if above is None:  # nothing leads there, or directories are in each other
                self._paths[at] = b"<inode %d>" % at
                break
            seen.add(at)
            names.append((at, above[1]))
            at = above[0]
        path = self._paths[at]
        for number, name in reversed(names):
            path = self._paths[number] = join(path, name)
        return path

    def above(self, ino: int) -> tuple[int, bytes] | None:
        """Return the parent of a directory and its name there, or None where no row says."""
        if ino in self._named:
            return self._named[ino]
        found = rows(self._db, _ORIGIN, (ino,), "b")
        if not found or found[0][0] == b"/":
            return None
        directory, name = split(found[0][0])
        return self.number(directory), name

    def is_named(self, ino: int) -> bool:
        """Return whether a number is that of a directory that was created or renamed."""
        return ino in self._named

    def number(self, base: bytes) -> int:
        """Return the number of a base directory that holds changes, by its path in base terms; 0 for another one."""
        found = self._numbers.get(base)
        if found is None:
            found = self._numbers[base] = self._db.value(_AT, (base,)) or 0
        return found

    def shown(self, base: bytes) -> bytes:
        """Return the merged path of what a base path stands for, as far as the directories above it say."""
        directory, name = split(base)
        below = [name]
        while not (number := self.number(directory)):  # without rows it is where the base has it
            directory, name = split(directory)
            below.append(name)
        return join(self.path(number), b"/".join(reversed(below)))
