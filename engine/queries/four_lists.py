"""Queries on the four lists, for commands that carry an overlay's changes elsewhere (merge, export, comparison).

They return what the tables hold for one directory or one object, and change nothing.  ``Overlay`` itself returns what
shows: names, attributes and bytes.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from ..model import Ino
from ..overlay import Overlay

_LINKS = 0xFFFF_FFFF  # bits of seen_links that are the link count


class ModifiedFile(NamedTuple):
    """A base object in ``modified`` that is not a directory.

    Attributes:
        ino: its inode number.
        path: its path in the base (base terms).
        content: True if its bytes are overridden, False if only its attributes are.
        nlink: its link count in the overlay; 0 if it is unlinked, but may still be open.
    """

    ino: Ino
    path: bytes
    content: bool
    nlink: int


class FourLists:
    """Queries on the four lists of one overlay.

    Args:
        overlay: an open overlay.
    """

    def __init__(self, overlay: Overlay) -> None:
        self._db = overlay.db
        self._inodes = overlay.inodes

    def is_empty(self) -> bool:
        """Return whether no object has a row: nothing was created, modified or renamed."""
        return self._db.value("SELECT 1 FROM inode") is None

    # -- names of one directory

    def created(self, directory: int) -> set[bytes]:
        """Return the names in a directory that are in ``created``."""
        return {name for (name,) in self._db.rows("SELECT name FROM created WHERE parent = ?", (directory,))}

    def renamed(self, directory: int) -> set[bytes]:
        """Return the names in a directory that are in ``renamed``: base objects were renamed to them."""
        return {name for (name,) in self._db.rows("SELECT name FROM renamed WHERE parent = ?", (directory,))}

    def deleted(self, directory: int) -> list[bytes]:
        """Return the base names in a directory that are hidden, sorted."""
        sql = "SELECT name FROM deleted WHERE parent = ? ORDER BY name"
        return [name for (name,) in self._db.rows(sql, (directory,))]

    def is_renamed(self, path: bytes) -> bool:
        """Return whether the base object at *path* (base terms) was renamed."""
        ino = self._db.value("SELECT ino FROM origin WHERE path = ?", (path,))
        return ino is not None and self._db.value("SELECT 1 FROM renamed WHERE ino = ?", (ino,)) is not None

    # -- one object

    def origin(self, ino: int) -> bytes | None:
        """Return the path (base terms) of the base object that a number stands for; None for a created object."""
        return self._inodes.node(Ino(ino)).path

    def may_differ(self, ino: int) -> bool:
        """Return whether the tables may have rows for an object; False means that it shows exactly as in the base."""
        return self._inodes.node(Ino(ino)).state

    def owns_xattrs(self, ino: int) -> bool:
        """Return whether an object's extended attributes are in ``xattr``, and not those of its base object."""
        row = self._inodes.row(Ino(ino))
        return row is not None and bool(row.xattrs)

    def modified(self, ino: int) -> bool | None:
        """Return True if a base object's bytes were modified, False if only its attributes were, None if neither."""
        content = self._db.value("SELECT content FROM modified WHERE ino = ?", (ino,))
        return None if content is None else bool(content)

    def modified_files(self) -> list[ModifiedFile]:
        """Return all base objects in ``modified`` except directories."""
        sql = (
            "SELECT ino, path, content, nlink FROM modified JOIN origin USING (ino) JOIN inode USING (ino)"
            " WHERE mode & 61440 <> 16384"
        )
        return [ModifiedFile(Ino(ino), path, bool(content), nlink) for ino, path, content, nlink in self._db.rows(sql)]

    def with_several_names(self) -> dict[int, bytes]:
        """Return the base path of each base object with a row that has several names in the base, by its number."""
        sql = (
            "SELECT ino, path FROM origin JOIN inode USING (ino)"
            f" WHERE mode & 61440 <> 16384 AND seen_links & {_LINKS} > 1"
        )
        return dict(self._db.rows(sql))

    def number_of(self, st: os.stat_result) -> Ino:
        """Return the inode number of the base object with attributes *st*."""
        return self._inodes.numbers.of(st)
