"""Lets the digests of frozen objects be computed while nobody needs the overlay (engine/digests.py).

It begins after a second without a request, reads a few MiB at a time in a worker thread, and stops for another such
second when a request came meanwhile.  A mount without a checkpoint does none of this.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from ...engine import Overlay, StateError
from ...engine.digests import Digests

log = logging.getLogger(__name__)

_QUIET = 1.0  # seconds without a request before something is read
_STEP = 4 << 20  # bytes that are read at a time
_PAUSE = 600.0  # seconds until the next attempt, when storage has no room or cannot be read


async def record_digests(overlay: Overlay, served: Callable[[], int], changed: Callable[[], trio.Event]) -> None:
    """Record the digests of objects that have none, whenever a checkpoint may have frozen some, until cancelled.

    Args:
        overlay: the open overlay.
        served: returns how many requests were served so far.
        changed: returns an event that is set after checkpoints were made or deleted.
    """
    digests = overlay.digests
    while True:
        event = changed()
        try:
            while digests.is_behind:
                await _calm(served)
                await _record_some(digests, served)
        except (OSError, StateError) as error:
            log.info("%s: no digests are recorded for now: %s", overlay.storage_path, error)
            with trio.move_on_after(_PAUSE):
                await event.wait()
            continue
        await event.wait()


async def _calm(served: Callable[[], int]) -> None:
    """Return when no request was served for a while."""
    while True:
        before = served()
        await trio.sleep(_QUIET)
        if served() == before:
            return


async def _record_some(digests: Digests, served: Callable[[], int]) -> None:
    """Read and record one batch, with a pause whenever there are requests."""
    batch = digests.begin()
    try:
        while not batch.is_done:
            before = served()
            await trio.to_thread.run_sync(batch.advance, _STEP)
            if served() != before:
                await _calm(served)
    finally:
        batch.close()
    digests.record(batch)
