"""Checks of the values in rows.  A storage may come from an attacker: the engine checks a value before it uses it.

What is checked when:

* The schema, and the facts of ``overlay`` (``wrong_facts``), at each open, before any other query; then the rows of the
  root directory (``check_root`` in mount_checks.py).
* A row of ``inode``, a path of ``origin``, names, targets and small files when a mount *reads* them (``row_of``,
  ``path_of``, ``named``, ``target_of``, ``bytes_of``; extents in tree/extents.py).  So opening an overlay of 100,000
  entries takes no longer than opening one of ten, and a damaged row gives EIO for its own object only.
* Every row of every table (``examine``) before a tool writes outside of the storage: merge, export and rebase.  They
  read everything anyway.  A damaged row is reported as ``Corrupt``, with the row.  minifo-fsck checks by the same rules
  and repairs.

Types are checked too: SQLite enforces the types of a STRICT table when it writes a row, but not when it reads one from
the file (sqlite.org/stricttables.html).
"""

from __future__ import annotations

import errno
import re
import stat
from collections.abc import Iterable
from typing import Any

from ..errors import Corrupt, FsError
from ..model import FILE_MAX, NAME_MAX, OBJECTS_END, SYMLINK_MAX, XATTR_MAX, XATTR_NAME_MAX, Ino
from ..store import invariants
from ..store.database import Database
from .inode_rows import Row
from .nodes import UNREACHED, WINDOW_32, WINDOW_64
from .path_resolver import PathResolver, is_base_path

RESERVED_AHEAD = 1 << 24  # largest object_limit - next_object: a mount searches the directories of all ids between
_NUMBERS_END = 1 << 32  # st_nlink, st_uid, st_gid and st_rdev are below: 32 bits each
_KINDS = {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK}
_COLUMN_TYPES = {int, type(None)}
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NOT_NAMES = (b"", b".", b"..")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+:-]{0,63}")
KEEP_LIST = "keep_list:"  # before the name of a keep-list, in the table ``overlay`` (engine/keep_lists.py)
KEEP_LIST_MAX = 64 << 10  # bytes of a keep-list
KEEP_LISTS_MAX = 32  # all of them are read with the facts at each open
NOTE_MAX = 1000  # characters of a checkpoint's note

#: The columns of table ``checkpoint``.
CHECKPOINT_COLUMNS = ("id", "name", "time", "note", "pinned", "cause", "returns", "next_ino", "next_object")

#: The keys that every overlay has in table ``overlay``, and the types of their values.
FACTS: dict[str, type | tuple[type, ...]] = {
    "uuid": str,
    "window": int,
    "window_end": int,
    "next_ino": int,
    "next_object": int,
    "object_limit": int,
    "commit_token": int,
    "base": (str, bytes),
    "base_mark": (str, type(None)),
}


def wrong_facts(facts: dict[str, Any]) -> list[str]:
    """Return the keys of the facts that are missing or impossible.

    Args:
        facts: the rows of table ``overlay``.
    """
    wrong = [key for key, kind in FACTS.items() if key not in facts or not isinstance(facts[key], kind)]
    if not wrong and (facts["window"], facts["window_end"]) not in (WINDOW_32, WINDOW_64):
        wrong = ["window", "window_end"]
    if not wrong and facts["next_ino"] > facts["window_end"] - UNREACHED:
        wrong = ["next_ino"]
    counters = ("next_ino", "next_object", "object_limit", "commit_token")
    wrong += [key for key in counters if key in facts and key not in wrong and not 0 <= facts[key] < OBJECTS_END]
    if not wrong and facts["object_limit"] > facts["next_object"] + RESERVED_AHEAD:
        wrong = ["object_limit"]
    if "uuid" not in wrong and not _UUID.fullmatch(facts["uuid"]):
        wrong.append("uuid")  # it is part of a path (store/redo_log.py)
    return wrong


def is_name(value: object) -> bool:
    """Return True if *value* can be a name in a directory."""
    return (
        type(value) is bytes
        and len(value) <= NAME_MAX
        and value not in _NOT_NAMES
        and b"/" not in value
        and b"\0" not in value
    )


