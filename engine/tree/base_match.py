"""Matching an overlay's rows with the objects of a base that was replaced.

Rows refer to base objects by inode number, and a new firmware image has new numbers.  ``origin.path`` is the path of
each object.  When a mount finds another base than last time, it looks up every path of ``origin`` and gives the rows
the numbers of the new base, in one transaction.  The rows of an object that is gone get a number that no base object
has.  If most objects are gone, the user has probably named a wrong base (``Survey.is_likely_wrong``).
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
from .row_checks import is_origin_path, path_of

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
#: Those of the history (store/history.py), too.
ALL_NUMBERED = (*NUMBERED, *((f"was_{table}", column) for table, column in NUMBERED))
_MOVED = (
    statement("CREATE TEMP TABLE moved (old INTEGER PRIMARY KEY, new INTEGER NOT NULL)"),
    statement("INSERT INTO moved VALUES (?, ?)"),
    statement("DROP TABLE moved"),
)
# In two steps, by way of negative numbers: the new number of one object may be the old number of another.
_RENUMBER = [
    statement(
        f"UPDATE {table} SET {column} = -(SELECT new FROM moved WHERE old = {column})"
        f" WHERE {column} IN (SELECT old FROM moved)"
    )
    for table, column in ALL_NUMBERED
]
_RENUMBER += [
    statement(f"UPDATE {table} SET {column} = -{column} WHERE {column} < 0") for table, column in ALL_NUMBERED
]
# What only checkpoints know.
_FORMER_ORIGINS = (
    "SELECT ino, path, coalesce((SELECT mode FROM was_inode i WHERE i.ino = w.ino AND i.held LIMIT 1), ?) & 61440"
    " FROM was_origin w WHERE held AND ino NOT IN (SELECT ino FROM origin)"
)
_GONE_MIN = 4  # fewer missing objects than this say nothing about the base
# Numbers, paths and types; only a directory has a row in origin without one in inode.
_ORIGINS = "SELECT ino, path, coalesce(mode, ?) & 61440 FROM origin LEFT JOIN inode USING (ino)"
_SAMPLES = 64  # rows of origin that are compared with the base at each mount
# f_type (statfs(2)) of file systems whose f_fsid comes from their UUID: ext2 to ext4, and btrfs.
_STABLE_IDS = (0xEF53, 0x9123683E)


class Survey(NamedTuple):
    """The result of looking up all paths of ``origin`` in a base.

    Attributes:
        found: how many objects are at their paths, those that cannot be read included.
        gone: how many are not.
        moved: the new inode number of each object whose number must change, by its present one.
    """

    found: int
    gone: int
    moved: dict[int, int]

    @property
    def is_likely_wrong(self) -> bool:
        """True if the base lacks most of the objects, and at least four of them.

        Fewer say nothing: an update may drop the one file that the overlay had changed, and the device must still boot.
        """
        return self.found < self.gone and self.gone >= _GONE_MIN


def base_mark(base: BaseView) -> str:
    """Return a text that identifies a base: its root's inode number, its file system's size, type and id; its layers.

    The number of inodes is left out: XFS calculates it from the free space, so it changes.
    """
    figures, kind = base.statvfs(), base.file_system_type()
    identity = f"{figures.f_fsid & 0xFFFF_FFFF_FFFF_FFFF:x}" if kind in _STABLE_IDS else ""
    mark = f"{base.root_stat.st_ino}:{figures.f_frsize}:{figures.f_blocks}:{kind:x}:{identity}"
    return f"{mark}:{base.layers_mark}" if base.layers_mark else mark


def is_same_mark(known: str | None, mark: str) -> bool:
    """Return True if *mark* agrees with *known*, the mark at the last mount, in all parts that both have."""
    return known is None or all(a == b for a, b in zip(known.split(":"), mark.split(":"), strict=False))


def describe(mark: str | None) -> str:
    """Return a base mark as a text for the user."""
    parts = (mark or "").split(":")
    if len(parts) < 3:
        return "an unknown file system"
    text = f"root inode {parts[0]}, {parts[2]} blocks of {parts[1]} bytes"
    text += f", type 0x{parts[3]}" if len(parts) > 3 else ""
    text += f", id {parts[4]}" if len(parts) > 4 and parts[4] else ""
    return text + (f", layers {parts[5]}" if len(parts) > 5 else "")


def _find(base: BaseView, path: object) -> os.stat_result | OSError | None:
    """Return the attributes of the base object at a path from a row, or the error of reading them.

    None if there is no object, or if the path is damaged.
    """
    try:
        return base.find(path_of(0, path)) if is_origin_path(path) else None
    except OSError as error:
        return error


def is_replaced(db: Database, base: BaseView, numbers: Numbers) -> bool:
    """Return True if the base was replaced since the last mount, even if its mark is the same.

    It was if an object has another number than the overlay has noted, or if most objects are missing.  Objects that
    cannot be read tell nothing.  Only 64 objects are looked up, so that a mount of a large overlay takes no longer.
    """
    sql = "SELECT ino, path FROM origin WHERE ino > ? AND ino < ? LIMIT ?"
    missing = present = 0
    for ino, path in db.rows(sql, (ROOT, RESERVED, _SAMPLES)):
        st = _find(base, path)
        if isinstance(st, OSError):
            continue
        if st is None:
            missing += 1
        elif numbers.of(st) != ino:
            return True
        else:
            present += 1
    return present < missing


def assign_reserved(db: Database, base: BaseView, numbers: Numbers) -> None:
    """Give base objects that cannot keep their own numbers the reserved numbers by which rows refer to them."""
    kept: set[tuple[int, int]] = set()
    for ino, path, mode in db.rows(f"{_ORIGINS} WHERE ino >= ? ORDER BY path", (stat.S_IFDIR, RESERVED)):
        st = _find(base, path)
        if st is None or isinstance(st, OSError) or stat.S_IFMT(st.st_mode) != mode:
            continue
        identity = st.st_dev, st.st_ino
        owner = db.value("SELECT path FROM origin WHERE ino = ?", (numbers.of(st),))
        other = _find(base, owner) if owner not in (None, path) else None
        # if two paths have become links of one file, the file gets the number of the first path
        is_link = isinstance(other, os.stat_result) and (other.st_dev, other.st_ino) == identity
        if identity not in kept and not is_link:
            kept.add(identity)
            numbers.assign(identity, Ino(ino))


def survey(db: Database, base: BaseView, numbers: Numbers) -> Survey:
    """Look up every path of ``origin`` in the base, and work out which rows must get other numbers.

    The rows of checkpoints are among them, so that a checkpoint can be returned to over a later base.

    The rows of an object that cannot be read get a number of their own, as those of a gone one do: nothing tells its
    new number.  Changes nothing.
    """
    moved: dict[int, int] = {}
    taken: set[int] = set()
    found = gone = 0
    origins = db.rows(f"{_ORIGINS} WHERE ino <> ? ORDER BY path", (stat.S_IFDIR, ROOT))
    # a damaged number, which fsck reports, cannot come to another one: only a return to its checkpoint meets it
    former = {row[0]: row for row in db.rows(_FORMER_ORIGINS, (stat.S_IFDIR,)) if isinstance(row[0], int)}
    origins += former.values()
    known = {ino for ino, _, _ in origins}
    for ino, path, mode in origins:
        st = _find(base, path)
        number: Ino | None = None
        if isinstance(st, os.stat_result) and stat.S_IFMT(st.st_mode) == mode:
            number = numbers.of(st)
        if st is None:
            gone += 1
        else:
            found += 1
        if number is None or number in taken:
            # the object is gone, or its path has become a link of another object's file: its rows get a number of
            # their own
            number = Ino(ino)
            if ino < RESERVED or ino in taken:
                number = numbers.unused(ino)
                while number in taken or number in known:  # an object gone from an earlier base may have this number
                    number = numbers.unused(number)
        taken.add(number)
        if number != ino:
            moved[ino] = number
    return Survey(found, gone, moved)


def renumber(db: Database, moved: dict[int, int]) -> None:
    """Change the inode numbers in all tables, those of checkpoints included.  Call it inside an operation.

    Args:
        db: the overlay's database.
        moved: the new numbers, by the old ones.
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
