"""Trials: an overlay whose changes must be confirmed, or else it falls back to the last state that was.

A trial has a fallback, a checkpoint, and a number of mounts.  Each mount counts one down, durably, before it answers
anything; a mount that finds none left brings the overlay back to the fallback first.  So a device that does not come up
any more comes up by itself with what it had, whenever the power goes.  ``confirm`` makes the present state the good
one.

A trial is begun by a command, for one update, or by the mount option ``trial=N``.  With the option there is always one:
the first mount takes the state that it finds as the fallback, and each ``confirm`` a new one.

Facts in the table ``overlay`` hold all of it: ``trial_good`` (id of the fallback), ``trial_left``, ``trial_mounts``
(numbers of mounts: left, and of the whole trial), ``trial_always`` (1: by the mount option), and ``trial_bad`` (id of
the checkpoint of the state that was given up last; until the next ``confirm`` or trial).

A transaction (``minifo txn``) is a trial without a mount: unless it was committed, the next mount falls back at once.
The fact ``trial_txn`` tells it apart.  What it began with stays as a checkpoint, so that ``undo`` takes it back.  Where
the mount option keeps a trial, ``txn_good`` and ``txn_left`` hold what ``trial_good`` and ``trial_left`` are again when
the transaction has ended.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from .checkpoint_values import Checkpoint, Restored
from .checkpoints import Checkpoints
from .errors import StateError
from .model import TRIAL_MOUNTS, TRIAL_MOUNTS_MAX
from .store.database import Database
from .store.statements import DROP_FACT, PUT_FACT
from .store.storage import Storage

log = logging.getLogger(__name__)

_NAME = "confirmed"  # of the fallback
TXN = "txn"  # the cause of the checkpoint with which a transaction begins
_BEFORE = "confirmed-before"  # what it is called while the next one is made
#: Keys of the facts of a trial.
FACTS = (
    *("trial_good", "trial_left", "trial_mounts", "trial_always", "trial_bad", "trial_txn"),
    *("txn_good", "txn_left"),
)
_READ = f"SELECT key, value FROM overlay WHERE key IN ({', '.join('?' * len(FACTS))})"


class TrialState(NamedTuple):
    """How a trial stands.

    Attributes:
        verdict: ``indeterminate`` while a trial runs; ``bad`` after a fallback, until the next trial or ``confirm``;
            else ``good``.
        left: mounts that are left before it falls back; None if no trial runs.
        mounts: mounts of the whole trial; None if no trial runs.
        always: True if the mount option began it, so that there is always one.
        fallback: name of the checkpoint that it falls back to; None if no trial runs.
        failed: name of the checkpoint with the state that was given up last; None if there is none.
        txn: True if it is a transaction, or the rest of one.
    """

    verdict: str
    left: int | None
    mounts: int | None
    always: bool
    fallback: str | None
    failed: str | None
    txn: bool = False


class Trial:
    """The trial of one overlay.

    Args:
        db: the overlay's database.
        storage: for messages.
        checkpoints: its checkpoints.
    """

    def __init__(self, db: Database, storage: Storage, checkpoints: Checkpoints) -> None:
        self._db = db
        self._storage = storage
        self._checkpoints = checkpoints

    def state(self) -> TrialState:
        """Return how the trial stands."""
        facts = self._facts()
        names = {checkpoint.id: checkpoint.name for checkpoint in self._checkpoints.all()}
        running = facts.get("trial_good") in names
        bad = names.get(facts.get("trial_bad", 0))
        return TrialState(
            "bad" if bad is not None else "indeterminate" if running else "good",
            facts.get("trial_left", 0) if running else None,
            facts["trial_mounts"] if running else None,
            bool(running and facts.get("trial_always")),
            names[facts["trial_good"]] if running else None,
            bad,
            bool(running and facts.get("trial_txn")),
        )

    def mounting(self, mounts: int | None) -> Restored | None:
        """Count a mount that is about to serve, or fall back; durable when this returns.

        Args:
            mounts: the value of the mount option ``trial``; None if it is not given.

        Returns:
            What was brought back; None if nothing was.

        Raises:
            StateError: storage is full, or it failed.
        """
        facts = self._facts()
        good = self._fallback(facts)
        taken_back = self._take_back(good) if good is not None and facts.get("trial_txn") else None
        return self._count(mounts) or taken_back

    def _count(self, mounts: int | None) -> Restored | None:
        """Count a mount, or fall back, while there is no transaction."""
        facts = self._facts()
        good = self._fallback(facts)
        if good is None:
            if mounts is not None:
                self._begin(mounts, always=True, left=mounts - 1)
            return None
        if mounts is not None and mounts != facts.get("trial_mounts"):
            facts["trial_left"] = max(0, mounts - max(0, facts["trial_mounts"] - facts.get("trial_left", 0)))
            facts["trial_mounts"] = mounts
        if facts.get("trial_left", 0) > 0:
            changes = {"trial_left": facts["trial_left"] - 1, "trial_mounts": facts["trial_mounts"]}
            self._checkpoints.note(lambda: self._note(changes))
            return None
        if not self._checkpoints.differs(good):
            self._checkpoints.note(lambda: self._note({"trial_left": facts["trial_mounts"]}))
            return None
        return self._fall_back(good, "trial")

    def start(self, mounts: int = TRIAL_MOUNTS) -> Checkpoint:
        """Begin a trial: the present state is the fallback.

        Args:
            mounts: how many mounts there may be without ``confirm``.

        Raises:
            StateError: a trial runs already, or the number is impossible, storage is full, or it failed.
        """
        _check_mounts(mounts)
        facts = self._facts()
        if self._fallback(facts) is not None and not _is_kept(facts):
            raise _running(facts)
        always = bool(facts.get("trial_always"))
        return self._begin(facts["trial_mounts"] if always else mounts, always=always)

    def confirm(self) -> TrialState:
        """Make the present state the good one: the trial ends, or begins anew if the mount option began it.

        Raises:
            StateError: storage is full, or it failed.
        """
        facts = self._facts()
        good = self._fallback(facts)
        if facts.get("trial_txn") and good is not None:
            raise _running(facts)
        if good is not None and facts.get("trial_always"):
            self._begin(facts["trial_mounts"], always=True)
        elif good is not None or facts:
            self._checkpoints.note(lambda: self._forget(FACTS))
            if good is not None:
                self._checkpoints.discard(good)
        return self.state()

    def abandon(self) -> Restored:
        """Fall back now.

        Raises:
            StateError: no trial runs, or storage failed.
        """
        facts = self._facts()
        good = self._fallback(facts)
        if good is None:
            raise StateError("no trial is running", "see the checkpoints: minifo checkpoint list")
        if facts.get("trial_txn"):
            restored = self._take_back(good)
            if restored is None:
                raise StateError("the transaction has changed nothing, and is ended", "there is nothing to take back")
            return restored
        return self._fall_back(good, "abandon")

    # -- transactions

    def begin(self) -> Checkpoint:
        """Begin a transaction: unless ``commit`` ends it, the overlay is as now again at the next mount.

        Raises:
            StateError: a trial of an update or a transaction runs, storage is full, or it failed.
        """
        facts = self._facts()
        always = self._fallback(facts)
        if always is not None and not _is_kept(facts):
            raise _running(facts)

        def note(made: Checkpoint) -> None:
            if always is not None:
                self._note({"txn_good": always.id, "txn_left": facts.get("trial_left", 0)})
            else:
                self._note({"trial_mounts": 1})
                self._forget(("trial_always", "txn_good", "txn_left"))
            self._note({"trial_good": made.id, "trial_left": 0, "trial_txn": 1})
            self._forget(("trial_bad",))

        return self._checkpoints.create(None, "before txn", pinned=True, cause=TXN, noting=note)

    def commit(self, mounts: int | None = None) -> Checkpoint | None:
        """End the transaction, and make it durable in one step with all that was changed.

        Args:
            mounts: begin a trial of what was changed in the same step, with so many mounts, which falls back to what
                there was before.  Where the mount option keeps a trial, that begins to count anew instead.

        Returns:
            A checkpoint of what there was before, for ``undo``; None if nothing was changed.

        Raises:
            StateError: there is no transaction, the number is impossible, or storage failed.
            NotDurable: it has ended, but the commit was postponed or failed.
        """
        if mounts is not None:
            _check_mounts(mounts)
        good = self._begun()
        is_changed = self._checkpoints.differs(good)
        facts = self._facts()
        if mounts is not None and is_changed and "txn_good" not in facts:
            self._checkpoints.note(lambda: self._try_out(mounts))
            return good
        left = facts.get("trial_mounts") if mounts is not None and is_changed else None
        self._checkpoints.end(good, lambda: self._end(facts, left))
        if is_changed:
            return good
        self._checkpoints.discard(good)
        return None

    def take_back(self) -> Restored | None:
        """End the transaction, and let the overlay be as it was before; None if nothing was changed.

        Raises:
            StateError: there is no transaction, or storage failed.
            NotDurable: it is done, but the commit was postponed or failed.
        """
        return self._take_back(self._begun())

    def _begun(self) -> Checkpoint:
        facts = self._facts()
        good = self._fallback(facts)
        if good is None or not facts.get("trial_txn"):
            raise StateError("there is no transaction", "it was ended or taken back: see minifo checkpoint list")
        return good

    def _take_back(self, good: Checkpoint) -> Restored | None:
        """Let the overlay be as it was before the transaction; None if nothing was changed."""
        facts = self._facts()

        def note(*_: Checkpoint) -> None:
            self._end(facts)
            self._checkpoints.release(good)  # it is deleted later, and the power may go before that

        if not self._checkpoints.differs(good):
            self._checkpoints.note(note)
            restored = None
        else:
            restored = self._checkpoints.return_to(good, "abandon", note)
            log.warning(
                "%s: a transaction that was not committed was taken back; what it had done is in checkpoint %s",
                self._storage.path,
                restored.left.name,
                extra={"event": "txn-taken-back"},
            )
        self._checkpoints.discard(good)
        return restored

    # -- helpers

    def _facts(self) -> dict[str, int]:
        rows = self._db.rows(_READ, FACTS)
        facts = {key: value for key, value in rows if type(value) is int and value >= 0}
        if "trial_good" in facts and not 1 <= facts.get("trial_mounts", 0) <= TRIAL_MOUNTS_MAX:
            facts["trial_mounts"] = TRIAL_MOUNTS  # it was damaged
        return facts

    def _fallback(self, facts: dict[str, int]) -> Checkpoint | None:
        return next((c for c in self._checkpoints.all() if c.id == facts.get("trial_good")), None)

    def _note(self, facts: dict[str, int]) -> None:
        for fact in facts.items():
            self._db.change(PUT_FACT, fact)

    def _forget(self, keys: tuple[str, ...]) -> None:
        for key in keys:
            self._db.change(DROP_FACT, (key,))

    def _end(self, facts: dict[str, int], left: int | None = None) -> None:
        """Let there be no transaction any more, but the trial again that the mount option keeps.

        Args:
            facts: of the transaction.
            left: mounts that this trial has left; None for as many as before.
        """
        self._forget(("trial_txn", "txn_good", "txn_left"))
        if "txn_good" not in facts:
            self._forget(FACTS)
            return
        self._note({"trial_good": facts["txn_good"], "trial_left": facts.get("txn_left", 0) if left is None else left})

    def _try_out(self, mounts: int) -> None:
        """Make a trial of a transaction."""
        self._note({"trial_left": mounts, "trial_mounts": mounts})
        self._forget(("trial_txn",))

    def _begin(self, mounts: int, *, always: bool, left: int | None = None) -> Checkpoint:
        """Make the present state the fallback of a trial, in the place of an earlier one."""
        before = self._fallback(self._facts())

        def note(made: Checkpoint) -> None:
            self._note({"trial_good": made.id, "trial_left": mounts if left is None else left})
            self._note({"trial_mounts": mounts, "trial_always": int(always)})
            self._forget(("trial_bad",))

        if before is not None and before.name == _NAME:
            self._checkpoints.rename(_NAME, self._checkpoints.free_name(_BEFORE))
        name = self._checkpoints.free_name(_NAME)
        made = self._checkpoints.create(name, "what a trial falls back to", pinned=True, noting=note)
        if before is not None:
            self._checkpoints.discard(before)
        return made

    def _fall_back(self, good: Checkpoint, cause: str) -> Restored:
        facts = self._facts()

        def note(left: Checkpoint) -> None:
            self._note({"trial_bad": left.id, "trial_left": facts["trial_mounts"]})
            if not facts.get("trial_always"):
                self._forget(("trial_good", "trial_left", "trial_mounts", "trial_always"))

        restored = self._checkpoints.return_to(good, cause, note)
        log.warning(
            "%s: its changes were not confirmed, and it is back at checkpoint %s; what it was is in checkpoint %s",
            self._storage.path,
            good.name,
            restored.left.name,
            extra={"event": "trial-failed"},
        )
        if not facts.get("trial_always"):
            self._checkpoints.discard(good)  # the trial is over
        return restored


def _is_kept(facts: dict[str, int]) -> bool:
    """Return whether the trial that runs is that of the mount option, which stays beside others."""
    return bool(facts.get("trial_always")) and not facts.get("trial_txn")


def _check_mounts(mounts: int) -> None:
    if not 1 <= mounts <= TRIAL_MOUNTS_MAX:
        raise StateError(f"a trial cannot have {mounts} mounts", f"give a number from 1 to {TRIAL_MOUNTS_MAX}")


def _running(facts: dict[str, int]) -> StateError:
    """Return the error for a trial or a transaction that runs."""
    if facts.get("trial_txn"):
        return StateError("a transaction is running (minifo txn)", "let it end, or take it back: minifo trial abandon")
    return StateError("a trial is running already", "end it: minifo confirm, or minifo trial abandon")
