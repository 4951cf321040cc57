"""Open an overlay that is not mounted, to ask it something."""

from __future__ import annotations

import os

from ..errors import NotMinifo, StateError
from ..overlay import Overlay
from ..recovery import BaseCheck
from ..store.database import Database
from ..store.database_file import check_header, open_database
from ..store.storage import Storage


def open_at_rest(storage: str, base: str | None = None) -> Overlay:
    """Open an overlay read-only, over the base of its last mount or another one.

    Args:
        storage: the storage directory.
        base: the base directory; None for the one that the storage was last mounted with.

    Raises:
        NotMinifo: the directory holds no overlay.
        StorageBusy: it is mounted.
        StateError: base or storage cannot be used.
    """
    if base is None:
        base = last_base(storage)
        if not os.path.isdir(base):
            raise StateError(f"the base of {storage} at its last mount, {base}, is not there", "say where: --base DIR")
    return Overlay.open(base, storage, read_only=True, base_check=BaseCheck.IGNORE)


def last_base(storage: str) -> str:
    """Return the path of the base at the last mount of a storage.

    Raises:
        NotMinifo, StorageBusy, StateError: as for ``open_at_rest``.
    """
    store = Storage(storage)
    try:
        if not store.is_formatted:
            raise NotMinifo(f"{storage} holds no overlay", "name a storage directory, or a path in a mounted overlay")
        check_header(store.database)
        store.lock(exclusive=False)
        db = open_database(store.database, read_only=True, copy_out=None if store.is_trusted else store.copy_out)
        try:
            return recorded_base(db)
        finally:
            db.close()
    finally:
        store.close()


def recorded_base(db: Database) -> str:
    """Return the path of the base at the last mount, as an overlay's database has it."""
    path = db.value("SELECT value FROM overlay WHERE key = 'base'")
    return os.fsdecode(path) if isinstance(path, bytes) else str(path)


class _Beside(Storage):
    """A storage that is read beside the daemon that holds it."""

    is_beside = True

    def lock(self, *, exclusive: bool) -> None:
        """Take no lock: SQLite keeps readers and the writer of the database apart."""


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
