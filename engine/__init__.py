"""The overlay engine: a read-only base, a storage directory with one database, and every file-system rule.

It needs apsw and the standard library only, knows nothing of FUSE, prints nothing, and is synchronous.  Start reading
at ``Overlay``.  All but the errors is imported when it is first used: a program that asks a daemon starts without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import (
    Corrupt,
    FsError,
    MinifoError,
    NewerFormat,
    NotMinifo,
    StateError,
    StorageBusy,
    UsageError,
)

if TYPE_CHECKING:
    from .model import ROOT, Attr, Caller, DirEntry, Ino, Process, RenameFlags, SetAttr, State
    from .overlay import Overlay

#: The version of the program, as in pyproject.toml; importlib.metadata takes longer than a mount may.
VERSION = "0.1.0"

__all__ = [
    "ROOT",
    "VERSION",
    "Attr",
    "Caller",
    "Corrupt",
    "DirEntry",
    "FsError",
    "Ino",
    "MinifoError",
    "NewerFormat",
    "NotMinifo",
    "Overlay",
    "Process",
    "RenameFlags",
    "SetAttr",
    "State",
    "StateError",
    "StorageBusy",
    "UsageError",
]


def __getattr__(name: str) -> object:
    """Import a name that is not of errors.py (PEP 562).

    Raises:
        AttributeError: there is no such name.
    """
    if name == "Overlay":
        from .overlay import Overlay

        return Overlay
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import model

    return getattr(model, name)
