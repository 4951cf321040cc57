"""What the report says, found out once; of what may be long, counts and a sample are kept.

A question that damage leaves without an answer does not take the others along: its section says what is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ...engine import MinifoError, Overlay
from ...engine.queries.changes import Change, Kind, changes
from ...engine.queries.objects import Usage, usage
from ...engine.queries.times import last_changes
from ...engine.rebase.drift_report import Became, Entry, drift
from .history import History, history
from .timeline import Timeline, timeline
from .treemap import Directory, tree

LISTED = 2000  # changes in the page at most: a browser shows it at once, and nobody reads more
DRIFTED = 500  # entries whose base object is another one, at most
LARGEST = 20  # files
_PLACES = 10  # directories with the most changes
_LEVELS = 2  # of those directories

T = TypeVar("T", Change, Entry)


class First(Generic[T]):
    """The first of many by path, of which only so many are kept.

    Args:
        limit: how many.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: list[T] = []

    def add(self, entry: T) -> None:
        """Take one more."""
        self._kept.append(entry)
        if len(self._kept) >= 4 * self._limit:
            self._kept = self.all()

    def all(self) -> list[T]:
        """Return what is kept, by path."""
        return sorted(self._kept, key=lambda entry: entry.path)[: self._limit]


@dataclass
class Changes:
    """The changes of an overlay.

    Attributes:
        counts: how many there are of each kind.
        listed: a sample by path, with some of each kind.
        places: directories with the most changes, and the changes in each by kind.
    """

    counts: Counter[Kind]
    listed: list[Change]
    places: list[tuple[bytes, Counter[Kind]]]


@dataclass
class Drift:
    """How the base stands to the one that the overlay was made over.

    Attributes:
        counts: entries by what became of their base object.
        listed: some of those whose base object is not what it was, by path.
    """

    counts: Counter[Became]
    listed: list[Entry]


@dataclass
class Findings:
    """What the report says.

    Attributes:
        status: of the overlay, as ``minifo status --json`` prints it.
        now: when this was found, seconds since the epoch.
        space: what takes bytes, by directory.
        largest: files that take the most.
        changes, drift: what was changed; what became of the base.
        timeline: when; None if no change has a time.
        journal: what it says; None if there is none.
        problems: why a question has no answer, by the name of its attribute.
    """

    status: dict[str, Any]
    now: float
    space: Directory | None = None
    largest: list[Usage] = field(default_factory=list)
    changes: Changes | None = None
    drift: Drift | None = None
    timeline: Timeline | None = None
    journal: History | None = None
    problems: dict[str, str] = field(default_factory=dict)


def find_out(overlay: Overlay, status: dict[str, Any], now: float) -> Findings:
    """Ask an overlay all that the report says.

    Args:
        overlay: open; nothing of it may change meanwhile.
        status: of the overlay, as ``minifo status --json`` prints it.
        now: seconds since the epoch.
    """
    found = Findings(status, now)

    def ask(name: str, question: Callable[[], object]) -> None:
        try:
            question()
        except (MinifoError, OSError) as error:
            found.problems[name] = str(error)

    def space() -> None:
        taken = sorted(usage(overlay), key=lambda entry: (-entry.size, entry.path))
        found.largest = taken[:LARGEST]
        found.space = tree(taken)

    def listed() -> None:
        found.changes = counted(changes(overlay))

    def drifted() -> None:
        overlay.examine_rows()  # the report of drift trusts the rows
        counts: Counter[Became] = Counter()
        first: First[Entry] = First(DRIFTED)
        for entry in drift(overlay):
            counts[entry.became] += 1
            if entry.became is not Became.UNCHANGED:
                first.add(entry)
        found.drift = Drift(counts, first.all())

    def timed() -> None:
        found.timeline = timeline(last_changes(overlay), now)

    def noted() -> None:
        found.journal = history(overlay, now)

    ask("space", space)
    ask("changes", listed)
    ask("drift", drifted)
    ask("timeline", timed)
    ask("journal", noted)
    return found


def counted(found: Iterable[Change]) -> Changes:
    """Count changes, and keep a sample of them."""
    counts: Counter[Kind] = Counter()
    first = {kind: First[Change](LISTED) for kind in Kind}
    places: dict[bytes, Counter[Kind]] = {}
    for change in found:
        counts[change.kind] += 1
        first[change.kind].add(change)
        places.setdefault(_place(change.path), Counter())[change.kind] += 1
    listed: list[Change] = []
    room = LISTED
    kinds = sorted(counts, key=lambda kind: counts[kind])  # the rare ones are listed as a whole
    for index, kind in enumerate(kinds):
        some = first[kind].all()[: room // (len(kinds) - index)]
        listed += some
        room -= len(some)
    listed.sort(key=lambda change: change.path)
    most = sorted(places.items(), key=lambda item: (-item[1].total(), item[0]))
    return Changes(counts, listed, most[:_PLACES])


def _place(path: bytes) -> bytes:
    """The directory that a change is counted for."""
    return b"/" + b"/".join(path.split(b"/")[1:-1][:_LEVELS])
