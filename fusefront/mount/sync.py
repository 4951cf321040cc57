"""Make everything an overlay was told durable, from outside.

sync(2) and syncfs(2) alone do not: of a FUSE mount the kernel writes back the pages it holds, and tells the daemon
nothing of what it is for (before Linux 7.3).  So pages are written back first, and then a directory is synced, which
the daemon answers when everything is durable, not that directory alone.
"""

from __future__ import annotations

import errno
import os
import stat

from ...engine.errors import StateError
from ...engine.store.syscalls import syncfs
from . import mount_table

_LISTING = "findmnt -t fuse.minifo lists the mounts"


def settle(path: str) -> None:
    """Return when everything done so far in an overlay is durable.

    Args:
        path: its mount point, or anything in it.

    Raises:
        StateError: it lies on no overlay, or something could not be made durable.
    """
    try:
        _, entry = mount_table.locate(path)
    except OSError as error:
        raise StateError(f"{path} cannot be reached ({error.strerror})", _LISTING) from error
    if entry is None or mount_table.overlay_of(entry) is None:
        raise StateError(f"{path} is not on a minifo mount", _LISTING)
    try:
        directory = path if stat.S_ISDIR(os.stat(path).st_mode) else entry.mountpoint
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syncfs(fd)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            raise StateError(
                f"the daemon of {path} is gone", f"clear the mount: umount -l {entry.mountpoint}"
            ) from error
        raise StateError(
            f"not everything in {entry.mountpoint} is durable ({error.strerror})", "the system log says what failed"
        ) from error
