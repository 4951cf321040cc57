"""The overlay engine: a read-only base, a storage directory with one database, and every file-system rule.

It needs apsw and the standard library only, knows nothing of FUSE, prints nothing, and is synchronous.  Start reading
at ``Overlay``.
"""

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
