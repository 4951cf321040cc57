"""What lies in ``content/``: every object's size, and what is there but is no object.  For minifo-fsck; walks it all.

Only looks, but for ``copy``, ``make``, ``extend_promised`` and ``set_aside``, which repairs use; none of them removes a
byte.
"""

from __future__ import annotations

import errno
import os
import re
import stat

from ..errors import StateError
from ..store.confined_dir import objection
from ..store.content_objects import SLOT, object_name
from ..store.storage import Storage

_STEP = 1 << 20
_BLOCK = re.compile(r"0|[1-9a-f][0-9a-f]{0,12}")


class ObjectInventory:
    """The content objects of one storage.

    Args:
        storage: the storage directory.

    Attributes:
        sizes: bytes of each object, by id.
        strays: names (relative to storage) that no object has.
        passing: objects that were made or deleted while this looked (``look_again``).
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.sizes: dict[int, int] = {}
        self.strays: list[str] = []
        self.passing: frozenset[int] = frozenset()
        self._promised: dict[int, int] = {}
        self.scan()

    def scan(self) -> None:
        """Look at everything anew."""
        self.sizes.clear()
        self.strays.clear()
        for block in self._names("content"):
            name = f"content/{block}"
            if not _BLOCK.fullmatch(block) or not stat.S_ISDIR(self._mode(name)):
                self.strays.append(name)
                continue
            first = int(block, 16) << 10
            for entry in self._names(name):
                number = int(entry, 16) if SLOT.fullmatch(entry) else 1024
                if number >= 1024 or first + number >= 1 << 62:
                    self.strays.append(f"{name}/{entry}")
                    continue
                try:
                    st = self._storage.stat(f"{name}/{entry}")
                except FileNotFoundError:
                    continue  # deleted by the mount that holds the storage
                if not stat.S_ISREG(st.st_mode):
                    self.strays.append(f"{name}/{entry}")
                    continue
                if (found := objection(st)) is not None:
                    path = os.path.join(self._storage.path, name, entry)
                    raise StateError(f"{path} {found}", "copy the storage (cp -a), and check the copy")
                self.sizes[first + number] = st.st_size

    def look_again(self) -> None:
        """Look once more, after the rows of a mounted storage were read.

        A mount makes and deletes objects meanwhile: one that was there before or after may have been there with the
        rows, and only one that was there both times can be in nobody's name.
        """
        before = dict(self.sizes)
        self.scan()
        self.passing = frozenset(before.keys() ^ self.sizes.keys())
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

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Bytes of an object.

        Raises:
            OSError: it cannot be read.
        """
        fd = self._storage.open(object_name(number), write=False)
        try:
            return os.pread(fd, size, offset)
        finally:
            os.close(fd)

    def size(self, number: int) -> int:
        """Bytes of an object.

        Raises:
            FileNotFoundError: it is not there.
        """
        if number not in self.sizes:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), object_name(number))
        return self.sizes[number]

    def verify(self, number: int) -> OSError | None:
        """Read every byte of an object; the error that it ended with, if any."""
        try:
            fd = self._storage.open(object_name(number), write=False)
        except OSError as error:
            return error
        try:
            while os.read(fd, _STEP):
                pass
        except OSError as error:
            return error
        finally:
            os.close(fd)
        return None

    # -- for repairs

    def promise(self, number: int, size: int) -> None:
        """Say that an object will be at least *size* bytes long, with zeros: once the rows that tell so are durable.

        Done before, and the repair cut short, nothing would show any more that its end is lost.
        """
        self._promised[number] = self.sizes[number] = max(size, self.sizes.get(number, 0))

    def extend_promised(self) -> None:
        """Make objects as long as was promised."""
        for number, size in self._promised.items():
            fd = self._storage.open(object_name(number), write=True)
            try:
                if os.fstat(fd).st_size < size:
                    self._storage.truncate(fd, size)
                    self._storage.sync_fd(fd)
            finally:
                os.close(fd)
        self._promised.clear()

    def copy(self, number: int, new: int) -> None:
        """Make object *new* a durable copy of object *number*."""
        source = self._storage.open(object_name(number), write=False)
        target = self._create(new, 0)
        try:
            offset = 0
            while data := os.pread(source, _STEP, offset):
                if data.strip(b"\0"):
                    self._storage.write(target, data, offset)
                offset += len(data)
            self._storage.truncate(target, offset)
            self._storage.sync_fd(target)
        finally:
            os.close(source)
            os.close(target)
        self.sizes[new] = offset

    def _create(self, number: int, size: int) -> int:
        directory = f"content/{number >> 10:x}"
        for name in ("content", directory):
            if not self._storage.exists(name):
                self._storage.mkdir(name)
        fd = self._storage.create(object_name(number))
        self._storage.truncate(fd, size)
        self._storage.sync_fd(fd)
        for name in (directory, "content", "."):
            self._storage.sync_dir(name)
        return fd

    def set_aside(self, name: str) -> str:
        """Move a stray out of ``content`` to ``lost+found`` in storage; its new name."""
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
        """True for the error of a name that is not there."""
        return error.errno in (errno.ENOENT, errno.ENOTDIR)


def kind_of(mode: int) -> str:
    """The kind of object a mode says, in a word."""
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
