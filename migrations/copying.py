"""Copying of bytes and attributes from one tree to another, for importer, exporter and merge.

Holes stay holes: only ranges with data are read and written.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence

from ..engine import Overlay
from ..engine.model import Attr, Ino, is_known_xattr
from ..engine.store.base_view import BaseView
from .effects import Effects

_PIECE = 64 << 10  # bytes of a piece; a piece of zeros becomes a hole
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.ENAMETOOLONG, errno.EINVAL)


def stat_or_none(view: BaseView, path: bytes) -> os.stat_result | None:
    """Return the attributes of the object at *path*, or None if the tree has no object there."""
    try:
        return view.stat(path)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise


def pieces(ranges: Iterable[tuple[int, int]], read: Callable[[int, int], bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the bytes of a file in pieces of 64 KiB, each with its offset; pieces of zeros are left out.

    Offsets are multiples of 64 KiB, whatever the holes of the file are.  So two files of the same size have the same
    pieces if, and only if, they have the same bytes, and holes take no time.

    Args:
        ranges: the ranges of the file that have data (start and end), in order.
        read: returns bytes of the file; its arguments are offset and count.
    """
    done = 0
    for start, end in ranges:
        for at in range(max(done, start // _PIECE * _PIECE), end, _PIECE):
            data = read(at, _PIECE)
            done = at + _PIECE
            if data.count(0) != len(data):
                yield at, data


def pieces_in(overlay: Overlay, ino: Ino, size: int) -> Iterator[tuple[int, bytes]]:
    """Yield the bytes of a file in an overlay as ``pieces`` does: pieces of 64 KiB with offsets, without zeros."""
    return pieces(overlay.data_ranges(ino, 0, size), lambda at, count: overlay.read(ino, at, count))


def xattrs_of(view: BaseView, path: bytes) -> dict[bytes, bytes]:
    """Return the extended attributes of an object in a tree, without those that an overlay cannot store."""
    return {name: view.getxattr(path, name) for name in view.listxattr(path) if is_known_xattr(name)}


def xattrs_in(overlay: Overlay, ino: Ino) -> dict[bytes, bytes]:
    """Return all extended attributes of an object in an overlay."""
    return {name: overlay.getxattr(ino, name) for name in overlay.listxattr(ino)}


def copy_out(effects: Effects, overlay: Overlay, attr: Attr, path: bytes) -> None:
    """Copy an object of an overlay that is not a directory to *path*, without its attributes.

    Args:
        effects: writes the copy.
        overlay: the overlay.
        attr: the attributes of the object.
        path: where to make the copy; no object may be there.
    """
    ino = Ino(attr.ino)
    if stat.S_ISLNK(attr.mode):
        effects.symlink(overlay.readlink(ino), path)
    elif stat.S_ISREG(attr.mode):
        fd = effects.create(path)
        try:
            for at, data in pieces_in(overlay, ino, attr.size):
                effects.write(fd, data, at)
            effects.truncate(fd, attr.size)
        finally:
            os.close(fd)
    else:
        effects.mknod(path, attr.mode, attr.rdev)


def set_attributes(effects: Effects, path: bytes, attributes: Sequence[int], xattrs: dict[bytes, bytes] | None) -> None:
    """Set the attributes of an object outside an overlay, in an order in which no system call undoes another one.

    Args:
        effects: does the system calls.
        path: the object; a symlink is not followed.
        attributes: mode, uid, gid, atime and mtime; times in ns.
        xattrs: all extended attributes; None leaves them as they are.

    Raises:
        OSError: a system call failed; EOPNOTSUPP if the file system cannot store an extended attribute.
    """
    mode, uid, gid, atime, mtime = attributes
    st = os.lstat(path)
    if (st.st_uid, st.st_gid) != (uid, gid):
        effects.chown(path, uid, gid)
    if not stat.S_ISLNK(mode):
        effects.chmod(path, stat.S_IMODE(mode))
    if xattrs is not None:
        for name in map(os.fsencode, os.listxattr(path, follow_symlinks=False)):
            if name not in xattrs and is_known_xattr(name):
                effects.removexattr(path, name)
        for name, value in xattrs.items():
            effects.setxattr(path, name, value)
    effects.utime(path, atime, mtime)
