"""The checkpoints of a damaged database: which of them a rebuild keeps (fsck/rebuild.py).

A checkpoint shares most rows with the tables of today, so one row that is lost anywhere may be missing in any of them,
and nobody could tell.  So a rebuild keeps them only if it has read every row that one of them may need.  It does not
delete the content of lost ones: fsck finds it as content that belongs to no file.
"""

from __future__ import annotations

from typing import NamedTuple

import apsw

from ..store.database import Database
from ..store.history import TABLES
from ..store.metadata_backup import TABLES as BACKED_UP
from .history_repairs import END_TRIAL

_WITHOUT_NAME = " UNION ".join(
    f"SELECT checkpoint FROM was_{name} WHERE checkpoint NOT IN (SELECT id FROM checkpoint)" for name in TABLES
)


class SalvagedCheckpoints(NamedTuple):
    """What became of the checkpoints.

    Attributes:
        kept: their names.
        lost: the names of those that are lost, or their numbers.
        is_sure: False if others may be lost, too, of which nothing is known.
    """

    kept: list[str]
    lost: list[str]
    is_sure: bool


def salvage_checkpoints(con: apsw.Connection, incomplete: set[str], *, backed_up: bool) -> SalvagedCheckpoints:
    """Delete the checkpoints whose rows were not all read.

    Args:
        con: a connection to the database with the rows that were read.
        incomplete: the tables of which not all rows were read from the old database.
        backed_up: True if the metadata backup was whole, of the last commit, and its rows were added.
    """
    names = [name for (name,) in con.execute("SELECT name FROM checkpoint ORDER BY id")]
    unnamed = [f"number {number}" for (number,) in con.execute(_WITHOUT_NAME)]
    is_sure = "checkpoint" not in incomplete
    needed = {*TABLES, *(f"was_{name}" for name in TABLES)}
    if not incomplete & (needed - set(BACKED_UP) if backed_up else needed):
        return SalvagedCheckpoints(names, unnamed, is_sure)
    con.execute("DELETE FROM checkpoint")
    for sql in (*(f"DELETE FROM was_{name}" for name in TABLES), *END_TRIAL):
        con.execute(sql)
    return SalvagedCheckpoints([], names + unnamed, is_sure)


def after_repair(before: SalvagedCheckpoints, db: Database) -> SalvagedCheckpoints:
    """Return what is left of the checkpoints after the rows were repaired.

    Args:
        before: what was kept so far.
        db: the repaired database.
    """
    left = {name for (name,) in db.rows("SELECT name FROM checkpoint")}
    lost = [name for name in before.kept if name not in left]
    return before._replace(kept=[name for name in before.kept if name in left], lost=before.lost + lost)
