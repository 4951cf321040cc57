"""The database: one connection with the agreed settings, operations as savepoints, and errors as errnos.

Every row change goes through ``Database.change``; every file-system operation is one ``with db.operation():`` block,
which happens wholly or not at all.  Operations gather in one running transaction that ``commit`` ends (group commit,
see engine/commit.py).  The transaction begins with the first change, so that an idle overlay holds no lock that would
keep the write-ahead log from being reset.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

import apsw

from ..errors import FsError
from .authorizer import authorize
from .statements import NUMBERS

log = logging.getLogger(__name__)

DB_NAME = "minifo.db"

PATIENCE = 2000  # ms to wait for another process's lock on the database
_PAGE = 4096  # bytes; SQLite's default
_VALUE_MAX = 1 << 20  # bytes of one value or row; none of ours comes near it
_WAL_HEADER = 32  # bytes; sqlite.org/fileformat2, as is the next
_FRAME_HEADER = 24
_PAGES_PER_CHANGE = 8  # pages one statement can touch: a path through two trees, and splits on the way

Params = Sequence[int | bytes | str | None]
Row = tuple[Any, ...]
Statement = tuple[int, Params]  # the number of a registered statement, and its values

_ERRNOS: tuple[tuple[type[apsw.Error], int], ...] = (
    (apsw.FullError, errno.ENOSPC),
    (apsw.ReadOnlyError, errno.EROFS),
    (apsw.BusyError, errno.EBUSY),
    (apsw.LockedError, errno.EBUSY),
    (apsw.NoMemError, errno.ENOMEM),
)


#: What a query ends with that cannot be answered; text that is damaged is no text, and SQLite has no larger numbers.
_UNREADABLE = (apsw.Error, UnicodeDecodeError, OverflowError)


def errno_of(error: Exception) -> int:
    """The errno a caller of the file system sees for a database error; what has no better one is EIO."""
    return next((code for kind, code in _ERRNOS if isinstance(error, kind)), errno.EIO)


class _Operation:
    """The savepoint around one operation.  Nested blocks join the outermost one."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._depth = 0

    def __enter__(self) -> None:
        if self._depth == 0:
            self._db.begin_operation()
        self._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._db.end_operation(error)
        if isinstance(error, apsw.Error):
            raise FsError(errno_of(error), str(error)) from error


