"""Errors of the database as errnos, for a caller of the file system."""

from __future__ import annotations

import errno

import apsw

_ERRNOS: tuple[tuple[type[apsw.Error], int], ...] = (
    (apsw.FullError, errno.ENOSPC),
    (apsw.ReadOnlyError, errno.EROFS),
    (apsw.BusyError, errno.EBUSY),
    (apsw.LockedError, errno.EBUSY),
    (apsw.NoMemError, errno.ENOMEM),
)


#: The errors of a query on a damaged database: apsw raises UnicodeDecodeError for damaged text, and OverflowError for a
#: parameter that exceeds SQLite's 64 bits.
QUERY_ERRORS = (apsw.Error, UnicodeDecodeError, OverflowError)


def errno_of(error: Exception) -> int:
    """Return the errno that a caller of the file system sees for a database error: EIO unless a better one exists."""
    return next((code for kind, code in _ERRNOS if isinstance(error, kind)), errno.EIO)
