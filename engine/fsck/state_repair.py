"""The repair of one checkpoint's state, in a copy of the database that shows it; the history then gets the changes.

The repairs are those of today's rows (fsck/repairs.py).  The copy keeps every row that they change as it was, with the
history's own triggers, so that the changes are known.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..store.database import Database, Row
from ..store.history import ADD_CHECKPOINT, TABLES, History
from .checks import Checks
from .lost_found import DAMAGED
from .object_inventory import ObjectInventory
from .problems import Problem
from .repairs import Repairs

_ROUNDS = 50
_COUNTERS = ("next_ino", "next_object", "object_limit")
_CUT = (
    "SELECT ino FROM (SELECT ino, iif(bound IS NULL, size, min(bound, size)) AS needed FROM inode WHERE object = ?1"
    ' AND mapped = 0 UNION ALL SELECT ino, at + ("end" - start) FROM extent WHERE object = ?1) JOIN inode USING (ino)'
    " WHERE needed > ?2 AND xattrs = 1 AND ino NOT IN (SELECT ino FROM xattr WHERE name = ?3)"
)


def problems_of(shown: Database, inventory: ObjectInventory) -> list[Problem]:
    """Return the problems of a state, without notes.

    Args:
        shown: a database that shows the state (store/history.py).
        inventory: the overlay's content objects.
    """
    checks = Checks(shown, inventory)
    found = [problem for problem in checks.run_state() if not problem.is_note]
    for number, size in inventory.planned.items():
        # a repair is going to extend the object: its end is lost in this state too, and must be marked here
        for (ino,) in shown.rows(_CUT, (number, size, DAMAGED)):
            found.append(
                Problem("E302", checks.paths.of(ino), f"object {number}", (ino, number, inventory.sizes[number]))
            )
    return found


class StateRepair(Repairs):
    """Repairs one state.

    Args:
        db: a database that shows the state, in memory; it is changed.
        inventory: the overlay's content objects.
        base: the base; None if it is not known.
    """

    def run(self, *, only_safe: bool) -> bool:
        """Repair the state; return whether no problem is left.

        Args:
            only_safe: True to make only safe repairs.
        """
        with self._db.operation():
            for name in ("checkpoint", "object_digest", *(f"was_{name}" for name in TABLES)):
                self._change(f"DELETE FROM {name}")
            self._db.change(ADD_CHECKPOINT, (1, "state", 0, "", 0, None, None, 1, 1))
            history = History(self._db)
            history.keep(True)
            try:
                return self._repair(only_safe)
            finally:
                history.keep(False)

    def _repair(self, only_safe: bool) -> bool:
        for _ in range(_ROUNDS):
            found = problems_of(self._db, self._inventory)
            if not found:
                return True
            chosen = [problem for problem in found if problem.kind.repair and (problem.is_safe or not only_safe)]
            if not chosen:
                return False
            for problem in chosen:
                getattr(self, f"_repair_{problem.code.lower()}")(*problem.key)
        return False

    def counters(self) -> Iterator[tuple[str, int]]:
        """Yield the counters of table ``overlay``, which the repairs may have advanced."""
        for key in _COUNTERS:
            yield key, self._fact(key)

    def changes(self) -> Iterator[tuple[str, Row, Row, Row]]:
        """Yield what the repairs have changed: the table, the key, and what follows it in a row of history.

        That is ``held`` and the other columns, as they were and as they are now.
        """
        for name, (key, others) in TABLES.items():
            columns = ", ".join(("held", *others))
            keys = ", ".join(key)
            now = ", ".join(others) or "1"
            where = " AND ".join(f"{column} = ?" for column in key)
            for row in self._db.rows(f"SELECT {keys}, {columns} FROM was_{name}"):
                place, before = row[: len(key)], row[len(key) :]
                found = self._db.row(f"SELECT {now} FROM {name} WHERE {where}", place)
                after = (0, *(None,) * len(others)) if found is None else (1, *found[: len(others)])
                if after != before:
                    yield name, place, before, after
