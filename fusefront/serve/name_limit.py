"""Bounds what the daemon remembers: above a number of names all that nobody uses are forgotten.

The daemon must know every object the kernel knows, some 250 bytes each, and the kernel lets go of names only when
memory is short.  So when there are many the kernel is made to forget them; it then tells us (FORGET), and asks anew for
what is looked for again.  Only root may ask that of the kernel; elsewhere its own need of memory is the only bound.
"""

from __future__ import annotations

import logging
import os

import trio

from ...engine import Overlay
from ..mount.helper_process import MountHelper

log = logging.getLogger(__name__)

_SHARE = 32  # of the machine's memory: that part of it may be spent on names
_NODE = 256  # bytes one takes
_LEAST = 20_000
_MOMENT = 0.5  # seconds in which what was forgotten is told
_PAUSE = 10.0  # seconds between two attempts: names in use cannot be forgotten


def default_limit() -> int:
    """How many names may be kept on this machine."""
    return max(_LEAST, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _SHARE // _NODE)


async def keep_small(overlay: Overlay, mount_helper: MountHelper, limit: int) -> None:
    """Have names forgotten whenever more than *limit* are known, until cancelled."""
    while True:
        crowded = trio.Event()
        overlay.when_crowded(limit, crowded.set)
        if overlay.known < limit:
            await crowded.wait()
        known = overlay.known
        try:
            await trio.to_thread.run_sync(mount_helper.forget)
        except OSError as error:
            log.debug("names cannot be forgotten: %s", error)
            return
        await trio.sleep(_MOMENT)
        log.debug("of %d names %d are left", known, overlay.known)
        await trio.sleep(_PAUSE)
