"""Doing again what a killed daemon had acknowledged but not committed: all of it, or nothing.

A redo log holds rows; the content they rely on was written to storage, and where storage failed it may never have
arrived, though the kernel once took it.  So after the rows are changed, and before their operation ends, everything
that they rely on is looked at and synced.  What is not there undoes the whole: the log is kept, and somebody decides.
"""

from __future__ import annotations

import apsw

from ..errors import FsError
from .content_objects import ADD_GARBAGE, DROP_GARBAGE, object_name
from .database import Database
from .redo_log import Recording, RedoLog
from .statements import text_of
from .storage import Storage

_NAMED = "SELECT object FROM inode WHERE object > 0 UNION SELECT object FROM extent WHERE object > 0"


def replay(db: Database, storage: Storage, redo: RedoLog, found: Recording) -> None:
    """Do the operations of a log again; inside an operation, which undoes them if this fails.

    Args:
        db: the overlay's database.
        storage: its storage directory.
        redo: the log.
        found: what was read from it.

    Raises:
        StateError: it cannot be done wholly; says where the log is, and how to go on without it.
    """
    deleted: list[int] = []
    try:
        for operation in found:
            for number, params in operation.statements:
                sql = text_of(number)
                if sql is None:
                    raise redo.refused(f"this minifo does not know its statement {number:08x}")
                db.change(sql, params)
                if sql == DROP_GARBAGE and isinstance(params[0], int):
                    deleted.append(params[0])
        for number in deleted:
            known = db.value("SELECT 1 FROM garbage WHERE object = ?", (number,)) is not None
            if not known and storage.exists(object_name(number)):
                db.change(ADD_GARBAGE, (number,))  # storage has come back with a file that was deleted
    except (FsError, apsw.Error) as error:
        raise redo.refused(f"it does not fit the database ({error})") from error
    doubtful = lacking(storage, found)
    if doubtful:
        named = {number for (number,) in db.rows(_NAMED)}
        lost = [(object_name(number), why) for number, why in sorted(doubtful.items()) if number in named]
        if lost:
            name, why = lost[0]
            more = f", and {len(lost) - 1} more" if len(lost) > 1 else ""
            raise redo.refused(f"storage failed, and content did not arrive ({name} {why}{more})")
    _sync(storage, redo, found)


def lacking(storage: Storage, found: Recording) -> dict[int, str]:
    """The content objects of a log that are not what was written, and why; the rows may not need them any more."""
    doubtful = {}
    for number, least in found.least.items():
        try:
            size = storage.stat(object_name(number)).st_size
        except FileNotFoundError:
            doubtful[number] = "is missing"
            continue
        if size < least:
            doubtful[number] = f"has {size} of {least} bytes"
        elif found.failure is not None and number in found.unsynced:
            doubtful[number] = f"was being written when it failed: {found.failure}"
    return doubtful


def _sync(storage: Storage, redo: RedoLog, found: Recording) -> None:
    """Make durable what the log relies on, and hear of errors nobody was told of yet (fsync(2))."""
    try:
        storage.sync_all()
        for number in sorted(found.unsynced):
            if storage.exists(object_name(number)):
                storage.sync_file(object_name(number))
    except OSError as error:
        raise redo.refused(f"storage failed ({error.strerror})") from error
