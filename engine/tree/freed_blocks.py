"""Frees blocks of content objects below punched holes, after the commit with the hole is durable.

Until then the last commit still shows the blocks.  A block that a row shows again by then is not freed.  If a crash
comes first, the block stays allocated until the file is deleted.
"""

from __future__ import annotations

import logging
import math
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from functools import partial

from ..model import BLOCK_SIZE, Ino
from ..store.content_objects import Hole, ObjectStore
from ..store.database import Database
from ..store.object_paths import object_name
from .extents import Extents
from .inodes import Inodes

log = logging.getLogger(__name__)


class FreedBlocks:
    """Notes blocks that can be freed, and frees them.

    Args:
        db: the overlay's database.
        inodes: rows of files.
        extents: the extents of all files.
        objects: the content objects in storage.
    """

    def __init__(self, db: Database, inodes: Inodes, extents: Extents, objects: ObjectStore) -> None:
        self._db = db
        self._inodes = inodes
        self._extents = extents
        self._objects = objects

    def add(self, ino: Ino, number: int, parts: list[tuple[int, int]]) -> None:
        """Note that a file no longer uses parts of an object; the whole blocks in them are freed later.

        They are freed at the end of the operation if no commit refers to the object, else after the next commit.

        Args:
            ino: the file.
            number: the object.
            parts: start and end of each part, in bytes, as offsets in the object.
        """
        if self._objects.is_frozen(number):
            return  # a checkpoint may show them
        for start, end in parts:
            first, stop = -(-start // BLOCK_SIZE) * BLOCK_SIZE, end // BLOCK_SIZE * BLOCK_SIZE
            if first < stop:
                self._db.on_success(partial(self._add_range, ino, number, first, stop))

    def _add_range(self, ino: Ino, number: int, start: int, end: int) -> None:
        if number < self._objects.committed_next:
            # the list stays sorted and without overlaps, so that no range is freed twice
            holes = self._objects.holes.setdefault(number, [])
            near = slice(
                bisect_right(holes, start, key=lambda hole: hole.end),
                bisect_left(holes, end, key=lambda hole: hole.start),
            )
            parts = gaps([(hole.start, hole.end) for hole in holes[near]], start, end)
            new = [Hole(ino, first, stop, self._db.operations) for first, stop in parts]
            holes[near] = sorted([*holes[near], *new], key=lambda hole: hole.start)
            return
        for first, stop in self._unused(ino, number, start, end):
            self.punch(number, stop - first, first)

    def punch(self, number: int, size: int, offset: int) -> None:
        """Free a range of an object, after the operation that no longer needs it; an error is only logged.

        The operation has succeeded by then, and blocks that stay allocated do no harm.
        """
        if self._objects.is_frozen(number):
            return
        try:
            self._objects.punch(number, size, offset)
        except OSError as error:
            log.warning("unused blocks of %s cannot be freed: %s", object_name(number), error)

    def hand_back(self, operation: int, seconds: float = math.inf) -> bool:
        """Free the blocks that were noted up to an operation, after the commit of that operation is durable.

        Args:
            operation: number of the last operation in the commit.
            seconds: stop after about this time.

        Returns:
            False if some are left.
        """
        deadline = time.monotonic() + seconds
        for number, holes in list(self._objects.holes.items()):
            if self._objects.is_frozen(number):
                del self._objects.holes[number]
                continue
            later = []
            for index, hole in enumerate(holes):
                if hole.operation > operation:
                    later.append(hole)
                    continue
                if time.monotonic() > deadline:
                    self._objects.holes[number] = later + holes[index:]
                    return False
                for first, stop in self._unused(Ino(hole.ino), number, hole.start, hole.end):
                    self._objects.punch(number, stop - first, first)
                self._inodes.watcher.changed(Ino(hole.ino))
            if later:
                self._objects.holes[number] = later
            else:
                del self._objects.holes[number]
        return True

    def _unused(self, ino: Ino, number: int, start: int, end: int) -> list[tuple[int, int]]:
        """Return the parts of a range of an object of which the file's rows show no byte.

        Args:
            ino: the file.
            number: the object.
            start, end: the range, in bytes, as offsets in the object; so are the parts.
        """
        row = self._inodes.row(ino)
        if row is None:
            return []
        if row.object == number:
            # as the backing, the object shows all but what extents cover
            covering = self._extents.of(ino, start, end) if row.mapped else []
            return [(max(start, extent.start), min(end, extent.end)) for extent in covering]
        if not self._extents.is_packed(ino, number):
            shown = [extent[:2] for extent in self._extents.of(ino, start, end) if extent.object == number]
            return gaps(shown, start, end)
        sql = (
            'SELECT at, at + "end" - start FROM extent WHERE ino = ?1 AND object = ?2 AND at < ?4'
            ' AND at + "end" - start > ?3 ORDER BY at'
        )
        return gaps(self._db.rows(sql, (ino, number, start, end)), start, end)


def gaps(parts: Iterable[tuple[int, ...]], start: int, end: int) -> list[tuple[int, int]]:
    """Return what is left of a range without the given *parts* of it, which are sorted."""
    found = []
    for first, stop in parts:
        if start < first:
            found.append((start, first))
        start = max(start, stop)
    return [*found, (start, end)] if start < end else found
