"""Extents: which ranges of a file lie in content objects beside its backing, or are holes.

A hole is an extent without an object: it hides what the backing has there.  Extents of a file do not overlap, and those
that touch and lie side by side in one object are one row.  What it means that a row comes or goes, and what a commit
owes the object, is decided by tree/content.py and tree/ranges.py.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import NamedTuple

from ..errors import FsError
from ..model import FILE_MAX, OBJECTS_END, Ino
from ..store.database import Database
from ..store.statements import statement

MAX = (1 << 63) - 1
HOLE = 0  # in the column object of extent: the bytes are zeros, whatever the backing has there

_ADD_EXTENT = statement("INSERT INTO extent VALUES (?, ?, ?, ?, ?)")
_PUT_EXTENT = statement(
    'INSERT INTO extent VALUES (?, ?, ?, ?, ?) ON CONFLICT (ino, start) DO UPDATE SET "end" = excluded."end"'
)
_CUT_EXTENT = statement('UPDATE extent SET "end" = ?1 WHERE ino = ?2 AND start = ?3 AND "end" > ?1')
_DROP_EXTENT = statement("DELETE FROM extent WHERE ino = ? AND start = ?")
_DROP_EXTENTS = statement("DELETE FROM extent WHERE ino = ?")
_DROP_EXTENTS_FROM = statement("DELETE FROM extent WHERE ino = ? AND start >= ?")
_DROP_EXTENTS_IN = statement('DELETE FROM extent WHERE ino = ? AND start >= ? AND start < ? AND "end" <= ?')

# Which extents of a file (?1) a range (?2, ?3) touches.  They do not overlap, so the last one that begins at or before
# the range is the first to touch it.
_TOUCHED = (
    'ino = ?1 AND "end" > ?2 AND start < ?3'
    " AND start >= coalesce((SELECT max(start) FROM extent WHERE ino = ?1 AND start <= ?2), ?2)"
)


class Extent(NamedTuple):
    """Bytes [start, end) of a file, at offset ``at`` of a content object; zeros where that is ``HOLE``."""

    start: int
    end: int
    object: int
    at: int


class Extents:
    """The extents of all files.

    Args:
        db: the overlay's database.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    def of(self, ino: int, start: int, end: int, limit: int = -1) -> list[Extent]:
        """The extents that a range touches, in order; the first *limit* of them.

        Raises:
            FsError: EIO where they overlap, or say what cannot be.
        """
        sql = f'SELECT start, "end", object, at FROM extent WHERE {_TOUCHED} ORDER BY start LIMIT ?4'
        extents = [Extent._make(found) for found in self._db.rows(sql, (ino, start, end, limit))]
        before = 0
        for extent in extents:
            if {*map(type, extent)} != {int} or not (
                before <= extent.start < extent.end <= FILE_MAX
                and 0 <= extent.object < OBJECTS_END
                and 0 <= extent.at <= FILE_MAX - (extent.end - extent.start)
            ):
                raise FsError(errno.EIO, f"inode {ino}: its extents are damaged")
            before = extent.end
        return extents

    def join(self, ino: Ino, new: Extent) -> None:
        """Add an extent where none is, and merge it with its neighbours where they touch.  Inside an operation."""
        start, end, number, at = new
        sql = 'SELECT start, "end", object, at FROM extent WHERE ino = ? AND start < ? ORDER BY start DESC LIMIT 1'
        before = self._db.row(sql, (ino, start))
        if before is not None and before[1:3] == (start, number) and before[3] + start - before[0] == at:
            start, at = before[0], before[3]
        sql = 'SELECT start, "end" FROM extent WHERE ino = ? AND start = ? AND object = ? AND at = ?'
        after = self._db.row(sql, (ino, end, number, at + end - start))
        if after is not None:
            self._db.change(_DROP_EXTENT, (ino, after[0]))
            end = after[1]
        self._db.change(_PUT_EXTENT, (ino, start, end, number, at))

    def carve(self, ino: Ino, start: int, end: int, *, holes_only: bool = False) -> None:
        """Take a range out of the extents, or out of the holes among them.  Inside an operation.

        There may be a million in it: those that lie inside wholly go by one statement.
        """
        if holes_only:
            touched = [extent for extent in self.of(ino, start, end) if extent.object == HOLE]
        else:
            self._db.change(_DROP_EXTENTS_IN, (ino, start, end, end))
            touched = self.of(ino, start, end)  # two at most
        for extent in touched:
            first, stop = max(start, extent.start), min(end, extent.end)
            self._db.change(_DROP_EXTENT, (ino, extent.start))
            for left, right in ((extent.start, first), (stop, extent.end)):
                if left < right:
                    at = extent.at + left - extent.start
                    self._db.change(_ADD_EXTENT, (ino, left, right, extent.object, at))

    def cut(self, ino: Ino, size: int) -> None:
        """Let no extent reach beyond *size*, in bytes.  Inside an operation."""
        self._db.change(_DROP_EXTENTS_FROM, (ino, size))
        last = self._db.value("SELECT start FROM extent WHERE ino = ? ORDER BY start DESC LIMIT 1", (ino,))
        if last is not None:
            self._db.change(_CUT_EXTENT, (size, ino, last))

    def shorten(self, ino: Ino, most: int) -> set[int] | None:
        """Delete the last *most* extents of a file that has more.  Inside an operation.

        Returns:
            The objects they lay in, or None if there are no more, and nothing was deleted.
        """
        sql = "SELECT start FROM extent WHERE ino = ? ORDER BY start DESC LIMIT 1 OFFSET ?"
        first = self._db.value(sql, (ino, most - 1))
        if first is None:
            return None
        objects = self.objects_of(ino, first)
        self._db.change(_DROP_EXTENTS_FROM, (ino, first))
        return objects

    def drop(self, ino: Ino) -> None:
        """Delete all extents of a file.  Inside an operation."""
        self._db.change(_DROP_EXTENTS, (ino,))

    def objects_of(self, ino: Ino, start: int = 0, end: int = MAX) -> set[int]:
        """The content objects of the extents that a range touches; HOLE is not among them."""
        sql = f"SELECT DISTINCT object FROM extent WHERE {_TOUCHED} AND object > 0"
        found = {number for (number,) in self._db.rows(sql, (ino, start, end))}
        return {number for number in found if type(number) is int and number < OBJECTS_END}

    def unused(self, ino: Ino, objects: Iterable[int]) -> list[int]:
        """Which of these objects no extent of a file is in.  Those in use are mostly found at once."""
        sql = "SELECT 1 FROM extent WHERE ino = ? AND object = ? LIMIT 1"
        return [number for number in objects if self._db.value(sql, (ino, number)) is None]

    def is_packed(self, ino: Ino, number: int) -> bool:
        """True if bytes lie at other offsets in an object than in the file; all of them do, or none (content.py)."""
        return bool(
            self._db.value("SELECT at <> start FROM extent WHERE ino = ? AND object = ? LIMIT 1", (ino, number))
        )

    def has_hole(self, ino: Ino, start: int, end: int) -> bool:
        """True if a range touches an extent without an object."""
        sql = f"SELECT 1 FROM extent WHERE {_TOUCHED} AND object = 0 LIMIT 1"
        return self._db.value(sql, (ino, start, end)) is not None

    def lengths(self, ino: Ino, most: int) -> tuple[int, int] | None:
        """Bytes of a file that are holes, and that lie in objects; None if there are more than *most* extents."""
        sql = (
            'SELECT count(*), sum(iif(object, 0, "end" - start)), sum(iif(object, "end" - start, 0)) FROM'
            ' (SELECT object, start, "end" FROM extent WHERE ino = ? LIMIT ?)'
        )
        count, holes, data = self._db.rows(sql, (ino, most + 1))[0]
        return None if count > most else (holes or 0, data or 0)
