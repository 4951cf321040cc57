"""The name space: create, link, unlink, rmdir and rename, as row changes in the four lists.

Every change of a name is made of two steps.  *Unbind* removes a name: it deletes the row of ``created`` or ``renamed``,
or hides a base name by a row of ``deleted``.  *Bind* gives an object a name: it adds a row to ``renamed`` for a moved
base object, or to ``created`` for any other object and for a new link.  If the base has the same object at that name,
bind deletes the whiteout instead, so that a rename back leaves no rows.

A removed object stays readable until the kernel forgets it: its row is an ``orphan``, or, for a base file without a
row, its node is dead.
"""

from __future__ import annotations

import errno
import stat
from functools import partial

from ..errors import FsError
from ..model import DIRECTORY_SIZE, ROOT, SYMLINK_MAX, Caller, Ino, RenameFlags
from ..store.base_view import BaseView, join
from ..store.database import Database
from ..store.four_lists_statements import ADD, DROP, DROP_IN, DROP_ORIGIN, HIDE, IS_HIDDEN, IS_NAMED, NAMES
from . import acl
from .attributes import Attributes
from .inodes import Inodes
from .merged_view import MergedView, Ref
from .nodes import Node
from .stored_bytes import StoredBytes

_LINK_MAX = 2**31 - 1


