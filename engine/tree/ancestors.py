"""Ancestors: copies of base files as they were before the overlay changed them, for a later three-way merge.

The mount keeps them with ``-o keep_origin=SIZE``, for files up to that size.  It copies a base file when its bytes are
first changed, and when its name is removed or replaced, because most editors save by renaming a new file over the old
one.  Each row belongs to a path in the base; no other table refers to it.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from ..model import ORIGIN_MAX
from ..store.base_view import BaseView
from ..store.database import Database
from ..store.statements import statement

_KEEP = statement("INSERT OR REPLACE INTO ancestor VALUES (?, ?, ?, ?)")
_DROP = statement("DELETE FROM ancestor WHERE path = ?")


class Ancestor(NamedTuple):
    """A version of a base file: its size in bytes, its mtime in ns, and its bytes."""

    size: int
    mtime: int
    data: bytes


class Ancestors:
    """Keeps and finds ancestors.

    Args:
        db: the overlay's database.
        base: the base view.
        limit: size of the largest file of which an ancestor is kept, in bytes; 0 to keep none.
    """

    def __init__(self, db: Database, base: BaseView, limit: int) -> None:
        self._db = db
        self._base = base
        self.limit = limit

    def keep(self, path: bytes) -> None:
        """Keep a copy of the base file at *path* (base terms) if it is not larger than the limit.

        Call it inside an operation.

        Raises:
            OSError: the file cannot be read.
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
        """Return the ancestor of a path (base terms), or None."""
        values = self._db.row("SELECT size, mtime, data FROM ancestor WHERE path = ?", (path,))
        return Ancestor._make(values) if values is not None else None

    def are_there(self) -> bool:
        """Return True if there is any ancestor."""
        return self._db.value("SELECT 1 FROM ancestor LIMIT 1") is not None

    def renew(self, path: bytes) -> None:
        """Replace the ancestor of a path, if there is one, by a copy of the file that the base has there now.

        Call it inside an operation.  If the base has no file there any more, or a larger one than ``ORIGIN_MAX``, the
        ancestor is deleted.
        """
        if self.of(path) is not None and not self._keep(path, ORIGIN_MAX):
            self._db.change(_DROP, (path,))
