"""The directory in memory that holds redo logs and the reports of ended mounts."""

from __future__ import annotations

import logging
import os
import stat

from .syscalls import file_system_type

log = logging.getLogger(__name__)

#: Bytes of a redo log after which a commit is made before its time: so much must be free in the directory.
LOG_MAX = 4 << 20

_MEMORY = (0x01021994, 0x858458F6)  # statfs(2): TMPFS_MAGIC, RAMFS_MAGIC


def memory_directory() -> str | None:
    """Return a directory on tmpfs or ramfs that only this user may write to; make it if needed.

    Root's is /run/minifo, another user's is ``minifo`` in $XDG_RUNTIME_DIR; the second choice is in /dev/shm.  Who is
    root in a user namespace only has that of the user outside.

    Returns:
        Its path; None if there is no such directory, and each operation must be committed by itself.
    """
    for path in _candidates():
        try:
            os.makedirs(path, 0o700, exist_ok=True)
            if _is_ours_in_memory(path):
                return path
        except OSError as error:
            log.debug("%s cannot hold the redo log: %s", path, error)
    return None


def expected_memory_directory() -> str | None:
    """Return what ``memory_directory`` would return, but make no directory."""
    for path in _candidates():
        try:
            if _is_ours_in_memory(path):
                return path
        except FileNotFoundError:
            above = os.path.dirname(path)
            if os.access(above, os.W_OK | os.X_OK) and _is_in_memory(above):
                return path
        except OSError as error:
            log.debug("%s cannot hold the redo log: %s", path, error)
    return None


def _candidates() -> list[str]:
    uid = _machine_uid()
    found = ["/run/minifo"] if uid == 0 else []
    if uid != 0 and (runtime := os.environ.get("XDG_RUNTIME_DIR")):
        found.append(os.path.join(runtime, "minifo"))
    return [*found, f"/dev/shm/minifo-{uid}"]


def _machine_uid() -> int:
    """Return this user's number outside of a user namespace that it is root of, as podman makes one for each user."""
    uid = os.geteuid()
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            ranges = [tuple(map(int, line.split())) for line in file]
    except OSError:
        return uid  # no /proc, as early at boot
    return next((outside + uid - first for first, outside, count in ranges if first <= uid < first + count), uid)


def _is_ours_in_memory(path: str) -> bool:
    """Return whether a directory is on tmpfs or ramfs, and only this user may write to it.

    Raises:
        OSError: it cannot be opened.
    """
    found = os.lstat(path)
    ours = found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return _is_in_memory(path) and ours


def _is_in_memory(path: str) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return file_system_type(fd) in _MEMORY
    finally:
        os.close(fd)
