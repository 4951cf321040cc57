"""Replay of a redo log: do all operations that a killed daemon acknowledged but did not commit, or none of them.

A redo log holds row changes only; the content they rely on was written to storage.  Where storage failed, that content
may have been lost between the kernel's page cache and the medium.  So within the same operation, after the rows are
changed, the content is checked and synced.  If some of it is missing, all changes are undone, the log is kept, and the
error tells the user how to decide.
"""

from __future__ import annotations

import logging
from typing import Any

import apsw

from ..errors import FsError
from .content_objects import ADD_GARBAGE, DROP_GARBAGE
from .database import Database
from .object_paths import object_name
from .redo_log import Recording, RedoLog
from .statements import is_optional, text_of
from .storage import Storage

log = logging.getLogger(__name__)

_IN_USE = (
    "SELECT object FROM inode WHERE object > 0 UNION SELECT object FROM extent WHERE object > 0 UNION"
    " SELECT object FROM was_inode WHERE object > 0 UNION SELECT object FROM was_extent WHERE object > 0"
)


def replay(db: Database, storage: Storage, redo: RedoLog, recording: Recording) -> None:
    """Execute the operations of a redo log.  Call it inside an operation, which undoes everything if this raises.

    Args:
        db: the overlay's database.
        storage: its storage directory.
        redo: the log, for error messages.
        recording: what was read from the log.

    Raises:
        StateError: not all of it can be done; the message says where the log is, and how to mount without it.
    """
    deleted: list[int] = []
    try:
        facts: dict[str, Any] = dict(db.rows("SELECT key, value FROM overlay"))
        for operation in recording:
            for number, params in operation.statements:
                sql = text_of(number)
                if sql is None:
                    raise redo.refusal(f"this version of minifo does not know its statement {number:08x}")
                try:
                    db.change(sql, params)
                except (apsw.CorruptError, apsw.ConstraintError) as error:
                    if not is_optional(sql):
                        raise
                    log.warning("%s: %s; run minifo-fsck", redo.path, error)
                if sql == DROP_GARBAGE and isinstance(params[0], int):
                    deleted.append(params[0])
        _check_counters(facts, redo, recording)
        for number in deleted:
            known = db.value("SELECT 1 FROM garbage WHERE object = ?", (number,)) is not None
            if not known and storage.exists(object_name(number)):
                db.change(ADD_GARBAGE, (number,))  # the failed storage did not keep the deletion of this file
    except (FsError, apsw.Error) as error:
        raise redo.refusal(f"it does not fit the database ({error})") from error
    doubtful = missing_content(storage, recording)
    if doubtful:
        in_use = {number for (number,) in db.rows(_IN_USE)}
        lost = [(object_name(number), why) for number, why in sorted(doubtful.items()) if number in in_use]
        if lost:
            name, why = lost[0]
            more = f", and {len(lost) - 1} more" if len(lost) > 1 else ""
            raise redo.refusal(f"storage failed, and content did not arrive ({name} {why}{more})")
    _sync(storage, redo, recording)


def _check_counters(facts: dict[str, Any], redo: RedoLog, recording: Recording) -> None:
    """Refuse a log whose next numbers lie outside of what the last commit had left to hand out.

    The overlay would hand out numbers that are in use, or such as no row can hold.

    Args:
        facts: the rows of table ``overlay`` as that commit left them.
        redo: the log, for the error message.
        recording: what was read from the log.

    Raises:
        StateError: the log is not one of this database.
    """
    for operation in recording:
        for key, value, end_key in (
            ("next_ino", operation.next_ino, "window_end"),
            ("next_object", operation.next_object, "object_limit"),
        ):
            least, end = facts.get(key), facts.get(end_key)
            # a mount has refused damaged facts before, and minifo-fsck repairs them
            if type(least) is int and type(end) is int and not least <= value <= end:
                raise redo.refusal(f"it does not fit the database (its {key} is {value})")


def missing_content(storage: Storage, recording: Recording) -> dict[int, str]:
    """Return the content objects in a log whose content may be lost, each with the reason.

    Objects that no row uses after the replay are among them.  The reason is text that follows the object's name.
    """
    doubtful = {}
    for number, least in recording.least.items():
        try:
            size = storage.stat(object_name(number)).st_size
        except FileNotFoundError:
            doubtful[number] = "is missing"
            continue
        if size < least:
            doubtful[number] = f"has {size} of {least} bytes"
        elif recording.failure is not None and number in recording.unsynced:
            doubtful[number] = f"was being written when it failed: {recording.failure}"
    return doubtful


def _sync(storage: Storage, redo: RedoLog, recording: Recording) -> None:
    """Make the content that the log relies on durable.

    The fsync of each object also reports an earlier write error that the kernel has not reported yet (fsync(2)).
    """
    try:
        storage.sync_all()
        for number in sorted(recording.unsynced):
            if storage.exists(object_name(number)):
                storage.sync_file(object_name(number))
    except OSError as error:
        raise redo.refusal(f"storage failed ({error.strerror})") from error
