"""The group commit: how gathered operations become durable, in the one order that is safe.

Order is the whole point: objects durable, then rows committed, then the write-ahead log durable, then old objects
deleted.  The steps are separate so that a front end can run the slow ones in a worker thread while requests go on:

    1. ``pending``, ``presync``  objects written so far are synced early       (presync: any thread)
    2. ``seal``                  the gate: sync the rest, COMMIT                (engine's thread, nothing in between)
    3. ``harden``                fdatasync of the write-ahead log               (any thread)
    4. ``finish``                delete garbage, trim shrunk files, punch holes (engine's thread)
    5. ``relieve``               move a long log into the database; copy names  (one worker thread at a time)

A log starts over only if all of it is in the database when a transaction begins.  Under load one begins right after the
gate, so what ``relieve`` has not moved yet is moved in the gate, between two transactions; that is little.

``run`` does the first four in a row.  A failure at any step is final: the overlay turns read-only and says why, for
what the medium holds is not known any more, and it does not guess.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import secrets
import time
from typing import NamedTuple

import apsw

from .errors import SHORT, CommitPostponed, FsError, Shortage, StateError
from .free_space import FreeSpace
from .store.content_objects import ROOM, ObjectStore
from .store.database import DB_NAME, Database, Statement
from .store.metadata_backup import MetadataBackup
from .store.redo_log import RedoLog
from .store.statements import SET_FACT
from .store.storage import Storage
from .tree.content import Content
from .tree.inodes import Inodes
from .tree.ranges import Ranges

log = logging.getLogger(__name__)

_LONG_GATE = 0.5  # seconds; a gate that was closed for longer is worth a line in the log
_WAL_PAGES = (64, 1000)  # least and most pages, up to 4 MB, above which the log is moved into the database


class Sealed(NamedTuple):
    """A commit whose rows are in the log: what is to be done once the log is durable."""

    limit: int
    token: int
    garbage: list[int]
    trims: dict[int, tuple[int, int]]
    cut: dict[int, int]
    operation: int  # the last one in it


class GroupCommit:
    """Commits of one overlay.

    Args:
        db: the overlay's database.
        storage: the storage directory.
        inodes, objects, content, ranges: what a commit takes along or tidies up after.
        space: sees that there is room for a commit.
    """

    def __init__(
        self,
        db: Database,
        storage: Storage,
        inodes: Inodes,
        objects: ObjectStore,
        content: Content,
        ranges: Ranges,
        space: FreeSpace,
    ) -> None:
        self._db = db
        self._storage = storage
        self._inodes = inodes
        self._objects = objects
        self._content = content
        self._ranges = ranges
        self._wal: int | None = None
        self._redo: RedoLog | None = None
        self._presyncing: set[int] = set()
        self._hardened = 0  # the last operation that is durable
        self._unfinished: list[Sealed] = []  # committed, but perhaps not durable yet
        self.volatile = False
        self._reserved = 0  # content object ids to reserve at least
        self.wal_limit = _log_pages(storage)
        self._space = space
        self.names = MetadataBackup(storage, db)
        self.failure: BaseException | None = None
        self.count = 0
        self.gate_ns = 0  # how long the last commit held changes, in ns
        self.gate_max_ns = 0  # the longest of all

    @property
    def is_needed(self) -> bool:
        """True while changes wait for a commit."""
        return self._db.dirty and not self._db.read_only

    # -- the redo log

    def keep_redo(self, redo: RedoLog, token: int) -> None:
        """From now on log every operation; the last commit was that of *token*.

        Where the log's memory is used up, ``volatile`` turns true: then each operation needs a commit of its own.
        """
        self._redo = redo
        self._begin_redo(redo, token)
        self._log_operations()

    def resume_redo(self, redo: RedoLog) -> None:
        """The same for a log that was just replayed: it is needed until that is committed.

        Raises:
            OSError: the log cannot be opened any more.
        """
        redo.resume()
        self._redo = redo
        self._log_operations()

    def _log_operations(self) -> None:
        self._objects.begin_notes()
        self._db.log_operations(self._log)

    def _begin_redo(self, redo: RedoLog, token: int) -> None:
        try:
            redo.begin(token)
            self.volatile = False
        except OSError as error:
            self._lose_redo(redo, error)

    def _log(self, statements: list[Statement]) -> None:
        notes = self._objects.take_notes()
        if self._redo is not None and not self.volatile:
            try:
                self._redo.append(statements, self._inodes.next_ino, self._objects.next_object, notes)
            except OSError as error:
                self._lose_redo(self._redo, error)

    def _seal_redo(self, token: int) -> None:
        if self._redo is None:
            return
        if self.volatile:
            self._begin_redo(self._redo, token)  # operations are missing in it: it cannot lead to this commit
            return
        try:
            self._redo.seal(token)
        except OSError as error:
            self._lose_redo(self._redo, error)

    def _lose_redo(self, redo: RedoLog, error: OSError) -> None:
        if not self.volatile:
            log.warning("%s: %s; every operation is committed by itself until there is room", redo.path, error)
        self.volatile = True

    @property
    def keeps_redo(self) -> bool:
        """True if there is a redo log."""
        return self._redo is not None

    @property
    def redo_path(self) -> str | None:
        """Where the redo log is, if there is one."""
        return self._redo.path if self._redo is not None else None

    @property
    def redo_size(self) -> int:
        """Bytes the redo log takes now."""
        return self._redo.size if self._redo is not None else 0

    # -- the steps

    def pending(self) -> set[int]:
        """Step 1, first half: take the objects written so far."""
        self._presyncing = self._presyncing | self._objects.take_dirty()
        return self._presyncing

    def presync(self, numbers: set[int]) -> None:
        """Step 1, second half: make them durable; in any thread.

        Raises:
            CommitPostponed: there is too little of something just now.
            StateError: a sync failed; the overlay is read-only from now on.
        """
        try:
            self._objects.sync(numbers)
        except Shortage as error:
            raise self._postpone(error) from error
        except OSError as error:
            raise self._fail(error, synced=False) from error
        self._presyncing = set()

    def seal(self) -> Sealed:
        """Step 2: sync what was written meanwhile, and commit the rows.  Nothing may come in between.

        Raises:
            CommitPostponed: there is no room for it now, or too little of something else.
            StateError: the commit failed; the overlay is read-only from now on.
        """
        begin = time.monotonic_ns()
        # a commit may overtake another whose early syncs are still under way
        written = self._objects.take_dirty() | self._presyncing
        try:
            self._objects.sync(written)
        except Shortage as error:
            self._objects.dirty |= written
            raise self._postpone(error) from error
        except OSError as error:
            raise self._fail(error, synced=False) from error
        try:
            self._objects.sync_entries()
            self._make_room()
            token = secrets.randbits(62)
            limit = self._record(token)
            garbage = self._objects.garbage()
            self._db.commit()
            if self._db.wal_pages > self.wal_limit:
                self._db.checkpoint()
        except (OSError, apsw.Error, MemoryError) as error:
            if _is_short(error) and self._db.in_transaction:
                raise self._postpone(error) from error
            raise self._fail(error) from error
        trims, cut = self._objects.take_trims(), dict(self._objects.cut)
        self._objects.committed_next = self._objects.next_object
        self._seal_redo(token)
        sealed = Sealed(limit, token, garbage, trims, cut, self._db.operations)
        self._unfinished.append(sealed)
        self._measure(time.monotonic_ns() - begin)
        return sealed

    def _measure(self, gate: int) -> None:
        self.gate_ns = gate
        self.gate_max_ns = max(self.gate_max_ns, gate)
        if gate > _LONG_GATE * 1e9:
            log.warning("%s: a commit held all changes for %.1f s", self._storage.path, gate / 1e9)

    def _make_room(self) -> None:
        """See that the log can take the commit: on a full disk SQLite would roll everything back.

        Raises:
            CommitPostponed: there is no room; everything stays as it is.
        """
        if not self._space.is_watched:
            return
        try:
            if self._db.file is None:
                self._db.file = self._storage.open(DB_NAME, write=True)
            files = (self._log_fd(), self._db.commit_bytes()), (self._db.file, self._db.moved_bytes())
            self._space.make_room_for_commit(files)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            message = f"storage {self._storage.path} is full; what was done since the last commit is not durable"
            raise CommitPostponed(message, "delete something, there or in the overlay") from error

    def _log_fd(self) -> int:
        if self._wal is None:
            self._wal = self._storage.open(DB_NAME + "-wal", write=True)
        return self._wal

    def _record(self, token: int) -> int:
        """Write the counters into ``overlay``, and reserve object ids well ahead of what was used since last time."""
        objects = self._objects
        used = objects.next_object - objects.committed_next
        limit = objects.limit
        if objects.room() < max(ROOM, 2 * used, self._reserved):
            limit = objects.next_object + max(2 * ROOM, 4 * used, self._reserved)
        facts = (
            ("next_ino", self._inodes.next_ino),
            ("next_object", objects.next_object),
            ("object_limit", limit),
            ("commit_token", token),
        )
        with self._db.operation():
            objects.forget_swept()
            for key, value in facts:
                self._db.change(SET_FACT, (key, value))
        return limit

    def reserve(self, count: int) -> None:
        """See that *count* content objects can be made in one transaction, by a commit where too few ids are left.

        Raises:
            StateError: that commit failed.
        """
        self._reserved = count + ROOM
        if self._objects.room() < self._reserved:
            self.run()

    def harden(self) -> None:
        """Step 3: make the log durable; in any thread.

        Raises:
            StateError: the sync failed; the overlay is read-only from now on.
        """
        try:
            self._storage.sync_fd(self._log_fd())
        except OSError as error:
            raise self._fail(error) from error

    def finish(self, sealed: Sealed, seconds: float = math.inf) -> None:
        """Step 4: what only a durable commit allows.

        Args:
            sealed: the commit.
            seconds: how long blocks may be given back, about; ``give_back`` goes on with it.
        """
        self._objects.limit = max(self._objects.limit, sealed.limit)
        self._objects.forget_cuts(sealed.cut)
        self.count += 1
        try:
            self._objects.collect(sealed.garbage)
            self._content.trim(sealed.trims)
            self._hardened = sealed.operation
            self._ranges.hand_back(self._hardened, seconds)
            self._space.after_commit()
        except Shortage as error:
            log.info("%s: space is given back later: %s", self._storage.path, error)
        except (OSError, apsw.Error) as error:
            raise self._fail(error) from error
        self._unfinished.remove(sealed)
        if self._redo is not None:
            try:
                self._redo.drop(sealed.token)
            except OSError as error:
                log.debug("%s stays as long as it is: %s", self._redo.path, error)

    def give_back(self, seconds: float) -> bool:
        """Go on giving back blocks that durable commits have freed.

        Args:
            seconds: how long that may take, about.

        Returns:
            False if there are more.

        Raises:
            StateError: storage failed; the overlay is read-only from now on.
        """
        try:
            return self.failure is not None or self._ranges.hand_back(self._hardened, seconds)
        except Shortage as error:
            log.info("%s: space is given back later: %s", self._storage.path, error)
            return True
        except (OSError, apsw.Error) as error:
            raise self._fail(error) from error

    def relieve(self) -> None:
        """Step 5: move the log into the database if it has become long, and copy names if much was committed.

        In any thread, but in one at a time.

        Raises:
            StateError: the database could not be written; the overlay is read-only from now on.
        """
        if self._db.wal_pages > self.wal_limit // 2:
            try:
                self._db.checkpoint_aside()
            except apsw.Error as error:
                raise self._fail(error) from error
        if self.names.is_due():
            self.names.write(aside=True)

    def settle(self) -> None:
        """See that every commit is durable, those included whose later steps were never done."""
        if self._unfinished and self.failure is None:
            self.harden()
            for sealed in list(self._unfinished):
                self.finish(sealed)
        self.give_back(math.inf)

    def run(self) -> None:
        """All steps in a row: durable when it returns."""
        sealed = self.seal()
        self.harden()
        self.finish(sealed)

    def _postpone(self, error: BaseException) -> CommitPostponed:
        """Put a commit off that met a shortage before anything was done that cannot be done again."""
        code = error.errno if isinstance(error, OSError) and error.errno else errno.ENOMEM
        message = (
            f"storage {self._storage.path}: {os.strerror(code)}; what was done since the last commit is not durable"
        )
        return CommitPostponed(message, "it is tried again; see ulimit -n and free memory", code)

    def _fail(self, error: BaseException, *, synced: bool = True) -> StateError:
        """Turn read-only.

        Args:
            error: what the storage answered.
            synced: False where that was the answer to syncing content: the kernel may have dropped what it could not
                write, and says so once only.
        """
        self.failure = error
        self._db.read_only = True
        hint = "free or repair the storage, then unmount and mount again"
        if self._redo is not None:
            hint += f"; until then do not restart this machine: what is not durable is in {self._redo.path}"
        failed = StateError(f"storage {self._storage.path} failed ({error}); the overlay is read-only now", hint)
        if self._redo is not None:
            failed.redo = self._redo.path
            self._note_failure(self._redo, error, synced)
        return failed

    def _note_failure(self, redo: RedoLog, error: BaseException, synced: bool) -> None:
        if synced:
            try:
                self._storage.sync_all()
                return  # what the log relies on is there
            except OSError as again:
                error = again
        try:
            redo.fail(str(error))
        except OSError as full:
            log.error("%s: %s", redo.path, full)

    def lose(self, error: BaseException) -> None:
        """Turn read-only, for SQLite has rolled back what was acknowledged since the last commit."""
        log.error("%s", self._fail(error))

    def close(self) -> None:
        """Give up descriptors; the redo log goes too, if everything in it is durable."""
        if self._redo is not None:
            if self.is_needed or self.failure is not None:
                self._redo.close()
            else:
                self._redo.remove()
            self._redo = None
        if self._wal is not None:
            os.close(self._wal)
            self._wal = None


def _is_short(error: BaseException) -> bool:
    """True if memory or descriptors ran out, which passes."""
    return isinstance(error, MemoryError | apsw.NoMemError) or (isinstance(error, FsError) and error.errno in SHORT)


def _log_pages(storage: Storage) -> int:
    """How many pages the log may have: fewer where storage is small."""
    share = storage.room().total >> 20  # a 256th of it, in pages
    return min(max(share, _WAL_PAGES[0]), _WAL_PAGES[1])
