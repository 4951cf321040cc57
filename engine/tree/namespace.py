"""The name space: create, link, unlink, rmdir and rename, as row changes in the four lists.

Two moves make up every change of a name.  *Unbind* takes a name away: a row of ``created`` or ``renamed`` goes, a base
name is hidden by a row of ``deleted``.  *Bind* puts an object at a name: a row of ``renamed`` for a base object,
``created`` for any other; and where the object is the very one the base has there, its whiteout goes instead, so that
a rename back leaves nothing behind.

A removed object stays readable while the kernel holds it: rows as an ``orphan``, a base file as a dead node.
"""

from __future__ import annotations

import errno
import stat
from functools import partial

from ..errors import FsError
from ..model import ROOT, SYMLINK_MAX, Caller, Ino, RenameFlags
from ..store.base_view import BaseView, join
from ..store.database import Database
from ..store.list_statements import ADD, DROP, DROP_IN, DROP_ORIGIN, HIDE, IS_HIDDEN, IS_NAMED, NAMES
from . import acl
from .attributes import Attributes
from .inode_rows import Row
from .inodes import Inodes
from .merged_view import MergedView, Ref
from .nodes import Node
from .stored_bytes import StoredBytes

_DIRECTORY_SIZE = 4096  # bytes; what most file systems report for a small directory
_LINK_MAX = 2**31 - 1


