"""Change a mount that is there: let it take no more changes, or take them again.

The kernel does it (mount(2) with MS_REMOUNT): it refuses changes from then on and has written back what it held of
files.  What it knows nothing of is the daemon's commit, which is waited for.  The rule kept here: nothing is said to be
changed that is not.  The daemon's own options are fixed when it starts.
"""

from __future__ import annotations

import ctypes
import errno
import os

from ...engine.errors import StateError, UsageError
from . import mount_table
from .end_report import owner_of
from .mount_table import MountEntry
from .options import Remount
from .unmount import is_written, our_mount

# mount(2); a word that is shown sets its flag, and so does its contrary clear it.
_MS_RDONLY, _MS_REMOUNT = 1, 32
_FLAGS = {
    "nosuid": 2, "nodev": 4, "noexec": 8, "sync": 16, "dirsync": 128, "noatime": 1 << 10, "nodiratime": 1 << 11,
    "relatime": 1 << 21,
}  # fmt: skip
_CONTRARY = {
    "suid": "nosuid", "dev": "nodev", "exec": "noexec", "async": "sync", "atime": "noatime",
    "relatime": "noatime", "strictatime": "noatime",
}  # fmt: skip
_FIXED = ("sync", "dirsync", "noatime")  # the daemon was told


def remount(request: Remount, mountpoint: str) -> None:
    """Change the overlay mounted at a path; when it takes no more changes, all that was made are durable.

    Args:
        request: what is asked for.
        mountpoint: the path; symbolic links are followed.

    Raises:
        StateError: nothing of ours is mounted there, it is busy, or it cannot be changed so.
        UsageError: something else than ``ro`` and ``rw`` and the words of the kernel is to be changed.
    """
    entry, storage = our_mount(mountpoint)
    target = entry.mountpoint
    if mount_table.is_dead(target):
        raise StateError(f"{target} holds a mount whose daemon is gone", f"clear it: umount -l {target}")
    _check_same(request, entry)
    read_only = "ro" in entry.options if request.read_only is None else request.read_only
    if not read_only and not is_written(storage, owner_of(entry)):
        raise StateError(
            f"{target} was mounted read-only, its storage is not held for writing",
            f"unmount it, then mount it without ro: minifo umount {target}",
        )
    _mount(entry, request, read_only=read_only)
    if read_only:
        _commit(target)


def _check_same(request: Remount, entry: MountEntry) -> None:
    overlay = mount_table.overlay_of(entry)
    assert overlay is not None
    for given, there, what in zip((request.base, request.storage), overlay, ("base", "storage"), strict=True):
        if given is not None and os.path.realpath(given) != there:
            raise UsageError(f"{entry.mountpoint} has {what} {there}, not {given}", "unmount it, then mount the other")
    for word in request.words:
        flag = _CONTRARY.get(word, word)
        if flag in _FIXED and (word == flag) != (flag in entry.options):
            raise UsageError(f"{word} cannot be changed by remount", "unmount it, then mount it with the new options")


def _mount(entry: MountEntry, request: Remount, *, read_only: bool) -> None:
    flags = _MS_REMOUNT | (_MS_RDONLY if read_only else 0)
    for word, bit in _FLAGS.items():
        undone = any(_CONTRARY.get(given) == word for given in request.words)
        if word in request.words or (word in entry.options and not undone):
            flags |= bit
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(None, os.fsencode(entry.mountpoint), None, ctypes.c_ulong(flags), None) == 0:
        return
    code = ctypes.get_errno()
    if code == errno.EBUSY:
        raise StateError(f"{entry.mountpoint} is busy: files are open for writing", f"fuser -vm {entry.mountpoint}")
    if code == errno.EPERM:
        raise StateError(f"{entry.mountpoint} cannot be remounted by this user", "remount it as root")
    raise StateError(f"{entry.mountpoint} cannot be remounted ({os.strerror(code)})", "see kernel messages: dmesg")


def _commit(target: str) -> None:
    """Return when everything is durable (fsync of a directory is answered after a commit)."""
    root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(root)
    except OSError as error:
        raise StateError(
            f"{target} takes no more changes, but the last ones are not durable ({error.strerror})",
            "see the system's log for what failed",
        ) from error
    finally:
        os.close(root)
