"""The file minifo.db: how it is opened, checked to be minifo's before it is used, and created.

How it is opened depends on the storage: shared with other reading processes, where the file system supports SQLite's
shared memory; else exclusively by one process; on a read-only medium as an immutable file.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
import string
import tempfile
from collections.abc import Callable, Iterable
from functools import partial

import apsw

from ..errors import Corrupt, NewerFormat, NotMinifo, OlderFormat, StateError
from .confined_dir import open_file, why_refused
from .database import BUSY_TIMEOUT, DB_NAME, Database

log = logging.getLogger(__name__)

APPLICATION_ID = 0x6D66_6F31  # "mfo1"
SCHEMA_VERSION = 5
#: The step that leads to a version has a number of four digits (migrations/schema/upgrade.py); others mean damage.
POSSIBLE_VERSIONS = range(1, 10_000)

_WAL_SIZE_LIMIT = 8 << 20  # bytes to which SQLite truncates the write-ahead log when it resets it
_JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
_SHARED_MEMORY = {
    apsw.SQLITE_IOERR_SHMOPEN, apsw.SQLITE_IOERR_SHMSIZE, apsw.SQLITE_IOERR_SHMLOCK, apsw.SQLITE_IOERR_SHMMAP,
}  # fmt: skip


def _uri(path: str) -> str:
    """Return *path* as a file: URI; SQLite takes UTF-8 paths only, but decodes %xx in a URI to any bytes."""
    safe = set(string.ascii_letters + string.digits + "/._-")
    return "file:" + "".join(c if c in safe else "".join(f"%{b:02x}" for b in os.fsencode(c)) for c in path)


def connect(
    path: str, *, read_only: bool, immutable: bool = False, exclusive: bool = False, vfs: str | None = None
) -> apsw.Connection:
    """Open a database with the settings that every connection of minifo has.

    Args:
        path: path of minifo.db.
        read_only: open for reading only.
        immutable: tell SQLite that no process changes the file (a read-only medium, where no lock file can be made).
        exclusive: keep all other connections out; for storage without shared memory.
        vfs: name of the SQLite VFS to use, for recorders and fault injectors in tests; None for SQLite's own.

    Raises:
        apsw.Error: SQLite cannot open it.
        Corrupt: it or a file of SQLite's beside it is not a regular file with a single name, or there is a rollback
            journal that names a super-journal.
    """
    _check_files(path)
    _check_journal(path)
    flags = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE
    con = apsw.Connection(
        _uri(path) + ("?immutable=1" if immutable else ""),
        flags=flags | apsw.SQLITE_OPEN_URI,
        vfs=vfs,
        statementcachesize=200,
    )
    try:
        # without QPSG SQLite prepares a query with bound parameters in a range again at each execution (apsw has STAT4)
        con.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        con.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        con.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        con.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
        con.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)
        con.set_busy_timeout(BUSY_TIMEOUT)
        if exclusive:
            # before the first access to a WAL database: SQLite then keeps the log's index on the heap (sqlite.org/wal)
            con.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()
        # cache_spill: a transaction that outgrows the cache must not write to a full disk before its commit, because
        # SQLite would then roll back operations that were acknowledged
        for pragma in ("cache_spill=OFF", "cell_size_check=ON", "temp_store=MEMORY", "cache_size=-4000", "mmap_size=0"):
            con.execute(f"PRAGMA {pragma}").fetchall()
    except BaseException:
        con.close()  # it may hold a lock that the next attempt needs
        raise
    return con


def _check_files(path: str) -> None:
    """Refuse a database if it, or a file beside it that SQLite opens, leads elsewhere.

    SQLite follows links, and waits for a FIFO.  Most callers have checked the whole storage before
    (store/confined_dir.py), but nobody else checks the directory of an unfinished import.

    Raises:
        Corrupt: one of them is not a regular file with a single name.
    """
    for suffix in ("", "-wal", "-shm", "-journal"):
        try:
            st = os.lstat(path + suffix)
        except OSError:
            continue  # there is none; SQLite reports any other error
        reason = why_refused(st)
        if reason is not None:
            raise Corrupt(f"{path}{suffix} {reason}", "nothing in a storage may lead out of it: move it away")


def _check_journal(path: str) -> None:
    """Refuse a database with a rollback journal that names a super-journal.

    minifo writes no such journal: SQLite does so for transactions over several databases.  SQLite would read the named
    file, which may be any file of the system; version 3.40 even deletes it afterwards (sqlite.org/fileformat2, "The
    Rollback Journal").  A journal without that name is allowed: a power cut during the very first open may leave one.

    Args:
        path: path of the database.

    Raises:
        Corrupt: the journal names a super-journal, or cannot be read.
    """
    try:
        fd = os.open(path + "-journal", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise Corrupt(f"{path}-journal cannot be read ({error.strerror})", "move it away") from error
    try:
        size = os.fstat(fd).st_size
        foreign = size >= 8 and os.pread(fd, 8, size - 8) == _JOURNAL_MAGIC
    finally:
        os.close(fd)
    if foreign:
        raise Corrupt(f"{path}-journal is not minifo's: it names another journal", "move it away")


def open_database(
    path: str, *, read_only: bool, vfs: str | None = None, copy_out: Callable[[str, str], object] | None = None
) -> Database:
    """Open an existing database, and check that it is minifo's, with this version of the schema.

    On storage without shared memory (some network and FUSE file systems) a writer locks the database exclusively; a
    reader gets a copy in memory, because SQLite cannot read a write-ahead log there without writing.

    Args:
        path: path of minifo.db.
        read_only: open for reading only.
        vfs: name of the SQLite VFS to use; None for SQLite's own.
        copy_out: copy_out(name, copy) copies a file of the storage, if it exists, to the path *copy*.  If given, the
            database is read from a copy in memory that *copy_out* makes, and *path* is not opened.

    Raises:
        NotMinifo, NewerFormat, OlderFormat, Corrupt, StateError: it cannot be used; nothing was changed.
    """
    try:
        if copy_out is not None:
            return Database(_copy(path, copy_out), read_only=True)
        try:
            con = _open(path, read_only=read_only, immutable=read_only and _needs_immutable(path), vfs=vfs)
        except (apsw.IOError, apsw.CantOpenError) as error:
            if not _lacks_shared_memory(error):
                raise
            log.debug("%s: storage has no shared memory (%s)", path, error)
            con = (
                _copy(path, _fetch_beside(path)) if read_only else _open(path, read_only=False, exclusive=True, vfs=vfs)
            )
    except apsw.NotADBError as error:
        raise NotMinifo(f"{path} is not an SQLite database", "move it away, or run minifo-fsck on it") from error
    except (apsw.CorruptError, UnicodeDecodeError) as error:
        raise Corrupt(f"{path} is damaged ({error})", f"run: minifo-fsck {os.path.dirname(path)}") from error
    except apsw.ReadOnlyError as error:
        raise StateError(
            f"{path} cannot be written ({error})", "mount with -o ro, or make the storage writable"
        ) from error
    except apsw.Error as error:
        raise StateError(
            f"{path} cannot be opened ({error})", "check the storage's permissions and its file system"
        ) from error
    reopen = None if read_only else partial(connect, path, read_only=False, vfs=vfs)
    return Database(con, read_only=read_only, reopen=reopen)


def compact(path: str, *, vfs: str | None = None) -> None:
    """Write a database anew without unused pages (sqlite.org/lang_vacuum.html); a crash leaves the old one or the new.

    It takes up to twice the size of the database in its directory while it runs, and a copy in SQLite's directory for
    temporary files (sqlite.org/tempfiles.html).

    Args:
        path: path of minifo.db, which no other process uses; all of it is committed.
        vfs: name of the SQLite VFS to use; None for SQLite's own.

    Raises:
        NotMinifo, NewerFormat, OlderFormat, Corrupt: it is no database of this minifo; nothing was changed.
        StateError: there is no room, or it could not be written; the database is what it was.
    """
    try:
        try:
            con = _open(path, read_only=False, vfs=vfs)
        except (apsw.IOError, apsw.CantOpenError) as error:
            if not _lacks_shared_memory(error):
                raise
            con = _open(path, read_only=False, exclusive=True, vfs=vfs)
        try:
            for pragma in ("synchronous=FULL", "temp_store=FILE", "cache_spill=ON"):
                con.execute(f"PRAGMA {pragma}").fetchall()
            con.execute("VACUUM")
            con.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        finally:
            con.close()
    except apsw.Error as error:
        raise StateError(f"{path} was not compacted ({error})", "free some space, and try again") from error


def _open(
    path: str, *, read_only: bool, immutable: bool = False, exclusive: bool = False, vfs: str | None = None
) -> apsw.Connection:
    con = connect(path, read_only=read_only, immutable=immutable, exclusive=exclusive, vfs=vfs)
    try:
        _identify(con, path)
        if not read_only:
            _enter_wal(con)
    except BaseException:
        con.close()  # SQLite deletes its -shm and -wal files
        raise
    return con


def _lacks_shared_memory(error: Exception) -> bool:
    """Return whether *error* means that SQLite cannot share the index of the write-ahead log with other processes."""
    return isinstance(error, apsw.CantOpenError) or getattr(error, "extendedresult", 0) in _SHARED_MEMORY


def _fetch_beside(path: str) -> Callable[[str, str], object]:
    """Return a function that copies a file of the database's directory, if it exists, by its name."""

    def copy_out(name: str, copy: str) -> None:
        try:
            fd = open_file(os.path.join(os.path.dirname(path), name))
        except FileNotFoundError:
            return
        with open(fd, "rb") as source, open(copy, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)

    return copy_out


def _copy(path: str, copy_out: Callable[[str, str], object]) -> apsw.Connection:
    """Return a connection to a copy of the database and its log in memory; no process may write to them meanwhile."""
    con = apsw.Connection(":memory:")
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="minifo-", dir=memory) as directory:
        copy = os.path.join(directory, DB_NAME)
        for suffix in ("", "-wal"):
            copy_out(os.path.basename(path) + suffix, copy + suffix)
        source = _open(copy, read_only=False)
        try:
            with con.backup("main", source, "main") as backup:
                backup.step()
        finally:
            source.close()
    return con


