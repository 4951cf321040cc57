"""Recovery: check the base and clean up after a crash, at each open of an overlay, without walking the content objects.

The order matters.  The base is checked before anything is changed.  The redo log of a killed daemon is replayed before
orphans and garbage are deleted; after the replay, objects get the inode numbers of a replaced base; all of this is
committed before the redo log is emptied.
"""

from __future__ import annotations

import logging
import os
from enum import Enum
from typing import Any

from .commit import GroupCommit
from .errors import FsError, StateError, WrongBase
from .model import Ino
from .mount_checks import has_odd_bytes
from .store.base_view import BaseView
from .store.content_objects import IDS_PER_OPERATION, ObjectStore
from .store.database import Database
from .store.history import History
from .store.layers import real_base
from .store.redo_log import RedoLog
from .store.redo_replay import replay
from .store.statements import SET_FACT
from .store.storage import Storage
from .tree.base_match import (
    Survey,
    assign_reserved,
    base_mark,
    describe,
    is_replaced,
    is_same_mark,
    renumber,
    survey,
)
from .tree.inodes import Inodes
from .tree.namespace import Namespace

log = logging.getLogger(__name__)


class BaseCheck(Enum):
    """How to handle a base that is not the one of the last mount.

    STRICT refuses it.  WARN logs it, and refuses a base in which fewer than half of the objects that the overlay refers
    to are found by path, if the overlay refers to more than a few.  IGNORE logs it, and accepts any base.
    """

    STRICT = "strict"
    WARN = "warn"
    IGNORE = "ignore"


def commit_token(db: Database) -> int:
    """Return the token of the last commit."""
    return int(db.value("SELECT value FROM overlay WHERE key = 'commit_token'"))


