"""Bytes and attributes on their way from one tree to another: what importer, exporter and merge share.

Holes stay holes: only ranges that hold data are read and written.
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

_HOLE = 64 << 10  # bytes; as many zeros in a row become a hole
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.ENAMETOOLONG, errno.EINVAL)


def stat_or_none(view: BaseView, path: bytes) -> os.stat_result | None:
    """The attributes of what stands at *path*, or None if nothing can be there."""
    try:
        return view.stat(path)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise


def pieces(ranges: Iterable[tuple[int, int]], read: Callable[[int, int], bytes]) -> Iterator[tuple[int, bytes]]:
    """The bytes of a file, in pieces that begin at the same offsets whatever its holes are; zeros alone are left out.

    So two files of one size have the same pieces if, and only if, they hold the same bytes, and a file of any size
    takes no longer than what it holds.

    Args:
        ranges: its data, in order.
        read: gives bytes by their offset and number.
    """
    done = 0
    for start, end in ranges:
        for at in range(max(done, start // _HOLE * _HOLE), end, _HOLE):
            data = read(at, _HOLE)
            done = at + _HOLE
            if data.count(0) != len(data):
                yield at, data


def bytes_in(overlay: Overlay, ino: Ino, size: int) -> Iterator[tuple[int, bytes]]:
    """The same of a file in an overlay."""
    return pieces(overlay.data_ranges(ino, 0, size), lambda at, count: overlay.read(ino, at, count))


def xattrs_of(view: BaseView, path: bytes) -> dict[bytes, bytes]:
    """All extended attributes of an object that an overlay can hold."""
    return {name: view.getxattr(path, name) for name in view.listxattr(path) if is_known_xattr(name)}


def own_xattrs(overlay: Overlay, ino: Ino) -> dict[bytes, bytes]:
    """All extended attributes of an object in an overlay."""
    return {name: overlay.getxattr(ino, name) for name in overlay.listxattr(ino)}


def write_out(effects: Effects, overlay: Overlay, attr: Attr, path: bytes) -> None:
    """Make a plain object that is no directory, with the content or target of one in an overlay; attributes aside."""
    ino = Ino(attr.ino)
    if stat.S_ISLNK(attr.mode):
        effects.symlink(overlay.readlink(ino), path)
    elif stat.S_ISREG(attr.mode):
        fd = effects.create(path)
        try:
            for at, data in bytes_in(overlay, ino, attr.size):
                effects.write(fd, data, at)
            effects.truncate(fd, attr.size)
        finally:
            os.close(fd)
    else:
        effects.mknod(path, attr.mode, attr.rdev)


def dress(effects: Effects, path: bytes, attributes: Sequence[int], xattrs: dict[bytes, bytes] | None) -> None:
    """Give a plain object its attributes, in the order in which none undoes another.

    Args:
        effects: what does it.
        path: the object; symlinks are not followed.
        attributes: mode, uid, gid, and atime and mtime in ns.
        xattrs: all its extended attributes; None leaves them as they are.

    Raises:
        OSError: as the system calls; EOPNOTSUPP where the file system cannot hold an extended attribute.
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
