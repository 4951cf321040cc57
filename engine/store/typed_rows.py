"""Rows whose values have the types that a query expects, whatever the file holds.

SQLite enforces the types of a STRICT table when it writes a row, but not when it reads one (tree/row_checks.py).  To
look at every row of every table first would take as long as the answer, so each query looks at the rows it gets.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from ..errors import Corrupt
from .database import Database, Params

_KINDS: dict[str, set[type]] = {"i": {int}, "b": {bytes}, "I": {int, type(None)}, "B": {bytes, type(None)}}

Row = tuple[Any, ...]

_PIECE = 1024  # rows looked at together


def rows(db: Database, sql: str, params: Params, kinds: str) -> list[Row]:
    """Return all rows of a query.

    Args:
        db: the overlay's database.
        sql, params: the query.
        kinds: a letter for each column: ``i`` an integer, ``b`` bytes; a capital one if it may be NULL.

    Raises:
        Corrupt: a value has another type.
    """
    found = db.rows(sql, params)
    _check(found, kinds)
    return found


def each(db: Database, sql: str, kinds: str) -> Iterator[Row]:
    """Yield the rows of a query without parameters, a few at a time; the arguments are those of ``rows``.

    Raises:
        Corrupt: a value has another type.
    """
    source = db.each(sql)
    while found := list(islice(source, _PIECE)):
        _check(found, kinds)
        yield from found


def _check(found: list[Row], kinds: str) -> None:
    """Look at each column as a whole: that costs a tenth of looking at each row."""
    for kind, column in zip(kinds, zip(*found, strict=True), strict=bool(found)):
        if not _KINDS[kind].issuperset(map(type, column)):
            at = next(at for at, value in enumerate(column) if type(value) not in _KINDS[kind])
            raise Corrupt(f"a row has an impossible value: {found[at]!r:.200}", "see what minifo-fsck says")
