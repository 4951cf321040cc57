"""A file or a directory that is there as a whole or not at all: written beside its place, durable, and then renamed."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO

from ..engine import StateError, UsageError
from ..engine.errors import FsError
from .effects import Effects

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

_PIECE = 1 << 20  # bytes that are collected before they are written


def is_stream(path: str) -> bool:
    """Return whether a destination is no file: ``-`` for standard output, a pipe, a device."""
    if path == "-":
        return True
    with suppress(FileNotFoundError):
        mode = os.stat(path).st_mode
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    return False


def check_free(path: str, *, force: bool) -> None:
    """Raise UsageError if a file may not be written at a path.

    Args:
        path: the true path.
        force: a file that has bytes may be replaced.
    """
    with suppress(FileNotFoundError):
        st = os.stat(path)
        if stat.S_ISDIR(st.st_mode):
            raise UsageError(f"{path} is a directory", "name the file to write")
        if st.st_size and not force:
            raise UsageError(f"{path} exists", "choose another name, or give --force to replace it")


def check_outside(path: str, storage: str) -> None:
    """Raise UsageError if a path is in a storage, or the directory above it is not there."""
    if not os.path.isdir(os.path.dirname(path)):
        raise UsageError(f"the directory above {path} does not exist", "make it first")
    inside = os.path.realpath(storage)
    if os.path.commonpath([path, inside]) == inside:
        raise UsageError(f"{path} is in the overlay's storage", "choose a place outside of it")


@contextmanager
def stream(path: str) -> Iterator[BinaryIO]:
    """Open a destination that is no file for writing; ``-`` is standard output, which stays open."""
    place = 1 if path == "-" else path
    with open(place, "wb", _PIECE, closefd=place != 1) as out:
        yield out


@contextmanager
def new_file(effects: Effects, path: str) -> Iterator[BinaryIO]:
    """Yield a file for writing; if the block ends without an error, it is at a path, durably, in the place of another.

    Raises:
        OSError: it cannot be written; what was at the path stays.
    """
    with beside(effects, path, effects.unlink) as work:
        with io.BufferedWriter(File(effects, effects.create(work)), _PIECE) as out:
            yield out
        effects.sync(work)


@contextmanager
def beside(effects: Effects, path: str, remove: Callable[[str], object]) -> Iterator[str]:
    """Yield a path beside another one; what the block has made there is renamed to that, durably, or removed.

    Args:
        effects: does the system calls.
        path: the place in the end.
        remove: removes what was made.
    """
    work = f"{path}.{os.urandom(4).hex()}.partial"  # of each run its own: two may run at once
    try:
        yield work
        effects.rename(work, path)
    except BaseException:
        with suppress(OSError):  # the first error says more
            remove(work)
        raise
    effects.sync(os.path.dirname(path))


@contextmanager
def explained(path: str, instead: str) -> Iterator[None]:
    """Say of a destination that cannot be written what to do.

    Args:
        path: the destination.
        instead: what needs neither privileges nor a file system with attributes.
    """
    try:
        yield
    except FsError:
        raise  # the overlay cannot be read
    except OSError as error:
        hint = "see the free space and the permissions there"
        if error.errno == errno.EPERM:
            hint = f"owners, devices and attributes need root; {instead} does not"
        elif error.errno == errno.EOPNOTSUPP:
            hint = f"that file system has no such attributes; choose another one, or {instead}"
        what = os.fsdecode(error.filename) if error.filename is not None else path
        raise StateError(f"{what} cannot be written ({error.strerror})", hint) from error


class File(io.RawIOBase):
    """A new file that is written through effects.

    Args:
        effects: does the system calls.
        fd: a descriptor of the file, which is closed with this object.
    """

    def __init__(self, effects: Effects, fd: int) -> None:
        self._effects, self._fd, self._at = effects, fd, 0

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor, for programs that write into the file."""
        return self._fd

    def write(self, data: Buffer) -> int:
        """Write all of *data*."""
        piece = bytes(memoryview(data))
        self._effects.write(self._fd, piece, self._at)
        self._at += len(piece)
        return len(piece)

    def close(self) -> None:
        """Close the descriptor."""
        if not self.closed:
            super().close()
            os.close(self._fd)
