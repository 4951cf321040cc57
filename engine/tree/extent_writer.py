"""Writes ranges of files into extents, and chooses where in a content object the bytes of a new extent lie.

tree/content.py calls this for what a file's backing cannot take: a range of a large base file, or bytes beyond the
largest file that storage can hold.
"""

from __future__ import annotations

import errno

from ..errors import FsError
from ..model import BLOCK_SIZE, OBJECTS_END
from ..store.content_objects import ObjectStore
from ..store.database import Database
from .extents import HOLE, Extent
from .inode_rows import Backing, Row
from .stored_bytes import StoredBytes


class ExtentWriter:
    """Writes ranges of files into extents.

    Args:
        db: the overlay's database.
        objects: the content objects in storage.
        stored: the bytes of files in storage.
    """

    def __init__(self, db: Database, objects: ObjectStore, stored: StoredBytes) -> None:
        self._db = db
        self._objects = objects
        self._stored = stored

    def write(self, row: Row, backing: Backing, offset: int, data: bytes | memoryview) -> None:
        """Write a range into the extents that it touches, and into the backing object and new extents between them.

        Call it inside an operation.

        Args:
            row: the file's row.
            backing: where its bytes come from if no extent covers them.
            offset: where to write, in bytes.
            data: the bytes.

        Raises:
            OSError: ENOSPC or EDQUOT; EFBIG if storage cannot hold a file of that size.
        """
        view = memoryview(data)
        end = offset + len(view)
        at = offset
        extents = self._stored.extents.of(row.ino, offset, end)
        # holes have the object 0, so that they count as frozen
        passive = {extent.object for extent in extents if self._objects.is_frozen(extent.object or -1)}
        if passive:
            self._stored.extents.carve(row.ino, offset, end, passive)
            extents = [extent for extent in extents if extent.object not in passive]
            for number in self._stored.extents.unused(row.ino, passive - {HOLE, row.object}):
                self._objects.drop(number)
        for extent in extents:
            if at < extent.start:
                self._write_gap(row, backing, at, view[at - offset : extent.start - offset])
            at = max(at, extent.start)
            stop = min(extent.end, end)
            self._objects.write(extent.object, view[at - offset : stop - offset], extent.at + at - extent.start)
            at = stop
        if at < end:
            self._write_gap(row, backing, at, view[at - offset :])

    def _write_gap(self, row: Row, backing: Backing, start: int, data: memoryview) -> None:
        """Write a range that no extent covers: as far as possible into the backing object, the rest to extents."""
        number, bound, _ = backing
        done = 0
        if number:
            limit = self._objects.largest if bound is None else min(bound, self._objects.largest)
            done = min(max(0, limit - start), len(data)) if not self._objects.is_frozen(number) else 0
            if done:
                done = self._objects.write_fitting(number, data[:done], start)
        if done < len(data):
            self._add_extents(row, start + done, data[done:])

    def _add_extents(self, row: Row, start: int, data: memoryview) -> None:
        """Write a range that no extent covers to new extents; mostly it is one."""
        while data:
            number, at = self._choose_object(row, start, len(data))
            done = self._objects.write_fitting(number, data, at)
            if done:
                self._stored.extents.join(row.ino, Extent(start, start + done, number, at))
            elif at <= BLOCK_SIZE:
                raise FsError(errno.EFBIG, f"write inode {row.ino}")  # storage cannot even hold a file of one block
            elif number not in self._stored.objects_of(row._replace(mapped=1)):
                self._objects.drop(number)  # a new object that cannot hold the first byte
            start += done
            data = data[done:]

    def _choose_object(self, row: Row, start: int, size: int) -> tuple[int, int]:
        """Return a content object of this file for a new extent, and the extent's offset in the object.

        If storage can have holes, the offset in the object is the offset in the file, so that neighbouring extents
        merge.  Otherwise, and beyond the size of the largest file that storage can hold, extents are *packed*: the new
        one goes behind the last byte that the object ever had.  An object is either packed or not, as storage may move
        to another file system; ``at = start`` tells the two apart.

        Bytes that the last commit refers to must stay, even if no row refers to them now.  So an object that was cut
        takes no new extent before the cut is durable.
        """
        packed = not self._objects.has_holes or start + size > self._objects.largest
        sql = f"FROM extent WHERE ino = ? AND (at <> start) = {int(packed)}"
        # the object of the first extent almost always serves, and a file may have a hundred thousand extents
        # nothing is written into frozen ones; what is no id of an object at all is damage, and no number is above it
        sql += f" AND object >= ? AND object < {OBJECTS_END}"
        file = row.ino, max(1, self._objects.frozen_below)
        found = self._taking(f"SELECT object {sql} LIMIT 1", file, packed)
        if not found:
            found = self._taking(f"SELECT DISTINCT object {sql}", file, packed)
        if not packed:
            return (found[0] if found else self._objects.create()), start
        at = self._packed_end(found[0], start) if found else 0
        if found and at + size > self._objects.largest:
            # that object is full; of the file's packed objects only the newest may have room
            found = self._taking(f"SELECT DISTINCT object {sql}", file, packed)[-1:]
            at = self._packed_end(found[0], start)
        if found and at + size <= self._objects.largest:
            return found[0], at
        number = self._objects.create()
        return number, self._packed_end(number, start)

    def _taking(self, sql: str, file: tuple[int, int], packed: bool) -> list[int]:
        """Return those of a query's objects that may take a new extent, in the order of their ids."""
        numbers = sorted(int(number) for (number,) in self._db.rows(sql, file))
        # a packed extent goes behind all bytes, also those that were cut
        return [n for n in numbers if not self._objects.is_frozen(n) and (packed or n not in self._objects.cut)]

    def _packed_end(self, number: int, start: int) -> int:
        """Return the offset of the first block behind an object's last byte; the next block if that is *start*."""
        tail = -(-self._objects.stat(number).st_size // BLOCK_SIZE) * BLOCK_SIZE
        return tail if tail != start else tail + BLOCK_SIZE