class Recovery:
    """The steps between opening an overlay's parts and its first operation.

    Args:
        inodes, db, base, storage, objects, commits, history: the parts of the overlay.
    """

    def __init__(
        self,
        inodes: Inodes,
        db: Database,
        base: BaseView,
        storage: Storage,
        objects: ObjectStore,
        commits: GroupCommit,
        history: History,
    ) -> None:
        self._inodes = inodes
        self._db = db
        self._base = base
        self._storage = storage
        self._objects = objects
        self._commits = commits
        self._history = history
        self._survey: Survey | None = None  # of a base that was replaced; else None
        self._facts: dict[str, Any] = {}

    def check_base(self, path: str, check: BaseCheck) -> None:
        """Check whether the base is the one of the last mount.  Changes nothing on disk.

        Args:
            path: the base's path, or the text of its layers.
            check: how to handle another base.

        Raises:
            StateError: it is another base, and *check* refuses it.
        """
        known: dict[str, Any] = dict(self._db.rows("SELECT key, value FROM overlay WHERE key IN ('base', 'base_mark')"))
        mark, path = base_mark(self._base), real_base(path)
        # stored as text if it is UTF-8, to be readable for users of ``minifo sql``, else as bytes
        stored = os.fsencode(path) if has_odd_bytes(path) else path
        self._facts = {key: value for key, value in (("base", stored), ("base_mark", mark)) if known[key] != value}
        if not is_same_mark(known["base_mark"], mark) or is_replaced(self._db, self._base, self._inodes.numbers):
            self._survey = survey(self._db, self._base, self._inodes.numbers)
            self._judge(path, mark, known, check, self._survey)
        if self._db.read_only:
            self.settle_numbers()

    def _judge(self, path: str, mark: str, known: dict[str, Any], check: BaseCheck, view: Survey) -> None:
        found, gone, _ = view
        last = os.fsdecode(known["base"]) if isinstance(known["base"], bytes) else known["base"]
        was = f"{last} ({describe(known['base_mark'])})"
        message = f"base {path} ({describe(mark)}) is not the one of the last mount, {was}"
        if check is BaseCheck.STRICT:
            raise StateError(message, "to use this base from now on, mount with -o base_check=warn")
        if view.is_likely_wrong and check is BaseCheck.WARN:
            raise WrongBase(
                f"base {path} is likely the wrong one: of {found + gone} objects that the overlay in"
                f" {self._storage.path} refers to, it has {found}; at the last mount the base was {was}",
                "mount with that base, or to use this one nevertheless, with -o base_check=ignore",
            )
        log.warning(
            "%s: %s; it has %d of the objects that the overlay refers to, %d are gone (minifo rebase shows them)",
            self._storage.path,
            message,
            found,
            gone,
            extra={"event": "base-replaced"},
        )

    def warn_of_redo(self, redo: RedoLog | None) -> None:
        """Log a warning if the last operations of a killed daemon are in the redo log: a read-only mount lacks them.

        Args:
            redo: the redo log, or None.
        """
        if redo is not None and (recording := redo.read(commit_token(self._db))):
            log.warning(
                "%s: what is only read does not show the last %d operations of a killed daemon: they are in %s, and the"
                " next writable mount replays them",
                self._storage.path,
                len(recording),
                redo.path,
            )

    def clean_up(self, namespace: Namespace, redo: RedoLog | None, *, aside: bool) -> None:
        """Bring the overlay to the state of its last acknowledged operation, over this base, and clean up.

        Args:
            namespace: deletes orphans.
            redo: the redo log; None to keep none.
            aside: if the redo log cannot be replayed, rename it and go on without its operations.

        Raises:
            StateError: the redo log cannot be replayed and *aside* is False, or storage failed.
        """
        db, objects, commits = self._db, self._objects, self._commits
        # the last commit of a killed daemon may not be durable yet; all later changes depend on it
        commits.harden()
        replayed = redo is not None and self._replay(redo, aside=aside)
        objects.freeze(self._history.follow())
        objects.sweep_uncommitted(replayed)
        # from here on the objects that the redo log uses are deleted after a commit only: if this process is killed
        # before it, the next mount replays the log again and needs them
        objects.committed_next = objects.next_object
        # the replayed rows may be the only ones that show that the base was replaced
        if replayed and (self._survey is not None or is_replaced(db, self._base, self._inodes.numbers)):
            self._survey = survey(db, self._base, self._inodes.numbers)
        if self._survey is not None and self._survey.moved:
            with self._history.paused(), db.operation():
                renumber(db, self._survey.moved)
        self.settle_numbers()
        if self._facts:
            with db.operation():
                for fact in self._facts.items():
                    db.change(SET_FACT, fact)
        orphans = db.rows("SELECT ino FROM orphan")
        if orphans:
            with db.operation():
                for (ino,) in orphans:
                    if self._is_intact(Ino(ino)):
                        namespace.reap(Ino(ino))
        # Garbage is deleted after a commit made here, which is durable.  A commit also reserves new object ids, because
        # the sweep may have left none.
        if redo is not None and replayed:
            commits.resume_redo(redo)
        if db.dirty or objects.garbage() or objects.free_ids() < IDS_PER_OPERATION:
            commits.run()
        if redo is not None and not replayed:
            commits.keep_redo(redo, commit_token(db))

    def _is_intact(self, ino: Ino) -> bool:
        """Return whether an orphan's row can be read; if not, log that it stays."""
        try:
            self._inodes.row(ino)
        except FsError as error:
            log.warning("%s: an orphan is damaged and stays (%s); run minifo-fsck", self._storage.path, error.filename)
            return False
        return True

    def settle_numbers(self) -> None:
        """Give base objects the numbers by which rows refer to them; call it again when the rows are others."""
        assign_reserved(self._db, self._base, self._inodes.numbers)
        self._inodes.drift.cache_numbers()

    def _replay(self, redo: RedoLog, *, aside: bool) -> bool:
        """Replay the redo log of a killed daemon; return whether it held any operations.

        Raises:
            StateError: the log cannot be replayed completely, and *aside* is False; nothing was changed.
        """
        try:
            recording = redo.read(commit_token(self._db))
            if recording:
                self._history.keep(True)  # a checkpoint may be among the operations
                with self._db.operation():
                    replay(self._db, self._storage, redo, recording)
        except StateError as error:
            if not aside:
                raise
            log.warning("%s; kept as %s", error.message, redo.set_aside())
            return False
        if recording.stale:
            log.warning("%s does not follow the last commit; kept as %s", redo.path, redo.set_aside())
        if not recording:
            return False
        self._inodes.next_ino, self._objects.next_object = recording[-1].next_ino, recording[-1].next_object
        log.warning(
            "%s: %d operations of a killed daemon were replayed",
            self._storage.path,
            len(recording),
            extra={"event": "operations-replayed"},
        )
        return True
