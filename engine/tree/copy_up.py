"""Copy-up: when the bytes of a file that must not change are copied to a new object, and how many of them.

Such files are base files, and content objects that a checkpoint has frozen.

A write asks for a backing of the file (``writable``).  A file that stays small becomes a row.  A larger base file is
cloned where the file systems can share blocks, and copied whole if it has at most ``_COPY_WHOLE`` bytes.  Otherwise its
bytes stay in the base: the written ones become extents, and a digest of the base file is noted.

``Inodes.adopt`` copies attributes up, and ``Attributes.own_xattrs`` extended attributes.
"""

from __future__ import annotations

import os

from ..store.base_view import BaseView
from ..store.content_objects import ObjectStore
from ..store.database import Database
from ..store.statements import statement
from ..store.syscalls import data_ranges
from .drift import sample
from .extents import HOLE, Extent
from .inode_rows import SMALL, Backing, Row
from .inodes import Inodes
from .stored_bytes import StoredBytes

_SET_DIGEST = statement("UPDATE modified SET digest = ? WHERE ino = ?")
_COPY_WHOLE = 128 << 10  # bytes; a base file up to this size is copied whole, which is cheaper than extents
SMALL_MAX = 2048  # bytes; a file up to this size is kept in a row, a larger one costs fewer writes as an object
_COPY_STEP = 1 << 20  # bytes


