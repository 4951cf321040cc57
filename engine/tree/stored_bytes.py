"""The bytes of files in storage: content objects, rows of small files and extents; finds them and deletes them.

tree/content.py and tree/ranges.py decide where each byte of a file goes.  This module has what they share with the code
that deletes files.
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
    """Finds and deletes the bytes of files in storage.

    Args:
        db: the overlay's database.
        objects: the content objects.

    Attributes:
        extents: the extents of all files (tree/extents.py).
    """

    def __init__(self, db: Database, objects: ObjectStore) -> None:
        self._db = db
        self._objects = objects
        self.extents = Extents(db)

    def objects_of(self, row: Row) -> set[int]:
        """Return the ids of the content objects that hold bytes of a file."""
        numbers = {row.object} if row.object else set()
        if row.mapped:
            numbers |= self.extents.objects_of(row.ino)
        return numbers

    # -- small files

    def small(self, ino: Ino) -> bytes:
        """Return the bytes of a small file; if the file is longer, the rest are zeros.

        Raises:
            FsError: EIO if its row is missing or damaged.
        """
        return bytes_of(ino, self._db.value("SELECT data FROM small WHERE ino = ?", (ino,)))

    def put_small(self, ino: Ino, data: bytes) -> None:
        """Write the bytes of a small file to its row.  Call it inside an operation."""
        self._db.change(_PUT_SMALL, (ino, data))

    def drop_small(self, ino: Ino) -> None:
        """Delete the row with the bytes of a small file.  Call it inside an operation."""
        self._db.change(_DROP_SMALL, (ino,))

    # -- deleting

    def release(self, row: Row) -> None:
        """Delete all bytes of a file from storage; its content objects go with the next commit.

        Call it inside an operation.  The caller changes the row itself.
        """
        for number in self.objects_of(row):
            self._objects.drop(number)
        if row.object == SMALL:
            self.drop_small(row.ino)
        if row.mapped:
            self.extents.drop(row.ino)

    def discard(self, row: Row) -> None:
        """Delete the bytes of an object of any type; only a regular file has some.  Call it inside an operation.

        The caller deletes the row.
        """
        if stat.S_ISREG(row.mode):
            self.release(row)

    def discard_some(self, row: Row, count: int) -> bool:
        """Delete the last *count* extents of an orphan, so that a large one is deleted in several short operations.

        Call it inside an operation.

        Returns:
            False, without any change, if the file has fewer extents.
        """
        objects = self.extents.drop_last(row.ino, count) if row.mapped else None
        if objects is None:
            return False
        for number in self.extents.unused(row.ino, objects - {row.object}):
            self._objects.drop(number)
        return True
