"""The database: one connection, operations as savepoints, and database errors as errnos.

Every row change goes through ``Database.change``; every file-system operation is one ``with db.operation():`` block,
which is done completely or not at all.  Operations gather in one running transaction, which ``commit`` ends (group
commit, see engine/commit.py).  The transaction begins with the first change, so that an idle overlay holds no lock that
would keep SQLite from resetting the write-ahead log.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import apsw

from ..errors import FsError
from .authorizer import authorize
from .database_errors import QUERY_ERRORS, errno_of
from .statements import NUMBERS

log = logging.getLogger(__name__)

DB_NAME = "minifo.db"

BUSY_TIMEOUT = 2000  # ms to wait for another process's lock on the database
PAGE_SIZE = 4096  # bytes; SQLite's default
_VALUE_MAX = 1 << 20  # bytes of one value or row; minifo's largest has about a tenth of it
_WAL_HEADER = 32  # bytes; sqlite.org/fileformat2, like the next one
_FRAME_HEADER = 24
_PAGES_PER_CHANGE = 8  # pages that one change of a row can change at most: a path through two B-trees, with page splits

Params = Sequence[int | bytes | str | None]
Row = tuple[Any, ...]
Statement = tuple[int, Params]  # the number of a registered statement, and its values


class _Operation:
    """The savepoint around one operation.  Nested blocks join the outermost one."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.depth = 0

    def __enter__(self) -> None:
        if self.depth == 0:
            self._db.begin_operation()
        self.depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.depth -= 1
        if self.depth == 0:
            self._db.end_operation(error)
        if isinstance(error, apsw.Error):
            raise FsError(errno_of(error), str(error)) from error


