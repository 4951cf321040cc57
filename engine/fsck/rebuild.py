"""The rebuild of a damaged database: a new database with every row that can still be read.

The rows come from the pages of minifo.db and its write-ahead log (fsck/sqlite_pages.py), and after them from the
metadata backup, the file minifo.names (store/metadata_backup.py).  All rows of the backup are taken if the database
still shows its commit token and the backup has the same, or if no row of the database can be read.  Otherwise the
backup only fills gaps: it adds lost rows of inodes that have a name, and names for inodes that have none; so a name
that was deleted after the backup was made does not come back.

The new database is then repaired like any other, so a content object that no file refers to gets a name in lost+found.
The old database is kept beside the new one.  ``Rebuilt.lost`` lists the names whose object is lost.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, NamedTuple

import apsw

from ..store import history
from ..store.database import DB_NAME, Database
from ..store.database_file import APPLICATION_ID, SCHEMA_VERSION, open_database, schema
from ..store.metadata_backup import TABLES, Rows, is_whole, read_names
from ..store.storage import Storage
from ..tree.path_resolver import PathResolver
from ..tree.row_checks import FACTS, keep_list
from .extract import Extraction
from .problems import NEEDS_REBUILD, Problem
from .raw_file import Memory, RawFile
from .repair_loop import RepairLoop
from .salvaged_checkpoints import SalvagedCheckpoints, after_repair, salvage_checkpoints
from .session import FsckSession
from .sqlite_pages import Record, SqlitePages

_NEW_DB = DB_NAME + ".new"
_WITH_ROWID = {"modified": 5, "inode": 18, "origin": 5, "small": 2, "orphan": 1, "garbage": 1, "journal": 8}
_WITH_ROWID |= {"checkpoint": 9, "object_digest": 3}  # columns
_WITHOUT_ROWID = {
    "created": 3,
    "deleted": 2,
    "renamed": 3,
    "extent": 5,
    "xattr": 3,
    "ancestor": 4,
    "overlay": 2,
}  # WITHOUT ROWID
_HISTORY = tuple(f"was_{name}" for name in history.TABLES)
_ALL_TABLES = (*TABLES, "orphan", "garbage", "ancestor", "journal", "checkpoint", "object_digest", *_HISTORY)


class Rebuilt(NamedTuple):
    """The result of a rebuild.

    Attributes:
        read: number of rows read from the old database.
        copied: number of rows taken from the metadata backup.
        bad: number of pages of the old database that could not be read.
        lost: merged paths of names whose object is lost.
        repaired: the problems that were repaired in the new database.
        left: the problems that are left in the new database.
        backup: the name in storage of the old database's copy; empty if there was no database.
        checkpoints: which checkpoints are kept, and which are lost.
    """

    read: int
    copied: int
    bad: int
    lost: list[bytes]
    repaired: list[Problem]
    left: list[Problem]
    backup: str
    checkpoints: SalvagedCheckpoints


class _Reading(NamedTuple):
    """What was read of an old database.

    Attributes:
        bad: the number of damaged pages.
        damaged: the tables that lack rows because of damaged pages.
        incomplete: the tables of which it is not certain that all rows were read.
    """

    bad: int
    damaged: set[str]
    incomplete: set[str]


class _RowCollector:
    """Collects rows in a database in memory, whose constraints reject values that cannot be a row.

    Args:
        con: a connection to that database, which has the tables.

    Attributes:
        count: number of rows added so far.
    """

    def __init__(self, con: apsw.Connection) -> None:
        self._con = con
        self._width = {table: len(con.execute(f"PRAGMA table_info({table})").fetchall()) for table in _ALL_TABLES}
        self.count = 0

    def add(self, table: str, rows: Iterable[tuple[Any, ...]]) -> int:
        """Add the rows that the table does not have yet, and return how many were added."""
        marks = ", ".join("?" * self._width[table])
        before = self._con.total_changes()
        for row in rows:
            # a row that an earlier version has written may lack the last columns
            row = (*row, *[None] * (self._width[table] - len(row)))
            if len(row) != self._width[table]:
                continue
            try:
                self._con.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)
            except (apsw.Error, OverflowError, TypeError):
                continue  # damage: the values are not a row of this table
        added = self._con.total_changes() - before
        self.count += added
        return added

    def is_created(self, ino: Any) -> bool:
        """Return whether *ino* is the number of a created object; True also if it is not a number."""
        window = dict(self._con.execute("SELECT key, value FROM overlay WHERE key IN ('window', 'window_end')"))
        first, end = window.get("window", 1 << 31), window.get("window_end", 1 << 62)
        return not isinstance(ino, int) or bool(first <= ino < end)


def template() -> bytes:
    """Return the bytes of a new, empty database.

    Its first pages tell the root page of each table, which is the same in every overlay.
    """
    con = apsw.Connection(":memory:")
    try:
        con.execute(schema())
        return con.serialize("main")
    finally:
        con.close()


def _read_pages(storage: Storage, collector: _RowCollector) -> _Reading:
    """Collect the rows of the old database that can be read."""
    with RawFile(storage, DB_NAME) as data, RawFile(storage, DB_NAME + "-wal") as wal:
        if not data.size and not wal.size:
            return _Reading(0, set(_ALL_TABLES), set(_ALL_TABLES))
        return _collect(SqlitePages(data, wal), collector)


def _collect(pages: SqlitePages, collector: _RowCollector) -> _Reading:
    """Collect the rows in the pages of a database."""
    roots = dict(pages.roots())
    first = SqlitePages(Memory(template()), Memory(b"")).roots()
    damaged_tables: set[str] = set()
    incomplete = set(_ALL_TABLES) - roots.keys()
    damaged = bool(pages.bad) or not set(first) <= set(roots)
    for table in (*_WITHOUT_ROWID, *_WITH_ROWID, *_HISTORY):
        # no row of history is taken from a place that is only likely: all of them, or none, make a checkpoint
        root = roots.get(table, first[table] if table not in (*_HISTORY, "checkpoint") else None)
        if root is None:
            continue
        before = len(pages.bad)
        for record in pages.tree(root, index=table not in _WITH_ROWID):
            if not collector.add(table, [_row(table, record)]):
                incomplete.add(table)
        if len(pages.bad) > before:
            damaged_tables.add(table)
    incomplete |= damaged_tables
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
            "journal",
        ):
            for index, record in strays:
                if _guess_table(index, record) == table:
                    target, row = _table_and_row(collector, table, record)
                    collector.add(target, [row])
    return _Reading(len(pages.bad), damaged_tables, incomplete)


def _row(table: str, record: Record) -> tuple[Any, ...]:
    return (record.rowid, *record.values[1:]) if table in _WITH_ROWID else record.values


def _guess_table(index: bool, record: Record) -> str:
    """Return the table that a row on an unreached page belongs to, judged by its column types; empty if unknown."""
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
        if kinds == "sb" and keep_list(str(record.values[0]), record.values[1]) is not None:
            return "overlay"
        return "overlay" if kinds in ("si", "ss", "sn") and record.values[0] in FACTS else known.get(kinds, "")
    if len(kinds) == 18:
        return "inode"
    if kinds in ("niiin", "niiib"):
        return "modified"
    if kinds in ("nbiii", "nbnnn"):
        return "origin"
    if len(kinds) == 8 and kinds.startswith("nisb"):
        return "journal"
    return "small" if kinds == "nb" else ""


def _table_and_row(collector: _RowCollector, table: str, record: Record) -> tuple[str, tuple[Any, ...]]:
    """Return the table and the row for a record on an unreached page whose table was guessed to be *table*.

    A record of ``created`` is one of ``renamed`` if its inode number is not that of a created object.
    """
    values = record.values
    if table == "origin" and len(values) == 2 and record.rowid is None:
        return table, (values[1], values[0], None, None, None)  # a record of the index of origin by path
    if table == "created" and not collector.is_created(values[2]):
        return "renamed", values
    return table, _row(table, record)


def rebuild(session: FsckSession) -> Rebuilt:
    """Replace a damaged or missing database with a rebuilt one.

    Args:
        session: the open storage, locked for writing.

    Raises:
        StateError: storage is full or cannot be written; the old database was not changed.
    """
    storage = session.storage
    con = apsw.Connection(":memory:")
    try:
        con.execute(schema())
        collector = _RowCollector(con)
        reading = _read_pages(storage, collector)
        read = collector.count
        backup_rows = read_names(storage)
        is_last = _is_of_last_commit(con, backup_rows)
        copied = _fill_from_backup(con, collector, backup_rows, reading.damaged)
        if "object_digest" in reading.incomplete:
            con.execute("DELETE FROM object_digest")  # one that was to be dropped may be on a page that can be read
        checkpoints = salvage_checkpoints(con, reading.incomplete, backed_up=is_last and is_whole(storage))
        con.execute("INSERT OR IGNORE INTO origin (ino, path) VALUES (1, x'2f')")
        lost = _lost_names(Database(con, read_only=True))
        con.execute(f"PRAGMA application_id={APPLICATION_ID}")
        con.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        _write_new_database(con, session)
    finally:
        con.close()
    db = open_database(os.path.join(storage.path, _NEW_DB), read_only=False)
    try:
        with db.operation():
            repairer = RepairLoop(db, session.inventory, session.base)
            repairer.discards = False
            repaired, left = repairer.run(lambda problem: True)
            repairer.renew_commit_token()
        db.commit()
        db.checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)
        checkpoints = after_repair(checkpoints, db)
    finally:
        db.close()
    backup = _replace(session)
    session.inventory.extend_planned()
    return Rebuilt(read, copied, reading.bad, lost, repaired, left, backup, checkpoints)


def _is_of_last_commit(con: apsw.Connection, backup: Rows) -> bool:
    """Return whether the metadata backup was made from the last commit of the database whose rows were read."""
    token = con.execute("SELECT value FROM overlay WHERE key = 'commit_token'").fetchone()
    backup_token = next((row[1] for row in backup["overlay"] if row[0] == "commit_token"), None)
    return token is not None and token[0] == backup_token


def _fill_from_backup(con: apsw.Connection, collector: _RowCollector, backup: Rows, damaged_tables: set[str]) -> int:
    """Add the rows of the metadata backup that the rebuilt database may take, and return how many were added.

    Args:
        con: a connection to the database with the rows read so far.
        collector: adds rows to that database.
        backup: the rows of the metadata backup.
        damaged_tables: tables that lack rows because pages are damaged.
    """
    before = collector.count
    if collector.count == 0 or _is_of_last_commit(con, backup):
        for table in TABLES:
            collector.add(table, backup[table])
        return collector.count - before
    collector.add("overlay", backup["overlay"])
    collector.add("origin", backup["origin"])
    named = {ino for (ino,) in con.execute("SELECT ino FROM created UNION SELECT ino FROM renamed")}
    with_row = {ino for (ino,) in con.execute("SELECT ino FROM inode")}
    for table in ("created", "renamed"):
        collector.add(table, [row for row in backup[table] if row[2] in with_row - named])
    gaps = {row[0] for row in backup["inode"] if row[0] in named - with_row}
    for table in ("inode", "modified", "extent", "small", "xattr"):
        # the backup adds content and attributes of an inode only if the inode's own row comes from the backup, too, or
        # if pages of the table are damaged
        known = gaps | with_row if table in damaged_tables else gaps
        collector.add(table, [row for row in backup[table] if row[0] in known])
    if "deleted" in damaged_tables:
        collector.add("deleted", backup["deleted"])
    return collector.count - before


def _lost_names(db: Database) -> list[bytes]:
    """Return the merged paths of all names whose object has no row and no content, sorted."""
    paths = PathResolver(db)
    sql = (
        "SELECT parent, name FROM (SELECT * FROM created UNION ALL SELECT * FROM renamed)"
        " WHERE ino NOT IN (SELECT ino FROM inode) AND ino NOT IN (SELECT ino FROM small)"
        " AND ino NOT IN (SELECT ino FROM extent) AND ino NOT IN (SELECT parent FROM created)"
    )
    return sorted(paths.of_name(parent, name) for parent, name in db.rows(sql))


def _write_new_database(con: apsw.Connection, session: FsckSession) -> None:
    for part in ("", "-wal", "-shm"):
        if session.storage.exists(_NEW_DB + part):
            session.storage.unlink(_NEW_DB + part)
    fd = session.storage.create(_NEW_DB)
    try:
        session.storage.write(fd, con.serialize("main"), 0)
        session.storage.sync_fd(fd)
    finally:
        os.close(fd)


def _replace(session: FsckSession) -> str:
    """Replace the old database by the new one, and return the name of the old one's copy (empty if there was none)."""
    storage = session.storage
    backup = session.back_up() if storage.exists(DB_NAME) else ""
    for part in ("-wal", "-shm", "-journal"):
        if storage.exists(DB_NAME + part):
            storage.unlink(DB_NAME + part)  # SQLite would apply it to the new database
    storage.rename(_NEW_DB, DB_NAME)
    storage.sync_dir(".")
    return backup


def open_extraction(session: FsckSession, found: list[Problem]) -> Extraction:
    """Return an extraction of all rows that can be read of an overlay, damaged or not; storage is not changed.

    Args:
        session: the open storage.
        found: the problems that ``session.check`` has found.
    """
    con = apsw.Connection(":memory:")
    con.execute(schema())
    collector = _RowCollector(con)
    damaged_tables = set(_ALL_TABLES)
    if session.storage.exists(DB_NAME):
        damaged_tables = _read_pages(session.storage, collector).damaged
    if any(problem.code in NEEDS_REBUILD for problem in found):
        _fill_from_backup(con, collector, read_names(session.storage), damaged_tables)
        con.execute("INSERT OR IGNORE INTO origin (ino, path) VALUES (1, x'2f')")
    harmless = not session.storage.is_trusted
    return Extraction(Database(con, read_only=True), session.inventory, session.base, harmless=harmless)
