"""Checkpoints on a recorded overlay: each verb is all or nothing, and acknowledged when it returns.

What a checkpoint holds is the tree that the overlay showed when it was made.  A commit in the middle of a verb that is
neither the state before it nor the one after is half of it, and must never show.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

from minifo.engine import vacuum
from minifo.engine.reset import reset
from minifo.engine.revert_to import revert_paths
from minifo.fusefront.control.patterns import Choice
from tests.crash.recorded_overlay import Killed, RecordedOverlay, seen
from tests.shared.digests import record_digests


class RecordedCheckpoints:
    """The verbs.

    Args:
        recorded: the overlay.
    """

    def __init__(self, recorded: RecordedOverlay) -> None:
        self._recorded = recorded
        self._recording = recorded.recording

    def _do(self, text: str, call: Callable[[], object], kill_at: int | None = None, *, tidies: bool = False) -> None:
        """Do one verb.

        Args:
            text: what it is.
            call: does it.
            kill_at: kill the daemon in the middle, instead of this commit of the verb.
            tidies: whether it deletes a checkpoint when all else is durable.
        """
        recorded, recording = self._recorded, self._recording
        recorded.recorder.note("op", text)
        before = seen(recorded.overlay)
        first = len(recording.commits)
        recorded.seals_left, recorded.in_verb = kill_at, True
        killed = False
        try:
            call()
        except Killed:
            killed = True
        recorded.seals_left, recorded.in_verb = None, False
        recorded.set_limits()
        after = seen(recorded.overlay)
        for point in after.points:
            if point not in before.points:
                recording.shown.setdefault(point.time, before.tree)
        made = range(first, len(recording.commits))
        halves = {number for number in made if recording.commits[number] not in (before, after)}
        if tidies:
            halves = {number for number in halves if recording.commits[number].tree not in (before.tree, after.tree)}
        recording.halves |= halves
        if killed:
            recorded.kill()
        else:
            assert kill_at is None, "the verb makes fewer commits"
            recorded.note_acknowledged()

    def create(self, name: str, kill_at: int | None = None) -> None:
        """Make a checkpoint."""
        self._do(f"checkpoint {name}", partial(self._recorded.overlay.checkpoints.create, name), kill_at)

    def rollback(self, name: str, kill_at: int | None = None) -> None:
        """Return to one."""
        self._do(f"rollback {name}", partial(self._recorded.overlay.checkpoints.rollback, name), kill_at)

    def undo(self, kill_at: int | None = None) -> None:
        """Undo the last return."""
        self._do("undo", self._recorded.overlay.checkpoints.undo, kill_at)

    def redo(self) -> None:
        """Redo it."""
        self._do("redo", self._recorded.overlay.checkpoints.redo)

    def reset(self, *keep: str, kill_at: int | None = None) -> None:
        """Take away all but what patterns keep."""
        self._do(f"reset {keep}", partial(reset, self._recorded.overlay, Choice(keep)), kill_at)

    def revert(self, *paths: str, to: str | None = None, kill_at: int | None = None) -> None:
        """Let paths be as at a checkpoint, or as in the base."""
        call = partial(revert_paths, self._recorded.overlay, [os.fsencode(path) for path in paths], to=to)
        self._do(f"revert {paths} to {to}", call, kill_at)

    def vacuum(self, kill_at: int | None = None) -> None:
        """Give back what is not needed, however little it is."""
        with patch.object(vacuum, "_WORTH", 1):
            self._do("vacuum", vacuum.Vacuum(self._recorded.overlay, apply=True).run, kill_at)

    def begin(self) -> None:
        """Begin a transaction."""
        self._do("begin a transaction", self._recorded.overlay.trial.begin)

    def commit(self, kill_at: int | None = None) -> None:
        """End it, with all that was changed."""
        self._do("commit the transaction", self._recorded.overlay.trial.commit, kill_at, tidies=True)

    def take_back(self, kill_at: int | None = None) -> None:
        """End it, with nothing changed."""
        self._do("take the transaction back", self._recorded.overlay.trial.take_back, kill_at, tidies=True)

    def count_mount(self, kill_at: int | None = None) -> None:
        """What a mount does before it serves: a transaction that was cut is taken back."""
        self._do("count a mount", partial(self._recorded.overlay.trial.mounting, None), kill_at, tidies=True)

    def delete(self, *names: str, kill_at: int | None = None) -> None:
        """Delete some."""
        call = partial(self._recorded.overlay.checkpoints.delete, list(names))
        self._do(f"delete {' '.join(names)}", call, kill_at)

    def rename(self, name: str, new: str) -> None:
        """Rename one."""
        self._do(f"rename {name} {new}", partial(self._recorded.overlay.checkpoints.rename, name, new))

    def pin(self, name: str) -> None:
        """Pin one."""
        self._do(f"pin {name}", partial(self._recorded.overlay.checkpoints.pin, name, pinned=True))

    def digest(self) -> None:
        """Let the digests of all frozen objects be recorded; the next commit makes them durable."""
        self._recorded.recorder.note("op", "digests")
        record_digests(self._recorded.overlay)

    @property
    def last(self) -> str:
        """The name of the newest one."""
        return self._recorded.overlay.checkpoints.all()[-1].name
