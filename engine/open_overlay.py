"""An overlay as a whole: its parts and how they are wired; opening, committing and closing; what is told of it.

It opens storage, database and base in the right order.  The parts are made in the order in which they need each other,
each with all that it needs; what follows what happens in another part is named in one place, at the end of the
constructor.  The operations are those of ``Overlay`` (engine/overlay.py).
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Container
from contextlib import AbstractContextManager
from functools import partial
from typing import Self

import apsw

from .commit import GroupCommit
from .durability import Durability
from .errors import FsError, NotMinifo, StateError
from .free_space import FreeSpace
from .model import Ino
from .mount_checks import check_nesting, first_facts, hide_storage, open_base, read_facts
from .recovery import BaseCheck, Recovery, commit_token
from .store.base_view import BaseView
from .store.content_objects import LEAST_ROOM, ObjectStore, object_name
from .store.database import Database
from .store.database_file import check_header, open_database
from .store.invariants import Violation, check
from .store.redo_log import RedoLog
from .store.storage import Storage
from .tree.ancestors import Ancestors
from .tree.attributes import Attributes
from .tree.clock import Clock
from .tree.content import Content
from .tree.freed_blocks import FreedBlocks
from .tree.inode_rows import Watcher
from .tree.inodes import Inodes
from .tree.merged_view import MergedView
from .tree.namespace import Namespace
from .tree.nodes import Numbers
from .tree.path_resolver import PathResolver
from .tree.ranges import Ranges
from .tree.row_checks import examine
from .tree.stored_bytes import StoredBytes

log = logging.getLogger(__name__)

_AT_A_TIME = 20_000  # extents of an orphan that are deleted in one go: 20 ms


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
        numbers = Numbers(base.root_stat, (facts["window"], facts["window_end"]))
        ancestors = Ancestors(db, base, keep_origin)
        self.inodes = Inodes(db, base, numbers, facts["next_ino"], Clock(clock), self.stored, ancestors)
        self.content = Content(db, base, self.inodes, self.objects, self.stored, whole=copy_whole)
        self.attributes = Attributes(db, base, self.inodes, self.content)
        self.merge = MergedView(db, base, self.inodes, self.content)
        self.namespace = Namespace(db, base, self.inodes, self.merge, self.stored, self.attributes)
        freed = FreedBlocks(db, self.inodes, self.stored.extents, self.objects)
        self.ranges = Ranges(
            db,
            base,
            self.inodes,
            self.content,
            self.objects,
            self.stored,
            freed,
            own_xattrs=self.attributes.own_xattrs,
            make_room=self._make_room,
            give_back=self._give_back,
        )
        self._reaping: list[Ino] = []
        self.space = FreeSpace(db, storage, self.objects, self.commit, max_size)
        self.commits = GroupCommit(db, storage, self.inodes, self.objects, self.content, freed, self.space)
        db.report_to(rolled_back=self.inodes.rolled_back, lost=self.commits.lose)

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
        base_check: BaseCheck = BaseCheck.WARN,
        clock: Callable[[], int] | None = None,
    ) -> Self:
        """Open an overlay, making an empty one in an empty storage directory.

        Args:
            base: the base directory; opened before anything is mounted, so it may become the mount point.
            storage: the storage directory.
            read_only: change nothing on disk.
            clone: False to do without the private mount clone of the base (store/base_view.py).
            redo_directory: where the redo log is kept (store/redo_log.py); None: operations since the last commit are
                lost with the process.
            redo_aside: go on without a redo log that cannot be replayed; it is kept under another name.
            max_size: most bytes the overlay may take in storage; None for as many as there are.
            copy_whole: copy base files wholly at their first write, so that none ever depends on two versions.
            keep_origin: largest base file, in bytes, of which the version that is changed is kept for merges.
            base_check: what becomes of a mount over another base than last time.
            clock: the kernel's clock, in ns; None for the system's coarse one (tree/clock.py).
            storage_io: stands in for storage I/O (recorders and fault injectors).
            vfs: stands in for SQLite's I/O, the name of a registered VFS.

        Raises:
            StateError: base or storage cannot be used; nothing was changed on disk.
        """
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
                    raise NotMinifo(f"storage {storage} holds no overlay yet", "mount it writable once")
            elif vfs is None:
                check_header(store.database)  # before the lock file, so that nothing is left in what is not ours
            store.lock(exclusive=not read_only)
            hide_storage(base, view, store)
            if not store.is_formatted:
                store.check_empty()  # again, now that nobody else can change it
                store.format(first_facts(view), vfs)
            elif not read_only:
                store.sync_dir(".")  # who made the files here may have been killed before their names were durable
            # of what others may write to, a state is read that they cannot change meanwhile
            fetch = None if store.is_trusted else store.fetch
            db = open_database(store.database, read_only=read_only, vfs=vfs, fetch=fetch)
            overlay = cls(
                view, store, db, max_size=max_size, copy_whole=copy_whole, keep_origin=keep_origin, clock=clock
            )
            recovery = Recovery(overlay.inodes, db, view, store, overlay.objects, overlay.commits)
            recovery.meet_base(os.path.realpath(base), base_check)
            redo = RedoLog(redo_directory, overlay.uuid, store.database) if redo_directory is not None else None
            if read_only:
                recovery.tell_waiting(redo)
            else:
                recovery.tidy(overlay.namespace, redo, aside=redo_aside)
            overlay.space.begin()
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
                hint = f"see that it can be read and written and has room, then run: minifo-fsck {storage}"
                raise StateError(f"storage {storage} cannot be opened ({error})", hint) from error
            raise
        return overlay

    def commit(self) -> None:
        """Make everything done so far durable; nothing is written if nothing changed.

        Raises:
            StateError: the commit failed; the overlay is read-only from now on.
        """
        if self.commits.is_needed:
            self.commits.run()

    def close(self) -> None:
        """Commit, and let go of base and storage.

        Raises:
            StateError: the last commit failed; everything is closed all the same.
        """
        try:
            while self.commits.failure is None and not self.reap_more():
                pass
            self.commit()
            self.commits.settle()
            if self.objects.swept and not self.db.read_only:
                with self.db.operation():
                    self.objects.forget_swept()
                self.commit()
            if not self.db.read_only and self.commits.names.is_stale(commit_token(self.db)):
                self.commits.names.write(in_thread=False)
        finally:
            self.objects.close()
            self.commits.close()
            self.db.close()
            self.storage.close()
            self.base.close()

    def check(self) -> list[Violation]:
        """Everything that breaks an invariant; empty for a sound overlay."""
        return check(self.db)

    def examine_rows(self, *, finished: bool = True) -> None:
        """Look at every row of every table, before what it says is written elsewhere (tree/row_checks.py).

        Args:
            finished: False for an overlay that an import is still making.

        Raises:
            Corrupt: a row says what cannot be.
        """
        examine(self.db, self.storage.database, finished=finished)

    # -- deleting what takes long

    def _reap(self, ino: Ino) -> None:
        with self.db.operation():
            done = self.namespace.reap(ino, _AT_A_TIME)
        if not done:
            self._reaping.append(ino)

    def reap_more(self) -> bool:
        """Go on deleting orphans that have more extents than others can wait for.

        What a crash leaves of one is an orphan still, and swept at the next mount.

        Returns:
            False if there are more.
        """
        if self._reaping:
            self._reap(self._reaping.pop())
        return not self._reaping

    # -- room

    def _give_back(self) -> None:
        """Before an operation that may give space back: see that it can be committed."""
        if not self.db.read_only:
            self.space.give_back()

    def _make_room(self, size: int) -> None:
        """Before an operation that takes *size* bytes: see that it will fit, and that object ids are left."""
        if self.db.read_only:
            raise FsError(errno.EROFS)
        self.space.need(size)
        # ids beyond the committed bound must not be used, or a crash would leave objects nobody finds
        if self.objects.room() < LEAST_ROOM:
            self.commits.run()

    # -- events and status

    @property
    def durability(self) -> Durability:
        """The group commit: its status, and its steps one by one."""
        return self.commits

    @property
    def operations(self) -> int:
        """How many operations have succeeded since the overlay was opened."""
        return self.db.operations

    def free(self) -> int:
        """Bytes that the overlay may still take in storage."""
        return self.space.free()

    def reserve(self, count: int) -> None:
        """See that *count* content objects can be made in one transaction, by a commit if need be.

        Raises:
            StateError: that commit failed.
        """
        self.commits.reserve(count)

    def transaction(self) -> AbstractContextManager[None]:
        """A block in which several changes are one operation: all of them happen, or none if it raises."""
        return self.db.operation()

    def watch(self, watcher: Watcher) -> None:
        """Tell *watcher*, and nothing else, of each change of rows and names from now on."""
        self.inodes.watcher = watcher

    def when_dirty(self, call: Callable[[], None]) -> None:
        """Call *call* whenever the first change after a commit was made."""
        self.db.when_dirty(call)

    def when_crowded(self, limit: int, call: Callable[[], None]) -> None:
        """Call *call* whenever the number of known objects reaches *limit*."""
        self.inodes.when_crowded(limit, call)

    @property
    def known(self) -> int:
        """How many objects are known: those that the kernel refers to, and a few more."""
        return len(self.inodes)

    @property
    def linkable(self) -> Container[Ino]:
        """The files that were made without a name and may still be given one (O_TMPFILE), as it is at any time."""
        return self.inodes.unnamed

    @property
    def storage_path(self) -> str:
        """True path of the storage directory, for messages."""
        return self.storage.path


def _tell_lost(db: Database, storage: Storage, number: int) -> None:
    """Say in the log that a content object is lost, and whose bytes those were."""
    sql = "SELECT ino FROM inode WHERE object = ?1 UNION SELECT ino FROM extent WHERE object = ?1"
    ino = db.value(sql, (number,))
    path = os.fsdecode(PathResolver(db).of(ino)) if ino is not None else "a file without a name"
    log.error(
        "%s: %s is lost, and with it bytes of %s; reading them fails; minifo-fsck says what can be done",
        storage.path,
        object_name(number),
        path,
    )
