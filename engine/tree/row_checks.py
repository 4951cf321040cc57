"""What rows may hold.  Anybody may have edited a storage: no value of a row is believed before it was looked at.

Who looks, and when:

* The schema, and the facts of ``overlay`` (``wrong_facts``), at each open, before any other query.
* A row of ``inode``, a path of ``origin``, names, targets and small files where a mount *reads* them (``row_of``,
  ``path_of``, ``named``, ``target_of``, ``bytes_of``; extents in tree/extents.py): opening 100,000 entries takes no
  longer than opening ten, and one bad row gives EIO by itself and hides none of its neighbours.
* Every row of every table (``examine``), of tools that read everything anyway and then write outside of storage: merge,
  export and rebase.  What it finds is ``Corrupt``, and names the row.  minifo-fsck has the same rules, and repairs.

Types are looked at, too: SQLite keeps those of a STRICT table where it writes a row, and believes the file where it
reads one (sqlite.org/stricttables.html).
"""

from __future__ import annotations

import errno
import re
import stat
from collections.abc import Iterable
from typing import Any

from ..errors import Corrupt, FsError
from ..model import FILE_MAX, NAME_MAX, OBJECTS_END, SYMLINK_MAX, XATTR_MAX, Ino
from ..store import invariants
from ..store.database import Database
from .inode_rows import Row
from .nodes import UNREACHED, WINDOW_32, WINDOW_64
from .path_resolver import PathResolver, is_base_path

RESERVED_AHEAD = 1 << 24  # most object ids between the next one and the limit: a mount looks into their directories
_NUMBERS_END = 1 << 32  # modes aside, what stat(2) has in 32 bits: links, owners, devices
_KINDS = {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK}
_NUMBERS = {int, type(None)}
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NO_NAMES = (b"", b".", b"..")

#: The facts each overlay has, and what their values are.
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
    """The facts that are missing or impossible."""
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
    """True for what can be a name in a directory."""
    return (
        type(value) is bytes
        and len(value) <= NAME_MAX
        and value not in _NO_NAMES
        and b"/" not in value
        and b"\0" not in value
    )


def is_xattr_name(value: object) -> bool:
    """True for what can be the name of an extended attribute (xattr(7))."""
    return type(value) is bytes and 0 < len(value) <= NAME_MAX and b"\0" not in value


def named(rows: Iterable[tuple[Any, Any]]) -> list[tuple[bytes, Ino]]:
    """Of names and what they stand for those that can be; what else there is leads nowhere."""
    return [found for found in rows if is_name(found[0]) and type(found[1]) is int]


def _damaged(what: str) -> FsError:
    return FsError(errno.EIO, what)


def row_of(values: tuple[Any, ...]) -> Row:
    """A row of ``inode``.

    Args:
        values: its columns, in the order of ``Row``.

    Raises:
        FsError: EIO where one of them is impossible; it names the inode.
    """
    if _NUMBERS.issuperset(map(type, values)):
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
            pass  # NULL where there must be a number
    raise _damaged(f"inode {values[0]}: its row is damaged")


def is_id(value: object) -> bool:
    """True for what can be an owner, or a mode."""
    return type(value) is int and 0 <= value < _NUMBERS_END


def is_place(value: object) -> bool:
    """True for what can be a path of ``origin``."""
    return type(value) is bytes and is_base_path(value)


def path_of(ino: int, value: object) -> bytes:
    """A path of ``origin``.

    Raises:
        FsError: EIO where it is none.
    """
    if is_place(value):
        assert isinstance(value, bytes)
        return value
    raise _damaged(f"inode {ino}: its place in the base is damaged")


def target_of(ino: int, value: object) -> bytes:
    """The target of a symlink.

    Raises:
        FsError: EIO where it is none.
    """
    if type(value) is bytes and 0 < len(value) <= SYMLINK_MAX and b"\0" not in value:
        return value
    raise _damaged(f"inode {ino}: its target is damaged")


def number_of(value: object) -> Ino:
    """The inode number that a name stands for.

    Raises:
        FsError: EIO where it is something else.
    """
    if type(value) is int:
        return Ino(value)
    raise _damaged(f"inode {value!r:.40}: it is no number")


def bytes_of(ino: int, value: object) -> bytes:
    """A value that is bytes.

    Raises:
        FsError: EIO where it is something else.
    """
    if type(value) is bytes:
        return value
    raise _damaged(f"inode {ino}: its bytes are damaged")


def examine(db: Database, path: str, *, finished: bool = True) -> None:
    """Look at every row, before something is done outside of storage by what rows say.

    Args:
        db: the overlay's database; only read.
        path: of the database, for the message.
        finished: False while rows are still being made, and do not keep the invariants yet.

    Raises:
        Corrupt: the first row that is impossible.
    """
    hint = f"run: minifo-fsck {path.rpartition('/')[0]}"
    try:
        found = _first_wrong(db, finished)
    except FsError as error:
        raise Corrupt(f"{path} is damaged ({error.filename or error.strerror})", hint) from error
    if found:
        raise Corrupt(f"{path} is damaged ({found})", hint)


#: Directories of the base with a second name, and any name of the root: ways to go round in circles.
TWO_NAMED = (
    "SELECT n.ino, count(*) FROM (SELECT ino, 0 AS made FROM renamed UNION ALL SELECT ino, 1 FROM created) n"
    " JOIN inode i USING (ino) JOIN origin USING (ino) WHERE (i.mode & 61440) = 16384 GROUP BY n.ino"
    # a link to a directory of the base would be its second name
    " HAVING count(*) > 1 OR max(made) OR n.ino = 1"
)
_NAMES = (
    "SELECT parent, name, ino FROM created UNION ALL SELECT parent, name, ino FROM renamed"
    " UNION ALL SELECT parent, name, 1 FROM deleted"
)


def _first_wrong(db: Database, finished: bool) -> str:
    """What is wrong with the first row that is, or an empty string."""
    # before anything else: rows of wrong types, pages that do not belong together
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
        return f"{violation.rule}: not so of {violation.detail!r:.100}"
    return ""
