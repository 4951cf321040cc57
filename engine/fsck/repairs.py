"""What the repair of each finding does: one method for each code, named after it, given the finding's key.

The checks are in fsck/checks.py, the words for them in fsck/problems.py.  What shows in the overlay is kept as it
is wherever that is possible; bytes that are really gone read as zeros, and their file is marked.
"""

from __future__ import annotations

import secrets
import stat
import uuid

from ..model import FILE_MAX, ROOT, XATTR_MAX
from ..store.base_view import split
from ..store.content_objects import ROOM
from ..tree.extents import HOLE
from ..tree.nodes import RESERVED, UNREACHED, WINDOW_32, WINDOW_64
from ..tree.path_resolver import is_base_path
from ..tree.row_checks import is_xattr_name
from .lost_found import LOST_TARGET, LostFound


class Repairs(LostFound):
    """The repairs."""

    # -- invariants

    def _mend_e001(self, parent: int, name: bytes) -> None:
        self._move_name("renamed", parent, name)

    def _mend_e002(self, parent: int, name: bytes) -> None:
        for table in ("created", "renamed"):
            self._move_name(table, parent, name)

    def _mend_e003(self, parent: int, name: bytes, ino: int) -> None:
        row = self._row(ino)
        if row is not None:
            self._do("DELETE FROM orphan WHERE ino = ?", (ino,))
            least = 2 if stat.S_ISDIR(row["mode"]) else 1
            self._do("UPDATE inode SET nlink = ? WHERE ino = ? AND nlink < ?", (least, ino, least))
            return
        size = self._db.value('SELECT max("end") FROM extent WHERE ino = ?', (ino,))
        small = self._db.value("SELECT length(data) FROM small WHERE ino = ?", (ino,))
        holds = self._db.value(
            "SELECT 1 FROM created WHERE parent = ?1 UNION SELECT 1 FROM renamed WHERE parent = ?1", (ino,)
        )
        if self._is_created(ino) and (size is not None or small is not None or holds is not None):
            # its row is lost, but not what belongs to it
            mode = stat.S_IFDIR | 0o755 if holds is not None else stat.S_IFREG | 0o644
            values = (ino, mode, len(self._names_of(ino)), 0, 0, 0, max(size or 0, small or 0), *(self._now,) * 3)
            more = (0 if small is not None else None, None, int(size is not None), 1, None, None, None, None)
            self._do(f"INSERT INTO inode VALUES ({', '.join('?' * 18)})", (*values, *more))
            return
        path = self._db.value("SELECT path FROM origin WHERE ino = ?", (ino,))
        if path is not None:
            # it shows at its old place again
            holder = self._db.value("SELECT ino FROM origin WHERE path = ?", (split(path)[0],))
            self._do("DELETE FROM deleted WHERE parent = ? AND name = ?", (holder, split(path)[1]))
        self._drop_name(parent, name)

    def _mend_e004(self, ino: int, name: bytes) -> None:
        if self._row(ino) is not None:
            self._become_created(ino)

    def _mend_e005(self, ino: int, path: bytes) -> None:
        directory, name = split(path)
        holder = self._db.value("SELECT ino FROM origin WHERE path = ?", (directory,))
        self._do("INSERT OR IGNORE INTO deleted VALUES (?, ?)", (holder, name))

    def _mend_e006(self, parent: int, name: bytes) -> None:
        self._do("DELETE FROM deleted WHERE parent = ? AND name = ?", (parent, name))

    def _mend_e007(self, ino: int) -> None:
        self._do("DELETE FROM modified WHERE ino = ?", (ino,))

    def _mend_e008(self, ino: int) -> None:
        if self._row(ino) is None:
            return
        new = self._become_created(ino)
        if not self._names_of(new):
            self._keep(new, "created", b"#%d" % ino)
            self._do("DELETE FROM orphan WHERE ino = ?", (new,))
            self._do("UPDATE inode SET nlink = max(nlink, 1) WHERE ino = ?", (new,))

    def _mend_e009(self, ino: int, nlink: int) -> None:
        names = self._names_of(ino)
        if not names:
            self._keep(ino, "created", b"#%d" % ino)
        for table, parent, name in names[1:]:
            self._do(f"DELETE FROM {table} WHERE parent = ? AND name = ?", (parent, name))
        self._do("DELETE FROM orphan WHERE ino = ?", (ino,))
        self._do("UPDATE inode SET nlink = max(nlink, 2) WHERE ino = ?", (ino,))

    def _mend_e010(self, ino: int, nlink: int) -> None:
        if not self._names_of(ino):
            self._keep(ino, "created", b"#%d" % ino)
        self._do("DELETE FROM orphan WHERE ino = ?", (ino,))
        sql = "UPDATE inode SET nlink = (SELECT count(*) FROM created WHERE ino = ?1) WHERE ino = ?1"
        self._do(sql, (ino,))

    def _mend_e011(self, ino: int) -> None:
        self._do("DELETE FROM orphan WHERE ino = ?", (ino,))
        row = self._row(ino)
        if row is None:
            return
        path = self._db.value("SELECT path FROM origin WHERE ino = ?", (ino,))
        shows = path is not None and (ino == ROOT or not self._is_hidden(path))
        if row["nlink"] == 0 and not self._names_of(ino) and not shows:
            if not self._is_created(ino) and row["object"] is None and not row["mapped"]:
                self._do("INSERT INTO orphan VALUES (?)", (ino,))  # a base object: storage has nothing to lose
                return
            new = self._become_created(ino)
            self._keep(new, "created", b"#%d" % ino)
            ino = new
        least = 2 if stat.S_ISDIR(row["mode"]) else max(1, len(self._names_of(ino)))
        self._do("UPDATE inode SET nlink = max(nlink, ?) WHERE ino = ?", (least, ino))

    def _mend_e012(self, ino: int, start: int) -> None:
        row = self._row(ino)
        if row is None or not stat.S_ISREG(row["mode"]) or (row["object"] is not None and not row["mapped"]):
            # a file whose bytes are all elsewhere shows none of these ranges, and goes on so
            new = self._keep_file(b"#%d" % ino, 0, mapped=1)
            self._do("UPDATE extent SET ino = ? WHERE ino = ?", (new, ino))
            self._do("UPDATE inode SET mapped = 0 WHERE ino = ?", (ino,))
            ino = new
        last = 0
        rows = self._db.rows('SELECT start, "end", object, at FROM extent WHERE ino = ? ORDER BY start', (ino,))
        self._do("DELETE FROM extent WHERE ino = ?", (ino,))
        for begin, stop, number, at in rows:
            end = min(stop, FILE_MAX)
            first = max(begin, last)  # where two overlap, what shows is what the earlier one says
            if (0 <= at <= FILE_MAX - (stop - begin) or number == HOLE) and first < end:
                where = first if number == HOLE else at + first - begin
                self._do("INSERT INTO extent VALUES (?, ?, ?, ?, ?)", (ino, first, end, number, where))
                last = end
        self._do("UPDATE inode SET mapped = ?, size = max(size, ?) WHERE ino = ?", (int(last > 0), last, ino))
        for number in {row[2] for row in rows} & self._shelf.sizes.keys():
            self._keep_shared(number)

    def _keep_shared(self, number: int) -> None:
        """See that an object whose range was dropped keeps an owner."""
        sql = "SELECT 1 FROM extent WHERE object = ?1 UNION SELECT 1 FROM inode WHERE object = ?1"
        if self._db.value(sql, (number,)) is None:
            self._mend_e304(number)

    def _mend_e013(self, ino: int) -> None:
        row = self._row(ino)
        if row is None:
            return  # an earlier repair of this round has taken it away
        if not stat.S_ISREG(row["mode"]):
            size = len(row["target"] or b"") if stat.S_ISLNK(row["mode"]) else 4096 if stat.S_ISDIR(row["mode"]) else 0
            self._do("UPDATE inode SET size = ? WHERE ino = ? AND size NOT BETWEEN 0 AND ?", (size, ino, FILE_MAX))
            self._do("UPDATE inode SET object = NULL, bound = NULL, mapped = 0 WHERE ino = ?", (ino,))
            data = self._db.value("SELECT length(data) FROM small WHERE ino = ?", (ino,))
            if row["object"] == 0 and data is not None:
                new = self._keep_file(b"#%d" % ino, data, object=0)
                self._do("UPDATE small SET ino = ? WHERE ino = ?", (new, ino))
            elif row["object"] and self._db.value("SELECT 1 FROM inode WHERE object = ?", (row["object"],)) is None:
                self._mend_e304(row["object"])
            return
        self._do("UPDATE inode SET bound = 0 WHERE ino = ? AND bound < 0", (ino,))
        self._do("UPDATE inode SET bound = NULL WHERE ino = ? AND bound > ?", (ino, FILE_MAX))
        if not 0 <= row["size"] <= FILE_MAX:
            size = self._shelf.sizes.get(row["object"] or -1, 0)
            small = self._db.value("SELECT length(data) FROM small WHERE ino = ?", (ino,)) or 0
            mapped = self._db.value('SELECT max("end") FROM extent WHERE ino = ?', (ino,)) or 0
            self._do("UPDATE inode SET size = ? WHERE ino = ?", (min(max(size, small, mapped), FILE_MAX), ino))

    def _mend_e014(self, number: int) -> None:
        self._do("DELETE FROM garbage WHERE object = ?", (number,))
        sql = "SELECT ino FROM inode WHERE object = ?1 UNION SELECT ino FROM extent WHERE object = ?1"
        owners = [ino for (ino,) in self._db.rows(sql, (number,))]
        for ino in owners if number < 1 else owners[1:]:
            new = self._next("next_object")
            if number in self._shelf.sizes:
                self._shelf.copy(number, new)
            # where there is nothing to copy the owner's bytes are missing: the next round says so
            self._do("UPDATE inode SET object = ? WHERE ino = ? AND object = ?", (new, ino, number))
            self._do("UPDATE extent SET object = ? WHERE ino = ? AND object = ?", (new, ino, number))

    def _mend_e015(self, ino: int, name: bytes) -> None:
        size = self._db.value("SELECT length(value) FROM xattr WHERE ino = ? AND name = ?", (ino, name)) or 0
        possible = is_xattr_name(name) and size <= XATTR_MAX
        if not possible or self._do("UPDATE inode SET xattrs = 1 WHERE ino = ?", (ino,)) == 0:
            self._do("DELETE FROM xattr WHERE ino = ? AND name = ?", (ino, name))

    def _mend_e016(self, ino: int) -> None:
        row = self._row(ino)
        if row is None:
            return  # an earlier repair of this round has taken it away
        target = LOST_TARGET if stat.S_ISLNK(row["mode"]) else None
        self._do("UPDATE inode SET target = ? WHERE ino = ?", (target, ino))

    def _mend_e017(self) -> None:
        self._do("DELETE FROM origin WHERE ino = ? OR path = x'2f'", (ROOT,))
        self._do("INSERT INTO origin (ino, path) VALUES (?, x'2f')", (ROOT,))

    def _mend_e018(self, ino: int) -> None:
        # whichever name of the circle or the broken chain comes first: below it all is whole
        names = self._names_of(ino)
        if names:
            self._move_name(*names[0])
        elif self._row(ino) is not None:
            self._keep(ino, "created" if self._is_created(ino) else "renamed", b"#%d" % ino)
        elif (path := self._db.value("SELECT path FROM origin WHERE ino = ?", (ino,))) is not None:
            self._mend_e201(ino, path)

    def _mend_e019(self, ino: int) -> None:
        row = self._row(ino)
        length = self._db.value("SELECT length(data) FROM small WHERE ino = ?", (ino,))
        if length is None:
            self._do("UPDATE inode SET object = NULL, bound = 0 WHERE ino = ?", (ino,))
            self._damaged(ino, b"its bytes are lost")
        elif row is not None and row["object"] is None and stat.S_ISREG(row["mode"]) and not row["mapped"]:
            self._do("UPDATE inode SET object = 0, bound = NULL, size = max(size, ?) WHERE ino = ?", (length, ino))
        elif row is not None and row["object"] == 0 and not row["mapped"]:
            self._do("UPDATE inode SET size = max(size, ?) WHERE ino = ?", (length, ino))
        else:
            new = self._keep_file(b"#%d" % ino, length, object=0)
            self._do("UPDATE small SET ino = ? WHERE ino = ?", (new, ino))
            self._do("UPDATE inode SET object = NULL WHERE ino = ? AND object = 0", (ino,))

    # -- rows against each other

    def _mend_e201(self, ino: int, path: bytes) -> None:
        """Mark the directories above an object; one without a number that is known gets a reserved one."""
        while path != b"/":
            if not is_base_path(path):
                self._do("DELETE FROM origin WHERE ino = ?", (ino,))
                return
            path = split(path)[0]
            if self._db.value("SELECT 1 FROM origin WHERE path = ?", (path,)) is not None:
                return
            # a mount finds it by path and keeps the number (tree/base_match.py)
            number = RESERVED + secrets.randbelow(1 << 61)
            self._do("INSERT INTO origin (ino, path) VALUES (?, ?)", (ROOT if path == b"/" else number, path))

    def _mend_e202(self, ino: int, nlink: int) -> None:
        self._do("UPDATE inode SET nlink = ? WHERE ino = ?", (nlink, ino))

    def _mend_e203(self, parent: int, name: bytes, ino: int | None, table: str) -> None:
        if table == "deleted":
            self._do("DELETE FROM deleted WHERE parent = ? AND name = ?", (parent, name))
        else:
            self._move_name(table, parent, name)

    def _mend_e204(self, ino: int) -> None:
        row = self._row(ino)
        if row is None:
            return  # an earlier repair of this round has taken it away
        if ino < 1:
            self._become_created(ino)
            return
        if self._fact("window_end") - UNREACHED <= ino < self._fact("window_end"):
            self._renumber(ino, self._next("next_ino"))
            return
        kinds = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
        kind = stat.S_IFMT(row["mode"])
        holds = "SELECT 1 FROM created WHERE parent = ?1 UNION SELECT 1 FROM deleted WHERE parent = ?1"
        if ino == ROOT or self._db.value(holds, (ino,)) is not None:
            kind = stat.S_IFDIR
        elif kind not in kinds:
            kind = stat.S_IFLNK if row["target"] is not None else stat.S_IFREG
        self._do("UPDATE inode SET mode = ? WHERE ino = ?", (kind | row["mode"] & 0o7777, ino))
        names = len(self._names_of(ino))
        if not 0 <= row["nlink"] < 1 << 32:
            self._do("UPDATE inode SET nlink = ? WHERE ino = ?", (max(names, 1 + (kind == stat.S_IFDIR)), ino))
        for column in ("uid", "gid", "rdev"):
            self._do(f"UPDATE inode SET {column} = 0 WHERE ino = ? AND {column} NOT BETWEEN 0 AND 4294967295", (ino,))
        for column, table in (("mapped", "extent"), ("xattrs", "xattr")):
            holds = f"EXISTS (SELECT 1 FROM {table} WHERE ino = ?1)"
            self._do(f"UPDATE inode SET {column} = {holds} WHERE ino = ?1 AND {column} NOT IN (0, 1)", (ino,))

    def _mend_e205(self, ino: int) -> None:
        names = sorted(self._names_of(ino), key=lambda found: found[0] == "created")
        path = self._db.value("SELECT path FROM origin WHERE ino = ?", (ino,))
        for table, parent, name in names:
            self._do(f"DELETE FROM {table} WHERE parent = ? AND name = ?", (parent, name))
        if ino != ROOT and names and (names[0][0] == "renamed" or self._is_hidden(path)):
            self._do("INSERT INTO renamed VALUES (?, ?, ?)", (*names[0][1:], ino))

    def _is_hidden(self, path: bytes) -> bool:
        """True where the place in the base is hidden by a whiteout."""
        sql = "SELECT 1 FROM deleted JOIN origin ON origin.ino = parent WHERE path = ? AND name = ?"
        return self._db.value(sql, split(path)) is not None

    def _mend_e206(self, ino: int) -> None:
        self._do("UPDATE inode SET xattrs = 1 WHERE ino = ?", (ino,))

    def _mend_e207(self, ino: int) -> None:
        # size and mtime of the base file are not known any more: those of the file here say "as it was"
        sql = (
            "INSERT INTO modified SELECT ino, 1, size, mtime, NULL FROM inode WHERE ino = ?1"
            " ON CONFLICT (ino) DO UPDATE SET content = 1"
        )
        self._do(sql, (ino,))

    def _mend_e208(self, key: str, value: int) -> None:
        self._set_fact(key, value)

    def _mend_e209(self, key: str) -> None:
        self._make_fact(key)

    def _make_fact(self, key: str) -> None:
        """Make a fact anew from what the rows and the content objects say."""
        if key in ("window", "window_end"):
            count = "SELECT count(*) FROM inode WHERE ino >= ? AND ino < ?"
            low, high = self._db.value(count, WINDOW_32), self._db.value(count, WINDOW_64)
            base_numbers = self._db.value("SELECT max(ino) FROM origin WHERE ino < ?", (RESERVED,)) or 0
            window = WINDOW_64 if high > low or (high == low and base_numbers >= WINDOW_32[0]) else WINDOW_32
            self._set_fact("window", window[0])
            self._set_fact("window_end", window[1])
        elif key == "next_ino":
            window = self._fact("window"), self._fact("window_end") - UNREACHED
            used = self._db.value("SELECT max(ino) FROM inode WHERE ino >= ? AND ino < ?", window)
            self._set_fact(key, (used or window[0] - 1) + 1)
        elif key in ("next_object", "object_limit"):
            named = "SELECT max(o) FROM (SELECT max(object) AS o FROM inode UNION SELECT max(object) FROM extent)"
            first = max([self._db.value(named) or 0, *self._shelf.sizes]) + 1
            self._set_fact("next_object", first)
            self._set_fact("object_limit", first + 2 * ROOM)
        elif key == "commit_token":
            self._set_fact(key, secrets.randbits(62))
        elif key == "uuid":
            self._set_fact(key, str(uuid.uuid4()))
        else:
            self._set_fact(key, "" if key == "base" else None)

    def _mend_e210(self, ino: int, path: bytes) -> None:
        holder = self._db.value("SELECT ino FROM origin WHERE path = ?", (split(path)[0],))
        taken = "SELECT 1 FROM created WHERE parent = ?1 AND name = ?2 UNION SELECT 1 FROM renamed WHERE parent = ?1"
        if self._db.value(taken + " AND name = ?2", (holder, split(path)[1])) is None:
            self._do("DELETE FROM deleted WHERE parent = ? AND name = ?", (holder, split(path)[1]))
            return
        if self._row(ino) is None:
            self._make_directory(ino)
        self._keep(ino, "renamed", split(path)[1])

    # -- content

    def _mend_e301(self, ino: int, number: int) -> None:
        row = self._row(ino)
        if row is not None and row["object"] == number:
            self._do("UPDATE inode SET object = NULL, bound = 0 WHERE ino = ?", (ino,))
        lost = self._db.rows('SELECT start, "end" FROM extent WHERE ino = ? AND object = ?', (ino, number))
        self._do("DELETE FROM extent WHERE ino = ? AND object = ?", (ino, number))
        if lost and row is not None and row["object"] is None and row["bound"] and not self._is_created(ino):
            # what the base has there is not what the file had: holes cover it
            for start, end in lost:
                self._do("INSERT INTO extent VALUES (?1, ?2, ?3, ?4, ?2)", (ino, start, end, HOLE))
        self._damaged(ino, b"bytes of object %d are lost" % number)

    def _mend_e302(self, ino: int, number: int, size: int) -> None:
        self._shelf.promise(number, size)
        self._damaged(ino, b"the end of object %d is lost" % number)

    def _mend_e304(self, number: int) -> None:
        if number not in self._shelf.sizes:
            return
        self._keep_file(b"object-%d" % number, self._shelf.sizes[number], object=number)
        if number >= self._fact("next_object"):
            self._set_fact("next_object", number + 1)
        if number >= self._fact("object_limit"):
            self._set_fact("object_limit", number + 2 * ROOM)

    def _mend_w306(self, name: str) -> None:
        self._shelf.set_aside(name)
        self._shelf.scan()
