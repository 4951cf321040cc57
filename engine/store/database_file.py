"""The file minifo.db: opened with the agreed settings, known as ours before it is used, and made.

Storage decides how it is opened: shared with whoever looks on where that can be, else for one process alone, on a
medium nobody can write as a file that does not change.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
import string
import tempfile
from collections.abc import Callable
from functools import partial

import apsw

from ..errors import Corrupt, NewerFormat, NotMinifo, OlderFormat, StateError
from .confined_dir import open_file
from .database import DB_NAME, PATIENCE, Database

log = logging.getLogger(__name__)

APPLICATION_ID = 0x6D66_6F31  # "mfo1"
SCHEMA_VERSION = 2
POSSIBLE_VERSIONS = range(
    1, 10_000
)  # the number of a step has four digits (migrations/schema/upgrade.py): others are damage

_WAL_KEPT = 8 << 20  # bytes the log's file keeps when it starts over
_JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
_SHARED_MEMORY = {
    apsw.SQLITE_IOERR_SHMOPEN, apsw.SQLITE_IOERR_SHMSIZE, apsw.SQLITE_IOERR_SHMLOCK, apsw.SQLITE_IOERR_SHMMAP,
}  # fmt: skip


def _uri(path: str) -> str:
    # SQLite takes names as UTF-8 text only, but undoes %xx in a URI to whatever bytes they are
    safe = set(string.ascii_letters + string.digits + "/._-")
    return "file:" + "".join(c if c in safe else "".join(f"%{b:02x}" for b in os.fsencode(c)) for c in path)


def connect(
    path: str, *, read_only: bool, immutable: bool = False, exclusive: bool = False, vfs: str | None = None
) -> apsw.Connection:
    """Open a database with the settings every minifo connection has.

    Args:
        path: path of minifo.db.
        read_only: open for reading only.
        immutable: promise SQLite that nobody changes the file (a read-only medium, where no lock file can be made).
        exclusive: keep everybody else out; for storage without shared memory.
        vfs: name of the SQLite VFS to go through (recorders and fault injectors); None for the system's own.

    Raises:
        apsw.Error: as SQLite reports it.
        Corrupt: it comes with a journal that names another database's.
    """
    _check_journal(path)
    flags = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE
    con = apsw.Connection(
        _uri(path) + ("?immutable=1" if immutable else ""),
        flags=flags | apsw.SQLITE_OPEN_URI,
        vfs=vfs,
        statementcachesize=200,
    )
    try:
        # without QPSG every bound-parameter range query is prepared anew at each execution (STAT4 is compiled in)
        con.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        con.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        con.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        con.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
        con.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)
        con.set_busy_timeout(PATIENCE)
        if exclusive:
            # before the first look at a database that has a log: its index is kept on the heap then (sqlite.org/wal)
            con.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()
        # cache_spill: a transaction that outgrows the cache must not write to a full disk in its middle, for SQLite
        # would roll back operations that were acknowledged
        for pragma in ("cache_spill=OFF", "cell_size_check=ON", "temp_store=MEMORY", "cache_size=-4000", "mmap_size=0"):
            con.execute(f"PRAGMA {pragma}").fetchall()
    except BaseException:
        con.close()  # it may hold a lock on the database that the next one wants
        raise
    return con


def _check_journal(path: str) -> None:
    """Refuse a rollback journal that names a super-journal.

    None of ours does: that is for transactions over more than one database.  SQLite would read that file, which may be
    any one of the system; version 3.40 even deletes it afterwards (sqlite.org/fileformat2, "The Rollback Journal").  A
    journal without one may be what a power cut has left of the very first open.

    Raises:
        Corrupt: there is one.
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
        raise Corrupt(f"{path}-journal is not ours: it names a journal elsewhere", "move it away")


def open_database(
    path: str, *, read_only: bool, vfs: str | None = None, fetch: Callable[[str, str], object] | None = None
) -> Database:
    """Open an existing minifo database and check that it is one, of this version.

    Storage without shared memory (some network and FUSE file systems) is served by exclusive locking; who only reads
    gets a copy in memory, for SQLite cannot read a log there without writing.

    Args:
        path: path of minifo.db.
        read_only: open for reading only.
        vfs: as for ``connect``.
        fetch: copies a file beside it, by its name, to a path; where given, the database is read from a copy in memory
            that is made by it, and never by its path.

    Raises:
        NotMinifo, NewerFormat, Corrupt, StateError: it is not one we can use; nothing was changed.
    """
    try:
        if fetch is not None:
            return Database(_copy(path, fetch), read_only=True)
        try:
            con = _open(path, read_only=read_only, immutable=read_only and _needs_immutable(path), vfs=vfs)
        except (apsw.IOError, apsw.CantOpenError) as error:
            if not _lacks_shared_memory(error):
                raise
            log.debug("%s: no shared memory here (%s)", path, error)
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
    again = None if read_only else partial(connect, path, read_only=False, vfs=vfs)
    return Database(con, read_only=read_only, again=again)


def _open(
    path: str, *, read_only: bool, immutable: bool = False, exclusive: bool = False, vfs: str | None = None
) -> apsw.Connection:
    con = connect(path, read_only=read_only, immutable=immutable, exclusive=exclusive, vfs=vfs)
    try:
        _identify(con, path)
        if not read_only:
            _enter_wal(con)
    except BaseException:
        con.close()  # so that SQLite takes its lock files along
        raise
    return con


def _lacks_shared_memory(error: Exception) -> bool:
    """True for the error of an SQLite that cannot share the index of a log with others."""
    return isinstance(error, apsw.CantOpenError) or getattr(error, "extendedresult", 0) in _SHARED_MEMORY


