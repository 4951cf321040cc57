"""Values of checkpoints, and the choice of the one to which undo and redo return."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .errors import StateError

UNDO, REDO = "undo", "redo"  # causes: their own checkpoints are for redo, and for who looks for them
CLONE = "clone"  # of what holds a state while it is cloned, and takes nothing away


class Checkpoint(NamedTuple):
    """A checkpoint; the columns of its row (store/schema.sql)."""

    id: int
    name: str
    time: int
    note: str
    pinned: int
    cause: str | None
    returns: int | None
    next_ino: int
    next_object: int


class Restored(NamedTuple):
    """The result of a return to a checkpoint."""

    to: Checkpoint
    left: Checkpoint  # holds the state from before
    inos: set[int]  # of the objects whose rows or names may be others now, and of directories with other names
    names: set[tuple[int, bytes]]  # all names of these objects, each with its directory's number


def undo_target(checkpoints: Iterable[Checkpoint]) -> Checkpoint | None:
    """Return the checkpoint that ``undo`` would return to, of all there are in their order; None if there is none."""
    found = [c for c in checkpoints if c.cause not in (None, UNDO, REDO, CLONE) and c.returns is None]
    return found[-1] if found else None


def redo_target(checkpoints: Iterable[Checkpoint]) -> Checkpoint | None:
    """Return the checkpoint that ``redo`` would return to, of all there are in their order; None if there is none."""
    found = [checkpoint for checkpoint in checkpoints if checkpoint.returns]
    return found[-1] if found else None


def to_undo(checkpoints: Iterable[Checkpoint]) -> Checkpoint:
    """Return the checkpoint that ``undo`` would return to, of all there are in their order.

    Raises:
        StateError: there is none.
    """
    return _there(undo_target(checkpoints), UNDO)


def to_redo(checkpoints: Iterable[Checkpoint]) -> Checkpoint:
    """Return the checkpoint that ``redo`` would return to, of all there are in their order.

    Raises:
        StateError: there is none.
    """
    return _there(redo_target(checkpoints), REDO)


def _there(target: Checkpoint | None, cause: str) -> Checkpoint:
    if target is None:
        raise StateError(f"there is nothing to {cause}", "see the checkpoints: minifo checkpoint list")
    return target