class Namespace:
    """Changes names.  Call every method inside an operation.

    Args:
        db: the overlay's database.
        base: the base view.
        inodes: rows and nodes.
        view: lookups.
        stored: bytes in storage, deleted with an orphan.
        attributes: default ACLs for new objects.
    """

    def __init__(
        self,
        db: Database,
        base: BaseView,
        inodes: Inodes,
        view: MergedView,
        stored: StoredBytes,
        attributes: Attributes,
    ) -> None:
        self._db = db
        self._base = base
        self._inodes = inodes
        self._view = view
        self._stored = stored
        self._attributes = attributes

    # -- creating

    def make(
        self, parent: Node, name: bytes, mode: int, caller: Caller, *, rdev: int = 0, target: bytes | None = None
    ) -> Node:
        """Create an object of any type, for mknod, mkdir and symlink; return its node.

        Args:
            parent: the directory.
            name: the new name.
            mode: type and permission bits as the caller asks for them; the default ACL of the directory, or else the
                caller's umask, may clear some.
            caller: its uid becomes the owner; so does its gid, unless the directory is set-group-ID (inode(7)).
            rdev: device number, for device nodes.
            target: target, for a symlink.

        Raises:
            FsError: EEXIST, ENOENT in a removed directory, ENAMETOOLONG.
        """
        # invariant 16: a symlink has a target of a possible length
        if target is not None and not 0 < len(target) <= SYMLINK_MAX:
            raise FsError(errno.ENAMETOOLONG if target else errno.ENOENT, "symlink")
        self._check_new(parent, name)
        is_dir = stat.S_ISDIR(mode)
        node = self._new(parent, mode, caller, rdev=rdev, target=target, nlink=2 if is_dir else 1)
        # invariants 9 and 10: the link count was made for just this name
        self._db.change(ADD["created"], (parent.ino, name, node.ino))
        self._note_added(parent, name, +1 if is_dir else 0)
        return node

    def make_unnamed(self, parent: Node, mode: int, caller: Caller, *, linkable: bool) -> Node:
        """Create a regular file without a name (O_TMPFILE in open(2)); return its node.

        Args:
            parent: the directory whose group and default ACL the file gets as if it were created there.
            mode: permission bits as the caller asks for them.
            caller: the process that creates the file: owner, group and umask.
            linkable: True if ``link`` may give the file its first name later (open(2): without O_EXCL).
        """
        if linkable:  # before the watcher is called for the row, as it asks for this
            self._inodes.unnamed.add(Ino(self._inodes.next_ino))
        return self._new(parent, stat.S_IFREG | stat.S_IMODE(mode), caller, nlink=0)

    def _new(
        self, parent: Node, mode: int, caller: Caller, *, nlink: int, rdev: int = 0, target: bytes | None = None
    ) -> Node:
        """Create an object without a name, and return its node."""
        is_dir = stat.S_ISDIR(mode)
        directory = self._inodes.attributes(parent)
        gid = caller.gid
        if directory.mode & stat.S_ISGID:
            gid = directory.gid
            if is_dir:
                mode |= stat.S_ISGID
        access = default = None
        if not stat.S_ISLNK(mode):
            default = self._attributes.default_acl(parent)
            if default is None:
                mode &= ~caller.umask
            else:
                mode, access = acl.inherit(default, mode)
        size = len(target) if target is not None else DIRECTORY_SIZE if is_dir else 0
        row = self._inodes.create(mode, caller.uid, gid, rdev, nlink, size, target)
        if default is None:
            self._inodes.watcher.bare(row.ino)
        else:
            self._attributes.give_acls(row.ino, access, default if is_dir else None)
        node = self._inodes.add_node(row.ino, None, parent.ino, is_dir, True)
        self._db.on_failure(partial(self._inodes.drop_node, row.ino))
        return node

    def link(self, node: Node, parent: Node, name: bytes) -> None:
        """Give an object one more name.

        Raises:
            FsError: EPERM for a directory, EEXIST, EMLINK; ENOENT for an object that has lost its last name, or was
                made without a name and may not be given one (``make_unnamed``).
        """
        self._check_new(parent, name)
        if node.is_dir:
            raise FsError(errno.EPERM, "link of a directory")  # invariant 9: a directory has one name
        row = self._inodes.adopt(node)
        if row.nlink == 0:
            if node.ino not in self._inodes.unnamed:
                raise FsError(errno.ENOENT, "link of an unlinked file")
            self._db.on_success(partial(self._inodes.unnamed.discard, node.ino))
        if row.nlink >= _LINK_MAX:
            raise FsError(errno.EMLINK)
        # invariants 3 and 10: link count and names change together
        self._inodes.set_links(row, row.nlink + 1)
        self._bind(parent, name, node, "created")
        self._note_added(parent, name, 0)

    def _check_name(self, parent: Node, name: bytes) -> None:
        if parent.dead:
            raise FsError(errno.ENOENT, "removed directory")  # invariant 2: only a living directory holds names
        self._view.check_name(name)

    def _check_new(self, parent: Node, name: bytes) -> None:
        self._check_name(parent, name)
        if name in (b".", b"..") or self._view.resolve(parent, name) is not None:
            raise FsError(errno.EEXIST)
        self._drop_unlisted_name(parent, name)

    def _drop_unlisted_name(self, parent: Node, name: bytes) -> None:
        """Delete the row of an overlay name that does not show, as its object is gone from the base.

        The name is about to be given to another object.
        """
        if not self._inodes.drift.gone:
            return
        for table in NAMES:
            ino = self._db.value(f"SELECT ino FROM {table} WHERE parent = ? AND name = ?", (parent.ino, name))
            if ino is not None:
                self._db.change(DROP[table], (parent.ino, name))
                row = self._inodes.row(Ino(ino))
                if row is not None and stat.S_ISDIR(row.mode):
                    self._inodes.touch_directory(parent, -1)
                self._inodes.unlisted_rows.lose_name(Ino(ino))

    # -- removing

    def unlink(self, parent: Node, name: bytes) -> None:
        """Remove a name of an object that is not a directory.

        Raises:
            FsError: ENOENT, EISDIR.
        """
        ref = self._existing(parent, name)
        if ref.node.is_dir:
            raise FsError(errno.EISDIR)
        self._keep_ancestor(parent, name, ref)
        self._unbind(parent, name, ref)
        self._drop_link(ref)
        self._note_removed(parent, name, 0)

    def _keep_ancestor(self, parent: Node, name: bytes, ref: Ref) -> None:
        """Keep an ancestor of the base file at a name that is removed: the next file there may be its new version."""
        is_own = ref.attr.is_own  # then it was kept at the first write
        if self._inodes.ancestors.limit and ref.kind == "base" and parent.path is not None and not is_own:
            self._inodes.ancestors.keep(join(parent.path, name))

    def rmdir(self, parent: Node, name: bytes) -> None:
        """Remove an empty directory.

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
        if not self._view.is_empty(ref.node):
            raise FsError(errno.ENOTEMPTY)
        self._unbind(parent, name, ref)
        self._drop_directory(ref.node)
        self._note_removed(parent, name, -1)

    def _existing(self, parent: Node, name: bytes) -> Ref:
        self._check_name(parent, name)
        ref = self._view.resolve(parent, name)
        if ref is None:
            raise FsError(errno.ENOENT)
        return ref

    def _drop_link(self, ref: Ref) -> None:
        """Lower the link count of an object that is not a directory, after a name of it was unbound."""
        attr = ref.attr
        if attr.row is not None or attr.nlink > 1:
            row = self._inodes.adopt(ref.node, attr)
            left = row.nlink - 1
            if left == 0 and ref.node.path is not None and self._inodes.drift.may_be_miscounted(row):
                # links in replaced bases may have been counted wrongly; counting names takes long, so only at 0
                left = self._inodes.drift.known_links(row.ino, ref.node.path)
            self._inodes.set_links(row, left)
        else:
            # an unchanged base file: the whiteout is all that is needed, and open handles read on from the base
            self._die(ref.node)
            self._inodes.watcher.died(self._view.attr(attr, ref.node))

    def _drop_directory(self, node: Node) -> None:
        """Delete what belongs to a directory after its name was unbound: its whiteouts, and rows that do not show."""
        if node.path is not None:
            self._db.change(DROP_IN["deleted"], (node.ino,))
        if self._inodes.drift.gone:
            self._inodes.unlisted_rows.drop_in(node.ino, node.path)
        row = self._inodes.row(node.ino)
        if row is not None:
            self._inodes.set_links(row, 0)
        elif node.state:
            self._inodes.discard(node.ino)
        self._die(node)
        self._db.on_success(partial(self._view.listings.drop, node.ino))

    def _die(self, node: Node) -> None:
        """Mark a node as dead until the kernel forgets it; undone if the operation fails."""
        if not node.dead:
            node.dead = True
            self._inodes.watcher.changed(node.ino)
            self._db.on_failure(partial(setattr, node, "dead", False))

    def reap(self, ino: Ino, limit: int | None = None) -> bool:
        """Delete an orphan with all its rows and content; do nothing if *ino* is not an orphan.

        Args:
            ino: the object.
            limit: how many extents to delete at most in this operation; None for all.

        Returns:
            False if there were at least *limit* extents: so many were deleted, and the orphan is still there.
        """
        row = self._inodes.row(ino)
        if row is None or row.nlink != 0:
            return True
        if limit is not None and self._stored.discard_some(row, limit):
            return False
        if self._inodes.drop_orphan(ino):
            self._stored.discard(row)
            self._inodes.discard(ino)
        return True

    # -- renaming

    def rename(self, parent: Node, name: bytes, new_parent: Node, new_name: bytes, flags: int) -> bool:
        """Give an object another name, and replace the object that has this name, if any (rename(2)).

        Args:
            parent, name: the present name.
            new_parent, new_name: the new name.
            flags: 0, RENAME_NOREPLACE or RENAME_EXCHANGE (renameat2(2)).

        Returns:
            False if both are names of one file: then rename(2) does nothing.

        Raises:
            FsError: the errnos of rename(2); EINVAL for other flags.
        """
        if flags not in (RenameFlags.NONE, RenameFlags.NOREPLACE, RenameFlags.EXCHANGE):
            raise FsError(errno.EINVAL, f"rename flags {flags}")
        if {name, new_name} & {b".", b".."}:
            raise FsError(errno.EBUSY)
        source = self._existing(parent, name)
        self._check_name(new_parent, new_name)
        target = self._view.resolve(new_parent, new_name)
        if flags == RenameFlags.NOREPLACE and target is not None:
            raise FsError(errno.EEXIST)
        if flags == RenameFlags.EXCHANGE and target is None:
            raise FsError(errno.ENOENT)
        # invariant 18: no directory comes to be below itself, or it could not be reached from the root
        if source.node.is_dir and self._is_below(new_parent, source.node):
            raise FsError(errno.EINVAL, "rename into itself")
        if target is not None and target.node.is_dir and self._is_below(parent, target.node):
            code = errno.EINVAL if flags == RenameFlags.EXCHANGE else errno.ENOTEMPTY
            raise FsError(code, "rename over a directory above")
        if target is not None and target.node.ino == source.node.ino:
            return False
        if flags == RenameFlags.EXCHANGE:
            assert target is not None
            self._exchange(parent, name, source, new_parent, new_name, target)
        else:
            self._move(parent, name, source, new_parent, new_name, target)
        return True

    def _is_below(self, node: Node, ancestor: Node) -> bool:
        passed: set[Ino] = set()
        while node.ino != ancestor.ino:
            if node.ino == ROOT:
                return False
            if node.ino in passed:
                raise FsError(errno.EIO, f"inode {node.ino}: the directory lies inside itself")
            passed.add(node.ino)
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
            if is_dir and not self._view.is_empty(target.node):
                raise FsError(errno.ENOTEMPTY)
            self._keep_ancestor(new_parent, new_name, target)
            self._unbind(new_parent, new_name, target)
            if is_dir:
                self._drop_directory(target.node)
            else:
                self._drop_link(target)
        self._drop_unlisted_name(new_parent, new_name)
        self._unbind(parent, name, source)
        self._rebind(source, new_parent, new_name)
        removed = int(is_dir)
        added = int(is_dir and not (target is not None and target.node.is_dir))
        if parent is not new_parent:
            self._inodes.touch_directory(parent, -removed)
            removed = 0
        self._inodes.touch_directory(new_parent, added - removed)
        self._view.vanished(parent, name)
        if target is None:
            self._view.appeared(new_parent, new_name)

    def _exchange(self, parent: Node, name: bytes, source: Ref, new_parent: Node, new_name: bytes, target: Ref) -> None:
        self._unbind(parent, name, source)
        self._unbind(new_parent, new_name, target)
        self._drop_unlisted_name(parent, name)
        self._drop_unlisted_name(new_parent, new_name)
        self._rebind(source, new_parent, new_name)
        self._rebind(target, parent, name)
        moved = int(source.node.is_dir) - int(target.node.is_dir)
        self._inodes.touch_directory(parent, -moved)
        self._inodes.touch_directory(new_parent, moved)

    def _rebind(self, ref: Ref, parent: Node, name: bytes) -> None:
        """Give an object that was just unbound another name, and change its ctime."""
        node = ref.node
        row = self._inodes.adopt(node, ref.attr)
        self._inodes.stamp(row, row.nlink, row.atime, row.mtime, self._inodes.now())
        if node.is_dir and node.parent != parent.ino:
            self._db.on_failure(partial(setattr, node, "parent", node.parent))
            node.parent = parent.ino
        self._bind(parent, name, node, "created" if ref.kind == "created" else "renamed")

    # -- the two steps of every change

    def _unbind(self, parent: Node, name: bytes, ref: Ref) -> None:
        """Remove a name: delete its row, or hide it by a whiteout.

        Args:
            parent, name: the name.
            ref: the object at this name.
        """
        if ref.kind != "base":
            self._db.change(DROP[ref.kind], (parent.ino, name))
            if not self._covers_base(parent, name, ref.node):
                return
        path = join(parent.base_path, name)
        if path in self._inodes.drift.superseded:
            self._inodes.unlisted_rows.drop_superseded(path)
        self._inodes.adopt(parent)  # invariant 6: a directory with a whiteout is in origin
        # invariant 5: the old name of what is renamed is hidden, too
        self._db.change(HIDE, (parent.ino, name))
        if ref.kind != "base":
            covered = self._db.value("SELECT ino FROM origin WHERE path = ?", (path,))
            if covered is not None and covered != ref.node.ino:
                self._inodes.unlisted_rows.lose_name(Ino(covered))

    def _covers_base(self, parent: Node, name: bytes, node: Node) -> bool:
        """Return True if the base has an object at an overlay name, without a whiteout, that would show from now on.

        Only a replaced base brings such an object.  An object made since the overlay was opened covers none, which
        saves the queries.

        Args:
            parent, name: the overlay name, whose row is deleted.
            node: the object that it stood for.
        """
        if self._inodes.numbers.is_created(node.ino) and node.ino >= self._inodes.first_ino:
            return False
        if parent.path is None or self._db.value(IS_HIDDEN, (parent.ino, name)) is not None:
            return False
        return self._inodes.base_child(parent, name) is not None

    def _bind(self, parent: Node, name: bytes, node: Node, table: str) -> None:
        """Give an object a name: add a row to *table*, or delete the whiteout if the base has the object there."""
        if node.path is not None and self._is_its_base_name(parent, name, node):
            self._db.change(DROP["deleted"], (parent.ino, name))
            if table == "created" and not node.is_dir:
                self._renamed_to_created(node)
            self._drop_row_if_unchanged(node)
        else:
            # invariants 1 and 4: the name was unbound before, so it is in no other list; what is renamed was adopted
            self._db.change(ADD[table], (parent.ino, name, node.ino))

    def _is_its_base_name(self, parent: Node, name: bytes, node: Node) -> bool:
        """Return True if the base has the object of *node* at a name that a whiteout hides."""
        if parent.path is None or self._db.value(IS_HIDDEN, (parent.ino, name)) is None:
            return False
        path = join(parent.path, name)
        if node.path == path:
            return True
        if self._db.value("SELECT ino FROM origin WHERE path = ?", (path,)) not in (None, node.ino):
            return False  # the path of another object, even if a replaced base has made the two links of one file
        child = self._inodes.base_child(parent, name)
        return child is not None and not node.is_dir and child[1] == node.ino and child[0].st_nlink > 1

    def _renamed_to_created(self, node: Node) -> None:
        """Move a name of *node* from ``renamed`` to ``created``, after a new link has taken back its base name.

        The object is at its base name again, so it is not renamed: the other name is an additional link.
        """
        renamed = self._db.row("SELECT parent, name FROM renamed WHERE ino = ? LIMIT 1", (node.ino,))
        if renamed is not None:
            self._db.change(DROP["renamed"], renamed)
            self._db.change(ADD["created"], (*renamed, node.ino))

    def _drop_row_if_unchanged(self, node: Node) -> None:
        """Delete the row of a base object that has its base name again, if the overlay has not changed it otherwise."""
        row = self._inodes.row(node.ino)
        if row is None or self._db.value("SELECT 1 FROM modified WHERE ino = ?", (node.ino,)) is not None:
            return
        path = node.base_path
        st = self._base.find_readable(path)
        if st is None or node.ino in self._inodes.drift.gone:
            return
        if row.nlink != st.st_nlink or row.mtime != st.st_mtime_ns:
            return
        if not node.is_dir and st.st_nlink > 1 and self._db.value(IS_NAMED, (node.ino,)) is not None:
            return
        self._inodes.drop_row(node.ino)
        below = "SELECT 1 FROM origin WHERE path > ? AND path < ? LIMIT 1"
        if not node.is_dir or self._db.value(below, (path + b"/", path + b"0")) is None:
            self._db.change(DROP_ORIGIN, (node.ino,))

    # -- the directory of a changed name

    def _note_added(self, parent: Node, name: bytes, subdirectories: int) -> None:
        self._inodes.touch_directory(parent, subdirectories)
        self._view.appeared(parent, name)

    def _note_removed(self, parent: Node, name: bytes, subdirectories: int) -> None:
        self._inodes.touch_directory(parent, subdirectories)
        self._view.vanished(parent, name)
