"""Records the digests of frozen objects while an overlay is open, in batches that a front end reads when it is idle.

A batch is what one directory of content objects lacks: at most 1,024 objects, whose digests are recorded by one
operation, and so in one commit.  Batches go up by object id, so that a mount goes on where the last one has ended.
"""

from __future__ import annotations

import errno
import logging
import os

from .commit import GroupCommit
from .errors import SHORT
from .free_space import FreeSpace
from .store.content_objects import ObjectStore
from .store.database import Database
from .store.object_digests import RECORD, Digest, DigestReader
from .store.object_paths import ID_BLOCK, object_directory, object_name, object_number
from .store.storage import Storage

log = logging.getLogger(__name__)

_BATCH = 1 << 30  # bytes of content after which a batch ends, so that a cut loses no more work than that
_LAST = "SELECT max(object) FROM object_digest WHERE object < ?"


class Batch:
    """Some objects whose digests are computed.  ``advance`` may be called in any thread, one at a time.

    Args:
        storage: the storage directory.
        first, end: ids of the first object to look for, and of the first one after all of them.
        state: what must not have changed when the result is recorded.

    Attributes:
        end: the first id that is not dealt with yet.
        found: the digests that are known so far.
        is_done: whether no more are to be read.
    """

    def __init__(self, storage: Storage, first: int, end: int, state: tuple[int, int]) -> None:
        self._storage = storage
        self._first = first
        self._waiting: list[int] | None = None  # ids, the next one last; None: the directory was not read yet
        self._reader: DigestReader | None = None
        self._fd: int | None = None
        self._left = _BATCH
        self.state = state
        self.end = end
        self.found: dict[int, Digest] = {}
        self.is_done = False

    def advance(self, most: int) -> None:
        """Read on.

        Args:
            most: about how many bytes to read at most.
        """
        if self._waiting is None:
            self._waiting = self._look()
        while most > 0 and self._waiting and not self.is_done:
            read = self._read(self._waiting[-1], most)
            most -= max(read, 4096)  # to open a file takes time, too
            self._left -= read
        self.is_done = self.is_done or not self._waiting

    def _look(self) -> list[int]:
        """Return the objects in the first directory that may have some, the first one last; set ``end``."""
        blocks = (object_number(f"content/{name}", "0") for name in self._storage.names("content"))
        least = self._first - self._first % ID_BLOCK
        block = min((block for block in blocks if block is not None and least <= block < self.end), default=None)
        if block is None:
            return []
        self.end = min(self.end, block + ID_BLOCK)
        directory = object_directory(block)
        numbers = (object_number(directory, name) for name in self._storage.names(directory))
        wanted = [number for number in numbers if number is not None and self._first <= number < self.end]
        return sorted(wanted, reverse=True)

    def _read(self, number: int, most: int) -> int:
        """Read on in an object, and return how many bytes were read."""
        assert self._waiting is not None
        try:
            if self._reader is None:
                self._fd = self._storage.open_object_in_thread(object_name(number))
                os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_NOREUSE)  # programs need the page cache more
                self._reader = DigestReader(self._fd)
            read = self._reader.advance(most)
            if not self._reader.is_done:
                return read
            self.found[number] = self._reader.result()
        except OSError as error:
            read = 0
            if error.errno in SHORT:
                self.end, self.is_done = number, True  # the next batch begins with it
            elif error.errno != errno.ENOENT:  # it was garbage
                log.warning("%s cannot be read (%s); run minifo-fsck --verify-data", object_name(number), error)
        self.close()
        self._waiting.pop()
        if self._left <= read and self._waiting:
            self.end, self.is_done = number + 1, True
        return read

    def close(self) -> None:
        """Close what is being read."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd = self._reader = None


class Digests:
    """The digests of one overlay's frozen objects.

    Args:
        db: the overlay's database.
        storage: the storage directory.
        objects: the content objects.
        commits: counts the commits, after which objects may have been deleted.
        space: the free space.
    """

    def __init__(
        self, db: Database, storage: Storage, objects: ObjectStore, commits: GroupCommit, space: FreeSpace
    ) -> None:
        self._db = db
        self._storage = storage
        self._objects = objects
        self._commits = commits
        self._space = space
        self._next: int | None = None  # all objects with lesser ids were dealt with; None: not known
        self._thaws = objects.thaws  # when that was known

    @property
    def is_behind(self) -> bool:
        """Whether there may be frozen objects without a digest."""
        if self._db.read_only:
            return False
        done = self._next if self._thaws == self._objects.thaws else None
        return (done or 1) < self._objects.frozen_below

    def begin(self) -> Batch:
        """Return the next batch, while ``is_behind``.

        Raises:
            OSError: ENOSPC if there is no room to record it, or the database cannot be read.
        """
        self._space.need(anew=True)
        frozen = self._objects.frozen_below
        if self._next is None or self._thaws != self._objects.thaws:
            self._thaws = self._objects.thaws
            # an object with a lesser id that has none could not be read; minifo-fsck tells
            last = self._db.value(_LAST, (frozen,))
            self._next = max(1, last + 1) if isinstance(last, int) else 1
        return Batch(self._storage, self._next, frozen, (self._thaws, self._commits.count))

    def record(self, batch: Batch) -> None:
        """Record what a batch has found; the next commit makes it durable.

        Raises:
            OSError: the database cannot be written.
        """
        thaws, commits = batch.state
        if thaws != self._objects.thaws:
            return  # some of its objects may have been written meanwhile, and frozen again
        found = sorted(batch.found.items())
        if commits != self._commits.count:
            found = [(number, digest) for number, digest in found if self._storage.exists(object_name(number))]
        if found:
            with self._db.operation():
                for number, digest in found:
                    self._db.change(RECORD, (number, *digest))
        self._next = batch.end
