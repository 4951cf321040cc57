"""The parts that repairs are made of: changing rows, assigning numbers, and putting objects into ``lost+found``.

``lost+found`` is a created directory in the overlay's root.  An object that has lost its name, and a content object
that no file refers to, get a name there, because a repair discards nothing.
"""

from __future__ import annotations

import stat
import time
from typing import Any

from ..model import DIRECTORY_SIZE, NAME_MAX
from ..store.base_view import BaseView
from ..store.database import Database, Params
from ..store.object_paths import ID_BLOCK
from ..tree.base_match import ALL_NUMBERED, NUMBERED
from ..tree.nodes import UNREACHED
from .object_inventory import ObjectInventory

LOST_FOUND = b"lost+found"
DAMAGED = b"user.minifo.damaged"  # an extended attribute: bytes of this file are lost
LOST_TARGET = b"lost-target"


class LostFound:
    """Changes rows of one overlay.  All calls must be inside one ``operation`` of its database.

    Args:
        db: the overlay's tables, open for writing.
        inventory: the overlay's content objects.
        base: the base; None if it is not known.
    """

    def __init__(self, db: Database, inventory: ObjectInventory, base: BaseView | None) -> None:
        self._db = db
        self._inventory = inventory
        self._base = base
        self._directory: tuple[int, bytes] | None = None
        self._next_free: int | None = None
        self._name_counts: dict[bytes, int] = {}  # for each name: how many objects in lost+found got it
        self._now = time.time_ns()

    # -- rows

    def _change(self, sql: str, params: Params = ()) -> int:
        """Execute a statement that changes rows, and return how many it has changed."""
        return self._db.change_unlogged(sql, params)

    def _row(self, ino: int) -> dict[str, Any] | None:
        """Return columns of the row of an inode by name, or None if it has no row."""
        names = ("mode", "nlink", "size", "object", "bound", "mapped", "xattrs", "target")
        row = self._db.row(f"SELECT {', '.join(names)} FROM inode WHERE ino = ?", (ino,))
        if row is None:
            return None
        # damage may set more than 16 bits of a mode, and then the functions of stat raise OverflowError
        return {**dict(zip(names, row, strict=True)), "mode": row[0] & 0xFFFF}

    def _fact(self, key: str) -> int:
        """Return a number in the table overlay."""
        return int(self._db.value("SELECT value FROM overlay WHERE key = ?", (key,)))

    def _set_fact(self, key: str, value: int | str | None) -> None:
        self._change("INSERT INTO overlay VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2", (key, value))

    def _take_number(self, key: str) -> int:
        """Return the next free inode number or content object id, and advance its counter (the key)."""
        number = self._fact(key)
        if key == "next_ino":
            number = max(number, self._first_free())
            self._next_free = number + 1
        elif key == "next_object":
            number = max([number, *(n + 1 for n in self._inventory.sizes)])
            if number >= self._fact("object_limit"):
                self._set_fact("object_limit", number + 2 * ID_BLOCK)
        self._set_fact(key, number + 1)
        return number

    def _first_free(self) -> int:
        """Return an inode number above every number of a created object in any table; the counter may be damaged."""
        if self._next_free is None:
            window = self._fact("window"), self._fact("window_end") - UNREACHED
            named = " UNION ALL ".join(f"SELECT {column} AS ino FROM {table}" for table, column in ALL_NUMBERED)
            highest = self._db.value(f"SELECT max(ino) FROM ({named}) WHERE ino >= ? AND ino < ?", window)
            self._next_free = window[0] if highest is None else highest + 1
        return self._next_free

    def _is_created(self, ino: int) -> bool:
        """Return whether an inode number is one of a created object."""
        return self._fact("window") <= ino < self._fact("window_end")

    def _names_of(self, ino: int) -> list[tuple[str, int, bytes]]:
        """Return all names of an inode: table, number of the directory, and name."""
        sql = (
            "SELECT 'created', parent, name FROM created WHERE ino = ?1"
            " UNION ALL SELECT 'renamed', parent, name FROM renamed WHERE ino = ?1"
        )
        return [(table, parent, name) for table, parent, name in self._db.rows(sql, (ino,))]

    def _insert_inode(self, mode: int, size: int, *, object: int | None = None, mapped: int = 0) -> int:
        """Insert a row for a new object that belongs to root, and return its inode number."""
        ino = self._take_number("next_ino")
        times = (self._now,) * 3
        nlink = 2 if stat.S_ISDIR(mode) else 1
        values = (ino, mode, nlink, 0, 0, 0, size, *times, object, None, mapped, 1, *(None,) * 4)
        self._change(f"INSERT INTO inode VALUES ({', '.join('?' * len(values))})", values)
        return ino

    def _insert_directory(self, ino: int) -> None:
        """Insert a row with default attributes for a directory whose own row is lost."""
        times = (self._now,) * 3
        values = (ino, stat.S_IFDIR | 0o755, 2, 0, 0, 0, DIRECTORY_SIZE, *times, None, None, 0, 1, *(None,) * 4)
        self._change(f"INSERT INTO inode VALUES ({', '.join('?' * len(values))})", values)

    # -- lost+found

    def _lost_found_directory(self) -> int:
        """Return the inode number of the directory ``lost+found``, and create it if the overlay has none."""
        name, count = LOST_FOUND, 0
        if self._directory is not None:
            named = "SELECT ino FROM created WHERE parent = 1 AND name = ?"
            if self._db.value(named, (self._directory[1],)) == self._directory[0]:
                return self._directory[0]  # otherwise a repair has moved it, and another one is needed
        while True:
            row = self._db.row(
                "SELECT c.ino, mode, nlink FROM created c JOIN inode USING (ino) WHERE parent = 1 AND name = ?", (name,)
            )
            if row is not None and self._is_created(row[0]) and stat.S_ISDIR(row[1]) and row[2] > 0:
                self._directory = (int(row[0]), name)
                return self._directory[0]
            if row is None and not self._is_taken(name):
                break
            count += 1
            name = LOST_FOUND + b"-%d" % count
        ino = self._insert_inode(stat.S_IFDIR | 0o700, DIRECTORY_SIZE)
        self._directory = (ino, name)
        self._change("INSERT INTO created VALUES (1, ?, ?)", (name, ino))
        self._change("UPDATE inode SET nlink = nlink + 1 WHERE ino = 1 AND nlink > 1")
        return ino

    def _is_taken(self, name: bytes) -> bool:
        """Return whether the root directory of the overlay shows an object with this name."""
        for table in ("created", "renamed"):
            if self._db.value(f"SELECT 1 FROM {table} WHERE parent = 1 AND name = ?", (name,)) is not None:
                return True
        if self._db.value("SELECT 1 FROM origin WHERE path = ?", (b"/" + name,)) is not None:
            return True
        return self._base is not None and name in self._base.names(b"/")

    def _put_in_lost_found(self, ino: int, table: str, name: bytes) -> None:
        """Give an inode a name in ``lost+found``: *name*, made valid and unique there.

        Args:
            ino: the inode.
            table: the table of names to use: ``created`` or ``renamed``.
            name: the wanted name.
        """
        parent_ino = self._lost_found_directory()
        name = name.replace(b"/", b"_").replace(b"\0", b"_")[: NAME_MAX - 25].strip() or b"#%d" % ino
        if name in (b".", b".."):
            name = b"#%d" % ino
        plain, count = name, self._name_counts.get(name, 0)
        if count:
            name = b"%b-%d" % (plain, count)
        while any(
            self._db.value(f"SELECT 1 FROM {t} WHERE parent = ? AND name = ?", (parent_ino, name)) is not None
            for t in ("created", "renamed")
        ):
            count += 1
            name = b"%b-%d" % (plain, count)
        self._name_counts[plain] = count
        self._change(f"INSERT INTO {table} VALUES (?, ?, ?)", (parent_ino, name, ino))
        row = self._row(ino)
        if row is not None and stat.S_ISDIR(row["mode"]):
            self._change("UPDATE inode SET nlink = nlink + 1 WHERE ino = ?", (parent_ino,))

    def _move_to_lost_found(self, table: str, parent: int, name: bytes) -> None:
        """Move a name of the table ``created`` or ``renamed`` to ``lost+found``; delete it if its inode has no row."""
        ino = self._db.value(f"SELECT ino FROM {table} WHERE parent = ? AND name = ?", (parent, name))
        self._change(f"DELETE FROM {table} WHERE parent = ? AND name = ?", (parent, name))
        if ino is not None and self._row(ino) is not None:
            self._put_in_lost_found(ino, table, name)

    def _make_lost_file(self, name: bytes, size: int, *, object: int | None = None, mapped: int = 0) -> int:
        """Create a file in ``lost+found`` for content that belongs to no file, and return its inode number.

        Args:
            name: the wanted name.
            size: the size in bytes.
            object: the content object; 0 if the bytes are a row of ``small``, None if they are extents only.
            mapped: 1 if the file has extents.
        """
        ino = self._insert_inode(stat.S_IFREG | 0o600, size, object=object, mapped=mapped)
        self._put_in_lost_found(ino, "created", name)
        return ino

    def _mark_damaged(self, ino: int, what: bytes) -> None:
        """Set the attribute ``user.minifo.damaged`` of a file whose bytes are lost to the text *what*.

        The file is left as it is if its extended attributes are still those of the base.
        """
        row = self._row(ino)
        if row is not None and row["xattrs"] == 1:
            sql = "INSERT INTO xattr VALUES (?, ?, ?) ON CONFLICT (ino, name) DO UPDATE SET value = excluded.value"
            self._change(sql, (ino, DAMAGED, what))

    # -- whole objects

    def _convert_to_created(self, ino: int) -> int:
        """Turn a base object whose base path is not known into a created object, and return its new inode number.

        The number stays the same if the object already has one of a created object.
        """
        row = self._row(ino)
        if row is None:
            return ino
        new = ino if self._is_created(ino) else self._take_number("next_ino")
        self._change("DELETE FROM origin WHERE ino = ?", (ino,))
        self._change("DELETE FROM modified WHERE ino = ?", (ino,))
        self._change("DELETE FROM deleted WHERE parent = ?", (ino,))
        self._change("INSERT OR IGNORE INTO created SELECT parent, name, ino FROM renamed WHERE ino = ?", (ino,))
        self._change("DELETE FROM renamed WHERE ino = ?", (ino,))
        if stat.S_ISREG(row["mode"]) and row["object"] is None and row["bound"] != 0 and row["size"]:
            # the bytes of the base file show no longer
            self._change("UPDATE inode SET xattrs = 1 WHERE ino = ?", (ino,))
            self._mark_damaged(ino, b"bytes of the base file are missing")
        bound = row["bound"] if row["object"] is not None else None
        target = row["target"] if row["target"] is not None or not stat.S_ISLNK(row["mode"]) else LOST_TARGET
        sql = (
            "UPDATE inode SET xattrs = 1, bound = ?, target = ?, seen_links = NULL, seen_size = NULL, seen_mtime = NULL"
            " WHERE ino = ?"
        )
        self._change(sql, (bound, target, ino))
        if new != ino:
            self._renumber(ino, new)
        if not stat.S_ISDIR(row["mode"]):
            self._change("UPDATE inode SET nlink = ? WHERE ino = ?", (len(self._names_of(new)), new))
        return new

    def _renumber(self, ino: int, new: int) -> None:
        """Give an object the inode number *new* in all tables."""
        for table, column in NUMBERED:
            self._change(f"UPDATE OR IGNORE {table} SET {column} = ? WHERE {column} = ?", (new, ino))

    def _delete_name(self, parent: int, name: bytes) -> None:
        """Delete a name from the tables created and renamed."""
        for table in ("created", "renamed"):
            self._change(f"DELETE FROM {table} WHERE parent = ? AND name = ?", (parent, name))
