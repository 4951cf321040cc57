"""Which checkpoints a policy keeps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from minifo.engine.checkpoint_values import Checkpoint
from minifo.engine.queries.retention import Policy


@pytest.fixture(autouse=True)
def _time_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is Berlin's, in which summer time ended on 2026-10-25 at 3:00."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def at(*moments: datetime) -> list[Checkpoint]:
    """Checkpoints made at moments, in local time; their ids count from 1."""
    return [
        Checkpoint(number, f"c{number}", int(moment.timestamp()) * 10**9, "", 0, None, None, 1, 1)
        for number, moment in enumerate(moments, 1)
    ]


def every(step: timedelta, count: int, first: datetime = datetime(2026, 11, 2, 12)) -> list[Checkpoint]:
    """Checkpoints in equal steps from a Monday noon on."""
    return at(*(first + turn * step for turn in range(count)))


def test_last() -> None:
    """The last N, or all there are."""
    points = every(timedelta(minutes=1), 5)
    assert Policy(last=2).kept(points) == {4, 5}
    assert Policy(last=9).kept(points) == {1, 2, 3, 4, 5}
    assert Policy(last=1).kept([]) == set()


def test_periods() -> None:
    """Of each the last one."""
    hours = every(timedelta(minutes=20), 8)  # 12:00 12:20 12:40 13:00 13:20 13:40 14:00 14:20
    assert Policy(hourly=2).kept(hours) == {6, 8}
    assert Policy(hourly=9).kept(hours) == {3, 6, 8}
    days = every(timedelta(hours=9), 8)  # Mon 12 21, Tue 6 15, Wed 0 9 18, Thu 3
    assert Policy(daily=3).kept(days) == {4, 7, 8}
    weeks = every(timedelta(days=3), 6)  # 2 5 8 | 11 14 | 17 November
    assert Policy(weekly=2).kept(weeks) == {5, 6}


def test_a_period_without_any_does_not_count() -> None:
    """A device that was off for a month keeps as many."""
    days = at(datetime(2026, 9, 1, 8), datetime(2026, 9, 2, 8), datetime(2026, 11, 2, 8), datetime(2026, 11, 2, 9))
    assert Policy(daily=2).kept(days) == {2, 4}


def test_rules_add_up() -> None:
    """What one of them keeps is kept."""
    points = every(timedelta(hours=12), 10)  # Mon 12, Tue 0 12, Wed 0 12, Thu 0 12, Fri 0 12, Sat 0
    assert Policy(last=1, daily=3).kept(points) == {7, 9, 10}
    assert Policy(last=2, weekly=1).kept(points) == {9, 10}
    assert Policy().keeps_any is False
    assert Policy(weekly=1).keeps_any is True


def test_a_week_that_two_years_share_is_one() -> None:
    """ISO 8601: 2026-12-28 to 2027-01-03 is week 53 of 2026."""
    points = at(datetime(2026, 12, 30, 8), datetime(2027, 1, 2, 8), datetime(2027, 1, 4, 8))
    assert Policy(weekly=2).kept(points) == {2, 3}


def test_the_hour_that_comes_twice_is_two() -> None:
    """When summer time ends."""
    first = datetime(2026, 10, 25, 2, 30, fold=0)
    points = at(first, datetime(2026, 10, 25, 2, 30, fold=1))
    assert Policy(hourly=2).kept(points) == {1, 2}


def test_impossible_times() -> None:
    """A clock that was wrong, or damage: they count as made in 1970."""
    first, second = every(timedelta(1), 2)
    points = [first._replace(time=1 << 62), second._replace(time=-(1 << 62))]
    assert Policy(last=1, daily=1).kept(points) >= {2}
