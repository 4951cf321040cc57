"""File bytes: where each byte of a file is, and how it is read, written and cut.

A file's bytes come from its *backing* up to ``bound``, and from its *extents*.  The backing is one content object, a
row if the file is small, or the base file.  An extent is a range of the file that lies in a content object or is a
hole, whatever the backing has there (tree/ranges.py makes holes).  All other bytes are zeros.  So little is copied: the
first write to a large base file makes one extent, a created file is one row or one object without extents, and a shrink
is a change of one row.

The rule kept here: no byte that a commit refers to is cut or removed before the commit that drops it is durable.  A
shrink lowers ``bound`` and leaves the object alone; the object is cut after the commit.  Bytes that are written beyond
``bound`` go to an extent.
"""

from __future__ import annotations

import errno
import logging
import os

from ..errors import FsError
from ..model import BLOCK_SIZE, FILE_MAX, Ino
from ..store.base_view import BaseView
from ..store.content_objects import ObjectStore
from ..store.database import Database
from ..store.object_paths import object_name
from ..store.statements import statement
from .copy_up import CopyUp
from .extent_writer import ExtentWriter
from .extents import HOLE
from .inode_rows import SMALL, Backing, Row
from .inodes import Inodes
from .stored_bytes import StoredBytes

log = logging.getLogger(__name__)

_COUNTED_MAX = 20_000  # extents; st_blocks of a file with more is estimated, as counting them takes over 10 ms

_CUT_SMALL = statement("UPDATE small SET data = substr(data, 1, ?) WHERE ino = ?")
_BEYOND = 'SELECT 1 FROM extent WHERE ino = ? AND object = ? AND at + "end" - start > ?'


