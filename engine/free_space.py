"""Room: a full storage refuses what would take more of it, and never what gives some back (promise P6).

Rows are written at commit, long after their operation was acknowledged, so room for them must be there before.  What
takes space asks ``need`` first; below a margin it is refused with ENOSPC.  Removing, cutting and reverting do not ask:
their commits may use the reserve, a small file of allocated blocks that is given up when the margin is gone and made
again when there is room.  ``max_size`` bounds an overlay's bytes in the same way.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Sequence

from .errors import CommitPostponed, FsError
from .store.content_objects import ObjectStore
from .store.database import DB_NAME, Database
from .store.storage import Storage

log = logging.getLogger(__name__)

RESERVE = "reserve"
_RESERVE_MAX = 1 << 20  # bytes
_PLENTY = 16 << 20  # bytes free above which nothing is looked at closely
_MARGIN = 256 << 10  # bytes that stay free for the commit of what was acknowledged
_PER_OPERATION = 16 << 10  # bytes of log one operation may add: four pages
_LOG_STEP = 256 << 10  # bytes of log one operation may add at the very most


class FreeSpace:
    """The room left in one storage.

    Args:
        db: the overlay's database.
        storage: the storage directory.
        objects: the content objects, which count their bytes where there is a limit.
        commit: makes what is pending durable, and so its garbage free.
        max_size: most bytes the overlay may take; None for as many as there are.
    """

    def __init__(
        self, db: Database, storage: Storage, objects: ObjectStore, commit: Callable[[], None], max_size: int | None
    ) -> None:
        self._db = db
        self._storage = storage
        self._objects = objects
        self._commit = commit
        self._credit = 0
        self._reserve = min(_RESERVE_MAX, storage.room().total >> 6)
        self.max_size = max_size
        self.is_watched = False  # whether commits see to it that there is room

    def begin(self) -> None:
        """Count what there is, and make the reserve; called when what a crash has left is tidied up."""
        if self.max_size is not None:
            self._objects.count_bytes()
        if not self._db.read_only:
            self.is_watched = True
            self.after_commit()

    # -- asking

    def need(self, size: int = 0) -> None:
        """Make sure that an operation which takes *size* bytes of content, and some rows, will fit.

        Raises:
            FsError: ENOSPC.
        """
        cost = size + _PER_OPERATION
        self._credit -= cost
        if self._credit >= 0:
            return
        room = self._room()
        if room < cost:
            self._commit_pending()
            room = self._room()
            if room < cost:
                self._credit = 0
                raise FsError(errno.ENOSPC, f"storage {self._storage.path} is full")
        # measured anew before a quarter of it is used: others fill the same file system
        self._credit = room // 4 - cost

    def give_back(self) -> None:
        """Before an operation that gives space back, which is never refused: see that it can be committed.

        Where room is scarce what is pending is committed while its log still fits: many deletions in one commit would
        need more log than the reserve has.
        """
        self._credit -= _PER_OPERATION
        if self._credit >= 0:
            return
        room = self._room()
        if room > 0:
            self._credit = room // 4
            return
        reserve = self._reserve if self._storage.exists(RESERVE) else 0
        log_room = self._storage.log_bytes() + self._storage.room().available + reserve
        if self._db.commit_bytes() + _LOG_STEP > log_room:
            self._commit_pending()

    def _commit_pending(self) -> None:
        # what is pending has its log then, and what was deleted is free
        try:
            self._commit()
        except CommitPostponed as error:
            log.debug("%s", error)
        else:
            self._db.restart_log()

    def _room(self) -> int:
        # what the reserve gave up is for what gives space back
        missing = 0 if self._storage.exists(RESERVE) else self._reserve
        growth = max(0, self._db.commit_bytes() - self._storage.log_bytes())
        growth += max(0, self._db.moved_bytes() - self._storage.stat(DB_NAME).st_blocks * 512)
        return self.free() - _MARGIN - missing - growth

    def free(self) -> int:
        """Bytes that may still be used, the margin among them."""
        room = self._storage.room()
        free = room.free if os.geteuid() == 0 else room.available
        return free if self.max_size is None else max(0, min(free, self.max_size - self.used()))

    def used(self) -> int:
        """Bytes the overlay takes, where they are counted (``max_size``)."""
        return (self._objects.used or 0) + self._storage.database_bytes()

    def statfs(self) -> os.statvfs_result:
        """Figures for statfs(2): storage's own, or those of the limit."""
        figures = self._storage.statvfs()
        if self.max_size is None:
            return figures
        block = figures.f_frsize or 1
        free = self.free() // block
        changed = list(figures)
        changed[2:5] = self.max_size // block, free, min(free, self._storage.room().available // block)
        return os.statvfs_result(changed)

    # -- the reserve

    def make_room_for_commit(self, files: Sequence[tuple[int, int]]) -> None:
        """Make sure that files can grow as a commit may need, with the reserve if need be.

        Args:
            files: a descriptor of the write-ahead log and one of the database, and bytes each may take.  A log that
                cannot be moved into the database could never start over, and there may be no other room for it.

        Raises:
            OSError: ENOSPC.
        """
        room = self._storage.room()
        if room.is_known and room.available > sum(map(_missing, files)) + _PLENTY:
            return
        try:
            self._allocate(files)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._release()
            # a journalling file system gives out blocks again only when it has committed that they were freed
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
                # blocks cannot be had in advance here: that they are there must do
                if self._storage.room().free < _missing(file):
                    raise FsError(errno.ENOSPC) from error

    def _release(self) -> None:
        """Give up the reserve, if there is one."""
        if self._storage.exists(RESERVE):
            log.warning("storage %s is full; the reserve is given up until there is room", self._storage.path)
            self._storage.unlink(RESERVE)

    def after_commit(self) -> None:
        """Make the reserve if it is not there and there is plenty of room."""
        if not self.is_watched or self._storage.exists(RESERVE):
            return
        if self._storage.room().available < 2 * (self._reserve + _MARGIN):
            return
        fd = self._storage.create(RESERVE)
        try:
            self._allocate([(fd, self._reserve)])
        finally:
            os.close(fd)


def _missing(file: tuple[int, int]) -> int:
    """Bytes that a file would have to grow by."""
    fd, size = file
    return max(0, size - os.fstat(fd).st_blocks * 512)
