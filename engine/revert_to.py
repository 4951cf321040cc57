"""Revert to a checkpoint: a path shows again what it showed then, and all else stays as it is now.

Names are compared from the path down, only where something has changed since:

* what was not there then goes back to the place that it had, if that is free, or is removed;
* what was there then comes back: from where it is now, or with its rows from history if nothing leads to it any more;
* what is the same object gets the bytes, the attributes and the extended attributes of then.

A directory is the same one if it has the same number, whatever its name.  All of it is one operation.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

from .checkpoint_values import Checkpoint
from .errors import FsError, StateError
from .model import ROOT, Attr, Ino
from .overlay import Overlay
from .revert import Action, Part, Reverted, Reverter, revert_by, run
from .store.base_view import join, split
from .store.database import Database
from .store.four_lists_statements import ALL_NAMES
from .store.history import show, touched
from .store.typed_rows import each
from .tree.inode_rows import Row
from .tree.merged_view import Ref
from .tree.nodes import Node

_IS_AT = (
    "SELECT 1 FROM created WHERE parent = ?1 AND name = ?2 AND ino = ?3"
    " UNION ALL SELECT 1 FROM renamed WHERE parent = ?1 AND name = ?2 AND ino = ?3"
)
_OTHER_ROWS = (
    "SELECT content FROM modified WHERE ino = ?",
    "SELECT data FROM small WHERE ino = ?",
    "SELECT name, value FROM xattr WHERE ino = ?",
    # a write since a checkpoint is in an object with a greater number; a hole has another number
    "SELECT count(*), max(object), sum(object % 4294967291) FROM extent WHERE ino = ?",
)
_ORIGINS = "SELECT ino, path FROM origin"


def revert_paths(overlay: Overlay, paths: list[bytes], *, to: str | None = None, dry_run: bool = False) -> Reverted:
    """Let paths show again what they showed at a checkpoint, or what the base has there.

    Args:
        overlay: an open overlay that takes changes.
        paths: absolute paths in the overlay, ``/`` for all of it.
        to: the name of the checkpoint; None for the base.
        dry_run: True to change nothing, and only return what would be done.

    Raises:
        StateError: there is no such checkpoint; nothing is or was at a path, or it cannot be reached; or storage
            failed.  Nothing was changed.
    """
    try:
        if to is None:
            return revert_by(overlay, Reverter(overlay), paths, dry_run=dry_run)
        checkpoint = overlay.checkpoints.find(to)
        with _as_of(overlay, checkpoint) as then:
            return revert_by(overlay, _RevertTo(overlay, then, checkpoint), paths, dry_run=dry_run)
    except OSError as error:
        raise StateError(
            f"nothing was changed: the storage cannot be read ({error.filename or error.strerror})",
            "check it, or unmount the overlay and run minifo-fsck on its storage",
        ) from error


@contextmanager
def _as_of(overlay: Overlay, checkpoint: Checkpoint) -> Iterator[Overlay]:
    """Show a checkpoint beside its overlay, from a copy of the database in memory that can only be read."""
    db = show(overlay.db, checkpoint.id)
    then: Overlay | None = None
    try:
        then = Overlay(overlay.base, overlay.storage, db, max_size=None, copy_whole=False, keep_origin=0, clock=None)
        yield then
    finally:
        if then is not None:
            then.objects.close()
        db.close()


class _RevertTo(Reverter):
    """Brings entries of one overlay back to a checkpoint.  Call ``revert`` inside an operation.

    Args:
        overlay: the overlay.
        then: it, as it was at the checkpoint.
        checkpoint: the checkpoint.
    """

    def __init__(self, overlay: Overlay, then: Overlay, checkpoint: Checkpoint) -> None:
        super().__init__(overlay)
        self._then = then
        self._checkpoint = checkpoint
        self._since = checkpoint.id
        self._history = overlay.history
        self._changed, self._keys = touched(overlay.db, checkpoint.id)
        self._places_then, self._places_before = _Places(then.db), _Places(overlay.db)
        self._brought: dict[int, tuple[int, bytes]] = {}  # what has another name now: its last one
        self._reached: dict[int, bool] = {}  # directories, at the checkpoint

    def revert(self, path: bytes) -> None:
        """Bring back a path, and all below it."""
        if path == b"/":
            run(self._restore_directory(self._inodes.directory(ROOT), b"/"))
            return
        directory, name = split(path)
        parent = self._directory(directory)
        before = self._then.find(directory)
        if before is None or before.ino != parent.ino:
            raise StateError(
                f"{os.fsdecode(directory)} is not the directory that was there at checkpoint {self._checkpoint.name}",
                f"bring it back as a whole: minifo revert --to {self._checkpoint.name} {os.fsdecode(directory)}",
            )
        if self._view.resolve(parent, name) is None and self._name_then(parent, name) is None:
            raise StateError(
                f"neither the overlay nor checkpoint {self._checkpoint.name} has {os.fsdecode(path)}",
                "see what has changed since: minifo checkpoint diff",
            )
        run(self._entry(parent, name, path))

    # -- what may differ

    @cached_property
    def _needed(self) -> dict[int, set[bytes]]:
        """The names in each directory that may differ, or have something below them that may."""
        needed: dict[int, set[bytes]] = defaultdict(set)
        for parent, name in self._keys:
            needed[parent].add(name)
        for places in (self._places_before, self._places_then):
            waiting = [*self._changed, *(parent for parent, _ in self._keys)]
            seen: set[int] = set()
            while waiting:
                ino = waiting.pop()
                if ino not in seen:
                    seen.add(ino)
                    for parent, name in places.of(ino):
                        needed[parent].add(name)
                        waiting.append(parent)
        return needed

    # -- one entry

    def _entry(self, parent: Node, name: bytes, path: bytes) -> Part:
        """Let a name in a directory show what it showed then."""
        wanted = self._name_then(parent, name)
        ref = self._view.resolve(parent, name)
        if ref is not None and (wanted is None or wanted.ino != ref.node.ino):
            yield self._take_away(parent, name, path, ref)
            ref = None
        if wanted is None:
            return
        if ref is None:
            ref = self._bring(parent, name, path, wanted)
        self.revive(ref.node)
        if ref.node.is_dir:
            yield self._restore_directory(ref.node, path)
        else:
            self._restore_file(ref.node, path)

    def _name_then(self, parent: Node, name: bytes) -> Attr | None:
        """Return what a name in a directory led to then."""
        inodes = self._then.inodes
        node = inodes.node_in_memory(parent.ino)
        if node is None:
            try:
                node = inodes.directory(parent.ino)
            except FsError as error:
                if error.errno != errno.ESTALE or parent.path is None:
                    return None
                node = inodes.add_node(parent.ino, (None, parent.path), ROOT, True, False)  # it had no rows then
        if node.ino not in self._reached:
            self._reached[node.ino] = self._reached_then(node)
        return self._then.lookup(node.ino, name) if self._reached[node.ino] else None

    def _reached_then(self, node: Node) -> bool:
        """Return whether names led to a directory then."""
        if node.ino == ROOT or self._places_then.names(node.ino):
            return True
        return node.path is not None and self._then.inodes.drift.is_shown(node.path)

    def _is_gone(self, node: Node) -> bool:
        """Return whether a directory is removed now."""
        row = self._inodes.row(node.ino)
        return node.dead or (row is not None and row.nlink == 0)

    def _take_away(self, parent: Node, name: bytes, path: bytes, ref: Ref) -> Part:
        """Let a name disappear; its object goes back to the place that it had then, if that is free."""
        place = self._place_then(ref.node)
        if place is None:
            yield self.remove(parent, name, path, ref)
            return
        home, old = place
        self._names.rename(parent, name, home, old, 0)
        back = join(self._paths.of(home.ino), old)
        self.actions.append(Action("moved back", path, back))
        self._brought[ref.node.ino] = home.ino, old
        yield self._entry(home, old, back)

    def _comes_from_elsewhere(self, ref: Ref) -> bool:
        """Return whether an object may go back to another place."""
        return self._place_then(ref.node) is not None

    def _place_then(self, node: Node) -> tuple[Node, bytes] | None:
        """Return a directory and a name at which an object was then, if nothing is there now."""
        places = [*self._places_then.names(node.ino)]
        if node.path is not None and (home := self._base_directory(split(node.path)[0])) is not None:
            places.append((home.ino, split(node.path)[1]))
        for number, name in places:
            try:
                home = self._inodes.directory(Ino(number))
            except FsError:
                continue
            if (
                not self._is_gone(home)
                and self._view.resolve(home, name) is None
                and not (node.is_dir and self._is_inside(home, node))
                and (found := self._name_then(home, name)) is not None
                and found.ino == node.ino
            ):
                return home, name
        return None

    def _base_directory(self, path: bytes) -> Node | None:
        """Return the base directory at a path in base terms, if it shows now, wherever that is."""
        below: list[bytes] = []
        while (number := ROOT if path == b"/" else self._inodes.number_at(path)) is None:
            path, name = split(path)
            below.append(name)
        node = self._inodes.directory(number)
        if self._is_gone(node):
            return None
        for name in reversed(below):
            ref = self._view.resolve(node, name)
            if ref is None or ref.kind != "base" or not ref.node.is_dir:
                return None
            node = ref.node
        return node

    # -- what was there then, and is not

    def _bring(self, parent: Node, name: bytes, path: bytes, wanted: Attr) -> Ref:
        """Give a name to the object that it led to then."""
        ino = Ino(wanted.ino)
        is_dir = stat.S_ISDIR(wanted.mode)
        place = self._place_now(ino, is_dir=is_dir)
        if place is not None:
            self._bring_from(*place, parent, name, path)
        elif (child := self._inodes.base_child(parent, name)) is not None and child[1] == ino:
            self.show(parent, name, path)
        else:
            self._resurrect(parent, name, path, ino, is_dir=is_dir)
        self._brought[ino] = parent.ino, name
        ref = self._view.resolve(parent, name)
        if ref is None or ref.node.ino != ino:
            raise StateError(
                f"{os.fsdecode(path)} cannot be brought back: the base has something else there now",
                f"return as a whole: minifo rollback {self._checkpoint.name}",
            )
        return ref

    def _place_now(self, ino: Ino, *, is_dir: bool) -> tuple[Node, bytes] | None:
        """Return a directory and a name that lead to an object now: of a file if possible one that did not then."""
        found: list[tuple[Node, bytes]] = []
        for number, name in (*self._places_before.names(ino), *filter(None, (self._brought.get(ino),))):
            if self._db.value(_IS_AT, (number, name, ino)) is not None:
                found.append((self._inodes.directory(Ino(number)), name))
        origin = self._then.inodes.node(ino).path
        if origin is not None and not found:
            directory, name = split(origin)
            home = self._base_directory(directory)
            ref = self._view.resolve(home, name) if home is not None else None
            if home is not None and ref is not None and ref.node.ino == ino:
                found.append((home, name))
        return next((place for place in found if not self._was_there(*place, ino)), found[0] if found else None)

    def _was_there(self, directory: Node, name: bytes, ino: Ino) -> bool:
        then = self._name_then(directory, name)
        return then is not None and then.ino == ino

    def _bring_from(self, away: Node, other: bytes, parent: Node, name: bytes, path: bytes) -> None:
        """Bring an object back from where it is now; a file that was there as well then stays there, too."""
        ref = self._view.resolve(away, other)
        if ref is None:
            raise FsError(errno.EIO, "a name that rows have does not show")
        if ref.node.is_dir and self._is_inside(parent, ref.node):
            raise StateError(
                f"{os.fsdecode(path)} is a directory above itself now",
                f"return as a whole: minifo rollback {self._checkpoint.name}",
            )
        if not ref.node.is_dir and self._was_there(away, other, ref.node.ino):
            self._names.link(ref.node, parent, name)
            self.actions.append(Action("shown again", path))
            return
        self._names.rename(away, other, parent, name, 0)
        self.actions.append(Action("moved back", self._paths.of_name(away.ino, other), path))

    def _resurrect(self, parent: Node, name: bytes, path: bytes, ino: Ino, *, is_dir: bool) -> None:
        """Bring back the rows of an object and one name: no known name leads to it now, but one in the base may."""
        now = self._inodes.row(ino)
        self._history.restore_object(self._since, ino, origin=True)
        self._inodes.drop_orphan(ino)
        self._inodes.reread(ino)
        row = self._inodes.row(ino)
        node = self._inodes.node(ino)
        if row is None:
            raise FsError(errno.EIO, f"inode {ino}: its rows are not in history")
        links = 1 + (now.nlink if now is not None else 0)
        if node.path is not None and node.path != b"/":
            self._inodes.mark(split(node.path)[0])
        if is_dir:
            st = self._ov.base.find(node.path) if node.path is not None else None
            links = st.st_nlink if st is not None and stat.S_ISDIR(st.st_mode) else 2
            self._db.on_failure(partial(setattr, node, "parent", node.parent))
            node.parent = parent.ino
        self._inodes.save(row._replace(nlink=links))
        self.revive(node)
        self._history.restore_name(self._since, parent.ino, name)
        self._inodes.touch_directory(parent, int(is_dir))
        self._view.appeared(parent, name)
        self.actions.append(Action("shown again", path))

    # -- objects that stand where they stood then

    def _restore_directory(self, node: Node, path: bytes) -> Part:
        """Bring back all that is in a directory, and then its own attributes."""
        names = set(self._needed.get(node.ino, ()))
        if self._may_be_linked and node.path is not None:
            names.update(self._linked_in(node, node.path))
        for name in sorted(names):
            yield self._entry(node, name, join(path, name))
        if node.ino not in self._changed:
            return
        if self._row_then(node) is None:
            if self._db.value("SELECT 1 FROM modified WHERE ino = ?", (node.ino,)) is not None:
                self.actions.append(Action("restored", path))
            self.drop_attributes(node)
        else:
            self._restore_object(node, path)

    def _restore_file(self, node: Node, path: bytes) -> None:
        """Let an object that is no directory have the bytes and attributes of then."""
        if node.ino not in self._changed:
            return
        if self._row_then(node) is None:
            self._revert_file(node, path)
        else:
            self._restore_object(node, path)

    def _row_then(self, node: Node) -> Row | None:
        return self._then.inodes.row(node.ino)

    def _restore_object(self, node: Node, path: bytes) -> None:
        """Bring back the rows of an object, but for its link count."""
        now = self._inodes.adopt(node)
        before = self._other_rows(node.ino)
        self._history.restore_object(self._since, node.ino)
        self._inodes.reread(node.ino)
        row = self._inodes.row(node.ino)
        if row is None:
            raise FsError(errno.EIO, f"inode {node.ino}: its row is not in history")
        if row.nlink != now.nlink:
            self._inodes.save(row._replace(nlink=now.nlink))
        if node.ino not in self._brought and (not _alike(row, now) or self._other_rows(node.ino) != before):
            self.actions.append(Action("restored", path))

    def _other_rows(self, ino: Ino) -> list[Any]:
        """Return what the other tables have of an object; of extents, what any change of them changes."""
        return [self._db.rows(sql, (ino,)) for sql in _OTHER_ROWS]


class _Places:
    """The names of objects that have rows, in one state."""

    def __init__(self, db: Database) -> None:
        self._names: dict[int, list[tuple[int, bytes]]] = defaultdict(list)
        for ino, parent, name in each(db, ALL_NAMES, "iib"):
            self._names[ino].append((parent, name))
        self._origins: dict[int, bytes] = dict(each(db, _ORIGINS, "ib"))
        self._numbers = {path: ino for ino, path in self._origins.items()}

    def names(self, ino: int) -> list[tuple[int, bytes]]:
        """Return the names of an object in the overlay, each with its directory's number."""
        return self._names.get(ino, [])

    def of(self, ino: int) -> Iterator[tuple[int, bytes]]:
        """Yield the names of an object, each with its directory's number; the name in the base may be hidden."""
        yield from self.names(ino)
        path = self._origins.get(ino)
        if path is not None and path != b"/":
            directory, name = split(path)
            number = ROOT if directory == b"/" else self._numbers.get(directory)
            if number is not None:
                yield number, name


def _alike(row: Row, other: Row) -> bool:
    """Return whether two rows of an object differ only in what changes of names set."""
    if stat.S_ISDIR(row.mode):
        return (row.mode, row.uid, row.gid, row.xattrs) == (other.mode, other.uid, other.gid, other.xattrs)
    return row._replace(nlink=other.nlink, ctime=other.ctime) == other
