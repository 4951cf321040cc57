"""Vacuum: gives back storage of which nothing that shows depends.

What the overlay shows stays: bytes, attributes, times, inode numbers.  Each of these kinds goes by itself:

* ``copies``: bytes of a file that are those of its base file; the file has the base's bytes again.  If its attributes
  are the base's as well, it counts as unmodified.
* ``attributes``: entries of ``modified`` whose object has the base's bytes, attributes and extended attributes.
* ``whiteouts``: hidden names that the base does not have.
* ``extents``: files in pieces that take more storage than they do in one content object.
* ``objects``: content objects that no row names.

The row with an object's own times stays, for nothing sets a ctime.  Each finding is an operation of its own, so a crash
at any moment leaves the tree as it shows, and the next vacuum goes on.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple

from .model import Ino
from .store.base_view import join
from .store.content_objects import IDS_PER_OPERATION
from .store.database import PAGE_SIZE
from .store.four_lists_statements import DROP, DROP_MODIFIED, DROP_XATTRS
from .store.object_paths import object_name, object_number
from .store.statements import statement
from .store.typed_rows import each, rows
from .tree.extents import HOLE, MAX, Extent
from .tree.inode_rows import Row

if TYPE_CHECKING:
    from .overlay import Overlay

log = logging.getLogger(__name__)

#: The kinds, in the order of the work: what one frees, the last one need not look at.
KINDS = ("copies", "attributes", "whiteouts", "extents", "objects")
_MODIFIED = "SELECT ino FROM modified WHERE ino > ? ORDER BY ino LIMIT 256"
_IS_MODIFIED = "SELECT content FROM modified WHERE ino = ?"
_HIDDEN = "SELECT parent, name FROM deleted WHERE (parent, name) > (?, ?) ORDER BY parent, name LIMIT 256"
_MAPPED = "SELECT ino FROM inode WHERE ino > ? AND mapped = 1 AND nlink > 0 ORDER BY ino LIMIT 256"
_XATTRS = "SELECT name, value FROM xattr WHERE ino = ?"
_AT_PATH = "SELECT 1 FROM origin WHERE path = ?"
_USED = (
    "SELECT object FROM inode WHERE object > 0 UNION ALL SELECT object FROM extent WHERE object > 0"
    " UNION ALL SELECT object FROM was_inode WHERE object > 0"
    " UNION ALL SELECT object FROM was_extent WHERE object > 0 UNION ALL SELECT object FROM garbage"
)
_ONLY_ATTRIBUTES = statement(
    "UPDATE modified SET content = 0, base_size = ?, base_mtime = ?, digest = NULL WHERE ino = ?"
)
_UNREACHABLE = statement("INSERT INTO garbage VALUES (?) ON CONFLICT (object) DO NOTHING")
_STEP = 1 << 20  # bytes that are read at once
_ROW = 40  # bytes of a row without its texts: an estimate
_EXTENTS_MOST = 100_000  # of a file that is looked at
_WORTH = 64 << 10  # bytes that must be saved for a file to be made whole, or the database to be written anew
_PART = 10  # the part of the database that must be unused for it to be written anew
_WHOLE_MOST = 256 << 20  # bytes of the largest file that is made whole: it is copied in one operation
_OPERATIONS = 4096  # between two commits


class Found(NamedTuple):
    """What a vacuum found of one kind, or gave back.

    Attributes:
        number: of files, names or objects.
        freed: bytes of storage; of rows an estimate.
        kept: bytes that stay in storage, because a checkpoint or a clone needs them.
    """

    number: int = 0
    freed: int = 0
    kept: int = 0


def unused_bytes(overlay: Overlay) -> int:
    """Return the bytes of unused pages in the database; 0 if they are too few to write it anew (``compact``)."""
    pages, unused = (int(overlay.db.value(f"PRAGMA {key}")) for key in ("page_count", "freelist_count"))
    return unused * PAGE_SIZE if unused * PAGE_SIZE >= _WORTH and unused * _PART >= pages else 0


class Vacuum:
    """One vacuum of an overlay.

    Args:
        overlay: an open overlay; it may be read-only if nothing is to be done.
        kinds: some of ``KINDS``.
        apply: False to find out only.

    Attributes:
        found: by kind, what was found; with *apply* what was given back.
        skipped: objects that could not be looked at: base or storage failed, or there was no room.
    """

    def __init__(self, overlay: Overlay, kinds: tuple[str, ...] = KINDS, *, apply: bool) -> None:
        self._ov = overlay
        self._db = overlay.db
        self._objects = overlay.objects
        self._apply = apply
        self.found = {kind: Found() for kind in KINDS if kind in kinds}
        self.skipped = 0
        self._since = 0  # operations since the last commit

    def run(self) -> None:
        """Do it all, and make it durable; for an overlay that nobody else uses.

        Raises:
            StateError: storage failed; what is done stays done, and nothing is lost.
        """
        for _ in self.steps():
            if self._since >= _OPERATIONS:
                self._ov.commit()
                self._since = 0
        if self._apply:
            self._ov.commit()

    def steps(self) -> Iterator[None]:
        """Do it in short steps; between two of them the overlay may be used and committed.

        Raises:
            OSError: the database cannot be read or changed.
        """
        if "copies" in self.found or "attributes" in self.found:
            yield from self._look_at_modified()
        if "whiteouts" in self.found:
            yield from self._look_at_whiteouts()
        if "extents" in self.found:
            yield from self._look_at_extents()
        if "objects" in self.found:
            yield from self._look_at_objects()

    def _note(self, kind: str, freed: int, kept: int = 0) -> None:
        before = self.found[kind]
        self.found[kind] = Found(before.number + 1, before.freed + freed, before.kept + kept)
        self._since += 1

    def _skip(self, ino: int, error: OSError) -> None:
        if self._db.read_only and self._apply:
            raise error  # the overlay takes no changes any more
        log.debug("vacuum: inode %d: %s", ino, error)
        self.skipped += 1

    # -- modified objects

    def _look_at_modified(self) -> Iterator[None]:
        last = 0
        while found := rows(self._db, _MODIFIED, (last,), "i"):
            for (number,) in found:
                last = number
                try:
                    yield from self._look_at(Ino(number))
                except OSError as error:
                    self._skip(number, error)
                yield

    def _look_at(self, ino: Ino) -> Iterator[None]:
        inodes = self._ov.inodes
        row, path = inodes.row(ino), inodes.path(ino)
        st = self._ov.base.find(path) if path is not None else None
        if row is None or path is None or st is None or row.nlink == 0:
            return
        if stat.S_IFMT(st.st_mode) != stat.S_IFMT(row.mode) or ino in inodes.drift.gone:
            return
        if not row.is_own:
            if "attributes" in self.found and not self._is_content(row) and self._has_attributes(row, path, st):
                if self._apply:
                    with self._operation():
                        inodes.save(self._unmodified(row))
                self._note("attributes", _ROW + self._xattr_bytes(row))
            return
        if "copies" not in self.found or row.size != st.st_size or not inodes.drift.is_version(row, path):
            return
        is_same, is_slow = True, False
        pieces = self._extents_of(row)
        watched = self._objects.watch(self._ov.stored.objects_of(row))
        try:
            for start, end in self._own_ranges(row, pieces):
                if is_slow:
                    yield
                if not self._is_base(row, path, start, end):
                    is_same = False
                    break
                is_slow = True
            # a piece was compared in an earlier step: nobody may have written since
            if is_same and inodes.row(ino) == row and self._extents_of(row) == pieces and watched():
                self._release(row, path, st)
        finally:
            self._objects.unwatch()

    def _is_content(self, row: Row) -> bool:
        """Return whether a directory stands where it is, whatever the base has."""
        return stat.S_ISDIR(row.mode) and bool(self._db.value(_IS_MODIFIED, (row.ino,)))

    def _extents_of(self, row: Row) -> list[Extent]:
        return self._ov.stored.extents.of(row.ino, 0, MAX, _EXTENTS_MOST) if row.mapped else []

    @staticmethod
    def _own_ranges(row: Row, pieces: list[Extent]) -> Iterator[tuple[int, int]]:
        """Yield the ranges of a file that do not come from the base file, none longer than a step."""
        ranges = [(piece.start, piece.end) for piece in pieces]
        if row.object is not None or row.bound != row.size or len(pieces) == _EXTENTS_MOST:
            ranges = [(0, row.size)]
        for first, end in ranges:
            for start in range(first, end, _STEP):
                yield start, min(start + _STEP, end)

    def _is_base(self, row: Row, path: bytes, start: int, end: int) -> bool:
        base = os.pread(self._ov.base.file(path), end - start, start)
        return len(base) == end - start and self._ov.content.read(row, path, start, end - start) == base

    def _has_attributes(self, row: Row, path: bytes, st: os.stat_result) -> bool:
        """Return whether an object has the base's attributes, but for its ctime and its link count."""
        mine = (row.mode, row.uid, row.gid, row.rdev, row.mtime)
        if mine != (st.st_mode, st.st_uid, st.st_gid, st.st_rdev, st.st_mtime_ns):
            return False
        if not row.xattrs:
            return True
        base = self._ov.base
        return {name: base.getxattr(path, name) for name in base.listxattr(path)} == dict(
            rows(self._db, _XATTRS, (row.ino,), "bb")
        )

    def _xattr_bytes(self, row: Row) -> int:
        return sum(_ROW + len(name) + len(value) for name, value in rows(self._db, _XATTRS, (row.ino,), "bb"))

    def _operation(self) -> AbstractContextManager[None]:
        self._ov.space.prepare_to_free()
        return self._db.operation()

    def _unmodified(self, row: Row) -> Row:
        """Take an object out of ``modified``, and return its row for that.  Call it inside an operation."""
        self._db.change(DROP_XATTRS, (row.ino,))
        self._db.change(DROP_MODIFIED, (row.ino,))
        return row._replace(xattrs=0)

    def _release(self, row: Row, path: bytes, st: os.stat_result) -> None:
        """Let a file have the base's bytes."""
        has_attributes = self._has_attributes(row, path, st)
        freed, kept = self._bytes_of(row)
        if has_attributes:
            freed += _ROW + self._xattr_bytes(row)
        if self._apply:
            with self._operation():
                self._ov.stored.release(row)
                if has_attributes:
                    row = self._unmodified(row)
                else:
                    self._db.change(_ONLY_ATTRIBUTES, (st.st_size, st.st_mtime_ns, row.ino))
                row = row._replace(object=None, bound=st.st_size, mapped=0)
                self._ov.inodes.save(row._replace(seen_size=st.st_size, seen_mtime=st.st_mtime_ns))
        self._note("copies", freed, kept)

    def _bytes_of(self, row: Row) -> tuple[int, int]:
        """Return the bytes that a file's bytes take in storage, and those of them that something else needs."""
        freed = kept = 0
        for number in self._ov.stored.objects_of(row):
            size = self._objects.stat(number).st_blocks * 512
            if self._objects.is_frozen(number):
                kept += size
            else:
                freed += size
        if row.object == 0:
            freed += _ROW + len(self._ov.stored.small(row.ino))
        return freed, kept

    # -- whiteouts

    def _look_at_whiteouts(self) -> Iterator[None]:
        last: tuple[int, bytes] = (-1, b"")
        directory, path = -1, None
        while found := rows(self._db, _HIDDEN, last, "ib"):
            for parent, name in found:
                last = parent, name
                try:
                    if parent != directory:
                        directory, path = parent, self._standing(parent)
                    if path is not None and self._is_stale(path, name):
                        if self._apply:
                            with self._operation():
                                self._db.change(DROP["deleted"], (parent, name))
                        self._note("whiteouts", _ROW + len(name))
                except OSError as error:
                    self._skip(parent, error)
                yield

    def _standing(self, parent: int) -> bytes | None:
        """Return the base path of a directory in which the base has something; None of any other one.

        A directory that is empty may be one over which a file system is mounted at other times.
        """
        path = self._ov.inodes.path(Ino(parent))
        st = self._ov.base.find(path) if path is not None else None
        if path is None or st is None or not stat.S_ISDIR(st.st_mode) or not self._ov.base.names(path):
            return None
        return path

    def _is_stale(self, directory: bytes, name: bytes) -> bool:
        path = join(directory, name)
        # an object of an earlier base that the overlay holds something of would show again (invariant 5)
        return self._ov.base.find(path) is None and self._db.value(_AT_PATH, (path,)) is None

    # -- files in pieces

    def _look_at_extents(self) -> Iterator[None]:
        last = 0
        while found := rows(self._db, _MAPPED, (last,), "i"):
            for (number,) in found:
                last = number
                try:
                    self._look_at_pieces(Ino(number))
                except OSError as error:
                    self._skip(number, error)
                yield

    def _look_at_pieces(self, ino: Ino) -> None:
        row, path = self._ov.inodes.row(ino), self._ov.inodes.path(ino)
        if row is None or not row.mapped or row.size > _WHOLE_MOST:
            return
        pieces = self._extents_of(row)
        if len(pieces) == _EXTENTS_MOST:
            return
        if row.object is None and path is not None and not self._ov.inodes.drift.is_version(row, path):
            return
        freed = self._bytes_of(row)[0] + _ROW * len(pieces)
        holes = sum(piece.end - piece.start for piece in pieces if piece.object == HOLE)
        saved = freed - (row.size - holes)
        if saved < _WORTH:
            return
        if self._apply:
            saved = freed - self._make_whole(row, path)
        self._note("extents", saved)

    def _make_whole(self, row: Row, path: bytes | None) -> int:
        """Copy the bytes of a file into one content object, and return how many bytes that takes."""
        self._ov.space.need(row.size, anew=True)
        if self._objects.free_ids() < IDS_PER_OPERATION:
            self._ov.commits.run()
        ranges = list(self._ov.data_ranges(row.ino, 0, row.size))
        with self._db.operation():
            number = self._objects.create()
            for first, end in ranges:
                for start in range(first, end, _STEP):
                    data = self._ov.content.read(row, path, start, min(_STEP, end - start))
                    self._objects.write(number, data, start)
            if row.size > self._objects.stat(number).st_size:
                self._objects.truncate(number, row.size)
            taken = self._objects.stat(number).st_blocks * 512
            self._ov.stored.release(row)
            self._ov.inodes.save(row._replace(object=number, bound=None, mapped=0))
        return taken

    # -- content objects

    def _look_at_objects(self) -> Iterator[None]:
        storage, objects = self._ov.storage, self._objects
        end = objects.committed_next  # the others belong to the running transaction, or the next mount deletes them
        left: set[int] = set()
        for block in storage.names("content"):
            directory = f"content/{block}"
            try:
                names = storage.names(directory)
            except NotADirectoryError:
                continue  # minifo-fsck reports it
            left.update(number for name in names if (number := object_number(directory, name)) is not None)
            yield
        left = {number for number in left if number < end} - objects.undeleted
        for (number,) in each(self._db, _USED, "i"):
            left.discard(number)
        for number in sorted(left):
            try:
                st = storage.stat(object_name(number))
                if not stat.S_ISREG(st.st_mode):
                    continue
                if self._apply:
                    with self._operation():
                        self._db.change(_UNREACHABLE, (number,))
                size = st.st_blocks * 512
                self._note("objects", *((0, size) if st.st_nlink > 1 else (size, 0)))
            except OSError as error:
                if error.errno != errno.ENOENT:
                    self._skip(number, error)
            yield
