"""The checks of checkpoints and of the history of rows (store/history.py): E601 to E606.

A checkpoint's state is brought back in a copy of the database in memory, one copy for all of them, and checked there
like the rows of today (fsck/checks.py).  A problem that today's rows have too is theirs, and is not reported again.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from typing import Any

from ..errors import FsError
from ..model import OBJECTS_END
from ..store.database import Database
from ..store.history import KEPT_OBJECTS, TABLES, show_all
from ..tree.nodes import UNREACHED
from ..tree.row_checks import CHECKPOINT_COLUMNS, is_checkpoint_id, wrong_columns, wrong_facts
from .checks import Progress
from .object_inventory import ObjectInventory
from .problems import Problem
from .state_repair import problems_of

_TOLD = 3  # problems of a checkpoint that are named
_OPTIONAL = {  # columns that may be NULL in a row of the tables
    "modified": {"digest"},
    "inode": {"object", "bound", "target", "seen_links", "seen_size", "seen_mtime"},
    "origin": {"dir_mode", "dir_uid", "dir_gid"},
}
_UNOWNED = " UNION ALL ".join(
    f"SELECT checkpoint FROM was_{name} WHERE checkpoint NOT IN (SELECT id FROM checkpoint)" for name in TABLES
)
_ANY = " UNION ALL ".join(f"SELECT 1 FROM was_{name}" for name in TABLES)


class HistoryChecks:
    """The checks of the checkpoints of one overlay.

    Args:
        db: the overlay's tables; they are only read.
        inventory: the overlay's content objects.
        progress: called with the name of the step, the number of units done, and their total.
        hopeless: ids of checkpoints that a repair has failed for.

    Attributes:
        unsound: ids of the checkpoints whose state has problems; known after ``run``.
    """

    def __init__(
        self,
        db: Database,
        inventory: ObjectInventory,
        progress: Progress = lambda what, done, total: None,
        hopeless: Container[int] = (),
    ) -> None:
        self.unsound: set[int] = set()
        self._hopeless = hopeless
        self._db = db
        self._inventory = inventory
        self._progress = progress
        self._facts: dict[str, Any] = dict(db.rows("SELECT key, value FROM overlay"))
        # with wrong facts every number would look wrong
        usable = not wrong_facts(self._facts)
        columns = ", ".join(CHECKPOINT_COLUMNS)
        self._rows = db.rows(f"SELECT {columns} FROM checkpoint ORDER BY id") if usable else []
        self._has_history = usable and bool(self._rows or db.row(f"{_ANY} LIMIT 1"))

    def run(self, today: list[Problem]) -> list[Problem]:
        """Run all checks and return the problems.

        Args:
            today: the problems that the rows of today have.

        Raises:
            FsError: the database cannot be read.
        """
        if not self._has_history:
            return []
        shared = {problem.key[0] for problem in today if problem.code == "E014"}
        # counters of today that are too low are a finding of their own
        is_low = any(problem.code == "E208" for problem in today)
        found = [
            *self._check_checkpoints(limited=not is_low),
            *self._check_unowned(),
            *self._check_rows(),
            *self._check_owners(shared),
        ]
        known = {(problem.code, *problem.key) for problem in today}
        broken = any(problem.code == "E603" and not problem.is_safe for problem in found)
        for row, problems, counters, error in self._states():
            found += counters
            if problems or error is not None:
                self.unsound.add(row[0])
            new = [problem for problem in problems if (problem.code, *problem.key) not in known]
            if error is not None:
                # most likely because of a row that has a finding of its own
                found += [] if broken else [_lost(row, str(error.filename or error.strerror))]
            elif new:
                told = [f"{p.code} {os.fsdecode(p.path)}" for p in new[:_TOLD]]
                detail = "; ".join(told) + (f"; {len(new) - _TOLD} more" if len(new) > _TOLD else "")
                is_safe = all(problem.is_safe for problem in new)
                if row[0] in self._hopeless:
                    found.append(_lost(row, detail))
                else:
                    found.append(Problem("E605", _label(row), detail, (row[0], is_safe), safe=is_safe))
        return found

    def clean(self) -> list[int]:
        """Return the ids of the checkpoints whose state has no problem, in ascending order."""
        return sorted(row[0] for row, problems, _, error in self._states() if error is None and not problems)

    # -- rows

    def _check_checkpoints(self, *, limited: bool) -> Iterator[Problem]:
        """Check the rows of ``checkpoint`` (E601), and whether their ids are possible (E606).

        Args:
            limited: whether no counter may exceed that of today.
        """
        for row in self._rows:
            if not is_checkpoint_id(row[0]):
                yield _lost(row, f"its number is {row[0]}")
            wrong = wrong_columns(row)
            values = dict(zip(CHECKPOINT_COLUMNS, row, strict=True))
            wrong += [
                column
                for column in ("next_ino", "next_object")
                if limited and column not in wrong and values[column] > self._facts[column]
            ]
            for column in wrong:
                yield _wrong_column(row, column, values[column])

    def _check_unowned(self) -> Iterator[Problem]:
        """Check that each row of history is of a checkpoint (E602)."""
        ids: dict[int, int] = dict(self._db.rows(f"SELECT checkpoint, count(*) FROM ({_UNOWNED}) GROUP BY checkpoint"))
        if ids:
            first = ", ".join(map(str, sorted(ids)[:_TOLD]))
            detail = f"{sum(ids.values())} rows of {first}" + (", ..." if len(ids) > _TOLD else "")
            yield Problem("E602", b"<checkpoints>", detail)

    def _check_rows(self) -> Iterator[Problem]:
        """Check that rows of history could be rows of their tables (E603)."""
        for name, (key, others) in TABLES.items():
            lacking = " OR ".join(f"{column} IS NULL" for column in required(name)) or "0"
            surplus = " OR ".join(f"{column} IS NOT NULL" for column in others) or "0"
            columns = ", ".join((*key, "checkpoint"))
            for *place, lacks in self._db.rows(
                f"SELECT {columns}, held <> 0 AND ({lacking}) FROM was_{name}"
                f" WHERE held NOT IN (0, 1) OR (held <> 0 AND ({lacking})) OR (held = 0 AND ({surplus}))"
            ):
                # what has too many values, or another mark, means one thing only
                yield Problem("E603", b"<checkpoints>", f"{name} {place!r}", (name, *place), safe=not lacks)

    def _check_owners(self, known: set[object]) -> Iterator[Problem]:
        """Check that a content object belongs to the same file today and in all checkpoints (E604).

        Args:
            known: the objects that have two owners today.
        """
        owners: dict[int, int] = {}
        today = "SELECT object, ino FROM inode WHERE object > 0 UNION SELECT object, ino FROM extent WHERE object > 0"
        reported = set(known)
        for number, ino in self._db.rows(f"{KEPT_OBJECTS} UNION ALL SELECT * FROM ({today})"):
            if owners.setdefault(number, ino) != ino and number not in reported:
                reported.add(number)
                yield Problem("E604", b"<object %d>" % number, f"inodes {owners[number]} and {ino}", (number,))

    # -- states

    def _states(self) -> Iterator[tuple[tuple[Any, ...], list[Problem], list[Problem], FsError | None]]:
        """Yield each checkpoint's row, the problems of its state and of its counters, and why it cannot be shown."""
        rows = {row[0]: row for row in self._rows if is_checkpoint_id(row[0])}
        for index, (number, shown) in enumerate(show_all(self._db, list(rows))):
            self._progress("checking checkpoints", index, len(rows))
            if isinstance(shown, FsError):
                yield rows[number], [], [], shown
                continue
            with shown.operation():
                shown.change_unlogged("DELETE FROM garbage")  # that is of today
            problems = problems_of(shown, self._inventory)
            # rows that should not be there may have any number
            counters = list(self._low_counters(shown, rows[number])) if not problems else []
            yield rows[number], problems, counters, None
        self._progress("checking checkpoints", len(rows), len(rows))

    def _low_counters(self, shown: Database, row: tuple[Any, ...]) -> Iterator[Problem]:
        """Yield what keeps a checkpoint's counters from being above all numbers that its state has (E601)."""
        values = dict(zip(CHECKPOINT_COLUMNS, row, strict=True))
        end = self._facts["window_end"] - UNREACHED
        created = shown.value("SELECT max(ino) FROM inode WHERE ino >= ? AND ino < ?", (self._facts["window"], end))
        sql = "SELECT max(o) FROM (SELECT object AS o FROM inode UNION ALL SELECT object FROM extent) WHERE o < ?"
        for column, highest in (("next_ino", created), ("next_object", shown.value(sql, (OBJECTS_END,)))):
            if type(values[column]) is int and highest is not None and 0 < values[column] <= highest:
                yield _wrong_column(row, column, f"{values[column]}, and it has {highest}")


def required(name: str) -> list[str]:
    """Return the columns of the table *name*, without its key, that no row of it may lack."""
    return [column for column in TABLES[name].others if column not in _OPTIONAL.get(name, ())]


def _label(row: tuple[Any, ...]) -> bytes:
    return b"<checkpoint %b>" % os.fsencode(f"{row[1]:.100}")


def _wrong_column(row: tuple[Any, ...], column: str, value: object) -> Problem:
    return Problem("E601", _label(row), f"{column} is {value!r:.100}", (row[0], column))


def _lost(row: tuple[Any, ...], reason: str) -> Problem:
    return Problem("E606", _label(row), reason, (row[0],))
