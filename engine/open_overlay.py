"""An open overlay without its operations: its parts and their wiring; opening, committing and closing; status.

``open`` opens storage, database and base in the right order.  The constructor makes each part after those it needs, and
at its end sets the callbacks from one part to another.  The file-system operations are in the subclass ``Overlay``
(engine/overlay.py).
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Self

import apsw

from .checkpoints import Checkpoints, is_name
from .commit import GroupCommit
from .digests import Digests
from .errors import Corrupt, FsError, NotMinifo, StateError
from .free_space import FreeSpace
from .keep_lists import KeepLists
from .model import Ino
from .mount_checks import check_nesting, check_root, first_facts, hide_storage, open_base, read_facts
from .recovery import BaseCheck, Recovery, commit_token
from .store.base_view import BaseView
from .store.content_objects import IDS_PER_OPERATION, ObjectStore
from .store.database import Database
from .store.database_file import check_header, open_database
from .store.history import History, show
from .store.invariants import Violation, check
from .store.object_paths import object_name
from .store.redo_log import RedoLog
from .store.redo_records import Encode
from .store.storage import Storage
from .tree.ancestors import Ancestors
from .tree.attributes import Attributes
from .tree.clock import Clock
from .tree.content import Content
from .tree.freed_blocks import FreedBlocks
from .tree.inode_rows import Watcher
from .tree.inodes import Inodes
from .tree.journal import Journal
from .tree.kept_nodes import keep_nodes
from .tree.merged_view import MergedView
from .tree.namespace import Namespace
from .tree.nodes import Numbers
from .tree.path_resolver import PathResolver
from .tree.ranges import Ranges
from .tree.row_checks import examine, is_checkpoint_id
from .tree.stored_bytes import StoredBytes
from .trial import Trial

if TYPE_CHECKING:
    from .durability import Durability

log = logging.getLogger(__name__)

_EXTENTS_AT_ONCE = 20_000  # extents of an orphan that one operation deletes, in about 20 ms


class OpenOverlay:
    """The parts of one open overlay."""

    def __init__(
        self,
        base: BaseView,
        storage: Storage,
        db: Database,
        *,
        max_size: int | None,
        copy_whole: bool,
        keep_origin: int,
        clock: Callable[[], int] | None,
    ) -> None:
        facts = read_facts(db, storage)
        self.base = base
        self.storage = storage
        self.db = db
        self.uuid: str = facts["uuid"]
        tell_lost = partial(_tell_lost, db, storage)
        self.objects = ObjectStore(db, storage, facts["next_object"], facts["object_limit"], tell_lost)
        self.stored = StoredBytes(db, self.objects)
        self.space = FreeSpace(db, storage, self.objects, self.commit, max_size)
        self.history = History(db)
        self._clock = Clock(clock)
        self._ancestors = Ancestors(db, base, keep_origin)
        self._copy_whole = copy_whole
        self._reaping: list[Ino] = []
        numbers = Numbers(base.root_stat, (facts["window"], facts["window_end"]))
        self._make_parts(numbers, facts["next_ino"])
        self._journal = Journal(db, self.inodes, self.merge, lambda: self.space.is_short)
        self.commits = GroupCommit(
            db, storage, self.inodes, self.objects, self.content, self._freed, self.space, self._journal.sealing
        )
        self._checkpoints = Checkpoints(
            db,
            self.objects,
            self.commits,
            self.history,
            self.space,
            self._next_ino,
            facts["window_end"],
            storage.is_held,
            self._reload,
            self._journal.did,
        )
        self._trial = Trial(db, storage, self._checkpoints)
        self._digests = Digests(db, storage, self.objects, self.commits, self.space)
        self._keep_lists = KeepLists(db, self._checkpoints)
        self._report()

    def _make_parts(self, numbers: Numbers, next_ino: int) -> None:
        """Make the parts that know rows of the database: new ones know none."""
        db, base = self.db, self.base
        self.inodes = Inodes(db, base, numbers, next_ino, self._clock, self.stored, self._ancestors)
        self.content = Content(db, base, self.inodes, self.objects, self.stored, whole=self._copy_whole)
        self.attributes = Attributes(db, base, self.inodes, self.content)
        self.merge = MergedView(db, base, self.inodes, self.content)
        self.namespace = Namespace(db, base, self.inodes, self.merge, self.stored, self.attributes)
        self._freed = FreedBlocks(db, self.inodes, self.stored.extents, self.objects)
        self.ranges = Ranges(
            db,
            base,
            self.inodes,
            self.content,
            self.objects,
            self.stored,
            self._freed,
            own_xattrs=self.attributes.own_xattrs,
            claim_space=self._claim_space,
            prepare_to_free=self._prepare_to_free,
            wrote=lambda ino, size: self._journal.wrote(ino, size),
        )

    def _report(self) -> None:
        self.db.report_to(rolled_back=self.merge.rolled_back, lost=self.commits.lose)

    def _next_ino(self) -> int:
        return self.inodes.next_ino

    def _reload(self, changed: set[int], names: set[tuple[int, bytes]]) -> None:
        """Replace the parts that know rows by new ones, after rows were brought back; the kernel's references stay.

        Args:
            changed: numbers of the objects whose rows or names may be others now.
            names: all their names, each with its directory's number.
        """
        before = self.inodes
        self._make_parts(before.numbers, before.next_ino)
        self._recovery().settle_numbers()
        keep_nodes(before, self.inodes, self.base, changed)
        self._journal.work_on(self.inodes, self.merge)
        self.commits.work_on(self.inodes, self.content, self._freed)
        self._report()
        self.inodes.watcher.lost()
        for ino in changed:
            self.inodes.watcher.dropped(Ino(ino))
        for directory, name in names:
            self.inodes.watcher.appeared(Ino(directory), name)

    def _recovery(self) -> Recovery:
        return Recovery(self.inodes, self.db, self.base, self.storage, self.objects, self.commits, self.history)

    # -- life cycle

    @classmethod
    def open(
        cls,
        base: str,
        storage: str,
        *,
        read_only: bool = False,
        clone: bool = True,
        storage_io: Callable[[str], Storage] = Storage,
        vfs: str | None = None,
        redo_directory: str | None = None,
        redo_aside: bool = False,
        max_size: int | None = None,
        copy_whole: bool = False,
        keep_origin: int = 0,
        journal: int = 0,
        base_check: BaseCheck = BaseCheck.WARN,
        clock: Callable[[], int] | None = None,
        encode: Encode | None = None,
        hidden: Iterable[str] = (),
        at: str | None = None,
    ) -> Self:
        """Open an overlay; make an empty one if the storage directory is empty.

        Args:
            base: the base directory; it is opened before the overlay is mounted, so it may become the mount point.
            storage: the storage directory.
            read_only: change nothing on disk.
            clone: False to use no private mount clone of the base (store/base_view.py).
            storage_io: the class to use in place of Storage (recorders and fault injectors in tests).
            vfs: name of a registered SQLite VFS to use (in tests); None for SQLite's own.
            redo_directory: directory for the redo log (store/redo_log.py); None for no log: then operations since the
                last commit are lost if the process is killed.
            redo_aside: if the redo log cannot be replayed, keep it under another name and go on without it.
            max_size: most bytes that the overlay may take in storage; None for no limit.
            copy_whole: copy a base file completely at its first write, so that no file depends on two versions of it.
            keep_origin: keep the base's version of a file that is changed, for merges, if it has at most so many bytes.
            journal: keep so many entries of the journal of changes (tree/journal.py); 0 to write none.
            base_check: how to handle a base that is not the one of the last mount.
            clock: returns the kernel's time in ns; None for the system's coarse clock (tree/clock.py).
            encode: encodes operations for the redo log; None for Python's own function (store/redo_records.py).
            hidden: directories that the overlay does not show; the storage is one by itself.
            at: name of a checkpoint to show, read-only, also beside a process that works on the overlay.

        Raises:
            StateError: base or storage cannot be used; nothing was changed on disk.
        """
        read_only = read_only or at is not None
        view = open_base(base, clone)
        store: Storage | None = None
        db: Database | None = None
        overlay: Self | None = None
        try:
            store = storage_io(storage)
            check_nesting(base, store)
            if not store.is_formatted:
                store.check_empty()
                if read_only:
                    raise NotMinifo(f"storage {storage} holds no overlay yet", "mount it writable first")
            elif vfs is None:
                check_header(store.database)  # before the lock is made, so that a foreign directory stays unchanged
            if at is None:
                store.lock(exclusive=not read_only)
            hide_storage(base, view, store, hidden)
            if not store.is_formatted:
                store.check_empty()  # again, because now the lock keeps other processes out
                store.format(first_facts(view), vfs)
            elif not read_only:
                store.sync_dir(".")  # a killed daemon may have made the files, and not synced their names
            # an untrusted database is copied first, so that other users cannot change it while it is read
            copy_out = None if store.is_trusted else store.copy_out
            db = open_database(store.database, read_only=read_only, vfs=vfs, copy_out=copy_out)
            if at is not None:
                db = _show_checkpoint(db, store, at)
            overlay = cls(
                view, store, db, max_size=max_size, copy_whole=copy_whole, keep_origin=keep_origin, clock=clock
            )
            check_root(db, store)
            recovery = overlay._recovery()
            recovery.check_base(base, base_check)
            redo: RedoLog | None = None
            if redo_directory is not None:
                redo = RedoLog(redo_directory, overlay.uuid, store.database, encode)
            if at is not None:
                pass  # no operation changes a checkpoint
            elif read_only:
                recovery.warn_of_redo(redo)
            else:
                recovery.clean_up(overlay.namespace, redo, aside=redo_aside)
            overlay.space.begin()
            if journal and not read_only:
                overlay._journal.begin(journal, overlay.commits.run)
        except BaseException as error:
            if overlay is not None:
                overlay.objects.close()
                overlay.commits.close()
            if db is not None:
                db.close()
            if store is not None:
                store.close()
            view.close()
            if isinstance(error, (OSError, apsw.Error)):
                hint = f"check that it can be read and written and has free space, then run: minifo-fsck {storage}"
                raise StateError(f"storage {storage} cannot be opened ({error})", hint) from error
            raise
        return overlay

    def commit(self) -> None:
        """Make all changes durable; write nothing if there are none.

        Raises:
            StateError: the commit failed; the overlay is read-only from now on.
        """
        if self.commits.is_needed:
            self.commits.run()

    def close(self) -> None:
        """Commit, and close base and storage.

        Raises:
            StateError: the last commit failed; base and storage are closed nevertheless.
        """
        try:
            while self.commits.failure is None and not self.reap_more():
                pass
            self.commit()
            self.commits.finish_all()
            if self.objects.swept and not self.db.read_only:
                with self.db.operation():
                    self.objects.forget_swept()
                self.commit()
            if not self.db.read_only and self.commits.backup.is_stale(commit_token(self.db)):
                self.commits.backup.write(in_thread=False)
        finally:
            self.objects.close()
            self.commits.close()
            self.db.close()
            self.storage.close()
            self.base.close()

    def check(self) -> list[Violation]:
        """Return all violations of invariants; an empty list for an undamaged overlay."""
        return check(self.db)

    def examine_rows(self, *, finished: bool = True) -> None:
        """Check every row of every table, before a command writes elsewhere what they say (tree/row_checks.py).

        Args:
            finished: False if an import is still filling this overlay.

        Raises:
            Corrupt: a row has an impossible value.
        """
        examine(self.db, self.storage.database, finished=finished)

    # -- deletion of large orphans

    def _reap(self, ino: Ino) -> None:
        with self.db.operation():
            done = self.namespace.reap(ino, _EXTENTS_AT_ONCE)
        if not done:
            self._reaping.append(ino)

    def reap_more(self) -> bool:
        """Delete more extents of orphans that have too many for one operation.

        After a crash the next mount deletes the rest, because the inode is still an orphan.

        Returns:
            Whether all such orphans are deleted.
        """
        if self._reaping:
            self._reap(self._reaping.pop())
        return not self._reaping

    # -- free space

    def _prepare_to_free(self) -> None:
        """Prepare for an operation that may free space: make sure that it can be committed (free_space.py)."""
        if not self.db.read_only:
            self.space.prepare_to_free()

    def _claim_space(self, size: int) -> None:
        """Check that there are space and object ids for an operation with *size* bytes of content.

        Raises:
            FsError: ENOSPC, EROFS.
        """
        if self.db.read_only:
            raise FsError(errno.EROFS)
        self.space.need(size)
        # ids beyond the committed bound must not be used: after a crash no mount would find their objects
        if self.objects.free_ids() < IDS_PER_OPERATION:
            if self.db.in_operation:  # a commit now would make half a transaction durable
                raise FsError(errno.ENOSPC)
            self.commits.run()

    # -- events and status

    @property
    def durability(self) -> Durability:
        """The group commit, for its status and its steps."""
        return self.commits

    @property
    def journal(self) -> Journal:
        """The journal of changes: a front end tells it whose request is served, and reads whether it is on."""
        return self._journal

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints, and the returns to them."""
        return self._checkpoints

    @property
    def trial(self) -> Trial:
        """The trial, after which the overlay falls back unless its changes are confirmed."""
        return self._trial

    @property
    def digests(self) -> Digests:
        """The digests of what checkpoints have frozen: a front end that is idle lets them be computed."""
        return self._digests

    @property
    def keep_lists(self) -> KeepLists:
        """The keep-lists: what a reset leaves."""
        return self._keep_lists

    @property
    def operations(self) -> int:
        """The count of operations that succeeded since the overlay was opened."""
        return self.db.operations

    def free(self) -> int:
        """Return the bytes that are free for the overlay in storage."""
        return self.space.free()

    def reserve(self, count: int) -> None:
        """Reserve ids so that *count* content objects can be made in one transaction; commit if too few are left.

        Raises:
            StateError: the commit failed; the overlay is read-only from now on.
        """
        self.commits.reserve(count)

    def transaction(self) -> AbstractContextManager[None]:
        """Return the context manager of one operation of several changes: all are undone if the block raises.

        A change in it that raises may leave a part, so the block must raise.  ``reserve`` content objects before it."""
        return self.db.operation()

    def watch(self, watcher: Watcher) -> None:
        """Set the object to call at each change of rows and names; it replaces the previous one."""
        self.inodes.watcher = watcher

    def when_dirty(self, call: Callable[[], None]) -> None:
        """Set the function to call after the first operation that follows a commit."""
        self.db.when_dirty(call)

    def when_crowded(self, limit: int, call: Callable[[], None]) -> None:
        """Set the function to call when *limit* objects are in memory."""
        self.inodes.when_crowded(limit, call)

    @property
    def known(self) -> int:
        """The count of objects in memory: those that the kernel references, and a few more."""
        return len(self.inodes)

    @property
    def generations(self) -> Mapping[Ino, int]:
        """The generations of files that a return to a checkpoint has changed; those of all others are 0."""
        return self.inodes.generations

    @property
    def linkable(self) -> Container[Ino]:
        """The files without a name that ``link`` may give one (O_TMPFILE); the container follows later changes."""
        return self.inodes.unnamed

    @property
    def storage_path(self) -> str:
        """The path of the storage directory without symlinks, for messages."""
        return self.storage.path


