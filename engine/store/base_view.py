"""The base view: the only way in which the engine reads the base; it has no function that writes (promise P5).

The base is opened once, by descriptor, before the overlay is mounted, so the base and the mount point may be the same
directory.  With CAP_SYS_ADMIN the engine reads a private clone of the base's mount without submounts, which the kernel
keeps read-only and noatime: it shows the directories under mount points, and with base=/ no path leads into the
overlay's own mount, where the daemon would wait for itself for ever.  Otherwise each access is an openat2 that refuses
to cross a mount or to follow a symlink, and a mount point (also the overlay's own) shows as an empty directory.

Paths are in base terms: absolute within the base, ``/`` for its root.  A storage directory inside the base is hidden.
A base of several layers is a ``LayeredView`` (layered_view.py), which finds the layer and leaves the access to this
module.  This module knows nothing of the overlay's state.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from itertools import islice
from typing import TypeVar

from ..errors import FsError
from ..model import BLOCK_SIZE
from .fd_cache import FdCache, share
from .owners import owners_here
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
# errnos that mean: no object has this path; the name or a directory above it is missing, or is not a directory
NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_NO_NAMES = (b".", b"..")
_DIR_FDS = 256  # directories kept open: a walk through a tree uses few at a time
_FILE_FDS = 128

T = TypeVar("T")


def join(directory: bytes, name: bytes) -> bytes:
    """Return the path of *name* in *directory*, in base terms."""
    return b"/" + name if directory == b"/" else directory + b"/" + name


def split(path: bytes) -> tuple[bytes, bytes]:
    """Return the directory and the name of *path*, in base terms; the root's name is empty."""
    directory, _, name = path.rpartition(b"/")
    return directory or b"/", name


def _encoded(names: list[str]) -> list[bytes]:
    """Return names as bytes: all at once, for one by one they take longer than to list them."""
    return os.fsencode("\0".join(names)).split(b"\0") if names else []


def _empty_directory(path: bytes) -> os.stat_result:
    """Return the attributes that a mount point shows, which must not be entered; its number is a hash of its path."""
    return directory_stat(int.from_bytes(blake2b(path, digest_size=7).digest(), "big"), 0o755)


def directory_stat(number: int, mode: int, uid: int = 0, gid: int = 0, size: int = 0) -> os.stat_result:
    """Return the attributes of a directory that exists on no disk: two links, no blocks, and all times 0.

    Args:
        number: st_ino.
        mode: permission bits.
        uid, gid: owner and group.
        size: in bytes.
    """
    zeros = {
        "st_atime_ns": 0,
        "st_mtime_ns": 0,
        "st_ctime_ns": 0,
        "st_blksize": BLOCK_SIZE,
        "st_blocks": 0,
        "st_rdev": 0,
    }
    return os.stat_result((stat.S_IFDIR | mode, number, 0, 2, uid, gid, size, 0, 0, 0), zeros)


