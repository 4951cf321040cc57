"""What is changed most, for those who watch: how often each object was changed, and how many bytes of it written.

A name that is made, removed or renamed counts for its directory; bytes and attributes count for the object.
"""

from __future__ import annotations

from typing import NamedTuple

from ..model import Ino

_KEPT = 4096  # objects at most


class Busy(NamedTuple):
    """One object that was changed.

    Attributes:
        ino: its number.
        changes: how often.
        written: bytes.
    """

    ino: Ino
    changes: int
    written: int


class Activity:
    """The counts of one who watches, since they were last taken; memory is bounded."""

    def __init__(self) -> None:
        self._counts: dict[Ino, list[int]] = {}  # changes and bytes
        self._others = 0

    def add(self, ino: Ino, size: int) -> None:
        """Count one change of an object.

        Args:
            ino: its number.
            size: bytes that were written to it.
        """
        count = self._counts.get(ino)
        if count is not None:
            count[0] += 1
            count[1] += size
            return
        if len(self._counts) >= _KEPT:
            # those with few changes: one that is changed often comes back, and is counted too low by what it had
            kept = self._sorted()[: _KEPT // 2]
            self._others += len(self._counts) - len(kept)
            self._counts = {busy.ino: [busy.changes, busy.written] for busy in kept}
        self._counts[ino] = [1, size]

    def take(self, most: int) -> tuple[list[Busy], int]:
        """Return the objects that were changed most, the first one most often, and how many others there were.

        The counts begin anew.

        Args:
            most: how many to return at most.
        """
        found, others = self._sorted(), self._others
        self._counts, self._others = {}, 0
        return found[:most], others + len(found[most:])

    def _sorted(self) -> list[Busy]:
        found = [Busy(ino, changes, written) for ino, (changes, written) in self._counts.items()]
        return sorted(found, key=lambda busy: (-busy.changes, -busy.written, busy.ino))
