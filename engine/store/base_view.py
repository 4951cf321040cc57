"""The base view: the one way the engine reads the base, and it has no way to write it (promise P5).

The base is opened once, by descriptor, before anything is mounted, so the base and the mount point may be the same
directory.  With the privilege for it, what is read is a private clone of the base's mount without submounts, read-only
and noatime by the kernel's own word: it shows what lies under mount points, and with base=/ it can never walk into the
overlay's own mount, which would wait for itself for ever.  Without it, every step is an openat2 that refuses to cross a
mount or follow a symlink, and a mount point (the overlay's own among them) shows as an empty directory.

Paths are in base terms: absolute within the base, ``/`` for its root.  A storage directory that lies inside the base is
hidden.  Nothing here knows of overlay state.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from hashlib import blake2b
from itertools import islice
from typing import TypeVar

from ..errors import FsError
from .fd_cache import FdCache, share
from .syscalls import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    clone_mount,
    file_system_type,
    openat2,
    shows_every_name,
)

_CONFINED = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
# what says that there is nothing at a path: a name, or a directory above it, is missing or is something else
NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_NO_NAMES = (b".", b"..")
_DIR_FDS = 256  # directories held open: a tree walk touches few at a time
_FILE_FDS = 128

T = TypeVar("T")


def join(directory: bytes, name: bytes) -> bytes:
    """The path of *name* in *directory*, both in base terms."""
    return b"/" + name if directory == b"/" else directory + b"/" + name


def split(path: bytes) -> tuple[bytes, bytes]:
    """The directory and the name of *path* in base terms; the root has no name."""
    directory, _, name = path.rpartition(b"/")
    return directory or b"/", name


def _empty_directory(path: bytes) -> os.stat_result:
    """What a mount point shows that we must not enter: an empty directory, owned by root, with a number of its own."""
    return directory_stat(int.from_bytes(blake2b(path, digest_size=7).digest(), "big"), 0o755)


def directory_stat(number: int, mode: int, uid: int = 0, gid: int = 0, size: int = 0) -> os.stat_result:
    """The attributes of a directory that is nowhere: two links, no blocks, and times long ago.

    Args:
        number: st_ino.
        mode: permission bits.
        uid, gid: its owner.
        size: bytes.
    """
    zeros = {"st_atime_ns": 0, "st_mtime_ns": 0, "st_ctime_ns": 0, "st_blksize": 4096, "st_blocks": 0, "st_rdev": 0}
    return os.stat_result((stat.S_IFDIR | mode, number, 0, 2, uid, gid, size, 0, 0, 0), zeros)


class BaseView:
    """Read-only access to the base directory.

    Args:
        path: the base directory.
        clone: False to do without the private mount clone even where it is possible (for tests).

    Raises:
        OSError: the directory cannot be opened.
    """

    def __init__(self, path: str, *, clone: bool = True) -> None:
        self._root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.cloned = False
        if clone:
            try:
                tree = clone_mount(self._root)
            except OSError as error:
                # the kernel says no (not root, a user namespace, before 5.12): the confined walk serves instead
                if error.errno not in (errno.EPERM, errno.EINVAL, errno.ENOSYS):
                    raise
            else:
                os.close(self._root)
                self._root = tree
                self.cloned = True
        self._resolve = _CONFINED if self.cloned else _CONFINED | RESOLVE_NO_XDEV
        self._noatime = 0 if self.cloned else os.O_NOATIME
        self._dirs: FdCache[bytes] = FdCache(share(_DIR_FDS, 3))
        self._files: FdCache[bytes] = FdCache(share(_FILE_FDS, 6))
        self._hidden: bytes | None = None
        self.root_stat = os.fstat(self._root)

    def hide(self, path: bytes, identity: tuple[int, int]) -> None:
        """Make *path* (base terms) invisible if it really is the object of that (st_dev, st_ino)."""
        try:
            st = self.stat(path)
        except OSError:
            return  # not part of this view: it lies on another mount
        if (st.st_dev, st.st_ino) == identity:
            self._hidden = path

    # -- directories

    def _dir(self, path: bytes) -> int:
        fd = self._dirs.get(path)
        if fd is None:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
            fd = self._dirs.put(path, openat2(self._root, path[1:] or b".", flags, self._resolve))
        return fd

    def _at(self, path: bytes) -> tuple[int, bytes]:
        """A directory descriptor and the name in it that stand for *path*."""
        if path == self._hidden:
            raise FsError(errno.ENOENT)
        directory, name = split(path)
        if name in _NO_NAMES or b"\0" in path:
            raise FsError(errno.ENOENT)  # paths come from rows
        try:
            return self._dir(directory), name or b"."
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise FsError(errno.ENOENT) from error  # a mount point that must not be entered has no names
            raise

    def names(self, path: bytes) -> list[bytes]:
        """The names in a directory, without ``.`` and ``..``, in the order the base gives them.

        Raises:
            OSError: as opendir(3); a mount point that must not be entered has no names.
        """
        try:
            fd = self._open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno == errno.EXDEV:
                return []
            raise
        try:
            names = [os.fsencode(name) for name in os.listdir(fd)]
        finally:
            os.close(fd)
        if self._hidden is not None and split(self._hidden)[0] == path:
            names = [name for name in names if name != split(self._hidden)[1]]
        return names

    def may_have_more(self, path: bytes, most: int) -> bool:
        """True if a directory has more than *most* names, or some that it does not list; without reading them all.

        Raises:
            OSError: as ``names``.
        """
        try:
            fd = self._open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno == errno.EXDEV:
                return False
            raise
        try:
            if not shows_every_name(fd):
                return True
            with os.scandir(fd) as entries:
                return next(islice(entries, most, None), None) is not None
        finally:
            os.close(fd)

    # -- objects

    def stat(self, path: bytes) -> os.stat_result:
        """The attributes of the object itself, symlinks not followed.

        Raises:
            OSError: ENOENT and its kin.
        """
        dir_fd, name = self._at(path)
        if self.cloned:
            return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        try:
            fd = openat2(dir_fd, name, os.O_PATH | os.O_NOFOLLOW, self._resolve)
        except OSError as error:
            if error.errno == errno.EXDEV:
                return _empty_directory(path)
            raise
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def find(self, path: bytes) -> os.stat_result | None:
        """The same as ``stat``, or None where there is no such object.

        Raises:
            OSError: EIO and its kin.
        """
        try:
            return self.stat(path)
        except OSError as error:
            if error.errno in NOT_THERE:
                return None
            raise

    def children(self, path: bytes, names: Iterable[bytes]) -> Iterator[tuple[bytes, os.stat_result | OSError]]:
        """The attributes of names in a directory, one by one, or why they cannot be read.

        A name that is not there is left out.

        Raises:
            OSError: the directory cannot be opened.
        """
        # a descriptor of its own: one of the kept ones may be closed while this waits for its next turn
        fd = os.dup(self._dir(path))
        look: Callable[[bytes], os.stat_result] = partial(os.stat, dir_fd=fd, follow_symlinks=False)
        if not self.cloned or (self._hidden is not None and split(self._hidden)[0] == path):
            look = lambda name: self.stat(join(path, name))  # noqa: E731
        try:
            for name in names:
                try:
                    st = look(name)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    yield name, error
                else:
                    yield name, st
        finally:
            os.close(fd)

    def readlink(self, path: bytes) -> bytes:
        """The target of a symlink."""
        dir_fd, name = self._at(path)
        return os.readlink(name, dir_fd=dir_fd)

    def _open(self, path: bytes, flags: int) -> int:
        dir_fd, name = self._at(path)
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK
        if self._noatime:
            try:
                return openat2(dir_fd, name, flags | self._noatime, self._resolve)
            except PermissionError:
                pass  # O_NOATIME is for the owner only (open(2)); what we may read we read without it
        return openat2(dir_fd, name, flags, self._resolve)

    def file(self, path: bytes, st: os.stat_result | None = None) -> int:
        """A descriptor for reading a regular file; valid until the next call.

        Args:
            path: the file.
            st: its attributes, where they have just been looked up.

        Raises:
            OSError: as open(2); FsError EISDIR or EINVAL for what is no regular file, which is never opened.
        """
        fd = self._files.get(path)
        if fd is None:
            mode = (st or self.stat(path)).st_mode
            if not stat.S_ISREG(mode):
                raise FsError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL)
            fd = self._files.put(path, self._open(path, os.O_RDONLY))
        return fd

    def statvfs(self) -> os.statvfs_result:
        """Figures of the file system the base lies on."""
        return os.statvfs(self._root)

    def file_system_type(self) -> int:
        """The magic number of the file system the base lies on (statfs(2), f_type)."""
        return file_system_type(self._root)

    # -- extended attributes

    def listxattr(self, path: bytes) -> list[bytes]:
        """Names of all extended attributes this process may see; none where the file system has none."""
        try:
            names = self._by_proc(path, lambda place: os.listxattr(place, follow_symlinks=not self.cloned))
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.ENODATA):  # no such thing there, or a mount point not entered
                return []
            raise
        return [os.fsencode(name) for name in names]

    def getxattr(self, path: bytes, name: bytes) -> bytes:
        """The value of one extended attribute.

        Raises:
            OSError: ENODATA where there is none.
        """
        try:
            return self._by_proc(path, lambda place: os.getxattr(place, name, follow_symlinks=not self.cloned))
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                raise FsError(errno.ENODATA) from error
            raise

    def _by_proc(self, path: bytes, call: Callable[[bytes], T]) -> T:
        """Call something with a path to an object through /proc: there is no getxattrat, and no fgetxattr for O_PATH.

        In the clone that is the name below its directory, not followed; elsewhere the magic link of the object itself.
        """
        dir_fd, name = self._at(path)
        if self.cloned:
            return call(b"/proc/self/fd/%d/%b" % (dir_fd, name))
        try:
            fd = openat2(dir_fd, name, os.O_PATH | os.O_NOFOLLOW, self._resolve)
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise FsError(errno.ENODATA) from error
            raise
        try:
            return call(b"/proc/self/fd/%d" % fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close all descriptors."""
        self._dirs.clear()
        self._files.clear()
        os.close(self._root)
