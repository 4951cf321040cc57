"""Durability: the part of the group commit that a front end may use: its status, and its steps one by one.

The group commit itself is in engine/commit.py, which also says in which order the steps are safe.  This protocol types
it for the front end, so that mypy refuses the use of other parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .commit import Sealed


class Durability(Protocol):
    """The group commit of one overlay, for front ends.

    Attributes:
        volatile: True while each operation must be committed at once, because the redo log cannot take it.  It is not
            a property because a front end reads it at every change.
        failure: the error that made the overlay read-only, or None.
    """

    volatile: bool
    failure: BaseException | None

    # -- status

    @property
    def is_needed(self) -> bool:
        """Whether there are changes that need a commit."""

    @property
    def keeps_redo(self) -> bool:
        """Whether there is a redo log."""

    @property
    def redo_path(self) -> str | None:
        """The path of the redo log, or None."""

    @property
    def redo_size(self) -> int:
        """The bytes that the redo log takes now."""

    # -- the steps of a commit

    def pending(self) -> set[int]:
        """Step 1, first half: return the objects that were written since the last commit, for ``presync``."""

    def presync(self, numbers: set[int]) -> None:
        """Step 1, second half: make the objects from ``pending`` durable.  May run in any thread."""

    def seal(self) -> Sealed:
        """Step 2, the gate: sync the objects written since ``pending``, and commit the rows; return the commit."""

    def harden(self) -> None:
        """Step 3: make the write-ahead log durable.  May run in any thread."""

    def finish(self, sealed: Sealed, seconds: float) -> None:
        """Step 4: delete garbage, trim shrunk files, and punch holes for about *seconds*."""

    def punch_holes(self, seconds: float) -> bool:
        """Punch the holes that ``finish`` has left, for about *seconds*; return False if there are more."""

    def relieve(self) -> None:
        """Step 5: checkpoint a long write-ahead log, and write a due metadata backup; in one thread at a time."""
