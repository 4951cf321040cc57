"""Empties the tables of an overlay at once, and takes some rows back, for a reset.

A row-by-row deletion fires the triggers of the history (store/history.py) for each row.  Here whole tables go into the
history of a checkpoint by one statement each, and are emptied by another, which costs a third of that.  What is to stay
comes back from the history by its key; then the history has no row of it, so it says that nothing has changed.

The triggers rest meanwhile.  A redo log need not know: replayed with triggers, the statements do the same, because a
trigger keeps no row that is kept already.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ..model import Ino
from .database import Database
from .history import TABLES, History
from .statements import statement

_AT_ONCE = 64  # inode numbers in one statement
_MARKS = ", ".join("?" * _AT_ONCE)
_BY_NAME = ("created", "deleted", "renamed")  # the tables whose key is a directory and a name
_BY_INO = tuple(name for name, table in TABLES.items() if table.key[0] == "ino")
_BY_PATH = "ancestor"


def _keep(name: str) -> str:
    """Return the statement that puts a whole table into the history of a checkpoint."""
    key, others = TABLES[name]
    return statement(
        f"INSERT OR IGNORE INTO was_{name} ({', '.join((*key, 'checkpoint', 'held', *others))})"
        f" SELECT {', '.join((*key, '?1', '1', *others))} FROM {name}"
    )


def _take_back(name: str, where: str) -> tuple[str, str]:
    """Return the statements that take rows back from the history of a checkpoint, and delete them there."""
    columns = TABLES[name].columns
    where = f"FROM was_{name} WHERE checkpoint = ? AND {where}"
    return statement(f"INSERT INTO {name} ({columns}) SELECT {columns} {where}"), statement(f"DELETE {where}")


_KEEP = {name: _keep(name) for name in TABLES}
_CLEAR = {name: statement(f"DELETE FROM {name}") for name in TABLES}
_TAKE_BACK = {
    **{name: _take_back(name, f"ino IN ({_MARKS})") for name in _BY_INO},
    **{name: _take_back(name, "parent = ? AND name = ?") for name in _BY_NAME},
    _BY_PATH: _take_back(_BY_PATH, "path = ?"),
}


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


def clear(db: Database, history: History, checkpoint: int, kept: Kept) -> None:
    """Empty all tables with a history, but for some rows.  Call it inside an operation.

    Args:
        db: the database.
        history: its history.
        checkpoint: the id of the newest checkpoint, which was made in this operation, and has no rows yet.
        kept: what stays, with which triggers and history are as if nothing had happened.
    """
    with history.paused():
        for name in TABLES:
            db.change(_KEEP[name], (checkpoint,))
            db.change(_CLEAR[name])
        for name, keys in kept.names.items():
            _each(db, name, checkpoint, sorted(keys))
        for name in _BY_INO:
            numbers = kept.inos | kept.places if name == "origin" else kept.inos
            _each(db, name, checkpoint, _pieces(numbers))
        _each(db, _BY_PATH, checkpoint, [(path,) for path in sorted(kept.paths)])


def _each(db: Database, name: str, checkpoint: int, keys: Collection[tuple[int | bytes | None, ...]]) -> None:
    put, drop = _TAKE_BACK[name]
    for key in keys:
        if db.change(put, (checkpoint, *key)):
            db.change(drop, (checkpoint, *key))


def _pieces(numbers: Collection[Ino]) -> list[tuple[Ino | None, ...]]:
    return list(_padded(sorted(numbers)))


def _padded(numbers: list[Ino]) -> Iterator[tuple[Ino | None, ...]]:
    for start in range(0, len(numbers), _AT_ONCE):
        some = numbers[start : start + _AT_ONCE]
        yield (*some, *[None] * (_AT_ONCE - len(some)))
