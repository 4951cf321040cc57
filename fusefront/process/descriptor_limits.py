"""Limits derived from RLIMIT_NOFILE: how many descriptors, waiting requests and worker threads the daemon may have.

Users of the mount decide how many requests arrive at a time.  The rule kept here: that number does not decide how many
descriptors are open.  A request that holds a descriptor while it waits first acquires a semaphore of limited size.
"""

from __future__ import annotations

import logging
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import trio

log = logging.getLogger(__name__)

_DESCRIPTORS_WANTED = 65_536  # far above the need, and few enough for a program that closes all of them in a loop
_ALWAYS_OPEN = 32  # descriptors that the daemon holds all the time, about
_WAITING_REQUESTS = 32
_THREADS = 40  # trio's own default
_FEW = 256  # descriptors, below which files are opened and closed more often


def raise_limit() -> None:
    """Raise this process's soft limit of descriptors to its hard limit, 65,536 at most (setrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _wanted(hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    elif soft != resource.RLIM_INFINITY and soft < _FEW:
        log.info("the limit of open descriptors is %d (RLIMIT_NOFILE): files are opened and closed more often", soft)


def reachable() -> tuple[int, bool]:
    """Return how many descriptors a daemon that this process starts would have, and whether that is enough."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return _wanted(hard), _wanted(hard) >= _FEW


def _wanted(hard: int) -> int:
    return _DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS_WANTED)


def waiting_requests_limit() -> int:
    """Return how many requests of one kind may hold a descriptor while they wait."""
    return _share_of_limit(_WAITING_REQUESTS, 16)


def thread_limit() -> int:
    """Return how many worker threads the daemon may have."""
    return _share_of_limit(_THREADS, 8)


def _share_of_limit(most: int, divisor: int) -> int:
    """Return the free descriptors divided by *divisor*, but at least 2 and at most *most*."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return most if soft == resource.RLIM_INFINITY else max(2, min(most, (soft - _ALWAYS_OPEN) // divisor))


@asynccontextmanager
async def acquired(semaphore: trio.Semaphore) -> AsyncIterator[None]:
    """Hold *semaphore* inside the block; a task that need not wait for it is not rescheduled.

    ``async with semaphore`` would let all other tasks run first, even if the semaphore is free.
    """
    if semaphore.value:
        semaphore.acquire_nowait()
    else:
        await semaphore.acquire()
    try:
        yield
    finally:
        semaphore.release()