class Content:
    """Reads and writes the bytes of regular files.

    Args:
        db: the overlay's database.
        base: the base view.
        inodes: rows of files.
        objects: the content objects in storage.
        stored: the bytes of files in storage.
        whole: copy a base file whole at its first write, so that no file is a mixture of base and storage.

    Attributes:
        extents: the extents of all files.
        copy_up: when and how bytes of base files are copied to storage (tree/copy_up.py).
    """

    def __init__(
        self,
        db: Database,
        base: BaseView,
        inodes: Inodes,
        objects: ObjectStore,
        stored: StoredBytes,
        *,
        whole: bool = False,
    ) -> None:
        self._db = db
        self._base = base
        self._inodes = inodes
        self._objects = objects
        self._stored = stored
        self.extents = stored.extents
        self._writer = ExtentWriter(db, objects, stored)
        self.copy_up = CopyUp(db, base, inodes, objects, stored, whole=whole)

    # -- reading

    def read(self, row: Row, path: bytes | None, offset: int, size: int) -> bytes:
        """Return *size* bytes at *offset*, or fewer if the file ends before.

        Args:
            row, path: the file's row, and its base file (base terms), if it has one.
            offset, size: the range, in bytes.

        Raises:
            OSError: EIO if the base no longer has the version that holds some of the bytes; errors of storage and base.
        """
        end = min(offset + size, row.size)
        if end <= offset:
            return b""
        if not row.mapped:
            data = self._read_backing(row, path, offset, end)
            return data if len(data) == end - offset else data + bytes(end - offset - len(data))
        out = bytearray(end - offset)
        at = offset
        for extent in self.extents.of(row.ino, offset, end):
            if at < extent.start:
                self._fill(out, offset, at, self._read_backing(row, path, at, extent.start))
            at = max(at, extent.start)
            stop = min(extent.end, end)
            if extent.object != HOLE:
                data = os.pread(self._objects.fd(extent.object), stop - at, extent.at + at - extent.start)
                self._fill(out, offset, at, data)
            at = stop
        if at < end:
            self._fill(out, offset, at, self._read_backing(row, path, at, end))
        return bytes(out)

    @staticmethod
    def _fill(out: bytearray, offset: int, at: int, data: bytes) -> None:
        out[at - offset : at - offset + len(data)] = data

    def _read_backing(self, row: Row, path: bytes | None, start: int, end: int) -> bytes:
        """Return the bytes of a range of the backing, without those beyond its end: they are zeros."""
        if row.bound is not None:
            end = min(end, row.bound)
        if end <= start:
            return b""
        if row.object == SMALL:
            return self._stored.small(row.ino)[start:end]
        if row.object is not None:
            return os.pread(self._objects.fd(row.object), end - start, start)
        if path is not None:
            return os.pread(self._inodes.drift.base_fd(row, path), end - start, start)
        return b""

    def blocks(self, row: Row, path: bytes | None, base_blocks: tuple[int, int] | None = None) -> int:
        """Return the allocated blocks of a file for st_blocks, in 512 bytes; an upper bound for a file with extents.

        Args:
            row, path: the file's row, and its base file (base terms), if it has one.
            base_blocks: size and blocks of the base file, if the caller has just read them.
        """
        if row.object == SMALL:
            return _blocks_of(min(row.size, self.copy_up.small_max))
        backing = 0
        if row.object is not None:
            try:
                backing = self._objects.stat(row.object).st_blocks
            except OSError as error:
                log.debug("%s: %s", object_name(row.object), error)  # a lost object: reading the file reports it
            if leaving := self._objects.leaving(row.object):
                backing = max(0, backing - leaving // 512)
        elif path is not None and row.bound:
            if base_blocks is None and (st := self._base.find_readable(path)) is not None:
                base_blocks = st.st_size, st.st_blocks
            if base_blocks is not None:
                size, blocks = base_blocks
                backing = blocks if row.bound >= size else min(blocks, _blocks_of(row.bound))
        if not row.mapped:
            return backing
        # an upper bound, as extents may hide blocks of the backing; holes are subtracted
        lengths = self.extents.lengths(row.ino, _COUNTED_MAX)
        if lengths is None:
            return _blocks_of(row.size)  # counting would hold up all other requests
        holes, data = lengths
        if row.object is None:
            backing = max(0, backing - _blocks_of(holes))
        return min(backing + _blocks_of(data), _blocks_of(row.size))

    # -- writing

    def write(self, row: Row, path: bytes | None, offset: int, data: bytes | memoryview, *, times: bool = True) -> None:
        """Write *data* at *offset*, and save the row with the new size and times.  Call it inside an operation.

        Args:
            row: the file's row; if it is a base file, ``Inodes.modify`` has put it in ``modified``.
            path: its base file (base terms), if it has one.
            offset: where to write, in bytes.
            data: the bytes.
            times: False to leave mtime and ctime as they are.

        Raises:
            OSError: EFBIG beyond the largest offset; errors of storage, such as ENOSPC.
        """
        end = offset + len(data)
        if end > FILE_MAX:
            raise FsError(errno.EFBIG, f"write inode {row.ino}")
        saved = self._inodes.row(row.ino)
        if row.object is None and row.mapped:
            row = self.copy_up.prepare_partial_write(row, path)  # this may complete the file
        number, bound, mapped = self.copy_up.writable(row, path, end)
        if number == SMALL:
            self._write_small(row, path, offset, data)
        elif not self._write_backing(Backing(number, bound, mapped), row, offset, data):
            if number is not None and bound is None and offset > row.size:
                self.cut_stale(number, row.size)
            if number is None:
                row = self.copy_up.prepare_partial_write(row, path)
            self._writer.write(row, Backing(number, bound, mapped), offset, data)
            mapped = 1
        mtime, ctime = (self._inodes.now(),) * 2 if times else (row.mtime, row.ctime)
        size = max(row.size, end)
        written = row._replace(size=size, mtime=mtime, ctime=ctime, object=number, bound=bound, mapped=mapped)
        if end > self._objects.largest:
            self.make_nonempty(written)
        if written != saved:
            self._inodes.save(written)
        else:
            self._inodes.watcher.changed(row.ino)  # st_blocks may differ

    def _write_backing(self, backing: Backing, row: Row, offset: int, data: bytes | memoryview) -> bool:
        """Write into the object that holds all of a file; return False if there is none or it cannot hold the data."""
        number, bound, mapped = backing
        if number is None or mapped or (bound is not None and offset + len(data) > bound):
            return False
        if self._objects.is_frozen(number):
            return False
        if offset > row.size:
            self.cut_stale(number, row.size)
        return self._objects.write_fitting(number, data, offset) == len(data)

    def _write_small(self, row: Row, path: bytes | None, offset: int, data: bytes | memoryview) -> None:
        """Write into the row of a small file; if it has none yet, make it with the bytes of the present backing."""
        old = self._read_backing(row, path, 0, row.size)
        new = old[:offset].ljust(offset, b"\0") + bytes(data) + old[offset + len(data) :]
        self._stored.put_small(row.ino, new)  # invariant 19: the caller saves the row with object = SMALL

    def cut_stale(self, number: int, size: int) -> None:
        """Cut an object to its file's size before the file grows: a crash may have left bytes beyond the end."""
        if self._objects.stat(number).st_size > size:
            self._objects.truncate(number, size)

    # -- cutting

    def resize(self, row: Row, path: bytes | None, size: int) -> None:
        """Set a file's size, and save the row; its times stay.  Call it inside an operation.

        Args:
            row: the file's row; if it is a base file, it is in ``modified``.
            path: its base file (base terms), if it has one.
            size: in bytes.

        Raises:
            OSError: EFBIG beyond the largest offset; errors of base and storage, such as ENOSPC.
        """
        if size > FILE_MAX:
            raise FsError(errno.EFBIG, f"truncate inode {row.ino}")
        if size:
            row = self.copy_up.prepare_partial_write(row, path)
        number, bound, mapped = row.object, row.bound, row.mapped
        if size == 0:
            self._stored.release(row)
            number, bound, mapped = None, (None if path is None else 0), 0
        elif number == SMALL:
            if size < row.size:
                self._db.change(_CUT_SMALL, (size, row.ino))  # invariant 19: no bytes beyond the end of the file
        elif size < row.size:
            bound = size if bound is None else min(bound, size)
            if mapped:
                self._cut_extents(row, size)  # invariant 12: extents lie within the file
            if number and not self._objects.is_frozen(number):
                self._objects.trims[number] = (row.ino, size)
        elif number and self._objects.is_frozen(number):
            bound = row.size if bound is None else bound  # a crash may have left bytes beyond the end
        elif number is not None and bound is None:
            self.cut_stale(number, row.size)
            self.make_nonempty(row._replace(size=size))
        resized = row._replace(size=size, object=number, bound=bound, mapped=mapped)
        if path is not None and row.is_own and not resized.is_own and not self._inodes.drift.same_version(row, path):
            # back at the size of the version over which it was written, it would follow this base's other version
            resized = resized._replace(mapped=1)
        self._inodes.save(resized)

    def make_nonempty(self, row: Row) -> None:
        """Give a file's object one byte if it is empty and the file shows some of it as zeros.

        minifo-fsck reports an empty object as lost, because some file systems leave one after a power cut.  One byte
        only: on storage without holes more would take blocks.
        """
        needed = row.size if row.bound is None else min(row.bound, row.size)
        if not row.object or self._objects.is_frozen(row.object):
            return
        if needed and self._objects.stat(row.object).st_size == 0:
            self._objects.truncate(row.object, 1)

    def _cut_extents(self, row: Row, size: int) -> None:
        beyond = self.extents.objects_of(row.ino, size)
        self._objects.note_cut(beyond)
        self.extents.cut(row.ino, size)
        for number in self.extents.unused(row.ino, beyond - {row.object}):
            self._objects.drop(number)

    def trim(self, trims: dict[int, tuple[int, int]]) -> None:
        """Cut the objects of shrunk files, after the commit with the shrinks is durable.

        Args:
            trims: for each object the file's inode number and its size in bytes, as they were in that commit.  The
                object is left alone if its file has got another bound or backing since, or an extent beyond the size.
        """
        for number, (ino, size) in trims.items():
            row = self._inodes.row(Ino(ino))
            # the object is of this file alone (invariant 14), and extents are found by their file
            reused = self._db.value(_BEYOND, (ino, number, size))
            if row is None or (row.object, row.bound) != (number, size) or reused is not None:
                continue
            if self._objects.is_frozen(number):
                continue
            try:
                # never grown: storage may be unable to hold a file of that size, or to have holes
                if self._objects.stat(number).st_size > size:
                    self._objects.truncate(number, size)
            except FsError as error:
                log.debug("trim: %s", error)  # a lost object: reading the file reports it
            self._inodes.watcher.changed(row.ino)


def _blocks_of(size: int) -> int:
    """Return how many blocks of 512 bytes *size* bytes take if storage allocates blocks of 4 KiB."""
    return -(-size // BLOCK_SIZE) * (BLOCK_SIZE // 512)
