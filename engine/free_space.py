"""Free space: a full storage refuses operations that take space, but never those that free some (promise P6).

Rows are written at the commit, long after their operation was acknowledged, so the space for them must be known to be
free before.  An operation that takes space calls ``need`` first, which refuses it with ENOSPC if less than a margin
would stay free.  Unlink, truncate and the like call ``prepare_to_free`` instead: their commits may use the reserve, a
small file of allocated blocks, which is deleted when the margin is used up and made again when there is space.
``max_size`` limits the overlay's bytes in the same way.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Sequence

from .errors import FULL, CommitPostponed, FsError
from .store.content_objects import ObjectStore
from .store.database import DB_NAME, Database
from .store.storage import Storage

log = logging.getLogger(__name__)

RESERVE = "reserve"
_RESERVE_MAX = 1 << 20  # bytes
_PLENTY = 16 << 20  # bytes free beyond a commit's needs, above which no blocks are allocated for it in advance
_MARGIN = 256 << 10  # bytes that stay free for the commit of acknowledged operations
_PER_OPERATION = 16 << 10  # bytes that an operation usually adds to the write-ahead log: four pages
_LOG_STEP = 256 << 10  # most bytes that any operation can add to the write-ahead log


class FreeSpace:
    """The free space for one overlay.

    Args:
        db: the overlay's database.
        storage: the storage directory.
        objects: the content objects; with *max_size* they count their bytes.
        commit: commits all pending operations, which frees the space of deleted objects.
        max_size: most bytes that the overlay may take; None for no limit.
    """

    def __init__(
        self, db: Database, storage: Storage, objects: ObjectStore, commit: Callable[[], None], max_size: int | None
    ) -> None:
        self._db = db
        self._storage = storage
        self._objects = objects
        self._commit = commit
        self._credit = 0  # bytes that operations may take before the free space is measured again
        self._reserve = min(_RESERVE_MAX, storage.space().total >> 6)
        self.max_size = max_size
        self.is_watched = False  # whether commits check the space and keep the reserve
        self.is_short = False  # whether there was no room but for operations that free some, when it was last measured

    def begin(self) -> None:
        """Count the bytes of content objects if needed, and make the reserve.  Call it after recovery."""
        if self.max_size is not None:
            self._objects.count_bytes()
        if not self._db.read_only:
            self.is_watched = True
            self.after_commit()

    # -- asking

    def need(self, size: int = 0, *, anew: bool = False) -> None:
        """Check that there is space for an operation with *size* bytes of content and some rows.

        Args:
            size: as above.
            anew: measure the free space now, even if an earlier measurement would allow the operation.

        Raises:
            FsError: ENOSPC if there is not, even after a commit.
        """
        cost = size + _PER_OPERATION
        if anew:
            self._credit = 0
        self._credit -= cost
        if self._credit >= 0:
            return
        usable = self._usable()
        if usable < cost:
            self._commit_pending()
            usable = self._usable()
            if usable < cost:
                self._credit = 0
                self.is_short = True
                raise FsError(errno.ENOSPC, f"storage {self._storage.path} is full")
        self.is_short = False
        # measured again after a quarter of it, because other processes fill the same file system
        self._credit = usable // 4 - cost

    def prepare_to_free(self) -> None:
        """Prepare for an operation that frees space: make sure that it can be committed.  Never refuses.

        If space is scarce, commit the pending operations while the write-ahead log still fits: many deletions in one
        commit could need more log than the reserve has.
        """
        self._credit -= _PER_OPERATION
        if self._credit >= 0:
            return
        usable = self._usable()
        self.is_short = usable <= 0
        if usable > 0:
            self._credit = usable // 4
            return
        reserve = self._reserve if self._storage.exists(RESERVE) else 0
        log_max = self._storage.log_bytes() + self._storage.space().available + reserve
        if self._db.commit_bytes() + _LOG_STEP > log_max:
            self._commit_pending()

    def prepare_for_much(self) -> None:
        """Prepare for an operation that may change many rows and is never refused; call it right after a commit.

        If space is scarce, the whole write-ahead log is made free for it.

        Raises:
            FsError: reading or writing failed.
        """
        self._credit = 0
        self.is_short = self._usable() <= 0
        if self.is_short:
            self._db.restart_log()

    def _commit_pending(self) -> None:
        """Commit the pending operations, which frees the space of deleted objects, and empty the write-ahead log.

        Within a transaction nothing is committed: what it has done so far may still be undone.
        """
        if self._db.in_operation:
            return
        try:
            self._commit()
        except CommitPostponed as error:
            log.debug("%s", error)
        else:
            self._db.restart_log()

    def _usable(self) -> int:
        """Return the bytes that operations may take now, without those that the pending commit and the margin need."""
        # a reserve that was deleted is kept free for operations that free space
        missing = 0 if self._storage.exists(RESERVE) else self._reserve
        growth = max(0, self._db.commit_bytes() - self._storage.log_bytes())
        growth += max(0, self._db.moved_bytes() - self._storage.stat(DB_NAME).st_blocks * 512)
        return self.free() - _MARGIN - missing - growth

    def free(self) -> int:
        """Return the bytes that are free for the overlay, the margin included."""
        space = self._storage.space()
        free = space.free if os.geteuid() == 0 else space.available
        return free if self.max_size is None else max(0, min(free, self.max_size - self.used()))

    def used(self) -> int:
        """Return the bytes that the overlay takes; only with ``max_size`` its content objects are counted."""
        return (self._objects.used or 0) + self._storage.database_bytes()

    def statfs(self) -> os.statvfs_result:
        """Return the figures for statfs(2): those of storage's file system, or of ``max_size``."""
        figures = self._storage.statvfs()
        if self.max_size is None:
            return figures
        block = figures.f_frsize or 1
        free = self.free() // block
        changed = list(figures)
        changed[2:5] = self.max_size // block, free, min(free, self._storage.space().available // block)
        return os.statvfs_result(changed)

    # -- the reserve

    def allocate_for_commit(self, files: Sequence[tuple[int, int]]) -> None:
        """Allocate the blocks that a commit may need, deleting the reserve if there is no other space.

        Args:
            files: for the write-ahead log and the database: a descriptor, and the most bytes that the file may take.
                The database is included because a log that cannot be checkpointed into it could never be reset.

        Raises:
            OSError: ENOSPC or EDQUOT: there is not enough space.
        """
        space = self._storage.space()
        if space.is_known and space.available > sum(map(_missing, files)) + _PLENTY:
            return
        try:
            self._allocate(files)
        except OSError as error:
            if error.errno not in FULL:
                raise
            self._release()
            # a journalling file system reuses freed blocks only after it has committed that they are free
            self._storage.sync_all()
            self._allocate(files)

    def _allocate(self, files: Sequence[tuple[int, int]]) -> None:
        for file in files:
            fd, size = file
            try:
                self._storage.allocate(fd, size)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                # this file system cannot allocate in advance; free space must suffice
                if self._storage.space().free < _missing(file):
                    raise FsError(errno.ENOSPC) from error

    def _release(self) -> None:
        """Delete the reserve, if it exists."""
        if self._storage.exists(RESERVE):
            log.warning(
                "storage %s is full; its reserve is used until there is space again",
                self._storage.path,
                extra={"event": "storage-full"},
            )
            self._storage.unlink(RESERVE)

    def after_commit(self) -> None:
        """Make the reserve, if it does not exist and at least twice its size and the margin is free."""
        if not self.is_watched or self._storage.exists(RESERVE):
            return
        if self._storage.space().available < 2 * (self._reserve + _MARGIN):
            return
        fd = self._storage.create(RESERVE)
        try:
            self._allocate([(fd, self._reserve)])
        finally:
            os.close(fd)


def _missing(file: tuple[int, int]) -> int:
    """Return how many bytes must be allocated so that a file, given by descriptor, can have a size, in bytes."""
    fd, size = file
    return max(0, size - os.fstat(fd).st_blocks * 512)