def _needs_immutable(path: str) -> bool:
    """Return whether SQLite cannot make its lock files beside the database, and there is no log to replay."""
    wal = path + "-wal"
    pending = os.path.exists(wal) and os.path.getsize(wal) > 0
    return not pending and not os.access(os.path.dirname(path), os.W_OK)


def check_header(path: str) -> None:
    """Check the header of a file: that it is a database of minifo, with this version of the schema.

    Reads 100 bytes, changes nothing (sqlite.org/fileformat).

    Raises:
        NotMinifo, NewerFormat, OlderFormat, Corrupt, StateError: it is not, or it cannot be read.
    """
    try:
        fd = open_file(path)
        try:
            header = os.pread(fd, 100, 0)
        finally:
            os.close(fd)
    except OSError as error:
        raise StateError(f"{path} cannot be read ({error.strerror})", "check its permissions") from error
    if header and not header.startswith(b"SQLite format 3\0"):
        raise NotMinifo(f"{path} is not an SQLite database", "move it away, or run minifo-fsck on it")
    _check_identity(path, int.from_bytes(header[68:72], "big"), int.from_bytes(header[60:64], "big"))


def _check_identity(path: str, application: int, version: int) -> None:
    if application != APPLICATION_ID:
        raise NotMinifo(f"{path} is not a minifo database", "give an empty directory as storage")
    if version not in POSSIBLE_VERSIONS:
        raise Corrupt(
            f"{path} has an impossible format number ({version})", f"run: minifo-fsck {os.path.dirname(path)}"
        )
    check_version(path, version)


