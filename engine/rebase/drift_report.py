"""The drift of an overlay: each thing it holds of base objects, and what became of these in the base it is open over.

Sorted by the rules of tree/drift.py.  Only reads; works by pieces of a few thousand rows, so that the memory it takes
grows with renamed directories and links of base files only, whatever the overlay holds.
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
from ..store.list_statements import IS_HIDDEN, NAMES
from ..tree.content import Content
from ..tree.inode_rows import Row

_PIECE = 4096  # rows in one query: for each piece the names of base objects are gone through
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
    """What became of a base object, and with it of what the overlay holds of it."""

    UNCHANGED = "unchanged"
    CHANGED = "changed"  # another version; what the overlay overrides is still ours
    IDENTICAL = "identical"  # the base has the very bytes that we have
    PARTIAL = "partial"  # another version or none, and bytes are missing that only the old one had: EIO
    KIND = "kind"  # another kind of object
    KEPT = "gone-kept"  # gone, and what the overlay holds shows by itself
    HIDDEN = "gone-hidden"  # gone, and what the overlay holds is too little to show it
    UNHIDING = "nothing-to-hide"  # a whiteout of a name that the base does not have
    SHADOW = "shadow"  # a name made here that the base has now as well


class Held(Enum):
    """What the overlay holds."""

    CONTENT = "content"
    PART = "some blocks"
    ATTRIBUTES = "attributes"
    NAME = "name"
    DIRECTORY = "directory"
    WHITEOUT = "whiteout"
    CREATED = "created"
    REPLACED = "replaced"


class Name(NamedTuple):
    """A name in the overlay: the list it is in, the number of its directory, and the name."""

    table: str
    parent: int
    name: bytes


class Entry(NamedTuple):
    """One thing an overlay holds.

    Attributes:
        path: where it shows, or would.
        base: the base object it is about (base terms).
        held: what the overlay holds.
        became: what became of it.
        shows: whether what the overlay holds shows.
        ino: its number; 0 of a whiteout.
        names: its names in the overlay; of a whiteout or a shadow that very one.
        in_place: whether its own place in the base is not hidden.
    """

    path: bytes
    base: bytes
    held: Held
    became: Became
    shows: bool
    ino: int
    names: tuple[Name, ...] = ()
    in_place: bool = True


def drift(overlay: Overlay, old: BaseView | None = None) -> Iterator[Entry]:
    """Everything an overlay holds of base objects: objects by their base paths, then names, then whiteouts.

    Directories that only lead to changes are left out where the base has them, and so are created objects in whose
    place the base has nothing.  Of directories times and sizes say nothing, so they are never changed ones.

    Args:
        overlay: open over the base in question; nothing of it may change meanwhile.
        old: the base it was made over, where that is at hand.  Only by it can be told whether the base changed below a
            file that was replaced here, as editors do, by a new one that was renamed over it; and whether a version
            with the size and mtime of the old one, as images may have it, is another one.

    Raises:
        OSError: base or storage cannot be read.
    """
    report = _Report(overlay, old)
    yield from report.objects()
    yield from report.shadows()
    yield from report.replaced()
    yield from report.whiteouts()


def bytes_missing(db: Database, row: Row) -> int:
    """How many bytes of a file with bytes of its own come from its base file (holes in that one included)."""
    if row.object is not None or not row.bound or not row.is_own:
        return 0
    size = min(row.bound, row.size)
    sql = 'SELECT sum(min("end", ?2) - start) FROM extent WHERE ino = ?1 AND start < ?2'
    covered = db.value(sql, (row.ino, size)) if row.mapped else 0
    return size - (covered or 0)


def same_bytes(content: Content, row: Row, other: int) -> bool:
    """True where a file that needs nothing of the base has the bytes of the file *other*, a descriptor."""
    for at in range(0, row.size, _STEP):
        size = min(_STEP, row.size - at)
        if content.read(row, None, at, size) != os.pread(other, size, at):
            return False
    return True


class _Report:
    def __init__(self, overlay: Overlay, old: BaseView | None) -> None:
        self._ov = overlay
        self._db = overlay.db
        self._base = overlay.base
        self._old = old
        self._directories: dict[bytes, tuple[int | None, bool]] = {}  # numbers, and whether they are in place

    # -- objects

    def objects(self) -> Iterator[Entry]:
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
        """The names that base objects have in the overlay."""
        found: dict[int, list[Name]] = defaultdict(list)
        marks = ", ".join("?" * len(inos))
        for table in NAMES:
            sql = f"SELECT parent, name, ino FROM {table} WHERE ino IN ({marks})"
            for parent, name, ino in self._db.rows(sql, inos):
                found[ino].append(Name(table, parent, name))
        return found

    def _object(
        self, ino: int, path: bytes, row: Row | None, version: tuple[int, int] | None, names: tuple[Name, ...]
    ) -> Entry | None:
        """What became of one base object.

        Args:
            ino, path, row, names: the object.
            version: size and mtime of the base object when it was modified, if it was.
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
        in_place = self._is_in_place(path)
        if not (names or in_place or is_dir) and st.st_nlink == 1:
            became, shows = Became.HIDDEN, False  # it showed by another link in the base, which is none any more
        place = self._shown(path) if in_place or not names else self._place_of(names[0])
        return Entry(place, path, self._held(row, version), became, shows, ino, names, in_place)

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
        """True for a version with the size and mtime of the one before, unless the old base has that and it differs."""
        was = self._old.find(path) if self._old is not None else None
        if was is None or (was.st_size, was.st_mtime_ns) != (st.st_size, st.st_mtime_ns):
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
        in_place = self._is_in_place(path)
        held = self._held(row, version)
        shows = bool(names or in_place)
        if row is None or stat.S_ISDIR(row.mode):
            shows = shows and self._directory_shows(Ino(ino))
        else:
            shows = shows and row.is_own
        place = self._shown(path) if in_place or not names else self._place_of(names[0])
        if shows and held is Held.PART:
            became = Became.PARTIAL
        elif st is not None and in_place:
            became = Became.KIND
        else:
            became = Became.KEPT if shows else Became.HIDDEN
        return Entry(place, path, held, became, shows, ino, names, in_place)

    def _directory_shows(self, ino: Ino) -> bool:
        inodes = self._ov.inodes
        was_known = inodes.known(ino) is not None
        node = inodes.node(ino)
        inodes.attributes(node)  # tells that it is gone
        shows = inodes.drift.stands(inodes.row(ino)) or not self._ov.merge.is_empty(node)
        if not was_known:
            inodes.drop_node(ino)
        return shows

    # -- names and whiteouts

    def shadows(self) -> Iterator[Entry]:
        for table in NAMES:
            after: tuple[Any, ...] = (0, b"")
            while found := self._db.rows(_MADE.format(table), (*after, _PIECE)):
                after = found[-1][:2]
                for parent, name, ino, directory in found:
                    place = join(directory, name)
                    st = self._base.find(place)
                    if st is not None and self._name_shows(Ino(ino)):
                        yield self._shadow(Name(table, parent, name), Ino(ino), place, st)

    def _name_shows(self, ino: Ino) -> bool:
        inodes = self._ov.inodes
        row = inodes.row(ino)
        if ino not in inodes.drift.gone or inodes.drift.stands(row):
            return True
        return (row is None or stat.S_ISDIR(row.mode)) and self._directory_shows(ino)

    def _shadow(self, name: Name, ino: Ino, place: bytes, st: os.stat_result) -> Entry:
        became = Became.IDENTICAL if self._has_bytes(ino, place, st) else Became.SHADOW
        held = Held.CREATED if name.table == "created" else Held.NAME
        return Entry(self._place_of(name), place, held, became, True, ino, (name,))

    def replaced(self) -> Iterator[Entry]:
        if self._old is None and not self._ov.inodes.ancestors.are_there():
            return
        after: tuple[Any, ...] = (0, b"")
        while found := self._db.rows(_REPLACED, (*after, _PIECE)):
            after = found[-1][:2]
            for parent, name, ino, directory in found:
                place = join(directory, name)
                st = self._base.find(place)
                if st is None or self._is_same(place, st):
                    continue
                became = Became.IDENTICAL if self._has_bytes(Ino(ino), place, st) else Became.CHANGED
                made = Name("created", parent, name)
                yield Entry(self._place_of(made), place, Held.REPLACED, became, True, ino, (made,))

    def _is_same(self, place: bytes, st: os.stat_result) -> bool:
        """True unless the old base, or what was kept of it, differs from the new one, as far as that matters."""
        old = self._old
        was = old.find(place) if old is not None else None
        if old is None or was is None:
            kept = self._ov.inodes.ancestors.of(place)
            if kept is None:
                return True
            same_size = stat.S_ISREG(st.st_mode) and st.st_size == kept.size
            return same_size and os.pread(self._base.file(place, st), st.st_size, 0) == kept.data
        if stat.S_IFMT(was.st_mode) != stat.S_IFMT(st.st_mode) or stat.S_ISDIR(st.st_mode):
            return stat.S_ISDIR(st.st_mode) and stat.S_ISDIR(was.st_mode)
        if stat.S_ISLNK(st.st_mode):
            return old.readlink(place) == self._base.readlink(place)
        if not stat.S_ISREG(st.st_mode) or was.st_size != st.st_size:
            return st.st_rdev == was.st_rdev and not stat.S_ISREG(st.st_mode)
        if (was.st_dev, was.st_ino) == (st.st_dev, st.st_ino):
            return True
        a, b = old.file(place, was), self._base.file(place, st)
        return all(os.pread(a, _STEP, at) == os.pread(b, _STEP, at) for at in range(0, st.st_size, _STEP))

    def _has_bytes(self, ino: Ino, place: bytes, st: os.stat_result) -> bool:
        """True where a created object is a file with the bytes of the base's at *place*."""
        row = self._ov.inodes.row(ino)
        return (
            row is not None
            and self._ov.inodes.numbers.is_created(ino)
            and stat.S_ISREG(row.mode)
            and stat.S_ISREG(st.st_mode)
            and row.size == st.st_size
            and same_bytes(self._ov.content, row, self._base.file(place, st))
        )

    def whiteouts(self) -> Iterator[Entry]:
        after: tuple[Any, ...] = (0, b"")
        while found := self._db.rows(_WHITEOUTS, (*after, _PIECE)):
            after = found[-1][:2]
            for parent, name, directory in found:
                place = join(directory, name)
                if self._base.find(place) is not None:
                    became = Became.UNCHANGED
                elif self._is_wanted(place):
                    continue
                else:
                    became = Became.UNHIDING
                path = self._place_of(Name("deleted", parent, name))
                yield Entry(path, place, Held.WHITEOUT, became, False, 0, (Name("deleted", parent, name),))

    def _is_wanted(self, place: bytes) -> bool:
        """True where what stood there lives on in the overlay: by another name, or for the time that base is back."""
        sql = "SELECT 1 FROM origin LEFT JOIN inode USING (ino) WHERE path = ? AND coalesce(nlink, 1) > 0"
        return self._db.value(sql, (place,)) is not None

    # -- places

    def _is_in_place(self, path: bytes) -> bool:
        """True where a base object's own place is not hidden, nor a directory above it, unless that was moved."""
        directory, name = split(path)
        known = self._directories.get(directory)
        if known is None:
            if len(self._directories) >= _PIECE:
                self._directories.clear()
            ino = self._db.value("SELECT ino FROM origin WHERE path = ?", (directory,))
            is_reached = directory == b"/" or directory in self._moved or self._is_in_place(directory)
            known = self._directories[directory] = ino, is_reached
        ino, in_place = known
        return in_place and (ino is None or self._db.value(IS_HIDDEN, (ino, name)) is None)

    @cached_property
    def _moved(self) -> dict[bytes, tuple[int, bytes]]:
        """The new places of renamed base directories, by their old paths."""
        sql = (
            "SELECT o.path, r.parent, r.name FROM renamed r JOIN origin o USING (ino) LEFT JOIN inode i USING (ino)"
            " WHERE i.ino IS NULL OR i.mode & 61440 = 16384"
        )
        return {path: (parent, name) for path, parent, name in self._db.rows(sql)}

    @cached_property
    def _made(self) -> dict[int, tuple[int, bytes]]:
        """The places of created directories."""
        sql = "SELECT ino, parent, name FROM created JOIN inode USING (ino) WHERE mode & 61440 = 16384"
        return {ino: (parent, name) for ino, parent, name in self._db.rows(sql)}

    def _shown(self, path: bytes) -> bytes:
        """Where a base path shows, now that directories above it may have been moved."""
        below: list[bytes] = []
        while path != b"/" and self._moved:
            moved = self._moved.get(path)
            if moved is not None:
                return b"/".join([self._place_of(Name("renamed", *moved)), *reversed(below)])
            path, name = split(path)
            below.append(name)
        return join(path, b"/".join(reversed(below))) if below else path

    def _place_of(self, name: Name) -> bytes:
        """Where a name shows."""
        parts = [name.name]
        parent = name.parent
        while parent != ROOT:
            path = self._db.value("SELECT path FROM origin WHERE ino = ?", (parent,))
            if path is not None:
                return b"/".join([self._shown(path), *reversed(parts)])
            if parent not in self._made:
                return b"/".join([b"<inode %d>" % parent, *reversed(parts)])
            parent, part = self._made[parent]
            parts.append(part)
        return b"/" + b"/".join(reversed(parts))
