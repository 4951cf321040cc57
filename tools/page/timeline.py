"""Bars over time: how many objects were last changed when, how the bytes came together, what the journal noted."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone
from typing import NamedTuple

from ...engine.queries.times import LastChange
from .._size import size
from .elements import Element, element

_NS = 10**9
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_STEPS = (
    *(1, 5, 15, _MINUTE, 5 * _MINUTE, 15 * _MINUTE, _HOUR, 3 * _HOUR, 12 * _HOUR),
    *(_DAY, 7 * _DAY, 30 * _DAY, 365 * _DAY),
)
_BARS = 60  # at most
_OLDEST = 946_684_800  # 2000-01-01: older than minifo; a machine without a clock starts at 1970
_HEIGHT = 50  # a bar is one of so many heights: styles()
_WORDS = {
    1: "second",
    _MINUTE: "minute",
    _HOUR: "hour",
    _DAY: "day",
    7 * _DAY: "week",
    30 * _DAY: "30 days",
    365 * _DAY: "year",
}


class Timeline(NamedTuple):
    """Bars of equal length in time.

    Attributes:
        start: of the first one, seconds since the epoch.
        step: seconds that one bar stands for.
        counts: changes in each.
        sizes: their bytes.
        undated: changes whose time cannot be right: before 2000, or in the future.
    """

    start: int
    step: int
    counts: list[int]
    sizes: list[int]
    undated: int


def timeline(changes: Iterable[LastChange], now: float) -> Timeline | None:
    """Return the bars of changes, or None if no change has a time.

    Args:
        changes: in any order.
        now: seconds since the epoch.
    """
    offset = time.localtime(now).tm_gmtoff
    times, bytes_of, undated = array("q"), array("q"), 0  # there may be a million
    for change in changes:
        if _OLDEST * _NS <= change.time <= (now + _DAY) * _NS:
            times.append(change.time // _NS + offset)
            bytes_of.append(max(change.size, 0))
        else:
            undated += 1
    if not times:
        return None
    first, last = min(times), max(times)
    step = next((step for step in _STEPS if last // step - first // step < _BARS), _STEPS[-1])
    begin = first // step
    counts, sizes = [0] * (last // step - begin + 1), [0] * (last // step - begin + 1)
    for at, size_of in zip(times, bytes_of, strict=True):
        counts[at // step - begin] += 1
        sizes[at // step - begin] += size_of
    return Timeline(begin * step - offset, step, counts, sizes, undated)


def _clock(now: float) -> timezone:
    return timezone(timedelta(seconds=time.localtime(now).tm_gmtoff))


def stamp(seconds: float, now: float, step: int = 1) -> str:
    """Return a time for people, by the clock of this machine: 2026-11-29 07:05:00 +0000.

    Args:
        seconds: since the epoch.
        now: the time whose difference from UTC counts.
        step: seconds that matter: of days and more only the date is told.
    """
    form = "%Y-%m-%d" if step >= _DAY else "%Y-%m-%d %H:%M %z" if step >= _MINUTE else "%Y-%m-%d %H:%M:%S %z"
    return datetime.fromtimestamp(seconds, UTC).astimezone(_clock(now)).strftime(form)


def zone(now: float) -> str:
    """Return the difference of this machine's clock from UTC: +0000."""
    return datetime.fromtimestamp(now, _clock(now)).strftime("%z")


def described(found: Timeline) -> str:
    """Return what one bar stands for: 5 minutes, day."""
    unit = max(unit for unit in _WORDS if found.step % unit == 0)
    many = found.step // unit
    return _WORDS[unit] if many == 1 else f"{many} {_WORDS[unit]}s"


def charts(found: Timeline, now: float) -> list[Element]:
    """Return the two charts: objects by the time of their last change, and bytes in storage as they came together."""
    total, growth = 0, []
    for part in found.sizes:
        total += part
        growth.append(total)
    starts = _starts(found, now)
    grown = [f"until the end of {start}: {size(number)}" for start, number in zip(starts, growth, strict=True)]
    return [
        counted(found, now, f"Objects, by the {described(found)} of their last change", "objects"),
        _chart("Bytes in storage, as they came together", growth, grown, starts, f"now {size(total)}"),
    ]


def counted(found: Timeline, now: float, title: str, what: str) -> Element:
    """Return the chart of how many there were in each bar.

    Args:
        found: the bars.
        now: the time whose difference from UTC counts.
        title: what the chart shows.
        what: what is counted, for the text of each bar.
    """
    starts = _starts(found, now)
    texts = [f"{start}: {number:,} {what}" for start, number in zip(starts, found.counts, strict=True)]
    peak = max(found.counts)
    when = starts[found.counts.index(peak)]
    return _chart(title, found.counts, texts, starts, f"at most {peak:,}, at {when}")


def _starts(found: Timeline, now: float) -> list[str]:
    return [stamp(found.start + index * found.step, now, found.step) for index in range(len(found.counts))]


def _chart(title: str, values: list[int], texts: list[str], starts: list[str], summary: str) -> Element:
    most = max(values) or 1
    bars = element("div", class_="bars", role="img", aria_label=f"{title}: {summary}")
    for value, text in zip(values, texts, strict=True):
        height = max(round(value / most * _HEIGHT), 1) if value > 0 else 0
        bars.append(element("div", class_=f"bar h{height}", title=text))
    ends = [starts[0], starts[len(starts) // 2], starts[-1]] if len(starts) > 2 else starts
    axis = element("div", *(element("span", text) for text in ends), class_="axis")
    heading = element("figcaption", element("b", title), " · ", summary)
    return element("figure", heading, bars, axis, class_="chart")


def styles() -> str:
    """Return the rules of the style sheet that give bars their heights."""
    return "\n".join(f".h{step}{{height:{step * 100 / _HEIGHT:g}%}}" for step in range(_HEIGHT + 1))