_FIND = "SELECT id FROM checkpoint WHERE name = ?"


def _show_checkpoint(db: Database, storage: Storage, name: str) -> Database:
    """Return a database that shows a checkpoint, and close the one that it is made from.

    Raises:
        StateError: as ``hold_checkpoint``.
    """
    try:
        number = hold_checkpoint(db, storage, name)
        shown = show(db, number)
        if shown.value(_FIND, (name,)) != number:  # deleted before it was held
            raise _missing(storage, name)
        return shown
    finally:
        db.close()


def hold_checkpoint(db: Database, storage: Storage, name: str) -> int:
    """Keep a checkpoint from being deleted until the storage is closed, and return its id.

    Args:
        db: the database; a process may work on its overlay meanwhile.
        storage: its storage directory.
        name: the checkpoint's.

    Raises:
        StateError: there is none with that name, it is damaged, or the database cannot be read beside a writer.
    """
    if not is_name(name):
        raise _missing(storage, name)
    if db.is_copy and storage.has_writer():
        raise StateError(
            f"storage {storage.path} is in use, and its file system lets one process at a time read the database",
            "unmount it first",
        )
    number = db.value(_FIND, (name,))
    if number is None:
        raise _missing(storage, name)
    if not is_checkpoint_id(number):
        raise Corrupt(f"checkpoint {name!r:.100} has {number!r:.40} as its number", f"run: minifo-fsck {storage.path}")
    storage.hold(number)
    return int(number)


def _missing(storage: Storage, name: str) -> StateError:
    return StateError(
        f"storage {storage.path} has no checkpoint {name!r:.100}", "see them: minifo checkpoint list " + storage.path
    )


def _tell_lost(db: Database, storage: Storage, number: int) -> None:
    """Log that a content object is missing, and which file it belongs to."""
    sql = "SELECT ino FROM inode WHERE object = ?1 UNION SELECT ino FROM extent WHERE object = ?1"
    ino = db.value(sql, (number,))
    path = os.fsdecode(PathResolver(db).of(ino)) if ino is not None else "a file without a name"
    if storage.is_beside:
        log.error("%s was changed while it was read: ask again", path)
        return
    log.error(
        "%s: %s is missing: reading the bytes of %s in it fails; run minifo-fsck",
        storage.path,
        object_name(number),
        path,
    )
