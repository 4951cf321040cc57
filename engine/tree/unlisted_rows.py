"""Parting: what goes with a name or a directory, although it did not show.

The overlay keeps rows of base objects that are gone from this base, and of those that a name of its own covers
(tree/drift.py): they serve again when they show again.  Where that cannot be any more, for their place is hidden now
or another object has it for good, they are let go of here, and so is what is below.
"""

from __future__ import annotations

import stat
from functools import partial
from typing import TYPE_CHECKING

from ..model import Ino
from ..store.database import Database
from ..store.list_statements import DROP_IN, IS_NAMED, NAMES
from ..store.statements import statement
from .stored_bytes import StoredBytes

if TYPE_CHECKING:
    from .inodes import Inodes

_DROP_NAMES_OF = [statement(f"DELETE FROM {table} WHERE ino = ?") for table in NAMES]


class UnlistedRows:
    """Lets go of rows.  Every method runs inside an operation.

    Args:
        db: the overlay's database.
        inodes: rows.
        stored: what storage holds of files.
    """

    def __init__(self, db: Database, inodes: Inodes, stored: StoredBytes) -> None:
        self._db = db
        self._inodes = inodes
        self._stored = stored

    def settle(self, path: bytes) -> None:
        """Let go of what the overlay holds of an object that is gone, for the one that shows in its place is changed.

        Nobody waits for it to come back any more, under no name.

        Args:
            path: the place (base terms), one of ``Drift.superseded``.
        """
        ino = self._inodes.drift.superseded.pop(path)
        self._db.on_failure(partial(self._inodes.drift.superseded.__setitem__, path, ino))
        row = self._inodes.row(ino)
        if row is None or stat.S_ISDIR(row.mode):
            self.let_go_in(ino, path)  # below any other there is only what this base has
        for sql in _DROP_NAMES_OF:
            self._db.change(sql, (ino,))
        self._inodes.discard(ino)

    def let_go_in(self, ino: Ino, path: bytes | None) -> None:
        """With a directory goes what is held in it and does not show.

        Args:
            ino: the directory.
            path: its place (base terms), if it has one.
        """
        names = "SELECT ino FROM created WHERE parent = ?1 UNION SELECT ino FROM renamed WHERE parent = ?1"
        inside = [Ino(child) for (child,) in self._db.rows(names, (ino,))]
        if path is not None:
            hidden = {name for (name,) in self._db.rows("SELECT name FROM deleted WHERE parent = ?", (ino,))}
            for name, child in self._inodes.drift.origins_in(path).items():
                if name not in hidden or self._inodes.row(child) is None or child in self._inodes.drift.gone:
                    inside.append(child)  # what was hidden before, and is here still, has another name in the base
        for sql in DROP_IN.values():
            self._db.change(sql, (ino,))
        for child in inside:
            self.lose_place(child)

    def lose_place(self, ino: Ino) -> None:
        """A base object does not show at its place, and will not any more: with that goes what has no other name."""
        row = self._inodes.row(ino)  # tells whether it is gone
        if row is not None and row.nlink == 0:
            return  # an orphan goes when it is forgotten
        if row is not None and row.nlink > 1 and ino not in self._inodes.drift.gone and not stat.S_ISDIR(row.mode):
            self._inodes.set_links(row, row.nlink - 1)
        elif self._db.value(IS_NAMED, (ino,)) is None:
            self.let_go_in(ino, self._inodes.path(ino))
            if row is not None:
                self._stored.discard(row)
            self._inodes.discard(ino)