def is_xattr_name(value: object) -> bool:
    """Return True if *value* can be the name of an extended attribute (xattr(7))."""
    return type(value) is bytes and 0 < len(value) <= XATTR_NAME_MAX and b"\0" not in value


def named(rows: Iterable[tuple[Any, Any]]) -> list[tuple[bytes, Ino]]:
    """Return those rows of (name, inode number) whose values are possible; damaged ones are left out of listings."""
    return [row for row in rows if is_name(row[0]) and type(row[1]) is int]


def _damaged(what: str) -> FsError:
    return FsError(errno.EIO, what)


def row_of(values: tuple[Any, ...]) -> Row:
    """Return the columns of a row of ``inode`` as a ``Row``.

    Args:
        values: the columns, in the order of ``Row``.

    Raises:
        FsError: EIO if one of them is impossible; the message names the inode.
    """
    if _COLUMN_TYPES.issuperset(map(type, values)):
        row = Row._make(values)
        number, bound = row.object, row.bound
        try:
            if (
                row.ino > 0
                and row.mode & ~0o7777 in _KINDS
                and 0 <= row.nlink < _NUMBERS_END
                and 0 <= row.uid < _NUMBERS_END
                and 0 <= row.gid < _NUMBERS_END
                and 0 <= row.rdev < _NUMBERS_END
                and 0 <= row.size <= FILE_MAX
                and (number is None or 0 <= number < OBJECTS_END)
                and (bound is None or 0 <= bound <= FILE_MAX)
                and None not in values[7:10]
                and 0 <= row.mapped <= 1
                and 0 <= row.xattrs <= 1
            ):
                return row
        except TypeError:
            pass  # NULL in a column that must not be
    raise _damaged(f"inode {values[0]}: its row is damaged")


def is_id(value: object) -> bool:
    """Return True if *value* can be a uid, a gid or a mode."""
    return type(value) is int and 0 <= value < _NUMBERS_END


def is_origin_path(value: object) -> bool:
    """Return True if *value* can be a path of ``origin``: bytes, and a path in base terms."""
    return type(value) is bytes and is_base_path(value)


def path_of(ino: int, value: object) -> bytes:
    """Return *value*, the path of *ino* in ``origin``, if it can be one.

    Raises:
        FsError: EIO if it cannot.
    """
    if is_origin_path(value):
        assert isinstance(value, bytes)
        return value
    raise _damaged(f"inode {ino}: its path in the base is damaged")


def target_of(ino: int, value: object) -> bytes:
    """Return *value*, the target of symlink *ino*, if it can be one.

    Raises:
        FsError: EIO if it cannot.
    """
    if type(value) is bytes and 0 < len(value) <= SYMLINK_MAX and b"\0" not in value:
        return value
    raise _damaged(f"inode {ino}: its symlink target is damaged")


def number_of(value: object) -> Ino:
    """Return *value*, an inode number from a row, if it is an integer.

    Raises:
        FsError: EIO if it is not.
    """
    if type(value) is int:
        return Ino(value)
    raise _damaged(f"a row has {value!r:.40} as an inode number")


def bytes_of(ino: int, value: object) -> bytes:
    """Return *value*, content or an extended attribute of *ino* from a row, if it is bytes.

    Raises:
        FsError: EIO if it is not.
    """
    if type(value) is bytes:
        return value
    raise _damaged(f"inode {ino}: its bytes are damaged")


def keep_list(key: str, value: object) -> list[str] | None:
    """Return the patterns of a keep-list, or None if it is impossible.

    Args:
        key, value: its row in the table ``overlay``.
    """
    if not key.startswith(KEEP_LIST) or not is_label(key.removeprefix(KEEP_LIST)):
        return None
    if type(value) is not bytes or not 0 < len(value) <= KEEP_LIST_MAX:
        return None
    try:
        patterns = value.decode().split("\n")
    except UnicodeDecodeError:
        return None
    return patterns if all(pattern.strip() and not {"\r", "\0"} & set(pattern) for pattern in patterns) else None


def is_label(value: object) -> bool:
    """Return True if *value* can be the name of a checkpoint or of a keep-list."""
    return type(value) is str and _LABEL.fullmatch(value) is not None


