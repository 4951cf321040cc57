"""Limits how many inodes the daemon keeps in memory, by making the kernel forget unused names.

The daemon must keep every inode that the kernel references, about 250 bytes each, and the kernel drops names only when
memory is short.  So above a limit the daemon makes the kernel drop all names that are not in use.  The kernel then
sends FORGET for their inodes, and LOOKUP when a program uses such a name again.  Only root's daemon can do this; for
other users the kernel's own need of memory is the only bound.
"""

from __future__ import annotations

import logging
import os

import trio

from ...engine import Overlay
from ..mount.helper_process import HelperProcess

log = logging.getLogger(__name__)

_SHARE = 32  # 1/32 of the machine's memory may hold inodes
_INODE_SIZE = 256  # bytes of memory that one inode takes
_LIMIT_MIN = 20_000
_FORGET_TIME = 0.5  # seconds within which the kernel's FORGETs arrive
_PAUSE = 10.0  # seconds between two attempts: names in use cannot be forgotten


def default_limit() -> int:
    """Return how many inodes the daemon may keep on this machine if no option says otherwise."""
    return max(_LIMIT_MIN, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _SHARE // _INODE_SIZE)


async def limit_inodes(overlay: Overlay, helper: HelperProcess, limit: int) -> None:
    """Make the kernel forget unused names whenever the engine keeps *limit* inodes or more, until cancelled.

    Return if the kernel refuses that.
    """
    while True:
        limit_reached = trio.Event()
        overlay.when_crowded(limit, limit_reached.set)
        if overlay.known < limit:
            await limit_reached.wait()
        before = overlay.known
        try:
            await trio.to_thread.run_sync(helper.forget_names)
        except OSError as error:
            log.debug("the kernel cannot be made to forget names: %s", error)
            return
        await trio.sleep(_FORGET_TIME)
        log.debug("of %d inodes %d are still referenced", before, overlay.known)
        await trio.sleep(_PAUSE)
