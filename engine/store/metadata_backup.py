"""The metadata backup ``STO/minifo.names``: a second copy of names and attributes, for when minifo.db is damaged.

It holds the rows of all tables except ``orphan``, ``garbage``, ``ancestor``, ``journal``, ``object_digest`` and the
ones of checkpoints, in frames with a checksum each (store/backup_format.py), so that damage to one frame loses only the
rows in it.  It is written at a clean unmount if anything was committed since the last backup, and during the mount
whenever commits have written four times its own size: at most a quarter more wear.  A new file is written and renamed
over the old one.  Nothing depends on the backup, so a failure to write it is logged and not raised.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import apsw

from ..errors import Corrupt
from . import backup_format
from .authorizer import authorize
from .database import Database
from .database_file import POSSIBLE_VERSIONS, SCHEMA_VERSION, check_version, connect
from .storage import Storage

log = logging.getLogger(__name__)

NAMES = "minifo.names"
TABLES = ("overlay", "origin", "created", "renamed", "deleted", "modified", "inode", "extent", "small", "xattr")

_ROWS_MAX = 1 << 24  # rows that are read at most, to bound the memory
_WEAR_RATIO = 4  # bytes that commits have written for each byte of backup
_COMMITTED_MIN = 64 << 10  # bytes that commits must have written before the next backup
_SPARE = 8 << 20  # bytes of storage that a backup leaves free

Rows = dict[str, list[tuple[Any, ...]]]


class MetadataBackup:
    """Writes the metadata backup of one storage.

    Args:
        storage: the storage directory.
        db: the overlay's database.
    """

    def __init__(self, storage: Storage, db: Database) -> None:
        self._storage = storage
        self._db = db
        self._backed_up = 0  # db.logged at the last backup
        self._size = storage.stat(NAMES).st_size if storage.exists(NAMES) else 0

    def is_due(self) -> bool:
        """Return whether commits have written enough for the next backup, and a second connection can make it."""
        return self._db.is_shared and self._db.logged - self._backed_up >= max(_COMMITTED_MIN, _WEAR_RATIO * self._size)

    def is_stale(self, token: int) -> bool:
        """Return whether the backup is missing or was not made from the commit with *token*."""
        return self._token() != token

    def _token(self) -> int | None:
        try:
            fd = self._storage.open(NAMES, write=False)
            try:
                first = next(backup_format.read(fd), None)  # the rows of ``overlay``
            finally:
                os.close(fd)
        except OSError:
            return None
        if first is None or (first.version, first.table) != (SCHEMA_VERSION, TABLES[0]):
            return None
        return next((row[1] for row in first.rows if row[0] == "commit_token" and isinstance(row[1], int)), None)

    def write(self, *, in_thread: bool) -> None:
        """Write a backup of the last commit.

        Args:
            in_thread: use a new connection, so that any thread may call this; else use the overlay's, in the engine's
                thread and between transactions.
        """
        logged = self._db.logged
        new = NAMES + ".new"
        try:
            if self._storage.space().available < 2 * self._size + _SPARE:
                return  # the free space is for the overlay's own changes
            if self._storage.exists(new):
                self._storage.unlink(new)
            fd = self._storage.create(new)
            try:
                self._size = self._write_in_thread(fd) if in_thread else self._write_rows(fd, self._db.each)
            finally:
                os.close(fd)
            self._storage.rename(new, NAMES)
            self._backed_up = logged
        except (OSError, ValueError, apsw.Error, Corrupt) as error:
            log.info("%s: metadata backup not written: %s", self._storage.path, error)
            self._backed_up = logged  # so that the next attempt waits as long as after a success

    def _write_in_thread(self, fd: int) -> int:
        con = connect(self._storage.database, read_only=True)
        try:
            con.authorizer = authorize
            con.execute("BEGIN")
            return self._write_rows(fd, con.execute)
        finally:
            con.close()

    def _write_rows(self, fd: int, query: Callable[[str], Iterator[tuple[Any, ...]]]) -> int:
        """Write all rows to *fd* and sync it; return the bytes written."""
        offset = 0
        for table in TABLES:
            remaining = query(f"SELECT * FROM {table}")
            while rows := list(islice(remaining, backup_format.ROWS)):
                data = backup_format.pack(SCHEMA_VERSION, table, rows)
                self._storage.write(fd, data, offset)
                offset += len(data)
        self._storage.sync_fd(fd)
        return offset


def read_names(storage: Storage) -> Rows:
    """Return the rows of all undamaged frames of the backup, by table; no rows if there is no backup.

    Raises:
        NewerFormat, OlderFormat: it was made from another schema version, in which rows have another meaning.
    """
    rows: Rows = {table: [] for table in TABLES}
    left = _ROWS_MAX
    try:
        fd = storage.open(NAMES, write=False)
    except OSError:
        return rows
    try:
        for version, table, frame_rows in backup_format.read(fd):
            if table in rows and version in POSSIBLE_VERSIONS:
                check_version(os.path.join(storage.path, NAMES), version)
                rows[table] += frame_rows[:left]
                left -= len(frame_rows[:left])
    finally:
        os.close(fd)
    return rows


def is_whole(storage: Storage) -> bool:
    """Return whether there is a backup, and no frame of it is damaged."""
    try:
        fd = storage.open(NAMES, write=False)
    except OSError:
        return False
    try:
        return backup_format.is_whole(fd)
    finally:
        os.close(fd)
