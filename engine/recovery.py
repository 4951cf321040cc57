"""What every open of an overlay does first: meet the base, and tidy up after a crash, without walking the store.

The order is the rule.  Whether the base is the right one is seen before anything is changed.  What a killed daemon had
acknowledged is replayed before anything is swept, and objects get the numbers of a new base after that; all of it is
committed before the redo log is begun anew.
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
from .store.content_objects import LEAST_ROOM, ObjectStore
from .store.database import Database
from .store.redo_log import RedoLog
from .store.redo_replay import replay
from .store.statements import SET_FACT
from .store.storage import Storage
from .tree.base_match import (
    Survey,
    base_mark,
    describe,
    is_replaced,
    is_same_mark,
    keep_reserved,
    reanchor,
    survey,
)
from .tree.inodes import Inodes
from .tree.namespace import Namespace

log = logging.getLogger(__name__)


class BaseCheck(Enum):
    """What becomes of a mount over another base than last time.

    STRICT refuses it.  WARN says so in the log, and refuses a base in which fewer than half of the objects that the
    overlay refers to are found by path, if they are more than a few.  IGNORE takes any base.
    """

    STRICT = "strict"
    WARN = "warn"
    IGNORE = "ignore"


def commit_token(db: Database) -> int:
    """The number of the last commit."""
    return int(db.value("SELECT value FROM overlay WHERE key = 'commit_token'"))


class Recovery:
    """The first steps of one open overlay.

    Args:
        inodes, db, base, storage, objects, commits: its parts.
    """

    def __init__(
        self,
        inodes: Inodes,
        db: Database,
        base: BaseView,
        storage: Storage,
        objects: ObjectStore,
        commits: GroupCommit,
    ) -> None:
        self._inodes = inodes
        self._db = db
        self._base = base
        self._storage = storage
        self._objects = objects
        self._commits = commits
        self._survey: Survey | None = None  # of a base that is another one
        self._facts: dict[str, Any] = {}

    def meet_base(self, path: str, check: BaseCheck) -> None:
        """See whether the base is that of the last mount; changes nothing.

        Args:
            path: true path of the base.
            check: what is to become of another one.

        Raises:
            StateError: it is another one, and is refused.
        """
        known: dict[str, Any] = dict(self._db.rows("SELECT key, value FROM overlay WHERE key IN ('base', 'base_mark')"))
        mark = base_mark(self._base)
        # text where it can be, for whoever looks into the database; a path may be any bytes
        place = os.fsencode(path) if has_odd_bytes(path) else path
        self._facts = {key: value for key, value in (("base", place), ("base_mark", mark)) if known[key] != value}
        if not is_same_mark(known["base_mark"], mark) or is_replaced(self._db, self._base, self._inodes.numbers):
            self._survey = survey(self._db, self._base, self._inodes.numbers)
            self._judge(path, mark, known, check, self._survey)
        if self._db.read_only:
            self._settle_numbers()

    def _judge(self, path: str, mark: str, known: dict[str, Any], check: BaseCheck, view: Survey) -> None:
        found, gone, _ = view
        last = os.fsdecode(known["base"]) if isinstance(known["base"], bytes) else known["base"]
        was = f"{last} ({describe(known['base_mark'])})"
        message = f"base {path} ({describe(mark)}) is not the one of the last mount, {was}"
        if check is BaseCheck.STRICT:
            raise StateError(message, "mount with -o base_check=warn if it is meant to take that one's place")
        if view.is_likely_wrong and check is BaseCheck.WARN:
            raise WrongBase(
                f"base {path} is likely the wrong one: of {found + gone} objects that the overlay in"
                f" {self._storage.path} refers to, {found} are in it; its base was {was}",
                "mount that one, or mount with -o base_check=ignore if this one is meant",
            )
        log.warning(
            "%s: %s; %d objects are found again by their paths, %d are gone from it (minifo rebase shows them)",
            self._storage.path,
            message,
            found,
            gone,
        )

    def tell_waiting(self, redo: RedoLog | None) -> None:
        """Say that a killed daemon's last operations do not show, for nothing may be changed.

        Args:
            redo: the redo log, or None.
        """
        if redo is not None and (found := redo.read(commit_token(self._db))):
            log.warning(
                "%s: the last %d operations of a killed daemon do not show yet: they are in %s, and a mount that may"
                " write takes them up",
                self._storage.path,
                len(found),
                redo.path,
            )

    def tidy(self, namespace: Namespace, redo: RedoLog | None, *, aside: bool) -> None:
        """Make the overlay's state that of its last operation, over this base.

        Args:
            namespace: reaps orphans.
            redo: the redo log; None to do without one.
            aside: go on without a redo log that cannot be replayed.

        Raises:
            StateError: the redo log cannot be replayed, or storage fails.
        """
        db, objects, commits = self._db, self._objects, self._commits
        # the last commit of a killed daemon may not be durable yet, and is what everybody builds on from now on
        commits.harden()
        replayed = redo is not None and self._replay(redo, aside=aside)
        objects.sweep_uncommitted(replayed)
        # what the redo log names is deleted after a commit only: a mount that is killed now leaves it for the next one
        objects.committed_next = objects.next_object
        # what was replayed is new, and may be all there is to tell the two bases apart
        if replayed and (self._survey is not None or is_replaced(db, self._base, self._inodes.numbers)):
            self._survey = survey(db, self._base, self._inodes.numbers)
        if self._survey is not None and self._survey.moved:
            with db.operation():
                reanchor(db, self._survey.moved)
        self._settle_numbers()
        if self._facts:
            with db.operation():
                for fact in self._facts.items():
                    db.change(SET_FACT, fact)
        orphans = db.rows("SELECT ino FROM orphan")
        if orphans:
            with db.operation():
                for (ino,) in orphans:
                    if self._is_whole(Ino(ino)):
                        namespace.reap(Ino(ino))
        # garbage goes after a commit of our own: the one that dropped it may be in the log, but not yet durable
        # a commit also gives new object ids, which a sweep may have used up
        if redo is not None and replayed:
            commits.resume_redo(redo)
        if db.dirty or objects.garbage() or objects.room() < LEAST_ROOM:
            commits.run()
        if redo is not None and not replayed:
            commits.keep_redo(redo, commit_token(db))

    def _is_whole(self, ino: Ino) -> bool:
        try:
            self._inodes.row(ino)
        except FsError as error:
            log.warning("%s: an orphan stays (%s); run minifo-fsck", self._storage.path, error.filename)
            return False
        return True

    def _settle_numbers(self) -> None:
        keep_reserved(self._db, self._base, self._inodes.numbers)
        self._inodes.drift.cache_numbers()

    def _replay(self, redo: RedoLog, *, aside: bool) -> bool:
        """Do again what a killed daemon had acknowledged but not committed; True if there was anything.

        Raises:
            StateError: it cannot be done wholly, and *aside* is False; nothing was changed.
        """
        try:
            found = redo.read(commit_token(self._db))
            if found:
                with self._db.operation():
                    replay(self._db, self._storage, redo, found)
        except StateError as error:
            if not aside:
                raise
            log.warning("%s; kept as %s", error.message, redo.set_aside())
            return False
        if found.stale:
            log.warning("%s follows another commit than the last one; kept as %s", redo.path, redo.set_aside())
        if not found:
            return False
        self._inodes.next_ino, self._objects.next_object = found[-1].next_ino, found[-1].next_object
        log.warning("%s: %d operations of a killed daemon were replayed", self._storage.path, len(found))
        return True
