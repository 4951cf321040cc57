"""When the objects of an overlay were last changed, and how many bytes each of those changes left in storage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..overlay import Overlay
from ..store.typed_rows import each
from .objects import sizes

_CHANGED = "SELECT ino, ctime FROM inode WHERE nlink > 0"


class LastChange(NamedTuple):
    """The last change of one object.

    Attributes:
        time: its ctime, ns since the epoch, by the clock of the machine that made the change.
        size: bytes that the object takes in storage.
    """

    time: int
    size: int


def last_changes(overlay: Overlay) -> Iterator[LastChange]:
    """Yield the last change of each object with a row, in no particular order.

    What was deleted has no row: its directory has the time of the last deletion in it.
    """
    taken = sizes(overlay)
    for ino, time in each(overlay.db, _CHANGED, "ii"):
        yield LastChange(time, taken.get(ino, 0))
