"""Ancestors: what base files were before the overlay changed them, so that a later merge knows both sides' changes.

Kept with ``-o keep_origin=SIZE``, for files up to that size: when bytes of a base file are first changed, and when its
name is given up, for that is how most editors save.  A row is of a path and a version; nothing depends on it.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from ..store.base_view import BaseView
from ..store.database import Database
from ..store.statements import statement

LONGEST = 64 << 10  # bytes; what is larger is seldom a text that can be merged, and would not be a row

_KEEP = statement("INSERT OR REPLACE INTO ancestor VALUES (?, ?, ?, ?)")
_DROP = statement("DELETE FROM ancestor WHERE path = ?")


class Ancestor(NamedTuple):
    """A version of a base file: its size in bytes, its mtime in ns, and its bytes."""

    size: int
    mtime: int
    data: bytes


class Ancestors:
    """The versions that were kept.

    Args:
        db: the overlay's database.
        base: the base view.
        limit: the largest file that is kept, in bytes; 0 for none.
    """

    def __init__(self, db: Database, base: BaseView, limit: int) -> None:
        self._db = db
        self._base = base
        self.limit = limit

    def keep(self, path: bytes) -> None:
        """Keep what the base has at a path (base terms), if it is a file that is not too large.  Inside an operation.

        Raises:
            OSError: it cannot be read.
        """
        if self.limit:
            self._keep(path, self.limit)

    def _keep(self, path: bytes, limit: int) -> bool:
        st = self._base.find(path)
        if st is None or not stat.S_ISREG(st.st_mode) or st.st_size > limit:
            return False
        data = os.pread(self._base.file(path, st), st.st_size, 0)
        self._db.change(_KEEP, (path, st.st_size, st.st_mtime_ns, data))
        return True

    def of(self, path: bytes) -> Ancestor | None:
        """The version that was kept for a path (base terms)."""
        found = self._db.row("SELECT size, mtime, data FROM ancestor WHERE path = ?", (path,))
        return Ancestor._make(found) if found is not None else None

    def are_there(self) -> bool:
        """True where any was kept."""
        return self._db.value("SELECT 1 FROM ancestor LIMIT 1") is not None

    def renew(self, path: bytes) -> None:
        """Let the version that the base has now take the place of the one that was kept.  Inside an operation."""
        if self.of(path) is not None and not self._keep(path, LONGEST):
            self._db.change(_DROP, (path,))
