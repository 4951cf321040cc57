"""What changed between two states of an overlay, for the verbs that say it."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from ._target import opened_pair

if TYPE_CHECKING:
    from ..engine.queries.changes import Change


def compared(
    target: str,
    first: str | None,
    second: str | None,
    base: str | None,
    *,
    recursive: bool = False,
    identical: bool = True,
) -> list[Change]:
    """Return what changed from one state to another, sorted by path.

    Args:
        target, base: as for ``opened``.
        first, second: names of checkpoints; one of them may be None, for the overlay as it is.
        recursive, identical: as for ``changes_between``.

    Raises:
        StateError: there is no such overlay, or no such checkpoint.
        OSError: base or storage cannot be read.
    """
    from ..engine.queries.checkpoint_changes import changes_between

    with opened_pair(target, first, second, base) as (before, after):
        points = [
            state.checkpoints.find(name) if name is not None else None
            for state, name in ((before, first), (after, second))
        ]
        found = changes_between(before, after, points[0], points[1], recursive=recursive, identical=identical)
        return sorted(found, key=attrgetter("path"))
