"""The SQL statements that change rows, each with a number, so that minifo never executes SQL text from a file.

The redo log names a statement by its number (store/redo_log.py).  The number depends on the text alone: two versions of
minifo that have the same statement give it the same number, and the replay refuses a number that it does not know.
Every module registers its statements when it is imported:

    _DROP = statement("DELETE FROM small WHERE ino = ?")
    ...
    db.change(_DROP, (ino,))
"""

from __future__ import annotations

import zlib


class _Numbers(dict[str, int]):
    def __missing__(self, sql: str) -> int:
        raise LookupError(f"statement is not registered (see store/statements.py): {sql}")


#: The number of each registered statement; raises LookupError for any other text.
NUMBERS = _Numbers()
_TEXTS: dict[int, str] = {}
_OPTIONAL: set[str] = set()


def statement(sql: str) -> str:
    """Register a statement, and return its text.

    Args:
        sql: one statement that changes rows, with ``?`` for every value.

    Raises:
        ValueError: another registered statement has the same number; change the text slightly (a space, a case).
    """
    number = zlib.crc32(sql.encode())
    if _TEXTS.setdefault(number, sql) != sql:
        raise ValueError(f"{sql!r} has the same number as {_TEXTS[number]!r}: change its text slightly")
    NUMBERS[sql] = number
    return sql


def optional_statement(sql: str) -> str:
    """Register a statement that may fail in a replay, because nothing depends on what it does; return its text."""
    _OPTIONAL.add(sql)
    return statement(sql)


def is_optional(sql: str) -> bool:
    """Return whether a replay goes on if a statement fails."""
    return sql in _OPTIONAL


def text_of(number: int) -> str | None:
    """Return the registered statement with *number*, or None."""
    return _TEXTS.get(number)


#: Set the value of a key in ``overlay``: the key, the value.
SET_FACT = statement("UPDATE overlay SET value = ?2 WHERE key = ?1 AND value IS NOT ?2")
#: Set the value of a key in ``overlay`` that may not be there yet: the key, the value.
PUT_FACT = statement("INSERT INTO overlay VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value")
#: Delete a key from ``overlay``.
DROP_FACT = statement("DELETE FROM overlay WHERE key = ?")
