"""The repairs: one method for each code of a problem, named after the code; its arguments are the problem's key.

The checks are in fsck/checks.py, their descriptions in fsck/problems.py.  A repair keeps what shows in the overlay
wherever that is possible.  Lost bytes read as zeros, and the repair marks their file (``user.minifo.damaged``).
"""

from __future__ import annotations

import secrets
import stat
import uuid

from ..model import DIRECTORY_SIZE, FILE_MAX, OBJECTS_END, ROOT, XATTR_MAX
from ..store.base_view import split
from ..store.history import KEPT_OBJECTS
from ..store.object_paths import ID_BLOCK
from ..store.statements import DROP_FACT
from ..tree.extents import HOLE
from ..tree.nodes import RESERVED, UNREACHED, WINDOW_32, WINDOW_64
from ..tree.path_resolver import is_base_path
from ..tree.row_checks import is_xattr_name
from .lost_found import LOST_TARGET, LostFound

_KINDS = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)


class Repairs(LostFound):
    """All repairs.  All calls must be inside one ``operation`` of the overlay's database."""

    # -- invariants

    def _repair_e001(self, parent: int, name: bytes) -> None:
        self._move_to_lost_found("renamed", parent, name)

    def _repair_e002(self, parent: int, name: bytes) -> None:
        for table in ("created", "renamed"):
            self._move_to_lost_found(table, parent, name)

    def _repair_e003(self, parent: int, name: bytes, ino: int) -> None:
        row = self._row(ino)
        if row is not None:
            self._change("DELETE FROM orphan WHERE ino = ?", (ino,))
            least = 2 if stat.S_ISDIR(row["mode"]) else 1
            self._change("UPDATE inode SET nlink = ? WHERE ino = ? AND nlink < ?", (least, ino, least))
            return
        size = self._db.value('SELECT max("end") FROM extent WHERE ino = ?', (ino,))
        small = self._db.value("SELECT length(data) FROM small WHERE ino = ?", (ino,))
        holds = self._db.value(
            "SELECT 1 FROM created WHERE parent = ?1 UNION SELECT 1 FROM renamed WHERE parent = ?1", (ino,)
        )
        if self._is_created(ino) and (size is not None or small is not None or holds is not None):
            # its row is lost, but its content or entries are not
            mode = stat.S_IFDIR | 0o755 if holds is not None else stat.S_IFREG | 0o644
            values = (ino, mode, len(self._names_of(ino)), 0, 0, 0, max(size or 0, small or 0), *(self._now,) * 3)
            more = (0 if small is not None else None, None, int(size is not None), 1, None, None, None, None)
            self._change(f"INSERT INTO inode VALUES ({', '.join('?' * 18)})", (*values, *more))
            return
        path = self._db.value("SELECT path FROM origin WHERE ino = ?", (ino,))
        if path is not None:
            # let the object show at its base path again
            parent_ino = self._db.value("SELECT ino FROM origin WHERE path = ?", (split(path)[0],))
            self._change("DELETE FROM deleted WHERE parent = ? AND name = ?", (parent_ino, split(path)[1]))
        self._delete_name(parent, name)

    def _repair_e004(self, ino: int, name: bytes) -> None:
        if self._row(ino) is not None:
            self._convert_to_created(ino)

    def _repair_e005(self, ino: int, path: bytes) -> None:
        directory, name = split(path)
        parent_ino = self._db.value("SELECT ino FROM origin WHERE path = ?", (directory,))
        self._change("INSERT OR IGNORE INTO deleted VALUES (?, ?)", (parent_ino, name))

    def _repair_e006(self, parent: int, name: bytes) -> None:
        self._change("DELETE FROM deleted WHERE parent = ? AND name = ?", (parent, name))

    def _repair_e007(self, ino: int) -> None:
        self._change("DELETE FROM modified WHERE ino = ?", (ino,))

    def _repair_e008(self, ino: int) -> None:
        if self._row(ino) is None:
            return
        new = self._convert_to_created(ino)
        if not self._names_of(new):
            self._put_in_lost_found(new, "created", b"#%d" % ino)
            self._change("DELETE FROM orphan WHERE ino = ?", (new,))
            self._change("UPDATE inode SET nlink = max(nlink, 1) WHERE ino = ?", (new,))

    def _repair_e009(self, ino: int, nlink: int) -> None:
        names = self._names_of(ino)
        if not names:
            self._put_in_lost_found(ino, "created", b"#%d" % ino)
        for table, parent, name in names[1:]:
            self._change(f"DELETE FROM {table} WHERE parent = ? AND name = ?", (parent, name))
        self._change("DELETE FROM orphan WHERE ino = ?", (ino,))
        self._change("UPDATE inode SET nlink = max(nlink, 2) WHERE ino = ?", (ino,))

    def _repair_e010(self, ino: int, nlink: int) -> None:
        if not self._names_of(ino):
            self._put_in_lost_found(ino, "created", b"#%d" % ino)
        self._change("DELETE FROM orphan WHERE ino = ?", (ino,))
        sql = "UPDATE inode SET nlink = (SELECT count(*) FROM created WHERE ino = ?1) WHERE ino = ?1"
        self._change(sql, (ino,))

    def _repair_e011(self, ino: int) -> None:
        self._change("DELETE FROM orphan WHERE ino = ?", (ino,))
        row = self._row(ino)
        if row is None:
            return
        path = self._db.value("SELECT path FROM origin WHERE ino = ?", (ino,))
        shows = path is not None and (ino == ROOT or not self._is_hidden(path))
        if row["nlink"] == 0 and not self._names_of(ino) and not shows:
            if not self._is_created(ino) and row["object"] is None and not row["mapped"]:
                self._change("INSERT INTO orphan VALUES (?)", (ino,))  # a base object without content in storage
                return
            new = self._convert_to_created(ino)
            self._put_in_lost_found(new, "created", b"#%d" % ino)
            ino = new
        least = 2 if stat.S_ISDIR(row["mode"]) else max(1, len(self._names_of(ino)))
        self._change("UPDATE inode SET nlink = max(nlink, ?) WHERE ino = ?", (least, ino))

    def _repair_e012(self, ino: int, start: int) -> None:
        row = self._row(ino)
        if row is None or not stat.S_ISREG(row["mode"]) or (row["object"] is not None and not row["mapped"]):
            # this object shows none of the extents: it is not a file, or its bytes are all elsewhere; they get a file
            new = self._make_lost_file(b"#%d" % ino, 0, mapped=1)
            self._change("UPDATE extent SET ino = ? WHERE ino = ?", (new, ino))
            self._change("UPDATE inode SET mapped = 0 WHERE ino = ?", (ino,))
            ino = new
        last = 0
        rows = self._db.rows('SELECT start, "end", object, at FROM extent WHERE ino = ? ORDER BY start', (ino,))
        self._change("DELETE FROM extent WHERE ino = ?", (ino,))
        for begin, stop, number, at in rows:
            end = min(stop, FILE_MAX)
            first = max(begin, last)  # of two overlapping extents the earlier one shows
            if (0 <= at <= FILE_MAX - (stop - begin) or number == HOLE) and first < end:
                where = first if number == HOLE else at + first - begin
                self._change("INSERT INTO extent VALUES (?, ?, ?, ?, ?)", (ino, first, end, number, where))
                last = end
        self._change("UPDATE inode SET mapped = ?, size = max(size, ?) WHERE ino = ?", (int(last > 0), last, ino))
        for number in {row[2] for row in rows} & self._inventory.sizes.keys():
            self._keep_object(number)

    def _keep_object(self, number: int) -> None:
        """Make a file in ``lost+found`` for a content object if the repair has dropped the last extent that used it."""
        sql = "SELECT 1 FROM extent WHERE object = ?1 UNION SELECT 1 FROM inode WHERE object = ?1"
        if self._db.value(sql, (number,)) is None:
            self._repair_e304(number)

    def _repair_e013(self, ino: int) -> None:
        row = self._row(ino)
        if row is None:
            return  # an earlier repair of this round has removed it
        if not stat.S_ISREG(row["mode"]):
            if stat.S_ISLNK(row["mode"]):
                size = len(row["target"] or b"")
            else:
                size = DIRECTORY_SIZE if stat.S_ISDIR(row["mode"]) else 0
            self._change("UPDATE inode SET size = ? WHERE ino = ? AND size NOT BETWEEN 0 AND ?", (size, ino, FILE_MAX))
            self._change("UPDATE inode SET object = NULL, bound = NULL, mapped = 0 WHERE ino = ?", (ino,))
            data = self._db.value("SELECT length(data) FROM small WHERE ino = ?", (ino,))
            if row["object"] == 0 and data is not None:
                new = self._make_lost_file(b"#%d" % ino, data, object=0)
                self._change("UPDATE small SET ino = ? WHERE ino = ?", (new, ino))
            elif row["object"] and self._db.value("SELECT 1 FROM inode WHERE object = ?", (row["object"],)) is None:
                self._repair_e304(row["object"])
            return
        self._change("UPDATE inode SET bound = 0 WHERE ino = ? AND bound < 0", (ino,))
        self._change("UPDATE inode SET bound = NULL WHERE ino = ? AND bound > ?", (ino, FILE_MAX))
        if not 0 <= row["size"] <= FILE_MAX:
            size = self._inventory.sizes.get(row["object"] or -1, 0)
            small = self._db.value("SELECT length(data) FROM small WHERE ino = ?", (ino,)) or 0
            mapped = self._db.value('SELECT max("end") FROM extent WHERE ino = ?', (ino,)) or 0
            self._change("UPDATE inode SET size = ? WHERE ino = ?", (min(max(size, small, mapped), FILE_MAX), ino))

    def _repair_e014(self, number: int) -> None:
        self._change("DELETE FROM garbage WHERE object = ?", (number,))
        sql = "SELECT ino FROM inode WHERE object = ?1 UNION SELECT ino FROM extent WHERE object = ?1"
        owners = [ino for (ino,) in self._db.rows(sql, (number,))]
        kept = {ino for (ino,) in self._db.rows(f"SELECT ino FROM ({KEPT_OBJECTS}) WHERE object = ?", (number,))}
        owners.sort(key=lambda ino: ino not in kept)  # the one that has it in a checkpoint goes on to share it
        for ino in owners if number < 1 else owners[1:]:
            self._give_copy(number, ino, ("inode", "extent"))

    def _give_copy(self, number: int, ino: int, tables: tuple[str, ...]) -> None:
        """Give an inode a copy of a content object instead of the object itself, in the rows of some tables."""
        new = self._take_number("next_object")
        if number in self._inventory.sizes:
            self._inventory.copy(number, new)
        # if the object is missing, the next round reports the owner's bytes as lost (E301)
        for table in tables:
            self._change(f"UPDATE {table} SET object = ? WHERE ino = ? AND object = ?", (new, ino, number))

    def _repair_e015(self, ino: int, name: bytes) -> None:
        size = self._db.value("SELECT length(value) FROM xattr WHERE ino = ? AND name = ?", (ino, name)) or 0
        possible = is_xattr_name(name) and size <= XATTR_MAX
        if not possible or self._change("UPDATE inode SET xattrs = 1 WHERE ino = ?", (ino,)) == 0:
            self._change("DELETE FROM xattr WHERE ino = ? AND name = ?", (ino, name))

    def _repair_e016(self, ino: int) -> None:
        row = self._row(ino)
        if row is None:
            return  # an earlier repair of this round has removed it
        target = LOST_TARGET if stat.S_ISLNK(row["mode"]) else None
        self._change("UPDATE inode SET target = ? WHERE ino = ?", (target, ino))

    def _repair_e017(self) -> None:
        self._change("DELETE FROM origin WHERE ino = ? OR path = x'2f'", (ROOT,))
        self._change("INSERT INTO origin (ino, path) VALUES (?, x'2f')", (ROOT,))

    def _repair_e018(self, ino: int) -> None:
        # in a cycle or a broken chain of directories: move any of its names, and everything below can be reached
        names = self._names_of(ino)
        if names:
            self._move_to_lost_found(*names[0])
        elif self._row(ino) is not None:
            self._put_in_lost_found(ino, "created" if self._is_created(ino) else "renamed", b"#%d" % ino)
        elif (path := self._db.value("SELECT path FROM origin WHERE ino = ?", (ino,))) is not None:
            self._repair_e201(ino, path)

    def _repair_e019(self, ino: int) -> None:
        row = self._row(ino)
        length = self._db.value("SELECT length(data) FROM small WHERE ino = ?", (ino,))
        if length is None:
            self._change("UPDATE inode SET object = NULL, bound = 0 WHERE ino = ?", (ino,))
            self._mark_damaged(ino, b"all bytes are lost")
        elif row is not None and row["object"] is None and stat.S_ISREG(row["mode"]) and not row["mapped"]:
            self._change("UPDATE inode SET object = 0, bound = NULL, size = max(size, ?) WHERE ino = ?", (length, ino))
        elif row is not None and row["object"] == 0 and not row["mapped"]:
            self._change("UPDATE inode SET size = max(size, ?) WHERE ino = ?", (length, ino))
        else:
            new = self._make_lost_file(b"#%d" % ino, length, object=0)
            self._change("UPDATE small SET ino = ? WHERE ino = ?", (new, ino))
            self._change("UPDATE inode SET object = NULL WHERE ino = ? AND object = 0", (ino,))

    def _repair_e020(self, number: int) -> None:
        self._change("DELETE FROM object_digest WHERE object = ?", (number,))

    # -- rows against each other

    def _repair_e201(self, ino: int, path: bytes) -> None:
        """Mark the base directories above an object; they get numbers of the reserved range, as theirs are unknown."""
        while path != b"/":
            if not is_base_path(path):
                self._change("DELETE FROM origin WHERE ino = ?", (ino,))
                return
            path = split(path)[0]
            if self._db.value("SELECT 1 FROM origin WHERE path = ?", (path,)) is not None:
                return
            # the next mount finds the directory by its path and keeps this number (tree/base_match.py)
            number = RESERVED + secrets.randbelow(1 << 61)
            self._change("INSERT INTO origin (ino, path) VALUES (?, ?)", (ROOT if path == b"/" else number, path))

    def _repair_e202(self, ino: int, nlink: int) -> None:
        self._change("UPDATE inode SET nlink = ? WHERE ino = ?", (nlink, ino))

    def _repair_e203(self, parent: int, name: bytes, ino: int | None, table: str) -> None:
        if table == "deleted":
            self._change("DELETE FROM deleted WHERE parent = ? AND name = ?", (parent, name))
        else:
            self._move_to_lost_found(table, parent, name)

    def _repair_e204(self, ino: int) -> None:
        row = self._row(ino)
        if row is None:
            return  # an earlier repair of this round has removed it
        if ino < 1:
            self._convert_to_created(ino)
            return
        if self._fact("window_end") - UNREACHED <= ino < self._fact("window_end"):
            self._renumber(ino, self._take_number("next_ino"))
            return
        kind = stat.S_IFMT(row["mode"])
        holds = (
            "SELECT 1 FROM created WHERE parent = ?1 UNION SELECT 1 FROM renamed WHERE parent = ?1"
            " UNION SELECT 1 FROM deleted WHERE parent = ?1"
        )
        if ino == ROOT or self._db.value(holds, (ino,)) is not None:
            kind = stat.S_IFDIR
        elif kind not in _KINDS:
            kind = self._likely_kind(ino, row["target"])
        self._change("UPDATE inode SET mode = ? WHERE ino = ?", (kind | row["mode"] & 0o7777, ino))
        names = len(self._names_of(ino))
        if not 0 <= row["nlink"] < 1 << 32:
            self._change("UPDATE inode SET nlink = ? WHERE ino = ?", (max(names, 1 + (kind == stat.S_IFDIR)), ino))
        for column in ("uid", "gid", "rdev"):
            self._change(
                f"UPDATE inode SET {column} = 0 WHERE ino = ? AND {column} NOT BETWEEN 0 AND 4294967295", (ino,)
            )
        for column, table in (("mapped", "extent"), ("xattrs", "xattr")):
            holds = f"EXISTS (SELECT 1 FROM {table} WHERE ino = ?1)"
            self._change(f"UPDATE inode SET {column} = {holds} WHERE ino = ?1 AND {column} NOT IN (0, 1)", (ino,))

    def _likely_kind(self, ino: int, target: object) -> int:
        """Return the type that an object without one most likely had: for a base object, that of its base object."""
        origin = self._db.row("SELECT path, dir_mode FROM origin WHERE ino = ?", (ino,))
        if origin is not None:
            path, dir_mode = origin
            if dir_mode is not None:
                return stat.S_IFDIR
            st = self._base.find_readable(path) if self._base is not None and is_base_path(path) else None
            if st is not None:
                return stat.S_IFMT(st.st_mode)
        return stat.S_IFLNK if target is not None else stat.S_IFREG

    def _repair_e205(self, ino: int) -> None:
        names = sorted(self._names_of(ino), key=lambda found: found[0] == "created")
        path = self._db.value("SELECT path FROM origin WHERE ino = ?", (ino,))
        for table, parent, name in names:
            self._change(f"DELETE FROM {table} WHERE parent = ? AND name = ?", (parent, name))
        if ino == ROOT or not names:
            return
        if path is None:
            self._change("INSERT INTO created VALUES (?, ?, ?)", (*names[0][1:], ino))
        elif names[0][0] == "renamed" or self._is_hidden(path):
            self._change("INSERT INTO renamed VALUES (?, ?, ?)", (*names[0][1:], ino))

    def _is_hidden(self, path: bytes) -> bool:
        """Return whether a whiteout hides a base path."""
        sql = "SELECT 1 FROM deleted JOIN origin ON origin.ino = parent WHERE path = ? AND name = ?"
        return self._db.value(sql, split(path)) is not None

    def _repair_e206(self, ino: int) -> None:
        self._change("UPDATE inode SET xattrs = 1 WHERE ino = ?", (ino,))

    def _repair_e207(self, ino: int) -> None:
        # the size and mtime of the base file at its first change are lost; the file's own count as unchanged
        sql = (
            "INSERT INTO modified SELECT ino, 1, size, mtime, NULL FROM inode WHERE ino = ?1"
            " ON CONFLICT (ino) DO UPDATE SET content = 1"
        )
        self._change(sql, (ino,))

    def _repair_e208(self, key: str, value: int) -> None:
        self._set_fact(key, value)

    def _repair_e209(self, key: str) -> None:
        self._derive_fact(key)

    def _repair_e211(self, number: int) -> None:
        self._change("DELETE FROM journal WHERE id = ?", (number,))

    def _repair_e212(self, key: str) -> None:
        self._change(DROP_FACT, (key,))

    def _derive_fact(self, key: str) -> None:
        """Set a row of the table ``overlay`` to a value that fits the other tables and the content objects."""
        if key in ("window", "window_end"):
            count = "SELECT count(*) FROM inode WHERE ino >= ? AND ino < ?"
            low, high = self._db.value(count, WINDOW_32), self._db.value(count, WINDOW_64)
            base_numbers = self._db.value("SELECT max(ino) FROM origin WHERE ino < ?", (RESERVED,)) or 0
            window = WINDOW_64 if high > low or (high == low and base_numbers >= WINDOW_32[0]) else WINDOW_32
            self._set_fact("window", window[0])
            self._set_fact("window_end", window[1])
        elif key == "next_ino":
            window = self._fact("window"), self._fact("window_end") - UNREACHED
            tables = ("inode", "was_inode")
            used = [self._db.value(f"SELECT max(ino) FROM {t} WHERE ino >= ? AND ino < ?", window) for t in tables]
            self._set_fact(key, max(number or window[0] - 1 for number in used) + 1)
        elif key in ("next_object", "object_limit"):
            owned = ("inode", "extent", "was_inode", "was_extent")
            named = [self._db.value(f"SELECT max(object) FROM {t} WHERE object < ?", (OBJECTS_END,)) for t in owned]
            first = max([*(number or 0 for number in named), *self._inventory.sizes]) + 1
            self._set_fact("next_object", first)
            self._set_fact("object_limit", first + 2 * ID_BLOCK)
        elif key == "commit_token":
            self._set_fact(key, secrets.randbits(62))
        elif key == "uuid":
            self._set_fact(key, str(uuid.uuid4()))
        else:
            self._set_fact(key, "" if key == "base" else None)

    def _repair_e210(self, ino: int, path: bytes) -> None:
        parent_ino = self._db.value("SELECT ino FROM origin WHERE path = ?", (split(path)[0],))
        taken = "SELECT 1 FROM created WHERE parent = ?1 AND name = ?2 UNION SELECT 1 FROM renamed WHERE parent = ?1"
        if self._db.value(taken + " AND name = ?2", (parent_ino, split(path)[1])) is None:
            self._change("DELETE FROM deleted WHERE parent = ? AND name = ?", (parent_ino, split(path)[1]))
            return
        if self._row(ino) is None:
            self._insert_directory(ino)
        self._put_in_lost_found(ino, "renamed", split(path)[1])

    # -- content

    def _repair_e301(self, ino: int, number: int) -> None:
        row = self._row(ino)
        if row is not None and row["object"] == number:
            self._change("UPDATE inode SET object = NULL, bound = 0 WHERE ino = ?", (ino,))
        lost = self._db.rows('SELECT start, "end" FROM extent WHERE ino = ? AND object = ?', (ino, number))
        self._change("DELETE FROM extent WHERE ino = ? AND object = ?", (ino, number))
        if lost and row is not None and row["object"] is None and row["bound"] and not self._is_created(ino):
            # the base's bytes there are not those that the file had: cover them with holes
            for start, end in lost:
                self._change("INSERT INTO extent VALUES (?1, ?2, ?3, ?4, ?2)", (ino, start, end, HOLE))
        self._mark_damaged(ino, b"the bytes of object %d are lost" % number)

    def _repair_e302(self, ino: int, number: int, size: int) -> None:
        self._inventory.plan_extension(number, size)
        self._mark_damaged(ino, b"the end of object %d is lost" % number)

    def _repair_e304(self, number: int) -> None:
        if number not in self._inventory.sizes:
            return
        self._make_lost_file(b"object-%d" % number, self._inventory.sizes[number], object=number)
        if number >= self._fact("next_object"):
            self._set_fact("next_object", number + 1)
        if number >= self._fact("object_limit"):
            self._set_fact("object_limit", number + 2 * ID_BLOCK)

    def _repair_w306(self, name: str) -> None:
        self._inventory.move_stray(name)
        self._inventory.scan()
