"""How many descriptors the daemon may have, and how many requests may hold some at once.

Whoever uses the mount decides how many requests there are; the rule kept here is that their number does not decide how
many descriptors are open.  What needs one while it waits takes turns.
"""

from __future__ import annotations

import logging
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

log = logging.getLogger(__name__)

_PLENTY = 65_536  # descriptors; far above what is needed, and no burden to whoever closes all of them
_OTHERS = 32  # descriptors that are open all the time, about
_TURNS = 32
_THREADS = 40  # trio's own number


def raise_limit() -> None:
    """Allow this process as many descriptors as it may have (setrlimit(2)), within reason."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _PLENTY if hard == resource.RLIM_INFINITY else min(hard, _PLENTY)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    elif soft != resource.RLIM_INFINITY and soft < 256:
        log.info("no more than %d descriptors may be open: files are opened and closed more often", soft)


def turns() -> int:
    """How many requests of one kind may hold a descriptor while they wait."""
    return _part(_TURNS, 16)


def threads() -> int:
    """How many worker threads there may be."""
    return _part(_THREADS, 8)


def _part(most: int, part: int) -> int:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return most if soft == resource.RLIM_INFINITY else max(2, min(most, (soft - _OTHERS) // part))


@asynccontextmanager
async def taken(semaphore: trio.Semaphore) -> AsyncIterator[None]:
    """Hold a turn; whoever need not wait for one is not delayed (trio's own way lets all others go first)."""
    try:
        semaphore.acquire_nowait()
    except trio.WouldBlock:
        await semaphore.acquire()
    try:
        yield
    finally:
        semaphore.release()
