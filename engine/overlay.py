"""The overlay: the engine's facade.  One method is one file-system operation, and one operation is one transaction.

It offers what a front end asks for: names and numbers in, attributes and bytes out, ``FsError`` for everything a caller
did wrong.  It is synchronous and for one thread.  How the parts behind it are opened and wired is in open_overlay.py;
the invariants it keeps are numbered in store/invariants.py.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterable, Iterator
from functools import partial

from .errors import FsError
from .model import Attr, Caller, DirEntry, Ino, RenameFlags, SetAttr
from .open_overlay import OpenOverlay
from .store.syscalls import ranges_by
from .tree.inode_rows import Row
from .tree.nodes import Node
from .tree.row_checks import target_of

log = logging.getLogger(__name__)

_AT_A_TIME = 20_000  # extents of an orphan that are deleted in one go: 20 ms
_DAY = 86_400 * 10**9  # ns


class Overlay(OpenOverlay):
    """An open overlay.  Made by ``Overlay.open``."""

    # -- looking

    def lookup(self, parent: Ino, name: bytes) -> Attr | None:
        """The attributes of what stands at *name* in a directory, or None.

        ``.`` is looked up of anything: so the kernel asks for a number it has forgotten (open_by_handle_at(2)).

        Raises:
            FsError: ENOTDIR, ESTALE, ENAMETOOLONG.
        """
        if name == b".":
            return self.getattr(parent)
        directory = self.inodes.directory(parent)
        self.merge.check_name(name)
        if name == b"..":
            return self.getattr(directory.parent)
        return self.merge.lookup(directory, name)

    def getattr(self, ino: Ino) -> Attr:
        """The attributes of an object.

        Raises:
            FsError: ESTALE for a number nothing is known by.
        """
        node = self.inodes.node(ino)
        return self.merge.attr(self.inodes.attributes(node), node)

    def readdir(self, ino: Ino, after: int = 0) -> Iterator[DirEntry]:
        """The entries of a directory, ``.`` and ``..`` among them, after a cookie.

        Cookies stay right while the directory changes: a name that stays is seen exactly once.
        """
        return self.merge.readdir(self.inodes.directory(ino), after)

    def all_names(self, ino: Ino, most: int) -> list[bytes] | None:
        """All names in a directory, in no particular order, or None if there may be more than *most*."""
        return self.merge.few_names(self.inodes.directory(ino), most)

    def readlink(self, ino: Ino) -> bytes:
        """The target of a symlink.

        Raises:
            FsError: EINVAL for anything else.
        """
        node = self.inodes.node(ino)
        if not stat.S_ISLNK(self.inodes.mode(node)):
            raise FsError(errno.EINVAL, f"readlink {ino}")
        target = self.db.value("SELECT target FROM inode WHERE ino = ?", (ino,)) if node.state else None
        if target is not None or node.path is None:
            return target_of(ino, target)
        return self.base.readlink(node.path)

    def read(self, ino: Ino, offset: int, size: int) -> bytes:
        """Up to *size* bytes of a file from *offset*; fewer at its end.

        Raises:
            FsError: EISDIR or EINVAL for what is no regular file.
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
        """Note that a file was read: its access time moves, as by relatime or strictatime (mount(8)).

        Only an object that has a row has an access time of its own: reading the base takes no storage.

        Args:
            ino: the file.
            strict: False to leave a time that is newer than the last change, and than a day.
        """
        row = self.inodes.row(ino) if self.inodes.node(ino).state else None
        if row is None or self.db.read_only:
            return
        t = self.inodes.clock.now()
        if not strict and row.atime > max(row.mtime, row.ctime) and t - row.atime < _DAY:
            return
        self._make_room(0)
        with self.db.operation():
            self.inodes.stamp(row, row.nlink, t, row.mtime, row.ctime)

    def read_ahead(self, ino: Ino) -> None:
        """Ask the medium for base files that are likely to be read after this one."""
        node = self.inodes.node(ino)
        if not node.state and node.path is not None:
            self.merge.read_ahead.note_read(node.path)

    def base_file(self, ino: Ino) -> int | None:
        """A descriptor of the base file that is all there is to a file, for the caller to close; else None."""
        node = self.inodes.node(ino)
        if not self.is_unchanged(ino) or node.path is None:
            return None
        return os.dup(self.base.file(node.path))

    def is_unchanged(self, ino: Ino) -> bool:
        """True for a base object without a row: what the base says is all there is."""
        node = self.inodes.node(ino)
        return node.path is not None and (not node.state or self.inodes.row(ino) is None)

    @staticmethod
    def _check_regular(node: Node, mode: int) -> None:
        if not stat.S_ISREG(mode):
            raise FsError(errno.EISDIR if node.is_dir else errno.EINVAL, f"inode {node.ino}")

    def statfs(self) -> os.statvfs_result:
        """Figures of the file system storage lies on, or of the limit: that is what can run full."""
        return self.space.statfs()

    # -- changing names

    def mknod(self, parent: Ino, name: bytes, mode: int, rdev: int, caller: Caller) -> Attr:
        """Create a regular file, fifo, socket or device node.

        Args:
            parent: the directory.
            name: the new name.
            mode: type and permission bits before the umask; no type means a regular file (mknod(2)).
            rdev: device number of device nodes.
            caller: its ids own the object; its umask counts where the directory has no default ACL.
        """
        if not stat.S_IFMT(mode):
            mode |= stat.S_IFREG
        if stat.S_ISDIR(mode) or stat.S_ISLNK(mode):
            raise FsError(errno.EINVAL, "mknod")
        device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
        return self._make(parent, name, mode, caller, rdev=rdev if device else 0)

    def mkdir(self, parent: Ino, name: bytes, mode: int, caller: Caller) -> Attr:
        """Create a directory; *mode* are permission bits before the umask."""
        return self._make(parent, name, stat.S_IFDIR | stat.S_IMODE(mode), caller)

    def symlink(self, parent: Ino, name: bytes, target: bytes, caller: Caller) -> Attr:
        """Create a symlink to *target*."""
        return self._make(parent, name, stat.S_IFLNK | 0o777, caller, target=target)

    def _make(
        self, parent: Ino, name: bytes, mode: int, caller: Caller, *, rdev: int = 0, target: bytes | None = None
    ) -> Attr:
        self._make_room(0)
        with self.db.operation():
            node = self.namespace.make(self.inodes.directory(parent), name, mode, caller, rdev=rdev, target=target)
            return self.merge.attr(self._row(node), node)

    def tmpfile(self, parent: Ino, mode: int, caller: Caller, *, linkable: bool = True) -> Attr:
        """Create a regular file without a name, which lives until ``forget`` unless ``link`` gives it one.

        Args:
            parent, mode, caller: as for ``mknod``; no name is looked at.
            linkable: whether it may be given a name (O_TMPFILE without O_EXCL, open(2)).
        """
        self._make_room(0)
        with self.db.operation():
            node = self.namespace.make_unnamed(self.inodes.directory(parent), mode, caller, linkable=linkable)
            return self.merge.attr(self._row(node), node)

    def link(self, ino: Ino, parent: Ino, name: bytes) -> Attr:
        """Give an object one more name."""
        self._make_room(0)
        with self.db.operation():
            node = self.inodes.node(ino)
            self.namespace.link(node, self.inodes.directory(parent), name)
            return self.merge.attr(self.inodes.attributes(node), node)

    def unlink(self, parent: Ino, name: bytes) -> None:
        """Remove the name of what is no directory.  The object lives on until ``forget``."""
        self._give_back()
        with self.db.operation():
            self.namespace.unlink(self.inodes.directory(parent), name)

    def rmdir(self, parent: Ino, name: bytes) -> None:
        """Remove a directory that shows no name."""
        self._give_back()
        with self.db.operation():
            self.namespace.rmdir(self.inodes.directory(parent), name)

    def rename(self, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes, flags: int = RenameFlags.NONE) -> None:
        """Move an object to another name, over what stands there, or exchange the two (renameat2(2))."""
        self._make_room(0)
        with self.db.operation():
            source, target = self.inodes.directory(parent), self.inodes.directory(new_parent)
            self.namespace.rename(source, name, target, new_name, flags)

    def forget(self, inos: Iterable[Ino]) -> None:
        """Nobody refers to these numbers any more: memory lets go of them, and orphans among them are deleted."""
        for ino in inos:
            node = self.inodes.node_in_memory(ino)
            if node is not None and node.state and not self.db.read_only and self.inodes.is_orphan(ino):
                self._give_back()
                self._reap(ino)
            self.inodes.drop_node(ino)
            self.attributes.forget(ino)

    def hold(self, ino: Ino) -> None:
        """Note that the kernel was told of a number that was just looked up or made."""
        self.inodes.node(ino).nlookup += 1

    def is_held(self, ino: Ino) -> bool:
        """True if the kernel knows a number."""
        node = self.inodes.node_in_memory(ino)
        return node is not None and node.nlookup > 0

    def release(self, counts: Iterable[tuple[Ino, int]]) -> None:
        """The kernel has forgotten numbers, each as often as said; what it does not know any more is let go of."""
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
        """Change attributes: chmod, chown, utimens and truncate in one (chmod(2), chown(2), utimensat(2))."""
        node = self.inodes.node(ino)
        if change.size is None:
            self._make_room(0)
        else:
            self._give_back()
        held = self.inodes.attributes(node)
        with self.db.operation():
            self.attributes.setattr(node, change, held)
        return self.merge.attr(self.inodes.attributes(node), node, None if isinstance(held, Row) else held)

    def write(self, ino: Ino, offset: int, data: bytes | memoryview, *, times: bool = True) -> int:
        """Write *data* at *offset* and return how many bytes that was: all, or the call fails.

        Args:
            ino: the file.
            offset, data: where and what.
            times: False where the caller sets mtime and ctime itself.

        Raises:
            OSError: ENOSPC and its kin; EISDIR or EINVAL for what is no regular file.
        """
        try:
            self._make_room(len(data))
        except FsError as error:
            if error.errno != errno.ENOSPC or not self.ranges.holds(ino, offset, len(data)):
                raise
            self._give_back()  # to see that the rows can be committed is all it takes
        with self.db.operation():
            node = self.inodes.node(ino)
            held = self.inodes.attributes(node)
            self._check_regular(node, held.mode if isinstance(held, Row) else held.st_mode)
            if data:
                # a file with bytes of its own may outlive its base file, and so with all its attributes
                row = self.attributes.own_xattrs(node, held, save=False)
                self.inodes.modify(row, content=True)
                self.content.write(row, node.path, offset, data, times=times)
        return len(data)

    def fallocate(self, ino: Ino, mode: int, offset: int, size: int, *, times: bool = True) -> None:
        """Reserve a range of a file, zero it, or punch a hole (tree/ranges.py)."""
        self.ranges.fallocate(ino, mode, offset, size, times=times)

    def copy(self, source: Ino, offset: int, target: Ino, at: int, size: int, *, times: bool = True) -> int:
        """Copy bytes from one file to another, or within one, and return how many (tree/ranges.py)."""
        return self.ranges.copy(source, offset, target, at, size, times=times)

    def seek(self, ino: Ino, offset: int, whence: int) -> int:
        """The first offset from *offset* on where a file has data, or a hole (tree/ranges.py)."""
        return self.ranges.seek(ino, offset, whence)

    def data_ranges(self, ino: Ino, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The parts of a range of a file that hold data, in order, in whole blocks but for the end of the file."""
        return ranges_by(partial(self.seek, ino), start, end)

    def getxattr(self, ino: Ino, name: bytes) -> bytes:
        """The value of one extended attribute; FsError ENODATA where there is none."""
        return self.attributes.getxattr(self.inodes.node(ino), name)

    def listxattr(self, ino: Ino) -> list[bytes]:
        """The names of an object's extended attributes."""
        return self.attributes.listxattr(self.inodes.node(ino))

    def setxattr(self, ino: Ino, name: bytes, value: bytes, flags: int = 0, *, keep_sgid: bool = True) -> None:
        """Set one extended attribute (setxattr(2)); *keep_sgid* False where the caller is not in the file's group."""
        self._make_room(len(value))
        with self.db.operation():
            self.attributes.setxattr(self.inodes.node(ino), name, value, flags, keep_sgid=keep_sgid)

    def removexattr(self, ino: Ino, name: bytes) -> None:
        """Remove one extended attribute; FsError ENODATA where there is none."""
        self._give_back()
        with self.db.operation():
            self.attributes.removexattr(self.inodes.node(ino), name)

    # -- helpers

    def _row(self, node: Node) -> Row:
        row = self.inodes.row(node.ino)
        if row is None:
            raise FsError(errno.ESTALE, f"inode {node.ino}")
        return row
