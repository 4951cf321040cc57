"""How the next request is waited for: eagerly, since it usually follows at once.

pyfuse3 waits for every request through trio, with a lock around it: two turns of the scheduler and an epoll cycle,
which cost more than most of our answers.  It takes what it needs of trio from a module attribute, so that another
event loop can stand in (pyfuse3.asyncio does).  ``EagerTrio`` stands in with trio itself, but for two things:

* ``wait_readable`` first looks whether a request is there already, or comes within a moment (spin.c), and only
  then gives way to the event loop.  After a number of times it does so in any case, so that timers and workers run; the
  hook, which may answer several requests each time, says so by their number.
* ``Lock`` is taken without a turn of the scheduler where it is free.  A task that waits for it runs when the holder
  really waits for something, so a handler that awaits does not hold up the next request.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from types import ModuleType, TracebackType

import trio

_IN_A_ROW = 64  # times that a request is there already before the event loop gets its turn


class EagerLock:
    """A lock whose holder may take it again before those who wait, unless it really waits itself."""

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
    """What pyfuse3 uses of ``trio.lowlevel``."""

    current_task = staticmethod(trio.lowlevel.current_task)
    current_trio_token = staticmethod(trio.lowlevel.current_trio_token)
    notify_closing = staticmethod(trio.lowlevel.notify_closing)

    def __init__(self, comes_soon: Callable[[int], bool]) -> None:
        self._comes_soon = comes_soon
        self._left = _IN_A_ROW

    async def wait_readable(self, fd: int) -> None:
        """Return when *fd* can be read."""
        self._left -= 1
        if self._left > 0 and self._comes_soon(fd):
            return
        self._left = _IN_A_ROW
        await trio.lowlevel.wait_readable(fd)


def _is_there(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


class EagerTrio:
    """What pyfuse3 uses of ``trio``.

    Args:
        hook: the extension, if there is one.
    """

    Lock = EagerLock
    ClosedResourceError = trio.ClosedResourceError
    open_nursery = staticmethod(trio.open_nursery)

    def __init__(self, hook: ModuleType | None) -> None:
        self.lowlevel = EagerLowlevel(_is_there if hook is None else hook.comes_soon)
