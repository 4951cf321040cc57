"""What storage holds of the bytes of files: content objects, rows of small files, extents; and how that is given up.

Where each byte of a file is, is decided by tree/content.py and tree/ranges.py.  This is what they, and those who delete
files, have in common.
"""

from __future__ import annotations

import stat

from ..model import Ino
from ..store.content_objects import ObjectStore
from ..store.database import Database
from ..store.statements import statement
from .extents import Extents
from .inode_rows import SMALL, Row
from .row_checks import bytes_of

_PUT_SMALL = statement("INSERT INTO small VALUES (?, ?) ON CONFLICT (ino) DO UPDATE SET data = excluded.data")
_DROP_SMALL = statement("DELETE FROM small WHERE ino = ?")


class StoredBytes:
    """The bytes of files in storage.

    Args:
        db: the overlay's database.
        objects: the content objects.

    Attributes:
        extents: ranges of files that lie in content objects beside the backing, or are holes.
    """

    def __init__(self, db: Database, objects: ObjectStore) -> None:
        self._db = db
        self._objects = objects
        self.extents = Extents(db)

    def objects_of(self, row: Row) -> set[int]:
        """The content objects that hold bytes of a file."""
        numbers = {row.object} if row.object else set()
        if row.mapped:
            numbers |= self.extents.objects_of(row.ino)
        return numbers

    # -- small files

    def small(self, ino: Ino) -> bytes:
        """The bytes of a small file; what it has beyond them is zeros."""
        return bytes_of(ino, self._db.value("SELECT data FROM small WHERE ino = ?", (ino,)))

    def put_small(self, ino: Ino, data: bytes) -> None:
        """Keep the bytes of a small file in a row.  Inside an operation."""
        self._db.change(_PUT_SMALL, (ino, data))

    def drop_small(self, ino: Ino) -> None:
        """Delete the row of a small file.  Inside an operation."""
        self._db.change(_DROP_SMALL, (ino,))

    # -- giving up

    def release(self, row: Row) -> None:
        """Give up all bytes of a file that are in storage.  Inside an operation."""
        for number in self.objects_of(row):
            self._objects.drop(number)
        if row.object == SMALL:
            self.drop_small(row.ino)
        if row.mapped:
            self.extents.drop(row.ino)

    def discard(self, row: Row) -> None:
        """Give up an object's content, with its row.  Inside an operation."""
        if stat.S_ISREG(row.mode):
            self.release(row)

    def discard_some(self, row: Row, most: int) -> bool:
        """Give up so many extents of a file that nobody will read again.  Inside an operation.

        Returns:
            False if it had fewer, and nothing was done.
        """
        objects = self.extents.drop_last(row.ino, most) if row.mapped else None
        if objects is None:
            return False
        for number in self.extents.unused(row.ino, objects - {row.object}):
            self._objects.drop(number)
        return True
