"""File bytes: where each byte of a file is, and how it is read, written and cut.

A file's bytes come from its *backing* (one content object, a row where it is small, or the base file) up to ``bound``,
overlaid by *extents*, ranges that lie in content objects.  What neither covers reads as zeros.  So nothing is copied
that need not be: the first write to a large base file makes one extent, a file created here is one row or one object
without extents, and a shrink is a row.  An extent without an object is a hole: it hides what the backing has there
(tree/ranges.py makes them).

The rule kept here: no byte that a commit has named is cut or removed before the commit that drops it is durable.  A
shrink lowers ``bound`` and leaves the file alone (it is trimmed after the commit); bytes beyond it go to an extent.
"""

from __future__ import annotations

import errno
import logging
import os

from ..errors import FsError
from ..model import BLOCK_SIZE, FILE_MAX, Ino
from ..store.base_view import BaseView
from ..store.content_objects import ObjectStore, object_name
from ..store.database import Database
from ..store.statements import statement
from ..store.syscalls import data_ranges
from .drift import sample
from .extents import HOLE, Extent
from .inode_rows import SMALL, Backing, Row
from .inodes import Inodes
from .stored_bytes import StoredBytes

log = logging.getLogger(__name__)

_SET_DIGEST = statement("UPDATE modified SET digest = ? WHERE ino = ?")
_COPY_WHOLE = 128 << 10  # base files up to this size (bytes) are copied whole: cheaper than keeping extents
SMALL_MAX = 2048  # bytes of a file that are kept in a row; above that a file of its own writes less
_COPY_STEP = 1 << 20
_COUNTED = 20_000  # extents of a file that are counted each time somebody asks for its blocks: 10 ms

_CUT_SMALL = statement("UPDATE small SET data = substr(data, 1, ?) WHERE ino = ?")


