"""Blocks that files gave up by a punched hole: given back to storage once the commit that says so is durable.

They are given back only where no row shows them again by then; what a crash keeps from being given back stays allocated
until the file goes.
"""

from __future__ import annotations

import logging
import math
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from functools import partial

from ..model import BLOCK_SIZE, Ino
from ..store.content_objects import Hole, ObjectStore, object_name
from ..store.database import Database
from .extents import Extents
from .inodes import Inodes

log = logging.getLogger(__name__)


class FreedBlocks:
    """Blocks of content objects that are to be given back.

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
        """Note that a file gave up parts of an object, in offsets of the object: whole blocks of them are given back.

        At once if no commit has named the object, else when that is durable.
        """
        for start, end in parts:
            first, stop = -(-start // BLOCK_SIZE) * BLOCK_SIZE, end // BLOCK_SIZE * BLOCK_SIZE
            if first < stop:
                self._db.on_success(partial(self._add_range, ino, number, first, stop))

    def _add_range(self, ino: Ino, number: int, start: int, end: int) -> None:
        if number < self._objects.committed_next:
            # in order and apart from each other: what is given up twice goes once
            holes = self._objects.holes.setdefault(number, [])
            near = slice(
                bisect_right(holes, start, key=lambda hole: hole.end),
                bisect_left(holes, end, key=lambda hole: hole.start),
            )
            parts = gaps([(hole.start, hole.end) for hole in holes[near]], start, end)
            new = [Hole(ino, first, stop, self._db.operations) for first, stop in parts]
            holes[near] = sorted([*holes[near], *new], key=lambda hole: hole.start)
            return
        for first, stop in self._unseen(ino, number, start, end):
            self.punch(number, stop - first, first)

    def punch(self, number: int, size: int, offset: int) -> None:
        """Give blocks back after the operation that made them free: it has succeeded, whatever comes of this."""
        try:
            self._objects.punch(number, size, offset)
        except OSError as error:
            log.warning("%s keeps blocks it does not need: %s", object_name(number), error)

    def hand_back(self, operation: int, seconds: float = math.inf) -> bool:
        """Give back blocks that operations up to that one gave up, now that their commit is durable.

        Args:
            operation: the last one of the commit.
            seconds: how long that may take, about.

        Returns:
            False if there are more.
        """
        deadline = time.monotonic() + seconds
        for number, holes in list(self._objects.holes.items()):
            kept = []
            for place, hole in enumerate(holes):
                if hole.operation > operation:
                    kept.append(hole)
                    continue
                if time.monotonic() > deadline:
                    self._objects.holes[number] = kept + holes[place:]
                    return False
                for first, stop in self._unseen(Ino(hole.ino), number, hole.start, hole.end):
                    self._objects.punch(number, stop - first, first)
                self._inodes.watcher.changed(Ino(hole.ino))
            if kept:
                self._objects.holes[number] = kept
            else:
                del self._objects.holes[number]
        return True

    def _unseen(self, ino: Ino, number: int, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of a range of an object, in its own offsets, of which no row of the file shows any byte."""
        row = self._inodes.row(ino)
        if row is None:
            return []
        if row.object == number:
            covers = self._extents.of(ino, start, end) if row.mapped else []
            return [(max(start, cover.start), min(end, cover.end)) for cover in covers]
        if not self._extents.is_packed(ino, number):
            shown = [extent[:2] for extent in self._extents.of(ino, start, end) if extent.object == number]
            return gaps(shown, start, end)
        sql = (
            'SELECT at, at + "end" - start FROM extent WHERE ino = ?1 AND object = ?2 AND at < ?4'
            ' AND at + "end" - start > ?3 ORDER BY at'
        )
        return gaps(self._db.rows(sql, (ino, number, start, end)), start, end)


def gaps(parts: Iterable[tuple[int, ...]], start: int, end: int) -> list[tuple[int, int]]:
    """What lies in a range between parts of it, which are in order."""
    found = []
    for first, stop in parts:
        if start < first:
            found.append((start, first))
        start = max(start, stop)
    return [*found, (start, end)] if start < end else found
