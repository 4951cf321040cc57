"""A new database from what is left of a damaged one: every row that can be read, and what can be derived from it.

Sources, in the order of their word: the pages of minifo.db and its log (fsck/sqlite_pages.py), then the copy of names
(store/metadata_backup.py).  Where the database still says which commit it stands at and the copy is of that very
commit, or where no row is left, the copy counts in full.  Else it only fills gaps: rows of inodes that have a name, and
names of inodes that have lost theirs; a name deleted since the copy was made does not come back.

The new database is then repaired like any other, so that content nobody names gets a name in lost+found.  The old one
is kept beside it.  ``Rebuilt.lost`` says by name what could not be brought back.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, NamedTuple

import apsw

from ..store.database import DB_NAME, Database
from ..store.database_file import APPLICATION_ID, SCHEMA_VERSION, open_database, schema
from ..store.metadata_backup import TABLES, Rows, read_names
from ..store.storage import Storage
from ..tree.path_resolver import PathResolver
from ..tree.row_checks import FACTS
from .extract import Extraction
from .problems import SALVAGE, Problem
from .repair_loop import RepairLoop
from .session import FsckSession
from .sqlite_pages import Record, SqlitePages, read_past_errors

_FRESH = DB_NAME + ".new"
_ROWID = {"modified": 5, "inode": 18, "origin": 5, "small": 2, "orphan": 1, "garbage": 1}  # columns
_PLAIN = {
    "created": 3,
    "deleted": 2,
    "renamed": 3,
    "extent": 5,
    "xattr": 3,
    "ancestor": 4,
    "overlay": 2,
}  # WITHOUT ROWID
_ALL = (*TABLES, "orphan", "garbage", "ancestor")


class Rebuilt(NamedTuple):
    """What a salvage brought back.

    Attributes:
        read: rows read from the old database.
        copied: rows taken from the copy of names.
        bad: pages of the old database that could not be read.
        lost: names (merged paths) whose object could not be brought back.
        repaired: what was repaired in the new database.
        left: what is wrong with it still.
        backup: the name the old database is kept by, empty if there was none.
    """

    read: int
    copied: int
    bad: int
    lost: list[bytes]
    repaired: list[Problem]
    left: list[Problem]
    backup: str


class _Sink:
    """Rows as they come, in a database in memory that refuses what cannot be a row."""

    def __init__(self, con: apsw.Connection) -> None:
        self._con = con
        self._width = {table: len(con.execute(f"PRAGMA table_info({table})").fetchall()) for table in _ALL}
        self.count = 0

    def add(self, table: str, rows: Iterable[tuple[Any, ...]]) -> int:
        """Add rows that are not there yet; how many were."""
        marks = ", ".join("?" * self._width[table])
        before = self._con.total_changes()
        for row in rows:
            # a row of an earlier format ends before the columns that came later
            row = (*row, *[None] * (self._width[table] - len(row)))
            if len(row) != self._width[table]:
                continue
            try:
                self._con.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)
            except (apsw.Error, OverflowError, TypeError):
                continue  # not a row of this table, whatever its page says
        added = self._con.total_changes() - before
        self.count += added
        return added

    def is_created(self, ino: Any) -> bool:
        """True for the number of a created object, and where that cannot be told."""
        window = dict(self._con.execute("SELECT key, value FROM overlay WHERE key IN ('window', 'window_end')"))
        first, end = window.get("window", 1 << 31), window.get("window_end", 1 << 62)
        return not isinstance(ino, int) or bool(first <= ino < end)


def template() -> bytes:
    """The bytes of a new database: its first pages say where each table's tree begins, in any overlay."""
    con = apsw.Connection(":memory:")
    try:
        con.execute(schema())
        return con.serialize("main")
    finally:
        con.close()


def _read_pages(storage: Storage, sink: _Sink) -> tuple[int, set[str]]:
    """Read what is left of the old database; how many of its pages are bad, and whose tables' they are."""
    data, wal = (read_past_errors(storage, name) for name in (DB_NAME, DB_NAME + "-wal"))
    pages = SqlitePages(data, wal)
    if not data and not wal:
        return 0, set(_ALL)
    roots = dict(pages.roots())
    first = SqlitePages(template(), b"").roots()
    hurt: set[str] = set()
    damaged = bool(pages.bad) or not set(first) <= set(roots)
    for table in (*_PLAIN, *_ROWID):
        root = roots.get(table, first[table])
        before = len(pages.bad)
        for record in pages.tree(root, index=table in _PLAIN):
            sink.add(table, [_row(table, record)])
        if len(pages.bad) > before:
            hurt.add(table)
    if damaged or pages.bad:
        strays = list(pages.unreached())
        for table in (
            "inode",
            "modified",
            "extent",
            "xattr",
            "overlay",
            "created",
            "origin",
            "small",
            "deleted",
            "ancestor",
        ):
            for index, record in strays:
                if _guess(index, record) == table:
                    target, row = _place(sink, table, record)
                    sink.add(target, [row])
    return len(pages.bad), hurt


def _row(table: str, record: Record) -> tuple[Any, ...]:
    return (record.rowid, *record.values[1:]) if table in _ROWID else record.values


def _guess(index: bool, record: Record) -> str:
    """Which table a row of a stray page belongs to, by its shape; empty where that is not known."""
    letters = {type(None): "n", int: "i", bytes: "b", str: "s"}
    kinds = "".join(letters.get(type(value), "?") for value in record.values)
    if index:
        known = {
            "ibi": "created",
            "iiiii": "extent",
            "ibb": "xattr",
            "ib": "deleted",
            "bi": "origin",
            "biib": "ancestor",
        }
        return "overlay" if kinds in ("si", "ss", "sn") and record.values[0] in FACTS else known.get(kinds, "")
    if len(kinds) == 18:
        return "inode"
    if kinds in ("niiin", "niiib"):
        return "modified"
    if kinds in ("nbiii", "nbnnn"):
        return "origin"
    return "small" if kinds == "nb" else ""


