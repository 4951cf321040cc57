"""The bars over time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from minifo.engine.queries.times import LastChange
from minifo.tools.page.timeline import charts, timeline

NOW = 1_795_000_000.0
DAY = 86400


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**40), 2**40))))
def test_any_time(found: list[tuple[int, int]]) -> None:
    """A storage may hold any time: nothing is lost, and there are not too many bars."""
    made = timeline([LastChange(*change) for change in found], NOW)
    if made is not None:
        assert sum(made.counts) + made.undated == len(found)
        assert len(made.counts) == len(made.sizes) <= 60
        charts(made, NOW)


@given(st.lists(st.integers(0, 25 * 365 * DAY), min_size=1))
def test_bars_hold_their_times(ages: list[int]) -> None:
    """Each change is in the bar of its time, and the last bar is not empty."""
    made = timeline([LastChange(int((NOW - age) * 10**9), 1) for age in ages], NOW)
    assert made is not None
    for index, count in enumerate(made.counts):
        start = made.start + index * made.step
        assert count == sum(start <= NOW - age < start + made.step for age in ages)
    assert made.counts[0]
    assert made.counts[-1]
    assert len(made.counts) <= 60


def test_no_clock() -> None:
    """A machine that starts in 1970 has no timeline; its changes do not stretch that of others."""
    early = LastChange(5 * 10**9, 10)
    assert timeline([early], NOW) is None
    made = timeline([early, LastChange(int(NOW) * 10**9, 1)], NOW)
    assert made is not None
    assert (made.counts, made.undated) == ([1], 1)
