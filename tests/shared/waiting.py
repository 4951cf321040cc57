"""Waiting for a condition, never for a time: a busy machine is slow, and an idle one need not wait."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(holds: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Return as soon as a condition holds.

    Args:
        holds: the condition; asked every 10 ms.
        what: what is waited for, as the failure says it.
        seconds: the longest wait.

    Raises:
        AssertionError: it did not come to hold in time.
    """
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit, f"after {seconds:.0f} s still not: {what}"
        time.sleep(0.01)
