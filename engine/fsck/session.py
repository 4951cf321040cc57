"""One examination of one storage by minifo-fsck: open it without changing it, check it, and repair it if asked.

The rule: looking writes nothing, whatever state a crash left, and whoever holds the storage.  A database nobody holds
is read as it lies (``immutable``); one with a log is copied into memory with it; one that a mount holds is copied
through SQLite.  Before a repair changes the first byte, the database is copied beside itself (``minifo.db.bak-...``).
"""

from __future__ import annotations

import codecs
import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import apsw

from ..errors import Corrupt, FsError, NotMinifo, StateError, StorageBusy
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
from ..store.metadata_backup import NAMES
from ..store.redo_log import Recording, RedoLog, memory_directory
from ..store.redo_replay import lacking, replay
from ..store.statements import SET_FACT
from ..store.storage import Storage
from .checks import Checks, Progress
from .object_inventory import ObjectInventory
from .problems import SALVAGE, Problem
from .repair_loop import Choose, RepairLoop
from .sqlite_pages import SqlitePages, read_past_errors

_WAL = DB_NAME + "-wal"
_SAID = 5  # lines of SQLite's own report that are passed on


@contextmanager
def acting_as_owner(path: str) -> Iterator[None]:
    """Let root be the owner of a storage while its own rights are not needed.

    Whatever somebody does to their storage meanwhile, no more becomes of it than what they could do themselves, and
    what is made in it is theirs.
    """
    try:
        owner = os.stat(path)
    except OSError:
        owner = None
    if owner is None or os.geteuid() != 0 or owner.st_uid == 0:
        yield
        return
    # read now, for our own files, and Python's, may be for root only
    true_schema()
    codecs.lookup("ascii")
    groups, gid = os.getgroups(), os.getegid()
    os.setgroups([owner.st_gid])
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        if not os.access(path, os.R_OK | os.X_OK, effective_ids=True):
            raise StateError(f"the owner of storage {path} cannot enter it", "chown it, or let its owner in")
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