class Database:
    """One open minifo.db.

    Args:
        con: a connection from ``connect``.
        read_only: refuse changes with EROFS.
        reopen: opens a second connection to the same file; None if there can be none.
    """

    def __init__(
        self, con: apsw.Connection, *, read_only: bool, reopen: Callable[[], apsw.Connection] | None = None
    ) -> None:
        self._con = con
        self._cursor = con.cursor()
        self._operation = _Operation(self)
        self._is_alone = False  # the running operation has no savepoint
        self._succeeded: list[Callable[[], object]] = []
        self._failed: list[Callable[[], None]] = []
        self.time: int | None = None  # the time of the running operation in ns; None until tree/clock.py reads it
        self._statements: list[Statement] = []
        self.read_only = read_only
        self.dirty = False
        self._changes = 0  # statements since the last commit, without those of the running operation
        self._committed_rows = 0  # row_changes at the last commit
        self.row_changes = con.total_changes  # returns the count of rows inserted, changed and deleted
        self.operations = 0  # count of operations that succeeded
        self._rolled_back: Callable[[], object] = lambda: None
        self._lost: Callable[[BaseException], object] = lambda error: None
        self._dirtied: Callable[[], None] | None = None
        self._log: Callable[[list[Statement]], None] | None = None
        # A descriptor of the database file, for callers that need one.  It is closed after the connection: closing any
        # descriptor of the file releases all locks of SQLite in this process (sqlite.org/howtocorrupt, 2.2).
        self.file: int | None = None
        self.wal_pages = 0  # pages in the write-ahead log
        self.logged = 0  # bytes that all commits have written to the write-ahead log
        self._reopen = reopen if con.pragma("locking_mode") == "normal" else None
        self._checkpointer: apsw.Connection | None = None  # second connection, for checkpoints during a transaction
        con.set_wal_hook(self._wal_grew)
        con.authorizer = authorize
        con.limit(apsw.SQLITE_LIMIT_LENGTH, _VALUE_MAX)

    def _wal_grew(self, con: apsw.Connection, name: str, pages: int) -> int:
        self.logged += (pages - self.wal_pages if pages > self.wal_pages else pages) * PAGE_SIZE
        self.wal_pages = pages
        return apsw.SQLITE_OK

    # -- callbacks

    def report_to(self, *, rolled_back: Callable[[], object], lost: Callable[[BaseException], object]) -> None:
        """Set the functions to call when changes are undone.

        Args:
            rolled_back: called after an operation was undone.
            lost: called with the error after SQLite has rolled back a whole transaction.
        """
        self._rolled_back, self._lost = rolled_back, lost

    def when_dirty(self, call: Callable[[], None]) -> None:
        """Set the function to call after the first operation that follows a commit."""
        self._dirtied = call

    def log_operations(self, log: Callable[[list[Statement]], None]) -> None:
        """Set the function to call with the statements of each operation that succeeds."""
        self._log = log

    # -- reading

    def row(self, sql: str, params: Params = ()) -> Row | None:
        """Return the first row of a query, or None.

        Raises:
            FsError: EIO or another errno (``errno_of``) if the database cannot be read.
        """
        try:
            return self._con.execute(sql, params).fetchone()
        except QUERY_ERRORS as error:
            self._check_for_loss(error)
            raise FsError(errno_of(error), str(error)) from error

    def value(self, sql: str, params: Params = ()) -> Any:
        """Return the first column of the first row of a query, or None if there is no row.

        Raises:
            FsError: EIO or another errno (``errno_of``) if the database cannot be read.
        """
        row = self.row(sql, params)
        return row[0] if row is not None else None

    def rows(self, sql: str, params: Params = ()) -> list[Row]:
        """Return all rows of a query, as a list, so that no cursor stays open during a change.

        Raises:
            FsError: EIO or another errno (``errno_of``) if the database cannot be read.
        """
        try:
            return self._con.execute(sql, params).fetchall()
        except QUERY_ERRORS as error:
            self._check_for_loss(error)
            raise FsError(errno_of(error), str(error)) from error

    def _check_for_loss(self, error: BaseException) -> None:
        """Make the database read-only if *error* made SQLite roll back the whole transaction, and call ``lost``.

        An I/O error does so, even that of a query, and lack of memory may (sqlite.org/lang_transaction.html).  The
        changes acknowledged since the last commit are then in the redo log only, so no operation may change the older
        rows.
        """
        if self.dirty and not self._con.in_transaction and not self.read_only:
            self.read_only = True
            self._rolled_back()
            self._lost(error)

    def each(self, sql: str) -> Iterator[Row]:
        """Yield the rows of a query one by one, where a list would take too much memory; change nothing meanwhile.

        Raises:
            FsError: EIO or another errno (``errno_of``) if the database cannot be read.
        """
        try:
            yield from self._con.execute(sql)
        except QUERY_ERRORS as error:
            self._check_for_loss(error)
            raise FsError(errno_of(error), str(error)) from error

    def begin_reading(self) -> None:
        """Begin a read transaction that lasts until the database is closed: all answers are of one state."""
        self._cursor.execute("BEGIN")
        self.value("SELECT count(*) FROM overlay")  # it begins with the first look (sqlite.org/lang_transaction.html)

    @property
    def is_shared(self) -> bool:
        """Whether other connections may read the database while this one is open."""
        return self._reopen is not None

    def copied(self) -> Database:
        """Return a copy of the whole database in memory, which can be changed; it is of one state (backup.html).

        Inside a transaction it has what that has changed.

        Raises:
            FsError: the errno of a database error.
        """
        con = apsw.Connection(":memory:")
        try:
            if self._con.in_transaction:
                # a backup refuses a database that its own connection is changing (c3ref/backup_finish)
                con.deserialize("main", self.image())
            else:
                with con.backup("main", self._con, "main") as backup:
                    backup.step()
        except apsw.Error as error:
            con.close()
            raise FsError(errno_of(error), str(error)) from error
        return Database(con, read_only=False)

    def image(self) -> bytes:
        """Return the bytes of a file that holds the whole database, and needs no write-ahead log (fileformat2.html)."""
        image = bytearray(self._con.serialize("main"))
        image[18:20] = b"\1\1"
        return bytes(image)

    @property
    def is_copy(self) -> bool:
        """Whether this is a copy of the file in memory, because SQLite cannot read the file where it is."""
        return not self._con.filename

    # -- changing

    def operation(self) -> _Operation:
        """Return the context manager of an operation: its changes are all made, or all undone if the block raises.

        Nested blocks belong to the outermost operation.

        Raises:
            FsError: on entry EROFS if the overlay is read-only; otherwise the errno of a database error.
        """
        return self._operation

    @property
    def in_operation(self) -> bool:
        """Whether an operation is running, so that nothing may be committed."""
        return self._operation.depth > 0

    @contextmanager
    def large_operation(self) -> Iterator[None]:
        """An operation of very many changes, without a savepoint if everything before is committed."""
        # in one, a statement that fires triggers takes the longer the more was changed (memjournal.c, memjrnlTruncate)
        self._is_alone = not self._con.in_transaction
        try:
            with self._operation:
                yield
        finally:
            self._is_alone = False

    def change(self, sql: str, params: Params = ()) -> int:
        """Execute one statement that changes rows, inside an operation.

        Args:
            sql: a registered statement (store/statements.py).
            params: its values.

        Returns:
            The number of rows changed.

        Raises:
            LookupError: the statement is not registered.
            apsw.Error: it failed; the operation's block turns this into an FsError.
        """
        number = NUMBERS[sql]
        self._cursor.execute(sql, params)
        self._statements.append((number, params))
        return self._con.changes()

    def promise(self, sql: str, params: Params) -> None:
        """Log a statement of the running operation that ``keep_promises`` executes later, before the next commit.

        It is cheaper to execute many at once, and a log that is replayed has it at its place.

        Args:
            sql: a registered statement (store/statements.py).
            params: its values.
        """
        self._statements.append((NUMBERS[sql], params))

    def keep_promises(self, sql: str, params: Sequence[Params]) -> None:
        """Execute a statement that was promised, once for each of several values, inside an operation.

        Raises:
            apsw.Error: it failed; the operation's block turns this into an FsError.
        """
        self._cursor.executemany(sql, params)
        self._changes += len(params)

    def change_unlogged(self, sql: str, params: Params = ()) -> int:
        """Execute a statement that need not be registered, and is not logged for redo: for repairs by minifo-fsck.

        Args:
            sql: one statement that changes rows; call this inside an operation.
            params: its values.

        Returns:
            The number of rows changed.
        """
        assert self._log is None, sql
        self._cursor.execute(sql, params)
        return self._con.changes()

    def define(self, sql: str) -> None:
        """Make or drop an object of this connection alone, which no file holds: a trigger (store/history.py).

        Raises:
            FsError: the errno of a database error.
        """
        try:
            self._cursor.execute(sql)
        except apsw.Error as error:
            raise FsError(errno_of(error), str(error)) from error

    def on_success(self, action: Callable[[], object]) -> None:
        """Call *action* when the running operation has succeeded; never if it fails."""
        self._succeeded.append(action)

    def on_failure(self, action: Callable[[], None]) -> None:
        """Call *action* if the running operation is rolled back, to undo what it did outside the database."""
        self._failed.append(action)

    def begin_operation(self) -> None:
        """Start an operation; called by the context manager that ``operation`` returns.

        Raises:
            FsError: EROFS if the overlay is read-only; the errno of a database error.
        """
        if self.read_only:
            raise FsError(errno.EROFS)
        self.time = None
        try:
            if not self._con.in_transaction:
                self._cursor.execute("BEGIN IMMEDIATE")
            if not self._is_alone:
                self._cursor.execute("SAVEPOINT operation")
        except apsw.Error as error:
            raise FsError(errno_of(error), str(error)) from error

    def end_operation(self, error: BaseException | None) -> None:
        """End an operation, undoing it if there was an error; called by the context manager that ``operation`` returns.

        Args:
            error: the exception that ended the block, or None.

        Raises:
            FsError: EIO if SQLite rolled the transaction back and the block did not raise.
        """
        statements, self._statements = self._statements, []
        self._changes += len(statements)
        succeeded, self._succeeded = self._succeeded, []
        undo, self._failed = self._failed, []
        if error is None and self._con.in_transaction:
            if not self._is_alone:
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
        if self._con.in_transaction and self._is_alone:
            self._cursor.execute("ROLLBACK")
        elif self._con.in_transaction:
            self._cursor.execute("ROLLBACK TO operation")
            self._cursor.execute("RELEASE operation")
        self._check_for_loss(lost)
        self._rolled_back()
        for action in reversed(undo):
            action()
        if error is None:
            raise lost  # the block has caught an I/O error and went on

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is running, with changes that ``commit`` has not ended yet."""
        return self._con.in_transaction

    def commit(self) -> None:
        """Commit the running transaction: its rows are then in the write-ahead log, but not durable yet.

        Raises:
            apsw.Error: the transaction could not be written, or SQLite had rolled it back.
        """
        if self.dirty and not self._con.in_transaction:
            raise apsw.AbortError("the transaction was rolled back by SQLite")
        if self._con.in_transaction:
            self._cursor.execute("COMMIT")
        self.dirty = False
        self._changes = 0
        self._committed_rows = self.row_changes()

    def release_cache(self) -> None:
        """Release the unchanged pages of the cache, so that ``commit_bytes`` does not count them as changed."""
        self._con.release_memory()

    def commit_bytes(self) -> int:
        """Return the most bytes that the write-ahead log can take when the running transaction is committed."""
        cached = self._con.status(apsw.SQLITE_DBSTATUS_CACHE_USED)[0] // PAGE_SIZE
        # one statement may change many rows, and triggers change more
        changes = max(self._changes + len(self._statements), self.row_changes() - self._committed_rows)
        pages = min(cached, changes * _PAGES_PER_CHANGE) + self.wal_pages
        return _WAL_HEADER + pages * (PAGE_SIZE + _FRAME_HEADER)

    def moved_bytes(self) -> int:
        """Return the bytes of the database file after a full checkpoint, the running transaction included."""
        return int(self.value("PRAGMA page_count")) * PAGE_SIZE

    def checkpoint(self, mode: int = apsw.SQLITE_CHECKPOINT_PASSIVE) -> None:
        """Move as much as possible of the write-ahead log into the database file; call it between two transactions.

        Pages that another connection is reading, or for which storage has no space, stay in the log; the next call
        tries again.

        Args:
            mode: SQLITE_CHECKPOINT_PASSIVE or another of SQLite's modes (c3ref/wal_checkpoint_v2).

        Raises:
            apsw.Error: reading or writing failed.
        """
        _checkpoint(self._con, mode)

    def restart_log(self) -> None:
        """Move all of the write-ahead log into the database file, so that the next commit writes from its beginning.

        Does nothing during a transaction, or while another connection is reading.

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
            self._con.set_busy_timeout(BUSY_TIMEOUT)

    def checkpoint_in_thread(self) -> None:
        """Move as much as possible of the write-ahead log into the database file, also during a transaction.

        Uses a second connection, so it may run in any thread, but in one at a time.  Does nothing where storage allows
        only one connection (``is_shared``).

        Raises:
            apsw.Error: reading or writing failed.
        """
        if self._checkpointer is None:
            self._checkpointer = self._second_connection()
        if self._checkpointer is not None:
            _checkpoint(self._checkpointer, apsw.SQLITE_CHECKPOINT_PASSIVE)

    def committed_value(self, sql: str) -> Any:
        """Return the first column of the first row of a query as of the last commit, for a query that takes long.

        It holds up no operation, and may run in any thread.

        Returns:
            None also if there can be no other connection now (``is_shared``, lack of descriptors).

        Raises:
            FsError: EIO or another errno (``errno_of``) if the database cannot be read.
        """
        con = self._second_connection()
        if con is None:
            return None
        try:
            row = con.execute(sql).fetchone()
        except QUERY_ERRORS as error:
            raise FsError(errno_of(error), str(error)) from error
        finally:
            con.close()
        return row[0] if row is not None else None

    def _second_connection(self) -> apsw.Connection | None:
        """Open a second connection to the same file for another thread, or return None if there can be none now."""
        if self._reopen is None:
            return None
        try:
            con = self._reopen()
        except apsw.CantOpenError as error:
            # this may be a passing lack of descriptors; the next call tries again
            log.info("no second connection to the database: %s", error)
            return None
        con.execute("PRAGMA wal_autocheckpoint=0").fetchall()
        return con

    def close(self) -> None:
        """Close the database; a transaction that was not committed is rolled back."""
        self._cursor.close()
        if self._checkpointer is not None:
            self._checkpointer.close()
        self._con.close()
        if self.file is not None:
            os.close(self.file)


def _checkpoint(con: apsw.Connection, mode: int) -> bool:
    """Run a checkpoint; return whether it was complete for *mode*, which a reader or a full storage can prevent."""
    try:
        con.wal_checkpoint(mode=mode)
    except (apsw.BusyError, apsw.LockedError, apsw.FullError) as error:
        log.debug("write-ahead log not checkpointed: %s", error)
        return False
    return True
