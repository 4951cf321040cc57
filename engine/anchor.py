"""Re-anchoring: finding the base objects of an overlay again in a base that was replaced.

Base objects are known by inode number, and a new firmware image has new numbers.  ``origin.path`` says where each one
was; at a mount that finds another base than last time, every origin is looked up by its path and renumbered, in one
transaction.  What is gone keeps its rows under a number that no base object has.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from minifo.engine.base import BaseView
from minifo.engine.db import Database
from minifo.engine.model import ROOT, Ino
from minifo.engine.nodes import RESERVED, Numbers
from minifo.engine.statements import statement

#: Every column that holds an inode number.
NUMBERED = (
    ("created", "parent"),
    ("created", "ino"),
    ("deleted", "parent"),
    ("renamed", "parent"),
    ("renamed", "ino"),
    ("modified", "ino"),
    ("inode", "ino"),
    ("origin", "ino"),
    ("extent", "ino"),
    ("small", "ino"),
    ("xattr", "ino"),
    ("orphan", "ino"),
)
_RENUMBER = {
    (table, column): statement(f"UPDATE {table} SET {column} = ? WHERE {column} = ?") for table, column in NUMBERED
}
_SAMPLES = 64  # origins looked at at each mount


class Anchored(NamedTuple):
    """What a re-anchoring did: objects found at their paths, and paths (base terms) that are gone."""

    found: int
    gone: list[bytes]


def base_mark(base: BaseView) -> str:
    """What tells one base from another: the root's number and the size of its file system.

    Not how many inodes it may have: XFS calculates that from what is free.
    """
    figures = base.statvfs()
    return f"{base.root_stat.st_ino}:{figures.f_frsize}:{figures.f_blocks}"


def _stat(base: BaseView, path: bytes) -> os.stat_result | None:
    try:
        return base.stat(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise


def is_replaced(db: Database, base: BaseView, numbers: Numbers) -> bool:
    """True where an object is at its path under another number: the base is another one, whatever its mark says.

    A few are looked at, so that a mount takes no longer for a large overlay.
    """
    sql = "SELECT ino, path FROM origin WHERE ino > ? AND ino < ? LIMIT ?"
    for ino, path in db.rows(sql, (ROOT, RESERVED, _SAMPLES)):
        st = _stat(base, path)
        if st is not None and numbers.of(st) != ino:
            return True
    return False


def keep_reserved(db: Database, base: BaseView, numbers: Numbers) -> None:
    """Make base objects that cannot keep their own number go by the one the overlay has given them."""
    for ino, path in db.rows("SELECT ino, path FROM origin WHERE ino >= ?", (RESERVED,)):
        st = _stat(base, path)
        if st is not None:
            numbers.keep((st.st_dev, st.st_ino), Ino(ino))


def reanchor(db: Database, base: BaseView, numbers: Numbers) -> Anchored:
    """Give every origin the number its path has in this base; inside an operation."""
    changed: dict[int, int] = {}
    gone: list[bytes] = []
    taken: set[int] = set()
    found = 0
    for ino, path in db.rows("SELECT ino, path FROM origin WHERE ino <> ? ORDER BY path", (ROOT,)):
        st = _stat(base, path)
        number = numbers.of(st) if st is not None else None
        if number is None or number in taken:
            # gone, or two paths that have become links of one file: rows of both are kept apart
            gone.append(path)
            number = numbers.unused(ino)
        else:
            found += 1
        taken.add(number)
        if number != ino:
            changed[ino] = number
    # by way of negative numbers, which nothing has: the new numbers may be others' old ones
    for sign in (-1, 1):
        for old, new in changed.items():
            for table, column in NUMBERED:
                before, after = (old, -new) if sign < 0 else (-new, new)
                db.change(_RENUMBER[table, column], (after, before))
    return Anchored(found, gone)