class FsckSession:
    """An open storage, held against writers for as long as it is examined.

    Args:
        path: the storage directory.
        base: the base directory, to compare with; None to leave it out.
        write: take the storage for repairs; where a mount holds it, or it cannot be written, it is only read.
        untrusted: take it although others may write to it; it is only read.

    Attributes:
        holder: process id of the mount that holds the storage, 0 if it is not known, None if there is none.
        writable: True where repairs are possible.
        obstacle: why they are not.

    Raises:
        StateError: it is not a storage, or cannot be read.
    """

    def __init__(self, path: str, base: str | None = None, *, write: bool, untrusted: bool = False) -> None:
        if not os.path.isdir(path):
            raise StateError(f"{path} is not a directory", "name the directory given as sto=")
        self.storage = Storage(path, untrusted=untrusted)
        self.holder: int | None = None
        self.writable = write
        self.obstacle = ""
        self.base: BaseView | None = None
        self._copy: str | None = None
        self._lock: int | None = None
        try:
            if not any(self.storage.exists(name) for name in (DB_NAME, "content", NAMES)):
                raise NotMinifo(f"{path} is not the storage of an overlay", "name the directory given as sto=")
            self._hold(write)
            self.base = _open_base(base) if base is not None else None
            self.shelf = ObjectInventory(self.storage)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise StateError(f"storage {path} cannot be read ({error.strerror})", "call it as root") from error
            raise

    def __enter__(self) -> FsckSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of everything."""
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

    def _hold(self, write: bool) -> None:
        if write and not self.storage.is_trusted:
            self.writable, self.obstacle = False, "it is not trusted"
        elif write:
            try:
                self.storage.lock(exclusive=True)
            except StorageBusy as error:
                self.holder, self.writable, self.obstacle = error.pid, False, error.message
            except StateError as error:
                self.writable, self.obstacle = False, error.message
            return
        try:
            self._lock = self.storage.open("lock", write=False)
        except FileNotFoundError:
            return  # never mounted, or a copy: nobody writes
        try:
            fcntl.flock(self._lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(self._lock, 32, 0).split(b"\n")[0]
            self.holder = int(text) if text.isdigit() else 0

    # -- looking

    def check(
        self, *, full: bool = False, verify: bool = False, progress: Progress = lambda what, done, total: None
    ) -> list[Problem]:
        """Everything that is wrong; only of the database itself where that must be mended first.

        Args:
            full: SQLite's full check instead of its quick one.
            verify: read every byte of every content object.
            progress: called with what is being done, how much is done, how much there is.

        Raises:
            NotMinifo, NewerFormat: the database is somebody else's, or of a newer minifo.
            StateError: it cannot be read.
        """
        found = self._check(full, verify, progress)
        if any(finding.code in SALVAGE for finding in found):
            self._refuse_newer()
        return found

    def _refuse_newer(self) -> None:
        """A salvage would make our tables of a newer minifo's, so none is offered where the header tells it is one."""
        path = self.storage.database
        first = SqlitePages(*(read_past_errors(self.storage, name) for name in (DB_NAME, _WAL))).page(1)
        application, version = (int.from_bytes(first[at : at + 4], "big") for at in (68, 60))
        if application == APPLICATION_ID and version in POSSIBLE_VERSIONS:
            check_version(path, version)

    def _check(self, full: bool, verify: bool, progress: Progress) -> list[Problem]:
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
            raise StateError(message, "unmount it, or call this as root") from error
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return [Problem("E102", b"minifo.db", str(error.strerror))]  # a bad block of the medium
        db = Database(con, read_only=True)
        try:
            found = _examine_database(con, self.storage.database, full)
            if any(finding.code in SALVAGE for finding in found):
                return found
            live = self.holder is not None
            if live:
                self.shelf.look_again()
            checker = Checks(db, self.shelf, self.base, verify=verify, live=live, progress=progress)
            found += checker.run()
            if not live:
                found += self._waiting(con, checker.facts.get("uuid"), checker.facts.get("commit_token"))
            return found
        except (apsw.Error, UnicodeDecodeError) as error:
            return [Problem("E102", b"minifo.db", str(error))]
        except FsError as error:
            return [Problem("E102", b"minifo.db", str(error.filename or error))]
        finally:
            db.close()

    def _snapshot(self) -> apsw.Connection:
        """A connection to the state the database is in, that changes nothing in storage."""
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
            self.storage.fetch(name, os.path.join(self._copy, name))
        return connect(os.path.join(self._copy, DB_NAME), read_only=False)

    def _redo(self, uuid: object) -> RedoLog | None:
        """Where a killed daemon leaves what it had acknowledged but not committed."""
        directory = memory_directory()
        try:
            return RedoLog(directory, uuid, self.storage.database) if directory is not None else None
        except Corrupt:
            return None  # a damaged identity is a finding of its own, and names no log

    def _waiting(self, con: apsw.Connection, uuid: object, token: object) -> list[Problem]:
        redo = self._redo(uuid)
        if redo is None or not isinstance(token, int):
            return []
        try:
            waiting = redo.read(token)
            if lacking(self.storage, waiting):
                self._try_replay(con, redo, waiting)
        except StateError as error:
            return [Problem("E405", b"<overlay>", error.message)]
        return [Problem("N404", b"<overlay>", f"{len(waiting)} operations")] if waiting else []

    def _try_replay(self, con: apsw.Connection, redo: RedoLog, waiting: Recording) -> None:
        """See whether a redo log can be replayed, in a copy.

        Raises:
            StateError: it cannot.
        """
        memory = apsw.Connection(":memory:")
        with memory.backup("main", con, "main") as backup:
            backup.step()
        db = Database(memory, read_only=False)
        try:
            with db.operation():
                replay(db, self.storage, redo, waiting)
        finally:
            db.close()

    # -- repairing

    def repair(
        self, found: list[Problem], choose: Choose, *, progress: Progress = lambda what, done, total: None
    ) -> tuple[list[Problem], list[Problem]]:
        """Mend what *choose* allows, in one transaction.

        Args:
            found: what ``check`` said; nothing of it asks for a salvage.
            choose: asked for each finding.
            progress: as for ``check``.

        Returns:
            What was repaired, and what is left, notes among it.

        Raises:
            StateError: it could not be done; storage is as it was.
        """
        for finding in found:
            if finding.code == "E405":
                # it fits the state of now only: to repair that, and let the log wait, would be to lose it
                if not choose(finding):
                    return [], found
                self._set_redo_aside()
                done, left = self.repair([other for other in found if other is not finding], choose, progress=progress)
                return [finding, *done], left
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
            hint = "free space there, and call it again"
            raise StateError(f"storage {self.storage.path} could not be repaired ({error})", hint) from error
        # what cannot be read is not read again, and no repair changes it
        return chosen + done, left + [finding for finding in found if finding.code == "E305"]

    def _set_redo_aside(self) -> None:
        con = self._snapshot()
        try:
            uuid = con.execute("SELECT value FROM overlay WHERE key = 'uuid'").fetchone()
        finally:
            con.close()
        redo = self._redo(uuid[0] if uuid else None)
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
        facts: dict[str, object] = dict(db.rows("SELECT key, value FROM overlay"))
        with db.operation():
            redo, token = self._redo(facts.get("uuid")), facts.get("commit_token")
            waiting = redo.read(token) if redo is not None and isinstance(token, int) else None
            if waiting and redo is not None:
                # what a killed daemon acknowledged is part of what is repaired, as the next mount would have it
                replay(db, self.storage, redo, waiting)
                counters = ("next_ino", waiting[-1].next_ino), ("next_object", waiting[-1].next_object)
                for key, value in counters:
                    db.change(SET_FACT, (key, value))
            repairer = RepairLoop(db, self.shelf, self.base)
            done, left = repairer.run(choose, progress)
            if done:
                repairer.renew()
        if done:
            if not backed_up:
                self.back_up()
            db.commit()
            db.checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)
            self.shelf.extend_promised()
            if redo is not None and waiting:
                redo.remove()  # all of it is durable
        return done, left

    def back_up(self) -> str:
        """Copy the database, and its log, beside it; the copy's name."""
        name = self.backup_name()
        for part in ("", "-wal", "-journal"):
            source = DB_NAME + part
            if self.storage.exists(source) and (not part or self.storage.stat(source).st_size):
                self._save(source, name + part)
        self.storage.sync_dir(".")
        return name

    def _save(self, source: str, name: str) -> None:
        """Copy a file of storage to a new name there, as readable as the database: it says what the files hold."""
        fd = self.storage.create(name)
        try:
            self.storage.write(fd, read_past_errors(self.storage, source), 0)
            self.storage.sync_fd(fd)
        finally:
            os.close(fd)

    def backup_name(self) -> str:
        """A name for a copy of the database that nothing has yet."""
        plain = name = f"{DB_NAME}.bak-{time.strftime('%Y%m%d-%H%M%S')}"
        count = 0
        while self.storage.exists(name) or self.storage.exists(name + "-wal"):
            count += 1
            name = f"{plain}-{count}"
        return name


