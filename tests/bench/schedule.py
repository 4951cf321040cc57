"""How often what is run, so that the benchmark ends in time: slow workloads are repeated less, none is left out."""

from __future__ import annotations

import time


def affordable(costs: dict[str, float], passes: int, seconds: float) -> dict[str, int]:
    """How many more times each workload is to run.

    Args:
        costs: seconds one run of each takes, on all systems together.
        passes: how many more times it is wanted.
        seconds: what is left for all; whatever costs most gives up a repetition, again and again, until it is enough.
    """
    times = dict.fromkeys(costs, passes)
    while any(times.values()) and sum(costs[name] * times[name] for name in costs) > seconds:
        times[max(costs, key=lambda name: costs[name] * times[name])] -= 1
    return times


class Progress:
    """Tells how long it has taken and how long it will.

    Args:
        seconds: what the whole may take.
        spent: what it has taken before an interruption.
        first: how many runs the first pass still has; the time of the later ones follows from it.
    """

    def __init__(self, seconds: float, spent: float, first: int) -> None:
        self._start = time.monotonic() - spent
        self._before = spent
        self._seconds = seconds
        self._first = first
        self._made = 0

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def left(self) -> float:
        """Seconds until the end that was asked for; what has been promised may take longer."""
        return max(0.0, self._seconds - self.spent)

    def made(self, runs: int = 1) -> None:
        """That many runs more of the first pass were made."""
        self._made += runs

    def first_pass(self, passes: int) -> str:
        """A clock for lines of the first pass: its own rest, and as much for each of the others as there is time."""
        rate = (self.spent - self._before) / self._made if self._made else 0.0
        rest = rate * (self._first - self._made)
        return self.clock(rest + min(max(0.0, self.left - rest), rate * self._first * (passes - 1)))

    def clock(self, left: float) -> str:
        """How a line begins."""
        return f"[{self.spent / 60:4.1f} min, {left / 60:.0f} min left]"
