"""What the Python API takes and returns: paths, changes, checkpoints, and errors as the standard library has them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from . import checkpoint_values
from .errors import FsError, UsageError
from .model import BLOCK_SIZE, Attr
from .queries import changes
from .queries.changes import Kind
from .revert import Action

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between the base and what the overlay shows.

    Attributes:
        kind: what happened.
        path: where it shows; of what is deleted: where the base has it.
        old_path: the path in the base of what shows elsewhere than there, else None.
        is_dir: whether it is a directory (of what is deleted: was).
        also: MODIFIED or METADATA of what is renamed and changed, else None.
    """

    kind: Kind
    path: str
    old_path: str | None
    is_dir: bool
    also: Kind | None

    @classmethod
    def of(cls, found: changes.Change) -> Self:
        """Return what the engine found."""
        old = os.fsdecode(found.old) if found.old is not None else None
        return cls(found.kind, os.fsdecode(found.path), old, found.is_dir, found.also)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A state of the overlay that it can be brought back to.

    Attributes:
        name: unique in its overlay.
        time_ns: when it was made, in ns since the epoch.
        note: what was said of it.
        is_pinned: whether no policy is to delete it.
        cause: the call or command that made it for itself (``reset``); None: a user made it.
    """

    name: str
    time_ns: int
    note: str
    is_pinned: bool
    cause: str | None

    @classmethod
    def of(cls, found: checkpoint_values.Checkpoint) -> Self:
        """Return what a row says."""
        return cls(found.name, found.time, found.note, bool(found.pinned), found.cause)


@dataclass(frozen=True, slots=True)
class Reverted:
    """One entry that a revert took back.

    Attributes:
        what: ``removed``, ``moved back``, ``shown again`` or ``restored``.
        path: where it was before.
        new_path: of what was moved back: where it is now.
    """

    what: str
    path: str
    new_path: str | None

    @classmethod
    def of(cls, action: Action) -> Self:
        """Return what the engine did."""
        other = os.fsdecode(action.other) if action.other is not None else None
        return cls(action.what, os.fsdecode(action.path), other)


def place_of(path: Path) -> bytes:
    """Return a path in an overlay as the engine has it: absolute, without empty names and ``.``.

    Raises:
        UsageError: it is relative, or has ``..`` or a NUL in it.
    """
    found = os.fsencode(path)
    names = [name for name in found.split(b"/") if name not in (b"", b".")]
    if not found.startswith(b"/") or b".." in names or b"\0" in found:
        raise UsageError(
            f"{os.fsdecode(found)!r:.200} is no path in an overlay",
            "begin at its root, with /, and use no .. and no NUL",
        )
    return b"/" + b"/".join(names)


@contextmanager
def as_os_errors(path: Path | None = None, other: Path | None = None) -> Iterator[None]:
    """Raise each OSError of the block as the class that its errno has in the standard library, with the paths.

    Args:
        path, other: as the caller named them; without a path, errors that are of the standard library pass as they are.
    """
    try:
        yield
    except OSError as error:
        code = error.errno or errno.EIO
        if path is None:
            if not isinstance(error, FsError):
                raise
            raise OSError(code, os.strerror(code), error.filename) from error
        name = os.fspath(path)
        if other is None:
            raise OSError(code, os.strerror(code), name) from error
        raise OSError(code, os.strerror(code), name, None, os.fspath(other)) from error


def stat_result(attr: Attr) -> os.stat_result:
    """Return attributes as os.lstat does; the device number is 0."""
    times = attr.atime, attr.mtime, attr.ctime
    named = dict(zip(("st_atime_ns", "st_mtime_ns", "st_ctime_ns"), times, strict=True))
    seconds = dict(zip(("st_atime", "st_mtime", "st_ctime"), (t / 10**9 for t in times), strict=True))
    rest = {"st_blocks": attr.blocks, "st_blksize": BLOCK_SIZE, "st_rdev": attr.rdev}
    numbers = (attr.mode, attr.ino, 0, attr.nlink, attr.uid, attr.gid, attr.size, *(t // 10**9 for t in times))
    return os.stat_result(numbers, {**named, **seconds, **rest})


class KeptPaths:
    """Chooses some paths and what is below them, for a reset (engine/reset_plan.py).

    Args:
        paths: in the overlay; the root chooses everything.
    """

    def __init__(self, paths: Iterable[bytes]) -> None:
        self._paths = set(paths)

    @property
    def is_any(self) -> bool:
        """Whether there may be a path that is chosen."""
        return bool(self._paths)

    def match(self, path: bytes) -> bool:
        """Return whether a path is chosen, or a directory above it."""
        if b"/" in self._paths:
            return True
        while path not in (b"", b"/"):
            if path in self._paths:
                return True
            path = path.rpartition(b"/")[0]
        return False

    def scope(self, directory: bytes) -> KeptNames:
        """Return what is chosen in a directory."""
        return KeptNames(self, directory, {p.rpartition(b"/")[2] for p in self._paths if _above(p) == directory})


class KeptNames:
    """What ``KeptPaths`` chooses in one directory.

    Args:
        kept: the paths.
        directory: its path.
        names: those of the paths that are in it.
    """

    def __init__(self, kept: KeptPaths, directory: bytes, names: set[bytes]) -> None:
        self._is_whole = kept.match(directory)
        self._names = names

    @property
    def is_empty(self) -> bool:
        """Whether nothing is chosen of the directory's own names."""
        return not (self._is_whole or self._names)

    def match(self, name: bytes) -> bool:
        """Return whether a name in the directory is chosen."""
        return self._is_whole or name in self._names


def _above(path: bytes) -> bytes:
    return path.rpartition(b"/")[0] or b"/"
