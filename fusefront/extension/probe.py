"""Tries whether the session hook fits the libfuse and the pyfuse3 that are installed, without a mount.

A session is made that cannot be mounted: its mount point does not exist.  What the hook knows is decided before that.
Call it in a child process, for a library that does not fit may crash.
"""

from __future__ import annotations

import ctypes
from typing import TypedDict

from . import loader

_NOWHERE = "/dev/null/minifo"  # below what is no directory, so there never is a mount point
_LIBRARY = "/libfuse3.so"


class Probed(TypedDict):
    """What was found.

    Attributes:
        loaded: the extension is installed and can be loaded.
        known: it knows these versions of libfuse and pyfuse3.
        libfuse: the version of libfuse, and its path.
    """

    loaded: bool
    known: bool
    libfuse: str


def probe() -> Probed:
    """Load the hook, pyfuse3 and libfuse, and make a session.

    Raises:
        ImportError: pyfuse3 cannot be loaded, most often because libfuse is missing.
    """
    loaded = loader.load() is not None
    import pyfuse3

    try:
        pyfuse3.init(pyfuse3.Operations(), _NOWHERE, set())
    except RuntimeError:
        pass  # as intended: it cannot be mounted
    else:
        raise AssertionError(f"{_NOWHERE} was mounted")
    return {"loaded": loaded, "known": loader.is_known(), "libfuse": _libfuse()}


def _libfuse() -> str:
    """Return the version of the libfuse in this process, and its path."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        paths = {line.split(maxsplit=5)[5].strip() for line in file if _LIBRARY in line}
    found = []
    for path in sorted(paths):
        version = ctypes.CDLL(path).fuse_pkgversion
        version.restype = ctypes.c_char_p
        found.append(f"{version().decode()} ({path})")
    return ", ".join(found)
