"""Empties the tables of an overlay at once but for some rows, for a reset.

A row-by-row deletion fires the triggers of the history (store/history.py) for each row.  Here whole tables go into the
history of a checkpoint by one statement each, and are emptied by another, which costs a third of that.  What is to stay
is written again, and at last the history forgets what is as it was.

The triggers rest meanwhile.  A redo log need not know: replayed with triggers, the statements do the same, because a
trigger keeps no row that is kept already.  Rows are written one by one, by statements that change one row and fire
nothing: for any other one SQLite begins a statement journal, and to end that takes the longer the more pages the
operation has changed before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

from ..model import Ino
from .database import Database, Row
from .history import TABLES, History
from .statements import statement

_AT_ONCE = 64  # inode numbers in one query
_MARKS = ", ".join("?" * _AT_ONCE)
_BY_NAME = ("created", "deleted", "renamed")  # the tables whose key is a directory and a name


def _keep(name: str) -> str:
    """Return the statement that puts a whole table into the history of a checkpoint, if it does not have a row yet."""
    key, others = TABLES[name]
    return statement(
        f"INSERT OR IGNORE INTO was_{name} ({', '.join((*key, 'checkpoint', 'held', *others))})"
        f" SELECT {', '.join((*key, '?1', '1', *others))} FROM {name}"
    )


def _put(name: str) -> str:
    columns = (*TABLES[name].key, *TABLES[name].others)
    return statement(f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})")


def _forget_same(name: str) -> str:
    """Return the statement that deletes the rows of a checkpoint that are as the table has them."""
    key, others = TABLES[name]
    keys = " AND ".join(f"w.{column} = t.{column}" for column in key)
    same = "".join(f" AND w.{column} IS t.{column}" for column in others)
    return statement(
        f"DELETE FROM was_{name} WHERE ({', '.join((*key, 'checkpoint'))}) IN (SELECT"
        f" {', '.join(f't.{column}' for column in key)}, ?1 FROM {name} t CROSS JOIN was_{name} w"
        f" ON {keys} AND w.checkpoint = ?1 AND w.held = 1{same})"
    )


def _find(name: str) -> str:
    where = f"ino IN ({_MARKS})" if TABLES[name].key[0] == "ino" else _where_key(name)
    return f"SELECT {TABLES[name].columns} FROM {name} WHERE {where}"


def _where_key(name: str) -> str:
    return " AND ".join(f"{column} = ?" for column in TABLES[name].key)


_KEEP = {name: _keep(name) for name in TABLES}
_CLEAR = {name: statement(f"DELETE FROM {name}") for name in TABLES}
_PUT = {name: _put(name) for name in TABLES}
_FORGET_SAME = {name: _forget_same(name) for name in TABLES}
_FIND = {name: _find(name) for name in TABLES}


class Kept:
    """What a reset leaves: keys of rows.

    Attributes:
        names: in ``created``, ``renamed`` and ``deleted``: the directory and the name.
        inos: the objects whose rows stay.
        places: the numbers of base objects that stay in ``origin`` alone.
        paths: of ``ancestor``.
    """

    def __init__(self) -> None:
        self.names: dict[str, set[tuple[int, bytes]]] = {name: set() for name in _BY_NAME}
        self.inos: set[Ino] = set()
        self.places: set[Ino] = set()
        self.paths: set[bytes] = set()

    def keys(self, name: str) -> Iterable[tuple[int | bytes | None, ...]]:
        """Return the values of the queries for what stays in a table."""
        if name in self.names:
            return sorted(self.names[name])
        if TABLES[name].key[0] == "ino":
            return _pieces(self.inos | self.places if name == "origin" else self.inos)
        return [(path,) for path in sorted(self.paths)]


@contextmanager
def cleared(db: Database, history: History, checkpoint: int, kept: Kept) -> Iterator[None]:
    """Empty all tables with a history, but for some rows; what is changed in the block belongs to it.

    Use it inside an operation.  The block may change rows that stay, and no others.

    Args:
        db: the database.
        history: its history.
        checkpoint: the id of the newest checkpoint, which was made in this operation.
        kept: what stays; of what is as it was after the block, the history has no row.
    """
    with history.paused():
        for name in TABLES:
            rows: list[Row] = [row for key in kept.keys(name) for row in db.rows(_FIND[name], key)]
            db.change(_KEEP[name], (checkpoint,))
            db.change(_CLEAR[name])
            for row in rows:
                db.change(_PUT[name], row)
        yield
        for name in TABLES:
            db.change(_FORGET_SAME[name], (checkpoint,))


def _pieces(numbers: Iterable[Ino]) -> Iterator[tuple[Ino | None, ...]]:
    waiting = iter(sorted(numbers))
    while some := list(islice(waiting, _AT_ONCE)):
        yield (*some, *[None] * (_AT_ONCE - len(some)))
