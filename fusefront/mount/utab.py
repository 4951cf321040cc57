"""Adds an entry to libmount's file utab that makes umount(8) call minifo's helper.

For an absolute path umount(8) does not read the mount table.  It calls statfs(2), which returns the type ``fuse`` and
not ``fuse.minifo``; it finds no helper for that type, and returns before the last commit is durable.  But if
``/run/mount/utab`` has an entry for the mount point, umount(8) reads the mount table and finds the helper.  The entry
is ``helper=minifo`` (umount(8), "External helpers").  libmount writes it, for it knows the format and the file's lock.

umount(8) reads entries of root only, and only programs that use libmount read the file: the umount of busybox does not.
"""

from __future__ import annotations

import ctypes
import logging
import os

from .mount_table import find_mount, plain_text

log = logging.getLogger(__name__)

_LIBRARY = "libmount.so.1"
_UTAB = "/run/mount/utab"
_OPTIONS = b"helper=minifo"


def has_library() -> bool:
    """Return whether there is the libmount that writes an entry."""
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError as error:
        log.debug("libmount cannot be loaded: %s", error)
        return False
    return True


def add_entry(target: str, source: str) -> None:
    """Add the entry for a mount; do nothing if the mount or libmount is missing, or the caller is not root.

    Args:
        target: the true path of the mount point.
        source: the mount's source text.
    """
    if os.geteuid() == 0 and _is_mounted(target, source) and not _has_entry(target, source):
        _update(target, source)


def remove_entry(target: str, source: str) -> None:
    """Remove the entry for a mount; do nothing if there is none, or the caller is not root.

    Args:
        target: the true path of the mount point.
        source: the mount's source text.
    """
    if os.geteuid() == 0 and _has_entry(target, source):
        _update(target, None)


def _is_mounted(target: str, source: str) -> bool:
    try:
        entry = find_mount(target)
    except OSError as error:
        log.debug("%s cannot be examined: %s", target, error)
        return False
    return entry is not None and entry.source == source


def _has_entry(target: str, source: str) -> bool:
    try:
        with open(_UTAB, "rb") as file:
            lines = file.read().splitlines()
    except OSError as error:
        log.debug("%s cannot be read: %s", _UTAB, error)
        return False
    entries = [dict(field.split(b"=", 1) for field in line.split(b" ") if b"=" in field) for line in lines]
    return (target, source) in [
        (plain_text(entry.get(b"TARGET", b"")), plain_text(entry.get(b"SRC", b""))) for entry in entries
    ]


def _update(target: str, source: str | None) -> None:
    """Add an entry for a mount with this source; with None remove the entry for the mount point."""
    try:
        library = ctypes.CDLL(_LIBRARY)
        for name in ("mnt_new_update", "mnt_new_fs"):
            getattr(library, name).restype = ctypes.c_void_p
    except (OSError, AttributeError) as error:
        log.debug("%s cannot be changed, for libmount is missing: %s", _UTAB, error)
        return
    update = ctypes.c_void_p(library.mnt_new_update())
    fs = ctypes.c_void_p(library.mnt_new_fs() if source is not None else None)
    place = os.fsencode(target)
    try:
        if source is not None:
            library.mnt_fs_set_source(fs, os.fsencode(source))
            library.mnt_fs_set_target(fs, place)
            library.mnt_fs_set_options(fs, _OPTIONS)
        code = library.mnt_update_set_fs(update, ctypes.c_ulong(0), None if source is not None else place, fs)
        if code == 0:
            code = library.mnt_update_table(update, None)
        if code:
            # most often because /run is read-only
            log.debug("%s cannot be changed for %s: code %d of libmount", _UTAB, target, code)
    finally:
        library.mnt_free_update(update)
        library.mnt_unref_fs(fs)
