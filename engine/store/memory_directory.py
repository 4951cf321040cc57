"""The directory in memory that holds redo logs and the reports of ended mounts."""

from __future__ import annotations

import logging
import os
import stat

from .syscalls import file_system_type

log = logging.getLogger(__name__)

_MEMORY = (0x01021994, 0x858458F6)  # statfs(2): TMPFS_MAGIC, RAMFS_MAGIC


def memory_directory() -> str | None:
    """Return a directory on tmpfs or ramfs that only this user may write to; make it if needed.

    Root's is /run/minifo, another user's is ``minifo`` in $XDG_RUNTIME_DIR; the second choice is in /dev/shm.

    Returns:
        Its path; None if there is no such directory, and each operation must be committed by itself.
    """
    uid = os.geteuid()
    candidates = ["/run/minifo"] if uid == 0 else []
    if uid != 0 and (runtime := os.environ.get("XDG_RUNTIME_DIR")):
        candidates.append(os.path.join(runtime, "minifo"))
    candidates.append(f"/dev/shm/minifo-{uid}")
    for path in candidates:
        try:
            os.makedirs(path, 0o700, exist_ok=True)
            found = os.lstat(path)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            log.debug("%s cannot hold the redo log: %s", path, error)
            continue
        try:
            ours = found.st_uid == uid and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            if ours and file_system_type(fd) in _MEMORY:
                return path
        finally:
            os.close(fd)
    return None
