"""The repairs of checkpoints and of the history of rows, and what other repairs must do for them.

A checkpoint that is sound stays as it is, whatever is repaired in the rows of today: ``_protect`` lets the history keep
the rows as they were for the newest sound checkpoint, and so for those before it.  A later one has the same damage, in
rows that it shares with today, so the repair counts for it too.  If its state is damaged even then, that is repaired by
itself (fsck/state_repair.py), and if nothing helps, the checkpoint is deleted.
"""

from __future__ import annotations

import time

from ..errors import FsError
from ..store.base_view import BaseView
from ..store.database import Database
from ..store.history import KEPT_OBJECTS, TABLES, History, show_all
from ..tree.row_checks import NOTE_MAX
from .checks import Progress
from .history_checks import HistoryChecks, required
from .object_inventory import ObjectInventory
from .repairs import Repairs
from .state_repair import StateRepair

_OUTSIDE = "checkpoint NOT IN (SELECT id FROM checkpoint)"
#: End a trial without its fallback (engine/trial.py): a later checkpoint may get the number of the one that is gone.
END_TRIAL = (
    "DELETE FROM overlay WHERE key IN ('trial_good', 'trial_left', 'trial_mounts', 'trial_always')"
    " AND (SELECT value FROM overlay WHERE key = 'trial_good') NOT IN (SELECT id FROM checkpoint)",
    "DELETE FROM overlay WHERE key = 'trial_bad' AND value NOT IN (SELECT id FROM checkpoint)",
)
_BEFORE = "(SELECT max(id) FROM checkpoint WHERE id < w.checkpoint)"


