"""Content objects: plain files in storage that hold bytes, named by ids that are never used twice.

The store hands out ids, keeps a few descriptors open, and remembers what a commit must make durable first: objects that
were written (``dirty``) and directories whose entries changed.  Ids are reserved ahead by a committed upper bound
(``limit``), so that objects made after the last durable commit are found by id and swept at the next mount, without
walking the store.  An object that no commit has ever named is deleted at once; any other becomes a row of ``garbage``
and is deleted when the commit that dropped it is durable.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from ..errors import FsError
from ..model import FILE_MAX
from .database import Database
from .fd_cache import FdCache, share
from .statements import statement
from .storage import Storage

log = logging.getLogger(__name__)

LEAST_ROOM = 8  # ids one operation may need, with room to spare
ROOM = 1024  # ids in one directory, and the least that is reserved ahead
_FDS = 128
_PROBE_SIZE = 1 << 20  # bytes
# no object, or what is none
_LOST = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EMLINK, errno.EXDEV)
ADD_GARBAGE = statement("INSERT INTO garbage VALUES (?)")
DROP_GARBAGE = statement("DELETE FROM garbage WHERE object = ?")
SLOT = re.compile(r"0|[1-9a-f][0-9a-f]{0,2}")  # the name of an object in its directory
_SYNC_SINGLY = 32  # above this many files one syncfs is cheaper (26 against 1,284 ms for 1,000 on ext4)


def object_name(number: int) -> str:
    """The path of an object in storage: a directory for each 1,024 ids."""
    return f"content/{number >> 10:x}/{number & 1023:x}"


class Hole(NamedTuple):
    """A range [start, end) of an object that its file gave up, and the operation that did."""

    ino: int
    start: int
    end: int
    operation: int


class ObjectStore:
    """All content objects of one storage.

    Args:
        db: the overlay's database, for garbage rows.
        storage: the storage directory.
        next_object: next id to hand out.
        limit: first id that is not reserved by a durable commit.
        on_lost: called once for each object that is not there, with its id.
    """

    def __init__(
        self, db: Database, storage: Storage, next_object: int, limit: int, on_lost: Callable[[int], object]
    ) -> None:
        self._db = db
        self._storage = storage
        self._fds: FdCache[int] = FdCache(share(_FDS, 6))
        self._dirs: set[str] = set()
        self._can_punch = True
        self._lost: set[int] = set()
        self._on_lost = on_lost
        self.next_object = next_object
        self.limit = limit
        self.committed_next = next_object  # no id from here on is named by a durable commit
        self.dirty: set[int] = set()
        self.changed_dirs: set[str] = set()
        self.trims: dict[int, tuple[int, int]] = {}  # object: (inode, bytes that stay), when the next commit is durable
        self.holes: dict[int, list[Hole]] = {}  # to give back when the commit that gave them up is durable; in order
        self.cut: dict[int, int] = {}  # object: operation that gave up ranges of it, perhaps ones a commit has named
        self.largest = FILE_MAX  # bytes that one object may have; found out where storage refuses a longer one
        self.used: int | None = None  # bytes all objects take, where they are counted
        self.swept: set[int] = set()  # garbage whose files are gone; the rows go with the next commit
        self.undeleted: set[int] = set()  # nobody names them, but deleting failed; garbage with the next commit
        # content that rows may rely on, for the redo log (store/redo_records.py); None where there is no log
        self._notes: list[tuple[int, int]] | None = None

    # -- objects

    @property
    def has_holes(self) -> bool:
        """True if files in this storage can have holes (exFAT's cannot); tried once, inside an operation.

        Tried on an object, so that a crash leaves nothing that is not swept.
        """
        if self._storage.has_holes is None:
            number = self.create()
            self.truncate(number, _PROBE_SIZE)
            self._storage.has_holes = self.stat(number).st_blocks * 512 < _PROBE_SIZE // 2
            self.drop(number)
        return self._storage.has_holes

    def room(self) -> int:
        """How many ids may be handed out before the next commit must reserve more."""
        return self.limit - self.next_object

    def create(self) -> int:
        """Make a new, empty object.  If the running operation fails it is gone again.

        Returns:
            Its id.

        Raises:
            OSError: storage is full or cannot be written.
        """
        number = self.next_object
        if number >= self.limit:
            raise OSError(errno.ENOSPC, "no content object ids reserved")
        directory = f"content/{number >> 10:x}"
        if directory not in self._dirs:
            for parent, name in ((".", "content"), ("content", directory)):
                if not self._storage.exists(name):
                    self._storage.mkdir(name)
                # also where it exists: who made it may have been killed before it was synced
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
        if self._notes is not None:
            self._notes.append((number, size))

    def begin_notes(self) -> None:
        """From now on note what content operations rely on."""
        self._notes = []

    def take_notes(self) -> list[tuple[int, int]]:
        """The notes made since the last call."""
        notes = self._notes or []
        self._notes = []
        return notes

    def fd(self, number: int) -> int:
        """A descriptor of an object, for reading and (where storage allows it) writing; valid until the next call."""
        fd = self._fds.get(number)
        if fd is None:
            try:
                fd = self._storage.open(object_name(number), write=not self._db.read_only)
            except OSError as error:
                raise self._failed(number, error) from error
            self._fds.put(number, fd)
        return fd

    def _failed(self, number: int, error: OSError) -> OSError:
        """What a caller sees where an object cannot be reached: EIO where it is lost, and it is said once."""
        if error.errno not in _LOST:
            return error
        if number not in self._lost:
            self._lost.add(number)
            self._on_lost(number)
        return FsError(errno.EIO, object_name(number))

    def write(self, number: int, data: bytes | memoryview, offset: int) -> None:
        """Write bytes into an object; durable with the next commit."""
        self.dirty.add(number)
        fd = self.fd(number)
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

    def write_most(self, number: int, data: bytes | memoryview, offset: int) -> int:
        """The same, but for what lies beyond the largest file that storage can hold.

        Returns:
            How many bytes were written: fewer than there are where the rest needs another object.
        """
        try:
            self.write(number, data, offset)
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            # what fits was written, if any does (write(2)): it is written once more, to be sure
            done = min(len(data) - 1, max(0, self.stat(number).st_size - offset))
            self.largest = min(self.largest, offset + done)
            if done:
                self.write(number, data[:done], offset)
            return done
        return len(data)

    def clone(self, number: int, source: int) -> None:
        """Make a new object share all bytes of the file *source*, a descriptor.

        Raises:
            OSError: the file systems cannot; nothing was changed.
        """
        self._storage.clone(self.fd(number), source)

    def clone_range(self, number: int, source: int, at: int, size: int, offset: int) -> None:
        """Let a range of an object share the blocks of a range of the file *source*, a descriptor.

        Raises:
            OSError: the ranges or the file systems cannot; nothing was changed.
        """
        fd = self.fd(number)
        before = os.fstat(fd).st_blocks
        self._storage.clone_range(fd, source, at, size, offset)
        self.dirty.add(number)
        self._note(number, offset + size)
        if self.used is not None:
            self.used += (os.fstat(fd).st_blocks - before) * 512

    def truncate(self, number: int, size: int) -> None:
        """Cut or extend an object's file; never to fewer bytes than a commit has named (see ``trims``)."""
        self.dirty.add(number)
        fd = self.fd(number)
        before = os.fstat(fd).st_blocks if self.used is not None else 0
        self._storage.truncate(fd, size)
        if self.used is not None:
            self.used += (os.fstat(fd).st_blocks - before) * 512
        self._note(number, ~size)

    def allocate(self, number: int, size: int, offset: int) -> None:
        """Reserve blocks of an object; if the running operation fails none are kept beyond its end.

        Where storage cannot reserve blocks nothing happens: whoever calls has seen that there is room.

        Raises:
            OSError: ENOSPC and its kin.
        """
        self.dirty.add(number)
        fd = self.fd(number)
        before = os.fstat(fd)
        self._db.on_failure(partial(self._shed, number, before.st_size))
        # what was given up here before, and is not gone yet, is wanted again
        self._db.on_success(partial(self._keep, number))
        try:
            self._storage.allocate(fd, size, offset)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            log.debug("%s: blocks cannot be reserved here", self._storage.path)
        finally:
            if self.used is not None:
                self.used += (os.fstat(fd).st_blocks - before.st_blocks) * 512

    def _keep(self, number: int) -> None:
        self.holes.pop(number, None)

    def _shed(self, number: int, size: int) -> None:
        """Let go of blocks beyond the end of an object, reserved by an operation that failed."""
        try:
            self.truncate(number, size)
        except OSError as error:
            log.warning("%s keeps blocks it does not need: %s", object_name(number), error)

    def punch(self, number: int, size: int, offset: int) -> None:
        """Give back the blocks of a range that no row shows, where storage can do that."""
        if not self._can_punch:
            return
        self.dirty.add(number)
        fd = self.fd(number)
        before = os.fstat(fd).st_blocks
        try:
            self._storage.punch(fd, size, offset)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            self._can_punch = False
            log.info(
                "storage %s does not take ranges of files back: space comes free with whole files only",
                self._storage.path,
            )
        if self.used is not None:
            self.used += (os.fstat(fd).st_blocks - before) * 512

    def leaving(self, number: int) -> int:
        """Bytes of an object that are given up, but whose blocks are still there."""
        holes = self.holes.get(number)
        return sum(hole.end - hole.start for hole in holes) if holes else 0

    def stat(self, number: int) -> os.stat_result:
        """Attributes of an object's file."""
        fd = self._fds.get(number)
        try:
            return os.fstat(fd) if fd is not None else self._storage.stat(object_name(number))
        except OSError as error:
            raise self._failed(number, error) from error

    def drop(self, number: int) -> None:
        """Nobody names this object any more, if the running operation succeeds."""
        if number >= self.committed_next:
            self._db.on_success(partial(self._delete, number))
        else:
            self._db.change(ADD_GARBAGE, (number,))
            self._db.on_success(partial(self.dirty.discard, number))

    def _delete(self, number: int) -> None:
        """Delete an object that no commit has named: after its operation, which has succeeded or failed already."""
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
        self.changed_dirs.add(f"content/{number >> 10:x}")
        self._storage.unlink(object_name(number))
        if self.used is not None:
            self.used -= taken

    def count_bytes(self) -> None:
        """Count the bytes objects take, from now on; walks them all once."""
        self.used = sum(
            self._storage.stat(f"content/{block}/{name}").st_blocks * 512
            for block in self._storage.names("content")
            for name in self._storage.names(f"content/{block}")
        )

    # -- the commit's view

    def sync(self, numbers: set[int]) -> None:
        """Make objects durable.  Runs in a worker thread too, so it touches nothing but storage.

        An object may be deleted meanwhile, with the file it belonged to: then there is nothing left to sync.
        """
        if len(numbers) > _SYNC_SINGLY:
            self._storage.sync_all()
            return
        for number in sorted(numbers):
            try:
                self._storage.sync_file(object_name(number))
            except FileNotFoundError:
                if number in self.dirty:
                    raise

    def take_dirty(self) -> set[int]:
        """The objects written since the last call; they count as clean from now on."""
        dirty, self.dirty = self.dirty, set()
        return dirty

    def sync_entries(self) -> None:
        """Make the names of new objects durable, and the absence of deleted ones.

        The latter before the commit that forgets them: a file that comes back afterwards would never be found.
        """
        for directory in sorted(self.changed_dirs):
            self._storage.sync_dir(directory)
        self.changed_dirs.clear()

    def sweep_uncommitted(self, replayed: bool) -> None:
        """Delete objects that no commit names: exactly the range between the last id it knows and the limit.

        If there were any, the rest of the range is given up: ids are not used twice.  It does not count as used, or
        each crash would make the next range, and the next sweep, longer.

        Args:
            replayed: rows of the redo log may name some of them.
        """
        first = self.committed_next
        named: set[int] = set()
        if replayed:
            sql = "SELECT object FROM inode WHERE object >= ?1 UNION SELECT object FROM extent WHERE object >= ?1"
            named = {number for (number,) in self._db.rows(sql, (first,))}
        count = 0
        directories = [f"content/{block:x}" for block in range(first >> 10, (self.limit >> 10) + 1)]
        for directory in directories:
            for name in self._storage.names(directory):
                if not SLOT.fullmatch(name) or int(name, 16) >= ROOM:
                    continue  # no object of ours: minifo-fsck says so
                number = int(directory.rpartition("/")[2], 16) << 10 | int(name, 16)
                if number >= first and number not in named:
                    self._storage.unlink(object_name(number))
                    count += 1
        if count:
            # a killed daemon may have deleted others of them: no id of the range is looked at again
            self.changed_dirs.update(directory for directory in directories if self._storage.exists(directory))
            self.next_object = self.committed_next = self.limit

    def note_cut(self, numbers: Iterable[int]) -> None:
        """Note that the running operation gives up ranges of objects: they must stay until that is durable."""
        self.cut.update({number: self._db.operations for number in numbers if number < self.committed_next})

    def forget_cuts(self, durable: dict[int, int]) -> None:
        """Note that cuts are durable, as a commit had them; an object that was cut again since is kept."""
        for number, operation in durable.items():
            if self.cut.get(number) == operation:
                del self.cut[number]

    def take_trims(self) -> dict[int, tuple[int, int]]:
        """The trims that the commit being made drops bytes for."""
        trims, self.trims = self.trims, {}
        return trims

    def garbage(self) -> list[int]:
        """The objects that are garbage now, but for those whose files are gone already."""
        return [number for (number,) in self._db.rows("SELECT object FROM garbage") if number not in self.swept]

    def collect(self, numbers: list[int]) -> None:
        """Delete the files of objects that a durable commit has dropped."""
        for number in numbers:
            if self._storage.exists(object_name(number)):
                self._unlink(number)
            elif self._storage.exists(directory := f"content/{number >> 10:x}"):
                # who deleted it may have been killed before that was durable
                self.changed_dirs.add(directory)
            self.swept.add(number)

    def forget_swept(self) -> None:
        """Delete the garbage rows whose files are gone; inside an operation that precedes a commit.

        What could not be deleted becomes garbage, or nobody would find it again.
        """
        for number in self.swept:
            self._db.change(DROP_GARBAGE, (number,))
        self._db.on_success(self.swept.clear)
        for number in self.undeleted:
            self._db.change(ADD_GARBAGE, (number,))
        self._db.on_success(self.undeleted.clear)

    def close(self) -> None:
        """Close all descriptors."""
        self._fds.clear()
