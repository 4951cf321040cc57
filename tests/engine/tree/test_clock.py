"""The clock for timestamps: it never goes behind itself or the kernel, but follows a system clock that is set back."""

from __future__ import annotations

import time

import pytest

from minifo.engine.tree.clock import COARSE, Clock
from minifo.fusefront.extension import _hook

SECOND = 10**9


def test_it_is_the_coarse_clock() -> None:
    """Without noted times the clock returns the kernel's coarse time, not the fine one."""
    before = time.clock_gettime_ns(COARSE)
    seen = Clock().now()
    assert before <= seen <= time.clock_gettime_ns(COARSE)


def test_what_the_kernel_has_shown_counts() -> None:
    """The clock does not go behind a noted time, and ignores a noted time in the future."""
    clock = Clock()
    shown = time.time_ns()
    clock.note(shown)
    assert clock.now() >= shown
    clock.note(time.time_ns() + 3600 * SECOND)
    assert clock.now() <= time.time_ns()


def test_a_clock_that_is_set_back_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system's clock is set back, the times go back too, and do not stand still."""
    fine = time.time_ns()
    clock = Clock(lambda: fine)
    monkeypatch.setattr(time, "time_ns", lambda: fine)
    last = clock.now()
    fine -= 3600 * SECOND
    assert clock.now() == last - 3600 * SECOND
    fine += SECOND
    assert clock.now() == last - 3599 * SECOND


def test_the_kernels_clock() -> None:
    """The kernel's clock follows the fine clock, never goes back, and is never ahead of it."""
    told = [_hook.kernel_time() for _ in range(10_000)]
    assert told == sorted(told)
    assert abs(told[-1] - time.time_ns()) < SECOND
    assert told[-1] <= time.time_ns()
