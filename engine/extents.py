"""Extents: which ranges of a file lie in content objects beside its backing, or are holes.

A hole is an extent without an object: it hides what the backing has there.  Extents of a file do not overlap, and those
that touch and lie side by side in one object are one row.  What it means that a row comes or goes, and what a commit
owes the object, is decided by engine/content.py and engine/ranges.py.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from minifo.engine.db import Database
from minifo.engine.errors import FsError
from minifo.engine.model import FILE_MAX, OBJECTS_END, Ino
from minifo.engine.statements import statement

HOLE = 0  # in the column object of extent: the bytes are zeros, whatever the backing has there

_ADD_EXTENT = statement("INSERT INTO extent VALUES (?, ?, ?, ?, ?)")
_PUT_EXTENT = statement(
    'INSERT INTO extent VALUES (?, ?, ?, ?, ?) ON CONFLICT (ino, start) DO UPDATE SET "end" = excluded."end"'
)
_CUT_EXTENTS = statement('UPDATE extent SET "end" = ? WHERE ino = ? AND "end" > ?')
_DROP_EXTENT = statement("DELETE FROM extent WHERE ino = ? AND start = ?")
_DROP_EXTENTS = statement("DELETE FROM extent WHERE ino = ?")
_DROP_EXTENTS_FROM = statement("DELETE FROM extent WHERE ino = ? AND start >= ?")


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
        # they do not overlap, so the last one that begins at or before the range is the first to touch it
        sql = (
            'SELECT start, "end", object, at FROM extent WHERE ino = ?1 AND "end" > ?2 AND start < ?3 AND start >='
            " coalesce((SELECT max(start) FROM extent WHERE ino = ?1 AND start <= ?2), ?2) ORDER BY start LIMIT ?4"
        )
        extents = [Extent._make(found) for found in self._db.rows(sql, (ino, start, end, limit))]
        before = 0
        for extent in extents:
            if {*map(type, extent)} != {int} or not (
                before <= extent.start < extent.end <= FILE_MAX
                and 0 <= extent.object < OBJECTS_END
                and 0 <= extent.at <= FILE_MAX
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

    def carve(self, ino: Ino, start: int, end: int, *, holes_only: bool = False) -> list[Extent]:
        """Take a range out of the extents, or out of the holes among them.  Inside an operation.

        Returns:
            What was taken out.
        """
        pieces = []
        for extent in self.of(ino, start, end):
            if holes_only and extent.object != HOLE:
                continue
            first, stop = max(start, extent.start), min(end, extent.end)
            self._db.change(_DROP_EXTENT, (ino, extent.start))
            for left, right in ((extent.start, first), (stop, extent.end)):
                if left < right:
                    at = extent.at + left - extent.start
                    self._db.change(_ADD_EXTENT, (ino, left, right, extent.object, at))
            pieces.append(Extent(first, stop, extent.object, extent.at + first - extent.start))
        return pieces

    def cut(self, ino: Ino, size: int) -> None:
        """Let no extent reach beyond *size*, in bytes.  Inside an operation."""
        self._db.change(_DROP_EXTENTS_FROM, (ino, size))
        self._db.change(_CUT_EXTENTS, (size, ino, size))

    def drop(self, ino: Ino) -> None:
        """Delete all extents of a file.  Inside an operation."""
        self._db.change(_DROP_EXTENTS, (ino,))

    def objects_of(self, ino: Ino, beyond: int = 0) -> set[int]:
        """The content objects of extents that reach beyond an offset, in bytes."""
        sql = 'SELECT DISTINCT object FROM extent WHERE ino = ? AND "end" > ? AND object > 0'
        found = {number for (number,) in self._db.rows(sql, (ino, beyond))}
        return {number for number in found if type(number) is int and number < OBJECTS_END}
