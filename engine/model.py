"""The plain values that cross the engine's border: attributes, directory entries, changes, callers.

Times are nanoseconds since the epoch, sizes bytes, ``blocks`` units of 512 bytes (stat(2)), names and paths bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntFlag
from typing import NamedTuple, NewType, Protocol

Ino = NewType("Ino", int)
ROOT = Ino(1)

NAME_MAX = 255  # bytes in one name (limits.h); the kernel's FUSE client would pass up to 1024
SYMLINK_MAX = 4095  # bytes in a symlink target (path_resolution(7): PATH_MAX less the NUL)
XATTR_MAX = 65536  # bytes of the value of an extended attribute (limits.h)
OBJECTS_END = 1 << 62  # ids of content objects are below
FILE_MAX = 2**63 - 4096  # bytes; what loff_t can address in whole pages


class Attr(NamedTuple):
    """The attributes of one object, as stat(2) reports them."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    atime: int
    mtime: int
    ctime: int


class DirEntry(NamedTuple):
    """One entry of a directory listing; ``cookie`` resumes the listing after it."""

    name: bytes
    attr: Attr
    cookie: int


class Caller(Protocol):
    """Who asks: the file-system ids and the umask of the process behind a request."""

    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def umask(self) -> int: ...


class Process(NamedTuple):
    """A caller by its numbers."""

    uid: int = 0
    gid: int = 0
    umask: int = 0


@dataclass(slots=True)
class SetAttr:
    """The attributes one setattr changes; None leaves an attribute as it is.

    ``kill_priv`` asks to drop set-id bits as a write or truncate by an unprivileged process does; ``in_group`` is False
    where that process is not in the file's group.
    """

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime: int | None = None
    mtime: int | None = None
    ctime: int | None = None
    kill_priv: bool = False
    in_group: bool = True


class RenameFlags(IntFlag):
    """Flags of renameat2(2) that the engine serves."""

    NONE = 0
    NOREPLACE = 1
    EXCHANGE = 2


class State(Enum):
    """mini_fo's name for what happened to an object (its source spells it NON_EXISTANT)."""

    UNMODIFIED = "UNMODIFIED"
    MODIFIED = "MODIFIED"
    CREATED = "CREATED"
    DEL_REWRITTEN = "DEL_REWRITTEN"
    DELETED = "DELETED"
    NON_EXISTANT = "NON_EXISTANT"