def check_version(path: str, version: int) -> None:
    """Refuse a database of another schema version.

    Args:
        path: of the file, for the message.
        version: its version, one of ``POSSIBLE_VERSIONS``.

    Raises:
        NewerFormat, OlderFormat: its version is greater or less than SCHEMA_VERSION.
    """
    if version > SCHEMA_VERSION:
        raise NewerFormat(
            f"{path} has format {version}, this minifo knows up to {SCHEMA_VERSION}",
            "install a newer minifo; nothing was changed",
        )
    if version < SCHEMA_VERSION:
        raise OlderFormat(
            f"{path} has format {version}, this minifo works with {SCHEMA_VERSION}",
            f"upgrade it: minifo upgrade {os.path.dirname(path)}",
        )


def _identify(con: apsw.Connection, path: str) -> None:
    """Check that an open database is minifo's: its identity, its schema, and that its tables can be read."""
    application, version = (con.execute(f"PRAGMA {key}").fetchone() for key in ("application_id", "user_version"))
    _check_identity(path, application[0] if application else 0, version[0] if version else 0)
    # before a name in the schema becomes part of a statement, and before a foreign trigger or view can run
    strange = strange_objects(con)
    if strange:
        hint = f"run: minifo-fsck {os.path.dirname(path)}"
        raise Corrupt(f"{path} is damaged (its tables are not minifo's: {', '.join(strange)!r})", hint)
    # reads a page or two of every table, to find damage there before the mount answers; nothing depends on the journal
    for kind, name, _, _ in sorted(true_schema(), key=str):
        if kind == "table" and name != "journal":
            con.execute(f'SELECT * FROM "{name}" LIMIT 1').fetchall()


