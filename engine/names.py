"""The copy of names: what little redundancy brings names and attributes back when minifo.db is gone.

``STO/minifo.names`` holds the rows of every table but the leftovers, compressed and cut into frames that are checked
one by one, so that what is damaged costs no more than itself.  It is written at a clean end if anything was committed
since the last one, and in between once four times its own size was committed: at most a quarter more wear.  It is a
new file that is renamed into place; nothing depends on it, and a copy that cannot be made is no failure.

    file    = frame ...        frame = magic, length of payload, crc32 of payload, payload
    payload = zlib(marshal((table, rows)))
"""

from __future__ import annotations

import logging
import marshal
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import apsw

from minifo.engine.db import Database
from minifo.engine.dbfile import connect
from minifo.engine.storage import Storage

log = logging.getLogger(__name__)

NAMES = "minifo.names"
TABLES = ("overlay", "origin", "created", "renamed", "deleted", "modified", "inode", "extent", "small", "xattr")

_MAGIC = b"mfoN"
_FRAME = struct.Struct("<4sII")
_ROWS = 500  # in one frame: what one damaged byte can cost
_FORMAT = 4  # of marshal, as for the redo log
_LEVEL = 1  # of zlib: twice as fast as the default, a tenth larger
_FIRST = 64 << 10  # bytes: more than the first frame takes, the facts
_SHARE = 4  # bytes committed for each byte of copy
_LEAST = 64 << 10  # bytes committed before a copy is worth it
_SPARE = 8 << 20  # bytes that stay free

Rows = dict[str, list[tuple[Any, ...]]]


class NamesCopy:
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
                data = os.pread(fd, _FIRST, 0)
            finally:
                os.close(fd)
        except OSError:
            return None
        for payload in _frames(data):
            table, rows = marshal.loads(zlib.decompress(payload))
            return next((row[1] for row in rows if row[0] == "commit_token"), None) if table == "overlay" else None
        return None

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
        except (OSError, apsw.Error) as error:
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
            while rows := list(islice(found, _ROWS)):
                payload = zlib.compress(marshal.dumps((table, rows), _FORMAT), _LEVEL)
                frame = _FRAME.pack(_MAGIC, len(payload), zlib.crc32(payload)) + payload
                self._storage.write(fd, frame, offset)
                offset += len(frame)
        self._storage.sync_fd(fd)
        return offset


def read_names(storage: Storage) -> Rows:
    """Every row of the copy that is whole, by table; nothing where there is no copy."""
    rows: Rows = {table: [] for table in TABLES}
    try:
        fd = storage.open(NAMES, write=False)
    except OSError:
        return rows
    with os.fdopen(fd, "rb") as file:
        data = file.read()
    for payload in _frames(data):
        table, found = marshal.loads(zlib.decompress(payload))
        if table in rows:
            rows[table] += found
    return rows


def _frames(data: bytes) -> Iterator[bytes]:
    at = data.find(_MAGIC)
    while at >= 0:
        if at + _FRAME.size > len(data):
            return
        _, length, crc = _FRAME.unpack_from(data, at)
        payload = data[at + _FRAME.size : at + _FRAME.size + length]
        if len(payload) == length and zlib.crc32(payload) == crc:
            yield payload
            at = data.find(_MAGIC, at + _FRAME.size + length)
        else:
            at = data.find(_MAGIC, at + 1)
