"""The inventory of ``content/`` for minifo-fsck: the size of every content object, and entries that are no objects.

Only the methods for repairs change storage (``copy``, ``extend_planned`` and ``move_stray``); none of them deletes
anything.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator

from ..errors import SHORT, StateError
from ..store.confined_dir import why_refused
from ..store.object_digests import Digest, DigestReader
from ..store.object_paths import object_directory, object_name, object_number
from ..store.storage import Storage
from ..store.syscalls import data_ranges

_CHUNK = 1 << 20  # bytes


class ObjectInventory:
    """The content objects of one storage, as a walk over ``content/`` found them.

    Args:
        storage: the storage directory.

    Attributes:
        sizes: the size in bytes of each object, by its id.
        strays: names (relative to storage) of entries that are not content objects.
        unstable: ids of objects that a mount made or deleted between two scans (``rescan``).
        extended: ids of the objects that were extended, so that they have other bytes now.
        planned: the sizes in storage of the objects that ``extend_planned`` is going to extend, by their ids.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.sizes: dict[int, int] = {}
        self.strays: list[str] = []
        self.unstable: frozenset[int] = frozenset()
        self.planned: dict[int, int] = {}
        self.extended: set[int] = set()
        self._planned_sizes: dict[int, int] = {}
        self.scan()

    def scan(self) -> None:
        """Walk over ``content/`` and replace ``sizes`` and ``strays``.

        Raises:
            StateError: a content object has hard links that no clone made.
        """
        self.sizes.clear()
        self.strays.clear()
        for block in self._names("content"):
            name = f"content/{block}"
            if object_number(name, "0") is None or not stat.S_ISDIR(self._mode(name)):
                self.strays.append(name)
                continue
            for entry in self._names(name):
                number = object_number(name, entry)
                if number is None:
                    self.strays.append(f"{name}/{entry}")
                    continue
                try:
                    st = self._storage.stat(f"{name}/{entry}")
                except FileNotFoundError:
                    continue  # the mount that holds the storage has deleted it
                if not stat.S_ISREG(st.st_mode):
                    self.strays.append(f"{name}/{entry}")
                    continue
                if (found := why_refused(st)) is not None and not self._is_shared(f"{name}/{entry}"):
                    path = os.path.join(self._storage.path, name, entry)
                    raise StateError(f"{path} {found}", "copy the storage with cp -a, and check the copy")
                self.sizes[number] = st.st_size

    def _is_shared(self, name: str) -> bool:
        """Return whether an object with several names shares them with the storages of clones."""
        try:
            os.close(self._storage.open_object(name, write=False))
        except OSError as error:
            if error.errno in SHORT:
                raise
            return False
        return True

    def rescan(self) -> None:
        """Scan ``content/`` again after the rows of a mounted storage were read, and merge the results of both scans.

        The mount makes and deletes objects while fsck reads.  An object that only one of the scans found may have
        existed when the rows were read, so it is not reported as missing; and only an object that both scans found is
        reported if no row refers to it.
        """
        before = dict(self.sizes)
        self.scan()
        self.unstable = frozenset(before.keys() ^ self.sizes.keys())
        for number, size in before.items():
            self.sizes[number] = max(size, self.sizes.get(number, 0))

    def _names(self, name: str) -> list[str]:
        try:
            return self._storage.names(name)
        except NotADirectoryError:
            return []

    def _mode(self, name: str) -> int:
        try:
            return self._storage.stat(name).st_mode
        except FileNotFoundError:
            return 0

    def pieces(self, number: int, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Yield the bytes of a range of an object, each piece with its offset; holes, and zeros, are left out.

        Raises:
            OSError: the object cannot be read.
        """
        fd = self._storage.open_object(object_name(number), write=False)
        try:
            for first, stop in data_ranges(fd, start, end):
                for at in range(first, stop, _CHUNK):
                    data = os.pread(fd, min(_CHUNK, stop - at), at)
                    if data.strip(b"\0"):
                        yield at, data
        finally:
            os.close(fd)

    def size(self, number: int) -> int:
        """Return the size of an object in bytes.

        Raises:
            FileNotFoundError: the object does not exist.
        """
        if number not in self.sizes:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), object_name(number))
        return self.sizes[number]

    def digest(self, number: int, read: Callable[[int], object]) -> Digest:
        """Read every byte of an object from the medium, and return its digest.

        Args:
            number: its id.
            read: called with the number of bytes that were read, from time to time.

        Raises:
            OSError: the object cannot be read.
        """
        fd = self._storage.open_object(object_name(number), write=False)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # what is in memory says nothing of the medium
            reader = DigestReader(fd)
            while not reader.is_done:
                read(reader.advance(_CHUNK))
            return reader.result()
        finally:
            os.close(fd)

    # -- for repairs

    def plan_extension(self, number: int, size: int) -> None:
        """Plan to extend an object with zeros to at least *size* bytes, once the repair of its file's row is durable.

        The extension must not come first: if a crash came between the two, no trace would be left that the end of the
        object is lost.
        """
        self.planned.setdefault(number, self.sizes.get(number, 0))
        self._planned_sizes[number] = self.sizes[number] = max(size, self.sizes.get(number, 0))

    def extend_planned(self) -> None:
        """Extend the objects for which ``plan_extension`` was called, durably; they are ``extended`` then."""
        self.extended.update(self._planned_sizes)
        for number, size in self._planned_sizes.items():
            if self._storage.stat(object_name(number)).st_nlink > 1:
                self._unshare(number)
            fd = self._storage.open_object(object_name(number), write=True)
            try:
                if os.fstat(fd).st_size < size:
                    self._storage.truncate(fd, size)
                    self._storage.sync_fd(fd)
            finally:
                os.close(fd)
        self._planned_sizes.clear()
        self.planned.clear()

    def _unshare(self, number: int) -> None:
        """Replace an object that another storage shares by a copy, durably: what is done to it is done here alone."""
        name = object_name(number)
        copy = name + ".new"  # no name of an object: what a power cut leaves is a stray
        if self._storage.exists(copy):
            self._storage.unlink(copy)
        self._copy(number, self._storage.create(copy))
        self._storage.rename(copy, name)
        self._storage.sync_dir(object_directory(number))

    def copy(self, number: int, new: int) -> None:
        """Create the content object *new* as a durable copy of the object *number*; holes stay holes."""
        self.sizes[new] = self._copy(number, self._create(new, 0))

    def _copy(self, number: int, target: int) -> int:
        """Copy an object to an open file, durably, close that, and return its size."""
        try:
            size = self._storage.stat(object_name(number)).st_size
            for offset, data in self.pieces(number, 0, size):
                self._storage.write(target, data, offset)
            self._storage.truncate(target, size)
            self._storage.sync_fd(target)
        finally:
            os.close(target)
        return size

    def _create(self, number: int, size: int) -> int:
        """Create an object of *size* zero bytes durably, and return a descriptor for writing."""
        directory = object_directory(number)
        for name in ("content", directory):
            if not self._storage.exists(name):
                self._storage.mkdir(name)
        fd = self._storage.create(object_name(number))
        self._storage.truncate(fd, size)
        self._storage.sync_fd(fd)
        for name in (directory, "content", "."):
            self._storage.sync_dir(name)
        return fd

    def move_stray(self, name: str) -> str:
        """Move a stray entry from ``content/`` to ``lost+found/`` in storage, and return its new name.

        Both names are relative to storage.
        """
        if not self._storage.exists("lost+found"):
            self._storage.mkdir("lost+found")
        wanted = target = "lost+found/" + name.replace("/", "-")
        count = 0
        while self._storage.exists(target):
            count += 1
            target = f"{wanted}-{count}"
        self._storage.rename(name, target)
        self._storage.sync_dir("lost+found")
        return target

    @staticmethod
    def is_gone(error: OSError) -> bool:
        """Return whether an error says that the path does not exist."""
        return error.errno in (errno.ENOENT, errno.ENOTDIR)


def kind_of(mode: int) -> str:
    """Return the file type of a mode in a word (``file``, ``directory``, ...), or ``unknown``."""
    words = {
        stat.S_IFREG: "file",
        stat.S_IFDIR: "directory",
        stat.S_IFLNK: "symlink",
        stat.S_IFIFO: "fifo",
        stat.S_IFSOCK: "socket",
        stat.S_IFCHR: "device",
        stat.S_IFBLK: "device",
    }
    return words.get(mode & 0o170000, "unknown")
