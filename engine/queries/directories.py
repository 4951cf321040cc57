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
from ..store.list_statements import NAMES

_NAMED = " UNION ALL ".join(
    f"SELECT t.ino, t.parent, t.name FROM {table} t JOIN inode i USING (ino) WHERE i.mode >> 12 = {stat.S_IFDIR >> 12}"
    for table in NAMES
)
_ORIGIN = "SELECT path FROM origin WHERE ino = ?"
_AT = "SELECT ino FROM origin WHERE path = ?"
_DEEPEST = 4096  # directories in a path; more is a circle, which only damage makes


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
        return {ino: (parent, name) for ino, parent, name in self._db.each(_NAMED)}

    def path(self, ino: int) -> bytes:
        """Return the merged path of a directory; ``<inode N>`` begins the path of one that damage cut off."""
        return self._path(ino, 0)

    def _path(self, ino: int, depth: int) -> bytes:
        found = self._paths.get(ino)
        if found is None:
            found = self._paths[ino] = self._found(ino, depth)
        return found

    def _found(self, ino: int, depth: int) -> bytes:
        lost = b"<inode %d>" % ino
        if depth > _DEEPEST:
            return lost
        if ino in self._named:
            parent, name = self._named[ino]
            return join(self._path(parent, depth + 1), name)
        base = self._db.value(_ORIGIN, (ino,))
        if base is None:
            return lost
        directory, name = split(base)
        return join(self._path(self.number(directory), depth + 1), name)

    def number(self, base: bytes) -> int:
        """Return the number of a base directory that holds changes, by its path in base terms; 0 for another one."""
        found = self._numbers.get(base)
        if found is None:
            found = self._numbers[base] = self._db.value(_AT, (base,)) or 0
        return found

    def shown(self, base: bytes) -> bytes:
        """Return the merged path of what a base path stands for, as far as the directories above it say."""
        directory, name = split(base)
        return join(self._path(self.number(directory), 0), name)
