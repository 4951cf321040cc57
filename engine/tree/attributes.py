"""Attributes: setattr, extended attributes, ACLs, and the rules that drop set-id bits.

chmod, chown, utimens and setxattr of a base file change rows only.  A change of the size is the one change of
attributes that may copy or write file bytes.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterable

from ..errors import FsError
from ..model import (
    ACL_ACCESS,
    ACL_DEFAULT,
    XATTR_ACLS,
    XATTR_LIST_MAX,
    XATTR_MAX,
    XATTR_NAME_MAX,
    XATTR_SPACES,
    Ino,
    SetAttr,
    is_known_xattr,
)
from ..store.base_view import BaseView
from ..store.database import Database
from ..store.statements import statement
from . import acl
from .content import Content
from .inode_rows import AnyAttr, Row
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
_PERMISSIONS = 0o7777


def without_set_ids(mode: int, *, in_group: bool = True) -> int:
    """Return the mode that a write or a chown leaves (chown(2)).

    Set-user-ID is always cleared.  Set-group-ID is cleared if the file is executable by its group; without that bit it
    means mandatory locking and stays.

    Args:
        mode: the mode before.
        in_group: False if the caller is not in the file's group: then set-group-ID is always cleared.
    """
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP or not in_group else mode


def _missing(name: bytes) -> FsError:
    """Return the error for an extended attribute that an object lacks, as the kernel has it on ext4 (fs/xattr.c)."""
    if is_known_xattr(name):
        return FsError(errno.ENODATA)
    return FsError(errno.EINVAL if name in XATTR_SPACES else errno.EOPNOTSUPP)


class Attributes:
    """Reads and changes attributes, extended attributes and ACLs.

    Args:
        db: the overlay's database.
        base: the base view.
        inodes: rows and nodes.
        content: file bytes, for changes of the size.
    """

    def __init__(self, db: Database, base: BaseView, inodes: Inodes, content: Content) -> None:
        self._db = db
        self._base = base
        self._inodes = inodes
        self._content = content
        self._defaults: dict[Ino, bytes | None] = {}

    # -- setattr

    def setattr(self, node: Node, change: SetAttr, attr: AnyAttr) -> None:
        """Change attributes of one object.  Call it inside an operation.

        Args:
            node: the object.
            change: the attributes to set.
            attr: its attributes now.

        Raises:
            FsError: EISDIR or EINVAL if *change* sets the size of an object that is not a regular file.
        """
        if change.ctime is not None:
            self._inodes.clock.note(change.ctime)  # from the kernel: no system call sets a ctime
        if self._is_nothing(change, attr):
            return
        # a file with bytes of its own may outlive its base file, so it needs its own copy of the xattrs too
        row = self._inodes.adopt(node, attr) if change.size is None else self.own_xattrs(node, attr)
        atime = row.atime if change.atime is None else change.atime
        mtime = row.mtime if change.mtime is None else change.mtime
        ctime = self._inodes.now() if change.ctime is None else change.ctime
        if change.size is None:
            sets_mode = change.mode is not None or change.uid is not None or change.gid is not None or change.kill_priv
            if sets_mode or change.atime is not None or mtime != row.mtime:
                # an unchanged mtime is no modification: the kernel sends it along with the ctime of a rename
                self._inodes.modify(row)
            if not sets_mode:
                # the short way for the request that the kernel sends after each written file
                self._inodes.stamp(row, row.nlink, atime, mtime, ctime)
                return
        else:
            self._resize(row, node, change.size)
            if change.size != row.size and change.mtime is None:
                mtime = self._inodes.now()
        mode = self._new_mode(row, change)
        if mode != row.mode:
            self._chmod_acl(row, node, mode)
        row = self._inodes.adopt(node)  # read again: the resize and the ACL have saved another row
        uid = row.uid if change.uid is None else change.uid
        gid = row.gid if change.gid is None else change.gid
        self._inodes.save(row._replace(mode=mode, uid=uid, gid=gid, atime=atime, mtime=mtime, ctime=ctime))

    @staticmethod
    def _is_nothing(change: SetAttr, attr: AnyAttr) -> bool:
        """Return True if *change* needs no row.

        The kernel writes back an inode's times after a rename or an unlink, and it asks to drop set-id bits before each
        write, even if none are set.  A base object without a row keeps the base's ctime.  Setting the size that a file
        already has does not change its times (truncate(2)); if it must (ftruncate(2)), the kernel sends the times too.
        """
        if not (change.mode is None and change.uid is None and change.gid is None and change.atime is None):
            return False
        mode = attr.mode
        if change.size is not None and not (stat.S_ISREG(mode) and change.size == attr.size):
            return False
        if change.kill_priv and without_set_ids(mode, in_group=change.in_group) != mode and not stat.S_ISDIR(mode):
            return False
        same_mtime = change.mtime is None or change.mtime == attr.mtime
        return same_mtime and (attr.row is None or (change.mtime is None and change.ctime is None))

    def _new_mode(self, row: Row, change: SetAttr) -> int:
        mode = row.mode if change.mode is None else stat.S_IFMT(row.mode) | change.mode & _PERMISSIONS
        chowned = change.uid is not None or change.gid is not None
        if (chowned or change.kill_priv) and not stat.S_ISDIR(mode):
            mode = without_set_ids(mode, in_group=change.in_group or not change.kill_priv)
        return mode

    def _resize(self, row: Row, node: Node, size: int) -> None:
        if stat.S_ISDIR(row.mode):
            # invariant 13: content belongs to regular files
            raise FsError(errno.EISDIR, f"truncate inode {row.ino}")
        if not stat.S_ISREG(row.mode):
            raise FsError(errno.EINVAL, f"truncate inode {row.ino}")
        self._inodes.modify(row, content=True)
        self._content.resize(row, node.path, size)

    # -- extended attributes

    def getxattr(self, node: Node, name: bytes) -> bytes:
        """Return the value of one extended attribute.

        Raises:
            FsError: ENODATA if the object does not have it, EOPNOTSUPP for a namespace that is not supported, EINVAL
                for a namespace without a name.
        """
        value = self._find(node, name)
        if value is None:
            raise _missing(name)
        return value

    def _find(self, node: Node, name: bytes) -> bytes | None:
        """Return the value of one extended attribute, or None.

        No exception for a missing one: the engine looks for ACLs often, and most objects have none.
        """
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
        """Return the names of all extended attributes of an object, ACLs included."""
        row = self._inodes.row(node.ino) if node.state else None
        if row is None or not row.xattrs:
            if node.path is None:
                raise FsError(errno.ESTALE, f"inode {node.ino}")
            return [] if self._is_gone(node) else self._base.listxattr(node.path)
        rows = self._db.rows("SELECT name FROM xattr WHERE ino = ?", (node.ino,))
        return [name for (name,) in rows if is_xattr_name(name)]

    def _is_gone(self, node: Node) -> bool:
        """Return True if the object's base object is not in this base, so that its xattrs cannot be read."""
        if node.state:
            self._inodes.attributes(node)  # fills drift.gone
        return node.ino in self._inodes.drift.gone

    def setxattr(self, node: Node, name: bytes, value: bytes, flags: int = 0, *, keep_sgid: bool = True) -> None:
        """Set one extended attribute.  Call it inside an operation.

        Args:
            node: the object.
            name: the name with its namespace.
            value: the new value.
            flags: XATTR_CREATE or XATTR_REPLACE (setxattr(2)).
            keep_sgid: False if the caller is not in the file's group: setting an access ACL then clears set-group-ID.

        Raises:
            FsError: EEXIST with XATTR_CREATE if it exists, ENODATA with XATTR_REPLACE if it does not; ERANGE for a name
                longer than 255 bytes; E2BIG for a value longer than 64 KiB; ENOSPC if all names of the object would
                take more than 64 KiB; EINVAL for a malformed ACL; EACCES for a default ACL of an object that is not a
                directory; EOPNOTSUPP for a namespace that is not supported.
        """
        if not is_known_xattr(name):
            raise _missing(name)
        if len(name) > XATTR_NAME_MAX or not name:
            raise FsError(errno.ERANGE)
        if len(value) > XATTR_MAX:
            raise FsError(errno.E2BIG)
        if name == ACL_DEFAULT and not node.is_dir:
            if acl.parse(value):
                raise FsError(errno.EACCES)
            return  # an ACL without entries removes the ACL, and there is none to remove
        row = self.own_xattrs(node)
        mode = row.mode
        old = self._db.value("SELECT 1 FROM xattr WHERE ino = ? AND name = ?", (node.ino, name))
        if old is None and flags & _XATTR_REPLACE:
            raise FsError(errno.ENODATA)
        if old is not None and flags & _XATTR_CREATE:
            raise FsError(errno.EEXIST)
        self._inodes.modify(row)
        stored: bytes | None = value
        if name == ACL_ACCESS:
            mode, stored = acl.apply(value, row.mode)
            if not keep_sgid:
                mode &= ~stat.S_ISGID
        elif name == ACL_DEFAULT:
            stored = value if acl.parse(value) else None
        self._put(node.ino, name, stored)
        list_size = self._db.value("SELECT sum(length(name) + 1) FROM xattr WHERE ino = ?", (node.ino,))
        if list_size is not None and list_size > XATTR_LIST_MAX:
            raise FsError(errno.ENOSPC)
        self._inodes.save(row._replace(mode=mode, ctime=self._inodes.now()))

    def removexattr(self, node: Node, name: bytes) -> None:
        """Remove one extended attribute.  Call it inside an operation.

        Raises:
            FsError: ENODATA if the object does not have it, EOPNOTSUPP for a namespace that is not supported.  Removing
                an ACL that is not there succeeds, as on the kernel's file systems.
        """
        if self._find(node, name) is None:
            if name in XATTR_ACLS:
                return
            raise _missing(name)
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
        if name == ACL_DEFAULT:
            self._defaults.pop(ino, None)

    def add(self, ino: Ino, found: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Add rows of ``xattr`` for an object that has none with these names.  Call it inside an operation."""
        for name, value in found:
            self._db.change(_ADD_XATTR, (ino, name, value))

    def own_xattrs(self, node: Node, attr: AnyAttr | None = None, *, save: bool = True) -> Row:
        """Copy an object's extended attributes from the base to rows, if they are not rows yet; return its row.

        From then on the base's extended attributes of this object are not read any more.  Call it inside an operation.

        Args:
            node: the object.
            attr: its attributes, if the caller has just read them.
            save: False if the caller saves the returned row itself.
        """
        if attr is None:
            attr = self._inodes.attributes(node)
        found = attr.row
        if found is not None and found.xattrs:
            return found
        from_base = [(name, self._find(node, name)) for name in self.listxattr(node)]
        row = self._inodes.adopt(node, attr, xattrs=1)  # invariant 15: who has rows of xattr owns its attributes
        self.add(node.ino, from_base)
        if not row.xattrs:
            row = row._replace(xattrs=1)
            if save:
                self._inodes.save(row)
        return row

    # -- ACLs

    def _chmod_acl(self, row: Row, node: Node, mode: int) -> None:
        access = self._find(node, ACL_ACCESS)
        if access is not None:
            self.own_xattrs(node)
            self._put(row.ino, ACL_ACCESS, acl.chmod(access, mode))

    def default_acl(self, node: Node) -> bytes | None:
        """Return the default ACL of a directory, or None; cached, because every creation of an object needs it."""
        if node.ino not in self._defaults:
            if len(self._defaults) > 1024:
                self._defaults.clear()
            self._defaults[node.ino] = self._find(node, ACL_DEFAULT)
        return self._defaults[node.ino]

    def give_acls(self, ino: Ino, access: bytes | None, default: bytes | None) -> None:
        """Store the ACLs that a new object inherits from its directory; None for an ACL that it does not get."""
        if access is not None:
            self._put(ino, ACL_ACCESS, access)
        if default is not None:
            self._put(ino, ACL_DEFAULT, default)

    def forget(self, ino: Ino) -> None:
        """Remove a directory's default ACL from the cache."""
        self._defaults.pop(ino, None)
