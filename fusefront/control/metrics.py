"""The counters of a mount, collected as metrics by its daemon.

Names, units and types follow prometheus.io/docs/practices/naming: seconds, bytes, counters that end with ``_total``.
"""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Iterable
from typing import Any

from ...engine import VERSION, Overlay
from ...engine.queries.figures import counters as overlay_counters
from ..extension import loader
from ..serve.committer import Committer
from ..serve.counters import BUCKETS, Times, counters

Metric = dict[str, Any]

_NS = 1e-9  # seconds
_BOUNDS = range(11, 34)  # powers of two, in ns, that are the upper bounds of buckets: 2 us to 8.6 s

_FIGURES = (
    ("operations", "minifo_operations_total", "counter", "Operations that changed the overlay."),
    (
        "row_changes",
        "minifo_row_changes_total",
        "counter",
        "Rows of the database that were written or deleted.",
    ),
    (
        "content_written",
        "minifo_content_written_bytes_total",
        "counter",
        "Bytes written to content objects.",
    ),
    ("names", "minifo_names", "gauge", "Names kept in memory for the kernel."),
    ("database", "minifo_database_bytes", "gauge", "Size of the database."),
    ("log", "minifo_database_log_bytes", "gauge", "Size of the database's write-ahead log."),
    ("redo", "minifo_redo_log_bytes", "gauge", "Size of the redo log in memory."),
    ("free", "minifo_free_bytes", "gauge", "Bytes that the overlay may still use in storage."),
    ("failed", "minifo_failed", "gauge", "1 if the overlay takes no changes since a commit failed."),
    ("pending", "minifo_changes_pending", "gauge", "1 if the next commit has changes to make durable."),
)


def resident() -> int:
    """Return the bytes of memory this process uses (proc(5), VmRSS)."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def served() -> int:
    """Return how many requests of the kernel this process has served so far."""
    extension = loader.load()
    cached, direct, _ = extension.counters() if extension is not None else ({}, {}, {})
    counted = [times.buckets for times in counters.served.values()] + [buckets for _, buckets in direct.values()]
    return int(sum(cached.values())) + sum(sum(buckets) for buckets in counted)


def collect(overlay: Overlay, committer: Committer) -> list[Metric]:
    """Return the metrics of a mount: what the type Metric of org.minifo.Overlay.varlink says.

    Args:
        overlay: the open overlay.
        committer: commits it.
    """
    extension = loader.load()
    cached, direct, replied = extension.counters() if extension is not None else ({}, {}, {})
    served: dict[str, Times] = {}
    for kind, times in counters.served.items():
        served.setdefault(kind, Times()).merge(times.total, times.buckets)
    for kind, (total, buckets) in direct.items():
        served.setdefault(kind, Times()).merge(total, buckets)
    errors = {code: replied.get(code, 0) + counters.errors.get(code, 0) for code in {*replied, *counters.errors}}
    figures = overlay_counters(overlay)
    found = [
        _single("minifo_info", "gauge", "The overlay; always 1.", 1, uuid=str(overlay.uuid), version=VERSION),
        _histogram(
            "minifo_request_duration_seconds",
            "Time that requests of the kernel took, by their kind, without those replied to from the cache.",
            [({"request": kind}, times) for kind, times in sorted(served.items())],
        ),
        _metric(
            "minifo_cached_replies_total",
            "counter",
            "Requests replied to from the reply cache, without Python, by their kind.",
            [_sample(count, request=kind) for kind, count in sorted(cached.items())],
        ),
        _metric(
            "minifo_errors_total",
            "counter",
            "Requests replied to with an error.",
            [_sample(count, errno=errno.errorcode.get(code, str(code))) for code, count in sorted(errors.items())],
        ),
        _histogram("minifo_commit_hold_seconds", "Time that requests waited for a commit.", [({}, committer.holds)]),
        _single("minifo_commits_failed_total", "counter", "Commits that failed.", committer.failed),
        _single(
            "minifo_commits_postponed_total",
            "counter",
            "Timed commits that were put off, because storage had no room for them.",
            committer.postponed,
        ),
        *(_single(name, kind, text, figures[key]) for key, name, kind, text in _FIGURES),
        _single("minifo_memory_bytes", "gauge", "Memory that the daemon uses.", resident()),
        _single("minifo_cpu_seconds_total", "counter", "Processor time that the daemon used.", time.process_time()),
    ]
    if committer.last_commit is not None:
        at = time.time() - (time.monotonic_ns() - committer.last_commit) * _NS
        text = "When the last commit was durable, since 1970."
        found.append(_single("minifo_last_commit_timestamp_seconds", "gauge", text, at))
    return [metric for metric in found if metric["samples"]]


def _sample(value: float, **labels: str) -> Metric:
    return {"labels": labels, "value": value, "buckets": None}


def _metric(name: str, kind: str, text: str, samples: list[Metric], bounds: list[float] | None = None) -> Metric:
    return {"name": name, "kind": kind, "help": text, "bounds": bounds, "samples": samples}


def _single(name: str, kind: str, text: str, value: float, **labels: str) -> Metric:
    return _metric(name, kind, text, [_sample(value, **labels)])


def _histogram(name: str, text: str, times: Iterable[tuple[dict[str, str], Times]]) -> Metric:
    samples = []
    for labels, found in times:
        # bucket n has what is below 2^n ns: up to a bound 2^n are the buckets up to n
        edges = [-1, *_BOUNDS, BUCKETS]
        counts = [sum(found.buckets[below + 1 : upto + 1]) for below, upto in itertools.pairwise(edges)]
        samples.append({"labels": labels, "value": found.total * _NS, "buckets": counts})
    return _metric(name, "histogram", text, samples, [2**bound * _NS for bound in _BOUNDS])
