"""Revert: a path shows again what the base has there, and what the overlay held of it is in a checkpoint.

Each entry is taken back in one of these ways, from the deepest one up:

* what was created is removed;
* what was renamed goes back to its place in the base, or is removed if something else stands there;
* what was deleted shows again; if it was renamed away, it comes back;
* what was modified loses the overlay's bytes, attributes and extended attributes.

A directory above that holds no other change is the base's own again.  All of it is one operation.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from .checkpoint_values import Checkpoint, Restored
from .errors import FsError, StateError
from .model import ROOT, Ino
from .store.base_view import join, split
from .store.four_lists_statements import DROP, DROP_MODIFIED, DROP_XATTRS, HAS_NAMES_IN, HIDE, IS_HIDDEN, IS_NAMED
from .store.typed_rows import rows
from .tree.base_links import files_below
from .tree.base_values import restore_base_values
from .tree.inode_rows import Row
from .tree.merged_view import Ref
from .tree.nodes import Node
from .tree.path_resolver import PathResolver

if TYPE_CHECKING:
    from .overlay import Overlay

_NAMES_IN = "SELECT name FROM created WHERE parent = ?1 UNION SELECT name FROM renamed WHERE parent = ?1"
_HIDDEN_IN = "SELECT name FROM deleted WHERE parent = ?"
_HIDES_IN = "SELECT 1 FROM deleted WHERE parent = ? LIMIT 1"
_PLACE = "SELECT parent, name FROM renamed WHERE ino = ? LIMIT 1"
_ORIGIN = "SELECT path FROM origin WHERE ino = ?"
_LINKED = "SELECT 1 FROM modified JOIN inode USING (ino) WHERE seen_links > 1 LIMIT 1"  # files with several base names
_BELOW = "SELECT 1 FROM origin WHERE path > ? AND path < ? LIMIT 1"
_NAMED_BELOW = (
    "SELECT ino, path FROM origin WHERE path > ?1 AND path < ?2 AND ino IN"
    " (SELECT ino FROM created UNION ALL SELECT ino FROM renamed)"
)


class Action(NamedTuple):
    """One entry that was taken back.

    Attributes:
        what: ``removed``, ``moved back``, ``shown again`` or ``restored``.
        path: in the overlay, before.
        other: of what was moved back: where it is now.
    """

    what: str
    path: bytes
    other: bytes | None = None


class Reverted(NamedTuple):
    """The result of a revert."""

    actions: list[Action]
    restored: Restored | None  # None: it was only tried, or there was nothing to take back


#: A part of the work, which yields the parts that must be done before it goes on: directories may be deeper than the
#: interpreter's stack.
Part = Iterator["Part"]


class _OnlyTried(Exception):
    """Ends an operation that is only tried, so that it is undone."""


def revert_by(overlay: Overlay, work: Reverter, paths: list[bytes], *, dry_run: bool = False) -> Reverted:
    """Take back what the overlay holds of paths, as one operation that leaves a checkpoint.

    Args:
        overlay: an open overlay that takes changes.
        work: says what is taken back.
        paths: absolute paths in the overlay, ``/`` for all of it.
        dry_run: True to change nothing, and only return what would be done.

    Raises:
        StateError: a path cannot be reverted, or storage failed.  Nothing was changed.
    """

    def change(left: Checkpoint) -> None:
        for path in paths:
            work.revert(path)
        if dry_run or not work.actions:
            raise _OnlyTried

    try:
        restored = overlay.checkpoints.change("revert", change, paths=paths)
    except _OnlyTried:
        return Reverted(work.actions, None)
    return Reverted(work.actions, restored)


def run(work: Part) -> None:
    """Do a work with all its parts."""
    stack = [work]
    while stack:
        part = next(stack[-1], None)
        if part is None:
            stack.pop()
        else:
            stack.append(part)


class Reverter:
    """Lets entries of one overlay show what the base has.  Call its methods inside an operation.

    Args:
        overlay: the overlay.
    """

    def __init__(self, overlay: Overlay) -> None:
        self._ov = overlay
        self._db = overlay.db
        self._inodes = overlay.inodes
        self._view = overlay.merge
        self._names = overlay.namespace
        self._paths = PathResolver(overlay.db)  # knows the names as they are before the first change
        self._may_be_linked = self._db.value(_LINKED) is not None
        self.actions: list[Action] = []

    def revert(self, path: bytes) -> None:
        """Take back what the overlay holds of a path, and below it."""
        if path == b"/":
            run(self._revert_directory(self._inodes.directory(ROOT), b"/"))
            return
        directory, name = split(path)
        parent = self._directory(directory)
        if self._view.resolve(parent, name) is None and self._inodes.base_child(parent, name) is None:
            raise StateError(
                f"neither the overlay nor its base has {os.fsdecode(path)}", "see what was changed: minifo diff"
            )
        run(self._revert_entry(parent, name, path))
        self._tidy(parent)

    def _directory(self, path: bytes) -> Node:
        found = self._ov.find(path)
        if found is None or not stat.S_ISDIR(found.mode):
            raise StateError(
                f"{os.fsdecode(path)} is not a directory now, so what the base has below it cannot be shown",
                f"revert it as a whole: minifo revert {os.fsdecode(path)}",
            )
        return self._inodes.directory(Ino(found.ino))

    # -- one entry

    def _revert_entry(self, parent: Node, name: bytes, path: bytes) -> Part:
        """Let a name in a directory show what the base has there, in the place of that directory in the base."""
        ref = self._view.resolve(parent, name)
        if ref is not None and ref.kind != "base":
            yield self._take_away(parent, name, path, ref)
            ref = None
        if ref is None:
            self.show(parent, name, path)
            ref = self._view.resolve(parent, name)
        if ref is None:
            return  # the base has nothing there
        self.revive(ref.node)
        if ref.node.ino in self._inodes.drift.gone:
            yield self.remove(parent, name, path, ref)
        elif ref.node.is_dir:
            yield self._revert_directory(ref.node, path)
        else:
            self._revert_file(ref.node, path)

    def _take_away(self, parent: Node, name: bytes, path: bytes, ref: Ref) -> Part:
        """Let a name that the overlay has made disappear; what comes from another place in the base goes back there."""
        if ref.kind == "renamed" and (place := self._free_place(ref.node, parent)) is not None:
            home, old = place
            self._names.rename(parent, name, home, old, 0)
            self.actions.append(Action("moved back", path, ref.node.path))
            back = self._view.resolve(home, old)
            if back is not None:
                yield self._revert_entry(home, old, ref.node.path or path)
            self._tidy(home)
        else:
            yield self.remove(parent, name, path, ref)

    def _comes_from_elsewhere(self, ref: Ref) -> bool:
        """Return whether an object may go back to another place."""
        return ref.kind == "renamed"

    def _free_place(self, node: Node, parent: Node) -> tuple[Node, bytes] | None:
        """Return the directory and the name at which the base has a renamed object, if nothing shows there now."""
        origin = self._db.value(_ORIGIN, (node.ino,))
        if not isinstance(origin, bytes):
            return None
        directory, name = split(origin)
        number = self._db.value("SELECT ino FROM origin WHERE path = ?", (directory,))
        if type(number) is not int:
            return None
        try:
            home = self._inodes.directory(Ino(number))
            if home.dead or self._view.resolve(home, name) is not None or not self._reaches(home):
                return None
        except FsError:
            return None
        if node.is_dir and self._is_inside(home, node):
            return None
        return home, name

    def _reaches(self, directory: Node) -> bool:
        """Return whether a directory is reached from the root by names that show."""
        path = directory.path
        return path is not None and (path == b"/" or self._inodes.drift.known_links(directory.ino, path) > 0)

    def _is_inside(self, directory: Node, ancestor: Node) -> bool:
        seen: set[Ino] = set()
        while directory.ino not in seen and directory.ino != ROOT:
            if directory.ino == ancestor.ino:
                return True
            seen.add(directory.ino)
            directory = self._inodes.node(directory.parent)
        return False

    def remove(self, parent: Node, name: bytes, path: bytes, ref: Ref) -> Part:
        """Remove a name, and if it is a directory's, all below it."""
        if not ref.node.is_dir:
            self._names.unlink(parent, name)
        else:
            self.revive(ref.node)
            for child in self._view.names(ref.node):
                found = self._view.resolve(ref.node, child)
                if found is not None and self._comes_from_elsewhere(found):
                    yield self._take_away(ref.node, child, join(path, child), found)
                elif found is not None:
                    yield self.remove(ref.node, child, join(path, child), found)
            self._names.rmdir(parent, name)
        self.actions.append(Action("removed", path))

    def show(self, parent: Node, name: bytes, path: bytes) -> None:
        """Let the base object at a hidden name show again; if it was renamed away, it comes back from there."""
        child = self._inodes.base_child(parent, name)
        if child is None or self._db.value(IS_HIDDEN, (parent.ino, name)) is None:
            return
        ino = child[1]
        place = self._db.row(_PLACE, (ino,))
        if place is not None:
            away, other = self._inodes.directory(Ino(place[0])), place[1]
            self._names.rename(away, other, parent, name, 0)
            self.actions.append(Action("moved back", self._paths.of_name(away.ino, other), path))
            self._tidy(away)
            return
        self._db.change(DROP["deleted"], (parent.ino, name))
        is_dir = stat.S_ISDIR(child[0].st_mode)
        node = self._inodes.add_node(ino, (parent.path, name), parent.ino, is_dir, True)
        if is_dir:
            self.revive(node)
            self._hide_moved(node.base_path)
            for directory, file, st in files_below(self._ov.base, node.base_path, self._is_hidden):
                if st.st_nlink > 1:
                    number = self._inodes.drift.ino_of(st, directory, file)
                    self._count_name(self._inodes.add_node(number, (directory, file), ROOT, False, True), st)
        else:
            self._count_name(node, child[0])
        self._inodes.touch_directory(parent, int(is_dir))
        self._view.appeared(parent, name)
        self.actions.append(Action("shown again", path))

    def _is_hidden(self, directory: bytes, name: bytes, st: os.stat_result) -> bool:
        number = self._inodes.number_at(directory)
        return number is not None and self._db.value(IS_HIDDEN, (number, name)) is not None

    def _count_name(self, node: Node, st: os.stat_result) -> None:
        """Count a name of a base file that shows again."""
        row = self._inodes.row(node.ino)
        if row is not None and row.nlink > 0:
            self._inodes.set_links(row, row.nlink + 1)
            return
        self.revive(node)  # no other name of it shows
        if st.st_nlink > 1:
            self._inodes.set_links(self._inodes.adopt(node), 1)

    def _hide_moved(self, path: bytes) -> None:
        """Hide what was moved out of a base directory: the whiteouts of that went when the directory was removed."""
        for ino, place in rows(self._db, _NAMED_BELOW, (join(path, b""), path + b"0"), "ib"):
            if self._inodes.drift.is_shown(place):
                self.hide(place, Ino(ino))

    def hide(self, place: bytes, ino: Ino) -> None:
        """Hide a base object that has another name, in its place in the base; that may be below a removed directory.

        Args:
            place: where the base has the object, if it still has it.
            ino: the object's number.
        """
        directory, name = split(place)
        st = self._ov.base.find(place)
        if st is None or self._inodes.drift.ino_of(st, directory, name) != ino:
            return  # another base has something else there
        above = directory
        while above != b"/":
            self._inodes.mark(above)
            self.revive(self._marked(above))
            self._inodes.mark(above)  # what was kept of a removed directory is gone, its place in origin too
            above = split(above)[0]
        node = self._marked(directory)
        self._db.change(HIDE, (node.ino, name))
        self._inodes.touch_directory(node, -int(stat.S_ISDIR(st.st_mode)))
        self._view.vanished(node, name)

    def _marked(self, directory: bytes) -> Node:
        number = self._inodes.number_at(directory)
        assert number is not None, directory
        return self._inodes.directory(number)

    def revive(self, node: Node) -> None:
        """Drop what was kept of an object only because it was removed and in use: it shows again.

        An object in a directory that was removed comes to show with that.
        """
        row = self._inodes.row(node.ino) if node.state else None
        if row is not None and row.nlink == 0:
            self._names.reap(node.ino)
        if node.dead:
            node.dead = False
            self._db.on_failure(partial(setattr, node, "dead", True))

    # -- objects that stand where the base has them

    def _revert_directory(self, node: Node, path: bytes) -> Part:
        """Revert all that is in a directory, and then its own attributes."""
        names = {name for (name,) in self._db.rows(_NAMES_IN, (node.ino,))}
        names |= {name for (name,) in self._db.rows(_HIDDEN_IN, (node.ino,))}
        if node.path is not None:
            names |= set(self._inodes.drift.origins_in(node.path))
            if self._may_be_linked:
                names.update(self._linked_in(node, node.path))
        for name in sorted(names):
            yield self._revert_entry(node, name, join(path, name))
        if self._db.value("SELECT 1 FROM modified WHERE ino = ?", (node.ino,)) is not None:
            self.actions.append(Action("restored", path))
        self.drop_attributes(node)

    def _linked_in(self, node: Node, path: bytes) -> Iterator[bytes]:
        """Yield names in a base directory that lead to a changed file of which ``origin`` has another name, or may."""
        for name in self._ov.base.names(path):
            child = self._inodes.base_child(node, name)
            if child is None:
                continue
            st, ino = child
            if stat.S_ISDIR(st.st_mode) or (st.st_nlink > 1 and self._inodes.row(ino) is not None):
                yield name

    def _revert_file(self, node: Node, path: bytes) -> None:
        """Let an object that is no directory have the base's bytes and attributes again."""
        row = self._inodes.row(node.ino) if node.state else None
        if row is None:
            return
        st = self._ov.base.stat(node.base_path)
        if self._db.value("SELECT 1 FROM modified WHERE ino = ?", (node.ino,)) is not None:
            self.actions.append(Action("restored", path))
        is_needed = row.nlink != st.st_nlink
        if not is_needed and (st.st_nlink > 1 or self._inodes.drift.may_be_miscounted(row)):
            is_needed = self._db.value(IS_NAMED, (node.ino,)) is not None  # reads all names
        restore_base_values(
            self._db, self._inodes, self._ov.stored, row, st, ctime=self._inodes.now(), is_needed=is_needed
        )

    def drop_attributes(self, node: Node) -> None:
        """Let a directory that holds no change have the base's attributes again; keep its times if it holds some."""
        if node.path is None:
            return
        st = self._ov.base.find(node.path)
        if st is None or not stat.S_ISDIR(st.st_mode):
            return
        self._db.change(DROP_XATTRS, (node.ino,))
        self._db.change(DROP_MODIFIED, (node.ino,))
        row = self._inodes.row(node.ino)
        if row is None:
            return
        if self._holds_changes(node) or self._is_elsewhere(node):
            attributes = (st.st_mode, row.nlink, st.st_uid, st.st_gid, 0, row.size)
            times = (row.atime, row.mtime, self._inodes.now())
            seen = (st.st_nlink, st.st_size, st.st_mtime_ns)
            self._inodes.save(Row(node.ino, *attributes, *times, None, None, 0, 0, *seen))
        else:
            self._forget(node)

    def _tidy(self, node: Node) -> None:
        """Drop the rows of a directory, and of those above it, that say nothing any more but when names changed."""
        seen: set[Ino] = set()
        while node.ino not in seen:
            seen.add(node.ino)
            if (
                node.path is None
                or self._inodes.row(node.ino) is None
                or self._holds_changes(node)
                or self._is_elsewhere(node)
                or self._db.value("SELECT 1 FROM modified WHERE ino = ?", (node.ino,)) is not None
            ):
                return
            self._forget(node)
            if node.ino == ROOT:
                return
            node = self._inodes.directory(node.parent)

    def _holds_changes(self, node: Node) -> bool:
        """Return whether names in a directory are other ones than in the base."""
        found = self._db.value(HAS_NAMES_IN, (node.ino,)) is not None
        return found or self._db.value(_HIDES_IN, (node.ino,)) is not None

    def _is_elsewhere(self, node: Node) -> bool:
        return self._db.row(_PLACE, (node.ino,)) is not None

    def _forget(self, node: Node) -> None:
        """Delete the rows of a directory that is as in the base; it stays in ``origin`` if something below it is."""
        path = node.base_path
        self._inodes.drop_row(node.ino)
        if path != b"/" and self._db.value(_BELOW, (join(path, b""), path + b"0")) is None:
            self._inodes.discard(node.ino)
