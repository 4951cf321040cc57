"""Puts the mounts of a sandbox together, in a mount namespace that only its processes are in."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping, Sequence

from ...engine.errors import StateError
from . import namespaces
from .layout import How, Part

# what a program of root could change the machine with
_PROC_READ_ONLY = ("sys", "sysrq-trigger", "irq", "bus", "fs")
_PROC_FLAGS = namespaces.NOSUID | namespaces.NODEV | namespaces.NOEXEC


def build(parts: Sequence[Part], overlays: Mapping[str, str]) -> None:
    """Make the mounts of a sandbox, and enter its root directory.

    Args:
        parts: the mounts, outer ones first.
        overlays: where each path that is overlaid (``How.OVERLAY`` and ``How.MEMORY``) is mounted now.

    Raises:
        StateError: a mount cannot be made.
    """
    root = overlays.get("/", "/")
    for part in parts:
        target = root.rstrip("/") + part.path
        try:
            _make(part, target, overlays)
        except OSError as error:
            raise StateError(f"{part.path} cannot be mounted in the sandbox ({error})", "") from error
    try:
        if root != "/":
            namespaces.enter_root(root)
    except OSError as error:
        raise StateError(f"the sandbox's root directory cannot be entered ({error})", "") from error


def _make(part: Part, target: str, overlays: Mapping[str, str]) -> None:
    if part.path in overlays:
        if part.path != "/":
            _make_place(part.path, target)
            namespaces.bind(overlays[part.path], target)
    elif part.how is How.EMPTY:
        namespaces.mount("tmpfs", target, "tmpfs", namespaces.NOSUID | namespaces.NODEV, "mode=1777")
    elif part.how is How.PROC:
        _make_proc(target)
    else:
        _make_place(part.path, target)
        namespaces.bind(part.path, target, read_only=part.how is How.READ_ONLY)


def _make_proc(target: str) -> None:
    """Mount a proc file system, through which the kernel cannot be configured."""
    try:
        namespaces.mount("proc", target, "proc", _PROC_FLAGS)
    except PermissionError:
        # in a container that hides parts of /proc a user may mount no other one
        namespaces.bind("/proc", target)
    for name in _PROC_READ_ONLY:
        path = os.path.join(target, name)
        if os.path.exists(path):
            with contextlib.suppress(PermissionError):  # hidden there, so that it cannot be written either
                namespaces.bind(path, path, read_only=True)


def _make_place(source: str, target: str) -> None:
    """Make the mount point, which an earlier command in a kept storage may have deleted, or an empty /dev/shm lacks."""
    if os.path.lexists(target):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if stat.S_ISDIR(os.stat(source).st_mode):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))
