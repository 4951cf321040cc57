"""What becomes of each mount of the machine in the sandbox, so that nothing in it changes the machine.

A base is overlaid.  What is mounted below a base is not part of the base's file system, so each such mount needs a
decision of its own:

* a file system on a disk is overlaid as well, with a storage of its own;
* a tmpfs gets a layer of the kernel's overlayfs in memory, for what is in it is in memory, too, and does not last;
* /dev/shm is an empty one;
* terminals (devpts) are shared;
* everything else is shown as it is, but read-only: interfaces of the kernel, devices, mounts that are read-only
  already, those that this user may not look into, FUSE mounts of users, single files.  (Through a read-only mount a
  program can write to a device or a socket.)
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from ..mount.mount_table import FSTYPE, MountEntry, locate, read_mounts

_DEVICES = "/dev"
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_INTERFACES = frozenset({
    "autofs", "binder", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devtmpfs", "efivarfs",
    "fusectl", "hugetlbfs", "mqueue", "nfsd", "nsfs", "proc", "pstore", "resctrl", "rpc_pipefs", "securityfs",
    "selinuxfs", "smackfs", "sysfs", "tracefs",
})  # fmt: skip


class How(Enum):
    """What a mount becomes in the sandbox."""

    OVERLAY = "overlaid, with storage"
    MEMORY = "overlaid in memory"
    EMPTY = "an empty file system in memory"
    PROC = "the processes of the sandbox"
    SHARED = "as it is"
    READ_ONLY = "as it is, read-only"


class Part(NamedTuple):
    """One mount of the sandbox: its path, and what it becomes."""

    path: str
    how: How


def parts(bases: Iterable[str], shared: Iterable[str] = ()) -> list[Part]:
    """Return the mounts of the sandbox, outer ones first.

    Args:
        bases: true paths of the directories to overlay.
        shared: true paths of files and directories that the command may change for good.

    Raises:
        OSError: the mount table cannot be read.
    """
    found = {base: How.OVERLAY for base in bases}
    reached = [entry for entry in read_mounts() if _is_reached(entry)]
    for base in list(found):
        found |= {entry.mountpoint: _how(entry) for entry in reached if is_below(entry.mountpoint, base)}
    if "/" in found:
        found[_DEVICES] = How.READ_ONLY  # also where it is a directory of the root file system, as in a chroot
    found["/proc"] = How.PROC
    found |= {path: How.SHARED for path in shared}
    in_order = sorted(found, key=lambda path: (path.rstrip("/").count("/"), path))
    made: dict[str, How] = {}
    for path in in_order:
        above = next((made[up] for up in _parents(path) if up in made), None)
        # recursive, so they have taken along what is below
        if above is How.PROC or (above is How.READ_ONLY and found[path] is How.READ_ONLY):
            continue
        made[path] = found[path]
    return [Part(path, how) for path, how in made.items()]


def is_below(path: str, directory: str) -> bool:
    """Return whether *path* lies below *directory*, both true paths."""
    return path != directory and path.startswith(directory.rstrip("/") + "/")


def _parents(path: str) -> Iterable[str]:
    while path != "/":
        path = os.path.dirname(path)
        yield path


def _is_reached(entry: MountEntry) -> bool:
    """Return whether the path of a mount leads to it: it is not covered, and this user can get there."""
    try:
        found = locate(entry.mountpoint)[1]
    except OSError:
        return False
    return found is not None and found.id == entry.id


def _how(entry: MountEntry) -> How:
    """Return what becomes of a mount below a base."""
    path = entry.mountpoint
    if entry.fstype == "devpts":
        return How.SHARED
    if path == "/dev/shm" and entry.fstype in _IN_MEMORY:
        return How.EMPTY
    if entry.fstype in _INTERFACES or path == _DEVICES or any(is_below(path, top) for top in (_DEVICES, "/sys")):
        return How.READ_ONLY
    if "ro" in entry.options or not _is_directory(path) or not os.access(path, os.R_OK | os.X_OK, effective_ids=True):
        return How.READ_ONLY
    if entry.fstype in _IN_MEMORY:
        return How.MEMORY
    if entry.fstype.startswith("fuse") and entry.fstype not in (FSTYPE, "fuseblk"):
        return How.READ_ONLY
    return How.OVERLAY


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError:
        return False  # another user's FUSE mount, for example
