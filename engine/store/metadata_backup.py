"""The copy of names: what little redundancy brings names and attributes back when minifo.db is gone.

``STO/minifo.names`` holds the rows of every table but the leftovers, in frames that are checked one by one
(store/backup_format.py), so that what is damaged costs no more than itself.  It is written at a clean end if anything
was committed since the last one, and in between once four times its own size was committed: at most a quarter more
wear. It is a new file that is renamed into place; nothing depends on it, and a copy that cannot be made is no failure.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import apsw

from . import backup_format
from .database import Database
from .database_file import POSSIBLE_VERSIONS, SCHEMA_VERSION, check_version, connect
from .storage import Storage

log = logging.getLogger(__name__)

NAMES = "minifo.names"
TABLES = ("overlay", "origin", "created", "renamed", "deleted", "modified", "inode", "extent", "small", "xattr")

_ROWS_MOST = 1 << 24  # rows that are read: memory is not without end
_SHARE = 4  # bytes committed for each byte of copy
_LEAST = 64 << 10  # bytes committed before a copy is worth it
_SPARE = 8 << 20  # bytes that stay free

Rows = dict[str, list[tuple[Any, ...]]]


class MetadataBackup:
    """Keeps the copy of one storage.

    Args:
        storage: the storage directory.
        db: the overlay's database, for the bytes its commits have written.
    """

    def __init__(self, storage: Storage, db: Database) -> None:
        self._storage = storage
        self._db = db
        self._copied = 0
        self._size = storage.stat(NAMES).st_size if storage.exists(NAMES) else 0

    def is_due(self) -> bool:
        """True when enough was committed since the last copy, and others may read the database."""
        return self._db.is_shared and self._db.logged - self._copied >= max(_LEAST, _SHARE * self._size)

    def is_stale(self, token: int) -> bool:
        """True when the copy is not of the commit of that *token*, the last one."""
        return self._token() != token

    def _token(self) -> int | None:
        try:
            fd = self._storage.open(NAMES, write=False)
            try:
                first = next(backup_format.read(fd), None)  # the facts
            finally:
                os.close(fd)
        except OSError:
            return None
        if first is None or (first.version, first.table) != (SCHEMA_VERSION, TABLES[0]):
            return None
        return next((row[1] for row in first.rows if row[0] == "commit_token" and isinstance(row[1], int)), None)

    def write(self, *, aside: bool) -> None:
        """Make the copy, of the last commit.

        Args:
            aside: through a connection of its own, so in any thread; else through the overlay's, between transactions.
        """
        written = self._db.logged
        fresh = NAMES + ".new"
        try:
            if self._storage.room().available < 2 * self._size + _SPARE:
                return  # room is for the overlay's own changes
            if self._storage.exists(fresh):
                self._storage.unlink(fresh)
            fd = self._storage.create(fresh)
            try:
                self._size = self._fill_aside(fd) if aside else self._fill(fd, self._db.each)
            finally:
                os.close(fd)
            self._storage.rename(fresh, NAMES)
            self._copied = written
        except (OSError, ValueError, apsw.Error) as error:
            log.info("%s: no copy of names was made: %s", self._storage.path, error)
            self._copied = written  # not again at once

    def _fill_aside(self, fd: int) -> int:
        con = connect(self._storage.database, read_only=True)
        try:
            con.execute("BEGIN")
            return self._fill(fd, con.execute)
        finally:
            con.close()

    def _fill(self, fd: int, query: Callable[[str], Iterator[tuple[Any, ...]]]) -> int:
        offset = 0
        for table in TABLES:
            found = query(f"SELECT * FROM {table}")
            while rows := list(islice(found, backup_format.ROWS)):
                data = backup_format.pack(SCHEMA_VERSION, table, rows)
                self._storage.write(fd, data, offset)
                offset += len(data)
        self._storage.sync_fd(fd)
        return offset


def read_names(storage: Storage) -> Rows:
    """Every row of the copy that is whole, by table; nothing where there is no copy.

    Raises:
        NewerFormat, StateError: it is of another format of the database: its rows mean something else.
    """
    rows: Rows = {table: [] for table in TABLES}
    left = _ROWS_MOST
    try:
        fd = storage.open(NAMES, write=False)
    except OSError:
        return rows
    try:
        for version, table, found in backup_format.read(fd):
            if table in rows and version in POSSIBLE_VERSIONS:
                check_version(os.path.join(storage.path, NAMES), version)
                rows[table] += found[:left]
                left -= len(found[:left])
    finally:
        os.close(fd)
    return rows
