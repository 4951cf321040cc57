"""Reports the drift of an overlay: what it holds of each base object, and what became of that object in this base.

tree/drift.py has the rules.  The report only reads.  It reads a few thousand rows at a time, so its memory grows with
the number of renamed and created directories, not with the size of the overlay.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Iterator
from enum import Enum
from functools import cached_property
from typing import Any, NamedTuple

from ..model import ROOT, Ino
from ..overlay import Overlay
from ..store.base_view import BaseView, join, split
from ..store.database import Database
from ..store.four_lists_statements import IS_HIDDEN, NAMES
from ..tree.content import Content
from ..tree.inode_rows import Row

_PIECE = 4096  # rows in one query; each piece costs a scan of the tables of names
_STEP = 1 << 20  # bytes compared at a time

_ROW = ", ".join(f"i.{field}" for field in Row._fields)
_OBJECTS = (
    f"SELECT o.ino, o.path, m.content, m.base_size, m.base_mtime, {_ROW} FROM origin o LEFT JOIN inode i USING (ino)"
    " LEFT JOIN modified m USING (ino) WHERE o.path > ? ORDER BY o.path LIMIT ?"
)
_WHITEOUTS = (
    "SELECT d.parent, d.name, o.path FROM deleted d JOIN origin o ON o.ino = d.parent"
    " WHERE (d.parent, d.name) > (?, ?) ORDER BY d.parent, d.name LIMIT ?"
)
_MADE = (
    "SELECT t.parent, t.name, t.ino, o.path FROM {} t JOIN origin o ON o.ino = t.parent"
    " LEFT JOIN deleted d ON d.parent = t.parent AND d.name = t.name"
    " WHERE (t.parent, t.name) > (?, ?) AND d.parent IS NULL ORDER BY t.parent, t.name LIMIT ?"
)
_REPLACED = (
    "SELECT c.parent, c.name, c.ino, o.path FROM created c JOIN deleted d ON d.parent = c.parent AND d.name = c.name"
    " JOIN origin o ON o.ino = c.parent WHERE (c.parent, c.name) > (?, ?) ORDER BY c.parent, c.name LIMIT ?"
)


class Became(Enum):
    """What became of a base object in the new base."""

    UNCHANGED = "unchanged"
    CHANGED = "changed"  # the base has another version; what the overlay overrides stays overridden
    IDENTICAL = "identical"  # the base now has the same bytes as the overlay
    PARTIAL = "partial"  # the base lacks the version that holds the unwritten parts of the file: reading them gives EIO
    KIND = "kind"  # the base has an object of another type at its path
    KEPT = "gone-kept"  # gone from the base; the overlay holds enough to show it
    HIDDEN = "gone-hidden"  # gone from the base; the overlay holds too little to show it
    UNHIDING = "nothing-to-hide"  # a whiteout of a name that the base does not have
    SHADOW = "shadow"  # a name of the overlay at which the new base has an object too


class Held(Enum):
    """What the overlay holds of a base object."""

    CONTENT = "content"  # all bytes of a file
    PART = "some blocks"  # some bytes of a file; the others are in the base
    ATTRIBUTES = "attributes"  # attributes or extended attributes
    NAME = "name"  # a new name, by a rename or a link
    DIRECTORY = "directory"  # a directory with changes in it or below
    WHITEOUT = "whiteout"
    CREATED = "created"  # a created object at a name that the new base has too
    REPLACED = "replaced"  # a created object in place of a deleted base object


class Name(NamedTuple):
    """A name in the overlay: the table that it is in, the inode number of its directory, and the name."""

    table: str
    parent: int
    name: bytes


class Entry(NamedTuple):
    """One line of the report: something that the overlay holds of a base object, or of a base path.

    Attributes:
        path: its path in the merged tree; if it does not show, the path at which it would.
        base: the base object (base terms).
        held: what the overlay holds of it.
        became: what became of the base object.
        shows: True if the merged tree shows what the overlay holds.
        ino: the object's inode number; 0 for a whiteout.
        names: all names of the object in the overlay; for a whiteout, ``CREATED``, ``REPLACED`` and a shadow the one
            name that the entry is about.
        at_origin: True if no whiteout hides the base path, nor a directory above it that was not renamed.
    """

    path: bytes
    base: bytes
    held: Held
    became: Became
    shows: bool
    ino: int
    names: tuple[Name, ...] = ()
    at_origin: bool = True


def drift(overlay: Overlay, old: BaseView | None = None) -> Iterator[Entry]:
    """Yield an entry for all that an overlay holds of base objects: objects by base path, then names, then whiteouts.

    There is no entry for a directory that the base still has and that only leads to changes, and none for a created
    object at whose path the base has nothing.  A directory is never ``CHANGED``: its size and times say nothing.

    Args:
        overlay: open over the new base; it must not change while the report runs.
        old: the base over which the overlay was made, or None if the user does not have it.  Without it, two changes
            are not seen: a change of a base file that the overlay has replaced by another file (as an editor does that
            renames a new file over the old one), and a change that kept size and mtime (as image builders may).

    Raises:
        OSError: base or storage cannot be read.
    """
    report = _Report(overlay, old)
    yield from report.objects()
    yield from report.shadows()
    yield from report.replaced()
    yield from report.whiteouts()


def bytes_missing(db: Database, row: Row) -> int:
    """Return how many bytes of a file come from its base file, holes included, if it also has bytes of its own.

    Returns 0 for a file without bytes of its own.
    """
    if row.object is not None or not row.bound or not row.is_own:
        return 0
    size = min(row.bound, row.size)
    sql = 'SELECT sum(min("end", ?2) - start) FROM extent WHERE ino = ?1 AND start < ?2'
    covered = db.value(sql, (row.ino, size)) if row.mapped else 0
    return size - (covered or 0)


def same_bytes(content: Content, row: Row, other: int, base: bytes | None = None) -> bool:
    """Return True if a file has the same bytes as another of the same size.

    Args:
        content: reads the file.
        row: the file.
        other: a descriptor of the other file.
        base: path of the base file that some of its bytes come from; None if none of them do.
    """
    for at in range(0, row.size, _STEP):
        size = min(_STEP, row.size - at)
        if content.read(row, base, at, size) != os.pread(other, size, at):
            return False
    return True


class _Report:
    def __init__(self, overlay: Overlay, old: BaseView | None) -> None:
        self._ov = overlay
        self._db = overlay.db
        self._base = overlay.base
        self._old = old
        # by base path of a directory: its inode number in origin, if any, and whether the path shows (_is_at_origin)
        self._directories: dict[bytes, tuple[int | None, bool]] = {}

    # -- objects

    def objects(self) -> Iterator[Entry]:
        """Yield the entries of the objects in ``origin``, in the order of their paths."""
        after = b"/"
        while found := self._db.rows(_OBJECTS, (after, _PIECE)):
            after = found[-1][1]
            names = self._names([values[0] for values in found])
            for ino, path, content, size, mtime, *values in found:
                row = Row._make(values) if values[0] is not None else None
                if row is not None and row.nlink == 0:
                    continue
                version = (size, mtime) if content is not None else None
                entry = self._object(ino, path, row, version, tuple(names.get(ino, ())))
                if entry is not None:
                    yield entry

    def _names(self, inos: list[int]) -> dict[int, list[Name]]:
        """Return the names that these objects have in the overlay, by inode number."""
        names: dict[int, list[Name]] = defaultdict(list)
        marks = ", ".join("?" * len(inos))
        for table in NAMES:
            sql = f"SELECT parent, name, ino FROM {table} WHERE ino IN ({marks})"
            for parent, name, ino in self._db.rows(sql, inos):
                names[ino].append(Name(table, parent, name))
        return names

    def _object(
        self, ino: int, path: bytes, row: Row | None, version: tuple[int, int] | None, names: tuple[Name, ...]
    ) -> Entry | None:
        """Return the entry of one object of ``origin``, or None for a directory that only leads to changes.

        Args:
            ino, path: the object and its base path.
            row: its row in ``inode``, or None: then it is a directory.
            version: size and mtime of the base object in ``modified``, or None if it is not in that list.
            names: its names in the overlay.
        """
        st = self._base.find(path)
        is_dir = row is None or stat.S_ISDIR(row.mode)
        if is_dir and st is not None and stat.S_ISDIR(st.st_mode):
            if row is None or (version is None and not names):
                return None
            became, shows = Became.UNCHANGED, True
        elif st is None or row is None or stat.S_IFMT(st.st_mode) != stat.S_IFMT(row.mode):
            return self._gone(ino, path, row, st, names, version)
        else:
            became, shows = self._compare(row, path, st, version), True
        at_origin = self._is_at_origin(path)
        if not (names or at_origin or is_dir) and st.st_nlink == 1:
            became, shows = Became.HIDDEN, False  # it showed by another link, which the new base does not have
        shown = self._shown_path(path) if at_origin or not names else self._path_of(names[0])
        return Entry(shown, path, self._held(row, version), became, shows, ino, names, at_origin)

    def _held(self, row: Row | None, version: tuple[int, int] | None) -> Held:
        if row is None or stat.S_ISDIR(row.mode):
            return Held.DIRECTORY
        if row.is_own:
            return Held.PART if bytes_missing(self._db, row) else Held.CONTENT
        return Held.NAME if version is None else Held.ATTRIBUTES

    def _compare(self, row: Row, path: bytes, st: os.stat_result, version: tuple[int, int] | None) -> Became:
        if row.is_own and bytes_missing(self._db, row):
            return Became.UNCHANGED if self._ov.inodes.drift.is_version(row, path) else Became.PARTIAL
        if (version or (row.seen_size, row.seen_mtime)) == (st.st_size, st.st_mtime_ns) and (
            not row.is_own or self._is_that_version(path, st)
        ):
            return Became.UNCHANGED
        if row.is_own and row.size == st.st_size and same_bytes(self._ov.content, row, self._base.file(path, st)):
            return Became.IDENTICAL
        return Became.CHANGED

    def _is_that_version(self, path: bytes, st: os.stat_result) -> bool:
        """Return False if the old base shows that a file has other bytes now, although size and mtime are the same."""
        old_st = self._old.find(path) if self._old is not None else None
        if old_st is None or (old_st.st_size, old_st.st_mtime_ns) != (st.st_size, st.st_mtime_ns):
            return True
        return self._is_same(path, st)

    def _gone(
        self,
        ino: int,
        path: bytes,
        row: Row | None,
        st: os.stat_result | None,
        names: tuple[Name, ...],
        version: tuple[int, int] | None,
    ) -> Entry:
        """Return the entry of an object that the base lacks, or has as another type: then *st* is that one's."""
        at_origin = self._is_at_origin(path)
        held = self._held(row, version)
        shows = bool(names or at_origin)
        if row is None or stat.S_ISDIR(row.mode):
            shows = shows and self._directory_shows(Ino(ino))
        else:
            shows = shows and row.is_own
        shown = self._shown_path(path) if at_origin or not names else self._path_of(names[0])
        if shows and held is Held.PART:
            became = Became.PARTIAL
        elif st is not None and at_origin:
            became = Became.KIND
        else:
            became = Became.KEPT if shows else Became.HIDDEN
        return Entry(shown, path, held, became, shows, ino, names, at_origin)

    def _directory_shows(self, ino: Ino) -> bool:
        """Return True if the merged view shows a directory that is gone from the base."""
        inodes = self._ov.inodes
        was_in_memory = inodes.node_in_memory(ino) is not None
        node = inodes.node(ino)
        inodes.attributes(node)  # fills drift.gone
        shows = inodes.drift.shows_alone(inodes.row(ino)) or not self._ov.merge.is_empty(node)
        if not was_in_memory:
            inodes.drop_node(ino)
        return shows

    # -- names and whiteouts

    def shadows(self) -> Iterator[Entry]:
        """Yield the entries of overlay names that show, have no whiteout, and are names of the new base too."""
        for table in NAMES:
            after: tuple[Any, ...] = (0, b"")
            while found := self._db.rows(_MADE.format(table), (*after, _PIECE)):
                after = found[-1][:2]
                for parent, name, ino, directory in found:
                    path = join(directory, name)
                    st = self._base.find(path)
                    if st is not None and self._name_shows(Ino(ino)):
                        yield self._shadow(Name(table, parent, name), Ino(ino), path, st)

    def _name_shows(self, ino: Ino) -> bool:
        """Return True if the merged view shows an overlay name of this object."""
        inodes = self._ov.inodes
        row = inodes.row(ino)
        if ino not in inodes.drift.gone or inodes.drift.shows_alone(row):
            return True
        return (row is None or stat.S_ISDIR(row.mode)) and self._directory_shows(ino)

    def _shadow(self, name: Name, ino: Ino, path: bytes, st: os.stat_result) -> Entry:
        became = Became.IDENTICAL if self._has_bytes(ino, path, st) else Became.SHADOW
        held = Held.CREATED if name.table == "created" else Held.NAME
        return Entry(self._path_of(name), path, held, became, True, ino, (name,))

    def replaced(self) -> Iterator[Entry]:
        """Yield the entries of created objects in place of base objects that the new base has in another version.

        The old version must be known, from the old base or as an ancestor; else there is no entry.
        """
        if self._old is None and not self._ov.inodes.ancestors.are_there():
            return
        after: tuple[Any, ...] = (0, b"")
        while found := self._db.rows(_REPLACED, (*after, _PIECE)):
            after = found[-1][:2]
            for parent, name, ino, directory in found:
                path = join(directory, name)
                st = self._base.find(path)
                if st is None or self._is_same(path, st):
                    continue
                became = Became.IDENTICAL if self._has_bytes(Ino(ino), path, st) else Became.CHANGED
                created = Name("created", parent, name)
                yield Entry(self._path_of(created), path, Held.REPLACED, became, True, ino, (created,))

    def _is_same(self, path: bytes, st: os.stat_result) -> bool:
        """Return True if the old and the new base have the same type and content at *path*; owner and mode may differ.

        An ancestor stands for the old base if that is not at hand.  If there is neither, nothing shows a change: True.
        """
        old = self._old
        old_st = old.find(path) if old is not None else None
        if old is None or old_st is None:
            ancestor = self._ov.inodes.ancestors.of(path)
            if ancestor is None:
                return True
            same_size = stat.S_ISREG(st.st_mode) and st.st_size == ancestor.size
            return same_size and os.pread(self._base.file(path, st), st.st_size, 0) == ancestor.data
        if stat.S_IFMT(old_st.st_mode) != stat.S_IFMT(st.st_mode) or stat.S_ISDIR(st.st_mode):
            return stat.S_ISDIR(st.st_mode) and stat.S_ISDIR(old_st.st_mode)
        if stat.S_ISLNK(st.st_mode):
            return old.readlink(path) == self._base.readlink(path)
        if not stat.S_ISREG(st.st_mode) or old_st.st_size != st.st_size:
            return st.st_rdev == old_st.st_rdev and not stat.S_ISREG(st.st_mode)
        if (old_st.st_dev, old_st.st_ino) == (st.st_dev, st.st_ino):
            return True
        a, b = old.file(path, old_st), self._base.file(path, st)
        return all(os.pread(a, _STEP, at) == os.pread(b, _STEP, at) for at in range(0, st.st_size, _STEP))

    def _has_bytes(self, ino: Ino, path: bytes, st: os.stat_result) -> bool:
        """Return True if a created object is a file with the same bytes as the base file at *path*."""
        row = self._ov.inodes.row(ino)
        return (
            row is not None
            and self._ov.inodes.numbers.is_created(ino)
            and stat.S_ISREG(row.mode)
            and stat.S_ISREG(st.st_mode)
            and row.size == st.st_size
            and same_bytes(self._ov.content, row, self._base.file(path, st))
        )

    def whiteouts(self) -> Iterator[Entry]:
        """Yield the entries of whiteouts; none for one that hides nothing but whose object the overlay has rows of."""
        after: tuple[Any, ...] = (0, b"")
        while found := self._db.rows(_WHITEOUTS, (*after, _PIECE)):
            after = found[-1][:2]
            for parent, name, directory in found:
                path = join(directory, name)
                if self._base.find(path) is not None:
                    became = Became.UNCHANGED
                elif self._has_rows(path):
                    continue
                else:
                    became = Became.UNHIDING
                deleted = Name("deleted", parent, name)
                yield Entry(self._path_of(deleted), path, Held.WHITEOUT, became, False, 0, (deleted,))

    def _has_rows(self, path: bytes) -> bool:
        """Return True if *path* is in ``origin``, for an object that is not an orphan: its whiteout is needed."""
        sql = "SELECT 1 FROM origin LEFT JOIN inode USING (ino) WHERE path = ? AND coalesce(nlink, 1) > 0"
        return self._db.value(sql, (path,)) is not None

    # -- paths

    def _is_at_origin(self, path: bytes) -> bool:
        """Return True if no whiteout hides a base path, nor a directory above it that was not renamed."""
        directory, name = split(path)
        ino, is_reached = self._directory(directory)
        return is_reached and self._shows(ino, name)

    def _directory(self, path: bytes) -> tuple[int | None, bool]:
        """Return the inode number of a base directory, if it has one in ``origin``, and whether it is at its origin.

        Goes down from the nearest directory above it that is known: a path may have more directories than Python
        allows calls within each other.
        """
        unknown = []
        while (known := self._directories.get(path)) is None and path != b"/" and path not in self._renamed:
            unknown.append(path)
            path = split(path)[0]
        if known is None:
            known = self._remember(path, True)
        for below in reversed(unknown):
            ino, is_reached = known
            known = self._remember(below, is_reached and self._shows(ino, split(below)[1]))
        return known

    def _remember(self, directory: bytes, is_reached: bool) -> tuple[int | None, bool]:
        if len(self._directories) >= _PIECE:
            self._directories.clear()
        ino = self._db.value("SELECT ino FROM origin WHERE path = ?", (directory,))
        self._directories[directory] = ino, is_reached
        return ino, is_reached

    def _shows(self, directory: int | None, name: bytes) -> bool:
        return directory is None or self._db.value(IS_HIDDEN, (directory, name)) is None

    @cached_property
    def _renamed(self) -> dict[bytes, tuple[int, bytes]]:
        """The new names of renamed base directories, each with its directory's inode number, by base path."""
        sql = (
            "SELECT o.path, r.parent, r.name FROM renamed r JOIN origin o USING (ino) LEFT JOIN inode i USING (ino)"
            " WHERE i.ino IS NULL OR i.mode & 61440 = 16384"
        )
        return {path: (parent, name) for path, parent, name in self._db.rows(sql)}

    @cached_property
    def _created(self) -> dict[int, tuple[int, bytes]]:
        """The names of created directories, each with its directory's inode number, by inode number."""
        sql = "SELECT ino, parent, name FROM created JOIN inode USING (ino) WHERE mode & 61440 = 16384"
        return {ino: (parent, name) for ino, parent, name in self._db.rows(sql)}

    def _shown_path(self, path: bytes) -> bytes:
        """Return the path in the merged tree of a base path: another one if a directory above it was renamed."""
        return self._followed_up(path, [])

    def _path_of(self, name: Name) -> bytes:
        """Return the path in the merged tree of a name; ``<inode N>`` stands for a directory without a path."""
        return self._followed_up(name.parent, [name.name])

    def _followed_up(self, at: int | bytes, below: list[bytes]) -> bytes:
        """Return a path in the merged tree, found from its end up to the root.

        Args:
            at: a directory: its inode number, or its base path.
            below: the names from it down, the last one first.
        """
        seen: set[int] = set()
        top = b"/"
        while at not in (ROOT, b"/"):
            if isinstance(at, bytes):
                if not self._renamed:
                    top = at
                    break
                at, name = self._renamed.get(at) or split(at)
                below.append(name)
            elif (
                at not in seen and (path := self._db.value("SELECT path FROM origin WHERE ino = ?", (at,))) is not None
            ):
                seen.add(at)
                at = path
            elif at not in seen and at in self._created:
                seen.add(at)
                at, name = self._created[at]
                below.append(name)
            else:  # nothing leads there, or directories are in each other
                return b"/".join([b"<inode %d>" % at, *reversed(below)])
        return join(top, b"/".join(reversed(below))) if below else top