def _fetch_beside(path: str) -> Callable[[str, str], object]:
    """What copies a file from beside the database."""

    def fetch(name: str, copy: str) -> None:
        source = os.path.join(os.path.dirname(path), name)
        if os.path.exists(source):
            shutil.copyfile(source, copy)

    return fetch


def _copy(path: str, fetch: Callable[[str, str], object]) -> apsw.Connection:
    """The database with its log, in memory.  Nobody may write to it meanwhile."""
    con = apsw.Connection(":memory:")
    with tempfile.TemporaryDirectory(prefix="minifo-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as place:
        copy = os.path.join(place, DB_NAME)
        for suffix in ("", "-wal"):
            fetch(os.path.basename(path) + suffix, copy + suffix)
        source = _open(copy, read_only=False)
        try:
            with con.backup("main", source, "main") as backup:
                backup.step()
        finally:
            source.close()
    return con


def _needs_immutable(path: str) -> bool:
    """True when SQLite could not make its lock files beside the database and there is no log left to replay."""
    wal = path + "-wal"
    pending = os.path.exists(wal) and os.path.getsize(wal) > 0
    return not pending and not os.access(os.path.dirname(path), os.W_OK)


def check_header(path: str) -> None:
    """Check, without touching anything, that a file is a database this minifo knows (sqlite.org/fileformat).

    Raises:
        NotMinifo, NewerFormat, Corrupt, StateError: it is not, or cannot be read.
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
            f"{path} has format {version}, which there cannot be", f"run: minifo-fsck {os.path.dirname(path)}"
        )
    check_version(path, version)


def check_version(path: str, version: int) -> None:
    """Refuse a format, one of ``POSSIBLE_VERSIONS``, that is not this minifo's.

    Raises:
        NewerFormat, OlderFormat: it is a later or an earlier one.
    """
    if version > SCHEMA_VERSION:
        raise NewerFormat(
            f"{path} has format {version}, this minifo knows up to {SCHEMA_VERSION}",
            "install a newer minifo; nothing was changed",
        )
    if version < SCHEMA_VERSION:
        raise OlderFormat(
            f"{path} has format {version}, this minifo works with {SCHEMA_VERSION}",
            f"bring it over with: minifo upgrade {os.path.dirname(path)}",
        )


def _identify(con: apsw.Connection, path: str) -> None:
    application, version = (con.execute(f"PRAGMA {key}").fetchone() for key in ("application_id", "user_version"))
    _check_identity(path, application[0] if application else 0, version[0] if version else 0)
    # before any name in it becomes part of a statement, and before a trigger or a view of somebody's can run
    strange = strange_objects(con)
    if strange:
        hint = f"run: minifo-fsck {os.path.dirname(path)}"
        raise Corrupt(f"{path} is damaged (its tables are not ours: {', '.join(strange)!r})", hint)
    # a page or two of every table: damage there is found before anything is served
    for kind, name, _, _ in sorted(true_schema(), key=str):
        if kind == "table":
            con.execute(f'SELECT * FROM "{name}" LIMIT 1').fetchall()


SchemaObject = tuple[str, str, str, str | None]


def schema_of(con: apsw.Connection) -> frozenset[SchemaObject]:
    """Every table, index, trigger and view of a database: kind, name, table, and the SQL that made it."""
    rows = con.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema").fetchall()
    return frozenset(
        (str(kind), str(name), str(table), None if sql is None else str(sql)) for kind, name, table, sql in rows
    )


@functools.cache
def true_schema() -> frozenset[SchemaObject]:
    """The same of an overlay's database."""
    con = apsw.Connection(":memory:")
    try:
        con.execute(schema())
        return schema_of(con)
    finally:
        con.close()


def strange_objects(con: apsw.Connection) -> list[str]:
    """The names in a database's schema that are there without being ours, are other than ours, or are missing."""
    return sorted({name for _, name, _, _ in schema_of(con) ^ true_schema()})


def _enter_wal(con: apsw.Connection) -> None:
    if con.execute("PRAGMA journal_mode=WAL").fetchone() != ("wal",):
        # a VFS that never has shared memory
        con.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()
        con.execute("PRAGMA journal_mode=WAL").fetchall()
    con.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # what a new log lacks shows at the first look only
    # NORMAL: COMMIT writes the log without a sync; the group commit syncs it (engine/commit.py)
    con.execute("PRAGMA synchronous=NORMAL").fetchall()
    con.execute("PRAGMA wal_autocheckpoint=0").fetchall()
    # what a long transaction or an outside reader has made of the log is given back when it starts over
    con.execute(f"PRAGMA journal_size_limit={_WAL_KEPT}").fetchall()


@functools.cache
def schema() -> str:
    """The SQL that makes the tables of an empty database (store/schema.sql), read once."""
    # imported here: it brings much along, and most mounts find a database
    from importlib import resources

    return resources.files("minifo.engine.store").joinpath("schema.sql").read_text("utf-8")


def format_database(path: str, facts: dict[str, int | str | bytes], vfs: str | None = None) -> None:
    """Create the database of a new, empty overlay at *path*, which must not exist or be empty.

    The caller renames the finished file to its final name, so that a power cut leaves none or a whole one.
    """
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
    con = apsw.Connection(_uri(path), flags=flags, vfs=vfs)
    try:
        con.execute("PRAGMA journal_mode=MEMORY").fetchall()  # nothing to roll back to: the file is not there before
        con.execute("PRAGMA synchronous=FULL").fetchall()
        con.execute("BEGIN")
        con.execute(schema())
        con.execute(f"PRAGMA application_id={APPLICATION_ID}")
        con.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        con.executemany("INSERT INTO overlay VALUES (?, ?)", facts.items())
        con.execute("INSERT INTO origin (ino, path) VALUES (1, ?)", (b"/",))
        con.execute("COMMIT")
    finally:
        con.close()
