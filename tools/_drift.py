"""How what an overlay holds stands to its base now, counted and listed, for ``minifo status --drift``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..engine.rebase.drift_report import Became
from ..engine.rebase.standing import Standing, standings
from ._output import json_name
from ._target import opened

_WORDS = {
    Standing.UNCHANGED: "the base is as it was",
    Standing.BASE_CHANGED: "the base has another version",
    Standing.BASE_GONE: "the base has it no more",
    Standing.BASE_ADDED: "the base now has a file of that name, too",
    Standing.IDENTICAL: "the base now has the same bytes",
    Standing.ORPHAN: "a deletion of what the base has no more",
    Standing.CLASH: "the base now has another type of object there",
}


def compared(target: str, base: str | None, *, listed: bool) -> dict[str, Any]:
    """Return how the overlay stands to the base now.

    Args:
        target, base: as for ``opened``.
        listed: include every entry, by its kind.
    """
    counts = dict.fromkeys((standing.value for standing in Standing), 0)
    entries: dict[str, list[dict[str, Any]]] = {standing.value: [] for standing in Standing}
    unreadable = 0
    with opened(target, base) as overlay:
        overlay.examine_rows()  # the report trusts the rows
        for standing, entry in standings(overlay):
            counts[standing] += 1
            unreadable += entry.became is Became.PARTIAL
            if listed:
                names = {**json_name("path", entry.path), **json_name("base", entry.base)}
                known = {"held": entry.held.value, "became": entry.became.value, "shows": entry.shows}
                entries[standing].append(names | known)
    found: dict[str, Any] = {"counts": counts, "unreadable": unreadable}
    return found | ({"entries": entries} if listed else {})


def table(counts: Mapping[str, int]) -> Iterator[str]:
    """Yield the lines of a table for people.

    Args:
        counts: of each kind, as ``compared`` returns them.
    """
    for standing, text in _WORDS.items():
        yield f"{counts[standing]:>9,}  {standing:17} {text}"
