"""One run of minifo-fsck over one storage: open it without changing it, check it, and repair it if asked.

The rule: a check writes nothing to storage, whatever state a crash left, also while a mount uses the storage.  A
database that no mount uses is read in place (``immutable``); if it has a write-ahead log, both files are copied to
memory first; the database of a mounted storage is copied through SQLite.  Before a repair changes the database, it is
copied to a file beside it (``minifo.db.bak-...``).
"""

from __future__ import annotations

import codecs
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import apsw

from ..errors import Corrupt, FsError, NotMinifo, StateError, StorageBusy
from ..mount_checks import open_base
from ..store.base_view import BaseView
from ..store.database import DB_NAME, Database
from ..store.database_file import (
    APPLICATION_ID,
    POSSIBLE_VERSIONS,
    SCHEMA_VERSION,
    check_version,
    connect,
    open_database,
    schema_of,
    strange_objects,
    true_schema,
)
from ..store.history import KEPT_OBJECTS, History
from ..store.memory_directory import memory_directory
from ..store.metadata_backup import NAMES
from ..store.object_digests import drop_stale
from ..store.redo_log import Recording, RedoLog
from ..store.redo_replay import missing_content, replay
from ..store.statements import SET_FACT
from ..store.storage import Storage
from ..store.writer_lock import LOCK, lock_holder
from .checks import Checks, Progress
from .data_checks import DataChecks
from .history_checks import HistoryChecks
from .object_inventory import ObjectInventory
from .problems import NEEDS_REBUILD, OF_DATA, Problem
from .raw_file import RawFile
from .repair_loop import Choose, RepairLoop
from .sqlite_pages import SqlitePages

_WAL = DB_NAME + "-wal"
_REPORT_LINES = 5  # lines of SQLite's integrity report that are passed on


@contextmanager
def acting_as_owner(path: str) -> Iterator[None]:
    """Give root the effective ids of a storage's owner inside this context; do nothing for any other user.

    So whatever the owner does to the storage at the same time, root does no more than the owner could do, and the
    owner owns the files that root makes there.

    Args:
        path: the storage directory.

    Raises:
        StateError: the owner may not enter the directory.
    """
    try:
        owner = os.stat(path)
    except OSError:
        owner = None
    if owner is None or os.geteuid() != 0 or owner.st_uid == 0:
        yield
        return
    # load these now: files of minifo and of Python may be readable by root only
    true_schema()
    codecs.lookup("ascii")
    groups, gid = os.getgroups(), os.getegid()
    os.setgroups([owner.st_gid])
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        if not os.access(path, os.R_OK | os.X_OK, effective_ids=True):
            raise StateError(
                f"the owner of storage {path} may not enter it", "change its owner (chown) or its permissions (chmod)"
            )
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


