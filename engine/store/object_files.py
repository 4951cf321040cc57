"""Opens content objects, and knows which of them nothing may write into.

An object is frozen while a checkpoint may need it as it is, and while it is shared: a clone gave its file another name,
in another storage (engine/clone.py).  A write into a file with a frozen object makes a new one (tree/copy_up.py).  That
an object is shared is in no row: its link count says so, as long as another storage has it, also after a crash.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable

from ..errors import FsError
from .database import Database
from .fd_cache import FdCache, share
from .object_paths import object_name
from .storage import Storage

_FDS = 128
# errnos that mean: there is no object, or something in its place that is not a regular file of this storage
_LOST = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EMLINK, errno.EXDEV)


class ObjectFiles:
    """The files of all content objects of one storage.

    Args:
        db: the overlay's database, which may be read-only.
        storage: the storage directory.
        next_object: the next id to hand out.
        on_lost: called with the id of each object that is missing, once for each.

    Attributes:
        next_object: the next id to hand out.
        dirty: the objects that were written since the last commit.
        frozen_below: a checkpoint may need the objects with lesser ids.
        thaws: how often some ceased to be needed by a checkpoint.
    """

    def __init__(self, db: Database, storage: Storage, next_object: int, on_lost: Callable[[int], object]) -> None:
        self._db = db
        self._storage = storage
        self._fds: FdCache[int] = FdCache(share(_FDS, 6))
        self._lost: set[int] = set()
        self._on_lost = on_lost
        self.next_object = next_object
        self.dirty: set[int] = set()
        self.frozen_below = 0
        self.thaws = 0
        # only these can be shared: a clone takes what is committed, and holds a checkpoint of it meanwhile
        self._sharable_below = next_object
        self._watched: set[int] = set()

    def watch(self, numbers: set[int]) -> Callable[[], bool]:
        """Watch objects until ``unwatch``, and return a function that says whether none of them was changed since."""
        self._watched = set(numbers)
        return lambda: self._watched == numbers

    def unwatch(self) -> None:
        """Watch no objects any more."""
        self._watched = set()

    def freeze(self, below: int) -> None:
        """Let nothing write into the objects with ids below *below*; those that are made from now on stay writable."""
        before, self.frozen_below = self.frozen_below, min(below, self.next_object)
        self.thaws += self.frozen_below < before
        self._sharable_below = max(self._sharable_below, self.frozen_below)

    def share(self) -> None:
        """Look from now on whether any object that there is now is shared: a clone was made of this open overlay."""
        self._sharable_below = self.next_object

    def is_frozen(self, number: int) -> bool:
        """Return whether a checkpoint or another storage may need an object as it is, so nothing may write into it."""
        return number < self.frozen_below or (number < self._sharable_below and self._is_shared(number))

    def _is_shared(self, number: int) -> bool:
        fd = self._fds.get(number)
        try:
            return (os.fstat(fd) if fd is not None else self._storage.stat(object_name(number))).st_nlink > 1
        except OSError:
            return False  # it is missing: who opens it to write says so

    def _writable(self, number: int) -> int:
        """Return the descriptor of an object that is about to be changed.

        Raises:
            FsError: EIO if it is frozen: the caller should have made a new one.
        """
        if number < self.frozen_below:
            raise FsError(errno.EIO, f"{object_name(number)} belongs to a checkpoint")
        fd = self.fd(number)
        if number < self._sharable_below:
            if os.fstat(fd).st_nlink > 1:
                raise FsError(errno.EIO, f"{object_name(number)} belongs to another storage, too")
            if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:  # it was shared when it was opened
                self._fds.drop(number)
                fd = self.fd(number)
        self.dirty.add(number)
        if self._watched:
            self._watched.discard(number)
        return fd

    def fd(self, number: int) -> int:
        """Return a descriptor of an object, valid until the next call.

        It is for reading, and for writing unless the overlay is read-only, or the object was shared when it was opened.

        Raises:
            FsError: EIO if the object is missing.
            OSError: it cannot be opened.
        """
        fd = self._fds.get(number)
        if fd is None:
            try:
                fd = self._storage.open_object(object_name(number), write=not self._db.read_only)
            except OSError as error:
                raise self._access_error(number, error) from error
            self._fds.put(number, fd)
        return fd

    def _access_error(self, number: int, error: OSError) -> OSError:
        """Return the error to raise for an object that cannot be opened: EIO if it is missing, else *error*.

        Calls ``on_lost`` at the first time for each missing object.
        """
        if error.errno not in _LOST:
            return error
        if number not in self._lost:
            self._lost.add(number)
            self._on_lost(number)
        return FsError(errno.EIO, object_name(number))

    def stat(self, number: int) -> os.stat_result:
        """Return the attributes of an object's file.

        Raises:
            FsError: EIO if the object is missing.
        """
        fd = self._fds.get(number)
        try:
            return os.fstat(fd) if fd is not None else self._storage.stat(object_name(number))
        except OSError as error:
            raise self._access_error(number, error) from error

    def close(self) -> None:
        """Close all descriptors."""
        self._fds.clear()