class BaseView:
    """Read-only access to the base directory.

    Args:
        path: the base directory.
        clone: False to use no private mount clone although it is possible (for tests).

    Raises:
        OSError: the directory cannot be opened.
    """

    def __init__(self, path: str, *, clone: bool = True) -> None:
        self._take_roots([path], clone=clone)

    def _take_roots(self, paths: Sequence[str], *, clone: bool) -> None:
        """Open the directories of *paths*, the topmost layer first; clone the mounts of all or of none."""
        self._roots, self.cloned = _open_roots(paths, clone=clone)
        self._resolve = _CONFINED if self.cloned else _CONFINED | RESOLVE_NO_XDEV
        self._noatime = 0 if self.cloned else os.O_NOATIME
        self._dirs: FdCache[tuple[int, bytes]] = FdCache(share(_DIR_FDS, 3))  # by layer and path
        self._files: FdCache[bytes] = FdCache(share(_FILE_FDS, 6))
        self._hidden: frozenset[bytes] = frozenset()
        self._hidden_in: frozenset[bytes] = frozenset()  # the directories that they are in
        self._owners = owners_here()
        self.root_stat = self._shown(os.fstat(self._roots[0]))

    def _shown(self, st: os.stat_result) -> os.stat_result:
        return st if self._owners is None else self._owners.shown(st)

    @property
    def descriptors(self) -> Sequence[int]:
        """Descriptors of the base's root directories (O_PATH), the topmost first; this view closes them."""
        return self._roots

    @property
    def layers_mark(self) -> str:
        """A text that identifies the layers below the topmost one; empty if there are none."""
        return ""

    def hide(self, path: bytes, identity: tuple[int, int]) -> None:
        """Hide *path* (base terms) if it leads to the object with *identity*, (st_dev, st_ino); else do nothing."""
        try:
            st = self.stat(path)
        except OSError:
            return  # it is on another mount, which this view does not show
        if (st.st_dev, st.st_ino) == identity:
            self._hidden |= {path}
            self._hidden_in |= {split(path)[0]}

    # -- directories

    def _dir(self, path: bytes) -> int:
        return self._dir_of(0, path)

    def _dir_of(self, layer: int, path: bytes) -> int:
        """Return a descriptor (O_PATH) of a directory of one layer; valid until the next call."""
        fd = self._dirs.get((layer, path))
        if fd is None:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
            fd = self._dirs.put((layer, path), openat2(self._roots[layer], path[1:] or b".", flags, self._resolve))
        return fd

    def _at(self, path: bytes) -> tuple[int, bytes]:
        """Return a descriptor of the directory of *path*, and the name in it, for the ``...at`` system calls.

        Raises:
            OSError: ENOENT for a hidden path and for one that no file system allows; others as open(2).
        """
        if path in self._hidden:
            raise FsError(errno.ENOENT)
        directory, name = split(path)
        if name in _NO_NAMES or b"\0" in path:
            raise FsError(errno.ENOENT)  # paths come from rows, which a damaged or foreign storage may hold
        try:
            return self._dir(directory), name or b"."
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise FsError(errno.ENOENT) from error  # a mount point shows as an empty directory
            raise

    def names(self, path: bytes) -> list[bytes]:
        """Return the names in a directory, without ``.`` and ``..``, in the base's order; none for a mount point.

        Raises:
            OSError: as opendir(3).
        """
        fd = self._open_directory(path)
        if fd is None:
            return []
        try:
            names = _encoded(os.listdir(fd))
        finally:
            os.close(fd)
        if path in self._hidden_in:
            names = [name for name in names if join(path, name) not in self._hidden]
        return names

    def listing(self, path: bytes) -> dict[bytes, bool]:
        """Return the names in a directory as ``names`` does, each with whether it is a directory.

        Raises:
            OSError: as opendir(3).
        """
        fd = self._open_directory(path)
        if fd is None:
            return {}
        try:
            with os.scandir(fd) as entries:
                found = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
        finally:
            os.close(fd)
        listed = dict(zip(_encoded(list(found)), found.values(), strict=True))
        if path in self._hidden_in:
            for hidden in self._hidden:
                directory, name = split(hidden)
                if directory == path:
                    listed.pop(name, None)
        return listed

    def _open_directory(self, path: bytes) -> int | None:
        """Return a descriptor of a directory to list, which the caller closes; None for a mount point."""
        try:
            return self._open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno == errno.EXDEV:
                return None
            raise

    def may_have_more(self, path: bytes, most: int) -> bool:
        """Return whether a directory has more than *most* names, or may have names that a listing does not show.

        Reads no more than the first *most* + 1 names.

        Raises:
            OSError: as opendir(3).
        """
        fd = self._open_directory(path)
        if fd is None:
            return False
        try:
            if not shows_every_name(fd):
                return True
            with os.scandir(fd) as entries:
                return next(islice(entries, most, None), None) is not None
        finally:
            os.close(fd)

    # -- objects

    def stat(self, path: bytes) -> os.stat_result:
        """Return the attributes of the object at *path*, of a symlink itself.

        Raises:
            OSError: one of NOT_THERE if there is none; EIO, EACCES and others of stat(2).
        """
        dir_fd, name = self._at(path)
        if self.cloned:
            return self._shown(os.stat(name, dir_fd=dir_fd, follow_symlinks=False))
        try:
            fd = openat2(dir_fd, name, os.O_PATH | os.O_NOFOLLOW, self._resolve)
        except OSError as error:
            if error.errno == errno.EXDEV:
                return _empty_directory(path)
            raise
        try:
            return self._shown(os.fstat(fd))
        finally:
            os.close(fd)

    def find(self, path: bytes) -> os.stat_result | None:
        """Return the attributes of the object at *path*, of a symlink itself, or None if there is no such object.

        Raises:
            OSError: EIO, EACCES and others of stat(2), with the path in base terms.
        """
        try:
            return self.stat(path)
        except OSError as error:
            if error.errno in NOT_THERE:
                return None
            error.filename = f"base {os.fsdecode(path)}"
            raise

    def find_readable(self, path: bytes) -> os.stat_result | None:
        """Return what ``find`` returns, and None for an object that cannot be read as well."""
        try:
            return self.find(path)
        except OSError:
            return None

    def children(self, path: bytes, names: Iterable[bytes]) -> Iterator[tuple[bytes, os.stat_result | OSError]]:
        """Yield each of *names* that exists in a directory, with its attributes or the error of reading them.

        Raises:
            OSError: the directory cannot be opened.
        """
        # a copy of the descriptor, because the cache may close the original while the caller handles a name
        fd = os.dup(self._dir(path))
        stat_name: Callable[[bytes], os.stat_result] = partial(os.stat, dir_fd=fd, follow_symlinks=False)
        if not self.cloned or self._owners is not None or path in self._hidden_in:
            stat_name = lambda name: self.stat(join(path, name))  # noqa: E731
        try:
            for name in names:
                try:
                    st = stat_name(name)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    yield name, error
                else:
                    yield name, st
        finally:
            os.close(fd)

    def readlink(self, path: bytes) -> bytes:
        """Return the target of a symlink.

        Raises:
            OSError: EINVAL if it is not one; others as readlink(2).
        """
        dir_fd, name = self._at(path)
        return os.readlink(name, dir_fd=dir_fd)

    def _open(self, path: bytes, flags: int) -> int:
        dir_fd, name = self._at(path)
        return self._open_at(dir_fd, name, flags)

    def _open_at(self, dir_fd: int, name: bytes, flags: int) -> int:
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK
        if self._noatime:
            try:
                return openat2(dir_fd, name, flags | self._noatime, self._resolve)
            except PermissionError:
                pass  # O_NOATIME is for the owner and root only (open(2))
        return openat2(dir_fd, name, flags, self._resolve)

    def file(self, path: bytes, st: os.stat_result | None = None) -> int:
        """Return a descriptor for reading a regular file; valid until the next call.

        Args:
            path: the file.
            st: its attributes, if the caller has just read them.

        Raises:
            OSError: as open(2); FsError EISDIR or EINVAL for anything but a regular file, which is not opened.
        """
        fd = self._files.get(path)
        if fd is None:
            mode = (st or self.stat(path)).st_mode
            if not stat.S_ISREG(mode):
                raise FsError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL)
            fd = self._files.put(path, self._open(path, os.O_RDONLY))
        return fd

    def statvfs(self) -> os.statvfs_result:
        """Return the kernel's figures of the file system that the base is on, its topmost layer (statvfs(3))."""
        return os.statvfs(self._roots[0])

    def file_system_type(self) -> int:
        """Return the magic number of the file system that the base is on (statfs(2), f_type)."""
        return file_system_type(self._roots[0])

    # -- extended attributes

    def listxattr(self, path: bytes) -> list[bytes]:
        """Return the names of all extended attributes that this process may see; none where they are not supported."""
        try:
            names = self._by_proc_path(path, lambda link: os.listxattr(link, follow_symlinks=not self.cloned))
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.ENODATA):  # not supported, or a mount point
                return []
            raise
        return [os.fsencode(name) for name in names]

    def getxattr(self, path: bytes, name: bytes) -> bytes:
        """Return the value of an extended attribute.

        Raises:
            OSError: ENODATA if there is none, or the file system does not support it.
        """
        try:
            return self._by_proc_path(path, lambda link: os.getxattr(link, name, follow_symlinks=not self.cloned))
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                raise FsError(errno.ENODATA) from error
            raise

    def _by_proc_path(self, path: bytes, call: Callable[[bytes], T]) -> T:
        """Return ``call(link)``, where *link* is a path below /proc/self/fd that leads to the object at *path*.

        It is needed because fgetxattr(2) refuses O_PATH descriptors, and getxattrat(2) came only with Linux 6.13.  In
        the clone the link is the name below its directory, and *call* must not follow a symlink; elsewhere it is the
        magic link of the object itself, and *call* must follow it.
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
        _close_all(self._roots)


def _open_roots(paths: Sequence[str], *, clone: bool) -> tuple[list[int], bool]:
    """Return a descriptor (O_PATH) of each directory, and whether they are those of clones of their mounts.

    Raises:
        OSError: a directory cannot be opened.
    """
    roots: list[int] = []
    cloned = clone
    try:
        for path in paths:
            roots.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))  # noqa: PERF401
        trees: list[int] = []
        try:
            for root in roots if clone else ():
                trees.append(clone_mount(root))  # noqa: PERF401
        except OSError as error:
            _close_all(trees)
            # not root, a user namespace, or a kernel before 5.12: openat2 confines the access instead
            if error.errno not in (errno.EPERM, errno.EINVAL, errno.ENOSYS):
                raise
            cloned = False
    except BaseException:
        _close_all(roots)
        raise
    if cloned:
        _close_all(roots)
    return (trees if cloned else roots), cloned


def _close_all(descriptors: Iterable[int]) -> None:
    for fd in descriptors:
        os.close(fd)
