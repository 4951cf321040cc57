"""What every repair is made of: rows changed one by one, numbers handed out, and ``lost+found``.

``lost+found`` is a created directory in the overlay's root.  What has lost its name, and content nobody names, gets a
name there: a repair discards nothing.
"""

from __future__ import annotations

import stat
import time
from typing import Any

from ..model import NAME_MAX
from ..store.base_view import BaseView
from ..store.content_objects import ROOM
from ..store.database import Database, Params
from ..tree.base_match import NUMBERED
from ..tree.nodes import UNREACHED
from .object_inventory import ObjectInventory

LOST = b"lost+found"
DAMAGED = b"user.minifo.damaged"  # the attribute of a file whose bytes are gone
LOST_TARGET = b"lost-target"


class LostFound:
    """Changes rows of one overlay, inside an operation of its database.

    Args:
        db: its tables, open for writing.
        shelf: its content objects.
        base: the base, where it is known.
    """

    def __init__(self, db: Database, shelf: ObjectInventory, base: BaseView | None) -> None:
        self._db = db
        self._shelf = shelf
        self._base = base
        self._lost: tuple[int, bytes] | None = None
        self._free: int | None = None
        self._namesakes: dict[bytes, int] = {}  # how many things in lost+found had this name
        self._now = time.time_ns()

    # -- rows

    def _do(self, sql: str, params: Params = ()) -> int:
        return self._db.change_unlogged(sql, params)

    def _row(self, ino: int) -> dict[str, Any] | None:
        names = ("mode", "nlink", "size", "object", "bound", "mapped", "xattrs", "target")
        row = self._db.row(f"SELECT {', '.join(names)} FROM inode WHERE ino = ?", (ino,))
        if row is None:
            return None
        # a mode beyond 16 bits is damage; stat refuses to look at one
        return {**dict(zip(names, row, strict=True)), "mode": row[0] & 0xFFFF}

    def _fact(self, key: str) -> int:
        return int(self._db.value("SELECT value FROM overlay WHERE key = ?", (key,)))

    def _set_fact(self, key: str, value: int | str | None) -> None:
        self._do("INSERT INTO overlay VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2", (key, value))

    def _next(self, key: str) -> int:
        number = self._fact(key)
        if key == "next_ino":
            number = max(number, self._first_free())
            self._free = number + 1
        elif key == "next_object":
            number = max([number, *(n + 1 for n in self._shelf.sizes)])
            if number >= self._fact("object_limit"):
                self._set_fact("object_limit", number + 2 * ROOM)
        self._set_fact(key, number + 1)
        return number

    def _first_free(self) -> int:
        """A number above all that rows of created objects name, whatever the counter says."""
        if self._free is None:
            window = self._fact("window"), self._fact("window_end") - UNREACHED
            named = " UNION ALL ".join(f"SELECT {column} AS ino FROM {table}" for table, column in NUMBERED)
            highest = self._db.value(f"SELECT max(ino) FROM ({named}) WHERE ino >= ? AND ino < ?", window)
            self._free = window[0] if highest is None else highest + 1
        return self._free

    def _is_created(self, ino: int) -> bool:
        return self._fact("window") <= ino < self._fact("window_end")

    def _names_of(self, ino: int) -> list[tuple[str, int, bytes]]:
        sql = (
            "SELECT 'created', parent, name FROM created WHERE ino = ?1"
            " UNION ALL SELECT 'renamed', parent, name FROM renamed WHERE ino = ?1"
        )
        return [(table, parent, name) for table, parent, name in self._db.rows(sql, (ino,))]

    def _make(self, mode: int, size: int, *, object: int | None = None, mapped: int = 0) -> int:
        ino = self._next("next_ino")
        times = (self._now,) * 3
        nlink = 2 if stat.S_ISDIR(mode) else 1
        values = (ino, mode, nlink, 0, 0, 0, size, *times, object, None, mapped, 1, *(None,) * 4)
        self._do(f"INSERT INTO inode VALUES ({', '.join('?' * len(values))})", values)
        return ino

    def _make_directory(self, ino: int) -> None:
        """Give a directory that holds things, and of which no more is known, a row."""
        values = (ino, stat.S_IFDIR | 0o755, 2, 0, 0, 0, 4096, *(self._now,) * 3, None, None, 0, 1, *(None,) * 4)
        self._do(f"INSERT INTO inode VALUES ({', '.join('?' * len(values))})", values)

    # -- lost+found

    def _lost_found(self) -> int:
        """The directory for what has no place; made when it is needed."""
        name, count = LOST, 0
        if self._lost is not None:
            named = "SELECT ino FROM created WHERE parent = 1 AND name = ?"
            if self._db.value(named, (self._lost[1],)) == self._lost[0]:
                return self._lost[0]  # else a repair has moved it away
        while True:
            row = self._db.row(
                "SELECT c.ino, mode, nlink FROM created c JOIN inode USING (ino) WHERE parent = 1 AND name = ?", (name,)
            )
            if row is not None and self._is_created(row[0]) and stat.S_ISDIR(row[1]) and row[2] > 0:
                self._lost = (int(row[0]), name)
                return self._lost[0]
            if row is None and not self._is_taken(name):
                break
            count += 1
            name = LOST + b"-%d" % count
        made = self._make(stat.S_IFDIR | 0o700, 4096)
        self._lost = (made, name)
        self._do("INSERT INTO created VALUES (1, ?, ?)", (name, made))
        self._do("UPDATE inode SET nlink = nlink + 1 WHERE ino = 1 AND nlink > 1")
        return made

    def _is_taken(self, name: bytes) -> bool:
        for table in ("created", "renamed"):
            if self._db.value(f"SELECT 1 FROM {table} WHERE parent = 1 AND name = ?", (name,)) is not None:
                return True
        if self._db.value("SELECT 1 FROM origin WHERE path = ?", (b"/" + name,)) is not None:
            return True
        return self._base is not None and name in self._base.names(b"/")

    def _keep(self, ino: int, table: str, name: bytes) -> None:
        """Give an inode a name in lost+found."""
        holder = self._lost_found()
        name = name.replace(b"/", b"_").replace(b"\0", b"_")[: NAME_MAX - 25].strip() or b"#%d" % ino
        if name in (b".", b".."):
            name = b"#%d" % ino
        plain, count = name, self._namesakes.get(name, 0)
        if count:
            name = b"%b-%d" % (plain, count)
        while any(
            self._db.value(f"SELECT 1 FROM {t} WHERE parent = ? AND name = ?", (holder, name)) is not None
            for t in ("created", "renamed")
        ):
            count += 1
            name = b"%b-%d" % (plain, count)
        self._namesakes[plain] = count
        self._do(f"INSERT INTO {table} VALUES (?, ?, ?)", (holder, name, ino))
        row = self._row(ino)
        if row is not None and stat.S_ISDIR(row["mode"]):
            self._do("UPDATE inode SET nlink = nlink + 1 WHERE ino = ?", (holder,))

    def _move_name(self, table: str, parent: int, name: bytes) -> None:
        """Move a name to lost+found; without an inode that lives there is nothing to move."""
        ino = self._db.value(f"SELECT ino FROM {table} WHERE parent = ? AND name = ?", (parent, name))
        self._do(f"DELETE FROM {table} WHERE parent = ? AND name = ?", (parent, name))
        if ino is not None and self._row(ino) is not None:
            self._keep(ino, table, name)

    def _keep_file(self, name: bytes, size: int, *, object: int | None = None, mapped: int = 0) -> int:
        """Make a file for content without one, in lost+found."""
        ino = self._make(stat.S_IFREG | 0o600, size, object=object, mapped=mapped)
        self._keep(ino, "created", name)
        return ino

    def _damaged(self, ino: int, what: bytes) -> None:
        """Mark a file whose bytes are gone, where its attributes are rows."""
        row = self._row(ino)
        if row is not None and row["xattrs"] == 1:
            sql = "INSERT INTO xattr VALUES (?, ?, ?) ON CONFLICT (ino, name) DO UPDATE SET value = excluded.value"
            self._do(sql, (ino, DAMAGED, what))

    # -- whole objects

    def _become_created(self, ino: int) -> int:
        """Make a created object of one whose place in the base is not known (any more); its new number."""
        row = self._row(ino)
        if row is None:
            return ino
        new = ino if self._is_created(ino) else self._next("next_ino")
        self._do("DELETE FROM origin WHERE ino = ?", (ino,))
        self._do("DELETE FROM modified WHERE ino = ?", (ino,))
        self._do("DELETE FROM deleted WHERE parent = ?", (ino,))
        self._do("INSERT OR IGNORE INTO created SELECT parent, name, ino FROM renamed WHERE ino = ?", (ino,))
        self._do("DELETE FROM renamed WHERE ino = ?", (ino,))
        if stat.S_ISREG(row["mode"]) and row["object"] is None and row["bound"] != 0 and row["size"]:
            # the bytes of the base do not show any more
            self._do("UPDATE inode SET xattrs = 1 WHERE ino = ?", (ino,))
            self._damaged(ino, b"bytes of the base file are not there")
        bound = row["bound"] if row["object"] is not None else None
        target = row["target"] if row["target"] is not None or not stat.S_ISLNK(row["mode"]) else LOST_TARGET
        sql = (
            "UPDATE inode SET xattrs = 1, bound = ?, target = ?, seen_links = NULL, seen_size = NULL, seen_mtime = NULL"
            " WHERE ino = ?"
        )
        self._do(sql, (bound, target, ino))
        if new != ino:
            self._renumber(ino, new)
        if not stat.S_ISDIR(row["mode"]):
            self._do("UPDATE inode SET nlink = ? WHERE ino = ?", (len(self._names_of(new)), new))
        return new

    def _renumber(self, ino: int, new: int) -> None:
        for table, column in NUMBERED:
            self._do(f"UPDATE OR IGNORE {table} SET {column} = ? WHERE {column} = ?", (new, ino))

    def _drop_name(self, parent: int, name: bytes) -> None:
        for table in ("created", "renamed"):
            self._do(f"DELETE FROM {table} WHERE parent = ? AND name = ?", (parent, name))
