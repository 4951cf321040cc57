"""Extents: the rows that say which ranges of a file lie in content objects other than its backing, or are holes.

A hole is an extent without an object: the range reads as zeros, whatever the backing has there.  The extents of a file
do not overlap.  Two that touch in the file and in their object are merged into one row.

Only rows change here.  tree/content.py, tree/extent_writer.py and tree/ranges.py write the objects, and decide what
becomes of an object after its rows are gone.
"""

from __future__ import annotations

import errno
from collections.abc import Container, Iterable
from typing import NamedTuple

from ..errors import FsError
from ..model import FILE_MAX, OBJECTS_END, Ino
from ..store.database import Database
from ..store.statements import statement

MAX = (1 << 63) - 1
HOLE = 0  # in the column object: the extent is a hole

_ADD_EXTENT = statement("INSERT INTO extent VALUES (?, ?, ?, ?, ?)")
_PUT_EXTENT = statement(
    'INSERT INTO extent VALUES (?, ?, ?, ?, ?) ON CONFLICT (ino, start) DO UPDATE SET "end" = excluded."end"'
)
_CUT_EXTENT = statement('UPDATE extent SET "end" = ?1 WHERE ino = ?2 AND start = ?3 AND "end" > ?1')
_DROP_EXTENT = statement("DELETE FROM extent WHERE ino = ? AND start = ?")
_DROP_EXTENTS = statement("DELETE FROM extent WHERE ino = ?")
_DROP_EXTENTS_FROM = statement("DELETE FROM extent WHERE ino = ? AND start >= ?")
_DROP_EXTENTS_IN = statement('DELETE FROM extent WHERE ino = ? AND start >= ? AND start < ? AND "end" <= ?')

# True of the extents of file ?1 that touch the range [?2, ?3).  As they do not overlap, the search may begin at the
# last one that starts at or before ?2.
_TOUCHED = (
    'ino = ?1 AND "end" > ?2 AND start < ?3'
    " AND start >= coalesce((SELECT max(start) FROM extent WHERE ino = ?1 AND start <= ?2), ?2)"
)


class Extent(NamedTuple):
    """Bytes [start, end) of a file: they lie at offset ``at`` of ``object``, or are zeros if that is ``HOLE``."""

    start: int
    end: int
    object: int
    at: int


class Extents:
    """Finds and changes extents, the rows of ``extent``.

    Args:
        db: the overlay's database.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    def of(self, ino: int, start: int, end: int, limit: int = -1) -> list[Extent]:
        """Return the extents that a range touches, in order; at most *limit* of them, or all for -1.

        Raises:
            FsError: EIO if they overlap, or a value is impossible.
        """
        sql = f'SELECT start, "end", object, at FROM extent WHERE {_TOUCHED} ORDER BY start LIMIT ?4'
        extents = [Extent._make(values) for values in self._db.rows(sql, (ino, start, end, limit))]
        previous_end = 0
        for extent in extents:
            if {*map(type, extent)} != {int} or not (
                previous_end <= extent.start < extent.end <= FILE_MAX
                and 0 <= extent.object < OBJECTS_END
                and 0 <= extent.at <= FILE_MAX - (extent.end - extent.start)
            ):
                raise FsError(errno.EIO, f"inode {ino}: its extents are damaged")
            previous_end = extent.end
        return extents

    def join(self, ino: Ino, new: Extent) -> None:
        """Add an extent for a range that no other covers, and merge it with its neighbours if they continue it.

        Call it inside an operation.
        """
        start, end, number, at = new
        # invariant 12: extents of a file do not overlap; the caller has seen that the range is free
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

    def carve(self, ino: Ino, start: int, end: int, objects: Container[int] | None = None) -> None:
        """Remove a range from the extents that touch it; an extent that reaches beyond the range keeps its other part.

        Call it inside an operation.

        Args:
            ino: the file.
            start, end: the range, in bytes.
            objects: leave alone extents in other objects than these; ``HOLE`` stands for holes.  None for all.
        """
        if objects is not None:
            touched = [extent for extent in self.of(ino, start, end) if extent.object in objects]
        else:
            # one statement for all that lie inside: there may be a million
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
        """Remove all bytes at or beyond offset *size* from the extents of a file.  Call it inside an operation."""
        self._db.change(_DROP_EXTENTS_FROM, (ino, size))
        last = self._db.value("SELECT start FROM extent WHERE ino = ? ORDER BY start DESC LIMIT 1", (ino,))
        if last is not None:
            self._db.change(_CUT_EXTENT, (size, ino, last))

    def drop_last(self, ino: Ino, count: int) -> set[int] | None:
        """Delete the last *count* extents of a file.  Call it inside an operation.

        Returns:
            The objects that they were in; None if the file has fewer extents, and then nothing is deleted.
        """
        sql = "SELECT start FROM extent WHERE ino = ? ORDER BY start DESC LIMIT 1 OFFSET ?"
        first = self._db.value(sql, (ino, count - 1))
        if first is None:
            return None
        objects = self.objects_of(ino, first)
        self._db.change(_DROP_EXTENTS_FROM, (ino, first))
        return objects

    def drop(self, ino: Ino) -> None:
        """Delete all extents of a file.  Call it inside an operation."""
        self._db.change(_DROP_EXTENTS, (ino,))

    def objects_of(self, ino: Ino, start: int = 0, end: int = MAX) -> set[int]:
        """Return the ids of the content objects of the extents that a range touches; holes have none."""
        sql = f"SELECT DISTINCT object FROM extent WHERE {_TOUCHED} AND object > 0"
        numbers = {number for (number,) in self._db.rows(sql, (ino, start, end))}
        return {number for number in numbers if type(number) is int and number < OBJECTS_END}

    def unused(self, ino: Ino, objects: Iterable[int]) -> list[int]:
        """Return those of *objects* in which no extent of the file lies."""
        # one query each: the first extents of a file mostly lie in the object asked for
        sql = "SELECT 1 FROM extent WHERE ino = ? AND object = ? LIMIT 1"
        return [number for number in objects if self._db.value(sql, (ino, number)) is None]

    def is_packed(self, ino: Ino, number: int) -> bool:
        """Return True if an object is packed: its bytes lie at other offsets than in the file.

        Either all extents of an object are packed, or none (tree/extent_writer.py).
        """
        return bool(
            self._db.value("SELECT at <> start FROM extent WHERE ino = ? AND object = ? LIMIT 1", (ino, number))
        )

    def has_hole(self, ino: Ino, start: int, end: int) -> bool:
        """Return True if a range touches a hole."""
        sql = f"SELECT 1 FROM extent WHERE {_TOUCHED} AND object = 0 LIMIT 1"
        return self._db.value(sql, (ino, start, end)) is not None

    def lengths(self, ino: Ino, limit: int) -> tuple[int, int] | None:
        """Return how many bytes of a file are holes, and how many lie in the objects of extents.

        Returns None if the file has more than *limit* extents: counting them would take too long.
        """
        sql = (
            'SELECT count(*), sum(iif(object, 0, "end" - start)), sum(iif(object, "end" - start, 0)) FROM'
            ' (SELECT object, start, "end" FROM extent WHERE ino = ? LIMIT ?)'
        )
        count, holes, data = self._db.rows(sql, (ino, limit + 1))[0]
        return None if count > limit else (holes or 0, data or 0)
