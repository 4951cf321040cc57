"""Repairing: check, mend, check again, in one transaction, until nothing is left that may be mended.

A repair discards nothing (engine/mend.py), and before anything is changed the database is copied beside itself
(engine/examine.py).
"""

from __future__ import annotations

from collections.abc import Callable

from minifo.engine.check import Checker, Progress
from minifo.engine.findings import Finding
from minifo.engine.mend import Mender

_ROUNDS = 50  # each one mends all it may; damage upon damage needs a few

Choose = Callable[[Finding], bool]


class Repairer(Mender):
    """Repairs one overlay; inside an operation of its database.

    Args:
        db: its tables, open for writing.
        shelf: its content objects.
        base: the base, where it is known.
    """

    def run(
        self, choose: Choose, progress: Progress = lambda what, done, total: None
    ) -> tuple[list[Finding], list[Finding]]:
        """Check and repair until nothing is left that *choose* allows.

        Args:
            choose: asked once for each finding.
            progress: as for the checks.

        Returns:
            What was repaired, in order, and what is left, notes among it.
        """
        done: list[Finding] = []
        answers: dict[tuple[object, ...], bool] = {}
        for _ in range(_ROUNDS):
            found = Checker(self._db, self._shelf, self._base, progress=progress).run()
            chosen = [finding for finding in found if self._may(finding, choose, answers)]
            if not chosen:
                break
            for finding in chosen:
                getattr(self, f"_mend_{finding.code.lower()}")(*finding.key)
            done += chosen
        return done, found

    @staticmethod
    def _may(finding: Finding, choose: Choose, answers: dict[tuple[object, ...], bool]) -> bool:
        if not finding.kind.repair:
            return False
        mark = (finding.code, *finding.key)
        if mark not in answers:
            answers[mark] = choose(finding)
        return answers[mark]

    def renew(self) -> None:
        """Make this state a commit of its own: a redo log that followed the last one is stale from now on."""
        self._make_fact("commit_token")
