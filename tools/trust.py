"""Who but root could change what root is about to run.

A link in /sbin makes mount(8), at boot and for every user who may mount, run the program that it leads to as root.  So
whoever may write that program, the python that reads it, or a module that it imports, is root.  The rule here: every
one of these, and every directory on the way there, belongs to root and can be written by nobody else.
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
    """The first of *paths*, of what lies on the way to them or below them, that others than root may change.

    Args:
        paths: files, or directories with all that is in them; what does not exist is left out.

    Returns:
        A path, None if there is none.
    """
    seen: set[str] = set()
    for path in paths:
        for place in _way(os.path.abspath(path)):
            if place not in seen and _is_open(place):
                return place
            seen.add(place)
        for directory, directories, files in os.walk(path):
            for name in (*directories, *files):
                place = os.path.join(directory, name)
                if _is_open(place):
                    return place
    return None


def what_runs(scripts: list[str]) -> list[str]:
    """Everything that is read to run the *scripts* of this installation: them, this python and its modules."""
    installed = [sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib")]
    found = [importlib.util.find_spec(f"minifo.{part}") for part in _PARTS]  # may lie elsewhere: an editable install
    ours = [place for spec in found if spec is not None for place in spec.submodule_search_locations or ()]
    return [*scripts, sys.executable, *installed, *ours]


def _way(path: str, depth: int = 0) -> Iterator[str]:
    """*path* and all directories above it, those that symbolic links lead through included."""
    if depth > 40:  # as many as the kernel follows, path_resolution(7)
        return
    place = "/"
    for name in path.split("/"):
        place = os.path.join(place, name)
        yield place
        if os.path.islink(place):
            target = os.path.join(os.path.dirname(place), os.readlink(place))
            yield from _way(os.path.normpath(target), depth + 1)


def _is_open(path: str) -> bool:
    """Whether somebody else than root may change an object, or put another in the place of what is in it."""
    try:
        st = os.lstat(path)
    except FileNotFoundError:
        return False
    if st.st_uid != 0:
        return True
    if stat.S_ISLNK(st.st_mode):
        return False  # only who may write its directory may change it
    if stat.S_ISDIR(st.st_mode) and st.st_mode & stat.S_ISVTX:
        return False  # as /tmp: what belongs to root stays there
    return bool(st.st_mode & stat.S_IWOTH or (st.st_mode & stat.S_IWGRP and st.st_gid != 0))