SchemaObject = tuple[str, str, str, str | None]


def schema_of(con: apsw.Connection) -> frozenset[SchemaObject]:
    """Return all tables, indexes, triggers and views of a database: type, name, table, and the SQL that made it."""
    rows = con.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema").fetchall()
    return frozenset(
        (str(kind), str(name), str(table), None if sql is None else str(sql)) for kind, name, table, sql in rows
    )


@functools.cache
def true_schema() -> frozenset[SchemaObject]:
    """Return the tables and indexes that an overlay's database must have, in the form of ``schema_of``."""
    con = apsw.Connection(":memory:")
    try:
        con.execute(schema())
        return schema_of(con)
    finally:
        con.close()


def strange_objects(con: apsw.Connection) -> list[str]:
    """Return the names of the objects in which a database's schema differs from store/schema.sql, sorted.

    These are additional objects, objects with another definition, and missing ones.
    """
    return sorted({name for _, name, _, _ in schema_of(con) ^ true_schema()})


def _enter_wal(con: apsw.Connection) -> None:
    """Switch a connection to a write-ahead log, with exclusive locking where the VFS has no shared memory."""
    if con.execute("PRAGMA journal_mode=WAL").fetchone() != ("wal",):
        con.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()
        con.execute("PRAGMA journal_mode=WAL").fetchall()
    con.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # a new log's lack of shared memory shows only here
    # NORMAL: COMMIT writes the log without a sync; the group commit syncs it (engine/commit.py)
    con.execute("PRAGMA synchronous=NORMAL").fetchall()
    con.execute("PRAGMA wal_autocheckpoint=0").fetchall()
    # a long transaction or a reading process makes the log grow; SQLite truncates it when it resets it
    con.execute(f"PRAGMA journal_size_limit={_WAL_SIZE_LIMIT}").fetchall()


@functools.cache
def schema() -> str:
    """Return the SQL that makes the tables of an empty database (store/schema.sql), read once."""
    # imported here: the import is slow, and most mounts need no schema
    from importlib import resources

    return resources.files("minifo.engine.store").joinpath("schema.sql").read_text("utf-8")


def format_database(
    path: str,
    facts: dict[str, int | str | bytes],
    vfs: str | None = None,
    journal: Iterable[tuple[object, ...]] = (),
) -> None:
    """Create the database of a new, empty overlay.

    The caller renames the finished file to its final name, so that after a power cut it is missing or complete.

    Args:
        path: the file; it must be empty or not exist.
        facts: the first rows of the table ``overlay``: key and value.
        vfs: name of the SQLite VFS to use; None for SQLite's own.
        journal: the first rows of the table ``journal``.

    Raises:
        apsw.Error: it could not be written.
    """
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
    con = apsw.Connection(_uri(path), flags=flags, vfs=vfs)
    try:
        con.execute("PRAGMA journal_mode=MEMORY").fetchall()  # no rollback is ever needed: the file is new
        con.execute("PRAGMA synchronous=FULL").fetchall()
        con.execute("BEGIN")
        con.execute(schema())
        con.execute(f"PRAGMA application_id={APPLICATION_ID}")
        con.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        con.executemany("INSERT INTO overlay VALUES (?, ?)", facts.items())
        con.executemany("INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?, ?)", journal)
        con.execute("INSERT INTO origin (ino, path) VALUES (1, ?)", (b"/",))  # invariant 17: the root of the base
        con.execute("COMMIT")
    finally:
        con.close()
