"""The clock of changes: never behind itself or the kernel, and not stuck in a future that was taken back."""

from __future__ import annotations

import time

import pytest

from minifo.engine.tree.clock import COARSE, Clock
from minifo.fusefront.extension import _hook

SECOND = 10**9


def test_it_is_the_coarse_clock() -> None:
    """By itself it tells what the kernel's coarse clock does, not what the fine one does."""
    before = time.clock_gettime_ns(COARSE)
    seen = Clock().now()
    assert before <= seen <= time.clock_gettime_ns(COARSE)


def test_what_the_kernel_has_shown_counts() -> None:
    """A noted time is not gone behind; one of the future is nobody's business."""
    clock = Clock()
    shown = time.time_ns()
    clock.note(shown)
    assert clock.now() >= shown
    clock.note(time.time_ns() + 3600 * SECOND)
    assert clock.now() <= time.time_ns()


def test_a_clock_that_is_set_back_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times go back with the system's clock: they do not stand still until it is there again."""
    fine = time.time_ns()
    clock = Clock(lambda: fine)
    monkeypatch.setattr(time, "time_ns", lambda: fine)
    last = clock.now()
    fine -= 3600 * SECOND
    assert clock.now() == last - 3600 * SECOND
    fine += SECOND
    assert clock.now() == last - 3599 * SECOND


def test_the_kernels_clock() -> None:
    """It goes on with the fine clock, never before what it has told, and never ahead."""
    told = [_hook.kernel_time() for _ in range(10_000)]
    assert told == sorted(told)
    assert abs(told[-1] - time.time_ns()) < SECOND
    assert told[-1] <= time.time_ns()
