"""Views on an overlay for SQL: what its rows mean, under names that stay.

The tables of a storage change with its format; the views do not.  A view gets columns at its end, and views are added;
with anything else ``VERSION`` goes up.  The views are virtual tables of a database in memory, computed when they are
read: a statement on them reaches no table of the storage, and nothing that a foreign storage might hold is executed.

A name or path is TEXT where its bytes are UTF-8, else a BLOB.  Times are ns since the epoch, sizes are bytes.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apsw
import apsw.ext

from ..errors import StateError
from ..overlay import Overlay
from ..rebase.standing import standings
from ..store.typed_rows import each
from .changes import changes
from .figures import content, figures
from .objects import sizes, usage

#: Of the views; the row ``views`` of ``v_overlay`` has it.
VERSION = 1

_VALUE_MAX = 1 << 20  # bytes of one value or row
_STEPS = 1000  # of SQLite's machine between two looks at the clock
_ATTACHED = 0  # further databases of the connection
_DEPTH = 100  # of an expression
_COMPOUND = 50  # parts of a compound SELECT
_PATTERN = 1000  # bytes of a pattern of LIKE or GLOB, which takes quadratic time

_INODES = "SELECT ino, mode, uid, gid, nlink, size, atime, mtime, ctime FROM inode WHERE nlink > 0"
_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}

#: Each view with its columns.
VIEWS = {
    "v_overlay": ("key", "value"),
    "v_changes": ("change", "also", "path", "old_path", "directory", "ino"),
    "v_objects": ("ino", "type", "mode", "uid", "gid", "links", "size", "atime", "mtime", "ctime", "stored"),
    "v_storage": ("path", "bytes"),
    "v_drift": ("standing", "path", "base_path", "held", "became", "shows", "ino"),
}

# Functions that compute from their arguments alone: none reaches a file, an extension, or the connection's settings.
_FUNCTIONS = """
abs avg ceil ceiling char coalesce concat concat_ws count cume_dist date datetime degrees dense_rank exp
first_value floor format glob group_concat hex if ifnull iif instr json json_array json_array_length json_extract
json_group_array json_group_object json_object json_quote json_type json_valid julianday lag last_value lead length like
ln log log10 log2 lower ltrim max median min mod nth_value ntile nullif octet_length percent_rank percentile pi pow
power printf quote random rank replace round row_number rtrim sign sqrt strftime string_agg substr substring sum time
timediff total trim trunc typeof unhex unicode unixepoch upper
"""
ALLOWED = frozenset(_FUNCTIONS.split())
# what may be read beside the views: their declarations, and the members of a JSON value
_BESIDE = frozenset({"sqlite_master", "sqlite_temp_master", "json_each", "json_tree"})
_ALWAYS = frozenset({apsw.SQLITE_SELECT, apsw.SQLITE_RECURSIVE})


class Views:
    """A connection to the views of one overlay; it only reads.

    Args:
        overlay: nothing of its rows may change meanwhile.
        seconds: the longest that one statement may take; None for no limit.

    Attributes:
        connection: for statements.
    """

    def __init__(self, overlay: Overlay, seconds: float | None = None) -> None:
        self._ov = overlay
        self._seconds = seconds
        self._end: float | None = None
        # no cache of statements: each is authorized when it is executed
        self.connection = apsw.Connection(":memory:", statementcachesize=0)
        rows = (self._overlay, self._changes, self._objects, self._storage, self._drift)
        for (name, columns), found in zip(VIEWS.items(), rows, strict=True):
            module = f"overlay_{name[2:]}"
            apsw.ext.make_virtual_module(self.connection, module, _table(columns, found), eponymous=False)
            self.connection.execute(f"CREATE VIRTUAL TABLE {name} USING {module}")
        self.connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        self.connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 1)  # the only schema is ours: the virtual tables
        self.connection.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0)
        self.connection.execute("PRAGMA temp_store=MEMORY")
        limits = (
            (apsw.SQLITE_LIMIT_LENGTH, _VALUE_MAX),
            (apsw.SQLITE_LIMIT_SQL_LENGTH, _VALUE_MAX),
            (apsw.SQLITE_LIMIT_ATTACHED, _ATTACHED),
            (apsw.SQLITE_LIMIT_EXPR_DEPTH, _DEPTH),
            (apsw.SQLITE_LIMIT_COMPOUND_SELECT, _COMPOUND),
            (apsw.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, _PATTERN),
        )
        for which, most in limits:
            self.connection.limit(which, most)
        self.connection.authorizer = _authorize
        self.connection.set_progress_handler(self._is_late, _STEPS)

    def start(self) -> None:
        """Begin to count the time of a statement."""
        self._end = None if self._seconds is None else time.monotonic() + self._seconds

    def _is_late(self) -> bool:
        return self._end is not None and time.monotonic() > self._end

    def run(self, statement: str) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
        """Return the names of the columns of a statement, and its rows.

        Args:
            statement: one or more statements of SQL, of which the last returns rows.

        Raises:
            StateError: SQLite refuses it; the iterator also where it takes too long, or too much memory.
        """
        self.start()
        try:
            cursor = self.connection.execute(statement)
            names = [name for name, *_ in cursor.get_description()]
        except apsw.ExecutionCompleteError:  # no row; SQLite tells no names then
            return [], iter(())
        except (apsw.Error, MemoryError, OverflowError) as error:
            raise self._told(error) from error
        return names, self._rows(cursor)

    def _rows(self, cursor: apsw.Cursor) -> Iterator[tuple[Any, ...]]:
        try:
            yield from cursor
        except (apsw.Error, MemoryError, OverflowError) as error:
            raise self._told(error) from error

    def _told(self, error: Exception) -> StateError:
        if isinstance(error, apsw.InterruptError):
            return StateError(f"the statement took longer than {self._seconds:g} seconds", "see --timeout")
        if isinstance(error, (apsw.NoMemError, MemoryError)):
            return StateError("the statement needs too much memory", "ask for less at once")
        if isinstance(error, OverflowError):
            return StateError("a size in the storage exceeds 64 bits", "see what minifo-fsck says")
        if isinstance(error, apsw.AuthError):
            return StateError(f"the statement does what it may not ({error})", f"it may read {', '.join(VIEWS)}")
        return StateError(f"SQLite refuses the statement ({error})", "minifo sql --help has the views")

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    # -- the views

    def _overlay(self) -> Iterator[tuple[Any, ...]]:
        found = figures(self._ov, content(self._ov))
        yield "views", VERSION
        yield "uuid", found["uuid"]
        for key in ("base", "storage"):
            yield key, _name(os.fsencode(found[key]))
        for key, count in found["lists"].items():
            yield key, count
        for key, size in found["usage"].items():
            yield f"{key}_bytes", size

    def _changes(self) -> Iterator[tuple[Any, ...]]:
        for change in changes(self._ov, recursive=True):
            also = change.also.value if change.also is not None else None
            yield change.kind.value, also, _name(change.path), _name(change.old), int(change.is_dir), change.ino or None

    def _objects(self) -> Iterator[tuple[Any, ...]]:
        taken = sizes(self._ov)
        for ino, mode, *attributes in each(self._ov.db, _INODES, "iiiiiiiii"):
            kind = _TYPES.get(mode & 0o170000, "unknown")  # not S_IFMT: damage may have made it negative
            yield ino, kind, mode & 0o7777, *attributes, taken.get(ino, 0)

    def _storage(self) -> Iterator[tuple[Any, ...]]:
        for entry in usage(self._ov):
            yield _name(entry.path), entry.size

    def _drift(self) -> Iterator[tuple[Any, ...]]:
        self._ov.examine_rows()  # the report trusts the rows
        for standing, entry in standings(self._ov):
            names = _name(entry.path), _name(entry.base)
            yield standing.value, *names, entry.held.value, entry.became.value, int(entry.shows), entry.ino or None


def _table(columns: tuple[str, ...], rows: Callable[[], Iterable[tuple[Any, ...]]]) -> Any:
    """Return what ``apsw.ext.make_virtual_module`` makes a table of: a function with attributes."""

    def found() -> Iterable[tuple[Any, ...]]:
        return rows()

    made: Any = found
    made.columns, made.column_access = columns, apsw.ext.VTColumnAccess.By_Index
    return made


def _name(path: bytes | None) -> str | bytes | None:
    try:
        return path.decode() if path is not None else None
    except UnicodeDecodeError:
        return path


def _authorize(action: int, first: str | None, second: str | None, database: str | None, cause: str | None) -> int:
    """Return SQLITE_OK for reading the views, and for functions that only compute (c3ref/set_authorizer)."""
    if (
        action in _ALWAYS
        or (action == apsw.SQLITE_READ and (first in VIEWS or first in _BESIDE))
        # SELECT count(*) FROM a name of a WITH clause reads no column; SQLite tells no database for it
        or (action == apsw.SQLITE_READ and not second and database is None)
        or (action == apsw.SQLITE_FUNCTION and second is not None and second.lower() in ALLOWED)
    ):
        return apsw.SQLITE_OK
    return apsw.SQLITE_DENY
