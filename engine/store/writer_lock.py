"""The writer's lock of a storage: how it is taken, and how others see who holds it (promise P7).

The file ``lock`` in the storage is locked by flock(2), exclusively by a writer, and says the writer's process id in its
first line.  The lock belongs to the open file, so it ends with its holder.
"""

from __future__ import annotations

import fcntl
import os
import time

LOCK = "lock"  # its name in the storage

_TIMEOUT = 0.3  # seconds


def take(fd: int, *, exclusive: bool) -> None:
    """Lock an open file, waiting up to _TIMEOUT for a holder that has it only for a moment.

    Such holders are: a process that asks whether the lock is free; and a child that another thread of the holder has
    just forked, until its exec closes the inherited descriptor (flock(2): the lock belongs to the open file, not to
    the process).

    Raises:
        BlockingIOError: it is still locked after that time; ``noted_pid`` tells by which process.
    """
    deadline = time.monotonic() + _TIMEOUT
    while True:
        try:
            fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def note_pid(fd: int) -> None:
    """Say in the file that this process holds the lock."""
    os.ftruncate(fd, 0)
    os.pwrite(fd, b"%d\n" % os.getpid(), 0)


def noted_pid(fd: int) -> int:
    """The process id in the file, that of the last writer; 0 if there is none."""
    text = os.pread(fd, 32, 0).split(b"\n")[0]
    return int(text) if text.isdigit() else 0


def lock_holder(fd: int, *, keep: bool = False) -> int | None:
    """Process id of the writer that holds the lock, 0 if that cannot be told, None if no writer does.

    Args:
        fd: the lock file, open for reading.
        keep: keep the lock, shared, where no writer holds it, so that none can come.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return noted_pid(fd)
    if not keep:
        fcntl.flock(fd, fcntl.LOCK_UN)
    return None
