"""The history of rows: what the tables held at each checkpoint (``was_...`` in store/schema.sql).

While there is a checkpoint, each row keeps itself as it was before its first change after the newest one.  Triggers do
that, so no statement can forget it, and the redo log need not know: the replay of a statement fires them again.  They
are temporary objects of the connection; without a checkpoint there are none, and changes cost nothing more.

A checkpoint is shown by a copy of the database in memory, in which the tables are brought back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

from ..errors import FsError
from ..model import OBJECTS_END
from .base_view import split
from .database import Database
from .four_lists_statements import ALL_NAMES
from .statements import statement
from .typed_rows import each, rows


class _Table(NamedTuple):
    """A table with a history: its key, and its other columns."""

    key: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def columns(self) -> str:
        """All columns."""
        return ", ".join((*self.key, *self.others))


_INODE = (
    "mode nlink uid gid rdev size atime mtime ctime object bound mapped xattrs target seen_links seen_size seen_mtime"
)
#: The tables with a history.  ``orphan`` is the last: what becomes of the rows of the others depends on it.
TABLES = {
    "created": _Table(("parent", "name"), ("ino",)),
    "deleted": _Table(("parent", "name"), ()),
    "renamed": _Table(("parent", "name"), ("ino",)),
    "modified": _Table(("ino",), ("content", "base_size", "base_mtime", "digest")),
    "inode": _Table(("ino",), tuple(_INODE.split())),
    "origin": _Table(("ino",), ("path", "dir_mode", "dir_uid", "dir_gid")),
    "extent": _Table(("ino", "start"), ('"end"', "object", "at")),
    "small": _Table(("ino",), ("data",)),
    "xattr": _Table(("ino", "name"), ("value",)),
    "ancestor": _Table(("path",), ("size", "mtime", "data")),
    "orphan": _Table(("ino",), ()),
}
_OF_FILES = ("inode", "extent", "small", "xattr", "orphan")  # the tables that hold rows of an unlinked file in use

ADD_CHECKPOINT = statement("INSERT INTO checkpoint VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)")
DROP_CHECKPOINT = statement("DELETE FROM checkpoint WHERE id = ?")
#: The content objects that history names, each with the number of its file.
KEPT_OBJECTS = (
    "SELECT object, ino FROM was_inode WHERE object > 0 UNION SELECT object, ino FROM was_extent WHERE object > 0"
)
_OBJECTS_OF = (
    "SELECT ino, object FROM was_inode WHERE checkpoint = ?1 AND object > 0"
    " UNION SELECT ino, object FROM was_extent WHERE checkpoint = ?1 AND object > 0"
)
_IS_KEPT = (
    "SELECT 1 FROM was_inode WHERE object = ?1 AND object > 0"
    " UNION ALL SELECT 1 FROM was_extent WHERE object = ?1 AND object > 0 LIMIT 1"
)
_IS_USED = (
    "SELECT 1 FROM inode WHERE ino = ?1 AND object = ?2"
    " UNION ALL SELECT 1 FROM extent WHERE ino = ?1 AND object = ?2"
    " UNION ALL SELECT 1 FROM garbage WHERE object = ?2 LIMIT 1"
)


def _same(key: tuple[str, ...], left: str, right: str) -> str:
    return " AND ".join(f"{left}{column} = {right}{column}" for column in key)


def _first(name: str, key: tuple[str, ...], since: str) -> str:
    """Return the condition that a row of history, ``w``, is the first one of its key from a checkpoint on."""
    return (
        f"w.checkpoint >= {since} AND NOT EXISTS (SELECT 1 FROM was_{name} o"
        f" WHERE {_same(key, 'o.', 'w.')} AND o.checkpoint >= {since} AND o.checkpoint < w.checkpoint)"
    )


def _restore(name: str) -> tuple[str, str]:
    """Return the two statements that bring a table back to a checkpoint.

    The first one has three values if the table holds rows of unlinked files, else one: the checkpoint; the least number
    of a file that was created after it; and the first number after those of created files.
    """
    key, _ = table = TABLES[name]
    keys = ", ".join(key)
    keys = f"({keys})" if len(key) > 1 else keys
    drop = f"DELETE FROM {name} WHERE {keys} IN (SELECT {', '.join(key)} FROM was_{name} WHERE checkpoint >= ?1)"
    if name in _OF_FILES:
        drop += " AND NOT (ino >= ?2 AND ino < ?3 AND ino IN (SELECT ino FROM orphan))"
    put = f"INSERT INTO {name} ({table.columns}) SELECT {table.columns} FROM was_{name} w"
    return statement(drop), statement(f"{put} WHERE held AND {_first(name, key, '?1')}")


def _restore_some(name: str, columns: tuple[str, ...]) -> tuple[str, str]:
    """Return the two statements that bring those rows of a table back to a checkpoint which have given values.

    Both take the checkpoint, and then the values.

    Args:
        name: the table.
        columns: the columns that have the values.
    """
    key, _ = table = TABLES[name]
    keys = ", ".join(key)
    keys = f"({keys})" if len(key) > 1 else keys
    given = " AND ".join(f"{column} = ?{number}" for number, column in enumerate(columns, 2))
    kept = f"SELECT {', '.join(key)} FROM was_{name} WHERE {given} AND checkpoint >= ?1"
    put = f"INSERT INTO {name} ({table.columns}) SELECT {table.columns} FROM was_{name} w"
    return (
        statement(f"DELETE FROM {name} WHERE {given} AND {keys} IN ({kept})"),
        statement(f"{put} WHERE held AND {given} AND {_first(name, key, '?1')}"),
    )


_RESTORE = {name: _restore(name) for name in TABLES}
_RESTORE_OBJECT = {name: _restore_some(name, ("ino",)) for name in ("inode", "modified", "extent", "small", "xattr")}
_RESTORE_ORIGIN = _restore_some("origin", ("ino",))
_RESTORE_NAME = [_restore_some(name, ("parent", "name")) for name in ("created", "deleted", "renamed")]
_CHANGED = [
    f"SELECT DISTINCT {column} FROM was_{name} WHERE checkpoint >= ? AND {column} IS NOT NULL"
    for name, table in TABLES.items()
    for column in ("parent", "ino")
    if column in (*table.key, *table.others)
]
_HAS_CHANGED = [f"SELECT 1 FROM was_{name} WHERE checkpoint >= ? LIMIT 1" for name in TABLES]
_NO_END = (1 << 63) - 1  # above the id of every checkpoint
_TOUCHED_NAMES = " UNION ".join(
    f"SELECT parent, name FROM was_{name} WHERE checkpoint >= ?1 AND checkpoint < ?2"
    for name in ("created", "deleted", "renamed")
)
_TOUCHED = " UNION ".join(
    f"SELECT ino FROM was_{name} WHERE checkpoint >= ?1 AND checkpoint < ?2"
    for name, table in TABLES.items()
    if table.key[0] == "ino"
)
_STAYED = "SELECT ino FROM orphan WHERE ino >= ? AND ino < ?"
_PLACES = "SELECT ino, path FROM origin UNION SELECT ino, path FROM was_origin WHERE held"
_HAND_OVER = [statement(f"UPDATE OR IGNORE was_{name} SET checkpoint = ?2 WHERE checkpoint = ?1") for name in TABLES]
_FORGET = [statement(f"DELETE FROM was_{name} WHERE checkpoint = ?") for name in TABLES]


def _triggers(name: str, checkpoint: int | None = None) -> Iterator[tuple[str, str]]:
    """Yield name and text of each trigger of a table.

    They look whether the row is kept already, because the conflict clause of the statement that fires a trigger
    overrides those inside it (sqlite.org/lang_createtrigger).

    Args:
        name: the table.
        checkpoint: the newest checkpoint for which rows are kept; None for the newest one of all.
    """
    key, others = TABLES[name]
    into = f"INSERT INTO was_{name} ({', '.join((*key, 'checkpoint', 'held', *others))}) SELECT"
    newest = "(SELECT id AS newest FROM checkpoint ORDER BY id DESC LIMIT 1)"  # no row: nothing is kept
    if checkpoint is not None:
        newest = f"(SELECT id AS newest FROM checkpoint WHERE id = {checkpoint:d})"
    since = "=" if checkpoint is None else ">="

    def unless_kept(row: str) -> str:
        kept = f"SELECT 1 FROM was_{name} WHERE {_same(key, '', f'{row}.')} AND checkpoint {since} newest"
        return f"NOT EXISTS ({kept})"

    old = ", ".join((*(f"OLD.{column}" for column in key), "newest", "1", *(f"OLD.{column}" for column in others)))
    keep_old = f"{into} {old} FROM {newest} WHERE {unless_kept('OLD')};"
    # what was at the place of the new row: mostly nothing, but INSERT OR REPLACE fires no trigger for what it deletes
    held = f"t.{key[0]} IS NOT NULL"
    new = ", ".join((*(f"NEW.{column}" for column in key), "newest", held, *(f"t.{column}" for column in others)))
    keep_new = (
        f"{into} {new} FROM {newest} LEFT JOIN {name} t ON {_same(key, 't.', 'NEW.')} WHERE {unless_kept('NEW')};"
    )
    bodies = {"INSERT": keep_new, "DELETE": keep_old}
    if others:
        bodies["UPDATE"] = keep_old
    bodies[f"UPDATE OF {', '.join(key)}"] = keep_new if others else f"{keep_old} {keep_new}"
    for number, (event, body) in enumerate(bodies.items()):
        trigger = f"keep_{name}_{number}"
        yield trigger, f"CREATE TEMP TRIGGER IF NOT EXISTS {trigger} BEFORE {event} ON main.{name} BEGIN {body} END"


@lru_cache(2)
def _all_triggers(checkpoint: int | None) -> list[tuple[str, str]]:
    """Return the statements that make and drop each trigger of all tables; the argument is that of ``keep``."""
    triggers = (trigger for name in TABLES for trigger in _triggers(name, checkpoint))
    return [(sql, f"DROP TRIGGER IF EXISTS temp.{name}") for name, sql in triggers]


class History:
    """Keeps the history of the rows of one overlay.

    Args:
        db: the overlay's database.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._keeps: bool | None = False  # None: some triggers may be there, because storage failed

    def keep(self, keeps: bool, checkpoint: int | None = None) -> None:
        """Keep rows as they were from now on, or no more.

        Args:
            keeps: whether to keep them.
            checkpoint: keep them for this checkpoint and those before, and let changes show in all later ones, except
                for rows that were kept before; None to keep them for all.
        """
        if keeps != self._keeps:
            is_known, self._keeps = self._keeps is not None, None
            for make, drop in _all_triggers(checkpoint):
                if not keeps or not is_known:  # it may be there, for another checkpoint
                    self._db.define(drop)
                if keeps:
                    self._db.define(make)
            self._keeps = keeps

    def follow(self) -> int:
        """Keep rows if there is a checkpoint.

        Returns:
            The first content object id that no checkpoint has frozen; 0 if there is no checkpoint.
        """
        below = frozen_below(self._db)
        self.keep(below > 0)
        return below

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep no rows during a block, which changes the history itself."""
        keeps = bool(self._keeps)
        self.keep(False)
        try:
            yield
        finally:
            self.keep(keeps)

    def needs(self, number: int) -> bool:
        """Return whether a checkpoint needs a content object, besides the rows of today."""
        return self._db.value(_IS_KEPT, (number,)) is not None

    def restore(self, checkpoint: int, next_ino: int, window_end: int) -> None:
        """Bring all tables back to a checkpoint.  Call it inside an operation, after a newer checkpoint was made.

        Rows of files that were created after the checkpoint and have no name any more, but are in use, stay.

        Args:
            checkpoint: its id.
            next_ino: the number of the first file that was created after it.
            window_end: the first number after those of created files.
        """
        for name, (drop, put) in _RESTORE.items():
            self._db.change(drop, (checkpoint, next_ino, window_end) if name in _OF_FILES else (checkpoint,))
            self._db.change(put, (checkpoint,))

    def restore_object(self, checkpoint: int, ino: int, *, origin: bool = False) -> None:
        """Bring the rows of one object back to a checkpoint, but not its names.  Call it inside an operation.

        Args:
            checkpoint: its id.
            ino: the object.
            origin: whether to bring back where the base has it, too.
        """
        for drop, put in (*_RESTORE_OBJECT.values(), *([_RESTORE_ORIGIN] if origin else [])):
            self._db.change(drop, (checkpoint, ino))
            self._db.change(put, (checkpoint, ino))

    def restore_name(self, checkpoint: int, parent: int, name: bytes) -> None:
        """Bring back what a checkpoint has of a name in a directory.  Call it inside an operation."""
        for drop, put in _RESTORE_NAME:
            self._db.change(drop, (checkpoint, parent, name))
            self._db.change(put, (checkpoint, parent, name))

    def has_changed(self, checkpoint: int) -> bool:
        """Return whether any row was changed after a checkpoint."""
        return any(self._db.row(sql, (checkpoint,)) is not None for sql in _HAS_CHANGED)

    def changed_since(self, checkpoint: int, next_ino: int, window_end: int) -> tuple[set[int], set[tuple[int, bytes]]]:
        """Return what a return to a checkpoint has changed; call it right after ``restore``, with its arguments.

        Returns:
            The numbers of all objects whose rows or names may be others, and of the directories with such names; and
            all their names, each with its directory's number.

        Raises:
            Corrupt: a row has an impossible value.
        """
        inos = {ino for sql in _CHANGED for (ino,) in rows(self._db, sql, (checkpoint,), "i")}
        inos -= {ino for (ino,) in self._db.rows(_STAYED, (next_ino, window_end))}
        touched_names = rows(self._db, _TOUCHED_NAMES, (checkpoint, _NO_END), "ib")
        names: set[tuple[int, bytes]] = {(parent, name) for parent, name in touched_names}
        names.update((parent, name) for ino, parent, name in each(self._db, ALL_NAMES, "iib") if ino in inos)
        places: dict[bytes, int] = {path: ino for ino, path in each(self._db, _PLACES, "ib")}
        for path, ino in places.items():
            directory, name = split(path)
            if ino in inos and name and directory in places:
                names.add((places[directory], name))
        return inos, names

    def forget(self, checkpoint: int) -> list[int]:
        """Delete a checkpoint, and hand over to the one before what that needs.  Call it inside an operation.

        Args:
            checkpoint: its id.

        Returns:
            The content objects that nothing needs any more, without those that are garbage already.
        """
        before = self._db.value("SELECT max(id) FROM checkpoint WHERE id < ?", (checkpoint,))
        objects = self._db.rows(_OBJECTS_OF, (checkpoint,))
        for hand_over, drop in zip(_HAND_OVER, _FORGET, strict=True):
            if before is not None:
                self._db.change(hand_over, (checkpoint, before))
            self._db.change(drop, (checkpoint,))
        self._db.change(DROP_CHECKPOINT, (checkpoint,))
        return sorted(
            {number for ino, number in objects if not self.needs(number) and not self._db.row(_IS_USED, (ino, number))}
        )


def frozen_below(db: Database) -> int:
    """Return the first content object id that no checkpoint has frozen; 0 if there is no checkpoint.

    Raises:
        FsError: the errno of a database error.
    """
    count, frozen = db.row("SELECT count(*), max(next_object) FROM checkpoint") or (0, 0)
    # damage, which must not lead to a write into what a checkpoint needs: all objects are frozen
    return (frozen if type(frozen) is int and frozen > 0 else OBJECTS_END) if count else 0


def show_all(db: Database, checkpoints: Sequence[int]) -> Iterator[tuple[int, Database | FsError]]:
    """Yield the states of checkpoints, one after the other in the same copy of a database in memory.

    Args:
        db: the database; it may be in a transaction.
        checkpoints: ids.

    Yields:
        Each id with a database that may be read until the next one is asked for, or with the error that kept it from
        being shown: the rows are impossible.

    Raises:
        FsError: the errno of a database error.
    """
    if not checkpoints:
        return
    copy = db.copied()
    try:
        history = History(copy)
        # a later state leads to the earlier ones: the rows that change after a checkpoint are all kept
        for checkpoint in sorted(checkpoints, reverse=True):
            try:
                with copy.operation():
                    history.restore(checkpoint, 0, 0)
            except FsError as error:
                yield checkpoint, error
            else:
                yield checkpoint, copy
    finally:
        copy.close()


class Touched(NamedTuple):
    """What may differ between two states.

    Attributes:
        inos: numbers of the objects whose own rows may.
        names: names that may lead elsewhere, each with its directory's number.
    """

    inos: set[int]
    names: set[tuple[int, bytes]]


def touched(db: Database, first: int, end: int = _NO_END) -> Touched:
    """Return what has changed since a checkpoint, and before another one.

    Args:
        db: the database, or a copy that is as new.
        first: id of the first checkpoint.
        end: id of the second one; left out for today's state.
    """
    inos = {ino for (ino,) in rows(db, _TOUCHED, (first, end), "i")}
    return Touched(inos, {(parent, name) for parent, name in rows(db, _TOUCHED_NAMES, (first, end), "ib")})


def show(db: Database, checkpoint: int) -> Database:
    """Return a copy of a database in memory that has the state of a checkpoint, and can only be read.

    Args:
        db: the database; a process may work on its overlay meanwhile.
        checkpoint: an id.

    Raises:
        FsError: the errno of a database error.
    """
    copy = db.copied()
    try:
        with copy.operation():
            History(copy).restore(checkpoint, 0, 0)
        copy.commit()
    except BaseException:
        copy.close()
        raise
    copy.read_only = True
    return copy
