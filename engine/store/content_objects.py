"""Content objects: plain files in storage that hold bytes, named by ids that are never used twice.

The store hands out ids, keeps a few descriptors open, and remembers what a commit must make durable first: objects that
were written (``dirty``) and directories whose entries changed (``changed_dirs``).  A committed upper bound (``limit``)
reserves ids, so that the next mount finds the objects made after the last durable commit by their ids and deletes them,
without walking all directories.  An object that no row of a commit has used is deleted at once; any other becomes a row
of ``garbage``, and is deleted when the commit that no longer uses it is durable.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from ..model import FILE_MAX
from .database import Database
from .object_digests import drop_stale
from .object_files import ObjectFiles
from .object_paths import ID_BLOCK, object_directory, object_name, object_number
from .statements import statement
from .storage import Storage

log = logging.getLogger(__name__)

IDS_PER_OPERATION = 8  # more ids than any single operation takes
_PROBE_SIZE = 1 << 20  # bytes
ADD_GARBAGE = statement("INSERT INTO garbage VALUES (?)")
DROP_GARBAGE = statement("DELETE FROM garbage WHERE object = ?")
_NEEDED_GARBAGE = (
    "SELECT object FROM garbage g WHERE EXISTS (SELECT 1 FROM was_inode w WHERE w.object = g.object AND w.object > 0)"
    " OR EXISTS (SELECT 1 FROM was_extent w WHERE w.object = g.object AND w.object > 0)"
)
_FDATASYNC_MAX = 32  # above this many files one syncfs is cheaper (26 against 1,284 ms for 1,000 on ext4)


class Hole(NamedTuple):
    """A range of an object that its file no longer shows, and the operation that removed it from the file."""

    ino: int
    start: int  # in the object, in bytes
    end: int  # the first byte after the range
    operation: int  # Database.operations at that time


class ObjectStore(ObjectFiles):
    """All content objects of one storage.

    Args:
        db: the overlay's database, for garbage rows.
        storage: the storage directory.
        next_object: the next id to hand out.
        limit: the first id that no durable commit has reserved.
        on_lost: called with the id of each object that is missing, once for each.
    """

    def __init__(
        self, db: Database, storage: Storage, next_object: int, limit: int, on_lost: Callable[[int], object]
    ) -> None:
        super().__init__(db, storage, next_object, on_lost)
        self._dirs: set[str] = set()
        self._can_punch = True
        self.limit = limit
        self.committed_next = next_object  # no row of a durable commit uses this id or a greater one
        self.changed_dirs: set[str] = set()
        self.trims: dict[int, tuple[int, int]] = {}  # object -> (inode, bytes to keep), after the next durable commit
        self.holes: dict[int, list[Hole]] = {}  # object -> ranges to punch after their commit is durable, oldest first
        self.cut: dict[int, int] = {}  # object -> last operation that removed ranges of it which a commit may still use
        self.largest = FILE_MAX  # most bytes of one object; lowered when storage refuses a larger file (EFBIG)
        self.used: int | None = None  # bytes that all objects take; None unless ``count_bytes`` was called
        self.written = 0  # bytes written into objects since they were opened
        self.swept: set[int] = set()  # garbage whose files are deleted; the next commit deletes the rows
        self.undeleted: set[int] = set()  # unused objects whose deletion failed; the next commit makes them garbage
        # content that rows may rely on, for the redo log (store/redo_records.py); None without a redo log
        self._notes: list[tuple[int, int]] | None = None

    # -- objects

    @property
    def has_holes(self) -> bool:
        """Whether files in this storage can have holes (those of exFAT cannot).

        The first call finds out with a new object, so that the next mount deletes the file after a crash; make that
        call inside an operation.
        """
        if self._storage.has_holes is None:
            number = self.create()
            self.truncate(number, _PROBE_SIZE)
            self._storage.has_holes = self.stat(number).st_blocks * 512 < _PROBE_SIZE // 2
            self.drop(number)
        return self._storage.has_holes

    def free_ids(self) -> int:
        """Return how many ids can be handed out before a commit must reserve more."""
        return self.limit - self.next_object

    def create(self) -> int:
        """Make a new, empty object; it is deleted again if the running operation fails.

        Returns:
            Its id.

        Raises:
            OSError: storage is full or cannot be written; ENOSPC also if no reserved id is left.
        """
        number = self.next_object  # invariant 14: an id is given to one object of one inode, once
        if number >= self.limit:
            raise OSError(errno.ENOSPC, "no reserved id of a content object is left")
        directory = object_directory(number)
        if directory not in self._dirs:
            for parent, name in ((".", "content"), ("content", directory)):
                if not self._storage.exists(name):
                    self._storage.mkdir(name)
                # also if it exists: a daemon may have made it, and been killed before it synced the parent
                self.changed_dirs.add(parent)
            self._dirs = {directory}
        self.changed_dirs.add(directory)
        fd = self._storage.create(object_name(number))
        self.next_object = number + 1
        self._fds.put(number, fd)
        self.dirty.add(number)
        self._note(number, 0)
        self._db.on_failure(partial(self._delete, number))
        return number

    def _note(self, number: int, size: int) -> None:
        """Add a note for the redo log, in the form of store/redo_records.py."""
        if self._notes is not None:
            self._notes.append((number, size))

    def begin_notes(self) -> None:
        """Make notes for the redo log from now on."""
        self._notes = []

    def take_notes(self) -> list[tuple[int, int]]:
        """Return the notes for the redo log that were made since the last call."""
        notes = self._notes or []
        self._notes = []
        return notes

    def write(self, number: int, data: bytes | memoryview, offset: int) -> None:
        """Write all of *data* into an object at *offset*, in bytes; the next commit makes it durable.

        Raises:
            OSError: part of the data may have been written.
        """
        fd = self._writable(number)
        self.written += len(data)
        if self.used is None:
            self._storage.write(fd, data, offset)
        else:
            before = os.fstat(fd).st_blocks
            try:
                self._storage.write(fd, data, offset)
            finally:
                self.used += (os.fstat(fd).st_blocks - before) * 512
        if self._notes is not None:
            self._notes.append((number, offset + len(data)))

    def write_fitting(self, number: int, data: bytes | memoryview, offset: int) -> int:
        """Write *data* into an object at *offset*, as far as storage allows files to grow.

        Returns:
            How many bytes were written; the rest would exceed the largest file of the file system, and must go to
            another object.

        Raises:
            OSError: for any errno but EFBIG; part of the data may have been written.
        """
        try:
            self.write(number, data, offset)
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            # the bytes that fit were written (write(2)); they are written once more, to be sure
            done = min(len(data) - 1, max(0, self.stat(number).st_size - offset))
            self.largest = min(self.largest, offset + done)
            if done:
                self.write(number, data[:done], offset)
            return done
        return len(data)

    def clone(self, number: int, source: int) -> None:
        """Make an empty object share all blocks of a file (ioctl_ficlone(2)).

        Args:
            number: the object.
            source: a descriptor of the file.

        Raises:
            OSError: the file systems do not support it; nothing was changed.
        """
        self._storage.clone(self.fd(number), source)

    def clone_range(self, number: int, source: int, at: int, size: int, offset: int) -> None:
        """Make a range of an object share blocks with a range of a file (ioctl_ficlonerange(2)).

        Args:
            number: the object.
            source: a descriptor of the file.
            at: start of the range in the file, in bytes.
            size: bytes.
            offset: start of the range in the object.

        Raises:
            OSError: the ranges are not aligned to blocks, or the file systems do not support it; nothing was changed.
        """
        fd = self._writable(number)
        before = os.fstat(fd).st_blocks
        self._storage.clone_range(fd, source, at, size, offset)
        self._note(number, offset + size)
        if self.used is not None:
            self.used += (os.fstat(fd).st_blocks - before) * 512

    def truncate(self, number: int, size: int) -> None:
        """Shorten or extend an object's file to *size* bytes.

        Never remove bytes that a durable commit shows: ``trims`` does that after the next commit.
        """
        fd = self._writable(number)
        before = os.fstat(fd).st_blocks if self.used is not None else 0
        self._storage.truncate(fd, size)
        if self.used is not None:
            self.used += (os.fstat(fd).st_blocks - before) * 512
        self._note(number, ~size)

    def allocate(self, number: int, size: int, offset: int) -> None:
        """Allocate blocks for *size* bytes of an object from *offset* on.

        If the running operation fails, the blocks beyond the object's end are freed again.  Does nothing on a file
        system that cannot allocate blocks (EOPNOTSUPP); the caller has checked the free space.

        Raises:
            OSError: ENOSPC, EDQUOT, EIO.
        """
        fd = self._writable(number)
        before = os.fstat(fd)
        self._db.on_failure(partial(self._free_beyond, number, before.st_size))
        # pending holes of the object may lie in the range, and must not be punched any more
        self._db.on_success(lambda: self.holes.pop(number, None))
        try:
            self._storage.allocate(fd, size, offset)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            log.debug("storage %s cannot allocate blocks ahead", self._storage.path)
        finally:
            if self.used is not None:
                self.used += (os.fstat(fd).st_blocks - before.st_blocks) * 512

    def _free_beyond(self, number: int, size: int) -> None:
        """Free the blocks beyond *size* bytes of an object, which a failed operation has allocated."""
        try:
            self.truncate(number, size)
        except OSError as error:
            log.warning("%s keeps blocks it does not need: %s", object_name(number), error)

    def punch(self, number: int, size: int, offset: int) -> None:
        """Deallocate *size* unused bytes of an object from *offset* on, if the file system supports that."""
        if not self._can_punch:
            return
        fd = self._writable(number)
        before = os.fstat(fd).st_blocks
        try:
            self._storage.punch(fd, size, offset)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            self._can_punch = False
            log.info(
                "storage %s cannot punch holes into files: only the deletion of whole files frees space",
                self._storage.path,
            )
        if self.used is not None:
            self.used += (os.fstat(fd).st_blocks - before) * 512

    def leaving(self, number: int) -> int:
        """Return how many bytes of an object are in pending holes: unused, but still allocated."""
        holes = self.holes.get(number)
        return sum(hole.end - hole.start for hole in holes) if holes else 0

    def drop(self, number: int) -> None:
        """Delete an object that no row uses after the running operation, if that succeeds.

        An object that a commit may use becomes garbage, and is deleted when the next commit is durable, unless a
        checkpoint needs it.
        """
        if number >= self.committed_next and not self.is_frozen(number):
            self._db.on_success(partial(self._delete, number))
        else:
            self.add_garbage(number)
            self._db.on_success(partial(self.dirty.discard, number))

    def add_garbage(self, number: int) -> None:
        """Let the next commit delete an object that no row uses.  Call it inside an operation."""
        self._db.change(ADD_GARBAGE, (number,))

    def _delete(self, number: int) -> None:
        """Delete the file of an object that no commit uses, after the end of the operation that made or dropped it."""
        self.dirty.discard(number)
        try:
            self._unlink(number)
        except OSError as error:
            log.warning("%s cannot be deleted now: %s", object_name(number), error)
            self.undeleted.add(number)

    def _unlink(self, number: int) -> None:
        self._fds.drop(number)
        self.trims.pop(number, None)
        self.holes.pop(number, None)
        taken = self._storage.stat(object_name(number)).st_blocks * 512 if self.used is not None else 0
        self.changed_dirs.add(object_directory(number))
        self._storage.unlink(object_name(number))
        if self.used is not None:
            self.used -= taken

    def count_bytes(self) -> None:
        """Set ``used`` to the bytes that all objects take, and keep it up to date from now on; walks all objects."""
        self.used = sum(
            self._storage.stat(f"content/{block}/{name}").st_blocks * 512
            for block in self._storage.names("content")
            for name in self._storage.names(f"content/{block}")
        )

    # -- for commits (engine/commit.py) and recovery (engine/recovery.py)

    def sync(self, numbers: set[int]) -> None:
        """Make objects durable.  It may run in a worker thread, so it changes no state of the store.

        An object may be deleted meanwhile, together with its file; then nothing is left to sync.

        Raises:
            OSError: EIO, ENOSPC; ENOENT if a dirty object is missing.
        """
        if len(numbers) > _FDATASYNC_MAX:
            self._storage.sync_all()
            return
        for number in sorted(numbers):
            try:
                self._storage.sync_file(object_name(number))
            except FileNotFoundError:
                if number in self.dirty:
                    raise

    def take_dirty(self) -> set[int]:
        """Return the objects that were written since the last call, and count them as clean."""
        dirty, self.dirty = self.dirty, set()
        return dirty

    def sync_entries(self) -> None:
        """Make the creation and the deletion of objects' files durable.

        A deletion must be durable before the commit that deletes its garbage row: a file that came back after a power
        cut would never be found again.
        """
        for directory in sorted(self.changed_dirs):
            self._storage.sync_dir(directory)
        self.changed_dirs.clear()

    def sweep_uncommitted(self, replayed: bool) -> None:
        """Delete the objects that no durable commit uses: those with an id from ``committed_next`` up to ``limit``.

        If there were any, no id of this range is used any more, because ids are never used twice.  These ids do not
        count as used in the size of the next range, else each crash would make the range, and the next sweep, longer.

        Args:
            replayed: True if rows of the redo log were replayed, which may use some of these objects.
        """
        first = self.committed_next
        in_use: set[int] = set()
        if replayed:
            sql = "SELECT object FROM inode WHERE object >= ?1 UNION SELECT object FROM extent WHERE object >= ?1"
            in_use = {number for (number,) in self._db.rows(sql, (first,))}
        count = 0
        last = self.limit // ID_BLOCK * ID_BLOCK
        directories = [object_directory(number) for number in range(first // ID_BLOCK * ID_BLOCK, last + 1, ID_BLOCK)]
        for directory in directories:
            for name in self._storage.names(directory):
                number = object_number(directory, name)  # None: not a content object; minifo-fsck reports it
                if number is not None and number >= first and number not in in_use:
                    self._storage.unlink(object_name(number))
                    count += 1
        if count:
            # also the deletions by a killed daemon must be durable, because no later sweep looks at these ids
            self.changed_dirs.update(directory for directory in directories if self._storage.exists(directory))
            self.next_object = self.committed_next = self.limit

    def note_cut(self, numbers: Iterable[int]) -> None:
        """Note that the running operation removes ranges of objects from a file.

        The bytes must stay until that operation is durable, because the last durable commit may show them.
        """
        self.cut.update({number: self._db.operations for number in numbers if number < self.committed_next})

    def forget_cuts(self, durable: dict[int, int]) -> None:
        """Remove cuts that are durable.

        Args:
            durable: a copy of ``cut`` at the durable commit; a later cut of the same object is kept.
        """
        for number, operation in durable.items():
            if self.cut.get(number) == operation:
                del self.cut[number]

    def take_trims(self) -> dict[int, tuple[int, int]]:
        """Return the trims that are to be done when the commit that is being made is durable, and clear them."""
        trims, self.trims = self.trims, {}
        return trims

    def garbage(self) -> list[int]:
        """Return the objects in ``garbage`` whose files are not deleted yet."""
        return [number for (number,) in self._db.rows("SELECT object FROM garbage") if number not in self.swept]

    def collect(self, numbers: list[int]) -> None:
        """Delete the files of garbage objects; the commit that made them garbage must be durable."""
        for number in numbers:
            if self._storage.exists(object_name(number)):
                self._unlink(number)
            elif self._storage.exists(directory := object_directory(number)):
                # a daemon may have deleted it, and been killed before it synced the directory
                self.changed_dirs.add(directory)
            self.swept.add(number)

    def forget_swept(self) -> None:
        """Delete the rows of ``garbage`` whose files are deleted; call it inside an operation before a commit.

        Objects whose deletion failed become garbage, so that a later commit tries again.  Objects that a checkpoint
        needs are none.
        """
        if self.frozen_below:
            for (number,) in self._db.rows(_NEEDED_GARBAGE):
                self._db.change(DROP_GARBAGE, (number,))
            drop_stale(self._db)
        for number in self.swept:
            self._db.change(DROP_GARBAGE, (number,))
        self._db.on_success(self.swept.clear)
        for number in self.undeleted:
            self._db.change(ADD_GARBAGE, (number,))
        self._db.on_success(self.undeleted.clear)
