"""Who keeps a file system alive that is unmounted here: other mount namespaces, and processes that live inside it.

A mount is copied into every namespace made after it (a container, a service with a private /tmp), and a process may
have its root or working directory in one that is mounted nowhere any more.  The kernel keeps the connection to the
daemon for each of them.  A process's own mount table does not show what lies outside of its root directory, so root
enters each namespace, where a process gets the namespace's root; others read the tables.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
from dataclasses import dataclass

from . import mount_table
from .mount_table import MountEntry

log = logging.getLogger(__name__)

_CLONE_NEWNS = 0x00020000


@dataclass(frozen=True, slots=True)
class Holder:
    """Processes that keep a file system alive in one and the same way.

    Attributes:
        pids: their process ids, ascending.
        mountpoint: where it is mounted in their namespace; empty if they only live inside it.
    """

    pids: list[int]
    mountpoint: str


def holders(entry: MountEntry) -> list[Holder]:
    """Who holds the file system of *entry*, as far as can be seen.

    Its daemon must be alive: it is asked when a process lives inside.
    """
    namespaces: dict[int, list[int]] = {}
    inside = []
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            namespaces.setdefault(os.stat(f"/proc/{pid}/ns/mnt").st_ino, []).append(pid)
            if any(os.stat(f"/proc/{pid}/{what}").st_dev == entry.device for what in ("root", "cwd")):
                inside.append(pid)
        except OSError as exc:
            log.debug("process %d: %s", pid, exc.strerror)  # it ended, belongs to another user, or is the kernel's
    found = [
        Holder(pids, mountpoint)
        for pids in namespaces.values()
        if (mountpoint := next((other for other in _mountpoints(pids, entry)), ""))
    ]
    known = {pid for holder in found for pid in holder.pids}
    rest = [pid for pid in inside if pid not in known]
    return [*found, *([Holder(rest, "")] if rest else [])]


def _mountpoints(pids: list[int], entry: MountEntry) -> list[str]:
    """Where the file system is mounted in the namespace of some processes."""
    entered = _in_namespace(pids[0], entry)
    if entered is not None:
        return entered
    for pid in pids:
        try:
            return _of(mount_table.read_mounts(f"/proc/{pid}/mountinfo"), entry)
        except OSError as exc:
            log.debug("process %d: %s", pid, exc.strerror)
    return []


def _of(mounts: list[MountEntry], entry: MountEntry) -> list[str]:
    return [other.mountpoint for other in mounts if other.device == entry.device and other.source == entry.source]


def _in_namespace(pid: int, entry: MountEntry) -> list[str] | None:
    """The same, seen from the namespace's root directory; None if it cannot be entered."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # there may be none in there
            namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            if ctypes.CDLL(None).setns(namespace, _CLONE_NEWNS) == 0:
                with open(os.open("self/mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc), "rb") as table:
                    mounts = mount_table.parse_mountinfo(table.read())
                os.write(writer, json.dumps(_of(mounts, entry)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    found: list[str] | None = json.loads(text) if text else None
    return found
