"""Inodes: rows of ``inode``, ``origin``, ``modified`` and ``orphan``, and the nodes that stand for them in memory.

A base object gets a row when it is *adopted*: its attributes are copied from the base, its place is noted in ``origin``
and so are its directories up to the root.  That closure is what lets a directory without a mark be read without SQL.
Whoever changes an object adopts it first.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Any

from ..errors import FsError
from ..model import ROOT, Attr, Ino
from ..store.base_view import BaseView, join, split
from ..store.database import Database
from ..store.list_statements import DROP_MODIFIED, DROP_ORIGIN, DROP_XATTRS
from ..store.statements import statement
from .ancestors import Ancestors
from .clock import Clock
from .drift import Drift
from .inode_rows import Row, Watcher
from .nodes import Node, Numbers, Place
from .row_checks import number_of, path_of, row_of
from .stored_bytes import StoredBytes
from .unlisted_rows import UnlistedRows

_COLUMNS = "ino, mode, nlink, uid, gid, rdev, size, atime, mtime, ctime, object, bound, mapped, xattrs"
_COLUMNS += ", seen_links, seen_size, seen_mtime"
# with each row the base object it stands for, and whether it is modified
_FROM = f"SELECT {_COLUMNS}, path, content FROM inode LEFT JOIN origin USING (ino) LEFT JOIN modified USING (ino)"
_SELECT = f"{_FROM} WHERE ino = ?"
_FETCHED = 64  # rows in one query
_SELECT_MANY = f"{_FROM} WHERE ino IN ({', '.join('?' * _FETCHED)})"
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


_KEPT_ROWS = 4096


class Inodes:
    """Rows and nodes by inode number.

    Args:
        db: the overlay's database.
        base: the base view.
        numbers: how base objects are numbered.
        next_ino: next number for a created object.
        clock: tells the time of changes.
        stored: what storage holds of files.
        ancestors: keeps versions of base files.
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
        self.first_ino = next_ino  # of those made since the overlay was opened
        self.clock = clock
        self.unnamed: set[Ino] = set()  # files made without a name that may still be given one (O_TMPFILE)
        self._nodes: dict[Ino, Node] = {ROOT: Node(ROOT, (None, b"/"), ROOT, True, True)}
        self.drift = Drift(db, base, numbers)
        self.parting = UnlistedRows(db, self, stored)
        self.ancestors = ancestors
        self._rows: dict[Ino, Row] = {}  # rows as they count; all are dropped when an operation fails
        self._fetched: dict[Ino, tuple[Any, ...]] = {}  # what was read in advance
        self._adopted: Row | None = None  # the row that was adopted last, until its object is modified
        self.watcher = Watcher()  # hears of every change
        self._limit = 0  # nodes that are many
        self._crowded: Callable[[], None] | None = None  # called when so many are known

    # -- nodes

    def node(self, ino: Ino) -> Node:
        """The node of a number, from memory or from the tables.

        Raises:
            FsError: ESTALE if nothing is known by that number.
        """
        node = self._nodes.get(ino)
        return node if node is not None else self._load(ino)

    def node_in(self, ino: Ino, directory: Node) -> Node:
        """The same of what was found in a directory."""
        node = self._nodes.get(ino)
        if node is None:
            return self._load(ino, directory.ino)
        if node.is_dir:
            node.parent = directory.ino
        return node

    def _load(self, ino: Ino, parent: Ino | None = None) -> Node:
        found = self._find(ino) if ino not in self._rows else None
        row = self._meet(found, None) if found is not None else self._rows.get(ino)
        path: bytes | None = found[-2] if found is not None else self.path(ino)
        if row is not None:
            is_dir = stat.S_ISDIR(row.mode)
        elif path is not None:
            # of what is no directory there is a row
            is_dir = True
        else:
            raise FsError(errno.ESTALE, f"inode {ino}")
        if not is_dir:
            parent = ROOT
        elif parent is None:
            parent = self._parent(ino, path)
        node = self._nodes[ino] = Node(ino, (None, path) if path is not None else None, parent, is_dir, True)
        return node

    def path(self, ino: Ino) -> bytes | None:
        """The base object a number stands for (base terms), by the tables."""
        if self.numbers.is_created(ino):
            return None
        found = self._db.row("SELECT path FROM origin WHERE ino = ?", (ino,))
        return path_of(ino, found[0]) if found is not None else None

    def _parent(self, ino: Ino, path: bytes | None) -> Ino:
        """The directory a directory is in, by the tables alone; they are read all through for it."""
        found = self._db.value(
            "SELECT parent FROM created WHERE ino = ?1 UNION ALL SELECT parent FROM renamed WHERE ino = ?1", (ino,)
        )
        if found is None and path is not None:
            found = self._db.value("SELECT ino FROM origin WHERE path = ?", (split(path)[0],))
        return number_of(found) if found is not None else ROOT

    def directory(self, ino: Ino) -> Node:
        """The node of a directory.

        Raises:
            FsError: ESTALE, or ENOTDIR if it is something else.
        """
        node = self._nodes.get(ino) or self._load(ino)
        if not node.is_dir:
            raise FsError(errno.ENOTDIR, f"inode {ino}")
        return node

    def found(self, ino: Ino, place: Place | None, parent: Ino, is_dir: bool, state: bool) -> Node:
        """Note an object that a look-up has found.

        A base object may be found by several paths (hard links): the first one stays.
        """
        node = self._nodes.get(ino)
        if node is None:
            node = self._nodes[ino] = Node(ino, place, parent if is_dir else ROOT, is_dir, state)
            if len(self._nodes) == self._limit and self._crowded is not None:
                self._crowded()
        elif is_dir:
            node.parent = parent
        if state:
            node.state = True
        return node

    def known(self, ino: Ino) -> Node | None:
        """The node of a number if it is in memory."""
        return self._nodes.get(ino)

    def drop_node(self, ino: Ino) -> None:
        """Forget what memory knows about a number (never the root's)."""
        if ino != ROOT:
            self._nodes.pop(ino, None)
            self.unnamed.discard(ino)

    def when_crowded(self, limit: int, call: Callable[[], None]) -> None:
        """Call *call* whenever the number of nodes reaches *limit*."""
        self._limit, self._crowded = limit, call

    def __len__(self) -> int:
        return len(self._nodes)

    def now(self) -> int:
        """The time of the running operation, in ns: all that it changes is changed at once.

        Taken before SQL, so that a replayed statement writes the same value.
        """
        if self._db.time is None:
            self._db.time = self.clock.now()
        return self._db.time

    # -- rows

    def row(self, ino: Ino, st: os.stat_result | None = None) -> Row | None:
        """The overlay's attributes of an object, or None if the base's own count.

        Args:
            ino: the object.
            st: what the base says of the object at its place, where that was just asked.
        """
        row = self._rows.get(ino)
        if row is None:
            found = self._find(ino)
            row = self._meet(found, st) if found is not None else None
        return row

    def _find(self, ino: Ino) -> tuple[Any, ...] | None:
        """A row with what is read along with it, as the database has it."""
        found = self._fetched.pop(ino, None) or self._db.row(_SELECT, (ino,))
        if found is not None and found[-2] is not None:
            path_of(ino, found[-2])
        return found

    def _meet(self, found: tuple[Any, ...], st: os.stat_result | None) -> Row:
        """A row as it counts over this base, kept from now on."""
        *values, path, content = found
        row = row_of(tuple(values))
        if path is not None:
            row = self.drift.meet(row, path, st, modified=content is not None)
        return self._keep(row)

    def fetch(self, inos: list[Ino]) -> None:
        """Read the rows of many objects at once, for ``row`` to have them at hand."""
        self._fetched.clear()
        wanted = [ino for ino in inos if ino not in self._rows]
        for start in range(0, len(wanted), _FETCHED):
            some = wanted[start : start + _FETCHED]
            for found in self._db.rows(_SELECT_MANY, (*some, *[None] * (_FETCHED - len(some)))):
                self._fetched[found[0]] = found

    def _keep(self, row: Row) -> Row:
        if len(self._rows) >= _KEPT_ROWS:
            self._rows.clear()
        self._rows[row.ino] = row
        return row

    def _made(self, row: Row) -> Row:
        if self._fetched:
            self._fetched.pop(row.ino, None)
        self.watcher.saved(row)
        return self._keep(row)

    def rolled_back(self) -> None:
        """Forget what an operation that was undone has left in memory."""
        self._rows.clear()
        self._fetched.clear()
        self._adopted = None
        self.watcher.lost()

    def died(self, st: os.stat_result, ino: Ino) -> None:
        """Note that a base file without a row has lost its only name."""
        self.watcher.died(self.attr_of_base(st, ino, dead=True))

    def save(self, row: Row) -> None:
        """Change an object's row to this one; ``stamp`` aside the only way rows of ``inode`` change."""
        self._db.change(_UPDATE, (*row[1:], row.ino))
        self._made(row)
        if self.drift.followed:
            self.drift.followed.discard(row.ino)

    def stamp(self, row: Row, nlink: int, atime: int, mtime: int, ctime: int) -> None:
        """Change an object's link count and times only: all that most operations do, and half the work of ``save``."""
        stamped = Row._make((*row[:2], nlink, *row[3:7], atime, mtime, ctime, *row[10:]))
        if row.ino in self.drift.followed:
            self.save(stamped)
            return
        self._db.change(_STAMP, (nlink, atime, mtime, ctime, row.ino))
        self._made(stamped)

    def drop_row(self, ino: Ino) -> None:
        """Delete an object's row: the base's own attributes count again, if there is a base object."""
        self._db.change(_DROP, (ino,))
        self._rows.pop(ino, None)
        self._fetched.pop(ino, None)
        self.watcher.dropped(ino)

    def attributes(self, node: Node) -> Row | os.stat_result:
        """The attributes of an object, from its row or from the base.

        Raises:
            OSError: ENOENT where the base object is gone.
        """
        if node.state:
            row = self.row(node.ino)
            if row is not None:
                return row
        path = node.path
        if path is None:
            raise FsError(errno.ESTALE, f"inode {node.ino}")
        if not (node.state and node.is_dir):
            return self._base.stat(path)
        st = self._base.find(path)
        if st is None or not stat.S_ISDIR(st.st_mode):
            self.drift.gone.add(node.ino)
            st = self.drift.ghost(node.ino)
            if st is None:
                raise FsError(errno.ENOENT, os.fsdecode(path))
        return st

    def mode(self, node: Node) -> int:
        """The type and permission bits of an object."""
        found = self.attributes(node)
        return found.mode if isinstance(found, Row) else found.st_mode

    def create(
        self, mode: int, uid: int, gid: int, rdev: int, nlink: int, size: int, target: bytes | None = None
    ) -> Row:
        """Give a new object a number and a row; one without a link is an orphan from the start."""
        ino = Ino(self.next_ino)
        self.next_ino += 1
        t = self.now()
        row = Row(ino, mode, nlink, uid, gid, rdev, size, t, t, t, None, None, 0, 1, None, None, None)
        self._db.change(_INSERT, (*row, target))
        if nlink == 0:
            self._db.change(_ADD_ORPHAN, (ino,))
        return self._made(row)

    def adopt(self, node: Node, held: Row | os.stat_result | None = None, *, xattrs: int = 0) -> Row:
        """Give a base object its row, copied from the base, and mark its directories.  Copies no content.

        Args:
            node: the object.
            held: its attributes, where they have just been looked up.
            xattrs: 1 where a new row is to have extended attributes of its own, which the caller adds.

        Returns:
            The row, new or old.

        Raises:
            FsError: ESTALE for a created object whose row is gone.
        """
        st = held if held is not None else self.attributes(node)
        if isinstance(st, Row):
            return st
        path = node.path
        assert path is not None
        bound = st.st_size if stat.S_ISREG(st.st_mode) else None
        nlink = 0 if node.dead else st.st_nlink
        row = Row._make(
            (
                *(node.ino, st.st_mode, nlink, st.st_uid, st.st_gid, st.st_rdev, st.st_size),
                *(st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns, None, bound, 0, xattrs),
                *(st.st_nlink, st.st_size, st.st_mtime_ns),
            )
        )
        self._db.change(_INSERT, (*row, None))
        self._adopted = self._made(row)
        self.mark(path, node.ino, st)
        if node.dead:
            self._db.change(_ADD_ORPHAN, (node.ino,))
        return row

    def mark(self, path: bytes, ino: Ino | None = None, st: os.stat_result | None = None) -> None:
        """Note in ``origin`` that the base object at *path* has overlay state, and its directories up to the root.

        Args:
            path: the base object (base terms).
            ino, st: its number and attributes, where they are known.
        """
        while self._is_free(path) or ino is not None:
            if st is None:
                st = self._base.stat(path)
            if ino is None:
                ino = self.drift.number(st, *split(path))
            seen = (st.st_mode, st.st_uid, st.st_gid) if stat.S_ISDIR(st.st_mode) else (None, None, None)
            is_new = self._db.change(_MARK, (ino, path, *seen))
            self._note_state(ino)
            if not is_new or path == b"/":
                return
            path, ino, st = split(path)[0], None, None

    def _is_free(self, path: bytes) -> bool:
        """True where nothing is held of the base object at a path; what is in its way is let go of."""
        if path in self.drift.superseded:
            self.parting.settle(path)
        return self._db.value("SELECT 1 FROM origin WHERE path = ?", (path,)) is None

    def _note_state(self, ino: Ino) -> None:
        # left set when the operation is rolled back: it costs a query, never a wrong answer
        node = self._nodes.get(ino)
        if node is not None:
            node.state = True

    def modify(self, row: Row, *, content: bool = False) -> None:
        """Put a base object on the list of modified ones; a created object is on none.

        Args:
            row: the object's row, as it was before the modification.
            content: True when bytes change, not only attributes.
        """
        if self.numbers.is_created(row.ino):
            return
        if content and self.ancestors.limit and not row.is_own:
            self.ancestors.keep(self.node(row.ino).path or b"/")
        if row is self._adopted:
            # just copied from the base, and so on no list yet
            self._adopted = None
            self._db.change(_MODIFIED, (row.ino, int(content), row.size, row.mtime))
            return
        known = self._db.value("SELECT content FROM modified WHERE ino = ?", (row.ino,))
        # the base's own figures, which a row without bytes of its own follows
        size, mtime = row.seen_size or 0, row.seen_mtime or 0
        if known is None:
            self._db.change(_MODIFIED, (row.ino, int(content), size, mtime))
        elif content and not known:
            self._db.change(_MODIFIED_TOO, (size, mtime, row.ino))

    def touch_directory(self, node: Node, subdirectories: int = 0) -> None:
        """Note that a directory's entries changed: its mtime and ctime, and its link count.

        Args:
            node: the directory.
            subdirectories: how many more (or fewer) there are; a link count of 1 (btrfs, overlayfs) says nothing
                and stays.
        """
        row = self.adopt(node)
        if node.ino in self.drift.gone:
            self.modify(row, content=True)  # what is made in it, and what is taken away, shows that it is wanted
        t = self.now()
        nlink = row.nlink + subdirectories if row.nlink > 1 else row.nlink
        self.stamp(row, nlink, row.atime, t, t)

    def set_links(self, row: Row, nlink: int) -> None:
        """Change an object's link count and ctime; at 0 it becomes an orphan, from 0 on it is none any more."""
        if row.nlink == 0:
            self.take_orphan(row.ino)
        self.stamp(row, nlink, row.atime, row.mtime, self.now())
        if nlink == 0:
            self._db.change(_ADD_ORPHAN, (row.ino,))

    def is_orphan(self, ino: Ino) -> bool:
        """True for what has no name left."""
        row = self._rows.get(ino)
        if row is not None:
            return row.nlink == 0
        # not the row: most numbers that are let go of are of living objects, whose rows nobody wants
        return self._db.value("SELECT 1 FROM orphan WHERE ino = ?", (ino,)) is not None

    def take_orphan(self, ino: Ino) -> bool:
        """Strike a number from the orphans; False if it is none."""
        return self._db.change(_DROP_ORPHAN, (ino,)) > 0

    def discard(self, ino: Ino) -> None:
        """Delete every row an object owns, its content aside; it is no orphan any more."""
        self.drop_row(ino)
        self._db.change(DROP_XATTRS, (ino,))
        if not self.numbers.is_created(ino):
            self._db.change(DROP_ORIGIN, (ino,))
            self._db.change(DROP_MODIFIED, (ino,))

    # -- attributes as users see them

    def attr_of_base(self, st: os.stat_result, ino: Ino, *, dead: bool = False) -> Attr:
        """The attributes of a base object without overlay state."""
        nlink = 0 if dead else st.st_nlink
        times = st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns
        return Attr(ino, st.st_mode, nlink, st.st_uid, st.st_gid, st.st_rdev, st.st_size, st.st_blocks, *times)

    def base_child(self, directory: Node, name: bytes) -> tuple[os.stat_result, Ino] | None:
        """The base object that stands at *name* in a directory's base side, and its number; None if there is none."""
        if directory.path is None:
            return None
        st = self._base.find(join(directory.path, name))
        return (st, self.drift.number(st, directory.path, name)) if st is not None else None
