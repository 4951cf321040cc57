"""Durability: what a front end may ask of an overlay's group commit, and the steps that it takes one by one.

The commit itself is engine/commit.py, which also says in which order the steps are safe.  Typed by this protocol, what
only the engine may touch of it stays out of reach of the front end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .commit import Sealed


class Durability(Protocol):
    """The group commit of one overlay, as a front end sees it.

    Attributes:
        volatile: True while each operation needs a commit of its own, because the redo log has no room.  A plain
            attribute: a front end reads it at every change.
        failure: the error that has made the overlay read-only, or None.
    """

    volatile: bool
    failure: BaseException | None

    # -- status

    @property
    def is_needed(self) -> bool:
        """True while changes wait for a commit."""

    @property
    def keeps_redo(self) -> bool:
        """True if there is a redo log."""

    @property
    def redo_path(self) -> str | None:
        """Where the redo log is, if there is one."""

    @property
    def redo_size(self) -> int:
        """Bytes the redo log takes now."""

    # -- the steps of a commit

    def pending(self) -> set[int]:
        """Step 1, first half: take the objects written so far."""

    def presync(self, numbers: set[int]) -> None:
        """Step 1, second half: make those objects durable; in any thread."""

    def seal(self) -> Sealed:
        """Step 2: sync what was written meanwhile, and commit the rows."""

    def harden(self) -> None:
        """Step 3: make the write-ahead log durable; in any thread."""

    def finish(self, sealed: Sealed, seconds: float) -> None:
        """Step 4: delete and give back what only a durable commit allows, for about so many seconds."""

    def give_back(self, seconds: float) -> bool:
        """Go on giving back blocks for about so many seconds; return False if there are more."""

    def relieve(self) -> None:
        """Step 5: move a long log into the database; in one worker thread at a time."""
