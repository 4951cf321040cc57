"""The calls on the daemon's own mount that the helper process makes for the daemon (helper_process.py).

Each call is a function of the mount point and a few numbers.  ``answer`` calls it by its name, and returns its result
or error as a message.  Most of them wait until the daemon has answered requests of the kernel.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any

from ...engine.errors import StateError
from ...engine.store.syscalls import forget_names, open_by_handle_at, sync_file_range, syncfs
from ..process import proc_info
from . import utab
from .mount_table import read_mounts
from .unmount import detach

log = logging.getLogger(__name__)

Message = dict[str, Any]  # an answer as JSON has it: ``value``, or ``errno``, or ``state`` (message and hint)

_FILEID_INO64_GEN = 0x81  # the kernel's fs/fuse/inode.c, fuse_encode_fh: node number (high word first), generation
_ROOT_OF_INIT = "/proc/1/root"
_READ_AHEAD = 1024  # KiB; INIT can ask for 128 at most, which reads large files half as fast


def answer(mountpoint: str, call: str, *arguments: int | str, sent: contextlib.ExitStack) -> Message:
    """Make a call, and return its result or its error as a message.

    Args:
        mountpoint: where the mount is.
        call: the name of the call: ``write_back``, or a key of ``_CALLS``.
        arguments: the arguments of the call after the mount point.
        sent: gets what is to be done when the message has been sent.
    """
    try:
        if call == "write_back":
            _write_back(mountpoint, *map(int, arguments), sent=sent)
            return {"value": None}
        return {"value": _CALLS[call](mountpoint, *arguments)}
    except StateError as error:
        return {"state": [error.message, error.hint]}
    except OSError as error:
        return {"errno": error.errno or errno.EIO}


def result_of(message: Message, mountpoint: str) -> Any:
    """Return the result in a message of ``answer``.

    Raises:
        StateError, OSError: the error in the message.
    """
    if "state" in message:
        raise StateError(*message["state"])
    if "errno" in message:
        raise OSError(message["errno"], os.strerror(message["errno"]), mountpoint)
    return message["value"]


def _probe(mountpoint: str) -> int:
    """Return st_dev of the mount when it responds; set its read-ahead."""
    device = os.stat(mountpoint).st_dev
    _set_read_ahead(device)
    return device


def _await_answer(mountpoint: str, device: int) -> None:
    """Return when the daemon has answered statfs(2), of which the kernel caches nothing; at once if it is unmounted."""
    for path in _paths(mountpoint, device):
        try:
            if os.stat(path).st_dev == device:
                os.statvfs(path)
                return
        except FileNotFoundError:
            continue


def _set_read_ahead(device: int) -> None:
    """Let the kernel read further ahead than INIT can ask for; root only (sysfs, bdi)."""
    path = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(str(_READ_AHEAD))
    except OSError as error:
        log.debug("the read-ahead of the mount cannot be set in %s: %s", path, error)


def _is_writing(mountpoint: str, pid: int, ino: int) -> bool:
    return proc_info.is_writing(pid, ino)


def _unmark(mountpoint: str, source: str) -> None:
    utab.remove_entry(mountpoint, source)


def _is_root(mountpoint: str, device: int) -> bool:
    return os.stat(_ROOT_OF_INIT).st_dev == device


def _open_root(mountpoint: str, device: int) -> int | None:
    """Return a descriptor of the mount's root directory, also if the mount was moved; None if no path leads to it.

    The caller closes it at the end of the call, for an open descriptor would keep the mount busy.
    """
    for path in _paths(mountpoint, device):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            if path == mountpoint and not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise
            continue
        if os.fstat(fd).st_dev == device:
            return fd
        os.close(fd)
    return None


def _paths(mountpoint: str, device: int) -> Iterator[str]:
    """Yield the paths where the mount may be: its first mount point, and those to which it may have been moved."""
    yield mountpoint
    # at boot the mount is moved over the root directory; the daemon and its helper keep the old root directory
    yield _ROOT_OF_INIT
    yield from (entry.mountpoint for entry in read_mounts() if entry.device == device)


def _write_back_all(mountpoint: str, device: int) -> None:
    root = _open_root(mountpoint, device)
    if root is not None:
        try:
            syncfs(root)
        finally:
            os.close(root)


def _forget_names(mountpoint: str, device: int) -> None:
    root = _open_root(mountpoint, device)
    if root is not None:
        try:
            forget_names(root)
        finally:
            os.close(root)


def _write_back(mountpoint: str, device: int, ino: int, *, sent: contextlib.ExitStack) -> None:
    root = _open_root(mountpoint, device)
    if root is None:
        return  # unmounted, or hidden by another mount: no process is left that could write
    try:
        try:
            fd = _open_by_number(root, ino)
        except PermissionError:
            syncfs(root)  # any user may call it, but it writes every file back, not one
            return
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            return  # the kernel has no such inode in memory, so it has no dirty pages of it
        # Not before: to close it locks the inode (Linux 6.12, fuse_flush), as a rename does that waits for the answer.
        sent.callback(os.close, fd)
        sync_file_range(fd)
    finally:
        os.close(root)


def _open_by_number(root: int, ino: int) -> int:
    """Return a descriptor of a file of the mount by its inode number.

    Raises:
        OSError: ESTALE if the kernel has no such inode in memory, EPERM if the user is not root.
    """
    handle = struct.pack("=III", ino >> 32, ino & 0xFFFF_FFFF, 0)
    return open_by_handle_at(root, _FILEID_INO64_GEN, handle, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)


def _detach(mountpoint: str, lazy: int) -> None:
    detach(mountpoint, lazy=bool(lazy))


_CALLS: dict[str, Callable[..., Any]] = {
    "probe": _probe, "await_answer": _await_answer, "is_root": _is_root, "write_back_all": _write_back_all,
    "forget_names": _forget_names, "detach": _detach, "is_writing": _is_writing, "unmark": _unmark,
}  # fmt: skip
