"""Makes all changes of a mounted overlay durable, from another process than its daemon.

sync(2) and syncfs(2) alone do not: for a FUSE mount the kernel writes its dirty pages back, but before Linux 7.3 it
does not tell the daemon to sync.  So this module has the pages written back first, and then asks the daemon at its
control socket.  Where that cannot be asked (an older daemon, storage without sockets, a mount of another user), it
syncs a directory: the daemon replies to that request when all changes of the overlay are durable, not those of the
directory alone.
"""

from __future__ import annotations

import errno
import os
import stat

from ...engine.errors import StateError
from ...engine.store.syscalls import syncfs
from ..mount import mount_table
from .client import ControlClient, Refused


def sync_overlay(path: str) -> None:
    """Return when all changes made so far in a mounted overlay are durable.

    Args:
        path: the mount point, or any path in the mount.

    Raises:
        StateError: *path* is not on a minifo mount, its daemon has ended, or a change could not be made durable.
    """
    try:
        _, entry = mount_table.locate(path)
    except OSError as error:
        raise StateError(f"{path} cannot be reached ({error.strerror})", mount_table.LISTING_HINT) from error
    source = mount_table.overlay_of(entry) if entry is not None else None
    if entry is None or source is None:
        raise StateError(f"{path} is not on a minifo mount", mount_table.LISTING_HINT)
    if source.at is not None:
        return  # a checkpoint is durable, and nothing changes it
    try:
        directory = path if stat.S_ISDIR(os.stat(path).st_mode) else entry.mountpoint
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syncfs(fd)
            if not _asked_to_commit(source.storage):
                os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in mount_table.DEAD_ERRNOS:
            command = mount_table.clear_command(entry.mountpoint)
            raise StateError(f"the daemon of {path} has ended", f"clear the mount: {command}") from error
        raise StateError(
            f"not everything in {entry.mountpoint} is durable ({error.strerror})", "the system log says what failed"
        ) from error


def _asked_to_commit(storage: str) -> bool:
    """Make the daemon of a storage commit; return False if it cannot be asked.

    Raises:
        OSError: the commit failed.
    """
    try:
        with ControlClient(storage, timeout=None) as client:  # a slow medium may take any time
            client.call("Sync")
    except Refused as error:
        if error.name != "CommitFailed":
            return False
        code = error.parameters.get("errno")
        code = code if isinstance(code, int) else errno.EIO
        raise OSError(code, os.strerror(code)) from error
    except StateError:
        return False  # if the daemon has ended, the kernel says so
    return True
