"""Where things are: the merged path of an inode number or a name, worked out from rows alone.

For messages, so it always has an answer: what cannot be reached is called ``<inode N>``.  Reads the lists once, when
it is first asked.
"""

from __future__ import annotations

import re
from functools import cached_property

from ..model import NAME_MAX, ROOT
from ..store.base_view import join, split
from ..store.database import Database

_BASE_PATH = re.compile(rb"/|(?:/(?!\.{1,2}(?:/|\Z))[^/\0]{1,%d})+" % NAME_MAX)


def is_base_path(path: bytes) -> bool:
    """True for what can be a path in base terms: absolute, and made of names."""
    return _BASE_PATH.fullmatch(path) is not None


class PathResolver:
    """Paths in one state of the tables.

    Args:
        db: the overlay's database; only read.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    @cached_property
    def names(self) -> dict[int, tuple[int, bytes]]:
        """One name of each inode that has one in the overlay: its directory and the name."""
        sql = "SELECT ino, parent, name FROM renamed UNION ALL SELECT ino, parent, name FROM created"
        return {ino: (parent, name) for ino, parent, name in self._db.rows(sql)}

    @cached_property
    def origins(self) -> dict[int, bytes]:
        """The base path of each inode that has one."""
        return dict(self._db.rows("SELECT ino, path FROM origin"))

    @cached_property
    def by_path(self) -> dict[bytes, int]:
        """The inode of each base path."""
        return {path: ino for ino, path in self.origins.items()}

    def reached(self, ino: int) -> bytes | None:
        """The path of an inode, or None where it cannot be reached from the root."""
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
            # a directory without rows of its own stands where the base has it, below the next one that has some
            while directory not in self.by_path and directory not in (b"", b"/"):
                directory, name = split(directory)
                parts.append(name)
            at = self.by_path.get(directory, ROOT)
        return b"/" + b"/".join(reversed(parts))

    def above(self, ino: object) -> list[int]:
        """An inode and the directories above it that have names in the overlay, as far as that leads."""
        found: list[int] = []
        while isinstance(ino, int) and ino not in found:
            found.append(ino)
            ino = self.names[ino][0] if ino in self.names else None
        return found

    def of(self, ino: int) -> bytes:
        """The path of an inode as a message calls it."""
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
        """The path of a name in a directory."""
        return join(self.of(parent), name)
