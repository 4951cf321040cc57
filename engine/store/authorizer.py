"""What our statements may do: an authorizer for every connection that an overlay is served from (sqlite.org/c3ref).

Statements are our own, and the schema was compared with ours before the first one (store/database_file.py).  This is
the fence behind that: whatever became of the schema since, nothing is attached, no file is reached by a function or a
pragma, and nothing is written on behalf of a trigger, for we have none.  SQLite asks when a statement is prepared, not
when it is executed: each of ours is prepared once, so creating or deleting a file costs the same as without.
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
# what our queries call; of new ones nothing may reach a file, or take memory by a number in its arguments
_FUNCTIONS = {"abs", "coalesce", "count", "ifnull", "iif", "instr", "length", "max", "min", "substr", "sum", "typeof"}
_PRAGMAS = {"page_count", "quick_check", "integrity_check", "application_id", "user_version"}  # to read
_TEMPORARY = {apsw.SQLITE_CREATE_TEMP_TABLE, apsw.SQLITE_DROP_TEMP_TABLE}  # tree/base_match.py
_TEMPORARY_NAME = "moved"
_INDEX = {apsw.SQLITE_CREATE_INDEX, apsw.SQLITE_DROP_INDEX, apsw.SQLITE_REINDEX}  # fsck/repair_loop.py
_INDEX_NAMES = "fsck_"


def authorize(action: int, first: str | None, second: str | None, database: str | None, cause: str | None) -> int:
    """Say whether a statement may do something.

    Args:
        action: SQLITE_READ and its kin.
        first, second: what it is done to, by action.
        database: the schema it is in.
        cause: the trigger or view on whose behalf it is done.
    """
    if action in _ALWAYS:
        return apsw.SQLITE_OK
    if (
        # parts of our own queries that have a name count as views; only triggers write
        (action in _WRITES and cause is None)
        or (action == apsw.SQLITE_FUNCTION and second in _FUNCTIONS)
        or (action == apsw.SQLITE_PRAGMA and first in _PRAGMAS)
        or (action in _TEMPORARY and first == _TEMPORARY_NAME)
        or (action in _INDEX and first is not None and first.startswith(_INDEX_NAMES))
    ):
        return apsw.SQLITE_OK
    return apsw.SQLITE_DENY
