"""The system calls of namespaces and of the mounts in them, and the user namespace of an ordinary user.

Sources: unshare(2), mount(2), pivot_root(2), mount_setattr(2), user_namespaces(7), pid_namespaces(7).
"""

from __future__ import annotations

import ctypes
import errno
import os

from ...engine.errors import StateError
from ...engine.store.syscalls import checked, make_mounts_read_only

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x0002_0000, 0x1000_0000, 0x2000_0000  # linux/sched.h
NOSUID, NODEV, NOEXEC = 2, 4, 8  # linux/mount.h: MS_*
_BIND, _REC, _PRIVATE = 0x1000, 0x4000, 1 << 18
_MNT_DETACH = 2
_PR_SET_DUMPABLE = 4  # linux/prctl.h

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Move this process into new namespaces; its children, for CLONE_NEWPID.

    Raises:
        OSError: EPERM or ENOSPC where the machine does not permit it.
    """
    checked(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    """Mount a file system.

    Args:
        source, fstype, data: as the file system defines them.
        target: the mount point.
        flags: NOSUID and the like.

    Raises:
        OSError: of mount(2).
    """
    words = [os.fsencode(word) for word in (source, target, fstype)]
    checked(_libc.mount(*words, ctypes.c_ulong(flags), os.fsencode(data)), f"mount {target}")


def bind(source: str, target: str, *, recursive: bool = True, read_only: bool = False) -> None:
    """Show *source* at *target*, too; with what is mounted below it if *recursive*.

    Args:
        source: a file or a directory.
        target: a file or a directory, as *source* is.
        recursive: an ordinary user's namespace allows nothing else where mounts lie below.
        read_only: nothing can be changed through the new mounts; devices and sockets can be used.

    Raises:
        OSError: of mount(2) and mount_setattr(2).
    """
    flags = _BIND | (_REC if recursive else 0)
    checked(_libc.mount(os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(flags), None), f"bind {target}")
    if read_only:
        make_mounts_read_only(target)


def make_private() -> None:
    """Let no mount or unmount in this namespace reach another one, nor the other way round."""
    checked(_libc.mount(None, b"/", None, ctypes.c_ulong(_REC | _PRIVATE), None), "mount")


def enter_root(root: str) -> None:
    """Make the mount *root* the root of this mount namespace, and take everything else out of it.

    Raises:
        OSError: of pivot_root(2).
    """
    os.chdir(root)
    # old and new root at the same place: pivot_root(2), NOTES
    checked(_libc.pivot_root(b".", b"."), "pivot_root")
    checked(_libc.umount2(b".", _MNT_DETACH), "umount2")
    os.chdir("/")


def enter_user_namespace() -> None:
    """Move this process into a user namespace in which it may mount; its own uid and gid stay as they are.

    Raises:
        StateError: users may not make user namespaces here.
    """
    uid, gid = os.geteuid(), os.getegid()
    try:
        # else its files in /proc are root's: where this user may run the interpreter, but not read it
        checked(_libc.prctl(_PR_SET_DUMPABLE, *[ctypes.c_ulong(word) for word in (1, 0, 0, 0)]), "prctl")
        unshare(CLONE_NEWUSER)
        _write("/proc/self/setgroups", "deny")  # before gid_map: user_namespaces(7)
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")
    except OSError as error:
        why = {errno.ENOSPC: "the limit user.max_user_namespaces is reached"}.get(error.errno or 0, error.strerror)
        raise StateError(
            f"this user may make no user namespace ({why})", "run it as root, or see 'Who may use it' in docs/run.md"
        ) from error


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
