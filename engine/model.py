"""The plain values that the engine takes and returns: attributes, directory entries, changes, callers.

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
XATTR_MAX = 65536  # bytes in the value of an extended attribute (limits.h)
XATTR_NAME_MAX = 255  # bytes in the name of one (limits.h)
XATTR_LIST_MAX = 65536  # bytes in all names of an object, with a NUL after each (limits.h)
ACL_ACCESS = b"system.posix_acl_access"
ACL_DEFAULT = b"system.posix_acl_default"
XATTR_ACLS = (ACL_ACCESS, ACL_DEFAULT)
#: The namespaces of extended attributes that every Linux file system may hold (xattr(7)), beside the two ACLs.
XATTR_SPACES = (b"user.", b"trusted.", b"security.")
BLOCK_SIZE = 4096  # bytes in a block, the unit in which file systems give out space
DIRECTORY_SIZE = 4096  # bytes; what most file systems report for a small directory
OBJECTS_END = 1 << 62  # all ids of content objects are less
FILE_MAX = 2**63 - 4096  # bytes in a file; the most whole pages that loff_t can address
ORIGIN_MAX = 64 << 10  # bytes of a base file that is kept for merges; a larger one is seldom a text that can be merged
TRIAL_MOUNTS = 3  # of a trial, if nothing else is said (engine/trial.py)
TRIAL_MOUNTS_MAX = 1000
JOURNAL_MAX = 1_000_000  # entries, of about 100 bytes each
#: What an entry of the journal can say was done, in the order of the documents.
JOURNAL_OPERATIONS = (
    *("create", "mkdir", "symlink", "mknod", "link", "unlink", "rmdir", "rename", "exchange"),
    *("write", "truncate", "chmod", "chown", "times", "setxattr", "removexattr", "missing"),
    *("rebase", "merge", "rollback", "undo", "redo", "revert", "reset", "trial", "abandon"),  # what commands do
)


def is_known_xattr(name: bytes) -> bool:
    """Return whether file systems hold extended attributes of that name: an ACL, or a name within a namespace."""
    return name in XATTR_ACLS or (name.startswith(XATTR_SPACES) and name not in XATTR_SPACES)


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


FIRST_COOKIE = 3  # of a name in a listing; 1 and 2 are the cookies of "." and ".."


class DirEntry(NamedTuple):
    """One entry of a directory listing; a listing that starts at ``cookie`` goes on after this entry."""

    name: bytes
    attr: Attr
    cookie: int


class Caller(Protocol):
    """The file-system ids and the umask of the process that made a request."""

    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def umask(self) -> int: ...


class Process(NamedTuple):
    """A caller with given ids and umask."""

    uid: int = 0
    gid: int = 0
    umask: int = 0


@dataclass(slots=True)
class SetAttr:
    """The changes of one setattr; None leaves an attribute unchanged.

    ``kill_priv`` asks to clear the set-id bits, as a write or truncate by an unprivileged process does; ``in_group`` is
    False if that process is not in the file's group: then set-group-ID is cleared without group execute permission too.
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


class JournalEntry(NamedTuple):
    """One change, as the journal has it.

    Attributes:
        id: grows by one with each entry.
        time: ns since the epoch.
        op: what was done (``JOURNAL_OPERATIONS``).
        path: in the overlay, after the change; without a slash at its start: the end of a path that was too long.
        other: the path before a rename, or the path of which a link is one; None for other changes.
        uid, pid, command: the process that asked; None for what is not known.
    """

    id: int
    time: int
    op: str
    path: bytes
    other: bytes | None
    uid: int | None
    pid: int | None
    command: bytes | None


class JournalSlice(NamedTuple):
    """Some entries of the journal.

    Attributes:
        entries: in the order that was asked for.
        next: where to go on: the first id of the next slice; backward the id after its last one.
        impossible: how many entries among them are impossible, and left out.
    """

    entries: list[JournalEntry]
    next: int
    impossible: int


class RenameFlags(IntFlag):
    """The flags of renameat2(2) that the engine supports."""

    NONE = 0
    NOREPLACE = 1
    EXCHANGE = 2


class State(Enum):
    """The state of an object, in mini_fo's names (its source spells NON_EXISTANT so)."""

    UNMODIFIED = "UNMODIFIED"
    MODIFIED = "MODIFIED"
    CREATED = "CREATED"
    DEL_REWRITTEN = "DEL_REWRITTEN"
    DELETED = "DELETED"
    NON_EXISTANT = "NON_EXISTANT"
