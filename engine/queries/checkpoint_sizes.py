"""The bytes that checkpoints take: what only one of them needs, and what it shares.

A row of history is needed by the checkpoint that it was kept for, and by those before that which have no row of this
key themselves (store/history.py).  So all rows of a key, in the order of their checkpoints, say who needs each; and an
object is needed by whoever needs a row that names it, today's rows among them.  One look at every row of history, and
at today's rows that name objects, answers for all checkpoints.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import Counter, defaultdict
from itertools import groupby
from typing import NamedTuple

from ..errors import FsError
from ..overlay import Overlay
from ..store.database import Database
from ..store.history import TABLES, History
from ..store.object_paths import object_name
from ..store.storage import Storage
from ..store.typed_rows import each

_BLOCK = 512  # bytes of st_blocks (stat(2))
_PER_ROW = 40  # bytes of a row of history without its texts and BLOBs: numbers, and its share of the pages' overhead
_TODAY = (
    "SELECT ino, -1, object FROM inode WHERE object > 0"
    " UNION ALL SELECT ino, start, object FROM extent WHERE object > 0"
)
_LONG = {"name", "path", "data", "value", "target", "digest"}  # columns whose values may be long


def _reads(name: str) -> tuple[str, str]:
    """Return the query for a table's history, and the kinds of its columns (tree/typed_rows.py).

    Its columns are the key, the checkpoint, the bytes of the row, and the object that it names or 0.
    """
    key, others = TABLES[name]
    lengths = [f"coalesce(length({column}), 0)" for column in (*key, *others) if column in _LONG]
    size = " + ".join([str(_PER_ROW), *lengths])
    number = "coalesce(max(object, 0), 0)" if "object" in others else "0"
    keys = ", ".join(key)
    kinds = "".join("b" if column in _LONG else "i" for column in key) + "iii"
    return f"SELECT {keys}, checkpoint, {size}, {number} FROM was_{name} ORDER BY {keys}, checkpoint", kinds


_ROWS = {name: _reads(name) for name in TABLES}


class Sizes(NamedTuple):
    """What one checkpoint takes.

    Attributes:
        own: bytes that its deletion would free: content objects as they lie on disk; rows by an estimate.
        shared: bytes of content objects that it needs, and another checkpoint, the overlay itself or a clone does, too.
    """

    own: int
    shared: int


class _Needs:
    """Who needs what.  A set of checkpoints is a number, with a bit for each by its place in the list of their ids."""

    def __init__(self, db: Database) -> None:
        self.ids: list[int] = [number for (number,) in each(db, "SELECT id FROM checkpoint ORDER BY id", "i")]
        self.overlay = 1 << len(self.ids)  # the bit of the overlay itself
        self.rows: Counter[int] = Counter()  # bytes of rows, by who needs them
        self.objects: dict[int, int] = defaultdict(int)  # who needs each object
        newest: dict[tuple[int, int], int] = {}  # the last checkpoint at which a key that names objects has a row
        for name, table in TABLES.items():
            starts = name == "extent"
            width = len(table.key)
            for key, rows in groupby(each(db, *_ROWS[name]), key=lambda row, width=width: row[:width]):  # type: ignore[misc]
                last = 0
                for row in rows:
                    checkpoint, size, number = row[width:]
                    needed = self._between(last, checkpoint)
                    self.rows[needed] += size
                    if number:
                        self.objects[number] |= needed
                    last = checkpoint
                if starts or name == "inode":
                    newest[key[0], key[1] if starts else -1] = last
        for ino, start, number in each(db, _TODAY, "iii"):
            after = newest.get((ino, start), 0)
            self.objects[number] |= self._between(after, None) | self.overlay

    def _between(self, after: int, last: int | None) -> int:
        """The checkpoints with ids above the first one, up to the last one."""
        low = bisect_right(self.ids, after)
        high = len(self.ids) if last is None else bisect_right(self.ids, last)
        return (1 << high) - (1 << low) if high > low else 0


def sizes(overlay: Overlay) -> dict[int, Sizes]:
    """Return what each checkpoint takes, by its id.

    Args:
        overlay: nothing of it may change meanwhile.

    Raises:
        FsError, Corrupt: the database cannot be read, or a row is damaged.
    """
    needs = _Needs(overlay.db)
    bytes_by_need = Counter(needs.rows)
    for number, needed in needs.objects.items():
        size, is_cloned = _allocated(overlay.storage, number)
        bytes_by_need[needed | needs.overlay if is_cloned else needed] += size
    own = dict.fromkeys(needs.ids, 0)
    shared = dict.fromkeys(needs.ids, 0)
    rows_only = needs.rows
    for needed, size in bytes_by_need.items():
        ids = [number for at, number in enumerate(needs.ids) if needed >> at & 1]
        if needed.bit_count() == 1 and ids:
            own[ids[0]] += size
        else:
            for number in ids:
                shared[number] += size - rows_only[needed]
    return {number: Sizes(own[number], shared[number]) for number in needs.ids}


def oldest_beyond(overlay: Overlay, gone: list[int], candidates: list[int], limit: int) -> list[int]:
    """Return which checkpoints to delete, the oldest first, so that what is left takes at most so many bytes.

    To delete one hands over some of what it kept to the one before.  So it is tried in a copy of the database.

    Args:
        overlay: nothing of it may change meanwhile, and all is committed.
        gone: the ids of those that are deleted anyway.
        candidates: the ids of those that may be deleted, in their order.
        limit: bytes that all checkpoints together may take; what the overlay itself needs does not count.

    Returns:
        Ids; all candidates if that is not enough.
    """
    copy = overlay.db.copied()
    known: dict[int, int] = {}
    try:
        history = History(copy)
        with copy.operation():
            for number in gone:
                history.forget(number)
        for count, number in enumerate(candidates):
            if _taken(copy, overlay.storage, known) <= limit:
                return candidates[:count]
            with copy.operation():
                history.forget(number)
        return candidates
    finally:
        copy.close()


def taken(overlay: Overlay) -> int:
    """Return the bytes that go when all checkpoints go; nothing of the overlay may change meanwhile."""
    return _taken(overlay.db, overlay.storage, {})


def _taken(db: Database, storage: Storage, known: dict[int, int]) -> int:
    needs = _Needs(db)
    total = sum(needs.rows.values())
    for number, needed in needs.objects.items():
        if not needed & needs.overlay:
            if number not in known:
                size, is_cloned = _allocated(storage, number)
                known[number] = 0 if is_cloned else size  # to delete it would free nothing
            total += known[number]
    return total


def _allocated(storage: Storage, number: int) -> tuple[int, bool]:
    """The bytes that an object takes on disk, none if it is lost; and whether another storage needs it, too."""
    try:
        st = storage.stat(object_name(number))
        return st.st_blocks * _BLOCK, st.st_nlink > 1
    except FileNotFoundError:
        return 0, False
    except OSError as error:
        raise FsError(error.errno or 0, os.fsdecode(object_name(number))) from error
