"""Where a bundle is applied: an overlay that this process has open, or one that is mounted.

Both do the same few things by path.  In a mount they are system calls, so that programs see each change at once; no
call follows a symbolic link or leaves the overlay, and what other mounts cover is reached beneath them.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Protocol

from ...engine import Overlay, Process, SetAttr
from ...engine.errors import FsError
from ...engine.model import ROOT, Attr, Ino
from ...engine.store.base_view import split
from ...engine.store.confined_dir import ConfinedDir
from ...engine.store.storage import write_all
from ...engine.store.syscalls import detached_mount
from ..exchange.applier import fill, set_xattrs
from ..exchange.entries import Entry, known_xattrs

_COMMIT_ENTRIES = 2000
_COMMIT_BYTES = 64 << 20


class Place(Protocol):
    """What can be done; each method raises OSError where it fails."""

    def remove(self, path: bytes, *, is_dir: bool) -> None:
        """Remove a name; of a directory, an empty one."""
        ...

    def mkdir(self, path: bytes) -> None:
        """Make a directory."""
        ...

    def make(self, path: bytes, entry: Entry) -> None:
        """Make anything but a directory, with its bytes."""
        ...

    def link(self, path: bytes, new: bytes) -> None:
        """Give a file another name."""
        ...

    def rename(self, path: bytes, new: bytes) -> None:
        """Rename what is no directory, over what has that name."""
        ...

    def dress(self, path: bytes, entry: Entry) -> None:
        """Give an object the owner, the mode, the extended attributes and the times of an entry, and no others."""
        ...

    def set_times(self, path: bytes, atime: int, mtime: int) -> None:
        """Set the times of access and modification, in ns."""
        ...


class OpenPlace:
    """An overlay that is not mounted.

    Args:
        overlay: open for writing.
    """

    def __init__(self, overlay: Overlay) -> None:
        self._ov = overlay
        self._directories: dict[bytes, Ino] = {b"/": ROOT}
        self._since = self._bytes = 0

    def _directory(self, path: bytes) -> Ino:
        if path not in self._directories:
            attr = self._ov.find(path)
            if attr is None or not stat.S_ISDIR(attr.mode):
                raise FsError(errno.ENOENT if attr is None else errno.ENOTDIR, os.fsdecode(path))
            self._directories[path] = Ino(attr.ino)
        return self._directories[path]

    def _at(self, path: bytes) -> tuple[Ino, bytes]:
        """Return the directory that a path is in, and the name; commit now and then, for the log would become long."""
        if self._since >= _COMMIT_ENTRIES or self._bytes >= _COMMIT_BYTES:
            self._ov.commit()
            self._since = self._bytes = 0
        self._since += 1
        above, name = split(path)
        return self._directory(above), name

    def _attr(self, path: bytes) -> Attr:
        if path == b"/":
            return self._ov.getattr(ROOT)
        attr = self._ov.lookup(*self._at(path))
        if attr is None:
            raise FsError(errno.ENOENT, os.fsdecode(path))
        return attr

    def remove(self, path: bytes, *, is_dir: bool) -> None:
        """Remove a name; of a directory, an empty one."""
        ino = Ino(self._attr(path).ino)
        parent, name = self._at(path)
        if is_dir:
            self._ov.rmdir(parent, name)
            self._directories.pop(path, None)
        else:
            self._ov.unlink(parent, name)
        self._ov.forget([ino])

    def mkdir(self, path: bytes) -> None:
        """Make a directory."""
        self._ov.mkdir(*self._at(path), 0o700, Process())

    def make(self, path: bytes, entry: Entry) -> None:
        """Make anything but a directory, with its bytes."""
        if stat.S_ISLNK(entry.mode):
            self._ov.symlink(*self._at(path), entry.target, Process())
            return
        made = self._ov.mknod(*self._at(path), stat.S_IFMT(entry.mode) | 0o600, entry.rdev, Process())
        if stat.S_ISREG(entry.mode):
            self._bytes += fill(self._ov, Ino(made.ino), entry)

    def link(self, path: bytes, new: bytes) -> None:
        """Give a file another name."""
        self._ov.link(Ino(self._attr(path).ino), *self._at(new))

    def rename(self, path: bytes, new: bytes) -> None:
        """Rename what is no directory, over what has that name."""
        replaced = self._ov.lookup(*self._at(new))
        self._ov.rename(*self._at(path), *self._at(new))
        if replaced is not None:
            self._ov.forget([Ino(replaced.ino)])

    def dress(self, path: bytes, entry: Entry) -> None:
        """Give an object the owner, the mode, the extended attributes and the times of an entry, and no others."""
        attr = self._attr(path)
        ino = Ino(attr.ino)
        if (attr.uid, attr.gid) != (entry.uid, entry.gid):
            self._ov.setattr(ino, SetAttr(uid=entry.uid, gid=entry.gid))  # which clears set-id bits (chown(2))
        set_xattrs(self._ov, ino, known_xattrs(entry.xattrs))
        change = SetAttr(atime=entry.atime, mtime=entry.mtime)
        if not stat.S_ISLNK(entry.mode):
            change.mode = stat.S_IMODE(entry.mode)
        self._ov.setattr(ino, change)

    def set_times(self, path: bytes, atime: int, mtime: int) -> None:
        """Set the times of access and modification, in ns."""
        self._ov.setattr(Ino(self._attr(path).ino), SetAttr(atime=atime, mtime=mtime))


class MountedPlace:
    """An overlay that is mounted.

    Args:
        mountpoint: the mount point, or a path that leads to the root of the overlay.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, mountpoint: str) -> None:
        fd = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            top = detached_mount(fd)
            os.close(fd)
        except OSError:
            top = fd  # who may make no clone is told where another mount is in the way: EXDEV
        self._dir = ConfinedDir(top)

    def close(self) -> None:
        """Close all descriptors."""
        self._dir.close()

    def remove(self, path: bytes, *, is_dir: bool) -> None:
        """Remove a name; of a directory, an empty one."""
        if is_dir:
            self._dir.rmdir(_name(path))
        else:
            self._dir.unlink(_name(path))

    def mkdir(self, path: bytes) -> None:
        """Make a directory."""
        self._dir.mkdir(_name(path))

    def make(self, path: bytes, entry: Entry) -> None:
        """Make anything but a directory, with its bytes."""
        name = _name(path)
        if stat.S_ISLNK(entry.mode):
            self._dir.symlink(entry.target, name)
        elif stat.S_ISREG(entry.mode):
            fd = self._dir.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                for at, data in entry.pieces() if entry.pieces is not None and entry.size else ():
                    write_all(fd, data, at)
                os.ftruncate(fd, entry.size)
            finally:
                os.close(fd)
        else:
            self._dir.mknod(name, stat.S_IFMT(entry.mode) | 0o600, entry.rdev)

    def link(self, path: bytes, new: bytes) -> None:
        """Give a file another name."""
        self._dir.link(_name(path), _name(new))

    def rename(self, path: bytes, new: bytes) -> None:
        """Rename what is no directory, over what has that name."""
        self._dir.rename(_name(path), _name(new))

    def dress(self, path: bytes, entry: Entry) -> None:
        """Give an object the owner, the mode, the extended attributes and the times of an entry, and no others."""
        name, xattrs = _name(path), known_xattrs(entry.xattrs)
        self._dir.chown(name, entry.uid, entry.gid)  # which clears set-id bits and file capabilities (chown(2))
        if not stat.S_ISLNK(entry.mode):
            self._dir.chmod(name, stat.S_IMODE(entry.mode))
        had = self._dir.xattrs(name)
        for key in had.keys() - xattrs.keys():
            self._dir.removexattr(name, key)
        for key, value in xattrs.items():
            if had.get(key) != value:
                self._dir.setxattr(name, key, value)
        self.set_times(path, entry.atime, entry.mtime)

    def set_times(self, path: bytes, atime: int, mtime: int) -> None:
        """Set the times of access and modification, in ns."""
        self._dir.utime(_name(path), atime, mtime)


def _name(path: bytes) -> str:
    """The name of a path for ``ConfinedDir``: relative to the root, which is ``.``."""
    return os.fsdecode(path[1:]) or "."