class CopyUp:
    """Chooses the backing of a file that is written, and copies bytes of base files to storage.

    Args:
        db: the overlay's database.
        base: the base view.
        inodes: rows of files.
        objects: the content objects in storage.
        stored: the bytes of files in storage.
        whole: copy a base file whole at its first write, so that no file is a mixture of base and storage.

    Attributes:
        small_max: size of the largest file that is kept in a row, in bytes.
        whole: as above.
    """

    def __init__(
        self,
        db: Database,
        base: BaseView,
        inodes: Inodes,
        objects: ObjectStore,
        stored: StoredBytes,
        *,
        whole: bool,
    ) -> None:
        self._db = db
        self._base = base
        self._inodes = inodes
        self._objects = objects
        self._stored = stored
        self._cannot_clone: set[bool] = set()  # True: base files cannot share blocks with storage; False: objects
        self.small_max = SMALL_MAX
        self.whole = whole

    def writable(self, row: Row, path: bytes | None, end: int) -> Backing:
        """Return the backing for a write that ends at offset *end*; make or copy a content object if that is cheap.

        Call it inside an operation.  The caller saves the row with this backing; if that is ``SMALL``, the caller also
        writes the row of ``small``.
        """
        number, bound, mapped = row.object, row.bound, row.mapped
        if number and self._objects.is_frozen(number):
            return self._thaw(row, number)
        if number and bound is not None and self._objects.stat(number).st_size <= bound:
            bound = None  # the object was cut after the commit of a shrink: nothing lies beyond bound any more
        if mapped:
            return Backing(number, bound, mapped)
        if number == SMALL:
            return Backing(SMALL if end <= self.small_max else self._outgrow(row), None, 0)
        if number is None:
            base_size = bound if path is not None and bound else 0
            if path is not None and base_size and self._inodes.drift.is_lost(row, path):
                return Backing(None, bound, 0)
            if max(base_size, end) <= self.small_max:
                return Backing(SMALL, None, 0)
            if path is None or not base_size:
                return Backing(self._objects.create(), None, 0)
            number = self._copy_file(self._inodes.drift.base_fd(row, path), base_size, in_base=True)
            return Backing(number, base_size if number is None else None, 0)
        return Backing(number, bound, 0)

    def _thaw(self, row: Row, number: int) -> Backing:
        """Return the backing for a write into a file whose object a checkpoint has frozen (store/history.py).

        That is a copy, where one is cheap.  Else the object stays the backing, like a base file, and what is written
        becomes extents.
        """
        size = row.size if row.bound is None else min(row.bound, row.size)
        new = None
        if not row.mapped:
            source = os.dup(self._objects.fd(number))
            try:
                new = self._copy_file(source, size, in_base=False)
            finally:
                os.close(source)
        if new is None:
            return Backing(number, size, row.mapped)
        self._objects.drop(number)
        return Backing(new, None, 0)

    def _outgrow(self, row: Row) -> int:
        """Move the bytes of a small file from its row to a new object; return the object's id."""
        number = self._objects.create()
        self._objects.write(number, self._stored.small(row.ino), 0)
        self._stored.drop_small(row.ino)
        return number

    def prepare_partial_write(self, row: Row, path: bytes | None) -> Row:
        """Prepare a file for a change after which some of its bytes are in storage and others in the base.

        A digest of the base file is noted, so that a replaced base never shows through in a mixture of two versions;
        or, if base files are to be copied whole (``whole``), the file is.  Call it inside an operation.

        Args:
            row: the file's row; it is in ``modified``.
            path: its base file (base terms), if it has one.

        Returns:
            The row, with another backing if the file was copied.  It is not saved yet.
        """
        if path is None or row.object is not None or not row.bound or self._inodes.drift.is_lost(row, path):
            return row
        if self.whole:
            return self.complete(row, path)
        if not row.is_own:
            digest = sample(self._base.file(path), row.seen_size or 0)
            self._db.change(_SET_DIGEST, (digest, row.ino))
        return row

    def complete(self, row: Row, path: bytes, source: int | None = None) -> Row:
        """Copy the bytes that a file still has from the base, so that it needs the base no more.

        Call it inside an operation.

        Args:
            row: the file's row; it is in ``modified``.
            path: its base file (base terms).
            source: a descriptor of the version over which the file was written; None to read it from the base.

        Returns:
            The row with its new backing.  It is not saved yet.

        Raises:
            OSError: EIO if *source* is None and the base has another version; errors of storage, such as ENOSPC.
        """
        if row.object is not None or not row.bound:
            return row
        size = min(row.bound, row.size)
        if source is None:
            source = self._inodes.drift.base_fd(row, path)
        if size <= self.small_max and not row.mapped:
            self._stored.put_small(row.ino, os.pread(source, size, 0))
            return row._replace(object=SMALL, bound=None)
        covered = self._stored.extents.of(row.ino, 0, size) if row.mapped else []
        number = self._copy(source, size, self._objects.create(), covered)
        return row._replace(object=number, bound=None)

    def _copy_file(self, source: int, size: int, *, in_base: bool) -> int | None:
        """Copy the first bytes of a file to a new object; return its id, or None if extents are cheaper.

        Args:
            source: a descriptor of the file.
            size: how many bytes to copy.
            in_base: True for a base file, False for a content object.
        """
        if in_base not in self._cannot_clone:
            number = self._objects.create()
            try:
                self._objects.clone(number, source)
            except OSError:
                self._cannot_clone.add(in_base)  # another file system, or no reflinks: neither changes while mounted
            else:
                self._objects.truncate(number, size)
                return number
            if size > _COPY_WHOLE and not self.whole:
                self._objects.drop(number)
                return None
        elif size > _COPY_WHOLE and not self.whole:
            return None
        else:
            number = self._objects.create()
        return self._copy(source, size, number, [])

    def _copy(self, source: int, size: int, number: int, covered: list[Extent]) -> int:
        """Copy the first *size* bytes of a file to an object, and return the object's id.

        Args:
            source: a descriptor of the file; its holes are not copied.
            size: in bytes.
            number: the object, which is empty.
            covered: extents of the file: their ranges are not copied.
        """
        done = start = 0
        for extent in [*covered, Extent(size, size, HOLE, size)]:
            for first, end in data_ranges(source, start, extent.start):
                for at in range(first, end, _COPY_STEP):
                    data = os.pread(source, min(_COPY_STEP, end - at), at)
                    self._objects.write(number, data, at)
                    done = at + len(data)
            start = extent.end
        if done < size:
            self._objects.truncate(number, size)  # the file ends with a hole
        return number
