"""The group commit: how gathered operations become durable, in the one order that is safe.

Order is the whole point: objects durable, then rows committed, then the write-ahead log durable, then old objects
deleted.  The steps are separate so that a front end can run the slow ones in a worker thread while it answers requests:

    1. ``pending``, ``presync``  sync the objects written so far early          (presync: any thread)
    2. ``seal``                  the gate: sync the rest, COMMIT                (engine's thread, no other step between)
    3. ``harden``                fdatasync of the write-ahead log               (any thread)
    4. ``finish``                delete garbage, trim shrunk files, punch holes (engine's thread)
    5. ``relieve``               checkpoint a long log; back up the metadata    (one worker thread at a time)

SQLite resets the write-ahead log only if all of it is in the database file when a transaction begins.  Under load the
next transaction begins right after the gate, so the gate itself checkpoints the few pages that ``relieve`` has not
moved yet, between the two transactions.

``run`` does steps 2 to 4.  A failure at any step is final: the overlay becomes read-only and the error says why,
because minifo cannot know any more what the medium holds.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import secrets
import time
from collections.abc import Callable
from typing import NamedTuple

import apsw

from .errors import FULL, SHORT, CommitPostponed, FsError, Shortage, StateError
from .free_space import FreeSpace
from .store.content_objects import ObjectStore
from .store.database import DB_NAME, Database, Statement
from .store.metadata_backup import MetadataBackup
from .store.object_paths import ID_BLOCK
from .store.redo_log import RedoLog
from .store.statements import SET_FACT
from .store.storage import Storage
from .tree.content import Content
from .tree.freed_blocks import FreedBlocks
from .tree.inodes import Inodes

log = logging.getLogger(__name__)

_LONG_GATE = 0.5  # seconds; a gate that is closed for longer is logged
_WAL_PAGES = (64, 1000)  # bounds of the pages (up to 4 MB) above which the gate checkpoints the write-ahead log


class Sealed(NamedTuple):
    """A commit whose rows are in the write-ahead log, and the work that waits until that log is durable."""

    limit: int  # the first content object id that it has not reserved
    token: int
    garbage: list[int]  # objects whose files are to be deleted
    trims: dict[int, tuple[int, int]]  # as ObjectStore.trims
    cut: dict[int, int]  # as ObjectStore.cut
    operation: int  # Database.operations of the last operation in it


class GroupCommit:
    """Commits of one overlay.

    Args:
        db: the overlay's database.
        storage: the storage directory.
        inodes, objects: whose counters and files a commit makes durable.
        content, freed: which trim files and punch holes after a commit.
        space: keeps space free for a commit.
        sealing: called before each commit, to do the last operation in it.
    """

    def __init__(
        self,
        db: Database,
        storage: Storage,
        inodes: Inodes,
        objects: ObjectStore,
        content: Content,
        freed: FreedBlocks,
        space: FreeSpace,
        sealing: Callable[[], object],
    ) -> None:
        self._db = db
        self._storage = storage
        self._inodes = inodes
        self._objects = objects
        self._content = content
        self._freed = freed
        self._wal: int | None = None
        self._redo: RedoLog | None = None
        self._presyncing: set[int] = set()
        self._hardened = 0  # Database.operations of the last durable operation
        self._unfinished: list[Sealed] = []  # sealed, but not finished yet
        self.holds_up = True  # False where nobody waits for the gate, so that a long one is not worth a warning
        self.volatile = False  # True: operations since the last commit are in no redo log
        self._reserved = 0  # least count of content object ids to reserve
        self.wal_limit = _log_pages(storage)
        self._space = space
        self._sealing = sealing
        self.backup = MetadataBackup(storage, db)
        self.failure: BaseException | None = None
        self.count = 0
        self.gate_ns = 0  # how long the last commit stopped changes, in ns
        self.gate_max_ns = 0  # the longest time of all commits, in ns

    @property
    def is_needed(self) -> bool:
        """Whether there are changes that need a commit."""
        return self._db.dirty and not self._db.read_only

    # -- the redo log

    def keep_redo(self, redo: RedoLog, token: int) -> None:
        """Write all operations from now on to an empty redo log.

        If its tmpfs becomes full, ``volatile`` becomes True: the front end must then commit each operation at once.

        Args:
            redo: the log.
            token: of the last commit.
        """
        self._redo = redo
        self._begin_redo(redo, token)
        self._log_operations()

    def resume_redo(self, redo: RedoLog) -> None:
        """Append all operations from now on to a redo log that was replayed, and is needed until the next commit.

        Raises:
            OSError: the log cannot be opened.
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
            self._begin_redo(self._redo, token)  # the log lacks operations: it must start after this commit
            return
        try:
            self._redo.seal(token)
        except OSError as error:
            self._lose_redo(self._redo, error)

    def _lose_redo(self, redo: RedoLog, error: OSError) -> None:
        if not self.volatile:
            log.warning("%s: %s; every operation is committed at once until tmpfs has space", redo.path, error)
        self.volatile = True

    @property
    def keeps_redo(self) -> bool:
        """Whether there is a redo log."""
        return self._redo is not None

    @property
    def redo_path(self) -> str | None:
        """The path of the redo log, or None."""
        return self._redo.path if self._redo is not None else None

    @property
    def redo_size(self) -> int:
        """The bytes that the redo log takes now."""
        return self._redo.size if self._redo is not None else 0

    # -- the steps

    def pending(self) -> set[int]:
        """Step 1, first half: return the objects that were written since the last commit, for ``presync``."""
        self._presyncing = self._presyncing | self._objects.take_dirty()
        return self._presyncing

    def presync(self, numbers: set[int]) -> None:
        """Step 1, second half: make the objects from ``pending`` durable.  May run in any thread.

        Raises:
            CommitPostponed: descriptors or memory ran out.
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
        """Step 2, the gate: sync the objects written since ``pending``, and commit the rows; return the commit.

        The caller lets no operation run meanwhile.

        Raises:
            CommitPostponed: storage lacks space for it, or descriptors or memory ran out.
            StateError: the commit failed; the overlay is read-only from now on.
        """
        begin = time.monotonic_ns()
        # _presyncing again: another task may have called presync, which is still running
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
            self._sealing()
            self.allocate_log()
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
        if gate > _LONG_GATE * 1e9 and self.holds_up:
            log.warning("%s: a commit stopped all changes for %.1f s", self._storage.path, gate / 1e9)

    def allocate_log(self) -> None:
        """Allocate the write-ahead log's space for the commit: on a full disk SQLite would roll back everything.

        An operation that changes many rows calls it at its end, so that it is undone if it cannot be committed.

        Raises:
            CommitPostponed: there is not enough space; nothing was changed.
        """
        if not self._space.is_watched:
            return
        try:
            if self._db.file is None:
                self._db.file = self._storage.open(DB_NAME, write=True)
            if self._space.is_short:
                self._db.release_cache()  # what is in it counts as if it was changed
            files = (self._log_fd(), self._db.commit_bytes()), (self._db.file, self._db.moved_bytes())
            self._space.allocate_for_commit(files)
        except OSError as error:
            if error.errno not in FULL:
                raise
            message = f"storage {self._storage.path} is full; the changes since the last commit are not durable"
            raise CommitPostponed(message, "delete files in the overlay, or elsewhere on that file system") from error

    def _log_fd(self) -> int:
        if self._wal is None:
            self._wal = self._storage.open(DB_NAME + "-wal", write=True)
        return self._wal

    def _record(self, token: int) -> int:
        """Write the counters and *token* into ``overlay``, and reserve object ids; return the first id not reserved.

        It reserves four times as many ids as were used since the last commit, so that the next ones find enough.
        """
        objects = self._objects
        used = objects.next_object - objects.committed_next
        limit = objects.limit
        if objects.free_ids() < max(ID_BLOCK, 2 * used, self._reserved):
            limit = objects.next_object + max(2 * ID_BLOCK, 4 * used, self._reserved)
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
        """Reserve ids so that *count* content objects can be made in one transaction; commit if too few are left.

        Raises:
            StateError: the commit failed; the overlay is read-only from now on.
        """
        self._reserved = count + ID_BLOCK
        if self._objects.free_ids() < self._reserved:
            self.run()

    def harden(self) -> None:
        """Step 3: make the write-ahead log durable.  May run in any thread.

        Raises:
            StateError: the sync failed; the overlay is read-only from now on.
        """
        try:
            self._storage.sync_fd(self._log_fd())
        except OSError as error:
            raise self._fail(error) from error

    def finish(self, sealed: Sealed, seconds: float = math.inf) -> None:
        """Step 4: delete garbage, trim shrunk files and punch holes, which must wait until the commit is durable.

        Args:
            sealed: the commit, after ``harden``.
            seconds: about how long to punch holes; ``punch_holes`` punches the rest.

        Raises:
            StateError: storage failed; the overlay is read-only from now on.
        """
        self._objects.limit = max(self._objects.limit, sealed.limit)
        self._objects.forget_cuts(sealed.cut)
        self.count += 1
        try:
            self._objects.collect(sealed.garbage)
            self._content.trim(sealed.trims)
            self._hardened = sealed.operation
            self._freed.hand_back(self._hardened, seconds)
            self._space.after_commit()
        except Shortage as error:
            log.info("%s: space is freed later: %s", self._storage.path, error)
        except (OSError, apsw.Error) as error:
            raise self._fail(error) from error
        self._unfinished.remove(sealed)
        if self._redo is not None:
            try:
                self._redo.drop(sealed.token)
            except OSError as error:
                log.debug("%s cannot be shortened: %s", self._redo.path, error)

    def punch_holes(self, seconds: float) -> bool:
        """Punch the holes that ``finish`` has left.

        Args:
            seconds: about how long that may take.

        Returns:
            Whether all are punched, or cannot be for now.

        Raises:
            StateError: storage failed; the overlay is read-only from now on.
        """
        try:
            return self.failure is not None or self._freed.hand_back(self._hardened, seconds)
        except Shortage as error:
            log.info("%s: space is freed later: %s", self._storage.path, error)
            return True
        except (OSError, apsw.Error) as error:
            raise self._fail(error) from error

    def relieve(self) -> None:
        """Step 5: checkpoint the write-ahead log if it is long, and write a metadata backup if one is due.

        May run in any thread, but in one at a time.

        Raises:
            StateError: the database could not be written; the overlay is read-only from now on.
        """
        if self._db.wal_pages > self.wal_limit // 2:
            try:
                self._db.checkpoint_in_thread()
            except apsw.Error as error:
                raise self._fail(error) from error
        if self.backup.is_due():
            self.backup.write(in_thread=True)

    def finish_all(self) -> None:
        """Do the remaining steps of all commits, also of those whose task was cancelled after ``seal``.

        Raises:
            StateError: storage failed; the overlay is read-only from now on.
        """
        if self._unfinished and self.failure is None:
            self.harden()
            for sealed in list(self._unfinished):
                self.finish(sealed)
        self.punch_holes(math.inf)

    def run(self) -> None:
        """Do steps 2 to 4: all changes are durable when this returns.

        Raises:
            CommitPostponed: storage lacks space for it, or descriptors or memory ran out.
            StateError: the commit failed; the overlay is read-only from now on.
        """
        sealed = self.seal()
        self.harden()
        self.finish(sealed)

    def _postpone(self, error: BaseException) -> CommitPostponed:
        """Return the error for a commit that lacked descriptors or memory, before any step that cannot be repeated."""
        code = error.errno if isinstance(error, OSError) and error.errno else errno.ENOMEM
        message = (
            f"storage {self._storage.path}: {os.strerror(code)}; the changes since the last commit are not durable"
        )
        return CommitPostponed(message, "the daemon tries again; check ulimit -n and free memory", code)

    def _fail(self, error: BaseException, *, synced: bool = True) -> StateError:
        """Make the overlay read-only, note the failure in the redo log, and return the error to raise.

        Args:
            error: what storage answered.
            synced: False if the sync of content failed: the kernel may have dropped the pages it could not write, and
                reports that only once (fsync(2)), so a second sync would prove nothing.
        """
        self.failure = error
        self._db.read_only = True
        hint = "free or repair the storage, then unmount and mount again"
        if self._redo is not None:
            hint += f"; do not reboot before that: the changes that are not durable are in {self._redo.path}"
        failed = StateError(f"storage {self._storage.path} failed ({error}); the overlay is read-only now", hint)
        if self._redo is not None:
            failed.redo = self._redo.path
            self._note_failure(self._redo, error, synced)
        return failed

    def _note_failure(self, redo: RedoLog, error: BaseException, synced: bool) -> None:
        if synced:
            try:
                self._storage.sync_all()
                return  # the content that the redo log relies on is durable
            except OSError as sync_error:
                error = sync_error
        try:
            redo.fail(str(error))
        except OSError as log_error:
            log.error("%s: %s", redo.path, log_error)

    def lose(self, error: BaseException) -> None:
        """Make the overlay read-only, because SQLite has rolled back the changes acknowledged since the last commit."""
        log.error("%s", self._fail(error), extra={"event": "commit-failed"})

    def work_on(self, inodes: Inodes, content: Content, freed: FreedBlocks) -> None:
        """Commit these parts from now on; a rollback has put them in the place of earlier ones."""
        self._inodes, self._content, self._freed = inodes, content, freed

    def close(self) -> None:
        """Close all descriptors, and delete the redo log if everything in it is durable."""
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
    """Return whether *error* means that memory or descriptors ran out."""
    return isinstance(error, MemoryError | apsw.NoMemError) or (isinstance(error, FsError) and error.errno in SHORT)


def _log_pages(storage: Storage) -> int:
    """Return the pages of the write-ahead log above which it is checkpointed: fewer on a small file system."""
    share = storage.space().total >> 20  # a 256th of it, in pages of 4 KiB
    return min(max(share, _WAL_PAGES[0]), _WAL_PAGES[1])
