"""Checkpoints: states of the overlay that it can be brought back to, and undoing.

A checkpoint is a row.  What the tables held when it was made is kept row by row, before the first change of each
(store/history.py), and no content object that it needs is written again.  So making one copies nothing, and it costs
what has changed since.

Undoing is never losing: whatever brings rows back first makes a checkpoint by itself.  ``undo`` returns to the one
before the last such command, and ``redo`` takes that back.  The oldest of these checkpoints are deleted by themselves.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager

from .checkpoint_values import REDO, UNDO, Checkpoint, Restored, to_redo, to_undo
from .commit import GroupCommit
from .errors import CommitPostponed, Corrupt, NotDurable, StateError
from .free_space import FreeSpace
from .store.content_objects import ObjectStore
from .store.database import Database
from .store.history import ADD_CHECKPOINT, History
from .store.object_digests import drop_stale
from .store.statements import statement
from .tree.row_checks import CHECKPOINT_COLUMNS, NOTE_MAX, is_checkpoint_id, is_label, wrong_columns

log = logging.getLogger(__name__)

KEPT = 10  # checkpoints that were made by themselves and are kept, unless they are pinned
_RENAME = statement("UPDATE checkpoint SET name = ? WHERE id = ?")
_PIN = statement("UPDATE checkpoint SET pinned = ? WHERE id = ?")
_SET_RETURNS = statement("UPDATE checkpoint SET returns = ? WHERE id = ?")
_NO_REDO = statement("UPDATE checkpoint SET returns = NULL WHERE returns > 0")
_FALLBACK = "SELECT value FROM overlay WHERE key = 'trial_good'"  # engine/trial.py


class Checkpoints:
    """The checkpoints of one overlay.

    Args:
        db: the overlay's database.
        objects: the content objects, some of which checkpoints freeze.
        commits: makes changes durable.
        history: the rows as they were.
        space: the free space.
        next_ino: returns the number of the next created object.
        window_end: the first number after those of created objects.
        is_shown: returns whether another process shows a checkpoint, given by its id.
        reload: called with ``inos`` and ``names`` of Restored, after rows were brought back.
        did: called with each command that changed rows, and the paths that it was given, to note it in the journal.
    """

    def __init__(
        self,
        db: Database,
        objects: ObjectStore,
        commits: GroupCommit,
        history: History,
        space: FreeSpace,
        next_ino: Callable[[], int],
        window_end: int,
        is_shown: Callable[[int], bool],
        reload: Callable[[set[int], set[tuple[int, bytes]]], object],
        did: Callable[[str, Iterable[bytes]], object],
    ) -> None:
        self._db = db
        self._objects = objects
        self._commits = commits
        self._history = history
        self._space = space
        self._next_ino = next_ino
        self._window_end = window_end
        self._is_shown = is_shown
        self._reload = reload
        self._did = did

    # -- looking

    def all(self) -> list[Checkpoint]:
        """Return all checkpoints, in the order in which they were made.

        Raises:
            Corrupt: a row is impossible.
        """
        try:
            rows = self._db.rows(f"SELECT {', '.join(CHECKPOINT_COLUMNS)} FROM checkpoint ORDER BY id")
        except OSError as error:
            raise _damaged(f"the checkpoints cannot be read ({error.filename or error.strerror})") from error
        for row in rows:
            if not is_checkpoint_id(row[0]):
                raise _damaged(f"a checkpoint has {row[0]!r:.40} as its number")
            for column in wrong_columns(row):
                value = row[CHECKPOINT_COLUMNS.index(column)]
                raise _damaged(f"checkpoint {row[0]} has {value!r:.40} as its {column}")
        return [Checkpoint._make(row) for row in rows]

    def find(self, name: str) -> Checkpoint:
        """Return the checkpoint with a name.

        Raises:
            StateError: there is none.
        """
        found = next((checkpoint for checkpoint in self.all() if checkpoint.name == name), None)
        if found is None:
            raise StateError(f"there is no checkpoint {name!r:.100}", "see them: minifo checkpoint list")
        return found

    def is_shown(self, checkpoint: Checkpoint) -> bool:
        """Return whether another process shows a checkpoint (``-o at=``), as far as the file system tells."""
        try:
            return self._is_shown(checkpoint.id)
        except OSError as error:
            log.debug("checkpoint %s: no lock tells whether it is shown: %s", checkpoint.name, error)
            return False

    # -- making and changing

    def create(
        self,
        name: str | None = None,
        note: str = "",
        *,
        pinned: bool = False,
        cause: str | None = None,
        noting: Callable[[Checkpoint], object] = lambda made: None,
    ) -> Checkpoint:
        """Make a checkpoint of the present state, and make it durable with all that was acknowledged before.

        Args:
            name: its name; None for one made of the time.
            note: what to say of it.
            pinned: True if no policy is to delete it.
            cause: the command that makes it for itself; None: a user.
            noting: called with it, to change more rows in the same operation.

        Raises:
            StateError: the name is taken or cannot be one, storage is full, or it failed.
            NotDurable: it is made, but the commit was postponed, for memory or descriptors ran out.
        """
        if name is not None:
            self._check_name(name)
        _check_note(note)
        try:
            self._space.need(anew=True)  # all that it keeps from now on takes space
            with self._operation(freezing=True):
                made = self._add(name, note, pinned=pinned, cause=cause)
                noting(made)
        except (OSError, CommitPostponed) as error:
            raise _failed("the checkpoint was not made", error) from error
        try:
            self._commits.run()
        except CommitPostponed as error:
            raise NotDurable(f"the checkpoint {made.name} is made", error, made) from error
        return made

    def rename(self, name: str, new_name: str) -> None:
        """Give a checkpoint another name.

        Raises:
            StateError: there is none with that name, or the new name is taken or cannot be one.
        """
        found = self.find(name)
        if new_name != name:
            self._check_name(new_name)
        self._change(_RENAME, (new_name, found.id))

    def pin(self, name: str, *, pinned: bool) -> None:
        """Let no policy delete a checkpoint, or let them again.

        Raises:
            StateError: there is none with that name.
        """
        self._change(_PIN, (int(pinned), self.find(name).id))

    def delete(self, names: list[str]) -> None:
        """Delete checkpoints; content objects that nothing else needs go with the commit.

        Raises:
            StateError: there is none with one of the names; then none is deleted.
            NotDurable: they are deleted, but the commit was postponed or failed.
        """
        found = {checkpoint.id: checkpoint for checkpoint in map(self.find, names)}
        for checkpoint in found.values():
            if self.is_shown(checkpoint):
                raise StateError(f"checkpoint {checkpoint.name} is mounted (-o at=)", "unmount it first")
            if self._fallback() == checkpoint.id:
                raise StateError(
                    f"a trial may fall back to checkpoint {checkpoint.name}",
                    "end the trial first: minifo confirm, or minifo trial abandon",
                )
        self._delete(list(found.values()))

    def prune(self, ids: Collection[int]) -> list[Checkpoint]:
        """Delete those of some checkpoints, given by their ids, that a policy may delete, and return them.

        Left out are pinned ones, mounted ones, that to which a trial may fall back, and those that are gone.

        Raises:
            StateError: storage failed.
        """
        fallback = self._fallback()
        found = [c for c in self.all() if c.id in ids and not c.pinned and c.id != fallback and not self.is_shown(c)]
        if found:
            self._delete(found)
        return found

    def discard(self, checkpoint: Checkpoint) -> None:
        """Delete a checkpoint that minifo made for itself; if it is shown, only let policies delete it later.

        Raises:
            StateError: storage failed.
        """
        if self.is_shown(checkpoint):
            self._change(_PIN, (0, checkpoint.id))
        else:
            self._delete([checkpoint])

    def release(self, checkpoint: Checkpoint) -> None:
        """Let policies delete a checkpoint that minifo made for itself.  Call it inside an operation."""
        self._db.change(_PIN, (0, checkpoint.id))

    def _delete(self, found: list[Checkpoint]) -> None:
        try:
            self._commits.run()
            self._space.prepare_for_much()
            with self._operation():
                for checkpoint in found:
                    self._drop(checkpoint)
        except (OSError, CommitPostponed) as error:
            raise _failed("the checkpoints were not deleted", error) from error
        self._make_durable("the checkpoints are deleted")

    # -- going back

    def rollback(self, name: str) -> Restored:
        """Bring the overlay back to a checkpoint; a new one holds what is left.

        Files that were created since and have no name any more, but are in use, stay usable.

        Raises:
            StateError: there is none with that name, or storage failed.
            NotDurable: the overlay is brought back, but the commit was postponed or failed; ``result`` is Restored.
        """
        return self.return_to(self.find(name), "rollback")

    def undo(self) -> Restored:
        """Take back the last command that made a checkpoint by itself and is not undone; ``redo`` takes this back.

        Raises:
            StateError: there is none.
        """
        return self.return_to(to_undo(self.all()), UNDO)

    def redo(self) -> Restored:
        """Take back the last ``undo``, unless another command came after it.

        Raises:
            StateError: there is none.
        """
        return self.return_to(to_redo(self.all()), REDO)

    def return_to(
        self, target: Checkpoint, cause: str, noting: Callable[[Checkpoint], object] = lambda left: None
    ) -> Restored:
        """Bring the overlay back to a checkpoint; a new one holds what is left.

        Args:
            target: the checkpoint.
            cause: the command that does it.
            noting: called with the new checkpoint, to change more rows in the same operation.

        Raises:
            StateError: storage failed; nothing was brought back.
            NotDurable: as for ``rollback``.
        """
        since = target.id, target.next_ino, self._window_end

        def change(left: Checkpoint) -> None:
            self._history.restore(*since)
            if cause == UNDO:
                self._db.change(_SET_RETURNS, (0, target.id))
                self._db.change(_SET_RETURNS, (target.id, left.id))
            elif cause == REDO:
                self._db.change(_SET_RETURNS, (None, target.returns))
                self._db.change(_SET_RETURNS, (None, target.id))
            noting(left)

        return self.change(cause, change, target)

    def change(
        self,
        cause: str,
        change: Callable[[Checkpoint], object],
        target: Checkpoint | None = None,
        paths: Iterable[bytes] = (b"/",),
    ) -> Restored:
        """Change rows by a command that takes something away; a new checkpoint holds what is left.

        Args:
            cause: the command.
            change: called with the new checkpoint, inside the operation.
            target: the checkpoint that it returns to; None if it makes a state that there was not.
            paths: what it was given, in overlay terms.

        Raises:
            StateError: storage failed; nothing was changed.
            NotDurable: as for ``rollback``.
        """
        try:
            self._commits.run()
            self._space.prepare_for_much()
            with self._operation(freezing=True):
                left = self._add(None, f"before {cause}{f' to {target.name}' if target else ''}", cause=cause)
                if cause not in (UNDO, REDO):
                    self._db.change(_NO_REDO)
                change(left)
                since = target or left
                inos, names = self._history.changed_since(since.id, since.next_ino, self._window_end)
                self._did(cause, paths)
        except (OSError, CommitPostponed) as error:
            raise _failed("nothing was changed", error) from error
        restored = Restored(target or left, left, inos, names)
        done = f"{cause}{f' to {target.name}' if target else ''} is done"
        try:
            self._reload(inos, names)
            self._prune()
        except (OSError, StateError) as error:
            # what is in memory does not fit the rows now; the next mount has all that was acknowledged
            self._commits.lose(error)
            failure = _failed("storage failed, and the overlay is read-only now", error)
            raise NotDurable(done, failure, restored) from error
        self._make_durable(done, restored)
        return restored

    def end(self, checkpoint: Checkpoint, change: Callable[[], object]) -> None:
        """Change rows that say something about a checkpoint, durably, and let policies delete it from now on.

        Raises:
            StateError: storage failed.
            NotDurable: it is done, but the commit was postponed or failed.
        """

        def end() -> None:
            change()
            self.release(checkpoint)
            self._db.change(_NO_REDO)

        self.note(end)
        try:
            self._prune()
        except OSError as error:
            self._commits.lose(error)

    def differs(self, checkpoint: Checkpoint) -> bool:
        """Return whether anything was changed since a checkpoint was made."""
        return self._history.has_changed(checkpoint.id)

    def note(self, change: Callable[[], object]) -> None:
        """Change rows that say something about checkpoints, durably.

        Raises:
            StateError: storage failed.
            NotDurable: it is done, but the commit was postponed or failed.
        """
        try:
            self._space.prepare_to_free()
            with self._db.operation():
                change()
        except OSError as error:
            raise _failed("nothing was changed", error) from error
        self._make_durable("it is changed")

    # -- helpers

    def _fallback(self) -> object:
        """Return the id of the checkpoint to which a trial may fall back, or None."""
        try:
            return self._db.value(_FALLBACK)
        except OSError as error:
            raise _failed("the trial cannot be read", error) from error

    @contextmanager
    def _operation(self, *, freezing: bool = False) -> Iterator[None]:
        """An operation that changes which checkpoints there are.

        Args:
            freezing: it makes one: rows are kept from its first statement on.

        Raises:
            CommitPostponed: storage has no space for its commit; it is undone, for else nothing could be committed any
                more, and so nothing be deleted.
        """
        try:
            if freezing:
                self._history.keep(True)
            with self._db.large_operation():
                yield
                drop_stale(self._db)
                self._commits.allocate_log()
        finally:
            # until the commit is durable, a power cut may bring a deleted checkpoint back, and what it needs
            self._objects.freeze(max(self._history.follow(), self._objects.frozen_below))

    def _make_durable(self, done: str, result: object = None) -> None:
        """Commit.

        Args:
            done: what is done, for the message.
            result: what the caller returns.

        Raises:
            NotDurable: the commit was postponed or failed.
        """
        try:
            self._commits.run()
        except StateError as error:
            raise NotDurable(done, error, result) from error
        self._objects.freeze(self._history.follow())

    def _add(self, name: str | None, note: str, *, pinned: bool = False, cause: str | None = None) -> Checkpoint:
        now = time.time_ns()
        number = int(self._db.value("SELECT coalesce(max(id), 0) + 1 FROM checkpoint"))
        if name is None:
            name = f"before-{cause}" if cause else time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(now // 10**9))
            name = self.free_name(name)
        made = Checkpoint(
            number, name, now, note, int(pinned), cause, None, self._next_ino(), self._objects.next_object
        )
        self._db.change(ADD_CHECKPOINT, made)
        return made

    def free_name(self, wanted: str) -> str:
        """Return a name that no checkpoint has: the wanted one, or that with a number."""
        taken = {checkpoint.name for checkpoint in self.all()}
        name, count = wanted, 2
        while name in taken:
            name, count = f"{wanted}-{count}", count + 1
        return name

    def _check_name(self, name: str) -> None:
        if not is_name(name):
            raise StateError(
                f"{name!r:.100} cannot be the name of a checkpoint",
                "use up to 64 letters, digits and . _ + : -, and begin with a letter or a digit",
            )
        if any(checkpoint.name == name for checkpoint in self.all()):
            raise StateError(f"there is a checkpoint {name!r} already", "choose another name, or delete that one")

    def _change(self, sql: str, params: tuple[int | str, ...]) -> None:
        self.note(lambda: self._db.change(sql, params))

    def _drop(self, checkpoint: Checkpoint) -> None:
        for number in self._history.forget(checkpoint.id):
            self._objects.add_garbage(number)

    def _prune(self) -> None:
        """Delete the oldest checkpoints that were made by themselves, beyond ``KEPT``.

        Raises:
            OSError: storage failed, and took the running transaction with it.
        """
        automatic = [c for c in self.all() if c.cause is not None and not c.pinned]
        if len(automatic) <= KEPT:
            return
        fallback = self._fallback()
        try:
            with self._operation():
                for checkpoint in automatic[:-KEPT]:
                    if checkpoint.id != fallback and not self.is_shown(checkpoint):
                        self._drop(checkpoint)
        except (OSError, CommitPostponed) as error:
            if self._db.read_only:
                raise
            log.warning("old checkpoints stay until the next one is made: %s", error)


def is_name(name: str) -> bool:
    """Return whether a text can be the name of a checkpoint."""
    return is_label(name)


def _check_note(note: str) -> None:
    if len(note) > NOTE_MAX:
        raise StateError(f"the note has {len(note)} characters, {NOTE_MAX} are possible", "give a shorter one")
    if not note.isprintable():
        raise StateError(
            f"the note {note!r:.100} has characters that cannot be printed", "write it in one line of text"
        )


def _damaged(what: str) -> Corrupt:
    return Corrupt(what, "unmount the overlay, and run minifo-fsck on its storage")


def _failed(what: str, error: OSError | StateError) -> StateError:
    if isinstance(error, CommitPostponed):
        return CommitPostponed(f"{what}: {error.message}", error.hint, error.code)
    if isinstance(error, StateError):
        return StateError(f"{what} ({error.message})", error.hint)
    if error.errno == errno.EIO:
        return _damaged(f"{what} ({error.filename or error.strerror})")
    return StateError(f"{what} ({error.strerror})", "check the storage's free space and its file system")
