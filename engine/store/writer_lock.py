"""The writer's lock of a storage: how to take it, and how to find the process that holds it (promise P7).

A writer locks the file ``lock`` in the storage exclusively (flock(2)), and writes its process id into the first line.
The lock belongs to the open file, so it ends with its holder.

Who shows a checkpoint locks a byte of the same file, shared (F_OFD_SETLK, fcntl(2)): that lock is of another kind and
keeps no writer out, but the checkpoint is not deleted.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time

LOCK = "lock"  # name of the file in the storage

_TIMEOUT = 0.3  # seconds
_FLOCK = "hhqqi0q"  # struct flock (fcntl(2)): type, whence, start, length, process
_CHECKPOINTS = 1 << 32  # offset of the byte of checkpoint 0, far beyond the file's end


def take(fd: int, *, exclusive: bool) -> None:
    """Lock an open file, waiting up to _TIMEOUT for a holder that has it only for a moment.

    Such holders are: a process that asks whether the lock is free; and a child that another thread of the holder has
    just forked, until its exec closes the inherited descriptor (flock(2): the lock belongs to the open file, not to
    the process).

    Raises:
        BlockingIOError: it is still locked after that time; ``noted_pid`` returns the process.
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
    """Write the id of this process, which holds the lock, into the file."""
    os.ftruncate(fd, 0)
    os.pwrite(fd, b"%d\n" % os.getpid(), 0)


def noted_pid(fd: int) -> int:
    """Return the process id in the file, that of the last writer; 0 if there is none."""
    text = os.pread(fd, 32, 0).split(b"\n")[0]
    return int(text) if text.isdigit() else 0


def lock_holder(fd: int, *, keep: bool = False) -> int | None:
    """Return the process id of the writer that holds the lock, 0 if it is not known, None if no writer holds it.

    Args:
        fd: the lock file, open for reading.
        keep: if no writer holds the lock, keep it shared, so that no writer can take it.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return noted_pid(fd)
    if not keep:
        fcntl.flock(fd, fcntl.LOCK_UN)
    return None


def hold(fd: int, checkpoint: int) -> None:
    """Note that a checkpoint is in use as long as this file is open.

    Args:
        fd: the lock file, open for reading.
        checkpoint: its id.

    Raises:
        OSError: the file system has no such locks; EAGAIN if the checkpoint is being deleted.
    """
    lock = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, _CHECKPOINTS + checkpoint, 1, 0)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)


def is_held(fd: int, checkpoint: int) -> bool:
    """Return whether another open file holds a checkpoint.

    Args:
        fd: the lock file, open for writing.
        checkpoint: its id.

    Raises:
        OSError: the file system has no such locks.
    """
    lock = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _CHECKPOINTS + checkpoint, 1, 0)
    found = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, lock)
    return bool(struct.unpack(_FLOCK, found)[0] != fcntl.F_UNLCK)
