"""Inodes: rows of ``inode``, ``origin``, ``modified`` and ``orphan``, and the nodes of objects in memory.

Every change of a base object first *adopts* it: its attributes are copied from the base to a row of ``inode``, and its
path and the paths of all directories above it are noted in ``origin``.  So a directory that is not in ``origin`` has no
overlay state below it, and is read without SQL.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Container, Iterable
from typing import Any

from ..errors import FsError
from ..model import ROOT, Ino
from ..store.base_view import BaseView, join, split
from ..store.database import Database
from ..store.four_lists_statements import DROP_MODIFIED, DROP_ORIGIN, DROP_XATTRS
from ..store.statements import statement
from .ancestors import Ancestors
from .clock import Clock
from .drift import Drift
from .inode_rows import AnyAttr, BaseAttr, Row, Watcher, base_attr
from .nodes import BaseLocation, Node, Numbers
from .row_checks import number_of, path_of, row_of
from .stored_bytes import StoredBytes
from .unlisted_rows import UnlistedRows

_COLUMNS = "ino, mode, nlink, uid, gid, rdev, size, atime, mtime, ctime, object, bound, mapped, xattrs"
_COLUMNS += ", seen_links, seen_size, seen_mtime"
# a row together with its base path (NULL: a created object), and modified.content (NULL: not in that list)
_FROM = f"SELECT {_COLUMNS}, path, content FROM inode LEFT JOIN origin USING (ino) LEFT JOIN modified USING (ino)"
_SELECT = f"{_FROM} WHERE ino = ?"
_PREFETCH = 64  # rows in one query
_SELECT_MANY = f"{_FROM} WHERE ino IN ({', '.join('?' * _PREFETCH)})"
_FIELDS = _COLUMNS.removeprefix("ino, ").split(", ")
_UPDATE = statement(f"UPDATE inode SET {', '.join(f'{field} = ?' for field in _FIELDS)} WHERE ino = ?")
_STAMP = statement("UPDATE inode SET nlink = ?, atime = ?, mtime = ?, ctime = ? WHERE ino = ?")
_INSERT = statement(f"INSERT INTO inode ({_COLUMNS}, target) VALUES ({', '.join('?' * (len(_FIELDS) + 2))})")
_DROP = statement("DELETE FROM inode WHERE ino = ?")
_MARK = statement("INSERT INTO origin VALUES (?, ?, ?, ?, ?) ON CONFLICT (path) DO NOTHING")
_MODIFIED = statement("INSERT INTO modified (ino, content, base_size, base_mtime) VALUES (?, ?, ?, ?)")
_MODIFIED_TOO = statement("UPDATE modified SET content = 1, base_size = ?, base_mtime = ? WHERE ino = ?")
_ADD_ORPHAN = statement("INSERT INTO orphan VALUES (?)")
_DROP_ORPHAN = statement("DELETE FROM orphan WHERE ino = ?")

_CACHED_ROWS = 4096


class Inodes:
    """Reads and changes rows and nodes, by inode number.

    Args:
        db: the overlay's database.
        base: the base view.
        numbers: gives base objects their inode numbers.
        next_ino: next number for a created object.
        clock: returns the timestamps of changes.
        stored: the bytes of files in storage.
        ancestors: keeps copies of base files from before their first change.
    """

    def __init__(
        self,
        db: Database,
        base: BaseView,
        numbers: Numbers,
        next_ino: int,
        clock: Clock,
        stored: StoredBytes,
        ancestors: Ancestors,
    ) -> None:
        self._db = db
        self._base = base
        self.numbers = numbers
        self.next_ino = next_ino
        self.first_ino = next_ino  # number of the first object created since the overlay was opened
        self.generations: dict[Ino, int] = {}  # of files that a return to a checkpoint has changed, if not 0
        self.clock = clock
        self.unnamed: set[Ino] = set()  # files made without a name that may still be given one (O_TMPFILE)
        self._nodes: dict[Ino, Node] = {ROOT: Node(ROOT, (None, b"/"), ROOT, True, True)}
        self.drift = Drift(db, base, numbers)
        self.unlisted_rows = UnlistedRows(db, self, stored)
        self.ancestors = ancestors
        self._rows: dict[Ino, Row] = {}  # cache of rows, with the base's values where they follow it (Drift.follow)
        self._prefetched: dict[Ino, tuple[Any, ...]] = {}  # the columns of _SELECT_MANY
        self._adopted: Row | None = None  # the row that was adopted last, until its object is modified
        self.watcher = Watcher()  # called at every change
        self._limit = 0  # nodes in memory at which _crowded is called
        self._crowded: Callable[[], None] | None = None

    # -- nodes

    def node(self, ino: Ino) -> Node:
        """Return the node of an inode number, from memory or made from rows.

        Raises:
            FsError: ESTALE if there is neither a node nor a row with this number, or the node is stale.
        """
        node = self._nodes.get(ino)
        if node is None:
            return self._load(ino)
        if node.stale:
            raise FsError(errno.ESTALE, f"inode {ino}")
        return node

    def node_in(self, ino: Ino, directory: Node) -> Node:
        """Return the node of an object that has just been found in *directory*, which becomes a directory's parent.

        Raises:
            FsError: ESTALE if there is neither a node nor a row with this number.
        """
        node = self._nodes.get(ino)
        if node is None:
            return self._load(ino, directory.ino)
        if node.is_dir:
            node.parent = directory.ino
        return node

    def _load(self, ino: Ino, parent: Ino | None = None) -> Node:
        columns = self._read(ino) if ino not in self._rows else None
        row = self._follow(columns, None) if columns is not None else self._rows.get(ino)
        path: bytes | None = columns[-2] if columns is not None else self.path(ino)
        if row is not None:
            is_dir = stat.S_ISDIR(row.mode)
        elif path is not None:
            # only a directory has a row in origin without one in inode
            is_dir = True
        else:
            raise FsError(errno.ESTALE, f"inode {ino}")
        if not is_dir:
            parent = ROOT
        elif parent is None:
            parent = self.parent(ino, path)
        node = self._nodes[ino] = Node(ino, (None, path) if path is not None else None, parent, is_dir, True)
        return node

    def path(self, ino: Ino) -> bytes | None:
        """Return the path of an object in ``origin`` (base terms), or None if it has no row there."""
        if self.numbers.is_created(ino):
            return None
        origin = self._db.row("SELECT path FROM origin WHERE ino = ?", (ino,))
        return path_of(ino, origin[0]) if origin is not None else None

    def parent(self, ino: Ino, path: bytes | None) -> Ino:
        """Return the number of the directory that holds a directory, by rows; slow, as it scans the tables of names."""
        parent = self._db.value(
            "SELECT parent FROM created WHERE ino = ?1 UNION ALL SELECT parent FROM renamed WHERE ino = ?1", (ino,)
        )
        if parent is None and path is not None:
            parent = self.number_at(split(path)[0])
        return number_of(parent) if parent is not None else ROOT

    def number_at(self, path: bytes) -> Ino | None:
        """Return the number that ``origin`` has for a path in base terms, or None."""
        found = self._db.value("SELECT ino FROM origin WHERE path = ?", (path,))
        return number_of(found) if found is not None else None

    def named(self, inos: Container[Ino]) -> dict[Ino, Ino]:
        """Return those of some objects that have names in the overlay, with the directory of one; reads all names."""
        names = self._db.each("SELECT ino, parent FROM created UNION ALL SELECT ino, parent FROM renamed")
        return {Ino(ino): number_of(parent) for ino, parent in names if ino in inos}

    def directory(self, ino: Ino) -> Node:
        """Return the node of a directory.

        Raises:
            FsError: ESTALE if there is neither a node nor a row with this number; ENOTDIR if the object is not a
                directory.
        """
        node = self._nodes.get(ino) or self._load(ino)
        if not node.is_dir:
            raise FsError(errno.ENOTDIR, f"inode {ino}")
        return node

    def add_node(self, ino: Ino, location: BaseLocation | None, parent: Ino, is_dir: bool, state: bool) -> Node:
        """Return the node of an object that a lookup has found, and make it if there is none.

        Args:
            ino: the object's number.
            location: the path of its base object, None for a created object.  A node that exists keeps its own: a base
                file with several links is known by the path by which it was found first.
            parent: number of the directory in which it was found.
            is_dir: True for a directory.
            state: False if the database surely holds no row of the object.
        """
        node = self._nodes.get(ino)
        if node is None:
            node = self._nodes[ino] = Node(ino, location, parent if is_dir else ROOT, is_dir, state)
            if len(self._nodes) == self._limit and self._crowded is not None:
                self._crowded()
        elif is_dir:
            node.parent = parent
        if state:
            node.state = True
        return node

    def node_in_memory(self, ino: Ino) -> Node | None:
        """Return the node of an inode number if it is in memory, else None."""
        return self._nodes.get(ino)

    def nodes(self) -> Iterable[Node]:
        """Return all nodes in memory; none may be added or removed meanwhile."""
        return self._nodes.values()

    def take_node(self, node: Node) -> None:
        """Take over a node of another instance."""
        self._nodes[node.ino] = node

    def drop_node(self, ino: Ino) -> None:
        """Remove a node from memory; the root's node stays."""
        if ino != ROOT:
            self._nodes.pop(ino, None)
            self.unnamed.discard(ino)

    def when_crowded(self, limit: int, call: Callable[[], None]) -> None:
        """Call *call* whenever the number of nodes reaches *limit*."""
        self._limit, self._crowded = limit, call

    def follow_up(self, other: Inodes) -> None:
        """Take the place of another instance: what the front end has set there counts here."""
        self.first_ino, self.unnamed, self.watcher = other.first_ino, other.unnamed, other.watcher
        self._limit, self._crowded = other._limit, other._crowded
        self.generations = other.generations

    def __len__(self) -> int:
        return len(self._nodes)

    def now(self) -> int:
        """Return the timestamp of the running operation, in ns: the same one for all that the operation changes.

        It is a value in the statements, not a function of SQL: statements replayed from the redo log write the same.
        """
        if self._db.time is None:
            self._db.time = self.clock.now()
        return self._db.time

    # -- rows

    def row(self, ino: Ino, st: os.stat_result | None = None) -> Row | None:
        """Return the row of an object, with the base's values where it follows the base; None if it has no row.

        Args:
            ino: the object.
            st: the attributes of the base object at the path in ``origin``, if the caller has just read them.

        Raises:
            FsError: EIO if the row is damaged.
        """
        row = self._rows.get(ino)
        if row is None:
            columns = self._read(ino)
            row = self._follow(columns, st) if columns is not None else None
        return row

    def _read(self, ino: Ino) -> tuple[Any, ...] | None:
        """Return the columns of ``_SELECT`` for an object, or None."""
        columns = self._prefetched.pop(ino, None) or self._db.row(_SELECT, (ino,))
        if columns is not None and columns[-2] is not None:
            path_of(ino, columns[-2])
        return columns

    def _follow(self, columns: tuple[Any, ...], st: os.stat_result | None) -> Row:
        """Return the row made of the columns of ``_SELECT``, with the base's values where it follows the base."""
        *values, path, content = columns
        row = row_of(tuple(values))
        if path is not None:
            row = self.drift.follow(row, path, st, modified=content is not None)
        return self._cache(row)

    def prefetch(self, inos: list[Ino]) -> None:
        """Read the rows of many objects in few queries, so that ``row`` needs none for them."""
        self._prefetched.clear()
        wanted = [ino for ino in inos if ino not in self._rows]
        for start in range(0, len(wanted), _PREFETCH):
            some = wanted[start : start + _PREFETCH]
            for columns in self._db.rows(_SELECT_MANY, (*some, *[None] * (_PREFETCH - len(some)))):
                self._prefetched[columns[0]] = columns

    def _cache(self, row: Row) -> Row:
        if len(self._rows) >= _CACHED_ROWS:
            self._rows.clear()
        self._rows[row.ino] = row
        return row

    def _note_saved(self, row: Row) -> Row:
        """Cache a row that was just written to the database, and tell the watcher."""
        if self._prefetched:
            self._prefetched.pop(row.ino, None)
        self.watcher.saved(row)
        return self._cache(row)

    def rolled_back(self) -> None:
        """Clear the caches of rows after a failed operation, and tell the watcher; the database calls it."""
        self._rows.clear()
        self._prefetched.clear()
        self._adopted = None
        self.watcher.lost()

    def save(self, row: Row) -> None:
        """Write *row* over the row of the object; only ``save`` and ``stamp`` update rows of ``inode``."""
        self._db.change(_UPDATE, (*row[1:], row.ino))
        self._note_saved(row)
        if self.drift.followed:
            self.drift.followed.discard(row.ino)

    def stamp(self, row: Row, nlink: int, atime: int, mtime: int, ctime: int) -> None:
        """Write an object's link count and times: all that most operations change, in half the time of ``save``."""
        stamped = Row._make((*row[:2], nlink, *row[3:7], atime, mtime, ctime, *row[10:]))
        if row.ino in self.drift.followed:
            self.save(stamped)
            return
        self._db.change(_STAMP, (nlink, atime, mtime, ctime, row.ino))
        self._note_saved(stamped)

    def drop_row(self, ino: Ino) -> None:
        """Delete an object's row; a base object then has the base's attributes again."""
        self._db.change(_DROP, (ino,))
        self._rows.pop(ino, None)
        self._prefetched.pop(ino, None)
        self.watcher.dropped(ino)

    def reread(self, ino: Ino) -> None:
        """Read an object's row anew from now on: statements of another part have changed it."""
        self._rows.pop(ino, None)
        self._prefetched.pop(ino, None)
        self._adopted = None
        self._note_state(ino)

    def attributes(self, node: Node) -> AnyAttr:
        """Return the attributes of an object, from its row or from the base.

        Raises:
            OSError: ENOENT if the base object is gone and there is no row; ESTALE for a created object without a row.
        """
        if node.state:
            row = self.row(node.ino)
            if row is not None:
                return row
        path = node.path
        if path is None:
            raise FsError(errno.ESTALE, f"inode {node.ino}")
        if not (node.state and node.is_dir):
            return base_attr(self._base.stat(path), node.ino)
        st = self._base.find(path)
        if st is None or not stat.S_ISDIR(st.st_mode):
            self.drift.gone.add(node.ino)
            st = self.drift.gone_directory(node.ino)
            if st is None:
                raise FsError(errno.ENOENT, os.fsdecode(path))
        return base_attr(st, node.ino)

    def mode(self, node: Node) -> int:
        """Return the type and permission bits of an object."""
        return self.attributes(node).mode

    def create(
        self, mode: int, uid: int, gid: int, rdev: int, nlink: int, size: int, target: bytes | None = None
    ) -> Row:
        """Make the row of a new object, with the next inode number; with a link count of 0 it is an orphan at once."""
        ino = Ino(self.next_ino)  # invariant 8: from the window, and without an origin
        self.next_ino += 1
        t = self.now()
        row = Row(ino, mode, nlink, uid, gid, rdev, size, t, t, t, None, None, 0, 1, None, None, None)
        self._db.change(_INSERT, (*row, target))
        if nlink == 0:
            self._db.change(_ADD_ORPHAN, (ino,))
        return self._note_saved(row)

    def adopt(self, node: Node, attr: AnyAttr | None = None, *, xattrs: int = 0) -> Row:
        """Return the row of an object; if a base object has none, make it with the base's attributes.

        A new row also gets the object and all directories above it into ``origin``.  No file bytes are copied.

        Args:
            node: the object.
            attr: its attributes, if the caller has just read them.
            xattrs: the column ``xattrs`` of a new row: 1 if the caller then adds all extended attributes as rows.

        Raises:
            OSError: ENOENT if the base object is gone and there is no row; ESTALE for a created object without a row.
        """
        if attr is None:
            attr = self.attributes(node)
        if isinstance(attr, Row):
            return attr
        path = node.base_path
        bound = attr.size if stat.S_ISREG(attr.mode) else None
        nlink = 0 if node.dead else attr.nlink
        row = Row._make(
            (
                *(node.ino, attr.mode, nlink, attr.uid, attr.gid, attr.rdev, attr.size),
                *(attr.atime, attr.mtime, attr.ctime, None, bound, 0, xattrs),
                *(attr.nlink, attr.size, attr.mtime),
            )
        )
        self._db.change(_INSERT, (*row, None))
        self._adopted = self._note_saved(row)
        self.mark(path, node.ino, attr)  # invariant 8: what was not created has an origin
        if node.dead:
            self._db.change(_ADD_ORPHAN, (node.ino,))
        return row

    def mark(self, path: bytes, ino: Ino | None = None, attr: BaseAttr | None = None) -> None:
        """Add a base object and all directories above it to ``origin``: from now on they may have overlay state.

        Args:
            path: the base object (base terms).
            ino, attr: its number and attributes, if the caller knows them.
        """
        while self._is_free(path) or ino is not None:
            if attr is None:
                st = self._base.stat(path)
                if ino is None:
                    ino = self.drift.ino_of(st, *split(path))
                attr = base_attr(st, ino)
            seen = (attr.mode, attr.uid, attr.gid) if stat.S_ISDIR(attr.mode) else (None, None, None)
            is_new = self._db.change(_MARK, (attr.ino, path, *seen))
            self._note_state(Ino(attr.ino))
            if not is_new or path == b"/":
                return
            path, ino, attr = split(path)[0], None, None

    def _is_free(self, path: bytes) -> bool:
        """Return True if *path* is not in ``origin``.

        If the path belongs to a gone object in whose place another one shows, the rows of the gone object are deleted
        first.
        """
        if path in self.drift.superseded:
            self.unlisted_rows.drop_superseded(path)
        return self._db.value("SELECT 1 FROM origin WHERE path = ?", (path,)) is None

    def _note_state(self, ino: Ino) -> None:
        # stays True if the operation fails: that costs a query, but gives no wrong answer
        node = self._nodes.get(ino)
        if node is not None:
            node.state = True

    def modify(self, row: Row, *, content: bool = False) -> None:
        """Note in ``modified`` that a base object is about to be changed; does nothing for a created object.

        Args:
            row: the object's row before the change.
            content: True if bytes change, False if only attributes do.
        """
        if self.numbers.is_created(row.ino):
            return  # invariant 7: only a base object with a row is modified
        if content and self.ancestors.limit and not row.is_own:
            self.ancestors.keep(self.node(row.ino).path or b"/")
        if row is self._adopted:
            # just copied from the base, so it is not in the list yet
            self._adopted = None
            self._db.change(_MODIFIED, (row.ino, int(content), row.size, row.mtime))
            return
        listed = self._db.value("SELECT content FROM modified WHERE ino = ?", (row.ino,))
        size, mtime = row.seen_size or 0, row.seen_mtime or 0  # the base file's
        if listed is None:
            self._db.change(_MODIFIED, (row.ino, int(content), size, mtime))
        elif content and not listed:
            self._db.change(_MODIFIED_TOO, (size, mtime, row.ino))

    def touch_directory(self, node: Node, subdirectories: int = 0) -> None:
        """Set a directory's mtime and ctime after a change of its entries, and adjust its link count.

        Args:
            node: the directory.
            subdirectories: how many subdirectories were added; negative if removed.  A link count of 1 stays: file
                systems such as btrfs and overlayfs do not count subdirectories.
        """
        row = self.adopt(node)
        if node.ino in self.drift.gone:
            self.modify(row, content=True)  # a gone directory in which a program works stays, even when it is empty
        t = self.now()
        nlink = row.nlink + subdirectories if row.nlink > 1 else row.nlink
        self.stamp(row, nlink, row.atime, t, t)

    def set_links(self, row: Row, nlink: int) -> None:
        """Set an object's link count, and its ctime; an object with a link count of 0 is in ``orphan``."""
        # invariant 11: an orphan is what has no links
        if row.nlink == 0:
            self.drop_orphan(row.ino)
        self.stamp(row, nlink, row.atime, row.mtime, self.now())
        if nlink == 0:
            self._db.change(_ADD_ORPHAN, (row.ino,))

    def is_orphan(self, ino: Ino) -> bool:
        """Return True if an object with a row has no name left."""
        row = self._rows.get(ino)
        if row is not None:
            return row.nlink == 0
        # does not read the row: most inodes that the kernel forgets still have names, and their rows are not needed
        return self._db.value("SELECT 1 FROM orphan WHERE ino = ?", (ino,)) is not None

    def drop_orphan(self, ino: Ino) -> bool:
        """Delete *ino* from ``orphan``; return whether it was there."""
        return self._db.change(_DROP_ORPHAN, (ino,)) > 0

    def discard(self, ino: Ino) -> None:
        """Delete the rows of an object in ``inode``, ``xattr``, ``origin`` and ``modified``.

        Its names, its content and its row in ``orphan`` are for the caller to delete.
        """
        self.drop_row(ino)
        self._db.change(DROP_XATTRS, (ino,))
        if not self.numbers.is_created(ino):
            self._db.change(DROP_ORIGIN, (ino,))
            self._db.change(DROP_MODIFIED, (ino,))

    def base_child(self, directory: Node, name: bytes) -> tuple[os.stat_result, Ino] | None:
        """Return the base object at *name* in the base side of a directory: its attributes and its inode number.

        Returns None if the directory has no base side, or the base has no such name there.  Whiteouts do not count.
        """
        if directory.path is None:
            return None
        st = self._base.find(join(directory.path, name))
        return (st, self.drift.ino_of(st, directory.path, name)) if st is not None else None
