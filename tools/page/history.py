"""The journal in the page: how many changes when, who made most of them, and the last ones."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass

from ...engine import Overlay
from ...engine.model import JournalEntry
from ...engine.queries.times import LastChange
from .._journal import user_name, where
from .elements import Child, Element, element, path_text, shortened, table
from .timeline import Timeline, counted, described, stamp, timeline, zone

_NS = 10**9
_UNKNOWN = "not known"
LAST = 200  # entries that are listed
_AUTHORS = 10  # that have made the most changes
_KNOWN = 10_000  # authors who are told apart


@dataclass
class History:
    """What the journal says.

    Attributes:
        total: how many entries it has.
        bars: when they were made; None if none has a possible time.
        authors: uid and command of those with the most entries, and how many; None for what is not known.
        last: the last entries, the newest first.
        impossible: how many entries are damaged.
    """

    total: int
    bars: Timeline | None
    authors: list[tuple[tuple[int | None, bytes | None], int]]
    last: list[JournalEntry]
    impossible: int


def history(overlay: Overlay, now: float) -> History | None:
    """Return what the journal says, or None if there is none.

    Args:
        overlay: open; nothing of it may change meanwhile.
        now: seconds since the epoch.

    Raises:
        FsError: it cannot be read.
    """
    authors: Counter[tuple[int | None, bytes | None]] = Counter()
    last: deque[JournalEntry] = deque(maxlen=LAST)
    total = impossible = 0

    def each() -> Iterator[LastChange]:
        nonlocal total, impossible
        at, end = overlay.journal.bounds()
        while at < end:
            found = overlay.journal.read(at, end)
            at, impossible = found.next, impossible + found.impossible
            for entry in found.entries:
                total += 1
                author = (entry.uid, entry.command)
                if author in authors or len(authors) < _KNOWN:
                    authors[author] += 1
                yield LastChange(entry.time, 0)
            last.extend(found.entries)

    bars = timeline(each(), now)
    if not total and not impossible:
        return None
    return History(total, bars, authors.most_common(_AUTHORS), list(reversed(last)), impossible)


def chapters(found: History, now: float) -> list[Child]:
    """Return what the page shows of it."""
    parts: list[Child] = []
    if found.bars is not None:
        parts.append(counted(found.bars, now, f"Changes in the journal, by the {described(found.bars)}", "changes"))
    rows: list[tuple[Child, ...]] = [
        (f"{number:,}", _command(command), _UNKNOWN if uid is None else user_name(uid))
        for (uid, command), number in found.authors
    ]
    if rows:
        parts.append(element("h3", "Who has made the most changes"))
        parts.append(table([("changes", "number"), ("command", ""), ("user", "")], rows, class_="words"))
    entries: list[tuple[Child, ...]] = [
        (_time(entry, now), entry.op, _command(entry.command), _path(entry)) for entry in found.last
    ]
    headings = [(f"when ({zone(now)})", "time"), ("change", ""), ("by", ""), ("path", "")]
    if entries:
        summary = f"The last {len(entries)} of {found.total:,} entries" if found.total > len(entries) else "All entries"
        listed = element("div", table(headings, entries), class_="long")
        parts.append(element("details", element("summary", summary), listed))
    if found.impossible:
        parts.append(element("p", f"Damaged entries that are left out: {found.impossible:,}.", class_="attention"))
    return parts


def _time(entry: JournalEntry, now: float) -> str:
    try:
        return stamp(entry.time // _NS, now).rpartition(" ")[0]  # the zone is in the heading
    except (OverflowError, ValueError, OSError):
        return "-"  # no clock was ever that wrong: damage, or a hostile storage


def _command(command: bytes | None) -> Child:
    return _UNKNOWN if command is None else element("bdi", path_text(command))


def _path(entry: JournalEntry) -> Element:
    return element("bdi", shortened(where(entry)), class_="name")
