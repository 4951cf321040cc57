"""Operations on ranges of regular files: fallocate(2), copy_file_range(2), and lseek(2) with SEEK_DATA and SEEK_HOLE.

A range that becomes zeros is removed from all extents.  Where the backing would show something else, an extent without
an object is added, a *hole*.  So a hole is a row, and becomes durable with a commit like any other row.

The rule kept here is that of tree/content.py: no byte that a commit refers to is removed before the commit that drops
it is durable.  Only then are its blocks freed (tree/freed_blocks.py).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

from ..errors import FsError
from ..model import BLOCK_SIZE, FILE_MAX, Ino
from ..store.base_view import BaseView
from ..store.content_objects import ObjectStore
from ..store.database import Database
from ..store.statements import statement
from ..store.syscalls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE, data_ranges
from .content import Content
from .extents import HOLE, Extent
from .freed_blocks import FreedBlocks, gaps
from .inode_rows import SMALL, Row
from .inodes import Inodes
from .nodes import Node
from .stored_bytes import StoredBytes

_SET_SMALL = statement("UPDATE small SET data = ? WHERE ino = ?")
COPY_MAX = 4 << 20  # most bytes of data that one copy moves, as all other requests wait for it
_SHARE_MAX = 16 << 20  # most bytes that one copy shares: the kernel first writes those that are not on the medium yet
_COPY_STEP = 1 << 19  # bytes; larger buffers come from new memory each time, which costs more than the copy
_SPAN_MAX = 1 << 30  # most bytes that one copy passes over, holes included
_LONG_EXTENT = 1 << 20  # bytes; in a longer extent the engine looks for holes of the object
_EXTENTS_AT_ONCE = 64  # extents in one query
_PARTS_MAX = 1000  # parts with data of a zeroed range that are kept apart; with more, the range is one part

_CANNOT_SHARE = {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.ENOSYS, errno.EPERM}

_PUNCH = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
_MODES = {0, FALLOC_FL_KEEP_SIZE, _PUNCH, FALLOC_FL_ZERO_RANGE, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE}


class Ranges:
    """Reserves, zeroes and copies ranges of files, and finds data in them.

    Unlike the methods of most classes of this folder, ``fallocate`` and ``copy`` begin an operation themselves.

    Args:
        db: the overlay's database.
        base: the base view.
        inodes: rows and nodes.
        content: file bytes.
        objects: the content objects in storage.
        stored: the bytes of files in storage.
        freed: frees blocks that files no longer use.
        own_xattrs: gives a file extended attributes of its own (``Attributes.own_xattrs``).
        claim_space: called before an operation that needs this number of bytes in storage; raises ENOSPC.
        prepare_to_free: called before an operation that only frees space.
        wrote: called at the end of an operation that changes bytes of a file, with how many bytes it was given.
    """

    def __init__(
        self,
        db: Database,
        base: BaseView,
        inodes: Inodes,
        content: Content,
        objects: ObjectStore,
        stored: StoredBytes,
        freed: FreedBlocks,
        own_xattrs: Callable[[Node], Row],
        claim_space: Callable[[int], None],
        prepare_to_free: Callable[[], None],
        wrote: Callable[[Ino, int], None],
    ) -> None:
        self._db = db
        self._base = base
        self._inodes = inodes
        self._content = content
        self._objects = objects
        self._stored = stored
        self._freed = freed
        self._own_xattrs = own_xattrs
        self._claim_space = claim_space
        self._prepare_to_free = prepare_to_free
        self._wrote = wrote
        self._cannot_share: set[bool] = set()  # True: base files cannot share blocks with storage; False: objects

    # -- fallocate

    def fallocate(self, ino: Ino, mode: int, offset: int, size: int, *, times: bool = True) -> None:
        """Reserve a range, zero it, or punch a hole (fallocate(2)).

        Blocks are reserved if one content object backs the file.  If the base file does, or the range lies in extents,
        the call only checks that storage has room for the range now.

        Args:
            ino: the file.
            mode: FALLOC_FL_* flags.
            offset, size: the range, in bytes.
            times: False to leave mtime and ctime as they are.

        Raises:
            OSError: EOPNOTSUPP for a mode that is not supported, EINVAL, EFBIG, ENOSPC; EISDIR for a directory, ENODEV
                for any other object that is not a regular file.
        """
        if mode not in _MODES:
            raise FsError(errno.EOPNOTSUPP, f"fallocate inode {ino}, mode {mode:#x}")
        end = self._end(ino, offset, size)
        node = self._file(ino)
        if mode == _PUNCH:
            self._prepare_to_free()
        else:
            self._claim_space(self._unallocated(node, offset, end))
        with self._db.operation():
            row = self._adopt(node, changed=mode != _PUNCH or offset < self._size(node))
            if mode != 0 and mode != FALLOC_FL_KEEP_SIZE:
                row = self._zero(row, node.path, offset, end, free=mode == _PUNCH)
            if mode != _PUNCH:
                row = self._reserve(row, node.path, offset, end, grow=not mode & FALLOC_FL_KEEP_SIZE)
            self._save(row, times=times)
            self._wrote(ino, 0)

    @staticmethod
    def _end(ino: Ino, offset: int, size: int) -> int:
        if offset < 0 or size <= 0:
            raise FsError(errno.EINVAL, f"inode {ino}: a range of {size} bytes at {offset}")
        if offset + size > FILE_MAX:
            raise FsError(errno.EFBIG, f"inode {ino}: a range of {size} bytes at {offset}")
        return offset + size

    def _file(self, ino: Ino) -> Node:
        node = self._inodes.node(ino)
        if not stat.S_ISREG(self._inodes.mode(node)):
            raise FsError(errno.EISDIR if node.is_dir else errno.ENODEV, f"inode {ino}")
        return node

    def _row(self, node: Node) -> Row | None:
        return self._inodes.row(node.ino) if node.state else None

    def _size(self, node: Node) -> int:
        return self._inodes.attributes(node).size

    def _adopt(self, node: Node, *, changed: bool = True) -> Row:
        row = self._own_xattrs(node) if changed else self._inodes.adopt(node)
        self._inodes.modify(row, content=changed)
        return self._content.copy_up.prepare_partial_write(row, node.path) if changed else row

    def _save(self, row: Row, *, times: bool) -> None:
        if times:
            t = self._inodes.now()
            row = row._replace(mtime=t, ctime=t)
        self._content.make_nonempty(row)
        self._inodes.save(row)

    def _unallocated(self, node: Node, start: int, end: int) -> int:
        """Return an estimate of the bytes of a range for which storage has no blocks yet."""
        row = self._row(node)
        if row is None:
            return end - start
        allocated = 0
        if row.object and not self._objects.is_frozen(row.object):
            allocated = max(0, self._objects.stat(row.object).st_blocks * 512 - start)
        if row.mapped:
            touched = self._stored.extents.of(row.ino, start, end)
            own = [e for e in touched if e.object != HOLE and not self._objects.is_frozen(e.object)]
            allocated += sum(min(e.end, end) - max(e.start, start) for e in own)
        return max(0, end - start - allocated)

    def _reserve(self, row: Row, path: bytes | None, start: int, end: int, *, grow: bool) -> Row:
        """Reserve blocks for a range if one content object backs the file, and return the row, not saved yet.

        Args:
            row, path: the file, and its base file (base terms), if it has one.
            start, end: the range, in bytes.
            grow: True to make the file at least *end* bytes long.
        """
        number, bound, mapped = row.object, row.bound, row.mapped
        if number or end > self._content.copy_up.small_max:
            number, bound, mapped = self._content.copy_up.writable(row, path, end)
        if number and not self._objects.is_frozen(number):
            if bound is None and end > row.size:
                self._content.cut_stale(number, row.size)
            stop = end if bound is None else min(end, bound)
            if start < stop:
                self._objects.allocate(number, stop - start, start)
            if grow and bound is None and self._objects.stat(number).st_size < end:
                self._objects.truncate(number, end)
        size = max(row.size, end) if grow else row.size
        return row._replace(size=size, object=number, bound=bound, mapped=mapped)

    def has_blocks(self, ino: Ino, offset: int, size: int) -> bool:
        """Return True if a file surely has blocks for all of a range, so that a write there needs no free space."""
        row = self._row(self._inodes.node(ino))
        if row is None or not row.object or row.mapped or row.bound is not None or self._objects.is_frozen(row.object):
            return False
        st = self._objects.stat(row.object)
        return offset + size <= st.st_size <= st.st_blocks * 512

    # -- zeros

    def _zero(self, row: Row, path: bytes | None, start: int, end: int, *, free: bool) -> Row:
        """Make a range of a file read as zeros, and return the row, not saved yet.

        Args:
            row, path: the file, and its base file (base terms), if it has one.
            start, end: the range, in bytes.
            free: True to free the blocks of the range too.
        """
        number, bound = row.object, row.bound
        beyond = max(start, row.size)
        if free and number and bound is None and beyond < end:
            # blocks reserved beyond the end of the file: no commit shows them, so they are freed at once
            self._db.on_success(partial(self._freed.punch, number, end - beyond, beyond))
        end = min(end, row.size)
        if start >= end:
            return row
        if number == SMALL:
            self._zero_small(row.ino, start, end)
            return row
        if start == 0 and end == row.size and (free or number is None):
            self._stored.release(row)
            return row._replace(object=None, bound=None if path is None else 0, mapped=0)
        extents = self._stored.extents
        carved = extents.objects_of(row.ino, start, end) if row.mapped else set()
        packed: list[int] = []
        pieces: list[Extent] = []
        hidden = False
        if row.mapped:
            # a packed object has the extents at other offsets, so each is freed by itself; any other frees the range
            packed = [number for number in carved if extents.is_packed(row.ino, number)]
            pieces = extents.of(row.ino, start, end) if packed else []
            hidden = extents.has_hole(row.ino, start, end)
            extents.carve(row.ino, start, end)
        below = end if bound is None else min(end, bound)
        data: list[tuple[int, int]] = []
        if start < below and (number is not None or path is not None):
            data = list(islice(self._backing_ranges(row, path, start, below), _PARTS_MAX + 1))
            if len(data) > _PARTS_MAX:
                data = [(start, below)]
            if data or hidden:
                extents.join(row.ino, Extent(start, below, HOLE, start))
        if free:
            if number and start < below:
                self._freed.add(row.ino, number, data)
                for first, stop in gaps(data, start, below):
                    self._db.on_success(partial(self._freed.punch, number, stop - first, first))
            for other in carved:
                parts = [(start, end)]
                if other in packed:
                    parts = [_range_in_object(piece, start, end) for piece in pieces if piece.object == other]
                self._freed.add(row.ino, other, parts)
        mapped = self._db.value("SELECT 1 FROM extent WHERE ino = ? LIMIT 1", (row.ino,)) is not None
        for other in extents.unused(row.ino, carved - {number}):
            self._objects.drop(other)
        return row._replace(mapped=int(mapped))

    def _zero_small(self, ino: Ino, start: int, end: int) -> None:
        data = self._stored.small(ino)
        if start < len(data):
            zeros = bytes(min(end, len(data)) - start)
            self._db.change(_SET_SMALL, (data[:start] + zeros + data[end:], ino))

    def _backing_ranges(self, row: Row, path: bytes | None, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Return the parts of a range of a file's backing that hold data.

        If the base has lost the version that backs the file, that is unknown: the whole range counts as data.
        """
        if path is not None and self._inodes.drift.is_lost(row, path):
            return iter([(start, end)])
        return data_ranges(self._backing(row, row.object, path), start, end)

    def _backing(self, row: Row | None, number: int | None, path: bytes | None) -> int:
        """Return a descriptor of the object *number*, or of the base file for None; it is valid until the next call."""
        if number is not None:
            return self._objects.fd(number)
        if path is None:
            raise FsError(errno.EIO, "a file has neither an object nor a base file")
        return self._base.file(path) if row is None else self._inodes.drift.base_fd(row, path)

    # -- finding data

    def seek(self, ino: Ino, offset: int, whence: int) -> int:
        """Return the first offset, at or after *offset*, of data or of a hole (lseek(2)).

        Data and holes are whole blocks of 4 KiB.  The end of the file counts as a hole.

        Args:
            ino: the file.
            offset: where to start, in bytes.
            whence: os.SEEK_DATA or os.SEEK_HOLE.

        Raises:
            OSError: ENXIO if *offset* is at or beyond the end of the file, and if no data follows; EINVAL for another
                *whence*; EISDIR for a directory, ENODEV for any other object that is not a regular file.
        """
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise FsError(errno.EINVAL, f"seek inode {ino}, whence {whence}")
        node = self._file(ino)
        size = self._size(node)
        if not 0 <= offset < size:
            raise FsError(errno.ENXIO, f"seek inode {ino}")
        for start, end in self._data(node, offset // BLOCK_SIZE * BLOCK_SIZE, size):
            start, end = start // BLOCK_SIZE * BLOCK_SIZE, -(-end // BLOCK_SIZE) * BLOCK_SIZE
            if whence == os.SEEK_DATA:
                return max(start, offset)
            if start > offset:
                return offset
            offset = max(offset, end)
        if whence == os.SEEK_DATA:
            raise FsError(errno.ENXIO, f"seek inode {ino}")
        return min(offset, size)

    def _data(self, node: Node, start: int, end: int, *, coarse: bool = False) -> Iterator[tuple[int, int]]:
        """Yield the parts of a range that hold data, in order; two parts may touch.

        Args:
            node: the file.
            start, end: the range, in bytes.
            coarse: True to take a base file or backing object for data throughout if it has blocks for all its bytes.
                That saves the search for the next hole, which takes longer the farther away it is.
        """
        row = self._row(node)
        if row is None:
            yield from self._file_data(self._backing(None, None, node.path), start, end, coarse)
            return
        while row.mapped and start < end:
            extents = self._stored.extents.of(row.ino, start, end, _EXTENTS_AT_ONCE)
            for extent in extents:
                yield from self._backing_data(row, node.path, start, extent.start, coarse)
                if extent.object != HOLE:
                    yield from self._extent_data(extent, max(start, extent.start), min(extent.end, end))
                start = extent.end
            if len(extents) < _EXTENTS_AT_ONCE:
                break
        yield from self._backing_data(row, node.path, start, end, coarse)

    def _extent_data(self, extent: Extent, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of a range that hold data, where one extent covers the range.

        A short range counts as data; in a long one holes of the object are left out, as it may be almost empty.
        """
        if end - start <= _LONG_EXTENT:
            yield start, end
            return
        shift = extent.start - extent.at
        # a list: the descriptor is valid until the next call
        for first, stop in list(data_ranges(self._objects.fd(extent.object), start - shift, end - shift)):
            yield first + shift, stop + shift

    def _backing_data(
        self, row: Row, path: bytes | None, start: int, end: int, coarse: bool
    ) -> Iterator[tuple[int, int]]:
        """Yield the parts of a range that hold data, where no extent covers the range."""
        if row.bound is not None:
            end = min(end, row.bound)
        if row.object == SMALL:
            end = min(end, len(self._stored.small(row.ino)))
            if start < end:
                yield start, end
        elif start < end and (row.object is not None or path is not None):
            if coarse:
                yield from self._file_data(self._backing(row, row.object, path), start, end, coarse)
            else:
                yield from self._backing_ranges(row, path, start, end)

    @staticmethod
    def _file_data(fd: int, start: int, end: int, coarse: bool) -> Iterator[tuple[int, int]]:
        st = os.fstat(fd)
        if coarse and st.st_blocks * 512 >= st.st_size:
            end = min(end, st.st_size)
            if start < end:
                yield start, end
        else:
            yield from data_ranges(fd, start, end)

    # -- copying

    def copy(self, source: Ino, offset: int, target: Ino, at: int, size: int, *, times: bool = True) -> int:
        """Copy bytes from one file to another, or within one file; holes stay holes (copy_file_range(2)).

        Args:
            source: the file to copy from.
            offset: where to start reading, in bytes.
            target: the file to copy to.
            at: where to start writing, in bytes.
            size: how many bytes to copy at most.
            times: False to leave mtime and ctime of the target as they are.

        Returns:
            How many bytes were copied; fewer than *size* if the source ends before, or a copy of all would take too
            long.

        Raises:
            OSError: EINVAL if both ranges are in one file and overlap; EFBIG, ENOSPC and other errors of a write;
                EISDIR for a directory, ENODEV for any other object that is not a regular file.
        """
        source_node, target_node = self._file(source), self._file(target)
        size = min(size, _SPAN_MAX, self._size(source_node) - offset)
        if size <= 0:
            return 0
        self._end(target, at, size)
        if source == target and abs(offset - at) < size:
            raise FsError(errno.EINVAL, f"copy within inode {source}: the ranges overlap")
        parts, reached = self._first_data(source_node, offset, size)
        self._claim_space(sum(end - start for start, end in parts))
        with self._db.operation():
            row, shared = self._share(source_node, offset, self._adopt(target_node), target_node.path, at, size)
            if not shared:
                row = self._copy(source_node, offset, parts, reached, row, target_node, at - offset)
            self._save(row, times=times)
            self._wrote(target, size)
        return shared or reached - offset

    def _copy(
        self, source: Node, done: int, parts: list[tuple[int, int]], reached: int, row: Row, target: Node, shift: int
    ) -> Row:
        """Copy a range of the source to the target, and return the target's row, not saved yet.

        Args:
            source: the file to copy from.
            done, reached: the range of the source, in bytes.
            parts: the parts of it that hold data; all else becomes zeros in the target.
            row, target: the file to copy to.
            shift: offsets in the target less those in the source.
        """
        for start, end in [*parts, (reached, reached)]:
            row = self._zero(row, target.path, done + shift, start + shift, free=True)
            if start < end:
                self._inodes.save(row)
            for at in range(start, end, _COPY_STEP):
                data = self._read(source, at, min(at + _COPY_STEP, end))
                self._content.write(row, target.path, at + shift, data, times=False)
                row = self._inodes.adopt(target)
            done = end
        if reached + shift > row.size:
            self._inodes.save(row)
            self._content.resize(row, target.path, reached + shift)
            row = self._inodes.adopt(target)
        return row

    def _share(self, node: Node, offset: int, row: Row, path: bytes | None, at: int, size: int) -> tuple[Row, int]:
        """Make the target share blocks with the source (FICLONERANGE), if one file holds all of the source's range.

        Args:
            node, offset: the source and where to start in it, in bytes.
            row, path: the target, and its base file (base terms), if it has one.
            at: where to start in the target, in bytes.
            size: how many bytes to share at most.

        Returns:
            The target's row, not saved yet, and how many bytes are shared; 0 if they must be copied.
        """
        size = min(size, _SHARE_MAX) // BLOCK_SIZE * BLOCK_SIZE
        source = self._row(node)
        is_base_file = source is None or source.object is None
        if size == 0 or offset % BLOCK_SIZE or at % BLOCK_SIZE or is_base_file in self._cannot_share:
            return row, 0
        if source is not None and (
            source.mapped
            or source.object == SMALL
            or (source.object is None and node.path is None)
            or (source.bound is not None and offset + size > source.bound)
        ):
            return row, 0
        number, bound, mapped = self._content.copy_up.writable(row, path, at + size)
        row = row._replace(object=number, bound=bound, mapped=mapped)
        if not number or mapped or (bound is not None and at + size > bound) or self._objects.is_frozen(number):
            return row, 0
        if bound is None and at > row.size:
            self._content.cut_stale(number, row.size)
        fd = self._backing(source, None if source is None else source.object, node.path)
        try:
            self._objects.clone_range(number, fd, offset, size, at)
        except OSError as error:
            if error.errno in _CANNOT_SHARE:
                self._cannot_share.add(is_base_file)
            elif error.errno != errno.EINVAL:  # EINVAL: these two ranges cannot share blocks, others may
                raise
            return row, 0
        return row._replace(size=max(row.size, at + size)), size

    def _first_data(self, node: Node, start: int, size: int) -> tuple[list[tuple[int, int]], int]:
        """Return the first parts of a range that hold data, up to ``COPY_MAX`` bytes, and the offset that they reach.

        The offset is the end of the range, or of the last part if the range holds more data.
        """
        parts = []
        left = COPY_MAX
        for first, stop in self._data(node, start, start + size, coarse=True):
            parts.append((first, min(stop, first + left)))
            left -= parts[-1][1] - first
            if left <= 0:
                return parts, parts[-1][1]
        return parts, start + size

    def _read(self, node: Node, start: int, end: int) -> bytes:
        row = self._row(node)
        if row is not None:
            return self._content.read(row, node.path, start, end - start)
        return os.pread(self._base.file(node.base_path), end - start, start)


def _range_in_object(extent: Extent, start: int, end: int) -> tuple[int, int]:
    """Return start and end, as offsets in its object, of the part of an extent that lies in a range of the file."""
    shift = extent.at - extent.start
    return max(start, extent.start) + shift, min(end, extent.end) + shift
