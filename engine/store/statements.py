"""The statements that change rows, each known by a number, so that no file holds SQL text that is executed.

The redo log names a statement by its number (store/redo_log.py).  The number comes from the text alone: two versions of
minifo that know the same statement agree on it, and a statement that this one does not know is refused.  Every module
registers its own when it is imported:

    _DROP = statement("DELETE FROM small WHERE ino = ?")
    ...
    db.change(_DROP, (ino,))
"""

from __future__ import annotations

import zlib


class _Numbers(dict[str, int]):
    def __missing__(self, sql: str) -> int:
        raise LookupError(f"a statement that is not registered (store/statements.py): {sql}")


#: The number of each known statement; LookupError for any other.
NUMBERS = _Numbers()
_TEXTS: dict[int, str] = {}


def statement(sql: str) -> str:
    """Make a statement known, and return it.

    Args:
        sql: one statement that changes rows, with ``?`` for every value.

    Raises:
        ValueError: another statement has its number; write it a little differently.
    """
    number = zlib.crc32(sql.encode())
    if _TEXTS.setdefault(number, sql) != sql:
        raise ValueError(f"{sql!r} has the number of {_TEXTS[number]!r}")
    NUMBERS[sql] = number
    return sql


def text_of(number: int) -> str | None:
    """The statement of that number, or None for one that is not known."""
    return _TEXTS.get(number)


#: Set a row of ``overlay``, of a key, to a value.
SET_FACT = statement("UPDATE overlay SET value = ?2 WHERE key = ?1 AND value IS NOT ?2")
