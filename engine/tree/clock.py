"""The clock for timestamps of changes: the kernel's coarse clock, so that timestamps of kernel and engine compare.

The kernel stamps written files by its coarse clock, which advances once a tick (ktime_get_coarse_real_ts64), and sends
these timestamps to the daemon later, together with the pages.  The engine stamps creations, renames and removals.  If
it used the fine clock, a file could seem to be created some milliseconds after it was written, and ``make`` and
``test -nt`` would see the wrong order.

Since Linux 6.13 the kernel's coarse clock may be ahead of CLOCK_REALTIME_COARSE as clock_gettime(2) returns it: it is
never behind a fine time that a file system has shown (multigrain timestamps).  A front end that can read the kernel's
clock does so (fusefront/extension/clock.c).  Any other front end passes the kernel's timestamps to ``Clock.note``, and
the engine stamps no change with an earlier time than the last noted one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

COARSE = 5  # CLOCK_REALTIME_COARSE of linux/time.h, which the time module does not name


def _coarse() -> int:
    return time.clock_gettime_ns(COARSE)


class Clock:
    """Returns timestamps for the changes of one overlay.

    No timestamp is earlier than one that was returned or noted before, with one exception: if the earlier one lies in
    the future of the system's clock, an administrator has set the clock back, and the overlay follows the clock, as
    other file systems do.

    Args:
        source: reads the kernel's clock, in ns; None for the system's CLOCK_REALTIME_COARSE.
    """

    def __init__(self, source: Callable[[], int] | None = None) -> None:
        self._source = source or _coarse
        self._last = 0

    def now(self) -> int:
        """Return the timestamp of a change that is made now, in ns."""
        t = self._source()
        # the fine clock tells a noted time of a moment ago from a clock that was set back
        if t < self._last <= time.time_ns():
            return self._last
        self._last = t
        return t

    def note(self, ns: int) -> None:
        """Let no later timestamp be earlier than *ns*, a timestamp that the kernel has sent.

        A time in the future is ignored: the kernel's clock did not return it, a program has set it (utimensat(2)).
        """
        if self._last < ns <= time.time_ns():
            self._last = ns
