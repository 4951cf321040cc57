"""What SQL statements may do: SQLite's authorizer for each connection that serves an overlay (c3ref/set_authorizer).

All statements are in minifo's source, and before the first one the schema of the database is compared with
store/schema.sql (store/database_file.py).  The authorizer is a second line of defence, should another process change
the schema later: no statement can attach a database, reach a file through a function or a pragma, or write through a
trigger.  SQLite calls the authorizer when a statement is prepared, not when it is executed; each statement is prepared
once, so operations cost no more with it.  Temporary triggers end with the connection; they are the history's.
"""

from __future__ import annotations

import apsw

_ALWAYS = {
    apsw.SQLITE_SELECT,
    apsw.SQLITE_READ,
    apsw.SQLITE_TRANSACTION,
    apsw.SQLITE_SAVEPOINT,
}
_WRITES = {apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE}
# The functions that minifo's queries call.  Add none that reaches a file, or that takes as much memory as an argument
# says (zeroblob, printf): a row of a foreign storage may hold any number.
_FUNCTIONS = {"abs", "coalesce", "count", "ifnull", "iif", "instr", "length", "max", "min", "substr", "sum", "typeof"}
_PRAGMAS = {"page_count", "freelist_count", "quick_check", "integrity_check", "application_id", "user_version"}
_TEMPORARY = {apsw.SQLITE_CREATE_TEMP_TABLE, apsw.SQLITE_DROP_TEMP_TABLE}  # tree/base_match.py
_TEMPORARY_NAME = "moved"
_OF_CONNECTION = {  # store/history.py
    apsw.SQLITE_CREATE_TEMP_TRIGGER,
    apsw.SQLITE_DROP_TEMP_TRIGGER,
}
_KEEPS = "keep_"  # prefix of the triggers
_HISTORY = "was_"  # prefix of the only tables into which they write
_INDEX = {apsw.SQLITE_CREATE_INDEX, apsw.SQLITE_DROP_INDEX, apsw.SQLITE_REINDEX}  # fsck/repair_loop.py
_INDEX_NAMES = "fsck_"


def authorize(action: int, first: str | None, second: str | None, database: str | None, cause: str | None) -> int:
    """Return SQLITE_OK if a statement may do an action, else SQLITE_DENY.

    Args:
        action: one of SQLite's action codes, such as SQLITE_READ (c3ref/c_alter_table).
        first, second: the action's objects; their meaning depends on the action.
        database: name of the database: main, temp.
        cause: the innermost trigger or view that the action comes from, or None.
    """
    if action in _ALWAYS:
        return apsw.SQLITE_OK
    if (
        # a WITH clause of a query counts as a view, so reading allows any cause; a write with a cause is a trigger's
        (action in _WRITES and cause is None)
        or (action == apsw.SQLITE_INSERT and _writes_history(first, cause))
        or action in _OF_CONNECTION
        or (action == apsw.SQLITE_FUNCTION and second in _FUNCTIONS)
        or (action == apsw.SQLITE_PRAGMA and first in _PRAGMAS)
        or (action in _TEMPORARY and first == _TEMPORARY_NAME)
        or (action in _INDEX and first is not None and first.startswith(_INDEX_NAMES))
    ):
        return apsw.SQLITE_OK
    return apsw.SQLITE_DENY


def _writes_history(table: str | None, trigger: str | None) -> bool:
    return table is not None and trigger is not None and table.startswith(_HISTORY) and trigger.startswith(_KEEPS)
