"""Moves what a reset keeps out of directories that do not stay, into those that belong in their places.

A directory that is not chosen itself, but has something in it that is, stays only if nothing else belongs in its place.
If the base has a directory there, that one shows again and takes over what is kept.  If a base directory was renamed to
there, it goes back, and a new one with its attributes takes over.

All that is kept is moved aside first, and then to its places, because these may be each other's.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from .errors import FsError
from .model import ROOT, Ino, Process, is_known_xattr
from .reset_plan import Plan
from .revert import Part, Reverter, run
from .store.base_view import join, split
from .store.four_lists_statements import DROP, IS_HIDDEN
from .tree.merged_view import Ref
from .tree.nodes import Node

if TYPE_CHECKING:
    from .overlay import Overlay


class Moves:
    """The moves of one reset.  Call ``run`` inside an operation.

    Args:
        overlay: the overlay.
        plan: what is kept; it follows the moves.
    """

    def __init__(self, overlay: Overlay, plan: Plan) -> None:
        self._ov = overlay
        self._db = overlay.db
        self._inodes = overlay.inodes
        self._view = overlay.merge
        self._names = overlay.namespace
        self._plan = plan
        self._reverter = Reverter(overlay)
        self._children = plan.children()
        self._aside: set[Ino] = set()  # the directories that stand in for those that do not stay
        self._hidden: list[bytes] = []  # paths that were hidden in them, and are chosen

    def run(self, displaced: list[Ino]) -> None:
        """Let other directories stand in the places of some, with what is kept in them.

        Args:
            displaced: the directories; none is in another one.
        """
        root = self._inodes.directory(ROOT)
        paths = [self._plan.directories.path(ino) for ino in displaced]
        aside = []
        for ino, path in zip(displaced, paths, strict=True):
            name = self._free_name()
            run(self._put_aside(self._inodes.directory(ino), root, name, path))
            aside.append(name)
        for path in paths:
            self._take_name(*self._at(path))
        for name, path in zip(aside, paths, strict=True):
            run(self._put_in_place(root, name, *self._at(path), path))
        for path in self._hidden:
            run(self._hide(path))

    def _at(self, path: bytes) -> tuple[Node, bytes]:
        directory, name = split(path)
        found = self._ov.find(directory)
        if found is None:
            raise FsError(errno.EIO, f"{os.fsdecode(directory)} cannot be reached")  # the rows are damaged
        return self._inodes.directory(Ino(found.ino)), name

    def _free_name(self) -> bytes:
        root, number = self._inodes.directory(ROOT), 1
        while self._view.resolve(root, b".minifo-reset-%d" % number) is not None:
            number += 1
        return b".minifo-reset-%d" % number

    def _put_aside(self, source: Node, parent: Node, name: bytes, path: bytes) -> Part:
        """Make a directory with the attributes of another one, and move what is kept there."""
        aside = self._alike(source, parent, name)
        self._aside.add(aside.ino)
        hidden = self._plan.chosen["deleted"]
        for key in [key for key in hidden if key[0] == source.ino]:
            if self._view.resolve(source, key[1]) is None:
                hidden.discard(key)
                self._hidden.append(join(path, key[1]))
        for child in sorted(self._children[source.ino]):
            found = self._view.resolve(source, child)
            if found is None:
                continue
            if found.node.is_dir and found.node.ino not in self._plan.inos:
                yield self._put_aside(found.node, aside, child, join(path, child))
                if found.kind != "base":
                    self._take_name(source, child)
            else:
                self._move(source, child, aside, child)

    def _put_in_place(self, parent: Node, name: bytes, target: Node, new: bytes, path: bytes) -> Part:
        """Move a directory that was put aside to its place, or what is in it to the base directory that is there."""
        place = self._base_directory(target, new, path)
        if place is None:
            self._move(parent, name, target, new)
            return
        source = self._inodes.directory(self._found(parent, name))
        for child in self._view.names(source):
            ino = self._found(source, child)
            if ino in self._aside:
                yield self._put_in_place(source, child, place, child, join(path, child))
                continue
            there = self._view.resolve(place, child)
            if there is not None:
                yield self._reverter.remove(place, child, join(path, child), there)
            self._move(source, child, place, child)
        self._names.rmdir(parent, name)

    def _found(self, parent: Node, name: bytes) -> Ino:
        return self._ref(parent, name).node.ino

    def _ref(self, parent: Node, name: bytes) -> Ref:
        found = self._view.resolve(parent, name)
        if found is None:
            raise FsError(errno.EIO, f"inode {parent.ino}: no {name!r}")  # the rows are damaged
        return found

    def _base_directory(self, parent: Node, name: bytes, path: bytes) -> Node | None:
        """Let the base directory at a name show, and return it; None, and nothing shows there, if there is none."""
        child = self._inodes.base_child(parent, name)
        if child is not None and stat.S_ISDIR(child[0].st_mode) and child[1] not in self._plan.inos:
            try:
                self._reverter.show(parent, name, path)
            except FsError:  # it is above this place now
                return None
        found = self._view.resolve(parent, name)
        if found is None or found.node.is_dir:
            return None if found is None else found.node
        self._names.unlink(parent, name)
        return None

    def _hide(self, path: bytes) -> Part:
        directory, name = split(path)
        found = self._ov.find(directory)
        if found is None or not stat.S_ISDIR(found.mode):
            return
        parent = self._inodes.directory(Ino(found.ino))
        there = self._view.resolve(parent, name)
        if there is not None:
            yield self._reverter.remove(parent, name, path, there)
        if self._db.row(IS_HIDDEN, (parent.ino, name)) is not None:
            self._plan.chosen["deleted"].add((parent.ino, name))

    def _move(self, parent: Node, name: bytes, target: Node, new: bytes) -> None:
        """Rename, and let the plan follow."""
        self._names.rename(parent, name, target, new, 0)
        for keys in (*self._plan.chosen.values(), self._plan.standing):
            keys.discard((parent.ino, name))
        ref = self._ref(target, new)
        if ref.node.ino in self._aside:
            return
        if ref.kind == "base":
            self._plan.standing.add((target.ino, new))
            return
        self._plan.chosen[ref.kind].add((target.ino, new))
        if self._db.row(IS_HIDDEN, (target.ino, new)) is not None:
            self._plan.chosen["deleted"].add((target.ino, new))

    def _take_name(self, parent: Node, name: bytes) -> None:
        """Take away the name of a directory that does not stay; a base directory is in its place, but hidden, then."""
        found = self._ref(parent, name)
        if found.kind == "base":
            raise FsError(errno.EIO, f"inode {parent.ino}: {name!r} is the base's")  # the rows are damaged
        self._db.change(DROP[found.kind], (parent.ino, name))
        self._view.vanished(parent, name)

    def _alike(self, source: Node, parent: Node, name: bytes) -> Node:
        """Make a directory with the attributes of another one."""
        attributes, attr = self._ov.attributes, self._inodes.attributes(source)
        made = self._names.make(parent, name, stat.S_IFDIR | 0o700, Process(attr.uid, attr.gid, 0))
        for xattr in attributes.listxattr(made):
            attributes.removexattr(made, xattr)
        for xattr in filter(is_known_xattr, attributes.listxattr(source)):
            attributes.setxattr(made, xattr, attributes.getxattr(source, xattr))
        row = self._inodes.adopt(made)
        self._inodes.save(row._replace(mode=attr.mode, uid=attr.uid, gid=attr.gid, atime=attr.atime, mtime=attr.mtime))
        return made
