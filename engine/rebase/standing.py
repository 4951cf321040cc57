"""How what an overlay holds stands to the base as it is now: the entries of the drift report, in seven kinds.

The report (drift_report.py) says what a rebase needs to decide; this says what a person asks: is the base still what
the overlay was made over, and where not?
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from enum import StrEnum

from ..model import Ino
from ..overlay import Overlay
from .drift_report import Became, Entry, drift


class Standing(StrEnum):
    """One entry against the base now."""

    UNCHANGED = "unchanged"
    BASE_CHANGED = "base-changed"
    BASE_GONE = "base-gone"
    BASE_ADDED = "base-added"
    IDENTICAL = "became-identical"
    ORPHAN = "orphan-whiteout"
    CLASH = "kind-clash"


_STANDINGS = {
    Became.UNCHANGED: Standing.UNCHANGED,
    Became.CHANGED: Standing.BASE_CHANGED,
    Became.IDENTICAL: Standing.IDENTICAL,
    Became.KIND: Standing.CLASH,
    Became.KEPT: Standing.BASE_GONE,
    Became.HIDDEN: Standing.BASE_GONE,
    Became.UNHIDING: Standing.ORPHAN,
}


def standings(overlay: Overlay) -> Iterator[tuple[Standing, Entry]]:
    """Yield each entry of the drift report with its kind.

    What was created where the base had nothing, and still has nothing, has no entry; nor has a base directory that only
    leads to changes.

    Args:
        overlay: nothing of it may change meanwhile.

    Raises:
        OSError: base or storage cannot be read.
    """
    for entry in drift(overlay):
        yield _standing(overlay, entry), entry


def _standing(overlay: Overlay, entry: Entry) -> Standing:
    if entry.became in _STANDINGS:
        return _STANDINGS[entry.became]
    st = overlay.base.find(entry.base)
    if entry.became is Became.PARTIAL:
        if st is None:
            return Standing.BASE_GONE
        return Standing.BASE_CHANGED if stat.S_ISREG(st.st_mode) else Standing.CLASH
    row = overlay.inodes.row(Ino(entry.ino))  # a shadow: a name that the base had not
    is_same_kind = st is not None and stat.S_IFMT(st.st_mode) == (
        stat.S_IFDIR if row is None else stat.S_IFMT(row.mode)
    )
    return Standing.BASE_ADDED if is_same_kind else Standing.CLASH
