"""Finds the processes that keep a file system alive after it was unmounted in this mount namespace.

A new mount namespace (of a container, of a service with a private /tmp) gets a copy of every mount, and a process may
have its root or working directory in a file system that is mounted nowhere any more.  The kernel keeps the connection
to the daemon open for each of these.  The mount table of a process does not show mounts outside of its root directory.
So root's process enters each namespace, and gets the root directory of that namespace; other users read the tables.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass

from ...engine.store.syscalls import enter_mount_namespace
from . import mount_table
from .mount_table import MountEntry

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Holder:
    """Processes that keep a file system alive for the same reason.

    Attributes:
        pids: their process ids, ascending.
        mountpoint: where it is mounted in their mount namespace; empty if only a root or working directory is there.
    """

    pids: list[int]
    mountpoint: str


def holders(entry: MountEntry) -> list[Holder]:
    """Return the processes that keep the file system of *entry* alive, as far as the caller may see them.

    Its daemon must be running: the stat(2) of a root or working directory in the file system waits for it.
    """
    namespaces: dict[int, list[int]] = {}
    inside = []
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            namespaces.setdefault(os.stat(f"/proc/{pid}/ns/mnt").st_ino, []).append(pid)
            if any(os.stat(f"/proc/{pid}/{what}").st_dev == entry.device for what in ("root", "cwd")):
                inside.append(pid)
        except OSError as exc:
            log.debug("process %d cannot be examined: %s", pid, exc.strerror)  # ended, or of another user
    found = [
        Holder(pids, mountpoint)
        for pids in namespaces.values()
        if (mountpoint := next((other for other in _mountpoints(pids, entry)), ""))
    ]
    known = {pid for holder in found for pid in holder.pids}
    rest = [pid for pid in inside if pid not in known]
    return [*found, *([Holder(rest, "")] if rest else [])]


def _mountpoints(pids: list[int], entry: MountEntry) -> list[str]:
    """Return the mount points of the file system of *entry* in the mount namespace that *pids* share."""
    entered = _in_namespace(pids[0], entry)
    if entered is not None:
        return entered
    for pid in pids:
        try:
            return _mountpoints_in(mount_table.read_mounts(f"/proc/{pid}/mountinfo"), entry)
        except OSError as exc:
            log.debug("the mounts of process %d cannot be read: %s", pid, exc.strerror)
    return []


def _mountpoints_in(mounts: list[MountEntry], entry: MountEntry) -> list[str]:
    return [other.mountpoint for other in mounts if other.device == entry.device and other.source == entry.source]


def _in_namespace(pid: int, entry: MountEntry) -> list[str] | None:
    """Return the mount points of *entry* in the namespace of a process, read by a child that enters the namespace.

    Returns:
        Paths from the root directory of the namespace; None if the child cannot enter it.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # the namespace may have no /proc
            namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            enter_mount_namespace(namespace)
            with open(os.open("self/mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc), "rb") as table:
                mounts = mount_table.parse_mountinfo(table.read())
            os.write(writer, json.dumps(_mountpoints_in(mounts, entry)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    found: list[str] | None = json.loads(text) if text else None
    return found
