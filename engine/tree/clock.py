"""The time of a change: one clock with the kernel.

The kernel stamps what programs write by its coarse clock, which moves at each tick only (ktime_get_coarse_real_ts64),
and what it stamps comes to us later, with the pages.  Creations, renames and removals are stamped here.  Were that done
by the fine clock, a file would be created some milliseconds after it was written, and ``make`` and ``test -nt`` would
be told the wrong order.

Since Linux 6.13 the kernel's coarse clock may be ahead of what clock_gettime(2) calls by that name: it is never behind
a fine time that some file system has shown (multigrain timestamps).  A front end that can ask for it does
(fusefront/extension/clock.c); else the kernel's times that reach us are noted, and no change is stamped before the last
one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

COARSE = 5  # CLOCK_REALTIME_COARSE of linux/time.h, which the time module does not name


def _coarse() -> int:
    return time.clock_gettime_ns(COARSE)


class Clock:
    """Tells the time of changes of one overlay.

    A time never lies before one that was told or noted, with one exception: where that one lies in the future of the
    system's own clock, the clock was set back, and the overlay follows it, as other file systems do.

    Args:
        source: the kernel's clock, in ns; None for the system's coarse one.
    """

    def __init__(self, source: Callable[[], int] | None = None) -> None:
        self._source = source or _coarse
        self._last = 0

    def now(self) -> int:
        """The time of a change that is made now, in ns."""
        t = self._source()
        # the fine clock is read only where the kernel's is behind: a moment after a noted time, or after a step back
        if t < self._last <= time.time_ns():
            return self._last
        self._last = t
        return t

    def note(self, ns: int) -> None:
        """Note a time that the kernel has shown; one that lies in the future is none of its own and does not count."""
        if self._last < ns <= time.time_ns():
            self._last = ns