def is_note(value: object) -> bool:
    """Return True if *value* can be a checkpoint's note."""
    return type(value) is str and len(value) <= NOTE_MAX and value.isprintable()


def is_checkpoint_id(value: object) -> bool:
    """Return True if *value* can be the id of a checkpoint, which more checkpoints can follow."""
    return type(value) is int and 0 < value < OBJECTS_END


def wrong_columns(row: tuple[Any, ...]) -> list[str]:
    """Return the columns of a row of ``checkpoint`` whose values are impossible, but for its id.

    Args:
        row: the columns, in the order of ``CHECKPOINT_COLUMNS``.
    """
    _, name, time, note, pinned, cause, returns, next_ino, next_object = row
    possible = {
        "name": is_label(name),
        "time": type(time) is int and time >= 0,
        "note": is_note(note),
        "pinned": type(pinned) is int and pinned in (0, 1),
        "cause": cause is None or is_label(cause),
        "returns": returns is None or (type(returns) is int and returns >= 0),
        "next_ino": type(next_ino) is int and 0 < next_ino < OBJECTS_END,
        "next_object": type(next_object) is int and 0 < next_object < OBJECTS_END,
    }
    return [column for column, is_possible in possible.items() if not is_possible]


def examine(db: Database, path: str, *, finished: bool = True) -> None:
    """Check every row.  A tool calls it before it writes anything outside of the storage by what the rows say.

    Args:
        db: the overlay's database; only read.
        path: the path of the database, for messages.
        finished: False to skip the invariants, while the caller is still adding rows.

    Raises:
        Corrupt: a row is impossible; the message names the first one.
    """
    hint = f"run: minifo-fsck {path.rpartition('/')[0]}"
    try:
        problem = _first_problem(db, finished)
    except FsError as error:
        raise Corrupt(f"{path} is damaged ({error.filename or error.strerror})", hint) from error
    if problem:
        raise Corrupt(f"{path} is damaged ({problem})", hint)


#: Base directories with a second name, and the root if it has any name: a walk of such a tree may never end.
TWO_NAMED = (
    "SELECT n.ino, count(*) FROM (SELECT ino, 0 AS made FROM renamed UNION ALL SELECT ino, 1 FROM created) n"
    " JOIN inode i USING (ino) JOIN origin USING (ino) WHERE (i.mode & 61440) = 16384 GROUP BY n.ino"
    # a row of created for a base directory would be a second name of it
    " HAVING count(*) > 1 OR max(made) OR n.ino = 1"
)
_NAMES = (
    "SELECT parent, name, ino FROM created UNION ALL SELECT parent, name, ino FROM renamed"
    " UNION ALL SELECT parent, name, 1 FROM deleted"
)


def _first_problem(db: Database, finished: bool) -> str:
    """Return what is wrong with the first damaged row, or an empty string."""
    # SQLite's own check comes first: rows with wrong types, and pages that do not belong together
    for (said,) in db.rows("PRAGMA quick_check(1)"):
        if said != "ok":
            return " ".join(str(said).split())
    columns = ", ".join(Row._fields)
    for values in db.each(f"SELECT {columns} FROM inode"):
        row_of(values)
    for ino, target in db.each("SELECT ino, target FROM inode WHERE target IS NOT NULL"):
        target_of(ino, target)
    for ino, path in db.each("SELECT ino, path FROM origin"):
        path_of(ino, path)
    for parent, name, ino in db.each(_NAMES):
        if not is_name(name) or ino < 1:
            return f"{PathResolver(db).of_name(parent, name)!r} cannot be a name"
    for ino, name, size in db.each("SELECT ino, name, length(value) FROM xattr"):
        if not is_xattr_name(name) or size > XATTR_MAX:
            return f"inode {ino}: an extended attribute is damaged"
    for ino, end, at, number in db.each('SELECT ino, "end", at + "end" - start, object FROM extent'):
        if max(end, at) > FILE_MAX or not 0 <= number < OBJECTS_END:
            return f"inode {ino}: its extents are damaged"
    for ino, _ in db.rows(TWO_NAMED) if finished else ():
        return f"inode {ino}: a directory with two names"
    for violation in invariants.check(db) if finished else ():
        return f"{violation.rule}: violated by {violation.detail!r:.100}"
    return ""
