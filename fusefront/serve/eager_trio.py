"""Lets pyfuse3 receive the next request without a turn of trio's scheduler, for it usually arrives at once.

pyfuse3 holds a lock and waits through trio for every request: two turns of the scheduler and one call of epoll_wait(2),
which cost more than most handlers.  It uses trio through a module attribute, so that another event loop can replace it
(pyfuse3.asyncio does that).  ``EagerTrio`` offers the same names as trio, with two differences:

* ``wait_readable`` first checks whether a request is there already or arrives within 0.1 ms (spin.c), and only if not
  waits in the event loop.  After 64 requests in a row it always does, so that timers and workers run; the extension,
  which may answer several requests before Python sees one, counts them.
* ``Lock`` is acquired without a turn of the scheduler if it is free.  A task that waits for it runs when the holder
  waits in the event loop, so a handler that awaits something does not delay the next request.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from types import ModuleType, TracebackType

import trio

from .shared_rules import REQUESTS_PER_TURN


class EagerLock:
    """A lock whose last holder may acquire it again before waiting tasks, unless it waits in the event loop between."""

    def __init__(self) -> None:
        self._held = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        while self._held:
            await self._waiting.park()
        self._held = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held = False
        self._waiting.unpark()


class EagerLowlevel:
    """The part of ``trio.lowlevel`` that pyfuse3 uses."""

    current_task = staticmethod(trio.lowlevel.current_task)
    current_trio_token = staticmethod(trio.lowlevel.current_trio_token)
    notify_closing = staticmethod(trio.lowlevel.notify_closing)

    def __init__(self, arrives_soon: Callable[[int], bool]) -> None:
        self._arrives_soon = arrives_soon
        self._left = REQUESTS_PER_TURN

    async def wait_readable(self, fd: int) -> None:
        """Return when *fd* is readable."""
        self._left -= 1
        if self._left > 0 and self._arrives_soon(fd):
            return
        self._left = REQUESTS_PER_TURN
        await trio.lowlevel.wait_readable(fd)


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


class EagerTrio:
    """The part of ``trio`` that pyfuse3 uses.

    Args:
        hook: the C extension, or None if it is not installed.
    """

    Lock = EagerLock
    ClosedResourceError = trio.ClosedResourceError
    open_nursery = staticmethod(trio.open_nursery)

    def __init__(self, hook: ModuleType | None) -> None:
        self.lowlevel = EagerLowlevel(_is_readable if hook is None else hook.arrives_soon)
