"""Gone objects that show: the base was replaced and lacks them, but the overlay holds enough of them.

A file shows if its bytes are the overlay's own.  A directory shows if ``modified`` says that it stands by itself, or if
any object below it shows.
"""

from __future__ import annotations

import os
import stat

from ..model import Ino
from ..store.base_view import BaseView, join
from ..store.database import Database
from .inode_rows import Row
from .inodes import Inodes
from .row_checks import is_name, named

#: The names that rows give a directory (?1), with the objects' inode numbers.
MADE = "SELECT name, ino FROM created WHERE parent = ?1 UNION ALL SELECT name, ino FROM renamed WHERE parent = ?1"
_DELETED = "SELECT name FROM deleted WHERE parent = ?"


def deleted_names(db: Database, directory: Ino) -> set[bytes]:
    """Return the names in a directory that whiteouts hide."""
    return {name for (name,) in db.rows(_DELETED, (directory,))}


class GoneObjects:
    """Tells which gone objects show.

    Args:
        db: the overlay's database; only read.
        base: the base view.
        inodes: rows.
    """

    def __init__(self, db: Database, base: BaseView, inodes: Inodes) -> None:
        self._db = db
        self._base = base
        self._inodes = inodes
        self._shown: set[Ino] = set()  # they show as long as the overlay is open

    def shows(self, ino: Ino, path: bytes | None) -> bool:
        """Return True if the overlay holds enough of a gone object to show it.

        Goes down the directories below it until it finds an object that shows, without recursion: their depth has no
        limit, and damaged rows may make a circle of them.

        Args:
            ino: the object.
            path: its path in ``origin`` (base terms), None if it has none.
        """
        if ino in self._shown:
            return True
        above: dict[Ino, Ino | None] = {ino: None}  # the directory through which each object was found
        waiting = [(ino, path)]
        while waiting:
            directory, path = waiting.pop()
            children = self._gone_children(directory, path)
            if children is None:
                shown: Ino | None = directory
                while shown is not None:
                    self._shown.add(shown)
                    shown = above[shown]
                return True
            for child, child_path in children:
                if child not in above:
                    above[child] = directory
                    waiting.append((child, child_path))
        return False

    def row_at_origin(self, ino: Ino, st: os.stat_result | None) -> Row | None:
        """Return the row of an object that ``origin`` has at a path, or None; note a gone object.

        Args:
            ino: the object's number in ``origin``.
            st: the attributes of what this base has at the path, None if there is nothing.
        """
        row = self._inodes.row(ino, st)
        if row is None and (st is None or not stat.S_ISDIR(st.st_mode)):
            self._inodes.drift.gone.add(ino)  # it was a directory: nothing else is in origin without a row in inode
        return row

    def _gone_children(self, ino: Ino, path: bytes | None) -> list[tuple[Ino, bytes | None]] | None:
        """Return the gone objects in a gone directory, with their paths; None if the directory shows as it is.

        It does if it stands by itself, or if an object in it is not gone, has damaged rows, or cannot be read in the
        base: such an object is listed, so that using it reports the error.  An object that is no directory has no
        children.
        """
        inodes, drift = self._inodes, self._inodes.drift
        row = inodes.row(ino)
        if drift.shows_alone(row):
            return None
        if row is not None and not stat.S_ISDIR(row.mode):
            return []
        found: list[tuple[Ino, bytes | None]] = []
        try:
            for _, child in named(self._db.rows(MADE, (ino,))):
                if inodes.numbers.is_created(child):
                    return None
                inodes.row(child)  # fills drift.gone
                if child not in drift.gone:
                    return None
                found.append((child, inodes.path(child)))
            if path is None:
                return found
            hidden = deleted_names(self._db, ino)
            for name, child in drift.origins_in(path).items():
                if name not in hidden and is_name(name):
                    below = join(path, name)
                    self.row_at_origin(child, self._base.find(below))
                    if child not in drift.gone:
                        return None
                    found.append((child, below))
        except OSError:
            return None
        return found
