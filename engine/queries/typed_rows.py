"""Rows whose values have the types that a query expects, whatever the file holds.

SQLite enforces the types of a STRICT table when it writes a row, but not when it reads one (tree/row_checks.py).  To
look at every row of every table first would take as long as the answer, so each query looks at the rows it gets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ..errors import Corrupt
from ..store.database import Database, Params

_KINDS: dict[str, set[type]] = {"i": {int}, "b": {bytes}, "I": {int, type(None)}, "B": {bytes, type(None)}}

Row = tuple[Any, ...]


def rows(db: Database, sql: str, params: Params, kinds: str) -> list[Row]:
    """Return all rows of a query.

    Args:
        db: the overlay's database.
        sql, params: the query.
        kinds: a letter for each column: ``i`` an integer, ``b`` bytes; a capital one if it may be NULL.

    Raises:
        Corrupt: a value has another type.
    """
    return list(_checked(db.rows(sql, params), kinds))


def each(db: Database, sql: str, kinds: str) -> Iterator[Row]:
    """Yield the rows of a query without parameters, one at a time; the arguments are those of ``rows``.

    Raises:
        Corrupt: a value has another type.
    """
    return _checked(db.each(sql), kinds)


def _checked(found: Iterable[Row], kinds: str) -> Iterator[Row]:
    wanted = [_KINDS[kind] for kind in kinds]
    good: set[tuple[type, ...]] = set()
    for values in found:
        types = tuple(map(type, values))
        if types not in good:
            if not all(found_type in allowed for found_type, allowed in zip(types, wanted, strict=True)):
                raise Corrupt(f"a row has an impossible value: {values!r:.200}", "see what minifo-fsck says")
            good.add(types)
        yield values