class Content:
    """Reads and writes the bytes of regular files.

    Args:
        db: the overlay's database.
        base: the base view.
        inodes: rows of files.
        objects: the content objects in storage.
        stored: what storage holds of files.
        whole: copy base files always whole, so that none depends on two versions of one.
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
        self._can_clone = True
        self.small_max = SMALL_MAX
        self.whole = whole

    # -- reading

    def read(self, row: Row, path: bytes | None, offset: int, size: int) -> bytes:
        """Read up to *size* bytes at *offset*; fewer at the end of the file.

        Args:
            row: the file's row.
            path: its base file (base terms), if it has one.
            offset, size: bytes.

        Raises:
            OSError: EIO and its kin from storage or base.
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
                self._fill(
                    out,
                    offset,
                    at,
                    self._read_backing(row, path, at, extent.start),
                )
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
        """Bytes of the backing; short where it ends, which reads as zeros."""
        if row.bound is not None:
            end = min(end, row.bound)
        if end <= start:
            return b""
        if row.object == SMALL:
            return self._stored.small(row.ino)[start:end]
        if row.object is not None:
            return os.pread(self._objects.fd(row.object), end - start, start)
        if path is not None:
            return os.pread(self.base_fd(row, path), end - start, start)
        return b""

    def base_fd(self, row: Row, path: bytes) -> int:
        """A descriptor of the base file that holds bytes of a file; valid until the next call.

        Raises:
            OSError: EIO where the base has another version of it by now than the file was written over.
        """
        if self.is_lost(row, path):
            raise FsError(errno.EIO, f"read {row.ino}")
        return self._base.file(path)

    def is_lost(self, row: Row, path: bytes) -> bool:
        """True where bytes that a file has from the base are those of a version that is not there: none can be read."""
        return row.object is None and row.is_own and not self._inodes.drift.same_version(row, path)

    def blocks(self, row: Row, path: bytes | None, st: os.stat_result | None = None) -> int:
        """Allocated blocks of 512 bytes, as st_blocks tells them; *st* is the base file's, where it is known."""
        if row.object == SMALL:
            return _blocks_of(min(row.size, self.small_max))
        backing = 0
        if row.object is not None:
            try:
                backing = self._objects.stat(row.object).st_blocks
            except OSError as error:
                log.debug("%s: %s", object_name(row.object), error)  # lost: reading it says so
            if leaving := self._objects.leaving(row.object):
                backing = max(0, backing - leaving // 512)
        elif path is not None and row.bound:
            st = st or self._base.find(path)
            if st is not None:
                backing = st.st_blocks if row.bound >= st.st_size else min(st.st_blocks, _blocks_of(row.bound))
        if not row.mapped:
            return backing
        # a range may hide blocks of the backing: an upper bound, but one that leaves large holes out
        lengths = self.extents.lengths(row.ino, _COUNTED)
        if lengths is None:
            return _blocks_of(row.size)  # to count them would hold up everybody
        holes, data = lengths
        if row.object is None:
            backing = max(0, backing - _blocks_of(holes))
        return min(backing + _blocks_of(data), _blocks_of(row.size))

    # -- writing

    def write(self, row: Row, path: bytes | None, offset: int, data: bytes | memoryview, *, times: bool = True) -> None:
        """Write *data* at *offset*; the row's size follows, and unless *times* is False its times.  In an operation.

        Raises:
            OSError: ENOSPC and its kin, EFBIG beyond the largest offset.
        """
        end = offset + len(data)
        if end > FILE_MAX:
            raise FsError(errno.EFBIG, f"write {row.ino}")
        saved = self._inodes.row(row.ino)
        if row.object is None and row.mapped:
            row = self.before_part(row, path)  # in part already: only to complete it
        number, bound, mapped = self.writable(row, path, end)
        if number == SMALL:
            self._write_small(row, path, offset, data)
        elif not self._write_backing(Backing(number, bound, mapped), row, offset, data):
            if number is not None and bound is None and offset > row.size:
                self.cut_stale(number, row.size)
            if number is None:
                row = self.before_part(row, path)
            self._write_extents(row, Backing(number, bound, mapped), offset, data)
            mapped = 1
        mtime, ctime = (self._inodes.now(),) * 2 if times else (row.mtime, row.ctime)
        size = max(row.size, end)
        written = row._replace(size=size, mtime=mtime, ctime=ctime, object=number, bound=bound, mapped=mapped)
        if end > self._objects.largest:
            self.tell_hollow(written)
        if written != saved:
            self._inodes.save(written)
        else:
            self._inodes.watcher.changed(row.ino)  # its blocks, that is

    def writable(self, row: Row, path: bytes | None, end: int) -> Backing:
        """The file's backing, made fit for a write up to *end*: a row or an object of its own where that is cheap.

        Inside an operation.  A file that turns small here has no row of its bytes yet.
        """
        number, bound, mapped = row.object, row.bound, row.mapped
        if number and bound is not None and self._objects.stat(number).st_size <= bound:
            bound = None  # the file was trimmed since: what lies beyond reads as zeros by itself
        if mapped:
            return Backing(number, bound, mapped)
        if number == SMALL:
            return Backing(SMALL if end <= self.small_max else self._outgrow(row), None, 0)
        if number is None:
            based = bound if path is not None and bound else 0
            if path is not None and based and self.is_lost(row, path):
                return Backing(None, bound, 0)
            if max(based, end) <= self.small_max:
                return Backing(SMALL, None, 0)
            if path is None or not based:
                return Backing(self._objects.create(), None, 0)
            number = self._copy_up(row, path, based)
            return Backing(number, based if number is None else None, 0)
        return Backing(number, bound, 0)

    def _write_backing(self, backing: Backing, row: Row, offset: int, data: bytes | memoryview) -> bool:
        """Write into the object that holds all of a file; False if there is none, or it cannot hold all of *data*."""
        number, bound, mapped = backing
        if number is None or mapped or (bound is not None and offset + len(data) > bound):
            return False
        if offset > row.size:
            self.cut_stale(number, row.size)
        return self._objects.write_fitting(number, data, offset) == len(data)

    def _write_small(self, row: Row, path: bytes | None, offset: int, data: bytes | memoryview) -> None:
        """Write into the row of a small file, made of what backs it so far."""
        old = self._read_backing(row, path, 0, row.size)
        new = old[:offset].ljust(offset, b"\0") + bytes(data) + old[offset + len(data) :]
        self._stored.put_small(row.ino, new)  # invariant 19: the caller saves the row with object = SMALL

    def _outgrow(self, row: Row) -> int:
        """Move the bytes of a small file to an object of their own."""
        number = self._objects.create()
        self._objects.write(number, self._stored.small(row.ino), 0)
        self._stored.drop_small(row.ino)
        return number

    def cut_stale(self, number: int, size: int) -> None:
        """Cut off what an object has beyond its file's end, before that end moves.

        No row ever named these bytes: they were left by a crash between a write and its commit.
        """
        if self._objects.stat(number).st_size > size:
            self._objects.truncate(number, size)

    def before_part(self, row: Row, path: bytes | None) -> Row:
        """Before some bytes of a file are changed and others stay the base's: see that a mixture is never shown.

        What identifies the base's version is noted; or, where files are to be whole, the rest is copied.  Inside an
        operation.

        Args:
            row: the file's row, on the list of modified ones.
            path: its base file (base terms), if it has one.

        Returns:
            The row; where its backing is another now it is not saved yet.
        """
        if path is None or row.object is not None or not row.bound or self.is_lost(row, path):
            return row
        if self.whole:
            return self.complete(row, path)
        if not row.is_own:
            digest = sample(self._base.file(path), row.seen_size or 0)
            self._db.change(_SET_DIGEST, (digest, row.ino))
        return row

    def complete(self, row: Row, path: bytes, source: int | None = None) -> Row:
        """Copy what a file still has from the base, so that it depends on the base no more.  Inside an operation.

        Args:
            row: the file's row, on the list of modified ones; its bytes are the base's up to its bound.
            path: its base file (base terms).
            source: a descriptor of the version that it was written over, where the base has another one by now.

        Returns:
            The row, not saved yet.

        Raises:
            OSError: EIO where the base has another version by now; ENOSPC and its kin.
        """
        if row.object is not None or not row.bound:
            return row
        size = min(row.bound, row.size)
        if source is None:
            source = self.base_fd(row, path)
        if size <= self.small_max and not row.mapped:
            self._stored.put_small(row.ino, os.pread(source, size, 0))
            return row._replace(object=SMALL, bound=None)
        covered = self.extents.of(row.ino, 0, size) if row.mapped else []
        number = self._copy(source, size, self._objects.create(), covered)
        return row._replace(object=number, bound=None)

    def _copy_up(self, row: Row, path: bytes, size: int) -> int | None:
        """Copy the first *size* bytes of a base file to a new object, or return None where extents serve better."""
        source = self.base_fd(row, path)
        if self._can_clone:
            number = self._objects.create()
            try:
                self._objects.clone(number, source)
            except OSError:
                self._can_clone = False  # another file system, or one without reflinks: both stay so while mounted
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
        """Copy the first *size* bytes of a file to a new object, holes as holes, but for what extents cover."""
        done = start = 0
        for extent in [*covered, Extent(size, size, HOLE, size)]:
            for first, end in data_ranges(source, start, extent.start):
                for at in range(first, end, _COPY_STEP):
                    data = os.pread(source, min(_COPY_STEP, end - at), at)
                    self._objects.write(number, data, at)
                    done = at + len(data)
            start = extent.end
        if done < size:
            self._objects.truncate(number, size)  # it ends with a hole
        return number

    def _write_extents(self, row: Row, backing: Backing, offset: int, data: bytes | memoryview) -> None:
        view = memoryview(data)
        end = offset + len(view)
        at = offset
        extents = self.extents.of(row.ino, offset, end)
        if any(extent.object == HOLE for extent in extents):
            self.extents.carve(row.ino, offset, end, holes_only=True)
            extents = [extent for extent in extents if extent.object != HOLE]
        for extent in extents:
            if at < extent.start:
                self._write_gap(row, backing, at, view[at - offset : extent.start - offset])
            at = max(at, extent.start)
            stop = min(extent.end, end)
            self._objects.write(extent.object, view[at - offset : stop - offset], extent.at + at - extent.start)
            at = stop
        if at < end:
            self._write_gap(row, backing, at, view[at - offset :])

    def _write_gap(self, row: Row, backing: Backing, start: int, data: memoryview) -> None:
        """Write a range that no extent covers: into the backing where that is this file's object, else beside it."""
        number, bound, _ = backing
        own = 0
        if number:
            room = self._objects.largest if bound is None else min(bound, self._objects.largest)
            own = min(max(0, room - start), len(data))
            if own:
                own = self._objects.write_fitting(number, data[:own], start)
        if own < len(data):
            self._add_extent(row, start + own, data[own:])

    def _add_extent(self, row: Row, start: int, data: memoryview) -> None:
        """Write a range that no extent covers to objects that are not the backing: mostly to one."""
        while data:
            number, at = self._place(row, start, len(data))
            done = self._objects.write_fitting(number, data, at)
            if done:
                self.extents.join(row.ino, Extent(start, start + done, number, at))
            elif at <= BLOCK_SIZE:
                raise FsError(errno.EFBIG, f"write {row.ino}")  # not even a file of that size
            elif number not in self._stored.objects_of(row._replace(mapped=1)):
                self._objects.drop(number)  # made for what it cannot hold
            start += done
            data = data[done:]

    def _place(self, row: Row, start: int, size: int) -> tuple[int, int]:
        """Where *size* bytes from *start* on go: an object of this file, and the offset in it.

        Where files can have holes that is the same offset as in the file: neighbours merge.  Elsewhere, and beyond the
        largest file that storage can hold, blocks are packed, after all that the object ever held.  What a commit has
        named stays, even if no row names it any more: an object that was cut takes no new ranges before the cut is
        durable.
        The two ways are never mixed in one object (storage may have been moved to another file system), and
        ``at = start`` tells them apart.
        """
        packed = not self._objects.has_holes or start + size > self._objects.largest
        sql = f"FROM extent WHERE ino = ? AND (at <> start) = {int(packed)} AND object > 0"
        # almost always the first one will do, and a file may have a hundred thousand
        found = self._db.rows(f"SELECT object {sql} LIMIT 1", (row.ino,))
        if found and not packed and found[0][0] in self._objects.cut:
            found = self._db.rows(f"SELECT DISTINCT object {sql}", (row.ino,))
            found = [values for values in found if values[0] not in self._objects.cut]
        if not packed:
            return (int(found[0][0]) if found else self._objects.create()), start
        at = self._tail(int(found[0][0]), start) if found else 0
        if found and at + size > self._objects.largest:
            found = self._db.rows(f"SELECT max(object) {sql}", (row.ino,))  # full, and so are all but the newest one
            at = self._tail(int(found[0][0]), start)
        if found and at + size <= self._objects.largest:
            return int(found[0][0]), at
        number = self._objects.create()
        return number, self._tail(number, start)

    def _tail(self, number: int, start: int) -> int:
        """The first block after all that an object ever held, which is not *start*."""
        tail = -(-self._objects.stat(number).st_size // BLOCK_SIZE) * BLOCK_SIZE
        return tail if tail != start else tail + BLOCK_SIZE

    # -- cutting

    def resize(self, row: Row, path: bytes | None, size: int) -> None:
        """Set a file's size, times aside.  Inside an operation.

        Raises:
            OSError: EFBIG beyond the largest offset.
        """
        if size > FILE_MAX:
            raise FsError(errno.EFBIG, f"truncate {row.ino}")
        if size:
            row = self.before_part(row, path)
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
            if number:
                self._objects.trims[number] = (row.ino, size)
        elif number is not None and bound is None:
            self.cut_stale(number, row.size)
            self.tell_hollow(row._replace(size=size))
        cut = row._replace(size=size, object=number, bound=bound, mapped=mapped)
        if path is not None and row.is_own and not cut.is_own and not self._inodes.drift.same_version(row, path):
            cut = cut._replace(mapped=1)  # of the size it had in another base it is not this base's all the same
        self._inodes.save(cut)

    def tell_hollow(self, row: Row) -> None:
        """Tell an object of which nothing was written yet, and that shows, from one that has lost its bytes.

        minifo-fsck takes an empty one for lost, as some file systems leave it after a power cut.  A byte is enough: on
        storage without holes more would take blocks.
        """
        needed = row.size if row.bound is None else min(row.bound, row.size)
        if row.object and needed and self._objects.stat(row.object).st_size == 0:
            self._objects.truncate(row.object, 1)

    def _cut_extents(self, row: Row, size: int) -> None:
        beyond = self.extents.objects_of(row.ino, size)
        self._objects.note_cut(beyond)
        self.extents.cut(row.ino, size)
        for number in self.extents.unused(row.ino, beyond - {row.object}):
            self._objects.drop(number)

    def trim(self, trims: dict[int, tuple[int, int]]) -> None:
        """Give back the space of shrunk files, now that the commit that dropped their ends is durable.

        Args:
            trims: by object, the inode and the bytes that stay, as that commit had them.
        """
        for number, (ino, size) in trims.items():
            row = self._inodes.row(Ino(ino))
            reused = self._db.value('SELECT 1 FROM extent WHERE object = ? AND at + "end" - start > ?', (number, size))
            if row is None or (row.object, row.bound) != (number, size) or reused is not None:
                continue
            try:
                # one that is shorter stays so: storage may hold no file of that size, or no holes
                if self._objects.stat(number).st_size > size:
                    self._objects.truncate(number, size)
            except FsError as error:
                log.debug("trim: %s", error)  # lost: reading it says so
            self._inodes.watcher.changed(row.ino)


def _blocks_of(size: int) -> int:
    """Blocks of 512 bytes that *size* bytes take where space is given out in blocks of 4 KiB."""
    return -(-size // BLOCK_SIZE) * (BLOCK_SIZE // 512)
