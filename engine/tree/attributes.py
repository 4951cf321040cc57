"""Attributes: setattr, extended attributes, ACLs, and the rules that drop set-id bits.

Nothing here copies content, but for the size: chmod, chown, utimens and xattrs of a base file touch rows only.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable

from ..errors import FsError
from ..model import XATTR_MAX, Ino, SetAttr
from ..store.base_view import BaseView
from ..store.database import Database
from ..store.statements import statement
from . import acl
from .content import Content
from .inode_rows import Row
from .inodes import Inodes
from .nodes import Node
from .row_checks import bytes_of, is_xattr_name

_PUT_XATTR = statement(
    "INSERT INTO xattr VALUES (?, ?, ?) ON CONFLICT (ino, name) DO UPDATE SET value = excluded.value"
)
_ADD_XATTR = statement("INSERT INTO xattr VALUES (?, ?, ?)")
_DROP_XATTR = statement("DELETE FROM xattr WHERE ino = ? AND name = ?")

_XATTR_CREATE = 1
_XATTR_REPLACE = 2
_XATTR_NAME_MAX = 255  # limits.h of the kernel, as is the next one
_XATTR_LIST_MAX = 65536
_PERMISSIONS = 0o7777


#: The namespaces of extended attributes that every Linux file system may hold (xattr(7)), and the two ACLs.
_SPACES = (b"user.", b"trusted.", b"security.")


def without_set_ids(mode: int, *, in_group: bool = True) -> int:
    """The mode after a write or chown: set-user-ID goes, set-group-ID where it is not mandatory locking (chown(2)).

    Args:
        mode: the mode before.
        in_group: False where the caller is not in the file's group: then set-group-ID goes in any case.
    """
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP or not in_group else mode


def _is_known(name: bytes) -> bool:
    return name.startswith(_SPACES) or name in (acl.ACCESS, acl.DEFAULT)


def _no_such(name: bytes) -> FsError:
    return FsError(errno.ENODATA if _is_known(name) else errno.EOPNOTSUPP)


class Attributes:
    """Changes of attributes and extended attributes.

    Args:
        db: the overlay's database.
        base: the base view.
        inodes: rows and nodes.
        content: file bytes (for the size).
    """

    def __init__(self, db: Database, base: BaseView, inodes: Inodes, content: Content) -> None:
        self._db = db
        self._base = base
        self._inodes = inodes
        self._content = content
        self._defaults: dict[Ino, bytes | None] = {}

    # -- setattr

    def setattr(self, node: Node, change: SetAttr, held: Row | os.stat_result) -> None:
        """Change attributes of one object; inside an operation.

        Args:
            node: the object.
            change: what is to be set.
            held: its attributes now.

        Raises:
            FsError: EISDIR or EINVAL for the size of what is no regular file.
        """
        if change.ctime is not None:
            self._inodes.clock.note(change.ctime)  # the kernel's own: nobody else can set one
        if self._is_nothing(change, held):
            return
        # a file with bytes of its own may outlive its base file, so its attributes must be its own as well
        row = self._inodes.adopt(node, held) if change.size is None else self.own_xattrs(node, held)
        atime = row.atime if change.atime is None else change.atime
        mtime = row.mtime if change.mtime is None else change.mtime
        ctime = self._inodes.now() if change.ctime is None else change.ctime
        if change.size is None:
            owner = change.mode is not None or change.uid is not None or change.gid is not None or change.kill_priv
            if owner or change.atime is not None or mtime != row.mtime:
                # the kernel's ctime of a renamed file comes with an mtime that is none of anybody's doing
                self._inodes.modify(row)
            if not owner:
                # what the kernel sends after each file it has written
                self._inodes.stamp(row, row.nlink, atime, mtime, ctime)
                return
        else:
            self._resize(row, node, change.size)
            if change.size != row.size and change.mtime is None:
                mtime = self._inodes.now()
        mode = self._new_mode(row, change)
        if mode != row.mode:
            self._chmod_acl(row, node, mode)
        row = self._inodes.adopt(node)  # its size, or whose extended attributes count, may be another now
        uid = row.uid if change.uid is None else change.uid
        gid = row.gid if change.gid is None else change.gid
        self._inodes.save(row._replace(mode=mode, uid=uid, gid=gid, atime=atime, mtime=mtime, ctime=ctime))

    @staticmethod
    def _is_nothing(change: SetAttr, held: Row | os.stat_result) -> bool:
        """True for what changes nothing worth a row.

        The kernel writes back an inode's times after a rename or an unlink, and asks to drop set-id bits before each
        write, whether there are any or not.  A base object without a row keeps its own ctime.  A size that is the old
        one leaves the times alone (truncate(2)); where they must move, the kernel sends them along (ftruncate(2)).
        """
        if not (change.mode is None and change.uid is None and change.gid is None and change.atime is None):
            return False
        if owned := isinstance(held, Row):
            mode, size, mtime = held.mode, held.size, held.mtime
        else:
            mode, size, mtime = held.st_mode, held.st_size, held.st_mtime_ns
        if change.size is not None and not (stat.S_ISREG(mode) and change.size == size):
            return False
        if change.kill_priv and without_set_ids(mode, in_group=change.in_group) != mode and not stat.S_ISDIR(mode):
            return False
        same_mtime = change.mtime is None or change.mtime == mtime
        return same_mtime and not (owned and (change.mtime is not None or change.ctime is not None))

    def _new_mode(self, row: Row, change: SetAttr) -> int:
        mode = row.mode if change.mode is None else stat.S_IFMT(row.mode) | change.mode & _PERMISSIONS
        chowned = change.uid is not None or change.gid is not None
        if (chowned or change.kill_priv) and not stat.S_ISDIR(mode):
            mode = without_set_ids(mode, in_group=change.in_group or not change.kill_priv)
        return mode

    def _resize(self, row: Row, node: Node, size: int) -> None:
        if stat.S_ISDIR(row.mode):
            raise FsError(errno.EISDIR, f"truncate {row.ino}")
        if not stat.S_ISREG(row.mode):
            raise FsError(errno.EINVAL, f"truncate {row.ino}")
        self._inodes.modify(row, content=True)
        self._content.resize(row, node.path, size)

    # -- extended attributes

    def getxattr(self, node: Node, name: bytes) -> bytes:
        """The value of one extended attribute.

        Raises:
            FsError: ENODATA where there is none, EOPNOTSUPP outside the known namespaces.
        """
        value = self._find(node, name)
        if value is None:
            raise _no_such(name)
        return value

    def _find(self, node: Node, name: bytes) -> bytes | None:
        """The value of one extended attribute, or None: most objects have no ACL, and it is asked for often."""
        row = self._inodes.row(node.ino) if node.state else None
        if row is None or not row.xattrs:
            path = node.path
            if path is None:
                raise FsError(errno.ESTALE, f"inode {node.ino}")
            if self._is_gone(node):
                return None
            try:
                return self._base.getxattr(path, name)
            except OSError as error:
                if error.errno == errno.ENODATA:
                    return None
                raise
        value = self._db.value("SELECT value FROM xattr WHERE ino = ? AND name = ?", (node.ino, name))
        return None if value is None else bytes_of(node.ino, value)

    def listxattr(self, node: Node) -> list[bytes]:
        """The names of all extended attributes."""
        row = self._inodes.row(node.ino) if node.state else None
        if row is None or not row.xattrs:
            if node.path is None:
                raise FsError(errno.ESTALE, f"inode {node.ino}")
            return [] if self._is_gone(node) else self._base.listxattr(node.path)
        found = self._db.rows("SELECT name FROM xattr WHERE ino = ?", (node.ino,))
        return [name for (name,) in found if is_xattr_name(name)]

    def _is_gone(self, node: Node) -> bool:
        """True where the base object whose extended attributes count is not in this base."""
        if node.state:
            self._inodes.attributes(node)
        return node.ino in self._inodes.drift.gone

    def setxattr(self, node: Node, name: bytes, value: bytes, flags: int = 0, *, keep_sgid: bool = True) -> None:
        """Set one extended attribute; inside an operation.

        Args:
            node: the object.
            name: with its namespace.
            value: the new value.
            flags: XATTR_CREATE or XATTR_REPLACE (setxattr(2)).
            keep_sgid: False where the caller is not in the file's group: setting an ACL then drops set-group-ID.

        Raises:
            FsError: EEXIST or ENODATA as the flags ask, ERANGE, E2BIG, ENOSPC, EINVAL for a malformed ACL, and
                EOPNOTSUPP outside the known namespaces.
        """
        if not _is_known(name):
            raise FsError(errno.EOPNOTSUPP)
        if len(name) > _XATTR_NAME_MAX or not name:
            raise FsError(errno.ERANGE)
        if len(value) > XATTR_MAX:
            raise FsError(errno.E2BIG)
        if name == acl.DEFAULT and not node.is_dir:
            if acl.parse(value):
                raise FsError(errno.EACCES)
            return  # to remove what cannot be there is no error
        row = self.own_xattrs(node)
        mode = row.mode
        old = self._db.value("SELECT 1 FROM xattr WHERE ino = ? AND name = ?", (node.ino, name))
        if old is None and flags & _XATTR_REPLACE:
            raise FsError(errno.ENODATA)
        if old is not None and flags & _XATTR_CREATE:
            raise FsError(errno.EEXIST)
        self._inodes.modify(row)
        kept: bytes | None = value
        if name == acl.ACCESS:
            mode, kept = acl.apply(value, row.mode)
            if not keep_sgid:
                mode &= ~stat.S_ISGID
        elif name == acl.DEFAULT:
            kept = value if acl.parse(value) else None
        self._put(node.ino, name, kept)
        used = self._db.value("SELECT sum(length(name) + 1) FROM xattr WHERE ino = ?", (node.ino,))
        if used is not None and used > _XATTR_LIST_MAX:
            raise FsError(errno.ENOSPC)
        self._inodes.save(row._replace(mode=mode, ctime=self._inodes.now()))

    def removexattr(self, node: Node, name: bytes) -> None:
        """Remove one extended attribute; inside an operation.

        Raises:
            FsError: as ``getxattr``; an ACL that is not there is as good as removed, as the kernel has it.
        """
        if self._find(node, name) is None:
            if name in (acl.ACCESS, acl.DEFAULT):
                return
            raise _no_such(name)
        row = self.own_xattrs(node)
        self._inodes.modify(row)
        self._put(node.ino, name, None)
        self._inodes.save(row._replace(ctime=self._inodes.now()))

    def _put(self, ino: Ino, name: bytes, value: bytes | None) -> None:
        if value is None:
            self._db.change(_DROP_XATTR, (ino, name))
        else:
            self._db.change(_PUT_XATTR, (ino, name, value))
        self._inodes.watcher.dropped(ino)
        if name == acl.DEFAULT:
            self._defaults.pop(ino, None)

    def add(self, ino: Ino, found: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Add extended attributes that an object does not have as rows yet.  Inside an operation."""
        for name, value in found:
            self._db.change(_ADD_XATTR, (ino, name, value))

    def own_xattrs(self, node: Node, held: Row | os.stat_result | None = None, *, save: bool = True) -> Row:
        """The row of an object whose extended attributes are all rows of ours.  Inside an operation.

        Args:
            node: the object.
            held: its attributes, where they have just been looked up.
            save: False where the caller saves the row anyway.
        """
        if held is None:
            held = self._inodes.attributes(node)
        if isinstance(held, Row) and held.xattrs:
            return held
        found = [(name, self._find(node, name)) for name in self.listxattr(node)]
        row = self._inodes.adopt(node, held, xattrs=1)
        self.add(node.ino, found)
        if not row.xattrs:
            row = row._replace(xattrs=1)
            if save:
                self._inodes.save(row)
        return row

    # -- ACLs

    def _chmod_acl(self, row: Row, node: Node, mode: int) -> None:
        access = self._find(node, acl.ACCESS)
        if access is not None:
            self.own_xattrs(node)
            self._put(row.ino, acl.ACCESS, acl.chmod(access, mode))

    def default_acl(self, node: Node) -> bytes | None:
        """The default ACL of a directory, or None; remembered, as every creation asks."""
        if node.ino not in self._defaults:
            if len(self._defaults) > 1024:
                self._defaults.clear()
            self._defaults[node.ino] = self._find(node, acl.DEFAULT)
        return self._defaults[node.ino]

    def give_acls(self, ino: Ino, access: bytes | None, default: bytes | None) -> None:
        """Set what a new object inherits."""
        if access is not None:
            self._put(ino, acl.ACCESS, access)
        if default is not None:
            self._put(ino, acl.DEFAULT, default)

    def forget(self, ino: Ino) -> None:
        """Drop what is remembered about a number."""
        self._defaults.pop(ino, None)
