"""The repair loop: check, repair, and check again, in one transaction, until no repairable problem is left.

A repair discards nothing (fsck/repairs.py) but checkpoints that are damaged (fsck/history_repairs.py), and fsck copies
the database before the transaction is committed (fsck/session.py).
"""

from __future__ import annotations

from collections.abc import Callable

from ..store.object_digests import drop_stale
from .checks import Checks, Progress
from .history_checks import HistoryChecks
from .history_repairs import HistoryRepairs
from .problems import Problem

_ROUNDS = 50  # at most; each round repairs all problems it finds, and a repair may uncover other problems
_MANY = 100  # more repairs than this in one round are worth the indexes below
# a repair looks up rows by these columns, perhaps once for every file; a mount never does, so the schema has no such
# index, and the loop makes them for its own transaction
_OF_NO_HISTORY = {"E020", "E208", "E209", "E211", "E212", "W306"}  # whose repair changes no row that checkpoints share
_INDEXES = ("created (ino)", "renamed (ino)", "extent (object)", "inode (object)")

Choose = Callable[[Problem], bool]  # returns whether to repair a problem


class RepairLoop(HistoryRepairs):
    """Repairs one overlay.  All calls must be inside one ``operation`` of its database.

    Args:
        db: the overlay's tables, open for writing.
        inventory: the overlay's content objects.
        base: the base; None if it is not known.
    """

    def run(
        self, choose: Choose, progress: Progress = lambda what, done, total: None
    ) -> tuple[list[Problem], list[Problem]]:
        """Check and repair until no problem is left for which *choose* allows a repair.

        Args:
            choose: called once for each problem that fsck can repair; returns whether to repair it.
            progress: called with the name of the step, the number of units done, and their total.

        Returns:
            The repaired problems in order, and the problems that are left, including notes.
        """
        done: list[Problem] = []
        answers: dict[tuple[object, ...], bool] = {}
        indexed = False
        for _ in range(_ROUNDS):
            found = Checks(self._db, self._inventory, self._base, progress=progress).run()
            chosen = [problem for problem in found if self._may(problem, choose, answers)]
            if not _OF_NO_HISTORY.issuperset(problem.code for problem in chosen):
                self._protect(progress)
            elif not chosen:
                # checkpoints share rows with today, so their turn comes when those are right
                self._stop_protecting()
                checks = HistoryChecks(self._db, self._inventory, progress, self._hopeless)
                past = checks.run(found)
                self._unsound = checks.unsound
                found += past
                chosen = [problem for problem in past if self._may(problem, choose, answers)]
                if not chosen:
                    break
            if len(chosen) > _MANY and not indexed:
                for index, columns in enumerate(_INDEXES):
                    self._change(f"CREATE INDEX fsck_{index} ON {columns}")
                indexed = True
            for index, problem in enumerate(chosen):
                progress("repairing", index, len(chosen))
                getattr(self, f"_repair_{problem.code.lower()}")(*problem.key)
            progress("repairing", len(chosen), len(chosen))
            done += chosen
        self._stop_protecting()
        drop_stale(self._db)
        for number in self._inventory.planned:  # it is going to be extended
            self._repair_e020(number)
        for index in range(len(_INDEXES)) if indexed else ():
            self._change(f"DROP INDEX fsck_{index}")
        return done, found

    @staticmethod
    def _may(problem: Problem, choose: Choose, answers: dict[tuple[object, ...], bool]) -> bool:
        if not problem.kind.repair:
            return False
        identity = (problem.code, *problem.key)
        if identity not in answers:
            answers[identity] = choose(problem)
        return answers[identity]

    def renew_commit_token(self) -> None:
        """Store a new commit token, so that a redo log that belongs to the state before the repair is not replayed."""
        self._derive_fact("commit_token")
