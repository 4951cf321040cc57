"""Re-anchoring: finding the base objects of an overlay again in a base that was replaced.

Base objects are known by inode number, and a new firmware image has new numbers.  ``origin.path`` says where each one
was; at a mount that finds another base than last time, every origin is looked up by its path and renumbered, in one
transaction.  What is gone keeps its rows under a number that no base object has.  A base in which most of them are not
found is likely the wrong one (``Survey.is_likely_wrong``).
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from ..model import ROOT, Ino
from ..store.base_view import BaseView
from ..store.database import Database
from ..store.statements import statement
from .nodes import RESERVED, Numbers
from .row_checks import is_place, path_of

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
_MOVED = (
    statement("CREATE TEMP TABLE moved (old INTEGER PRIMARY KEY, new INTEGER NOT NULL)"),
    statement("INSERT INTO moved VALUES (?, ?)"),
    statement("DROP TABLE moved"),
)
# by way of negative numbers, which nothing has: the new numbers may be others' old ones
_RENUMBER = [
    statement(
        f"UPDATE {table} SET {column} = -(SELECT new FROM moved WHERE old = {column})"
        f" WHERE {column} IN (SELECT old FROM moved)"
    )
    for table, column in NUMBERED
]
_RENUMBER += [statement(f"UPDATE {table} SET {column} = -{column} WHERE {column} < 0") for table, column in NUMBERED]
_TELLING = 4  # objects that are gone, below which that says nothing about the base
# of what is no directory there is a row
_ORIGINS = "SELECT ino, path, coalesce(mode, ?) & 61440 FROM origin LEFT JOIN inode USING (ino)"
_SAMPLES = 64  # origins looked at at each mount
_STABLE_IDS = (0xEF53, 0x9123683E)  # statfs(2), f_type: ext2 to ext4, btrfs, whose f_fsid comes from their UUID


class Survey(NamedTuple):
    """What a look for all base objects of an overlay has found.

    Attributes:
        found: how many are at their paths.
        gone: how many are not.
        moved: the numbers that objects are to go by, by their present ones.
    """

    found: int
    gone: int
    moved: dict[int, int]

    @property
    def is_likely_wrong(self) -> bool:
        """True where fewer than half of the objects are in the base; of very few objects nothing is concluded.

        An update may drop the one file that was changed, and the device must boot all the same.
        """
        return self.found < self.gone and self.gone >= _TELLING


def base_mark(base: BaseView) -> str:
    """What tells one base from another: the root's number, the size of its file system, its type and identity.

    Not how many inodes it may have: XFS calculates that from what is free.
    """
    figures, kind = base.statvfs(), base.file_system_type()
    identity = f"{figures.f_fsid & 0xFFFF_FFFF_FFFF_FFFF:x}" if kind in _STABLE_IDS else ""
    return f"{base.root_stat.st_ino}:{figures.f_frsize}:{figures.f_blocks}:{kind:x}:{identity}"


def is_same_mark(known: str | None, mark: str) -> bool:
    """True where a mark, as far as it says anything, is that of another time."""
    return known is None or all(a == b for a, b in zip(known.split(":"), mark.split(":"), strict=False))


def describe(mark: str | None) -> str:
    """A base mark for people."""
    parts = (mark or "").split(":")
    if len(parts) < 3:
        return "an unknown file system"
    text = f"root inode {parts[0]}, {parts[2]} blocks of {parts[1]} bytes"
    text += f", type 0x{parts[3]}" if len(parts) > 3 else ""
    return text + (f", id {parts[4]}" if len(parts) > 4 and parts[4] else "")


def _find(base: BaseView, path: object) -> os.stat_result | None:
    """The base object at a path from a row, or None where there is none."""
    return base.find(path_of(0, path)) if is_place(path) else None


def is_replaced(db: Database, base: BaseView, numbers: Numbers) -> bool:
    """True where the base is another one, whatever its mark says: objects are at their paths under other numbers.

    A few are looked at, so that a mount takes no longer for a large overlay; most of them missing says so, too.
    """
    sql = "SELECT ino, path FROM origin WHERE ino > ? AND ino < ? LIMIT ?"
    missing = present = 0
    for ino, path in db.rows(sql, (ROOT, RESERVED, _SAMPLES)):
        st = _find(base, path)
        if st is None:
            missing += 1
        elif numbers.of(st) != ino:
            return True
        else:
            present += 1
    return present < missing


def keep_reserved(db: Database, base: BaseView, numbers: Numbers) -> None:
    """Make base objects that cannot keep their own number go by the one the overlay has given them."""
    kept: set[tuple[int, int]] = set()
    for ino, path, mode in db.rows(f"{_ORIGINS} WHERE ino >= ? ORDER BY path", (stat.S_IFDIR, RESERVED)):
        st = _find(base, path)
        if st is None or stat.S_IFMT(st.st_mode) != mode:
            continue
        identity = st.st_dev, st.st_ino
        owner = db.value("SELECT path FROM origin WHERE ino = ?", (numbers.of(st),))
        other = _find(base, owner) if owner not in (None, path) else None
        # of two paths that have become links of one file, the first one gives all others its number
        if identity not in kept and (other is None or (other.st_dev, other.st_ino) != identity):
            kept.add(identity)
            numbers.keep(identity, Ino(ino))


def survey(db: Database, base: BaseView, numbers: Numbers) -> Survey:
    """Look for every origin at its path in this base, and say by which number it is to go; changes nothing."""
    moved: dict[int, int] = {}
    taken: set[int] = set()
    found = gone = 0
    origins = db.rows(f"{_ORIGINS} WHERE ino <> ? ORDER BY path", (stat.S_IFDIR, ROOT))
    known = {ino for ino, _, _ in origins}
    for ino, path, mode in origins:
        st = _find(base, path)
        same_kind = st is not None and stat.S_IFMT(st.st_mode) == mode
        number = numbers.of(st) if st is not None and same_kind else None
        if st is None:
            gone += 1
        else:
            found += 1
        if number is None or number in taken:
            # gone, or two paths that have become links of one file: rows of both are kept apart
            number = Ino(ino)
            if ino < RESERVED or ino in taken:
                number = numbers.unused(ino)
                while number in taken or number in known:  # what went with an earlier base had the same one in that
                    number = numbers.unused(number)
        taken.add(number)
        if number != ino:
            moved[ino] = number
    return Survey(found, gone, moved)


def reanchor(db: Database, moved: dict[int, int]) -> None:
    """Give objects other numbers; inside an operation.

    Args:
        db: the overlay's database.
        moved: the new numbers by the old ones.
    """
    if not moved:
        return
    make, add, drop = _MOVED
    db.change(make)
    for pair in moved.items():
        db.change(add, pair)
    for sql in _RENUMBER:
        db.change(sql)
    db.change(drop)
