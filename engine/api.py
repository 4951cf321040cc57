"""The Python API: what ``minifo.open`` returns, by paths and names; docs/python-api.md says what stays as it is.

The files are in api_files.py, the values in api_values.py; engine/public has the names that a program imports.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from . import overlay as facade
from .api_files import Files
from .api_values import Change, Checkpoint, KeptPaths, Path, Reverted, place_of
from .queries import at_rest
from .queries.changes import changes
from .queries.digest import differences, digest
from .reset import reset
from .revert_to import revert_paths
from .store.memory_directory import memory_directory


def open(  # the name of the call is ``minifo.open``
    base: Path | None, storage: Path, *, read_only: bool = False, at: str | None = None
) -> Overlay:
    """Open an overlay that is not mounted; make an empty one if the storage directory is empty.

    Args:
        base: the base directory; None for that of the last mount.
        storage: the storage directory.
        read_only: change nothing on disk.
        at: the name of a checkpoint to show, read-only, also beside a mount of the overlay.

    Raises:
        StorageBusy: it is mounted, or another process has it open.
        NotMinifo: the storage holds other things; or no overlay, and it is to be read only.
        OlderFormat: ``minifo upgrade`` converts the storage.
        NewerFormat: a newer version of minifo has written it.
        WrongBase: the base is likely another one.
        StateError: base, storage or checkpoint cannot be used.  Whichever of these it is, nothing was changed.
    """
    path, where = os.fsdecode(storage), None if base is None else os.fsdecode(base)
    if at is not None:
        return Overlay(at_rest.open_checkpoint(path, at, where))
    if read_only:
        return Overlay(at_rest.open_at_rest(path, where))
    if where is None:
        return Overlay(at_rest.open_writable(path))
    return Overlay(facade.Overlay.open(where, path, redo_directory=memory_directory()))


class Overlay(Files):
    """An open overlay.  Made by ``minifo.open``; only one thread may use it.

    As a context manager it is closed at the end, also if the block raises: what was done until then stays.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Make all changes durable, and close the overlay; a second call does nothing.

        Raises:
            UsageError: a transaction is running.
            StateError: the commit failed; the overlay is closed nevertheless.
        """
        if self._open is not None:
            self._refuse_in_transaction("be closed")
            overlay, self._open = self._open, None
            overlay.close()

    def commit(self) -> None:
        """Make all changes durable: no power cut undoes them once this has returned.

        Raises:
            UsageError: a transaction is running.
            CommitPostponed: storage is full, or memory ran out; nothing is lost, and it may be called again.
            StateError: storage failed; the overlay is read-only from now on.
        """
        self._refuse_in_transaction("commit")
        self._ov.commit()

    # -- what was changed

    def changes(self, *, recursive: bool = False, identical: bool = True) -> list[Change]:
        """Return how what shows differs from the base, sorted by path.

        Args:
            recursive: list every name below directories that are new or gone, too.
            identical: list changes that made no difference, too; False compares bytes and attributes, which takes time.

        Raises:
            OSError: base or storage cannot be read.
        """
        with self._call():
            found = sorted(changes(self._ov, recursive=recursive, identical=identical), key=lambda change: change.path)
            return [Change.of(change) for change in found]

    def digest(self) -> str:
        """Return one hash of all that differs from the base, in hexadecimal, as ``minifo digest`` prints it.

        Raises:
            OSError: base or storage cannot be read.
        """
        with self._call():
            return digest(differences(self._ov)).hex()

    # -- checkpoints

    def checkpoints(self) -> list[Checkpoint]:
        """Return all checkpoints, in the order in which they were made.

        Raises:
            Corrupt: a row is impossible.
        """
        return [Checkpoint.of(found) for found in self._ov.checkpoints.all()]

    def checkpoint(self, name: str | None = None, *, note: str = "", pinned: bool = False) -> Checkpoint:
        """Make a checkpoint of the present state; durable, with all that was done before.

        Args:
            name: its name; None for one made of the time.
            note: what to say of it, in one line.
            pinned: True if no policy is to delete it.

        Raises:
            UsageError: a transaction is running.
            StateError: the name is taken or cannot be one, or storage is full or read-only.
        """
        self._refuse_in_transaction("make a checkpoint")
        return Checkpoint.of(self._ov.checkpoints.create(name, note, pinned=pinned))

    def delete_checkpoints(self, *names: str) -> None:
        """Delete checkpoints, all or none; durable, and what only they needed is freed.

        Raises:
            UsageError: a transaction is running.
            StateError: there is none with one of the names, or one is in use.
        """
        self._refuse_in_transaction("delete checkpoints")
        self._ov.checkpoints.delete(list(names))

    def rollback(self, name: str) -> Checkpoint:
        """Return to a checkpoint, and return the one that holds what was left; durable.

        Raises:
            UsageError: a transaction is running.
            StateError: there is none with that name, or storage failed; nothing was changed.
            NotDurable: it is done, but a power cut may undo it.
        """
        self._refuse_in_transaction("return to a checkpoint")
        return Checkpoint.of(self._ov.checkpoints.rollback(name).left)

    def undo(self) -> Checkpoint:
        """Take back the last ``rollback``, ``revert`` or ``reset``; durable, and returns as ``rollback``.

        Raises:
            UsageError, StateError, NotDurable: as for ``rollback``; there may be nothing to undo.
        """
        self._refuse_in_transaction("undo")
        return Checkpoint.of(self._ov.checkpoints.undo().left)

    def redo(self) -> Checkpoint:
        """Take back the last ``undo``; durable, and returns as ``rollback``.

        Raises:
            UsageError, StateError, NotDurable: as for ``rollback``; there may be nothing to redo.
        """
        self._refuse_in_transaction("redo")
        return Checkpoint.of(self._ov.checkpoints.redo().left)

    def revert(self, *paths: Path, to: str | None = None, dry_run: bool = False) -> list[Reverted]:
        """Let paths, with all below them, be as in the base again, or as at a checkpoint; durable.

        Args:
            paths: what to take back; ``/`` for all.
            to: the name of the checkpoint; None for the base.
            dry_run: True to change nothing, and only return what would be done.

        Raises:
            UsageError: a transaction is running.
            StateError: nothing is or was at a path, or there is no such checkpoint; nothing was changed.
            NotDurable: it is done, but a power cut may undo it.
        """
        self._refuse_in_transaction("revert")
        done = revert_paths(self._ov, [place_of(path) for path in paths], to=to, dry_run=dry_run)
        return [Reverted.of(action) for action in done.actions]

    def reset(self, *, keep: Iterable[Path] = ()) -> int:
        """Take away all that the overlay holds, and return how many changes that were; durable.

        Args:
            keep: paths that stay as they are, with all below them; keep-lists do not count.

        Raises:
            UsageError: a transaction is running.
            StateError: storage is full or failed; nothing was changed.
            NotDurable: it is done, but a power cut may undo it.
        """
        self._refuse_in_transaction("be reset")
        return reset(self._ov, KeptPaths(map(place_of, keep))).taken
