"""Entries of the journal, read: in their order, a bounded number at a time, and only those that are possible.

A storage may come from anywhere, so each value is checked: an entry that this module returns can be printed after its
names are made printable, and an impossible one is counted.  minifo-fsck removes those.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from ..model import JournalEntry, JournalSlice
from ..store.database import Database
from .known_names import PATH_MAX

COMMAND_MAX = 15  # bytes; TASK_COMM_LEN less the NUL (proc(5))
IDS_END = 1 << 62  # all ids are less
SLICE_ENTRIES = 500  # read at a time: in about a ms
_SLICE_BYTES = 96 << 10  # of paths at a time; one entry may have more

COLUMNS = "id, time, op, path, other, uid, pid, command"
_BOUNDS = "SELECT (SELECT min(id) FROM journal), (SELECT max(id) FROM journal)"
_OP = re.compile(r"[a-z]{1,16}")  # a later version may know more
_NUMBERS_END = 1 << 32  # uid and pid are below


#: Who asked for a change: uid, pid and name of the process; None for what is not known.
Author = tuple[int | None, int | None, bytes | None]


def this_process() -> Author:
    """Return this process as the author of what it does to an overlay as a whole."""
    try:
        with open("/proc/self/comm", "rb") as file:
            command: bytes | None = file.read(COMMAND_MAX + 1).rstrip(b"\n")[:COMMAND_MAX]
    except OSError:
        command = None  # without /proc
    return os.getuid(), os.getpid(), command


def bounds(db: Database, limit: int = 0) -> tuple[int, int]:
    """Return the first id of the journal and the one after the last; both are 1 if it is empty.

    Args:
        db: the overlay's database; only read.
        limit: how many entries count, the last ones; 0 for all.
    """
    first, last = db.row(_BOUNDS) or (None, None)
    if type(first) is not int or type(last) is not int:
        return 1, 1
    return (max(first, last + 1 - limit) if limit else first), last + 1


def read(db: Database, first: int, end: int, *, backward: bool = False) -> JournalSlice:
    """Return the entries with ids from *first* on and below *end*, or the first part of them.

    Args:
        db: the overlay's database; only read.
        first, end: the range of ids.
        backward: begin with the last one.

    Raises:
        FsError: the table cannot be read.
    """
    entries: list[JournalEntry] = []
    impossible = size = 0
    order = "DESC" if backward else "ASC"
    sql = f"SELECT {COLUMNS} FROM journal WHERE id >= ? AND id < ? ORDER BY id {order} LIMIT {SLICE_ENTRIES}"
    rows = db.rows(sql, (first, end))
    for row in rows:
        if wrong_value(row):
            impossible += 1
            continue
        entry = JournalEntry._make(row)
        size += len(entry.path) + len(entry.other or b"")
        if entries and size > _SLICE_BYTES:
            return JournalSlice(entries, entry.id + backward, impossible)
        entries.append(entry)
    if len(rows) < SLICE_ENTRIES:
        return JournalSlice(entries, first if backward else end, impossible)
    return JournalSlice(entries, rows[-1][0] + (not backward), impossible)


def wrong_value(row: tuple[Any, ...]) -> str:
    """Return the name of the first column of an entry with an impossible value, or an empty string."""
    number, time, op, path, other, uid, pid, command = row
    checks = {
        "id": type(number) is int and 0 < number < IDS_END,
        "time": type(time) is int,
        "op": type(op) is str and _OP.fullmatch(op) is not None,
        "path": _is_path(path),
        "other": other is None or _is_path(other),
        "uid": uid is None or (type(uid) is int and 0 <= uid < _NUMBERS_END),
        "pid": pid is None or (type(pid) is int and 0 <= pid < _NUMBERS_END),
        "command": command is None or (type(command) is bytes and len(command) <= COMMAND_MAX),
    }
    return next((name for name, is_right in checks.items() if not is_right), "")


def _is_path(value: object) -> bool:
    return type(value) is bytes and 0 < len(value) <= PATH_MAX and b"\0" not in value


def impossible(db: Database) -> Iterator[tuple[int, str]]:
    """Yield id and column of each entry with an impossible value."""
    for row in db.each(f"SELECT {COLUMNS} FROM journal"):
        wrong = wrong_value(row)
        if wrong:
            yield row[0], f"its {wrong} is {row[COLUMNS.split(', ').index(wrong)]!r:.60}"