class Namespace:
    """Changes of names.  Every method runs inside an operation.

    Args:
        db: the overlay's database.
        base: the base view.
        inodes: rows and nodes.
        merge: look-ups.
        stored: what storage holds of files, given up with their last name.
        attributes: default ACLs for new objects.
    """

    def __init__(
        self,
        db: Database,
        base: BaseView,
        inodes: Inodes,
        merge: MergedView,
        stored: StoredBytes,
        attributes: Attributes,
    ) -> None:
        self._db = db
        self._base = base
        self._inodes = inodes
        self._merge = merge
        self._stored = stored
        self._attributes = attributes

    # -- making

    def make(
        self, parent: Node, name: bytes, mode: int, caller: Caller, *, rdev: int = 0, target: bytes | None = None
    ) -> Node:
        """Create an object of any type: what mknod, mkdir and symlink have in common.

        Args:
            parent: the directory.
            name: the new name.
            mode: type and permission bits as the caller asks for them; its umask or the default ACL counts.
            caller: becomes the owner; the group comes from a set-group-ID directory (inode(7)).
            rdev: of device nodes.
            target: of a symlink.

        Raises:
            FsError: EEXIST, ENOENT in a removed directory, ENAMETOOLONG.
        """
        if target is not None and not 0 < len(target) <= SYMLINK_MAX:
            raise FsError(errno.ENAMETOOLONG if target else errno.ENOENT, "symlink")
        self._check_new(parent, name)
        is_dir = stat.S_ISDIR(mode)
        node = self._new(parent, mode, caller, rdev=rdev, target=target, nlink=2 if is_dir else 1)
        self._db.change(ADD["created"], (parent.ino, name, node.ino))
        self._changed(parent, name, +1 if is_dir else 0)
        return node

    def make_unnamed(self, parent: Node, mode: int, caller: Caller, *, linkable: bool) -> Node:
        """Create a regular file without a name (O_TMPFILE in open(2)).

        Args:
            parent: the directory it would be in: its group, default ACL and umask count as if it were.
            mode, caller: as in ``make``.
            linkable: whether ``link`` may give it its first name (without O_EXCL).
        """
        if linkable:  # noted before anybody hears of its row
            self._inodes.unnamed.add(Ino(self._inodes.next_ino))
        return self._new(parent, stat.S_IFREG | stat.S_IMODE(mode), caller, nlink=0)

    def _new(
        self, parent: Node, mode: int, caller: Caller, *, nlink: int, rdev: int = 0, target: bytes | None = None
    ) -> Node:
        """A new object that no name leads to yet."""
        is_dir = stat.S_ISDIR(mode)
        holder = self._inodes.attributes(parent)
        holder_mode, holder_gid = (
            (holder.mode, holder.gid) if isinstance(holder, Row) else (holder.st_mode, holder.st_gid)
        )
        gid = caller.gid
        if holder_mode & stat.S_ISGID:
            gid = holder_gid
            if is_dir:
                mode |= stat.S_ISGID
        access = default = None
        if not stat.S_ISLNK(mode):
            default = self._attributes.default_acl(parent)
            if default is None:
                mode &= ~caller.umask
            else:
                mode, access = acl.inherit(default, mode)
        size = len(target) if target is not None else _DIRECTORY_SIZE if is_dir else 0
        row = self._inodes.create(mode, caller.uid, gid, rdev, nlink, size, target)
        if default is None:
            self._inodes.watcher.bare(row.ino)
        else:
            self._attributes.give_acls(row.ino, access, default if is_dir else None)
        node = self._inodes.found(row.ino, None, parent.ino, is_dir, True)
        self._db.on_failure(partial(self._inodes.drop_node, row.ino))
        return node

    def link(self, node: Node, parent: Node, name: bytes) -> None:
        """Give an object one more name.

        Raises:
            FsError: EPERM for a directory, EEXIST, EMLINK; ENOENT for an object that has no name left, other than
                one that was made without and has never had any.
        """
        self._check_new(parent, name)
        if node.is_dir:
            raise FsError(errno.EPERM, "link of a directory")
        row = self._inodes.adopt(node)
        if row.nlink == 0:
            if node.ino not in self._inodes.unnamed:
                raise FsError(errno.ENOENT, "link of an unlinked file")
            self._db.on_success(partial(self._inodes.unnamed.discard, node.ino))
        if row.nlink >= _LINK_MAX:
            raise FsError(errno.EMLINK)
        self._inodes.set_links(row, row.nlink + 1)
        self._bind(parent, name, node, "created")
        self._changed(parent, name, 0)

    def _check_name(self, parent: Node, name: bytes) -> None:
        if parent.dead:
            raise FsError(errno.ENOENT, "removed directory")
        self._merge.check_name(name)

    def _check_new(self, parent: Node, name: bytes) -> None:
        self._check_name(parent, name)
        if name in (b".", b"..") or self._merge.resolve(parent, name) is not None:
            raise FsError(errno.EEXIST)
        self._vacate(parent, name)

    def _vacate(self, parent: Node, name: bytes) -> None:
        """Let go of an object that is gone from the base and does not show, whose name in the overlay is taken now."""
        if not self._inodes.drift.gone:
            return
        for table in NAMES:
            ino = self._db.value(f"SELECT ino FROM {table} WHERE parent = ? AND name = ?", (parent.ino, name))
            if ino is not None:
                self._db.change(DROP[table], (parent.ino, name))
                row = self._inodes.row(Ino(ino))
                if row is not None and stat.S_ISDIR(row.mode):
                    self._inodes.touch_directory(parent, -1)
                self._inodes.parting.lose_place(Ino(ino))

    # -- taking away

    def unlink(self, parent: Node, name: bytes) -> None:
        """Remove the name of what is no directory.

        Raises:
            FsError: ENOENT, EISDIR.
        """
        ref = self._existing(parent, name)
        if ref.node.is_dir:
            raise FsError(errno.EISDIR)
        self._keep_ancestor(parent, name, ref)
        self._unbind(parent, name, ref)
        self._lose_link(ref)
        self._gone(parent, name, 0)

    def _keep_ancestor(self, parent: Node, name: bytes, ref: Ref) -> None:
        """Keep the base file at a name that is given up: what comes there next may be its new version."""
        own = isinstance(ref.held, Row) and ref.held.is_own  # kept when it was written
        if self._inodes.ancestors.limit and ref.kind == "base" and parent.path is not None and not own:
            self._inodes.ancestors.keep(join(parent.path, name))

    def rmdir(self, parent: Node, name: bytes) -> None:
        """Remove a directory that shows no name.

        Raises:
            FsError: ENOENT, ENOTDIR, ENOTEMPTY.
        """
        if name == b".":
            raise FsError(errno.EINVAL)
        if name == b"..":
            raise FsError(errno.ENOTEMPTY)
        ref = self._existing(parent, name)
        if not ref.node.is_dir:
            raise FsError(errno.ENOTDIR)
        if not self._merge.is_empty(ref.node):
            raise FsError(errno.ENOTEMPTY)
        self._unbind(parent, name, ref)
        self._lose_directory(ref.node)
        self._gone(parent, name, -1)

    def _existing(self, parent: Node, name: bytes) -> Ref:
        self._check_name(parent, name)
        ref = self._merge.resolve(parent, name)
        if ref is None:
            raise FsError(errno.ENOENT)
        return ref

    def _lose_link(self, ref: Ref) -> None:
        """One name less for what is no directory."""
        held = ref.held
        if isinstance(held, Row) or held.st_nlink > 1:
            row = self._inodes.adopt(ref.node, held)
            left = row.nlink - 1
            if left == 0 and ref.node.path is not None and self._inodes.drift.may_be_miscounted(row):
                # base links that came and went with bases may have been counted wrongly; to look takes long
                left = self._inodes.drift.known_links(row.ino, ref.node.path)
            self._inodes.set_links(row, left)
        else:
            # a base file nobody changed: the whiteout says it all, and what has it open reads on from the base
            self._die(ref.node)
            self._inodes.died(held, ref.node.ino)

    def _lose_directory(self, node: Node) -> None:
        """A directory's only name is gone; its whiteouts hide nothing any more."""
        if node.path is not None:
            self._db.change(DROP_IN["deleted"], (node.ino,))
        if self._inodes.drift.gone:
            self._inodes.parting.let_go_in(node.ino, node.path)
        row = self._inodes.row(node.ino)
        if row is not None:
            self._inodes.set_links(row, 0)
        elif node.state:
            self._inodes.discard(node.ino)
        self._die(node)
        self._db.on_success(partial(self._merge.drop_listing, node.ino))

    def _die(self, node: Node) -> None:
        if not node.dead:
            node.dead = True
            self._inodes.watcher.changed(node.ino)
            self._db.on_failure(partial(setattr, node, "dead", False))

    def reap(self, ino: Ino, most: int | None = None) -> bool:
        """Delete an orphan and everything it owns; a number that is no orphan is left alone.

        Args:
            ino: the number.
            most: extents that are deleted in one go.

        Returns:
            False if there were more, and it is still there, as an orphan.
        """
        row = self._inodes.row(ino)
        if row is None or row.nlink != 0:
            return True
        if most is not None and self._stored.discard_some(row, most):
            return False
        if self._inodes.take_orphan(ino):
            self._stored.discard(row)
            self._inodes.discard(ino)
        return True

    # -- renaming

    def rename(self, parent: Node, name: bytes, new_parent: Node, new_name: bytes, flags: int) -> None:
        """Move an object to another name, over what stands there (rename(2)).

        Args:
            parent, name: where it is.
            new_parent, new_name: where it goes.
            flags: RENAME_NOREPLACE or RENAME_EXCHANGE (renameat2(2)).

        Raises:
            FsError: the errnos of rename(2); EINVAL for other flags.
        """
        if flags not in (RenameFlags.NONE, RenameFlags.NOREPLACE, RenameFlags.EXCHANGE):
            raise FsError(errno.EINVAL, f"rename flags {flags}")
        if {name, new_name} & {b".", b".."}:
            raise FsError(errno.EBUSY)
        source = self._existing(parent, name)
        self._check_name(new_parent, new_name)
        target = self._merge.resolve(new_parent, new_name)
        if flags == RenameFlags.NOREPLACE and target is not None:
            raise FsError(errno.EEXIST)
        if flags == RenameFlags.EXCHANGE and target is None:
            raise FsError(errno.ENOENT)
        if source.node.is_dir and self._is_below(new_parent, source.node):
            raise FsError(errno.EINVAL, "rename into itself")
        if target is not None and target.node.is_dir and self._is_below(parent, target.node):
            code = errno.EINVAL if flags == RenameFlags.EXCHANGE else errno.ENOTEMPTY
            raise FsError(code, "rename over a directory above")
        if target is not None and target.node.ino == source.node.ino:
            return  # two links of one file: rename(2) does nothing
        if flags == RenameFlags.EXCHANGE:
            assert target is not None
            self._exchange(parent, name, source, new_parent, new_name, target)
        else:
            self._move(parent, name, source, new_parent, new_name, target)

    def _is_below(self, node: Node, ancestor: Node) -> bool:
        met: set[Ino] = set()
        while node.ino != ancestor.ino:
            if node.ino == ROOT:
                return False
            if node.ino in met:
                raise FsError(errno.EIO, f"inode {node.ino}: its directories are a circle")
            met.add(node.ino)
            node = self._inodes.node(node.parent)
        return True

    def _move(
        self, parent: Node, name: bytes, source: Ref, new_parent: Node, new_name: bytes, target: Ref | None
    ) -> None:
        is_dir = source.node.is_dir
        if target is not None:
            if target.node.is_dir and not is_dir:
                raise FsError(errno.EISDIR)
            if is_dir and not target.node.is_dir:
                raise FsError(errno.ENOTDIR)
            if is_dir and not self._merge.is_empty(target.node):
                raise FsError(errno.ENOTEMPTY)
            self._keep_ancestor(new_parent, new_name, target)
            self._unbind(new_parent, new_name, target)
            if is_dir:
                self._lose_directory(target.node)
            else:
                self._lose_link(target)
        self._vacate(new_parent, new_name)
        self._unbind(parent, name, source)
        self._place(source, new_parent, new_name)
        lost = int(is_dir)
        gained = int(is_dir and not (target is not None and target.node.is_dir))
        if parent is not new_parent:
            self._inodes.touch_directory(parent, -lost)
            lost = 0
        self._inodes.touch_directory(new_parent, gained - lost)
        self._merge.vanished(parent, name)
        if target is None:
            self._merge.appeared(new_parent, new_name)

    def _exchange(self, parent: Node, name: bytes, source: Ref, new_parent: Node, new_name: bytes, target: Ref) -> None:
        self._unbind(parent, name, source)
        self._unbind(new_parent, new_name, target)
        for place in ((parent, name), (new_parent, new_name)):
            self._vacate(*place)
        self._place(source, new_parent, new_name)
        self._place(target, parent, name)
        gained = int(source.node.is_dir) - int(target.node.is_dir)
        self._inodes.touch_directory(parent, -gained)
        self._inodes.touch_directory(new_parent, gained)

    def _place(self, ref: Ref, parent: Node, name: bytes) -> None:
        """Put what was just unbound at another name."""
        node = ref.node
        row = self._inodes.adopt(node, ref.held)
        self._inodes.stamp(row, row.nlink, row.atime, row.mtime, self._inodes.now())
        if node.is_dir and node.parent != parent.ino:
            self._db.on_failure(partial(setattr, node, "parent", node.parent))
            node.parent = parent.ino
        self._bind(parent, name, node, "created" if ref.kind == "created" else "renamed")

    # -- the two moves

    def _unbind(self, parent: Node, name: bytes, ref: Ref) -> None:
        place = join(parent.path, name) if parent.path is not None else None
        if ref.kind != "base":
            self._db.change(DROP[ref.kind], (parent.ino, name))
            if not self._covers_base(parent, name, ref.node):
                return
        assert place is not None
        if place in self._inodes.drift.superseded:
            self._inodes.parting.settle(place)
        self._inodes.adopt(parent)  # whoever hides a name has a mark in origin
        self._db.change(HIDE, (parent.ino, name))
        if ref.kind != "base":
            held = self._db.value("SELECT ino FROM origin WHERE path = ?", (place,))
            if held is not None and held != ref.node.ino:
                self._inodes.parting.lose_place(Ino(held))

    def _covers_base(self, parent: Node, name: bytes, node: Node) -> bool:
        """True where a name of the overlay hid an object that a replaced base brought, which would show now.

        A name that was made since the overlay was opened hides nothing.
        """
        if self._inodes.numbers.is_created(node.ino) and node.ino >= self._inodes.first_ino:
            return False
        if parent.path is None or self._db.value(IS_HIDDEN, (parent.ino, name)) is not None:
            return False
        return self._inodes.base_child(parent, name) is not None

    def _bind(self, parent: Node, name: bytes, node: Node, table: str) -> None:
        if node.path is not None and self._is_own_place(parent, name, node):
            self._db.change(DROP["deleted"], (parent.ino, name))
            if table == "created" and not node.is_dir:
                self._swap_kinds(node)
            self._settle(node)
        else:
            self._db.change(ADD[table], (parent.ino, name, node.ino))

    def _is_own_place(self, parent: Node, name: bytes, node: Node) -> bool:
        """True where the base has this very object at that name."""
        if parent.path is None or self._db.value(IS_HIDDEN, (parent.ino, name)) is None:
            return False
        place = join(parent.path, name)
        if node.path == place:
            return True
        if self._db.value("SELECT ino FROM origin WHERE path = ?", (place,)) not in (None, node.ino):
            return False  # of another one, though they may have become links of one file
        child = self._inodes.base_child(parent, name)
        return child is not None and not node.is_dir and child[1] == node.ino and child[0].st_nlink > 1

    def _swap_kinds(self, node: Node) -> None:
        """A created link took a base name back: a name that was renamed away from there is the created link now."""
        place = self._db.row("SELECT parent, name FROM renamed WHERE ino = ? LIMIT 1", (node.ino,))
        if place is not None:
            self._db.change(DROP["renamed"], place)
            self._db.change(ADD["created"], (*place, node.ino))

    def _settle(self, node: Node) -> None:
        """Delete the row of a base object that is back in its place, if nothing else of it was changed."""
        row = self._inodes.row(node.ino)
        if row is None or self._db.value("SELECT 1 FROM modified WHERE ino = ?", (node.ino,)) is not None:
            return
        assert node.path is not None
        st = self._base.find(node.path)
        if st is None or node.ino in self._inodes.drift.gone:
            return
        if row.nlink != st.st_nlink or row.mtime != st.st_mtime_ns:
            return
        if not node.is_dir and st.st_nlink > 1 and self._db.value(IS_NAMED, (node.ino,)) is not None:
            return
        self._inodes.drop_row(node.ino)
        below = "SELECT 1 FROM origin WHERE path > ? AND path < ? LIMIT 1"
        if not node.is_dir or self._db.value(below, (node.path + b"/", node.path + b"0")) is None:
            self._db.change(DROP_ORIGIN, (node.ino,))

    # -- what every change does to its directory

    def _changed(self, parent: Node, name: bytes, subdirectories: int) -> None:
        self._inodes.touch_directory(parent, subdirectories)
        self._merge.appeared(parent, name)

    def _gone(self, parent: Node, name: bytes, subdirectories: int) -> None:
        self._inodes.touch_directory(parent, subdirectories)
        self._merge.vanished(parent, name)