def _place(sink: _Sink, table: str, record: Record) -> tuple[str, tuple[Any, ...]]:
    """The table and the row of a stray record, now that the inodes are known."""
    values = record.values
    if table == "origin" and len(values) == 2 and record.rowid is None:
        return table, (values[1], values[0], None, None, None)  # of the index by path
    if table == "created" and not sink.is_created(values[2]):
        return "renamed", values
    return table, _row(table, record)


def salvage(examination: FsckSession) -> Rebuilt:
    """Replace a damaged or missing database; the storage is held for writing.

    Raises:
        StateError: there is no room, or storage cannot be written; nothing was changed.
    """
    storage = examination.storage
    con = apsw.Connection(":memory:")
    try:
        con.execute(schema())
        sink = _Sink(con)
        bad, hurt = _read_pages(storage, sink)
        read = sink.count
        copied = _fill(con, sink, read_names(storage), hurt)
        con.execute("INSERT OR IGNORE INTO origin (ino, path) VALUES (1, x'2f')")
        lost = _nameless(Database(con, read_only=True))
        con.execute(f"PRAGMA application_id={APPLICATION_ID}")
        con.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        _write(con, examination)
    finally:
        con.close()
    db = open_database(os.path.join(storage.path, _FRESH), read_only=False)
    try:
        with db.operation():
            repairer = RepairLoop(db, examination.shelf, examination.base)
            repaired, left = repairer.run(lambda finding: True)
            repairer.renew()
        db.commit()
        db.checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)
    finally:
        db.close()
    backup = _replace(examination)
    examination.shelf.extend_promised()
    return Rebuilt(read, copied, bad, lost, repaired, left, backup)


def _fill(con: apsw.Connection, sink: _Sink, names: Rows, hurt: set[str]) -> int:
    """Take from the copy of names what it may say; how many rows that were.

    Args:
        con: the rows read so far.
        sink: where to put more.
        names: the copy's rows.
        hurt: tables of which pages are missing.
    """
    token = con.execute("SELECT value FROM overlay WHERE key = 'commit_token'").fetchone()
    copied = next((row[1] for row in names["overlay"] if row[0] == "commit_token"), None)
    before = sink.count
    if sink.count == 0 or (token is not None and token[0] == copied):
        for table in TABLES:
            sink.add(table, names[table])
        return sink.count - before
    sink.add("overlay", names["overlay"])
    sink.add("origin", names["origin"])
    named = {ino for (ino,) in con.execute("SELECT ino FROM created UNION SELECT ino FROM renamed")}
    there = {ino for (ino,) in con.execute("SELECT ino FROM inode")}
    for table in ("created", "renamed"):
        sink.add(table, [row for row in names[table] if row[2] in there - named])
    gaps = {row[0] for row in names["inode"] if row[0] in named - there}
    for table in ("inode", "modified", "extent", "small", "xattr"):
        # what an inode owns is asked of the copy only where its own row came from there, or pages of its table are gone
        known = gaps | there if table in hurt else gaps
        sink.add(table, [row for row in names[table] if row[0] in known])
    if "deleted" in hurt:
        sink.add("deleted", names["deleted"])
    return sink.count - before


def _nameless(db: Database) -> list[bytes]:
    """The names that lead to nothing any more: what is lost, as far as it is known by name."""
    places = PathResolver(db)
    sql = (
        "SELECT parent, name FROM (SELECT * FROM created UNION ALL SELECT * FROM renamed)"
        " WHERE ino NOT IN (SELECT ino FROM inode) AND ino NOT IN (SELECT ino FROM small)"
        " AND ino NOT IN (SELECT ino FROM extent) AND ino NOT IN (SELECT parent FROM created)"
    )
    return sorted(places.of_name(parent, name) for parent, name in db.rows(sql))


def _write(con: apsw.Connection, examination: FsckSession) -> None:
    for part in ("", "-wal", "-shm"):
        if examination.storage.exists(_FRESH + part):
            examination.storage.unlink(_FRESH + part)
    fd = examination.storage.create(_FRESH)
    try:
        examination.storage.write(fd, con.serialize("main"), 0)
        examination.storage.sync_fd(fd)
    finally:
        os.close(fd)


def _replace(examination: FsckSession) -> str:
    """Put the new database in the old one's place, of which a copy is kept; the copy's name."""
    storage = examination.storage
    backup = examination.back_up() if storage.exists(DB_NAME) else ""
    for part in ("-wal", "-shm", "-journal"):
        if storage.exists(DB_NAME + part):
            storage.unlink(DB_NAME + part)  # beside the new database it would be taken for its own
    storage.rename(_FRESH, DB_NAME)
    storage.sync_dir(".")
    return backup


def readable(examination: FsckSession, found: list[Problem]) -> Extraction:
    """What can be read of an overlay, to be written out; changes nothing.

    Args:
        examination: the open storage.
        found: what its check said.
    """
    con = apsw.Connection(":memory:")
    con.execute(schema())
    sink = _Sink(con)
    hurt = set(_ALL)
    if examination.storage.exists(DB_NAME):
        _, hurt = _read_pages(examination.storage, sink)
    if any(finding.code in SALVAGE for finding in found):
        _fill(con, sink, read_names(examination.storage), hurt)
        con.execute("INSERT OR IGNORE INTO origin (ino, path) VALUES (1, x'2f')")
    harmless = not examination.storage.is_trusted
    return Extraction(Database(con, read_only=True), examination.shelf, examination.base, harmless=harmless)
