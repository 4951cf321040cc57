"""A note to umount(8) that a mount of ours has a helper.

Given an absolute path umount(8) does not read the mount table: it asks statfs(2), which says ``fuse`` and not
``fuse.minifo``, finds no helper for that, and returns before the last commit is durable.  It does read the table, and
so finds ours, if its own notes about mounts (``/run/mount/utab``) have any on that mount point.  The one that says so
is ``helper=minifo`` (umount(8), "External helpers").  libmount writes it, for it knows the format and takes the lock.

Only root's notes count, and only what uses libmount reads them: the umount of busybox knows neither notes nor helpers.
"""

from __future__ import annotations

import ctypes
import logging
import os

from .mount_table import find_mount, plain_text

log = logging.getLogger(__name__)

_LIBRARY = "libmount.so.1"
_NOTES = "/run/mount/utab"
_NOTE = b"helper=minifo"


def mark(target: str, source: str) -> None:
    """Note that a mount has a helper; where there is none, or it cannot be noted, nothing happens.

    Args:
        target: the true path of the mount point.
        source: the mount's source text.
    """
    if os.geteuid() == 0 and _is_mounted(target, source) and not _is_marked(target, source):
        _update(target, source)


def unmark(target: str, source: str) -> None:
    """Take the note back."""
    if os.geteuid() == 0 and _is_marked(target, source):
        _update(target, None)


def _is_mounted(target: str, source: str) -> bool:
    try:
        entry = find_mount(target)
    except OSError as error:
        log.debug("%s: %s", target, error)
        return False
    return entry is not None and entry.source == source


def _is_marked(target: str, source: str) -> bool:
    try:
        with open(_NOTES, "rb") as file:
            lines = file.read().splitlines()
    except OSError as error:
        log.debug("%s: %s", _NOTES, error)
        return False
    notes = [dict(field.split(b"=", 1) for field in line.split(b" ") if b"=" in field) for line in lines]
    return (target, source) in [
        (plain_text(note.get(b"TARGET", b"")), plain_text(note.get(b"SRC", b""))) for note in notes
    ]


def _update(target: str, source: str | None) -> None:
    """Note a mount with its source, or take back the note on a mount point."""
    try:
        library = ctypes.CDLL(_LIBRARY)
        for name in ("mnt_new_update", "mnt_new_fs"):
            getattr(library, name).restype = ctypes.c_void_p
    except (OSError, AttributeError) as error:
        log.debug("umount(8) is not told: %s", error)
        return
    update = ctypes.c_void_p(library.mnt_new_update())
    fs = ctypes.c_void_p(library.mnt_new_fs() if source is not None else None)
    place = os.fsencode(target)
    try:
        if source is not None:
            library.mnt_fs_set_source(fs, os.fsencode(source))
            library.mnt_fs_set_target(fs, place)
            library.mnt_fs_set_options(fs, _NOTE)
        code = library.mnt_update_set_fs(update, ctypes.c_ulong(0), None if source is not None else place, fs)
        if code == 0:
            code = library.mnt_update_table(update, None)
        if code:
            log.debug("umount(8) is not told of %s: %d", target, code)  # nowhere to write, mostly
    finally:
        library.mnt_free_update(update)
        library.mnt_unref_fs(fs)
