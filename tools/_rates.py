"""What a mount does: the rates between two answers of its daemon."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

_SERVED = "minifo_request_duration_seconds"
_CACHED = "minifo_cached_replies_total"
_ERRORS = "minifo_errors_total"
_HOLDS = "minifo_commit_hold_seconds"


class Spread(NamedTuple):
    """Times of some events, in ns: their mean, their median, and the time that one in a hundred exceeds.

    The last two are read off a histogram whose bounds double, so they are exact to a factor of two at worst.
    """

    mean: int
    median: int
    p99: int


class Kind(NamedTuple):
    """What requests of one kind did.

    Attributes:
        name: the kind.
        served: how many a second were answered by Python.
        cached: how many a second were answered from the reply cache.
        busy: the part of the time in which one was being answered by Python.
        times: how long that took; None if there was none.
    """

    name: str
    served: float
    cached: float
    busy: float
    times: Spread | None


class Busy(NamedTuple):
    """What was changed at one path.

    Attributes:
        path: in the overlay; None if it has none any more.
        is_dir: whether it is a directory: then the changes are of names in it, or of its own attributes.
        changes: how many a second.
        written: bytes a second.
    """

    path: bytes | None
    is_dir: bool
    changes: float
    written: float


@dataclass(frozen=True)
class Rates:
    """What a mount did between two readings; rates are per second.

    Attributes:
        seconds: time between the two.
        mountpoint: where it is mounted.
        kinds: requests by their kind, the one that took most time first.
        errors: replies with an error, by its name.
        operations: changes of the overlay.
        rows, written: rows of the database, and bytes of content objects.
        commits: commits; holds: how long requests waited for one, None if there was none.
        processor: the part of a processor that the daemon used.
        paths: those with the most changes, the first one with most; None if the daemon does not tell.
        others: how many more paths were changed.
        now: the gauges: ``memory``, ``names``, ``database``, ``database_log``, ``redo_log``, ``free``, ``pending``,
            ``failed``.
    """

    seconds: float
    mountpoint: str
    kinds: list[Kind]
    errors: dict[str, float]
    operations: float
    rows: float
    written: float
    commits: float
    holds: Spread | None
    processor: float
    paths: list[Busy] | None
    others: int
    now: dict[str, int]

    @property
    def requests(self) -> float:
        """All requests of the kernel."""
        return sum(kind.served + kind.cached for kind in self.kinds)

    @property
    def cached(self) -> float:
        """Those of them that the reply cache answered."""
        return sum(kind.cached for kind in self.kinds)


_GAUGES = {
    "memory": "minifo_memory_bytes",
    "names": "minifo_names",
    "database": "minifo_database_bytes",
    "database_log": "minifo_database_log_bytes",
    "redo_log": "minifo_redo_log_bytes",
    "free": "minifo_free_bytes",
    "pending": "minifo_changes_pending",
    "failed": "minifo_failed",
}


class Reading:
    """One answer to ``Metrics``.

    Args:
        answer: its members.
        busiest: those of the answer to ``Busiest`` before it; None if the daemon does not know that method.
        at: time.monotonic() when they came.
    """

    def __init__(self, answer: Mapping[str, Any], busiest: Mapping[str, Any] | None, at: float) -> None:
        self.at = at
        self.busiest = busiest
        self.mountpoint = str(answer["mountpoint"])
        self._metrics = {metric["name"]: metric for metric in answer["metrics"]}

    def values(self, name: str, label: str) -> dict[str, float]:
        """The values of a metric by one of its labels."""
        return {sample["labels"][label]: sample["value"] for sample in self._samples(name)}

    def value(self, name: str) -> float:
        """The value of a metric without labels; 0 where there is none."""
        return float(sum(sample["value"] for sample in self._samples(name)))

    def histograms(self, name: str, label: str) -> dict[str, tuple[float, list[int]]]:
        """The sum and the counts of a histogram, by a label, an empty one where it has none."""
        return {sample["labels"].get(label, ""): (sample["value"], sample["buckets"]) for sample in self._samples(name)}

    def bounds(self, name: str) -> list[float]:
        """The bounds of a histogram, in seconds."""
        return list(self._metrics[name]["bounds"])

    def _samples(self, name: str) -> Iterable[dict[str, Any]]:
        found = self._metrics.get(name)
        return found["samples"] if found is not None else ()


def rates(before: Reading, after: Reading) -> Rates:
    """Return what a mount did between two readings."""
    seconds = max(after.at - before.at, 1e-6)

    def per_second(name: str) -> float:
        return (after.value(name) - before.value(name)) / seconds

    def by_label(name: str, label: str) -> dict[str, float]:
        old = before.values(name, label)
        found = {key: (value - old.get(key, 0)) / seconds for key, value in after.values(name, label).items()}
        return {key: value for key, value in found.items() if value > 0}

    cached, served = by_label(_CACHED, "request"), _grown(before, after, _SERVED, "request")
    kinds = []
    for name in {*cached, *served}:
        count, total, times = served.get(name, (0, 0.0, None))
        kinds.append(Kind(name, count / seconds, cached.get(name, 0.0), total / seconds, times))
    commits, _, holds = _grown(before, after, _HOLDS, "").get("", (0, 0.0, None))
    return Rates(
        seconds=seconds,
        mountpoint=after.mountpoint,
        kinds=sorted(kinds, key=lambda kind: (-kind.busy, -kind.cached, kind.name)),
        errors=by_label(_ERRORS, "errno"),
        operations=per_second("minifo_operations_total"),
        rows=per_second("minifo_row_changes_total"),
        written=per_second("minifo_content_written_bytes_total"),
        commits=commits / seconds,
        holds=holds,
        processor=per_second("minifo_cpu_seconds_total"),
        paths=None if after.busiest is None else [_busy(told, seconds) for told in after.busiest["paths"]],
        others=0 if after.busiest is None else after.busiest["others"],
        now={key: int(after.value(name)) for key, name in _GAUGES.items()},
    )


def _busy(told: Mapping[str, Any], seconds: float) -> Busy:
    path = None if told["path"] is None else os.fsencode(told["path"])
    return Busy(path, told["directory"], told["changes"] / seconds, told["written"] / seconds)


def _grown(before: Reading, after: Reading, name: str, label: str) -> dict[str, tuple[int, float, Spread | None]]:
    """Return by how much a histogram grew, by a label: how many events, the sum of their times in s, their spread."""
    old = before.histograms(name, label)
    found: dict[str, tuple[int, float, Spread | None]] = {}
    for key, (total, counts) in after.histograms(name, label).items():
        total_before, counts_before = old.get(key, (0.0, [0] * len(counts)))
        new = [count - earlier for count, earlier in zip(counts, counts_before, strict=True)]
        if number := sum(new):
            bounds = after.bounds(name)
            took = total - total_before
            spread = Spread(_ns(took / number), _ns(_quantile(bounds, new, 0.5)), _ns(_quantile(bounds, new, 0.99)))
            found[key] = number, took, spread
    return found


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _quantile(bounds: list[float], counts: list[int], part: float) -> float:
    """Return the time that *part* of the events did not exceed, as if they were even within each bucket."""
    wanted = part * sum(counts)
    for lower, upper, count in zip([0.0, *bounds], bounds, counts, strict=False):
        if count and wanted <= count:
            return lower + (upper - lower) * wanted / count
        wanted -= count
    return bounds[-1]  # above the last bound
