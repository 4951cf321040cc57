"""What a command changed, in a few lines: counts by kind, and the directories or names with most changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..engine.queries.at_rest import open_at_rest
from ..engine.queries.changes import Change, Kind, changes
from ._compare import compared
from ._output import json_name, plain

_SHOWN = 12  # lines
_DEPTH = 3  # names of a path that count as one place


class Changed(NamedTuple):
    """One change, with paths as the command saw them."""

    base: str
    change: Change


def changes_of(storages: Mapping[str, str], since: Mapping[str, str]) -> list[Changed]:
    """Return what overlays that are not mounted changed, sorted by path.

    What was written and is as before does not count.

    Args:
        storages: the storage directory of each overlay, by its base.
        since: the name of a checkpoint, by the base of an overlay: what has changed since.  All others began empty.

    Raises:
        StateError, OSError: a storage or base cannot be read.
    """
    found = []
    for base, storage in storages.items():
        if base in since:
            changed = compared(storage, since[base], None, base, identical=False)
            found += [Changed(base, _beneath(base, change)) for change in changed]
            continue
        overlay = open_at_rest(storage, base)
        try:
            found += [Changed(base, _beneath(base, change)) for change in changes(overlay, identical=False)]
        finally:
            overlay.close()
    return sorted(found, key=lambda changed: changed.change.path)


def _beneath(base: str, change: Change) -> Change:
    top = base.encode("utf-8", "surrogateescape")
    if top == b"/":
        return change
    path, old = ((top + path if path != b"/" else top) if path else None for path in (change.path, change.old))
    assert path is not None
    return change._replace(path=path, old=old)


def counts_of(found: Iterable[Changed]) -> dict[str, int]:
    """Return how many changes there are of each kind, by letter; kinds that do not occur are left out."""
    counts = Counter(changed.change.kind for changed in found)
    return {kind.value: counts[kind] for kind in Kind if counts[kind]}


def top_places(found: list[Changed]) -> list[tuple[bytes, int]]:
    """Return the directories with most changes, and how many are in each."""
    places: Counter[bytes] = Counter()
    for changed in found:
        names = changed.change.path.strip(b"/").split(b"/")
        places[b"/" + b"/".join(names[:_DEPTH]) + (b"/" if len(names) > _DEPTH else b"")] += 1
    return places.most_common(_SHOWN)


def lines_of(found: list[Changed]) -> list[str]:
    """Return a summary for people, in printable lines."""
    if not found:
        return ["nothing changed"]
    counts = ", ".join(f"{number} {letter}" for letter, number in counts_of(found).items())
    lines = [f"{len(found)} {'change' if len(found) == 1 else 'changes'}: {counts}"]
    if len(found) <= _SHOWN:
        return lines + [f"  {line_of(changed.change)}" for changed in found]
    places = top_places(found)
    lines += [f"  {number:>6}  {plain(path)}" for path, number in places]
    rest = len(found) - sum(number for _, number in places)
    return lines + ([f"  {rest:>6}  elsewhere"] if rest else [])


def line_of(change: Change) -> str:
    """Return one change as a printable line: letters, and path."""
    if change.kind is Kind.RENAMED and change.old is not None:
        slash = "/" if change.is_dir else ""
        return f"{change.letters:2} {plain(change.old)}{slash} -> {plain(change.path)}{slash}"
    return f"{change.letters:2} {name_of(change)}"


def name_of(change: Change) -> str:
    """Return the path of a change as printable text; that of a directory ends in a slash."""
    return plain(change.path) + ("/" if change.is_dir and change.path != b"/" else "")


def json_of(found: list[Changed]) -> dict[str, Any]:
    """Return a summary for scripts, as the members of a JSON object."""
    top = [{**json_name("path", path), "changes": number} for path, number in top_places(found)]
    return {"total": len(found), "changes": counts_of(found), "top": top}