class FsckSession:
    """An open storage, locked against writers while this object is open; a context manager.

    Args:
        path: the storage directory.
        base: the base directory to compare with; None to skip that comparison.
        write: True to lock the storage for repairs.  If a mount uses it, or it cannot be written, it is only read.
        untrusted: True to accept a storage that other users may write to; it is only read.

    Attributes:
        storage: the storage.
        base: the base; None if none was given.
        inventory: the content objects.
        holder: process id of the daemon that uses the storage; 0 if the id is not known, None if no daemon uses it.
        writable: True if repairs are possible.
        obstacle: why repairs are not possible; empty if they are.
        data: the check of all data, if ``check`` has made it.
        facts: the rows of the table ``overlay``, if ``check`` could read them.

    Raises:
        StateError: *path* is not a storage, or storage or base cannot be read.
    """

    def __init__(self, path: str, base: str | None = None, *, write: bool, untrusted: bool = False) -> None:
        if not os.path.isdir(path):
            raise StateError(f"{path} is not a directory", "give the directory that the mount has as sto=")
        self.storage = Storage(path, untrusted=untrusted)
        self.holder: int | None = None
        self.writable = write
        self.obstacle = ""
        self.base: BaseView | None = None
        self._copy: str | None = None
        self._lock: int | None = None
        self.data: DataChecks | None = None
        self.facts: dict[str, object] = {}
        try:
            self.storage.check_cloned()
            if not any(self.storage.exists(name) for name in (DB_NAME, "content", NAMES)):
                raise NotMinifo(
                    f"{path} is not the storage of an overlay", "give the directory that the mount has as sto="
                )
            self._take_lock(write)
            self.base = open_base(base, clone=True) if base is not None else None
            self.inventory = ObjectInventory(self.storage)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise StateError(f"storage {path} cannot be read ({error.strerror})", "run it as root") from error
            raise

    def __enter__(self) -> FsckSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock and all files, and delete the copy of the database if one was made."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        if self.base is not None:
            self.base.close()
            self.base = None
        if self._copy is not None:
            shutil.rmtree(self._copy)
            self._copy = None
        self.storage.close()

    def _take_lock(self, write: bool) -> None:
        """Lock the storage against writers; set ``holder``, ``writable`` and ``obstacle``."""
        if write and not self.storage.is_trusted:
            self.writable, self.obstacle = False, "the storage is not trusted"
        elif write:
            try:
                self.storage.lock(exclusive=True)
            except StorageBusy as error:
                self.holder, self.writable, self.obstacle = error.pid, False, error.message
            except StateError as error:
                self.writable, self.obstacle = False, error.message
            return
        try:
            self._lock = self.storage.open(LOCK, write=False)
        except FileNotFoundError:
            return  # never mounted, or a copy of a storage: no mount uses it
        self.holder = lock_holder(self._lock, keep=True)

    # -- checking

    def check(
        self, *, full: bool = False, verify: bool = False, progress: Progress = lambda what, done, total: None
    ) -> list[Problem]:
        """Check the storage and return its problems; of a damaged database only those that a rebuild repairs.

        Args:
            full: True for SQLite's full integrity check instead of the quick one.
            verify: True to read every byte of every content object, and compare it with the digests that there are.
            progress: called with the name of the step, the number of units done, and their total.

        Raises:
            NotMinifo: the database belongs to another program.
            NewerFormat: a newer minifo has written the database.
            StateError: the database cannot be read.
        """
        found = self._check(full, verify, progress)
        if any(problem.code in NEEDS_REBUILD for problem in found):
            self._refuse_newer()
        return found

    def _refuse_newer(self) -> None:
        """Refuse a damaged database that a newer minifo has written: a rebuild would lose the rows that it added.

        Raises:
            NewerFormat: the header of the database says so.
        """
        path = self.storage.database
        with RawFile(self.storage, DB_NAME) as data, RawFile(self.storage, _WAL) as wal:
            first = SqlitePages(data, wal).page(1)
        application, version = (int.from_bytes(first[at : at + 4], "big") for at in (68, 60))
        if application == APPLICATION_ID and version in POSSIBLE_VERSIONS:
            check_version(path, version)

    def _check(self, full: bool, verify: bool, progress: Progress) -> list[Problem]:
        """Check the database file, then its rows unless the database must be rebuilt."""
        if not self.storage.exists(DB_NAME):
            return [Problem("E100", b"minifo.db")]
        progress("checking the database", 0, 1)
        try:
            con = self._snapshot()
        except apsw.NotADBError:
            return [Problem("E101", b"minifo.db")]
        except apsw.CorruptError as error:
            return [Problem("E102", b"minifo.db", str(error))]
        except apsw.Error as error:
            message = f"{self.storage.database} cannot be read ({error})"
            raise StateError(message, "unmount it, or run this as root") from error
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return [Problem("E102", b"minifo.db", str(error.strerror))]  # EIO: a bad block of the medium
        db = Database(con, read_only=True)
        try:
            found = _check_database(con, self.storage.database, full)
            if any(problem.code in NEEDS_REBUILD for problem in found):
                return found
            live = self.holder is not None
            if live:
                self.inventory.rescan()
            checks = Checks(db, self.inventory, self.base, live=live, progress=progress)
            today = checks.run()
            self.facts = dict(checks.facts)
            found += today + HistoryChecks(db, self.inventory, progress).run(today)
            if verify:
                present = self._present_row if live else None
                self.data = DataChecks(db, self.inventory, present, progress, collect=self.writable)
                found += self.data.run()
            if not live:
                found += self._check_redo(con, checks.facts.get("uuid"), checks.facts.get("commit_token"))
            return found
        except (apsw.Error, UnicodeDecodeError) as error:
            return [Problem("E102", b"minifo.db", str(error))]
        except FsError as error:
            return [Problem("E102", b"minifo.db", str(error.filename or error))]
        finally:
            db.close()

    def _present_row(self, sql: str, params: tuple[int]) -> tuple[object, ...] | None:
        """Return the first row of a query on the database as it is now."""
        db = Database(self._snapshot(), read_only=True)
        try:
            return db.row(sql, params)
        finally:
            db.close()

    def _snapshot(self) -> apsw.Connection:
        """Return a connection to the present state of the database, through which nothing in storage is changed."""
        path = self.storage.database
        if self.holder is not None:
            if not self.storage.is_trusted:
                raise StorageBusy(f"storage {self.storage.path} is mounted", "unmount it first", self.holder)
            memory = apsw.Connection(":memory:")
            source = connect(path, read_only=True)
            try:
                with memory.backup("main", source, "main") as backup:
                    backup.step()
            finally:
                source.close()
            return memory
        has_log = self.storage.exists(_WAL) and self.storage.stat(_WAL).st_size > 0
        if self.storage.is_trusted and not has_log:
            return connect(path, read_only=True, immutable=True)
        if self._copy is None:
            self._copy = tempfile.mkdtemp(prefix="minifo-fsck-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        for name in (DB_NAME, _WAL):
            self.storage.copy_out(name, os.path.join(self._copy, name))
        return connect(os.path.join(self._copy, DB_NAME), read_only=False)

    def _redo(self, uuid: object) -> RedoLog | None:
        """Return the redo log of this storage, or None if there can be none.

        The log holds the operations that a killed daemon had acknowledged but not committed.
        """
        directory = memory_directory()
        try:
            return RedoLog(directory, uuid, self.storage.database) if directory is not None else None
        except Corrupt:
            return None  # the uuid, which names the log, is damaged: that is reported as a problem of its own

    def _check_redo(self, con: apsw.Connection, uuid: object, token: object) -> list[Problem]:
        """Report the redo log of a killed daemon: N404 if it can be replayed, E405 if it cannot."""
        redo = self._redo(uuid)
        if redo is None or not isinstance(token, int):
            return []
        try:
            waiting = redo.read(token)
            if missing_content(self.storage, waiting):
                self._try_replay(con, redo, waiting)
        except StateError as error:
            return [Problem("E405", b"<overlay>", error.message)]
        return [Problem("N404", b"<overlay>", f"{len(waiting)} operations")] if waiting else []

    def _try_replay(self, con: apsw.Connection, redo: RedoLog, waiting: Recording) -> None:
        """Replay a redo log in a copy of the database, to see whether it can be replayed.

        Raises:
            StateError: it cannot be replayed.
        """
        memory = apsw.Connection(":memory:")
        with memory.backup("main", con, "main") as backup:
            backup.step()
        db = Database(memory, read_only=False)
        try:
            with db.operation():
                self._replay(db, redo, waiting)
        finally:
            db.close()

    def _replay(self, db: Database, redo: RedoLog, waiting: Recording) -> None:
        """Replay a redo log as a mount does, with the history of the rows that it changes."""
        history = History(db)
        history.keep(True)
        replay(db, self.storage, redo, waiting)
        history.keep(False)
        # as the next commit would have done: what a checkpoint needs is not deleted
        db.change_unlogged(f"DELETE FROM garbage WHERE object IN (SELECT object FROM ({KEPT_OBJECTS}))")
        drop_stale(db)

    # -- repairing

    def repair(
        self, found: list[Problem], choose: Choose, *, progress: Progress = lambda what, done, total: None
    ) -> tuple[list[Problem], list[Problem]]:
        """Repair the problems for which *choose* allows it, in one transaction.

        Args:
            found: the problems that ``check`` has returned; none of them may need a rebuild.
            choose: called once for each problem; returns whether to repair it.
            progress: called with the name of the step, the number of units done, and their total.

        Returns:
            The repaired problems, and the problems that are left, including notes.

        Raises:
            StateError: the repair failed; the overlay in storage was not changed.
        """
        for problem in found:
            if problem.code == "E405":
                # the log fits the present state only: a repair of that state would make it useless, so ask first
                if not choose(problem):
                    return [], found
                self._rename_redo()
                done, left = self.repair([other for other in found if other is not problem], choose, progress=progress)
                return [problem, *done], left
        header = [f for f in found if f.code in ("E103", "E104")]
        chosen = [f for f in header if choose(f)]
        if len(chosen) < len(header):
            return [], found
        try:
            if chosen:
                self.back_up()
                self._set_header()
            db = open_database(self.storage.database, read_only=False)
            try:
                done, left = self._repair(db, choose, bool(chosen), progress)
            finally:
                db.close()
        except (OSError, apsw.Error) as error:
            hint = "free some space there, then run this again"
            raise StateError(f"storage {self.storage.path} could not be repaired ({error})", hint) from error
        # the repair does not read content again, and cannot repair an object with other bytes: it is left
        lost = [problem for problem in found if problem.code in OF_DATA]
        return chosen + done, left + [problem for problem in lost if problem.key[0] not in self.inventory.extended]

    def _rename_redo(self) -> None:
        db = Database(self._snapshot(), read_only=True)
        try:
            uuid = db.value("SELECT value FROM overlay WHERE key = 'uuid'")
        finally:
            db.close()
        redo = self._redo(uuid)
        if redo is not None:
            redo.find()
            redo.set_aside()

    def _set_header(self) -> None:
        con = connect(self.storage.database, read_only=False)
        try:
            con.execute(f"PRAGMA application_id={APPLICATION_ID}")
            con.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        finally:
            con.close()

    def _repair(
        self, db: Database, choose: Choose, backed_up: bool, progress: Progress
    ) -> tuple[list[Problem], list[Problem]]:
        """Repair the rows of the opened database in one transaction, after a copy of the database was made."""
        facts: dict[str, object] = dict(db.rows("SELECT key, value FROM overlay"))
        with db.operation():
            redo, token = self._redo(facts.get("uuid")), facts.get("commit_token")
            waiting = redo.read(token) if redo is not None and isinstance(token, int) else None
            if waiting and redo is not None:
                # replay the acknowledged operations of a killed daemon first, as the next mount would do
                self._replay(db, redo, waiting)
                counters = ("next_ino", waiting[-1].next_ino), ("next_object", waiting[-1].next_object)
                for key, value in counters:
                    db.change(SET_FACT, (key, value))
            loop = RepairLoop(db, self.inventory, self.base)
            done, left = loop.run(choose, progress)
            if done:
                loop.renew_commit_token()
        if done:
            if not backed_up:
                self.back_up()
            db.commit()
            db.checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)
            self.inventory.extend_planned()
            if redo is not None and waiting:
                redo.remove()  # all its operations are durable now
        return done, left

    def back_up(self) -> str:
        """Copy the database and its logs to new files in storage, and return the name of the database's copy."""
        name = self.backup_name()
        for part in ("", "-wal", "-journal"):
            source = DB_NAME + part
            if self.storage.exists(source) and (not part or self.storage.stat(source).st_size):
                self._copy_file(source, name + part)
        self.storage.sync_dir(".")
        return name

    def _copy_file(self, source: str, name: str) -> None:
        """Copy a file of storage to the new file *name* there, durably.

        Only the owner can read the copy, like the database itself: it holds names and contents of the user's files.
        """
        fd = self.storage.create(name)
        try:
            with RawFile(self.storage, source) as file:
                file.copy_to(fd)
            self.storage.sync_fd(fd)
        finally:
            os.close(fd)

    def backup_name(self) -> str:
        """Return a file name for a copy of the database that no file in storage has yet."""
        plain = name = f"{DB_NAME}.bak-{time.strftime('%Y%m%d-%H%M%S')}"
        count = 0
        while self.storage.exists(name) or self.storage.exists(name + "-wal"):
            count += 1
            name = f"{plain}-{count}"
        return name


