"""Ranges of regular files: reserved, zeroed, copied, and asked for data (fallocate(2), copy_file_range(2), lseek(2)).

A range that becomes zeros is an extent without an object, a *hole*, wherever the backing would show something else;
what extents held there is taken out of them.  So a hole is a row, and comes and goes with a commit like all others.

The rule kept here is that of tree/content.py: no byte that a commit has named is removed before the commit that drops
it is durable.  Blocks are given back after that (freed_blocks.py).
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
COPY_MAX = 4 << 20  # bytes of data that one copy moves at most: requests wait for it
_SHARE_MAX = 16 << 20  # bytes that one copy shares at most: what is not on the medium yet is written first
_COPY_STEP = 1 << 19  # bytes; memory for more at a time is new memory each time, which costs more than the copy
_SPAN_MAX = 1 << 30  # bytes one copy passes over, holes included
_LONG = 1 << 20  # bytes of an extent from which on it is worth while to ask what of it is data
_AT_A_TIME = 64  # extents looked at
_PARTS = 1000  # parts of a file that are told apart when their blocks are given back

_CANNOT_SHARE = {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.ENOSYS, errno.EPERM}

_PUNCH = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
_MODES = {0, FALLOC_FL_KEEP_SIZE, _PUNCH, FALLOC_FL_ZERO_RANGE, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE}


class Ranges:
    """Operations on ranges of files; each public one is one operation, like those of ``Overlay``.

    Args:
        db: the overlay's database.
        base: the base view.
        inodes: rows and nodes.
        content: file bytes.
        objects: the content objects in storage.
        stored: what storage holds of files.
        freed: takes blocks that files give up.
        own_xattrs: gives a file extended attributes of its own.
        make_room: called before an operation that takes so many bytes.
        give_back: called before an operation that only gives space back.
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
        make_room: Callable[[int], None],
        give_back: Callable[[], None],
    ) -> None:
        self._db = db
        self._base = base
        self._inodes = inodes
        self._content = content
        self._objects = objects
        self._stored = stored
        self._freed = freed
        self._own_xattrs = own_xattrs
        self._make_room = make_room
        self._give_back = give_back
        self._unshared: set[bool] = set()  # whether the base (True) and storage cannot share blocks with storage

    # -- fallocate

    def fallocate(self, ino: Ino, mode: int, offset: int, size: int, *, times: bool = True) -> None:
        """Reserve a range, zero it, or punch a hole (fallocate(2)).

        Blocks are really reserved where one content object backs the file; where the base does, or the range lies in
        extents of other objects, it is only seen that there is room now.

        Args:
            ino: the file.
            mode: FALLOC_FL_* flags.
            offset, size: the range, in bytes.
            times: False where the caller sets mtime and ctime itself.

        Raises:
            OSError: EOPNOTSUPP for a mode that is not served, EINVAL, EFBIG, ENOSPC; EISDIR or ENODEV for what is no
                regular file.
        """
        if mode not in _MODES:
            raise FsError(errno.EOPNOTSUPP, f"fallocate {ino}")
        end = self._end(ino, offset, size)
        node = self._file(ino)
        if mode == _PUNCH:
            self._give_back()
        else:
            self._make_room(self._lacking(node, offset, end))
        with self._db.operation():
            row = self._adopt(node, changed=mode != _PUNCH or offset < self._size(node))
            if mode != 0 and mode != FALLOC_FL_KEEP_SIZE:
                row = self._zero(row, node.path, offset, end, free=mode == _PUNCH)
            if mode != _PUNCH:
                row = self._reserve(row, node.path, offset, end, grow=not mode & FALLOC_FL_KEEP_SIZE)
            self._save(row, times=times)

    @staticmethod
    def _end(ino: Ino, offset: int, size: int) -> int:
        if offset < 0 or size <= 0:
            raise FsError(errno.EINVAL, f"range of {ino}")
        if offset + size > FILE_MAX:
            raise FsError(errno.EFBIG, f"range of {ino}")
        return offset + size

    def _file(self, ino: Ino) -> Node:
        node = self._inodes.node(ino)
        if not stat.S_ISREG(self._inodes.mode(node)):
            raise FsError(errno.EISDIR if node.is_dir else errno.ENODEV, f"inode {ino}")
        return node

    def _row(self, node: Node) -> Row | None:
        return self._inodes.row(node.ino) if node.state else None

    def _size(self, node: Node) -> int:
        found = self._inodes.attributes(node)
        return found.size if isinstance(found, Row) else found.st_size

    def _adopt(self, node: Node, *, changed: bool = True) -> Row:
        row = self._own_xattrs(node) if changed else self._inodes.adopt(node)
        self._inodes.modify(row, content=changed)
        return self._content.before_part(row, node.path) if changed else row

    def _save(self, row: Row, *, times: bool) -> None:
        if times:
            t = self._inodes.now()
            row = row._replace(mtime=t, ctime=t)
        self._content.tell_hollow(row)
        self._inodes.save(row)

    def _lacking(self, node: Node, start: int, end: int) -> int:
        """Bytes of a range that storage has no blocks for yet, as far as can be told without looking at each."""
        row = self._row(node)
        if row is None:
            return end - start
        held = 0
        if row.object:
            held = max(0, self._objects.stat(row.object).st_blocks * 512 - start)
        if row.mapped:
            touched = self._stored.extents.of(row.ino, start, end)
            held += sum(min(e.end, end) - max(e.start, start) for e in touched if e.object != HOLE)
        return max(0, end - start - held)

    def _reserve(self, row: Row, path: bytes | None, start: int, end: int, *, grow: bool) -> Row:
        """Reserve blocks where one object backs the file; *grow* to its end in any case.  The row is not saved yet."""
        number, bound, mapped = row.object, row.bound, row.mapped
        if number or end > self._content.small_max:
            number, bound, mapped = self._content.writable(row, path, end)
        if number:
            if bound is None and end > row.size:
                self._content.cut_stale(number, row.size)
            stop = end if bound is None else min(end, bound)
            if start < stop:
                self._objects.allocate(number, stop - start, start)
            if grow and bound is None and self._objects.stat(number).st_size < end:
                self._objects.truncate(number, end)
        size = max(row.size, end) if grow else row.size
        return row._replace(size=size, object=number, bound=bound, mapped=mapped)

    def holds(self, ino: Ino, offset: int, size: int) -> bool:
        """True if a file has blocks for a range for sure: bytes written there take no room, on a full storage too."""
        row = self._row(self._inodes.node(ino))
        if row is None or not row.object or row.mapped or row.bound is not None:
            return False
        st = self._objects.stat(row.object)
        return offset + size <= st.st_size <= st.st_blocks * 512

    # -- zeros

    def _zero(self, row: Row, path: bytes | None, start: int, end: int, *, free: bool) -> Row:
        """Let a range read as zeros; *free* its blocks, too.  The row is not saved yet."""
        number, bound = row.object, row.bound
        if free and number and bound is None and end > row.size:
            # beyond the end there may be reserved blocks, but no bytes of anybody
            beyond = max(start, row.size)
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
            # of packed objects each piece is given back, of others all of the range is at once
            packed = [number for number in carved if extents.is_packed(row.ino, number)]
            pieces = extents.of(row.ino, start, end) if packed else []
            hidden = extents.has_hole(row.ino, start, end)
            extents.carve(row.ino, start, end)
        below = end if bound is None else min(end, bound)
        data: list[tuple[int, int]] = []
        if start < below and (number is not None or path is not None):
            data = list(islice(self._backing_ranges(row, path, start, below), _PARTS + 1))
            if len(data) > _PARTS:
                data = [(start, below)]
            if data or hidden:
                extents.join(row.ino, Extent(start, below, HOLE, start))
        if free:
            if number and start < below:
                self._freed.add(row.ino, number, data)
                for first, stop in gaps(data, start, below):
                    self._db.on_success(partial(self._freed.punch, number, stop - first, first))
            for lost in carved:
                parts = [(start, end)]
                if lost in packed:
                    parts = [_inside(piece, start, end) for piece in pieces if piece.object == lost]
                self._freed.add(row.ino, lost, parts)
        mapped = self._db.value("SELECT 1 FROM extent WHERE ino = ? LIMIT 1", (row.ino,)) is not None
        for lost in extents.unused(row.ino, carved - {number}):
            self._objects.drop(lost)
        return row._replace(mapped=int(mapped))

    def _zero_small(self, ino: Ino, start: int, end: int) -> None:
        data = self._stored.small(ino)
        if start < len(data):
            zeros = bytes(min(end, len(data)) - start)
            self._db.change(_SET_SMALL, (data[:start] + zeros + data[end:], ino))

    def _backing_ranges(self, row: Row, path: bytes | None, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The parts of a range of a file's backing that hold data; all of it where the base has another version."""
        if path is not None and self._content.is_lost(row, path):
            return iter([(start, end)])
        return data_ranges(self._backing(row, row.object, path), start, end)

    def _backing(self, row: Row | None, number: int | None, path: bytes | None) -> int:
        if number is not None:
            return self._objects.fd(number)
        assert path is not None
        return self._base.file(path) if row is None else self._content.base_fd(row, path)

    # -- where there is data

    def seek(self, ino: Ino, offset: int, whence: int) -> int:
        """The first offset from *offset* on where there is data, or a hole (lseek(2), SEEK_DATA and SEEK_HOLE).

        Both are told in whole blocks; the end of a file counts as a hole.

        Raises:
            OSError: ENXIO beyond the end, and where no data follows; EINVAL for another *whence*.
        """
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise FsError(errno.EINVAL, f"seek {ino}")
        node = self._file(ino)
        size = self._size(node)
        if not 0 <= offset < size:
            raise FsError(errno.ENXIO, f"seek {ino}")
        for start, end in self._data(node, offset // BLOCK_SIZE * BLOCK_SIZE, size):
            start, end = start // BLOCK_SIZE * BLOCK_SIZE, -(-end // BLOCK_SIZE) * BLOCK_SIZE
            if whence == os.SEEK_DATA:
                return max(start, offset)
            if start > offset:
                return offset
            offset = max(offset, end)
        if whence == os.SEEK_DATA:
            raise FsError(errno.ENXIO, f"seek {ino}")
        return min(offset, size)

    def _data(self, node: Node, start: int, end: int, *, coarse: bool = False) -> Iterator[tuple[int, int]]:
        """The parts of a range that hold data, in order; they may touch.

        *coarse* takes a file that has blocks for all of it for data throughout, without a search: to find the next hole
        takes longer the farther away it is.
        """
        row = self._row(node)
        if row is None:
            yield from self._file_data(self._backing(None, None, node.path), start, end, coarse)
            return
        while row.mapped and start < end:
            found = self._stored.extents.of(row.ino, start, end, _AT_A_TIME)
            for extent in found:
                yield from self._backing_data(row, node.path, start, extent.start, coarse)
                if extent.object != HOLE:
                    yield from self._extent_data(extent, max(start, extent.start), min(extent.end, end))
                start = extent.end
            if len(found) < _AT_A_TIME:
                break
        yield from self._backing_data(row, node.path, start, end, coarse)

    def _extent_data(self, extent: Extent, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The same of an extent: all of it, or of a long one what its object holds, which may be next to nothing."""
        if end - start <= _LONG:
            yield start, end
            return
        shift = extent.start - extent.at
        # a list: the descriptor is valid until the next call
        for first, stop in list(data_ranges(self._objects.fd(extent.object), start - shift, end - shift)):
            yield first + shift, stop + shift

    def _backing_data(
        self, row: Row, path: bytes | None, start: int, end: int, coarse: bool
    ) -> Iterator[tuple[int, int]]:
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
        """Copy bytes from one file to another, or within one, holes as holes (copy_file_range(2)).

        Args:
            source, offset: from where.
            target, at: to where.
            size: how many bytes at most.
            times: False where the caller sets the target's mtime and ctime itself.

        Returns:
            How many bytes it was: as many as there are, but no more than may be done in one go.

        Raises:
            OSError: EINVAL where the two ranges overlap in one file, and those of ``Overlay.write``.
        """
        giver, taker = self._file(source), self._file(target)
        size = min(size, _SPAN_MAX, self._size(giver) - offset)
        if size <= 0:
            return 0
        self._end(target, at, size)
        if source == target and abs(offset - at) < size:
            raise FsError(errno.EINVAL, f"copy within {source}")
        parts, reached = self._some_data(giver, offset, size)
        self._make_room(sum(end - start for start, end in parts))
        with self._db.operation():
            row, shared = self._share(giver, offset, self._adopt(taker), taker.path, at, size)
            if not shared:
                row = self._copy(giver, offset, parts, reached, row, taker, at - offset)
            self._save(row, times=times)
        return shared or reached - offset

    def _copy(
        self, giver: Node, done: int, parts: list[tuple[int, int]], reached: int, row: Row, taker: Node, shift: int
    ) -> Row:
        """Copy the parts that hold data; all else from *done* to *reached* becomes zeros.  The row is not saved yet."""
        for start, end in [*parts, (reached, reached)]:
            row = self._zero(row, taker.path, done + shift, start + shift, free=True)
            if start < end:
                self._inodes.save(row)
            for at in range(start, end, _COPY_STEP):
                data = self._read(giver, at, min(at + _COPY_STEP, end))
                self._content.write(row, taker.path, at + shift, data, times=False)
                row = self._inodes.adopt(taker)
            done = end
        if reached + shift > row.size:
            self._inodes.save(row)
            self._content.resize(row, taker.path, reached + shift)
            row = self._inodes.adopt(taker)
        return row

    def _share(self, giver: Node, offset: int, row: Row, path: bytes | None, at: int, size: int) -> tuple[Row, int]:
        """Let the target share blocks with the one file that holds all of the range, where storage can do that.

        Returns:
            The target's row, not saved yet, and how many bytes it was; 0 where they must be copied.
        """
        size = min(size, _SHARE_MAX) // BLOCK_SIZE * BLOCK_SIZE
        source = self._row(giver)
        based = source is None or source.object is None
        if size == 0 or offset % BLOCK_SIZE or at % BLOCK_SIZE or based in self._unshared:
            return row, 0
        if source is not None and (
            source.mapped
            or source.object == SMALL
            or (source.object is None and giver.path is None)
            or (source.bound is not None and offset + size > source.bound)
        ):
            return row, 0
        number, bound, mapped = self._content.writable(row, path, at + size)
        row = row._replace(object=number, bound=bound, mapped=mapped)
        if not number or mapped or (bound is not None and at + size > bound):
            return row, 0
        if bound is None and at > row.size:
            self._content.cut_stale(number, row.size)
        held = self._backing(source, None if source is None else source.object, giver.path)
        try:
            self._objects.clone_range(number, held, offset, size, at)
        except OSError as error:
            if error.errno in _CANNOT_SHARE:
                self._unshared.add(based)
            elif error.errno != errno.EINVAL:  # not these ranges
                raise
            return row, 0
        return row._replace(size=max(row.size, at + size)), size

    def _some_data(self, node: Node, start: int, size: int) -> tuple[list[tuple[int, int]], int]:
        """The parts of a range that hold data, up to a limit, and the end of the range or of the last of them."""
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
        assert node.path is not None
        return os.pread(self._base.file(node.path), end - start, start)


def _inside(extent: Extent, start: int, end: int) -> tuple[int, int]:
    """Where in its object the part of an extent lies that is in a range."""
    shift = extent.at - extent.start
    return max(start, extent.start) + shift, min(end, extent.end) + shift
