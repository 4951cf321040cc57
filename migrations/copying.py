"""Bytes and attributes on their way from one tree to another: what importer, exporter and merge share.

Holes stay holes: only ranges that hold data are read and written.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence

from minifo.engine import Overlay
from minifo.engine.base import BaseView
from minifo.engine.model import Attr, Ino
from minifo.migrations.effects import Effects

_STEP = 1 << 20  # bytes read at once
_HOLE = 64 << 10  # bytes; as many zeros in a row become a hole
_SPACES = (b"user.", b"trusted.", b"security.", b"system.posix_acl_access", b"system.posix_acl_default")


def data_of(fd: int, start: int, end: int) -> Iterator[bytes]:
    """The bytes of a range, in pieces.

    Raises:
        OSError: EIO where the file is shorter than it was.
    """
    while start < end:
        data = os.pread(fd, min(_STEP, end - start), start)
        if not data:
            raise OSError(errno.EIO, "the file became shorter while it was read")
        yield data
        start += len(data)


def xattrs_of(view: BaseView, path: bytes) -> dict[bytes, bytes]:
    """All extended attributes of an object that an overlay can hold."""
    return {name: view.getxattr(path, name) for name in view.listxattr(path) if name.startswith(_SPACES)}


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
            for at in range(0, attr.size, _HOLE):
                data = overlay.read(ino, at, _HOLE)
                if data.count(0) != len(data):
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
            if name not in xattrs and name.startswith(_SPACES):
                effects.removexattr(path, name)
        for name, value in xattrs.items():
            effects.setxattr(path, name, value)
    effects.utime(path, atime, mtime)