def _check_database(con: apsw.Connection, path: str, full: bool) -> list[Problem]:
    """Check the database file: SQLite's integrity check, and whether its tables and its header are those of minifo.

    Raises:
        NotMinifo: it is a database of another program.
        NewerFormat, StateError: another version of minifo has written it.
    """
    where = b"minifo.db"
    try:
        tables = {name for kind, name, _, _ in schema_of(con) if kind == "table"}
        identity = con.execute("PRAGMA application_id").fetchone()
        version = con.execute("PRAGMA user_version").fetchone()
        strange = strange_objects(con)
    except apsw.NotADBError:
        return [Problem("E101", where)]
    except (apsw.Error, UnicodeDecodeError) as error:  # UnicodeDecodeError: damaged text
        return [Problem("E102", where, str(error))]
    found = []
    if identity != (APPLICATION_ID,):
        if tables and not tables & {name for _, name, _, _ in true_schema()}:
            raise NotMinifo(
                "minifo.db is a database, but not one of minifo's", "give the directory that the mount has as sto="
            )
        found.append(Problem("E103", where, f"{identity[0] if identity else None}"))
    number = int(version[0]) if version else 0
    if number in POSSIBLE_VERSIONS:
        check_version(path, number)  # before all other checks: only the version that wrote the rows knows their meaning
    else:
        found.append(Problem("E104", where, f"{number} instead of {SCHEMA_VERSION}"))
    if strange:
        # no SQL statement may run on foreign tables; the rebuild reads rows from the pages
        return [
            Problem("E105" if tables else "E101", where, ", ".join(strange) if tables else "the file has no tables")
        ]
    try:
        report = [row[0] for row in con.execute(f"PRAGMA {'integrity' if full else 'quick'}_check({_REPORT_LINES})")]
    except (apsw.Error, UnicodeDecodeError) as error:
        return [Problem("E102", where, str(error))]
    if report != ["ok"]:
        return [Problem("E102", where, "; ".join(str(line).replace("\n", " ") for line in report))]
    return found
