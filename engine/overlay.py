"""The overlay: the engine's facade.  One method is one file-system operation, and one operation is one transaction.

The operations take names and inode numbers, return attributes and bytes, and raise ``FsError`` for every error of a
caller.  They are synchronous, and only one thread may call them.  The opening and the wiring of the parts is in
open_overlay.py; the invariants that they keep are numbered in store/invariants.py.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from functools import partial

from .errors import FsError
from .model import ROOT, Attr, Caller, DirEntry, Ino, RenameFlags, SetAttr
from .open_overlay import OpenOverlay
from .store.syscalls import ranges_by
from .tree.inode_rows import Row
from .tree.nodes import Node
from .tree.row_checks import target_of

_DAY = 86_400 * 10**9  # ns


class Overlay(OpenOverlay):
    """An open overlay.  Made by ``Overlay.open``."""

    # -- looking

    def lookup(self, parent: Ino, name: bytes) -> Attr | None:
        """Return the attributes of the object called *name* in a directory, or None if there is none.

        The kernel looks up ``.`` of an object of any type, to find a number that it has forgotten
        (open_by_handle_at(2)).

        Raises:
            FsError: ENOTDIR, ESTALE, ENAMETOOLONG.
        """
        if name == b".":
            return self.getattr(parent)
        directory = self.inodes.directory(parent)
        self.merge.check_name(name)
        if name == b"..":
            return self.getattr(directory.parent)
        return self._journal.saw(parent, name, self.merge.lookup(directory, name))

    def find(self, path: bytes) -> Attr | None:
        """Return the attributes of the object at a path, or None if there is none.

        Args:
            path: absolute, ``/`` for the root; symbolic links are not followed.
        """
        attr = self.getattr(ROOT)
        for name in path.split(b"/"):
            if name:
                if not stat.S_ISDIR(attr.mode):
                    return None
                found = self.lookup(Ino(attr.ino), name)
                if found is None:
                    return None
                attr = found
        return attr

    def getattr(self, ino: Ino) -> Attr:
        """Return the attributes of an object.

        Raises:
            FsError: ESTALE if no object has this number.
        """
        node = self.inodes.node(ino)
        return self.merge.attr(self.inodes.attributes(node), node)

    def readdir(self, ino: Ino, after: int = 0) -> Iterator[DirEntry]:
        """Yield the entries of a directory, with ``.`` and ``..``.

        Cookies stay valid while the directory changes: a listing shows a name that stays exactly once.

        Args:
            ino: the directory.
            after: the cookie of the last entry that the caller has seen; 0 for the beginning.
        """
        return self._journal.saw_all(ino, self.merge.readdir(self.inodes.directory(ino), after))

    def all_names(self, ino: Ino, most: int) -> list[bytes] | None:
        """Return all names in a directory, in no particular order, or None if there may be more than *most*."""
        return self.merge.few_names(self.inodes.directory(ino), most)

    def readlink(self, ino: Ino) -> bytes:
        """Return the target of a symlink.

        Raises:
            FsError: EINVAL if the object is not a symlink.
        """
        node = self.inodes.node(ino)
        if not stat.S_ISLNK(self.inodes.mode(node)):
            raise FsError(errno.EINVAL, f"readlink {ino}")
        target = self.db.value("SELECT target FROM inode WHERE ino = ?", (ino,)) if node.state else None
        if target is not None or node.path is None:
            return target_of(ino, target)
        return self.base.readlink(node.path)

    def read(self, ino: Ino, offset: int, size: int) -> bytes:
        """Return *size* bytes of a file from *offset* on, or those up to its end.

        Raises:
            FsError: EISDIR or EINVAL if it is not a regular file; ESTALE if no object has this number.
        """
        node = self.inodes.node(ino)
        row = self.inodes.row(ino) if node.state else None
        if row is None:
            if node.path is None:
                raise FsError(errno.ESTALE, f"inode {ino}")
            return os.pread(self.base.file(node.path), size, offset)
        self._check_regular(node, row.mode)
        return self.content.read(row, node.path, offset, size)

    def accessed(self, ino: Ino, *, strict: bool = False) -> None:
        """Update a file's access time after a read, by the rule of relatime or strictatime (mount(8)).

        Does nothing for a base object without a row, so that reading the base takes no storage.

        Args:
            ino: the file.
            strict: True for strictatime; False for relatime, which updates the time only if it is a day old, or not
                newer than mtime and ctime.
        """
        row = self.inodes.row(ino) if self.inodes.node(ino).state else None
        if row is None or self.db.read_only:
            return
        t = self.inodes.clock.now()
        if not strict and row.atime > max(row.mtime, row.ctime) and t - row.atime < _DAY:
            return
        self._claim_space(0)
        with self.db.operation():
            self.inodes.stamp(row, row.nlink, t, row.mtime, row.ctime)

    def read_ahead(self, ino: Ino) -> None:
        """Start reading the base files that are likely to be read after this one (tree/readahead.py)."""
        node = self.inodes.node(ino)
        if not node.state and node.path is not None:
            self.merge.read_ahead.note_read(node.path)

    def base_file(self, ino: Ino) -> int | None:
        """Return a descriptor of the base file if the overlay has not changed it, else None; the caller closes it."""
        node = self.inodes.node(ino)
        if not self.is_unchanged(ino) or node.path is None:
            return None
        return os.dup(self.base.file(node.path))

    def is_unchanged(self, ino: Ino) -> bool:
        """Return whether an object is a base object without a row in ``inode``: it shows exactly as in the base."""
        node = self.inodes.node(ino)
        return node.path is not None and (not node.state or self.inodes.row(ino) is None)

    @staticmethod
    def _check_regular(node: Node, mode: int) -> None:
        if not stat.S_ISREG(mode):
            raise FsError(errno.EISDIR if node.is_dir else errno.EINVAL, f"inode {node.ino}")

    def statfs(self) -> os.statvfs_result:
        """Return the figures for statfs(2): of storage's file system, or of ``max_size``, whichever is full first."""
        return self.space.statfs()

    # -- changing names

    def mknod(self, parent: Ino, name: bytes, mode: int, rdev: int, caller: Caller) -> Attr:
        """Create a regular file, FIFO, socket or device node, and return its attributes.

        Args:
            parent: the directory.
            name: the new name.
            mode: type and permission bits before the umask; no type means a regular file (mknod(2)).
            rdev: device number of a device node; otherwise ignored.
            caller: the process whose ids own the object; its umask applies unless the directory has a default ACL.

        Raises:
            FsError: EEXIST, ENOTDIR, ENAMETOOLONG, ENOSPC, EROFS; EINVAL for a directory or a symlink.
        """
        if not stat.S_IFMT(mode):
            mode |= stat.S_IFREG
        if stat.S_ISDIR(mode) or stat.S_ISLNK(mode):
            raise FsError(errno.EINVAL, "mknod")
        device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
        return self._make(parent, name, mode, caller, rdev=rdev if device else 0)

    def mkdir(self, parent: Ino, name: bytes, mode: int, caller: Caller) -> Attr:
        """Create a directory, and return its attributes; *mode* is its permission bits before the umask."""
        return self._make(parent, name, stat.S_IFDIR | stat.S_IMODE(mode), caller)

    def symlink(self, parent: Ino, name: bytes, target: bytes, caller: Caller) -> Attr:
        """Create a symlink to *target*, and return its attributes."""
        return self._make(parent, name, stat.S_IFLNK | 0o777, caller, target=target)

    def _make(
        self, parent: Ino, name: bytes, mode: int, caller: Caller, *, rdev: int = 0, target: bytes | None = None
    ) -> Attr:
        self._claim_space(0)
        with self.db.operation():
            node = self.namespace.make(self.inodes.directory(parent), name, mode, caller, rdev=rdev, target=target)
            self._journal.made(parent, name, node.ino, mode)
            return self.merge.attr(self._row(node), node)

    def tmpfile(self, parent: Ino, mode: int, caller: Caller, *, linkable: bool = True) -> Attr:
        """Create a regular file without a name, and return its attributes.

        ``forget`` deletes it, unless ``link`` has given it a name.

        Args:
            parent: the directory, which gives it a group and a default ACL.
            mode: permission bits before the umask.
            caller: the process whose ids own the file; its umask applies unless the directory has a default ACL.
            linkable: whether ``link`` may give it a name (O_TMPFILE without O_EXCL, open(2)).
        """
        self._claim_space(0)
        with self.db.operation():
            node = self.namespace.make_unnamed(self.inodes.directory(parent), mode, caller, linkable=linkable)
            return self.merge.attr(self._row(node), node)

    def link(self, ino: Ino, parent: Ino, name: bytes) -> Attr:
        """Make *name* in *parent* a hard link to an object, and return the object's attributes."""
        self._claim_space(0)
        with self.db.operation():
            node = self.inodes.node(ino)
            self.namespace.link(node, self.inodes.directory(parent), name)
            attr = self.inodes.attributes(node)
            self._journal.linked(node, parent, name, attr.nlink - 1)
            return self.merge.attr(attr, node)

    def unlink(self, parent: Ino, name: bytes) -> None:
        """Remove a name of an object that is not a directory.  An object without names stays until ``forget``."""
        self._prepare_to_free()
        with self.db.operation():
            self.namespace.unlink(self.inodes.directory(parent), name)
            self._journal.removed("unlink", parent, name)

    def rmdir(self, parent: Ino, name: bytes) -> None:
        """Remove a directory that shows no names."""
        self._prepare_to_free()
        with self.db.operation():
            self.namespace.rmdir(self.inodes.directory(parent), name)
            self._journal.removed("rmdir", parent, name)

    def rename(self, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes, flags: int = RenameFlags.NONE) -> None:
        """Rename an object, replacing the object with the new name, or exchange the two (renameat2(2))."""
        self._claim_space(0)
        with self.db.operation():
            source, target = self.inodes.directory(parent), self.inodes.directory(new_parent)
            if self.namespace.rename(source, name, target, new_name, flags):
                self._journal.renamed(parent, name, target, new_name, flags)

    def forget(self, inos: Iterable[Ino]) -> None:
        """Drop numbers that the kernel no longer references from memory, and delete the orphans among them."""
        for ino in inos:
            node = self.inodes.node_in_memory(ino)
            if node is not None and node.state and not self.db.read_only and self.inodes.is_orphan(ino):
                self._prepare_to_free()
                self._reap(ino)
            self.inodes.drop_node(ino)
            self.attributes.forget(ino)
            self._journal.forget(ino)

    def add_lookup(self, ino: Ino) -> None:
        """Count one more reference of the kernel to a number (nlookup), after the reply of a lookup or a create."""
        node = self.inodes.node_in_memory(ino) or self.inodes.node(ino)
        node.nlookup += 1
        node.stale = False  # the reply has its generation

    def is_referenced(self, ino: Ino) -> bool:
        """Return whether the kernel has references to a number; that to the root is always there, and not counted."""
        node = self.inodes.node_in_memory(ino)
        return node is not None and (node.nlookup > 0 or ino == ROOT)

    def subtract_lookups(self, counts: Iterable[tuple[Ino, int]]) -> None:
        """Subtract the kernel's references of a FORGET request, and ``forget`` the numbers that have none left.

        Args:
            counts: numbers, each with its count of references.
        """
        gone = []
        for ino, count in counts:
            node = self.inodes.node_in_memory(ino)
            if node is not None:
                node.nlookup -= count
                if node.nlookup <= 0:
                    gone.append(ino)
        self.forget(gone)

    # -- changing objects

    def setattr(self, ino: Ino, change: SetAttr) -> Attr:
        """Change attributes as one operation: chmod(2), chown(2), utimensat(2), truncate(2); return the new ones."""
        node = self.inodes.node(ino)
        if change.size is None:
            self._claim_space(0)
        else:
            self._prepare_to_free()
        attr = self.inodes.attributes(node)
        with self.db.operation():
            self.attributes.setattr(node, change, attr)
            self._journal.changed(node, change, attr)
        return self.merge.attr(self.inodes.attributes(node), node, attr.base_blocks)

    def write(self, ino: Ino, offset: int, data: bytes | memoryview, *, times: bool = True) -> int:
        """Write all of *data* into a file, and return how many bytes that is.

        Args:
            ino: the file.
            offset: position in the file, in bytes.
            data: the bytes.
            times: False leaves mtime and ctime as they are, if the caller sets them itself.

        Raises:
            OSError: ENOSPC, EDQUOT, EFBIG, EIO, EROFS; EISDIR or EINVAL if it is not a regular file.
        """
        try:
            self._claim_space(len(data))
        except FsError as error:
            if error.errno != errno.ENOSPC or not self.ranges.has_blocks(ino, offset, len(data)):
                raise
            self._prepare_to_free()  # the content has its blocks already: only the rows need space
        with self.db.operation():
            node = self.inodes.node(ino)
            attr = self.inodes.attributes(node)
            self._check_regular(node, attr.mode)
            if data:
                # the file may outlive its base file now, so it needs rows for all its attributes
                row = self.attributes.own_xattrs(node, attr, save=False)
                self.inodes.modify(row, content=True)
                self.content.write(row, node.path, offset, data, times=times)
                self._journal.wrote(ino, len(data))
        return len(data)

    def fallocate(self, ino: Ino, mode: int, offset: int, size: int, *, times: bool = True) -> None:
        """Allocate a range of a file, zero it, or punch a hole (fallocate(2), tree/ranges.py)."""
        self.ranges.fallocate(ino, mode, offset, size, times=times)

    def copy(self, source: Ino, offset: int, target: Ino, at: int, size: int, *, times: bool = True) -> int:
        """Copy *size* bytes between files, or within one, and return how many were copied (tree/ranges.py)."""
        return self.ranges.copy(source, offset, target, at, size, times=times)

    def seek(self, ino: Ino, offset: int, whence: int) -> int:
        """Return the first offset from *offset* on at which a file has data, or a hole (lseek(2), tree/ranges.py)."""
        return self.ranges.seek(ino, offset, whence)

    def data_ranges(self, ino: Ino, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the parts (first, end) of a range of a file that hold data, in whole blocks but at the file's end."""
        return ranges_by(partial(self.seek, ino), start, end)

    def getxattr(self, ino: Ino, name: bytes) -> bytes:
        """Return the value of an extended attribute.

        Raises:
            FsError: ENODATA if there is none.
        """
        return self.attributes.getxattr(self.inodes.node(ino), name)

    def listxattr(self, ino: Ino) -> list[bytes]:
        """Return the names of an object's extended attributes."""
        return self.attributes.listxattr(self.inodes.node(ino))

    def setxattr(self, ino: Ino, name: bytes, value: bytes, flags: int = 0, *, keep_sgid: bool = True) -> None:
        """Set an extended attribute (setxattr(2)).

        Args:
            ino: the object.
            name: with its namespace.
            value: the bytes.
            flags: XATTR_CREATE, XATTR_REPLACE or 0.
            keep_sgid: False if the caller is not in the file's group: then setting an ACL clears set-group-ID.

        Raises:
            FsError: EEXIST, ENODATA, EOPNOTSUPP, ERANGE, ENOSPC and others of setxattr(2).
        """
        self._claim_space(len(value))
        with self.db.operation():
            node = self.inodes.node(ino)
            self.attributes.setxattr(node, name, value, flags, keep_sgid=keep_sgid)
            self._journal.xattr("setxattr", node)

    def removexattr(self, ino: Ino, name: bytes) -> None:
        """Remove an extended attribute.

        Raises:
            FsError: ENODATA if there is none.
        """
        self._prepare_to_free()
        with self.db.operation():
            node = self.inodes.node(ino)
            self.attributes.removexattr(node, name)
            self._journal.xattr("removexattr", node)

    # -- helpers

    def _row(self, node: Node) -> Row:
        row = self.inodes.row(node.ino)
        if row is None:
            raise FsError(errno.ESTALE, f"inode {node.ino}")
        return row
