"""Open an overlay that is not mounted, to ask it something."""

from __future__ import annotations

import logging
import os
from contextlib import closing

from ..errors import NotMinifo, StateError
from ..overlay import Overlay
from ..recovery import BaseCheck
from ..store.database import Database
from ..store.database_file import check_header, open_database
from ..store.layers import missing_layer
from ..store.memory_directory import memory_directory
from ..store.storage import Storage
from ..store.writer_lock import LOCK

log = logging.getLogger(__name__)


def open_at_rest(storage: str, base: str | None = None, *, warns: bool = False) -> Overlay:
    """Open an overlay read-only, over the base of its last mount or another one.

    Args:
        storage: the storage directory.
        base: the base directory; None for the one that the storage was last mounted with.
        warns: log a warning if the last operations of a killed daemon are not committed, and so do not show.

    Raises:
        NotMinifo: the directory holds no overlay.
        StorageBusy: it is mounted.
        StateError: base or storage cannot be used.
    """
    redo = memory_directory() if warns else None
    base = base or _known_base(storage)
    return Overlay.open(base, storage, read_only=True, redo_directory=redo, base_check=BaseCheck.IGNORE)


def open_writable(storage: str, base: str | None = None) -> Overlay:
    """Open an overlay to change it, with what a killed daemon had acknowledged; arguments as for ``open_at_rest``.

    Raises:
        NotMinifo: the directory holds no overlay.
        StorageBusy: it is mounted.
        WrongBase: the base is likely another one.
        StateError: base or storage cannot be used.
    """
    if base is None:
        base = _known_base(storage)
    else:
        last_base(storage)  # finds out that there is an overlay: to open an empty directory writable makes one
    return Overlay.open(base, storage, redo_directory=memory_directory())


def open_checkpoint(storage: str, name: str, base: str | None = None) -> Overlay:
    """Open an overlay read-only as it was at a checkpoint, also beside the daemon that works on it.

    Args:
        storage: the storage directory.
        name: the checkpoint's.
        base: as for ``open_at_rest``.

    Raises:
        NotMinifo: the directory holds no overlay.
        StateError: there is no such checkpoint, or base or storage cannot be used.
    """
    return Overlay.open(base or _known_base(storage), storage, at=name, base_check=BaseCheck.IGNORE)


def _known_base(storage: str) -> str:
    base = last_base(storage)
    missing = missing_layer(base)
    if missing is not None:
        raise StateError(f"the base of {storage} at its last mount, {missing}, is not there", "say where: --base DIR")
    return base


def last_base(storage: str) -> str:
    """Return the path of the base at the last mount of a storage.

    Raises:
        NotMinifo, StorageBusy, StateError: as for ``open_at_rest``.
    """
    with closing(Storage(storage)) as store:
        if not store.is_formatted:
            raise NotMinifo(f"{storage} holds no overlay", "name a storage directory, or a path in a mounted overlay")
        check_header(store.database)
        store.lock(exclusive=False)
        return _base_in(store)


def _base_in(store: Storage) -> str:
    with closing(
        open_database(store.database, read_only=True, copy_out=None if store.is_trusted else store.copy_out)
    ) as db:
        return recorded_base(db)


def recorded_base(db: Database) -> str:
    """Return the path of the base at the last mount, as an overlay's database has it."""
    path = db.value("SELECT value FROM overlay WHERE key = 'base'")
    return os.fsdecode(path) if isinstance(path, bytes) else str(path)


class _Beside(Storage):
    """A storage that is read beside the daemon that holds it."""

    is_beside = True

    def lock(self, *, exclusive: bool) -> None:
        """Open the lock, to see which checkpoints are shown, but do not take it.

        SQLite keeps readers and the writer of the database apart.
        """
        try:
            self._lock = self._dir.open(LOCK, os.O_RDONLY)
        except OSError as error:
            log.debug("%s has no lock: %s", self.path, error)


def base_beside(storage: str) -> str:
    """Return the path of the base at the last mount of a storage, also beside the daemon that holds it.

    Raises:
        StateError: the storage cannot be read.
    """
    with closing(_Beside(storage)) as store:
        check_header(store.database)
        return _base_in(store)


def open_beside(storage: str, base: str) -> Overlay:
    """Open an overlay that is mounted, read-only, as it was at its last commit.

    Everything that is asked of the rows is answered from that one state (a WAL reader, sqlite.org/wal.html).  Bytes of
    files that are being written may be newer.

    Args:
        storage: the storage directory.
        base: the base directory, or a path that leads to it.

    Raises:
        StateError: base or storage cannot be read.
    """
    overlay = Overlay.open(base, storage, read_only=True, storage_io=_Beside, base_check=BaseCheck.IGNORE)
    overlay.db.begin_reading()
    return overlay
