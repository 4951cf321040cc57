"""The check that only root can change the programs that mount(8) runs as root.

A link in /sbin makes mount(8) run the linked program as root, at boot and for every user who may mount.  So a user who
can write that program, its python interpreter or a module that it imports can become root.  The rule: root owns each
of these files, and every directory on the path to them, and no other user can write them.
"""

from __future__ import annotations

import importlib.util
import os
import stat
import sys
import sysconfig
from collections.abc import Iterator

_PARTS = ("engine", "fusefront", "migrations", "tools")


def changeable(paths: list[str]) -> str | None:
    """Return the first path that a user other than root may change, or None if root alone may change all of them.

    Args:
        paths: files and directories to check.  The directories above each path, and everything below a directory, are
            checked too; a path that does not exist is skipped.
    """
    seen: set[str] = set()
    for path in paths:
        for found in _way_to(os.path.abspath(path)):
            if found not in seen and _others_may_change(found):
                return found
            seen.add(found)
        for directory, directories, files in os.walk(path):
            for name in (*directories, *files):
                found = os.path.join(directory, name)
                if _others_may_change(found):
                    return found
    return None


def what_runs(scripts: list[str]) -> list[str]:
    """Return the paths of all code that runs with *scripts*: the scripts, this python, and its modules."""
    installed = [sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib")]
    found = [importlib.util.find_spec(f"minifo.{part}") for part in _PARTS]  # elsewhere in an editable install
    minifo = [path for spec in found if spec is not None for path in spec.submodule_search_locations or ()]
    return [*scripts, sys.executable, *installed, *minifo]


def _way_to(path: str, depth: int = 0) -> Iterator[str]:
    """Yield *path* and all directories above it; where a symbolic link is on the way, also the way to its target."""
    if depth > 40:  # as many as the kernel follows, path_resolution(7)
        return
    prefix = "/"
    for name in path.split("/"):
        prefix = os.path.join(prefix, name)
        yield prefix
        if os.path.islink(prefix):
            target = os.path.join(os.path.dirname(prefix), os.readlink(prefix))
            yield from _way_to(os.path.normpath(target), depth + 1)


def _others_may_change(path: str) -> bool:
    """Return whether a user other than root may change a file, or replace an entry of a directory."""
    try:
        st = os.lstat(path)
    except FileNotFoundError:
        return False
    if st.st_uid != 0:
        return True
    if stat.S_ISLNK(st.st_mode):
        return False  # changing a link takes write access to its directory, which is checked by itself
    if stat.S_ISDIR(st.st_mode) and st.st_mode & stat.S_ISVTX:
        return False  # in a sticky directory such as /tmp only root can replace root's entries
    return bool(st.st_mode & stat.S_IWOTH or (st.st_mode & stat.S_IWGRP and st.st_gid != 0))
