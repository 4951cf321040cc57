"""Deletes the rows of objects that no listing shows, once nothing can make the objects show again.

The overlay keeps rows of objects that are gone from this base (tree/drift.py), and of base objects that a name of the
overlay covers: when the old base is back, or the covering name is removed, they show again.  That ends when a whiteout
hides the object's path, its directory is removed, or another object at its path is changed.  Then its rows are deleted
here, and so are the rows of all objects below it.
"""

from __future__ import annotations

import stat
from functools import partial
from typing import TYPE_CHECKING

from ..model import Ino
from ..store.database import Database
from ..store.four_lists_statements import DROP_IN, IS_NAMED, NAMES
from ..store.statements import statement
from .stored_bytes import StoredBytes

if TYPE_CHECKING:
    from .inodes import Inodes

_DROP_NAMES_OF = [statement(f"DELETE FROM {table} WHERE ino = ?") for table in NAMES]


class UnlistedRows:
    """Deletes rows of objects that do not show.  Call every method inside an operation.

    Args:
        db: the overlay's database.
        inodes: rows and nodes.
        stored: the bytes of files in storage.
    """

    def __init__(self, db: Database, inodes: Inodes, stored: StoredBytes) -> None:
        self._db = db
        self._inodes = inodes
        self._stored = stored

    def drop_superseded(self, path: bytes) -> None:
        """Delete a gone object's rows and all its names, because the object that shows in its place is changed now.

        Args:
            path: the gone object's path (base terms), a key of ``Drift.superseded``.
        """
        ino = self._inodes.drift.superseded.pop(path)
        self._db.on_failure(partial(self._inodes.drift.superseded.__setitem__, path, ino))
        row = self._inodes.row(ino)
        if row is None or stat.S_ISDIR(row.mode):
            self.drop_in(ino, path)  # if it was a file, the rows below are of this base's directory
        for sql in _DROP_NAMES_OF:
            self._db.change(sql, (ino,))
        self._inodes.discard(ino)

    def drop_in(self, ino: Ino, path: bytes | None) -> None:
        """Delete all names in a removed directory, and the rows of objects in it that no listing showed.

        Args:
            ino: the directory.
            path: its path in ``origin`` (base terms), if it has one.
        """
        names = "SELECT ino FROM created WHERE parent = ?1 UNION SELECT ino FROM renamed WHERE parent = ?1"
        inside = [Ino(child) for (child,) in self._db.rows(names, (ino,))]
        if path is not None:
            hidden = {name for (name,) in self._db.rows("SELECT name FROM deleted WHERE parent = ?", (ino,))}
            for name, child in self._inodes.drift.origins_in(path).items():
                if name not in hidden or self._inodes.row(child) is None or child in self._inodes.drift.gone:
                    inside.append(child)  # but not a hidden file of this base: it has a row as another link shows
        for sql in DROP_IN.values():
            self._db.change(sql, (ino,))
        for child in inside:
            self.lose_name(child)

    def lose_name(self, ino: Ino) -> None:
        """Take away a name that an object had and that no listing showed; delete the object if it was its last one.

        The name is one in the overlay, whose row the caller deletes, or the object's path in the base.
        """
        row = self._inodes.row(ino)  # fills drift.gone
        if row is not None and row.nlink == 0:
            return  # an orphan is deleted when the kernel forgets it
        if row is not None and row.nlink > 1 and ino not in self._inodes.drift.gone and not stat.S_ISDIR(row.mode):
            self._inodes.set_links(row, row.nlink - 1)
        elif self._db.value(IS_NAMED, (ino,)) is None:
            self.drop_in(ino, self._inodes.path(ino))
            if row is not None:
                self._stored.discard(row)
            self._inodes.discard(ino)