class Database:
    """One open minifo.db.

    Args:
        con: a connection as ``connect`` makes it.
        read_only: changes are refused with EROFS.
        again: opens one more connection to it.
    """

    def __init__(
        self, con: apsw.Connection, *, read_only: bool, again: Callable[[], apsw.Connection] | None = None
    ) -> None:
        self._con = con
        self._cursor = con.cursor()
        self._operation = _Operation(self)
        self._succeeded: list[Callable[[], None]] = []
        self._failed: list[Callable[[], None]] = []
        self.time: int | None = None  # of the running operation, in ns, once it was asked for
        self._statements: list[Statement] = []
        self.read_only = read_only
        self.dirty = False
        self._changes = 0  # statements since the last commit, but for those of the running operation
        self.operations = 0  # how many have succeeded
        self._rolled_back: Callable[[], object] = lambda: None
        self._lost: Callable[[BaseException], object] = lambda error: None
        self._dirtied: Callable[[], None] | None = None
        self._log: Callable[[list[Statement]], None] | None = None
        # a descriptor of the file, where somebody needs one: to close it before the connection is closed would release
        # SQLite's locks (sqlite.org/howtocorrupt, 2.2)
        self.file: int | None = None
        self.wal_pages = 0
        self.logged = 0  # bytes commits have written to the log
        self._again = again if con.pragma("locking_mode") == "normal" else None
        self._aside: apsw.Connection | None = None  # for checkpoints beside a transaction
        con.set_wal_hook(self._wal_grew)
        con.authorizer = authorize
        con.limit(apsw.SQLITE_LIMIT_LENGTH, _VALUE_MAX)

    def _wal_grew(self, con: apsw.Connection, name: str, pages: int) -> int:
        self.logged += (pages - self.wal_pages if pages > self.wal_pages else pages) * _PAGE
        self.wal_pages = pages
        return apsw.SQLITE_OK

    # -- who is told

    def report_to(self, *, rolled_back: Callable[[], object], lost: Callable[[BaseException], object]) -> None:
        """Name those who follow what becomes of changes, once they are there.

        Args:
            rolled_back: called when an operation was undone.
            lost: called when SQLite has rolled back the whole transaction, with the error.
        """
        self._rolled_back, self._lost = rolled_back, lost

    def when_dirty(self, call: Callable[[], None]) -> None:
        """Call *call* whenever the first change after a commit was made."""
        self._dirtied = call

    def log_operations(self, log: Callable[[list[Statement]], None]) -> None:
        """Call *log* from now on with what each operation has changed."""
        self._log = log

    # -- reading

    def row(self, sql: str, params: Params = ()) -> Row | None:
        """The first row of a query, or None.

        Raises:
            FsError: EIO and its kin where the database cannot be read; so do its siblings.
        """
        try:
            return self._con.execute(sql, params).fetchone()
        except _UNREADABLE as error:
            self._look_for_loss(error)
            raise FsError(errno_of(error), str(error)) from error

    def value(self, sql: str, params: Params = ()) -> Any:
        """The first column of the first row, or None."""
        row = self.row(sql, params)
        return row[0] if row is not None else None

    def rows(self, sql: str, params: Params = ()) -> list[Row]:
        """All rows.  A list, so that no cursor stays open across a change."""
        try:
            return self._con.execute(sql, params).fetchall()
        except _UNREADABLE as error:
            self._look_for_loss(error)
            raise FsError(errno_of(error), str(error)) from error

    def _look_for_loss(self, error: BaseException) -> None:
        """See whether an error made SQLite roll back the whole transaction, and if so take no more changes.

        An I/O error does, even that of a query, and lack of memory may (sqlite.org/lang_transaction.html).  What was
        acknowledged since the last commit is in the redo log only, and nothing may be built on what is left.
        """
        if self.dirty and not self._con.in_transaction and not self.read_only:
            self.read_only = True
            self._rolled_back()
            self._lost(error)

    def each(self, sql: str) -> Iterator[Row]:
        """The rows of a query one by one, for what is too much for a list; nothing may change meanwhile.

        Raises:
            FsError: as ``rows``.
        """
        try:
            yield from self._con.execute(sql)
        except _UNREADABLE as error:
            self._look_for_loss(error)
            raise FsError(errno_of(error), str(error)) from error

    @property
    def is_shared(self) -> bool:
        """True where other connections may read beside this one."""
        return self._again is not None

    # -- changing

    def operation(self) -> _Operation:
        """The block in which an operation makes its changes: all of them, or none if it raises.

        Raises:
            FsError: EROFS when the overlay is read-only; a database error as its errno.
        """
        return self._operation

    def change(self, sql: str, params: Params = ()) -> int:
        """Execute one statement that changes rows, inside an operation.

        Args:
            sql: a registered statement (store/statements.py); LookupError for any other.
            params: its values.

        Returns:
            The number of rows changed.
        """
        number = NUMBERS[sql]
        self._cursor.execute(sql, params)
        self._statements.append((number, params))
        return self._con.changes()

    def change_unlogged(self, sql: str, params: Params = ()) -> int:
        """The same with any statement, for a repair: nobody keeps a redo log of it.

        Returns:
            The number of rows changed.
        """
        assert self._log is None, sql
        self._cursor.execute(sql, params)
        return self._con.changes()

    def on_success(self, action: Callable[[], None]) -> None:
        """Run *action* when the running operation has succeeded; forget it if it fails."""
        self._succeeded.append(action)

    def on_failure(self, action: Callable[[], None]) -> None:
        """Run *action* after the running operation was rolled back: to undo what it did outside the database."""
        self._failed.append(action)

    def begin_operation(self) -> None:
        """Start an operation (called by the block itself)."""
        if self.read_only:
            raise FsError(errno.EROFS)
        self.time = None
        try:
            if not self._con.in_transaction:
                self._cursor.execute("BEGIN IMMEDIATE")
            self._cursor.execute("SAVEPOINT operation")
        except apsw.Error as error:
            raise FsError(errno_of(error), str(error)) from error

    def end_operation(self, error: BaseException | None) -> None:
        """End an operation (called by the block itself), by undoing it where there was an error."""
        statements, self._statements = self._statements, []
        self._changes += len(statements)
        succeeded, self._succeeded = self._succeeded, []
        undo, self._failed = self._failed, []
        if error is None and self._con.in_transaction:
            self._cursor.execute("RELEASE operation")
            self.operations += 1
            if self._log is not None:
                self._log(statements)
            if not self.dirty:
                self.dirty = True
                if self._dirtied is not None:
                    self._dirtied()
            for action in succeeded:
                action()
            return
        lost = error or FsError(errno.EIO, "the transaction was rolled back")
        if self._con.in_transaction:
            self._cursor.execute("ROLLBACK TO operation")
            self._cursor.execute("RELEASE operation")
        self._look_for_loss(lost)
        self._rolled_back()
        for action in reversed(undo):
            action()
        if error is None:
            raise lost  # an I/O error that somebody took for an answer

    @property
    def in_transaction(self) -> bool:
        """True while changes wait for a commit."""
        return self._con.in_transaction

    def commit(self) -> None:
        """End the running transaction: its rows are in the write-ahead log, not yet durable.

        Raises:
            apsw.Error: the transaction could not be written.
        """
        if self.dirty and not self._con.in_transaction:
            raise apsw.AbortError("the transaction was rolled back by SQLite")
        if self._con.in_transaction:
            self._cursor.execute("COMMIT")
        self.dirty = False
        self._changes = 0

    def commit_bytes(self) -> int:
        """Bytes the write-ahead log may take at most once the running transaction is committed."""
        cached = self._con.status(apsw.SQLITE_DBSTATUS_CACHE_USED)[0] // _PAGE
        changes = self._changes + len(self._statements)
        pages = min(cached, changes * _PAGES_PER_CHANGE) + self.wal_pages
        return _WAL_HEADER + pages * (_PAGE + _FRAME_HEADER)

    def moved_bytes(self) -> int:
        """Bytes the database takes once everything in the log, and in the running transaction, is moved into it."""
        return int(self.value("PRAGMA page_count")) * _PAGE

    def checkpoint(self, mode: int = apsw.SQLITE_CHECKPOINT_PASSIVE) -> None:
        """Move as much as possible of the write-ahead log into the database file; only between two transactions.

        What somebody reads, or there is no room for, stays in the log: nothing is lost, and the next call tries again.

        Raises:
            apsw.Error: reading or writing failed.
        """
        _checkpoint(self._con, mode)

    def restart_log(self) -> None:
        """Move all of the write-ahead log into the database file, so that the next commit writes from its beginning.

        Only between two transactions.  Where somebody reads, the log stays as it is.

        Raises:
            FsError: reading or writing failed.
        """
        if self._con.in_transaction:
            return
        self._con.set_busy_timeout(0)
        try:
            if _checkpoint(self._con, apsw.SQLITE_CHECKPOINT_RESTART):
                self.wal_pages = 0
        except apsw.Error as error:
            raise FsError(errno_of(error), str(error)) from error
        finally:
            self._con.set_busy_timeout(PATIENCE)

    def checkpoint_aside(self) -> None:
        """The same beside a running transaction, in any thread but one at a time.

        Does nothing where the database is locked against other connections (see ``_enter_wal``).
        """
        if self._again is None:
            return
        if self._aside is None:
            try:
                self._aside = self._again()
            except apsw.CantOpenError as error:
                # too few descriptors, perhaps: the next one tries again
                log.info("the write-ahead log stays as it is: %s", error)
                return
            self._aside.execute("PRAGMA wal_autocheckpoint=0").fetchall()
        _checkpoint(self._aside, apsw.SQLITE_CHECKPOINT_PASSIVE)

    def close(self) -> None:
        """Close the connection; what was not committed is lost."""
        self._cursor.close()
        if self._aside is not None:
            self._aside.close()
        self._con.close()
        if self.file is not None:
            os.close(self.file)


def _checkpoint(con: apsw.Connection, mode: int) -> bool:
    try:
        con.wal_checkpoint(mode=mode)
    except (apsw.BusyError, apsw.LockedError, apsw.FullError) as error:
        log.debug("the write-ahead log stays as it is: %s", error)
        return False
    return True
