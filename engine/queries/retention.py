"""Which checkpoints a policy keeps: the last ones, and the last one of each of the last hours, days or weeks.

The rules are those of restic and borg: a checkpoint is kept if one of the policies keeps it, and a period in which none
was made does not count.  Periods are those of the local time; a week is one of ISO 8601.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..checkpoint_values import Checkpoint

_NS = 10**9


def _hour(at: time.struct_time) -> tuple[int, ...]:
    # with the offset: the hour that comes twice when summer time ends is two hours
    return (at.tm_year, at.tm_yday, at.tm_hour, at.tm_gmtoff or 0)


def _day(at: time.struct_time) -> tuple[int, ...]:
    return (at.tm_year, at.tm_yday)


def _week(at: time.struct_time) -> tuple[int, ...]:
    return tuple(map(int, time.strftime("%G %V", at).split()))


@dataclass(frozen=True, slots=True)
class Policy:
    """How many to keep; 0 for a rule that keeps none.

    Attributes:
        last: the last ones.
        hourly, daily, weekly: of so many periods the last one each.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0

    @property
    def keeps_any(self) -> bool:
        """Whether a rule is set."""
        return any((self.last, self.hourly, self.daily, self.weekly))

    def kept(self, checkpoints: Sequence[Checkpoint]) -> set[int]:
        """Return the ids of those that are kept, of checkpoints in the order in which they were made."""
        newest_first = checkpoints[::-1]
        found = {checkpoint.id for checkpoint in newest_first[: self.last]}
        found |= _last_of_each(newest_first, self.hourly, _hour)
        found |= _last_of_each(newest_first, self.daily, _day)
        return found | _last_of_each(newest_first, self.weekly, _week)


def _last_of_each(
    newest_first: Sequence[Checkpoint], count: int, period: Callable[[time.struct_time], tuple[int, ...]]
) -> set[int]:
    found: dict[tuple[int, ...], int] = {}
    for checkpoint in newest_first:
        of = period(_local(checkpoint.time))
        if of not in found and len(found) < count:
            found[of] = checkpoint.id
    return set(found.values())


def _local(ns: int) -> time.struct_time:
    try:
        return time.localtime(ns // _NS)
    except (OverflowError, ValueError, OSError):
        return time.localtime(0)  # no clock was ever that wrong
