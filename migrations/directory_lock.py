"""One migration at a time on one storage: its directory is locked while a migration moves files in it.

A mount is kept out by what lies in the directory meanwhile (engine/store/storage.py), not by this lock.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ..engine import StateError, StorageBusy


@contextmanager
def locked(storage: str, doing: str) -> Iterator[int]:
    """Lock the directory of a storage for the length of a block.

    Args:
        storage: path of the directory.
        doing: what another process is taken to be doing with it, for the message: ``storage X is DOING``.

    Returns:
        A descriptor of the directory.

    Raises:
        StorageBusy: another process has locked it.
        StateError: it cannot be opened.
    """
    try:
        fd = os.open(storage, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StateError(f"storage {storage} cannot be opened ({error.strerror})", "check the path") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageBusy(f"storage {storage} is {doing}", "wait for it") from error
        yield fd
    finally:
        os.close(fd)
