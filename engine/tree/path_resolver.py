"""Paths for messages and reports: the path in the merged tree of an inode number or a name, found by rows alone.

The base is not read.  ``PathResolver.of`` always returns a text: an object that no path leads to is ``<inode N>``.
The tables of names are read once, at the first call.
"""

from __future__ import annotations

import re
from functools import cached_property

from ..model import NAME_MAX, ROOT
from ..store.base_view import join, split
from ..store.database import Database

_BASE_PATH = re.compile(rb"/|(?:/(?!\.{1,2}(?:/|\Z))[^/\0]{1,%d})+" % NAME_MAX)


def is_base_path(path: bytes) -> bool:
    """Return True if *path* can be a path in base terms: absolute, without ``.``, ``..``, NUL or an empty name."""
    return _BASE_PATH.fullmatch(path) is not None


class PathResolver:
    """Finds paths by the rows as they are at the first call; later changes of rows are not seen.

    Args:
        db: the overlay's database; only read.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    @cached_property
    def names(self) -> dict[int, tuple[int, bytes]]:
        """One name of each inode that has names in ``created`` or ``renamed``: its directory's number and the name."""
        sql = "SELECT ino, parent, name FROM renamed UNION ALL SELECT ino, parent, name FROM created"
        return {ino: (parent, name) for ino, parent, name in self._db.rows(sql)}

    @cached_property
    def origins(self) -> dict[int, bytes]:
        """The base path of each inode that has a row in ``origin``."""
        return dict(self._db.rows("SELECT ino, path FROM origin"))

    @cached_property
    def by_path(self) -> dict[bytes, int]:
        """The inode number of each path in ``origin``."""
        return {path: ino for ino, path in self.origins.items()}

    def reached(self, ino: int) -> bytes | None:
        """Return the path of an inode, or None if no path leads from the root to it."""
        parts: list[bytes] = []
        seen: set[int] = set()
        at = ino
        while at != ROOT:
            if at in seen:
                return None
            seen.add(at)
            if at in self.names:
                at, name = self.names[at]
                parts.append(name)
                continue
            path = self.origins.get(at)
            if path is None:
                return None
            directory, name = split(path)
            parts.append(name)
            # a directory without rows is where the base has it: go up to the next one that has rows
            while directory not in self.by_path and directory not in (b"", b"/"):
                directory, name = split(directory)
                parts.append(name)
            at = self.by_path.get(directory, ROOT)
        return b"/" + b"/".join(reversed(parts))

    def above(self, ino: object) -> list[int]:
        """Return an inode, its directory, that one's directory and so on, up to the first without an overlay name."""
        chain: list[int] = []
        while isinstance(ino, int) and ino not in chain:
            chain.append(ino)
            ino = self.names[ino][0] if ino in self.names else None
        return chain

    def of(self, ino: int) -> bytes:
        """Return the path of an inode for a message; a text in angle brackets stands for the part that is unknown."""
        if ino == ROOT:
            return b"/"
        path = self.reached(ino)
        if path is not None:
            return path
        if ino in self.names:
            return b"<inode %d>/%b" % self.names[ino]
        if ino in self.origins:
            return b"<base>%b" % self.origins[ino]
        return b"<inode %d>" % ino

    def of_name(self, parent: int, name: bytes) -> bytes:
        """Return the path of a name in a directory, for a message."""
        return join(self.of(parent), name)