def _open_base(path: str) -> BaseView:
    try:
        return BaseView(path)
    except OSError as error:
        raise StateError(f"base {path} cannot be read ({error.strerror})", "name the base's directory") from error


def _examine_database(con: apsw.Connection, path: str, full: bool) -> list[Problem]:
    """What is wrong with the database as a file of SQLite's, and as one of ours.

    Raises:
        NotMinifo, NewerFormat, StateError: it is a sound database, but not ours to touch.
    """
    where = b"minifo.db"
    try:
        there = {name for kind, name, _, _ in schema_of(con) if kind == "table"}
        identity = con.execute("PRAGMA application_id").fetchone()
        version = con.execute("PRAGMA user_version").fetchone()
        strange = strange_objects(con)
    except apsw.NotADBError:
        return [Problem("E101", where)]
    except (apsw.Error, UnicodeDecodeError) as error:  # text that is damaged is no text
        return [Problem("E102", where, str(error))]
    found = []
    if identity != (APPLICATION_ID,):
        if there and not there & {name for _, name, _, _ in true_schema()}:
            raise NotMinifo("minifo.db is a database, but not one of minifo's", "name the directory given as sto=")
        found.append(Problem("E103", where, f"{identity[0] if identity else None}"))
    number = int(version[0]) if version else 0
    if number in POSSIBLE_VERSIONS:
        check_version(path, number)  # whatever it looks like: only who wrote it knows what its rows mean
    else:
        found.append(Problem("E104", where, f"{number} instead of {SCHEMA_VERSION}"))
    if strange:
        # nothing of it is asked any more by SQL: rows are read from its pages
        return [Problem("E105" if there else "E101", where, ", ".join(strange) if there else "it is empty")]
    try:
        report = [row[0] for row in con.execute(f"PRAGMA {'integrity' if full else 'quick'}_check({_SAID})")]
    except (apsw.Error, UnicodeDecodeError) as error:
        return [Problem("E102", where, str(error))]
    if report != ["ok"]:
        return [Problem("E102", where, "; ".join(str(line).replace("\n", " ") for line in report))]
    return found
