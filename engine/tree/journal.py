"""The journal: an entry for each change of the tree, in the operation that makes the change, and never more than N.

An entry is a row of the table ``journal``, in the same record of the redo log and in the same commit as the change: so
after a power cut or a kill there is no entry without its change, and no change without its entry.  Rows are added some
hundred at a time, at the latest before the commit, because that is cheaper.

* Writes to a file, and truncations of it, are one entry each for a file in a commit: that of the first one.
* The kernel writes pages back in its own name.  Such a write counts as one of the process that last created, truncated
  or was about to write the file, within this commit and the one before; else it is nobody's.
* Objects without a name have no path, so their changes are not noted.
* Whoever watches the mount gets counts of changes by object (activity.py), whether or not entries are kept.
* An operation never fails because of the journal.  While storage is full, the entries of what is deleted are left out,
  and one entry ``missing`` says so later.  If the table is damaged, the journal is off until the next mount.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import apsw

from ..errors import FsError, StateError
from ..model import Attr, DirEntry, Ino, JournalSlice, RenameFlags, SetAttr
from ..store.database import Database
from ..store.statements import optional_statement
from .activity import Activity
from .inode_rows import AnyAttr
from .inodes import Inodes
from .journal_entries import IDS_END, Author, bounds, read, this_process
from .known_names import PATH_MAX, KnownNames
from .merged_view import MergedView
from .nodes import Node

log = logging.getLogger(__name__)

_ADD = optional_statement("INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?, ?)")
_TRIM = optional_statement("DELETE FROM journal WHERE id < ?")
_CLEAR = optional_statement("DELETE FROM journal WHERE id IS NOT NULL")
_WAITING = 256  # entries that wait at most: to add many at once takes a third of the time
_LONG = 500  # bytes of a path with which none waits: those that wait count as no space for the commit (free_space.py)
_AT_ONCE = 10_000  # entries that one operation deletes at the mount, in a few ms

_NOBODY: Author = (None, None, None)


def _unknown() -> tuple[int, int]:
    return 0, 0


def _no_name(pid: int) -> bytes | None:
    return None


class Journal:
    """Adds entries and trims them.  While it is off and nobody watches, its methods do nothing.

    Call the methods that note a change at the end of its operation.

    Args:
        db: the overlay's database.
        inodes: nodes, and the time of an operation.
        view: lookups.
        is_short: returns whether storage has no room but for what frees some.

    Attributes:
        limit: how many entries are kept; 0: the journal is off.
        is_on: whether changes are of interest: entries are kept, or somebody watches.
        caller: returns uid and pid of the process whose request is served, 0 for a pid that is not known; the front end
            sets it before each change, and it is called only for an entry.
        command_of: returns the name of a process by its pid, in at most ``COMMAND_MAX`` bytes, or None; the front end
            sets it.
    """

    def __init__(self, db: Database, inodes: Inodes, view: MergedView, is_short: Callable[[], bool]) -> None:
        self._db = db
        self._inodes = inodes
        self._view = view
        self._is_short = is_short
        self._names = KnownNames(db, inodes, view)
        self.limit = 0
        self.is_on = False
        self._watching: list[Activity] = []
        self.caller: Callable[[], tuple[int, int]] = _unknown
        self.command_of: Callable[[int], bytes | None] = _no_name
        self._first = self._next = 1  # ids
        self._left_out = False  # entries are missing since the last one
        # entries that are in the redo log, and not in the table yet
        self._waiting: list[tuple[int | bytes | str | None, ...]] = []
        # operation and file of what has an entry already; in this commit, and in the one before
        self._noted: set[tuple[str, int]] = set()
        self._noted_before: set[tuple[str, int]] = set()
        # who was about to write a file, likewise
        self._authors: dict[int, Author] = {}
        self._authors_before: dict[int, Author] = {}

    # -- life

    def work_on(self, inodes: Inodes, view: MergedView) -> None:
        """Note changes of these parts from now on, which a rollback has made.  No entry may wait."""
        self._inodes, self._view = inodes, view
        self._names = KnownNames(self._db, inodes, view)

    def begin(self, limit: int, commit: Callable[[], object]) -> None:
        """Switch the journal on, and delete entries beyond the limit.

        Args:
            limit: how many entries to keep.
            commit: commits what was done so far.
        """
        try:
            first, end = bounds(self._db)
            if first < 1 or end > IDS_END:
                log.warning("the journal is deleted: its entries have impossible numbers (%d to %d)", first, end - 1)
                with self._db.operation():
                    self._db.change(_CLEAR)
                first = end = 1
            self._first, self._next = first, end
            while self._next - self._first > limit:
                self._trim_some(self._next - limit)
                commit()
        except FsError as error:
            self._switch_off(error)
            return
        except StateError as error:
            log.warning("the journal has more than %d entries for now: %s", limit, error)
        self._keep(limit)

    def _keep(self, limit: int) -> None:
        self.limit = limit
        self.is_on = bool(limit or self._watching)
        if not self.is_on:
            self._names.clear()  # what changes from now on is not seen

    def _trim_some(self, upto: int) -> None:
        past = self._db.value(f"SELECT id FROM journal ORDER BY id LIMIT 1 OFFSET {_AT_ONCE}")
        bound = min(upto, past) if past is not None else upto
        with self._db.operation():
            self._db.change(_TRIM, (bound,))
        self._first = bound

    def _trim(self) -> None:
        if self._next - self._first > self.limit > 0:
            self._first = self._next - self.limit
            try:
                self._db.change(_TRIM, (self._first,))
            except apsw.CorruptError as error:
                self._switch_off(error)

    def _switch_off(self, error: Exception) -> None:
        log.warning("the journal is damaged (%s), so changes are not noted; run minifo-fsck", error)
        self._keep(0)

    def sealing(self) -> None:
        """Add the entries that are waiting, and delete those beyond the limit, before a commit."""
        if not self.limit:
            return
        if self._waiting or self._next - self._first > self.limit:
            with self._db.operation():
                self._add_waiting()
                self._trim()
        self._noted_before, self._noted = self._noted, set()
        self._authors_before, self._authors = self._authors, {}

    # -- reading

    def bounds(self) -> tuple[int, int]:
        """Return the first id that is kept, and the one after the last; both are 1 if there are no entries."""
        if self._waiting and not self._db.read_only:
            with self._db.operation():
                self._add_waiting()
        return bounds(self._db, self.limit)

    def read(self, first: int, end: int, *, backward: bool = False) -> JournalSlice:
        """Return the entries with ids in a range of ``bounds``, or the first part of them."""
        return read(self._db, first, end, backward=backward)

    # -- watching

    def watch(self) -> Activity:
        """Return counts that begin now, and grow with each change until ``unwatch``."""
        found = Activity()
        self._watching.append(found)
        self._keep(self.limit)
        return found

    def unwatch(self, activity: Activity) -> None:
        """End what ``watch`` has begun."""
        self._watching.remove(activity)
        self._keep(self.limit)

    def _count(self, ino: Ino, size: int = 0) -> None:
        for activity in self._watching:
            activity.add(ino, size)

    def look_up(self, inos: Iterable[Ino]) -> list[Ino]:
        """Find names of objects that the kernel has not looked up since the journal is on, in one search for all.

        Returns:
            The directories in which they were found, for which the same is to be done; none if all are known.
        """
        try:
            return self._names.learn([node.ino for node in map(self._named, inos) if node is not None])
        except FsError:
            return []  # the rows are damaged

    def path_of(self, ino: Ino) -> tuple[bytes, bool] | None:
        """Return a path of an object, and whether it is a directory; None if it has no name any more.

        Without ``look_up`` before it, each object that is not known costs a search through all names, once.
        """
        node = self._named(ino)
        return (self._names.of(ino, is_dir=node.is_dir), node.is_dir) if node is not None else None

    def _named(self, ino: Ino) -> Node | None:
        try:
            node = self._inodes.node(ino)
            return node if self._has_name(node) else None
        except FsError:
            return None  # it is gone, or its rows are damaged

    # -- names

    def saw(self, parent: Ino, name: bytes, attr: Attr | None) -> Attr | None:
        """Return *attr*, the result of a lookup of a name."""
        if self.is_on and attr is not None and name not in (b".", b".."):
            self._names.saw(attr.ino, parent, name)
        return attr

    def saw_all(self, parent: Ino, entries: Iterator[DirEntry]) -> Iterator[DirEntry]:
        """Return an iterator of *entries*, those of a directory."""
        return self._each(parent, entries) if self.is_on else entries

    def _each(self, parent: Ino, entries: Iterator[DirEntry]) -> Iterator[DirEntry]:
        for entry in entries:
            self.saw(parent, entry.name, entry.attr)
            yield entry

    def forget(self, ino: Ino) -> None:
        """Drop what is known of an object that the kernel no longer refers to."""
        if self.is_on:
            self._names.forget(ino)

    # -- changes

    def made(self, parent: Ino, name: bytes, ino: Ino, mode: int) -> None:
        """Note a new object."""
        if not self.is_on:
            return
        self._names.saw(ino, parent, name)
        self._count(parent)
        if not self.limit:
            return
        author = self._author()
        if stat.S_ISREG(mode):
            op = "create"
            self._authors[ino] = author
        else:
            op = "mkdir" if stat.S_ISDIR(mode) else "symlink" if stat.S_ISLNK(mode) else "mknod"
        self._add(op, self._names.of_name(parent, name), None, author)

    def linked(self, node: Node, parent: Ino, name: bytes, names_before: int) -> None:
        """Note a new hard link to an object that had *names_before* names."""
        if not self.is_on:
            return
        self._count(parent)
        other = self._names.of(node.ino, is_dir=False) if names_before and self.limit else None
        self._names.saw(node.ino, parent, name)
        if not self.limit:
            return
        self._add("link", self._names.of_name(parent, name), other, self._author())

    def removed(self, op: str, parent: Ino, name: bytes) -> None:
        """Note that a name is gone by unlink or rmdir."""
        if self._watching:
            self._count(parent)
        if self.limit:
            self._add(op, self._names.of_name(parent, name), None, self._author())

    def renamed(self, parent: Ino, name: bytes, new_parent: Node, new_name: bytes, flags: int) -> None:
        """Note a rename, or an exchange of two names."""
        if not self.is_on:
            return
        for directory in {parent, new_parent.ino}:
            self._count(directory)
        before = self._names.of_name(parent, name)
        exchanged = flags == RenameFlags.EXCHANGE
        found = self._view.resolve(new_parent, new_name)
        if exchanged or found is None or found.node.is_dir:
            self._names.moved()
        if found is not None:
            self._names.saw(found.node.ino, new_parent.ino, new_name)
        other = self._view.resolve(self._inodes.directory(parent), name) if exchanged else None
        if other is not None:
            self._names.saw(other.node.ino, parent, name)
        if not self.limit:
            return
        op = "exchange" if exchanged else "rename"
        self._add(op, self._names.of_name(new_parent.ino, new_name), before, self._author())

    def will_write(self, ino: Ino) -> None:
        """Note that the caller is about to write to a file; this is no change."""
        if self.limit:
            self._authors[ino] = self._author()

    def wrote(self, ino: Ino, size: int) -> None:
        """Note that so many bytes of a file were written."""
        if self._watching:
            self._count(ino, size)
        if self.limit and ("write", ino) not in self._noted:
            author = self._author()
            self._note_once("write", ino, self._author_of(ino) if author[1] is None else author)

    def changed(self, node: Node, change: SetAttr, before: AnyAttr) -> None:
        """Note a change of attributes.

        Args:
            node: the object.
            change: what the caller asked for.
            before: its attributes before that.
        """
        if self._watching and _is_a_change(change, before):
            self._count(node.ino)
        if not self.limit:
            return
        if change.size is not None:
            self.will_write(node.ino)
            if change.size != before.size and ("truncate", node.ino) not in self._noted:
                self._note_once("truncate", node.ino, self._author())
        elif change.uid is not None or change.gid is not None:
            self._note("chown", node)
        elif change.mode is not None:
            self._note("chmod", node)
        elif change.atime is not None:
            self._note("times", node)
        elif change.mtime is not None:
            # the kernel also sends the mtime of what it writes, sometimes before the bytes
            if change.mtime != before.mtime and not self._is_being_written(node.ino):
                self._note("times", node)
        elif change.kill_priv:
            self.will_write(node.ino)  # what the kernel asks before a write by anybody but root

    def xattr(self, op: str, node: Node) -> None:
        """Note that an extended attribute was set or removed."""
        if self._watching:
            self._count(node.ino)
        if self.limit:
            self._note(op, node)

    def did(self, op: str, paths: Iterable[bytes] = (b"/",)) -> None:
        """Note what a command has done to paths as a whole, if there is a journal.  This process did it.

        Call it at the end of the command's operation.
        """
        try:
            first, end = (self._first, self._next) if self.limit else bounds(self._db)
            if first < end < IDS_END or self.limit:
                for path in paths:
                    now = self._db.time or self._inodes.now()
                    self._db.change(_ADD, (end, now, op, path[-PATH_MAX:], None, *this_process()))
                    end += 1
                self._db.on_failure(partial(setattr, self, "_next", self._next))
                self._next = end
        except (FsError, apsw.CorruptError, apsw.ConstraintError) as error:
            log.warning("the journal is damaged (%s), so %s is not noted; run minifo-fsck", error, op)

    # -- entries

    def _author(self) -> Author:
        uid, pid = self.caller()
        return (uid, pid, self.command_of(pid)) if pid else (uid, None, None)

    def _author_of(self, ino: Ino) -> Author:
        return self._authors.get(ino) or self._authors_before.get(ino) or _NOBODY

    def _is_being_written(self, ino: Ino) -> bool:
        written = ("write", ino) in self._noted or ("write", ino) in self._noted_before
        return written or self._author_of(ino) is not _NOBODY

    def _has_name(self, node: Node) -> bool:
        row = self._inodes.row(node.ino) if node.state else None
        return not node.dead and (row is None or row.nlink > 0)

    def _note(self, op: str, node: Node) -> None:
        if self._has_name(node):
            self._add(op, self._names.of(node.ino, is_dir=node.is_dir), None, self._author())

    def _note_once(self, op: str, ino: Ino, author: Author) -> None:
        if self._has_name(self._inodes.node(ino)):
            self._noted.add((op, ino))
            self._db.on_failure(partial(self._noted.discard, (op, ino)))
            self._add(op, self._names.of(ino, is_dir=False), None, author)

    def _add(self, op: str, path: bytes, other: bytes | None, author: Author) -> None:
        if self._is_short():
            self._left_out = True
            return
        if self._left_out:
            self._left_out = False
            self._insert("missing", b"/", None, _NOBODY)
        self._insert(op, path, other, author)

    def _insert(self, op: str, path: bytes, other: bytes | None, author: Author) -> None:
        row = (self._next, self._db.time or self._inodes.now(), op, path, other, *author)
        self._next += 1
        self._db.promise(_ADD, row)
        self._waiting.append(row)
        self._db.on_failure(self._take_back)
        if len(self._waiting) >= _WAITING or len(path) > _LONG:
            self._add_waiting()

    def _take_back(self) -> None:
        self._waiting.pop()
        self._next -= 1

    def _add_waiting(self) -> None:
        """Add the waiting entries to the table, inside an operation."""
        rows, self._waiting = self._waiting, []
        if not rows:
            return
        try:
            self._db.keep_promises(_ADD, rows)
        except (apsw.CorruptError, apsw.ConstraintError) as error:
            self._switch_off(error)  # the rest of the operation goes on
        else:
            self._db.on_failure(partial(self._put_back, rows))

    def _put_back(self, rows: list[tuple[int | bytes | str | None, ...]]) -> None:
        self._waiting = rows + self._waiting


def _is_a_change(change: SetAttr, before: AnyAttr) -> bool:
    """Return whether somebody asked for that change, and not the kernel after a write, which counts by itself."""
    if change.size is not None:
        return change.size != before.size
    return any(value is not None for value in (change.uid, change.gid, change.mode, change.atime))
