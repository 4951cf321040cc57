"""The check of every byte of every content object (E305, E307), for ``minifo-fsck --verify-data``.

An object that cannot be read is told.  One that a checkpoint has frozen is compared with its digest, if the database
has it (store/object_digests.py).  A problem names the paths that show the object, today and in checkpoints.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Container, Iterator
from dataclasses import dataclass, field

import apsw

from ..errors import FsError, StateError
from ..store.database import Database
from ..store.database_file import open_database
from ..store.history import frozen_below, show_all
from ..store.object_digests import FIND, RECORD, Digest, drop_stale
from ..store.storage import Storage
from ..tree.path_resolver import PathResolver
from ..tree.row_checks import is_checkpoint_id, is_label
from .checks import Progress
from .object_inventory import ObjectInventory
from .problems import OF_DATA, Problem

_TOLD = 5  # checkpoints that are named for an object
_OWNERS = "SELECT object, ino FROM inode WHERE object > 0 UNION SELECT object, ino FROM extent WHERE object > 0"


@dataclass
class Shown:
    """Where an object shows that is damaged.

    Attributes:
        number: the object.
        path: the merged path of its file today; None if no file has it.
        checkpoints: the checkpoints in which a file has it, each with that file's path there, the newest one first.
    """

    number: int
    path: bytes | None = None
    checkpoints: list[tuple[str, bytes]] = field(default_factory=list)


@dataclass
class DataReport:
    """What was read.

    Attributes:
        objects: how many objects were read to their end.
        size: their bytes, without holes.
        verified: how many of them have the bytes of their digest.
        missing: how many have no digest, though a checkpoint has frozen them.
        recorded: how many digests were added to the database.
        damaged: the objects that cannot be read, or have other bytes.
    """

    objects: int = 0
    size: int = 0
    verified: int = 0
    missing: int = 0
    recorded: int = 0
    damaged: list[Shown] = field(default_factory=list)


class DataChecks:
    """The check of all content objects of one overlay.

    Args:
        db: the overlay's tables; they are only read.
        inventory: the overlay's content objects.
        present: returns a row of the database as it is now; None if no mount works on it.
        progress: called with the name of the step, the number of units done, and their total.
        collect: True to keep the digests that the database lacks, for ``record``.

    Attributes:
        report: what was found; complete after ``run``.
        new: these digests, by object.
    """

    def __init__(
        self,
        db: Database,
        inventory: ObjectInventory,
        present: Callable[[str, tuple[int]], tuple[object, ...] | None] | None,
        progress: Progress = lambda what, done, total: None,
        *,
        collect: bool = False,
    ) -> None:
        self._collects = collect
        self._db = db
        self._inventory = inventory
        self._present = present
        self._progress = progress
        self._frozen_below = frozen_below(db)
        self._done = 0
        self._total = sum(inventory.sizes.values())
        self.report = DataReport()
        self.new: dict[int, Digest] = {}

    def run(self) -> list[Problem]:
        """Read everything, and return the problems.

        Raises:
            FsError: the database cannot be read.
        """
        wrong: dict[int, tuple[str, str]] = {}
        end = 0
        for number, size in sorted(self._inventory.sizes.items()):
            try:
                found = self._inventory.digest(number, self._read)
            except OSError as error:
                if self._present is None or not self._inventory.is_gone(error):
                    wrong[number] = "E305", str(error.strerror)
            else:
                self.report.objects += 1
                if why := self._compare(number, found):
                    wrong[number] = "E307", why
            end += size
            self._done = end  # holes were not read
            self._progress("reading content", self._done, self._total)
        self.report.damaged = self._shown(wrong.keys())
        return [_problem(shown, *wrong[shown.number]) for shown in self.report.damaged]

    def _read(self, size: int) -> None:
        self._done += size
        self.report.size += size
        self._progress("reading content", min(self._done, self._total), self._total)

    def _compare(self, number: int, found: Digest) -> str:
        """Compare an object with its digest; return what is wrong, or an empty text."""
        if number >= self._frozen_below:
            return ""
        row = self._db.row(FIND, (number,))
        known = Digest(*row) if row is not None else None
        if known is None or not known.is_possible:
            self.report.missing += 1
            if self._collects:
                self.new[number] = found
            return ""
        if known == found:
            self.report.verified += 1
            return ""
        if self._present is not None and self._present(FIND, (number,)) != row:
            return ""  # it has ceased to be frozen meanwhile, and was written
        return f"{found.size} bytes instead of {known.size}" if found.size != known.size else f"{found.size} bytes"

    def record(self, storage: Storage, left: list[Problem]) -> None:
        """Add the digests that are missing to the database of a storage that is locked for writing.

        Do nothing while problems are left, except in the data itself: other rows may not be what they should be.

        Args:
            storage: the storage directory.
            left: the problems of the storage.

        Raises:
            StateError: the database cannot be written; it was not changed.
        """
        waiting = any(problem.code == "N404" or not (problem.is_note or problem.code in OF_DATA) for problem in left)
        if waiting or not self.new:
            return
        try:
            storage.sync_all()  # a digest must not be more durable than the bytes
            db = open_database(storage.database, read_only=False)
            try:
                with db.operation():
                    for number, digest in self.new.items():
                        db.change(RECORD, (number, *digest))
                    drop_stale(db)
                db.commit()
                db.checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)
            finally:
                db.close()
        except (OSError, apsw.Error) as error:
            message = f"the digests of {storage.path} could not be recorded ({error})"
            raise StateError(message, "free some space there, then run this again") from error
        self.report.recorded, self.report.missing = len(self.new), 0

    def _shown(self, numbers: Collection[int]) -> list[Shown]:
        """Return where objects show, in the order of their ids."""
        found = {number: Shown(number) for number in numbers}
        if not found:
            return []
        for number, path in _paths(self._db, found):
            found[number].path = path
        rows = self._db.rows("SELECT id, name FROM checkpoint")
        ids: dict[int, str] = {row[0]: row[1] for row in rows if is_checkpoint_id(row[0]) and is_label(row[1])}
        for checkpoint, shown in show_all(self._db, list(ids)):
            if not isinstance(shown, FsError):  # else it has a finding of its own
                for number, path in _paths(shown, found):
                    found[number].checkpoints.append((ids[checkpoint], path))
        return [found[number] for number in sorted(found)]


def _paths(db: Database, numbers: Container[int]) -> Iterator[tuple[int, bytes]]:
    """Yield those of some objects that a file has in a state, each with the merged path of that file."""
    paths = PathResolver(db)
    for number, ino in db.rows(_OWNERS):
        if number in numbers:
            yield number, paths.of(ino)


def _problem(shown: Shown, code: str, why: str) -> Problem:
    """Return the problem of a damaged object.

    Args:
        shown: where it shows.
        code: E305 or E307.
        why: more about it.
    """
    found = [name if path == shown.path else f"{name} ({os.fsdecode(path)})" for name, path in shown.checkpoints]
    detail = f"object {shown.number}: {why}"
    if found:
        more = f" and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
        also = "also" if shown.path is not None else "only"
        detail += f"; {also} in checkpoint{'s'[: len(found) > 1]} {', '.join(found[:_TOLD])}{more}"
    path = shown.path
    if path is None:
        path = shown.checkpoints[0][1] if found else b"<object %d>" % shown.number
    return Problem(code, path, detail, (shown.number,))