class HistoryRepairs(Repairs):
    """Repairs of the history.  All calls must be inside one ``operation`` of the overlay's database.

    Args:
        db: the overlay's tables, open for writing.
        inventory: the overlay's content objects.
        base: the base; None if it is not known.

    Attributes:
        discards: False to leave the content that only a deleted checkpoint needed, so that it gets a file in
            lost+found.
    """

    discards = True

    def __init__(self, db: Database, inventory: ObjectInventory, base: BaseView | None) -> None:
        super().__init__(db, inventory, base)
        self._history = History(db)
        self._protects = False
        self._hopeless: set[int] = set()  # checkpoints that could not be repaired
        self._unsound: set[int] = set()  # those whose state has problems
        self._sound = 0  # the newest checkpoint that is sound, while its rows are kept; 0 for none

    def _protect(self, progress: Progress) -> None:
        """Keep the rows that are going to be repaired for the checkpoints that are sound."""
        if self._protects:
            return
        self._protects = True
        self._sound = 0
        if self._db.value("SELECT 1 FROM checkpoint LIMIT 1") is None:
            return
        clean = HistoryChecks(self._db, self._inventory, progress).clean()
        if clean:
            self._sound = clean[-1]
            self._history.keep(True, self._sound)

    def _stop_protecting(self) -> None:
        """Keep no rows any more.

        What repairs have added belongs to the later checkpoints, too: their counters go on, so that its objects are
        frozen.
        """
        if not self._protects:
            return
        self._protects = False
        self._history.keep(False)
        self._raise_counters(self._sound)

    def _raise_counters(self, after: int) -> None:
        for column in ("next_ino", "next_object"):
            sql = f"UPDATE checkpoint SET {column} = max({column}, ?) WHERE id > ?"
            self._change(sql, (self._fact(column), after))

    # -- repairs

    def _repair_e601(self, number: int, column: str) -> None:
        value: int | str | None = None
        if column == "name":
            value = self._free_label(f"checkpoint-{number}")
        elif column == "time":
            value = time.time_ns()
        elif column == "note":
            note = self._db.value("SELECT note FROM checkpoint WHERE id = ?", (number,))
            text = note[:NOTE_MAX] if isinstance(note, str) else ""
            value = "".join(letter if letter.isprintable() else " " for letter in text)
        elif column == "pinned":
            value = 1
        elif column in ("next_ino", "next_object"):
            value = self._fact(column)  # as great as can be: that freezes more than is needed, and loses nothing
        self._change(f"UPDATE checkpoint SET {column} = ? WHERE id = ?", (value, number))

    def _free_label(self, wanted: str) -> str:
        label, count = wanted, 2
        while self._db.value("SELECT 1 FROM checkpoint WHERE name = ?", (label,)) is not None:
            label, count = f"{wanted}-{count}", count + 1
        return label

    def _repair_e602(self) -> None:
        """Give each row of no checkpoint to the one before; the first of several for one key is what counts there."""
        for name, (key, _) in TABLES.items():
            same = " AND ".join(f"o.{column} = w.{column}" for column in key)
            earlier = (
                f"SELECT 1 FROM was_{name} o WHERE {same} AND o.checkpoint < w.checkpoint AND o.checkpoint >= {_BEFORE}"
            )
            of_none = f"{_BEFORE} IS NULL OR EXISTS ({earlier})"
            self._change(f"DELETE FROM was_{name} AS w WHERE {_OUTSIDE} AND ({of_none})")
            self._change(f"UPDATE was_{name} AS w SET checkpoint = {_BEFORE} WHERE {_OUTSIDE}")

    def _repair_e603(self, name: str, *place: int | bytes) -> None:
        key, others = TABLES[name]
        where = " AND ".join(f"{column} = ?" for column in (*key, "checkpoint"))
        empty = "".join(f", {column} = NULL" for column in others)
        self._change(f"UPDATE was_{name} SET held = 0{empty} WHERE {where} AND held = 0", place)
        self._change(f"UPDATE OR IGNORE was_{name} SET held = 1 WHERE {where} AND held <> 0", place)
        lacking = " OR ".join(f"{column} IS NULL" for column in required(name)) or "0"
        self._change(f"DELETE FROM was_{name} WHERE {where} AND held <> 0 AND ({lacking})", place)

    def _repair_e604(self, number: int) -> None:
        owners = [ino for (ino,) in self._db.rows(f"SELECT ino FROM ({KEPT_OBJECTS}) WHERE object = ?", (number,))]
        today = "SELECT ino FROM inode WHERE object = ?1 UNION SELECT ino FROM extent WHERE object = ?1"
        owners += [ino for (ino,) in self._db.rows(today, (number,)) if ino not in owners]
        for ino in owners[1:]:
            self._give_copy(number, ino, ("inode", "extent", "was_inode", "was_extent"))
        self._raise_counters(0)

    def _repair_e605(self, number: int, is_safe: bool) -> None:
        self._hopeless.add(number)
        for _, shown in show_all(self._db, [number]):
            if not isinstance(shown, FsError):
                repair = StateRepair(shown, self._inventory, self._base)
                if repair.run(only_safe=is_safe):
                    self._take_over(number, repair)
                    self._hopeless.discard(number)

    def _take_over(self, number: int, repair: StateRepair) -> None:
        """Write what the repair of a state has changed into the history, but not for sound checkpoints."""
        ids = [found for (found,) in self._db.rows("SELECT id FROM checkpoint WHERE id < ?", (number,))]
        before = max((found for found in ids if found not in self._unsound), default=None)
        for name, place, old, new in repair.changes():
            key, others = TABLES[name]
            marks = ", ".join("?" * (len(key) + 2 + len(others)))
            columns = ", ".join((*key, "checkpoint", "held", *others))
            into = f"INTO was_{name} ({columns}) VALUES ({marks})"
            if before is not None:
                where = " AND ".join(f"{column} = ?" for column in key)
                kept = f"SELECT 1 FROM was_{name} WHERE {where} AND checkpoint >= ? AND checkpoint < ?"
                if self._db.value(kept, (*place, before, number)) is None:
                    self._change(f"INSERT {into}", (*place, before, *old))
            self._change(f"INSERT OR REPLACE {into}", (*place, number, *new))
        for fact, value in repair.counters():
            self._set_fact(fact, max(value, self._fact(fact)))
        for column in ("next_ino", "next_object"):
            sql = f"UPDATE checkpoint SET {column} = max({column}, ?) WHERE id <= ? AND id > ?"
            self._change(sql, (self._fact(column), number, before or 0))

    def _repair_e606(self, number: int) -> None:
        unneeded = self._history.forget(number)
        for sql in END_TRIAL:
            self._change(sql)
        if self.discards and unneeded:
            today = "SELECT object FROM inode UNION SELECT object FROM extent"
            used = {found for (found,) in self._db.rows(today)}
            for found in sorted(self._inventory.sizes.keys() & set(unneeded) - used):
                self._change("INSERT OR IGNORE INTO garbage VALUES (?)", (found,))
