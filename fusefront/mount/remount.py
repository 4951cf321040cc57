"""Remounts an overlay: makes an existing mount read-only, or writable again.

The kernel does this (mount(2) with MS_REMOUNT): it writes its dirty pages back, and refuses changes from then on.  It
does not wait for the daemon's commit, so this module does.  The rule kept here: an option that remounting cannot change
is refused, never ignored.  The daemon's own options are fixed when it starts.
"""

from __future__ import annotations

import ctypes
import errno
import os

from ...engine.errors import StateError, UsageError
from ...engine.store.layers import real_base
from . import mount_table
from .end_report import owner_of
from .mount_table import MountEntry
from .options import Remount
from .source import Source, is_cut
from .unmount import is_written, our_mount

# mount(2): the flag that each option word sets, and the words that clear a flag
_MS_RDONLY, _MS_REMOUNT = 1, 32
_FLAGS = {
    "nosuid": 2, "nodev": 4, "noexec": 8, "sync": 16, "dirsync": 128, "noatime": 1 << 10, "nodiratime": 1 << 11,
    "relatime": 1 << 21,
}  # fmt: skip
_CONTRARY = {
    "suid": "nosuid", "dev": "nodev", "exec": "noexec", "async": "sync", "atime": "noatime",
    "relatime": "noatime", "strictatime": "noatime",
}  # fmt: skip
_FIXED = ("sync", "dirsync", "noatime")  # the daemon got these at its start


def remount(request: Remount, mountpoint: str) -> None:
    """Change the mount flags of the overlay mounted at a path.

    When this returns after a change to read-only, all changes of the overlay are durable.

    Args:
        request: the flags to set.
        mountpoint: the path; symbolic links are followed.

    Raises:
        StateError: there is no minifo mount, its daemon has ended, it is busy, or the kernel refuses the change.
        UsageError: the request names another base or storage, or an option that only a new mount can change.
    """
    entry, storage = our_mount(mountpoint)
    target = entry.mountpoint
    if mount_table.is_dead(target):
        command = mount_table.clear_command(target)
        raise StateError(f"the daemon of the mount at {target} has ended", f"clear the mount: {command}")
    source = _check_same(request, entry)
    read_only = "ro" in entry.options if request.read_only is None else request.read_only
    if not read_only and source.at is not None:
        raise StateError(
            f"{target} shows checkpoint {source.at}, so it cannot become writable",
            f"mount the overlay itself, without at=: it is in {storage}",
        )
    if not read_only and not is_written(storage, owner_of(entry)):
        raise StateError(
            f"{target} cannot become writable: it was mounted read-only, so its daemon has not locked the storage",
            f"unmount it, then mount it without ro: minifo umount {target}",
        )
    _mount(entry, request, read_only=read_only)
    if read_only:
        _commit(target)


def _check_same(request: Remount, entry: MountEntry) -> Source:
    source = mount_table.overlay_of(entry)
    assert source is not None
    base = None if request.base is None or is_cut(source.base) else real_base(request.base)
    storage = None if request.storage is None else os.path.realpath(request.storage)
    for given, there, what in ((base, source.base, "base"), (storage, source.storage, "storage")):
        if given is not None and given != there:
            raise UsageError(
                f"{entry.mountpoint} has {what} {there}, which remount cannot change to {given}",
                "unmount it, then mount it with the other directory",
            )
    for word in request.words:
        flag = _CONTRARY.get(word, word)
        if flag in _FIXED and (word == flag) != (flag in entry.options):
            raise UsageError(f"remount cannot change {word}", "unmount it, then mount it with the new options")
    return source


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
        raise StateError(f"only root may remount {entry.mountpoint}", "remount it as root")
    raise StateError(f"{entry.mountpoint} cannot be remounted ({os.strerror(code)})", "see kernel messages: dmesg")


def _commit(target: str) -> None:
    """Return when all changes are durable: the daemon replies to fsync of a directory after a commit.

    Raises:
        StateError: the commit failed.
    """
    root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(root)
    except OSError as error:
        raise StateError(
            f"{target} is read-only now, but its last changes are not durable ({error.strerror})",
            "the system log says what failed",
        ) from error
    finally:
        os.close(root)
