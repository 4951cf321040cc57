"""Repairing: check, mend, check again, in one transaction, until nothing is left that may be mended.

A repair discards nothing (fsck/repairs.py), and before anything is changed the database is copied beside itself
(fsck/session.py).
"""

from __future__ import annotations

from collections.abc import Callable

from .checks import Checks, Progress
from .problems import Problem
from .repairs import Repairs

_ROUNDS = 50  # each one mends all it may; damage upon damage needs a few
_MANY = 100  # repairs of one round from which on indexes are worth making
# no mount asks these tables so; a repair does, perhaps once for every file: then there are indexes in its transaction
_INDEXES = ("created (ino)", "renamed (ino)", "extent (object)", "inode (object)")

Choose = Callable[[Problem], bool]


class RepairLoop(Repairs):
    """Repairs one overlay; inside an operation of its database.

    Args:
        db: its tables, open for writing.
        shelf: its content objects.
        base: the base, where it is known.
    """

    def run(
        self, choose: Choose, progress: Progress = lambda what, done, total: None
    ) -> tuple[list[Problem], list[Problem]]:
        """Check and repair until nothing is left that *choose* allows.

        Args:
            choose: asked once for each finding.
            progress: as for the checks.

        Returns:
            What was repaired, in order, and what is left, notes among it.
        """
        done: list[Problem] = []
        answers: dict[tuple[object, ...], bool] = {}
        indexed = False
        for _ in range(_ROUNDS):
            found = Checks(self._db, self._shelf, self._base, progress=progress).run()
            chosen = [finding for finding in found if self._may(finding, choose, answers)]
            if not chosen:
                break
            if len(chosen) > _MANY and not indexed:
                for index, columns in enumerate(_INDEXES):
                    self._do(f"CREATE INDEX fsck_{index} ON {columns}")
                indexed = True
            for index, finding in enumerate(chosen):
                progress("repairing", index, len(chosen))
                getattr(self, f"_mend_{finding.code.lower()}")(*finding.key)
            progress("repairing", len(chosen), len(chosen))
            done += chosen
        for index in range(len(_INDEXES)) if indexed else ():
            self._do(f"DROP INDEX fsck_{index}")
        return done, found

    @staticmethod
    def _may(finding: Problem, choose: Choose, answers: dict[tuple[object, ...], bool]) -> bool:
        if not finding.kind.repair:
            return False
        mark = (finding.code, *finding.key)
        if mark not in answers:
            answers[mark] = choose(finding)
        return answers[mark]

    def renew(self) -> None:
        """Make this state a commit of its own: a redo log that followed the last one is stale from now on."""
        self._make_fact("commit_token")
