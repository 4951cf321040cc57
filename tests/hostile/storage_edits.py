"""What somebody may do to a storage that root will mount: edits of rows, schema, bytes and files, as hypothesis draws.

An edit is a small value that says what it does, so that a failing storage can be read, and made again.  It is done by
``apply`` to a copy of a sound storage; one that turns out impossible there (no such row, a table gone by an earlier
edit) does nothing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import apsw
from hypothesis import strategies as st

from minifo.engine.store.history import TABLES

Value = int | bytes | str | float | None

INTEGERS = (0, 1, -1, 2, 255, 4096, 2**31 - 1, 2**31, 2**32, 2**62 - 1, 2**62, 2**63 - 4096, 2**63 - 1, -(2**63))
NAMES = (
    *(
        b"",
        b".",
        b"..",
        b"/",
        b"../planted",
        b"a/../../planted",
        b"x\0y",
        b"n" * 255,
        b"n" * 256,
        b"\xff\xfe",
        b"new\nline",
    ),
    *(
        b"a/b/c",
        b"plain",
        b"made",
        b"..\0",
        b"p" * 5000,
        b"$(touch planted)",
        b"%s%n",
        b"{name}",
        b"lost+found",
        b"-rf",
    ),
)
PATHS = (
    *(
        b"",
        b"/",
        b"//",
        b"/..",
        b"/../outside/secret",
        b"/a/../../outside/secret",
        b"outside/secret",
        b"/a\0b",
        b"/./a",
    ),
    *(b"/a/b/mid", b"/plain", b"/nothing/here", b"/a/", b"/" + b"d/" * 2000 + b"x", b"/plain/x", b"/x/y/z/deep"),
)
_TARGETS = (b"/etc/shadow", b"../outside/secret", b"", b"t\0t", b"t" * 5000)
VALUES: tuple[Value, ...] = (*INTEGERS, *NAMES, *PATHS, *_TARGETS, "text", "../../planted", "", 1.5, 1e300, None)
COLUMNS = {
    "created": ("parent", "name", "ino"),
    "deleted": ("parent", "name"),
    "renamed": ("parent", "name", "ino"),
    "modified": ("ino", "content", "base_size", "base_mtime", "digest"),
    "inode": (
        *("ino", "mode", "nlink", "uid", "gid", "rdev", "size", "atime", "mtime", "ctime", "object", "bound", "mapped"),
        *("xattrs", "target", "seen_links", "seen_size", "seen_mtime"),
    ),
    "origin": ("ino", "path", "dir_mode", "dir_uid", "dir_gid"),
    "extent": ("ino", "start", "end", "object", "at"),
    "small": ("ino", "data"),
    "xattr": ("ino", "name", "value"),
    "orphan": ("ino",),
    "garbage": ("object",),
    "journal": ("id", "time", "op", "path", "other", "uid", "pid", "command"),
    "overlay": ("key", "value"),
    "object_digest": ("object", "size", "digest"),
    "checkpoint": ("id", "name", "time", "note", "pinned", "cause", "returns", "next_ino", "next_object"),
}
COLUMNS |= {
    f"was_{name}": (*table.key, "checkpoint", "held", *(column.strip('"') for column in table.others))
    for name, table in TABLES.items()
}
LABELS = (
    "first",
    "second",
    "",
    "..",
    "../../outside/secret",
    "a'b\"c",
    "new\nline",
    "x\0y",
    "n" * 300,
    "-o",
    "\x1b[2J",
)
FACTS = (
    *("uuid", "window", "window_end", "next_ino", "next_object", "object_limit", "commit_token", "base", "base_mark"),
    *("imported", "import_steps", "import_plan", "keep_list:default", "keep_list:../x"),
)
FILES = (
    *("minifo.db", "minifo.db-wal", "minifo.db-shm", "minifo.db-journal", "minifo.names", "minifo.names.new", "lock"),
    *("control", "reserve", "content", "content/0", "content/0/1", "content/0/2", "content/0/3", "checkpoints"),
    *("checkpoints/one.db", "minifo.db.new", "merge.db", "merge-journal", "merge-phase", ".minifo-merge"),
    *(".minifo-import", ".minifo-import/plan", ".minifo-restore", ".minifo-backup", "lost+found", "content/zz"),
    *("content/0/zz", "content/-1/3ff", "minifo.db.bak-v2", "minifo.db.bak-v1.new", "META_dAfFgHE39ktF3HD2sr"),
    *(".minifo-import/minifo.db", ".minifo-import/complete", ".minifo-import/.minifo-import.json"),
    *("mini_fo-backup", "mini_fo-backup/.minifo-import.json", ".minifo-restore/complete"),
)
KINDS = (
    *("to-secret", "to-directory", "dangling", "relative", "loop", "hard", "fifo", "device", "directory", "empty"),
    *("bytes", "huge", "foreign", "locked", "set-id", "socket", "json"),
)
_HOLE = '"inode"" LIMIT 0; VACUUM INTO \'{top}/outside/planted\'; --"'
SCHEMAS = (
    "CREATE TRIGGER t1 AFTER INSERT ON created BEGIN DELETE FROM deleted; END",
    "CREATE TRIGGER t2 BEFORE UPDATE ON overlay BEGIN SELECT RAISE(IGNORE); END",
    "CREATE TRIGGER t3 AFTER UPDATE ON inode BEGIN INSERT INTO created VALUES (1, x'2e2e2f78', 1); END",
    "CREATE TRIGGER t4 AFTER DELETE ON garbage BEGIN UPDATE inode SET mode = 35309, uid = 0; END",
    f"CREATE TABLE {_HOLE} (x)",
    "CREATE TABLE \"x'); ATTACH '{top}/outside/planted' AS y; --\" (x)",
    'CREATE TABLE "created "" " (x)',
    "CREATE VIEW v AS SELECT load_extension('{top}/outside/secret')",
    "DROP TABLE created; CREATE VIEW created AS SELECT 1 AS parent, CAST('../planted' AS BLOB) AS name, 1 AS ino",
    "DROP TABLE overlay; CREATE VIEW overlay AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"
    " SELECT 'uuid' AS key, x AS value FROM n",
    "DROP TABLE small; CREATE VIRTUAL TABLE small USING fts5(ino, data)",
    "DROP TABLE garbage; CREATE TABLE garbage (object INTEGER PRIMARY KEY, x AS (randomblob(100000000)))",
    "DROP TABLE deleted",
    "DROP TABLE inode; CREATE TABLE inode (ino INTEGER PRIMARY KEY)",
    "CREATE INDEX strange ON created (hex(zeroblob(1000)) || name)",
    "CREATE INDEX strange ON inode (size) WHERE size > 0",
    "ALTER TABLE created ADD COLUMN more BLOB DEFAULT x'2e2e'",
    "CREATE TABLE sqlite_like (x); ANALYZE",
    "PRAGMA user_version = 1",
    "PRAGMA user_version = 0",
    "PRAGMA user_version = 3",
    "PRAGMA user_version = 2147483647",
    "PRAGMA application_id = 7",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage = 1 WHERE name = 'created'",
    "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage = 2147483647 WHERE name = 'inode'",
    "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name ="
    " 'renamed') WHERE name = 'created'",
    "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = 'CREATE TABLE created (parent, name, ino)'"
    " WHERE name = 'created'",
    "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET name = x'00ff' WHERE name = 'garbage'",
    "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = sql || ' -- ' || hex(zeroblob(1000))"
    " WHERE name = 'inode'",
    "PRAGMA writable_schema = ON; INSERT INTO sqlite_schema VALUES ('trigger', 't', 'created', 0, 'CREATE TRIGGER t"
    " AFTER INSERT ON created BEGIN SELECT 1; END')",
    "PRAGMA journal_mode = DELETE; PRAGMA page_size = 512; VACUUM",
    "PRAGMA journal_mode = DELETE; PRAGMA auto_vacuum = FULL; VACUUM",
)  # fmt: skip


class StoragePaths(NamedTuple):
    """Where an edit is done: the storage, and the directory that it, the base and what is outside lie in."""

    top: str
    storage: str

    @property
    def database(self) -> str:
        """Path of the database."""
        return os.path.join(self.storage, "minifo.db")


class Edit:
    """One thing that is done to a storage."""

    def apply(self, paths: StoragePaths) -> None:
        """Do it, where it can be done."""
        raise NotImplementedError


@contextlib.contextmanager
def _tables(paths: StoragePaths, *, loose: bool = False) -> Iterator[apsw.Connection]:
    """A connection to the database, rules off; *loose*: even the types of columns do not count."""
    # another edit may have put something there that would lead the edit itself out
    for path in (paths.database, f"{paths.database}-wal", f"{paths.database}-journal", f"{paths.database}-shm"):
        is_there = os.path.lexists(path)
        if (is_there and not _is_plain(path)) or not (is_there or path != paths.database):
            raise apsw.CantOpenError(path)
    if loose:
        with loose_tables(paths.database) as con:
            yield con
        return
    con = apsw.Connection(paths.database)
    try:
        yield con
    finally:
        con.close()


@contextlib.contextmanager
def loose_tables(database: str) -> Iterator[apsw.Connection]:
    """A connection to a database in which values may have any type; afterwards its tables are as strict as before."""
    con = apsw.Connection(database)
    try:
        plain = con.execute("SELECT sql, rowid FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
        con.execute("PRAGMA writable_schema=ON").fetchall()
        con.execute("UPDATE sqlite_schema SET sql = replace(replace(sql, 'STRICT, ', ''), ' STRICT', '')")
        con.execute("UPDATE sqlite_schema SET sql = replace(sql, ' NOT NULL', '')")
        con.close()
        con = apsw.Connection(database)
        yield con
        con.execute("PRAGMA writable_schema=ON").fetchall()
        con.executemany("UPDATE sqlite_schema SET sql = ? WHERE rowid = ?", plain)
    finally:
        con.close()


@dataclass(frozen=True)
class SetCells(Edit):
    """Some cells of a table get a value: of one row, or of all."""

    table: str
    column: str
    value: Value
    row: int | None

    def apply(self, paths: StoragePaths) -> None:
        where = "" if self.row is None else f" WHERE rowid_of = {self.row}"
        keys = {"created": "parent, name", "deleted": "parent, name", "renamed": "parent, name", "overlay": "key"}
        keys |= {"extent": "ino, start", "xattr": "ino, name"}
        keys |= {f"was_{name}": ", ".join((*table.key, "checkpoint")) for name, table in TABLES.items()}
        key = keys.get(self.table, COLUMNS[self.table][0])
        with _tables(paths, loose=True) as con:
            if where:
                sql = f"SELECT {key} FROM {self.table} ORDER BY 1 LIMIT 1"
                sql += f" OFFSET (SELECT {self.row} % count(*) FROM {self.table})"
                found = con.execute(sql).fetchone()
                if found is None:
                    return
                marks = " AND ".join(f'"{name}" = ?' for name in key.split(", "))
                con.execute(
                    f'UPDATE OR REPLACE {self.table} SET "{self.column}" = ? WHERE {marks}', (self.value, *found)
                )
            else:
                con.execute(f'UPDATE OR REPLACE {self.table} SET "{self.column}" = ?', (self.value,))


@dataclass(frozen=True)
class SetFact(Edit):
    """A fact gets a value."""

    key: str
    value: Value

    def apply(self, paths: StoragePaths) -> None:
        with _tables(paths) as con:
            con.execute("INSERT OR REPLACE INTO overlay VALUES (?, ?)", (self.key, self.value))


@dataclass(frozen=True)
class AddRow(Edit):
    """A row is added."""

    table: str
    values: tuple[Value, ...]

    def apply(self, paths: StoragePaths) -> None:
        marks = ", ".join("?" * len(COLUMNS[self.table]))
        with _tables(paths, loose=True) as con:
            con.execute(
                f"INSERT OR REPLACE INTO {self.table} VALUES ({marks})", self.values[: len(COLUMNS[self.table])]
            )


@dataclass(frozen=True)
class DropRows(Edit):
    """Some rows of a table go, or all."""

    table: str
    every: int

    def apply(self, paths: StoragePaths) -> None:
        with _tables(paths) as con:
            con.execute(f'DELETE FROM {self.table} WHERE "{COLUMNS[self.table][0]}" % {self.every} = 0')


@dataclass(frozen=True)
class Rename(Edit):
    """A name of the overlay, or a place in the base, becomes another one."""

    table: str
    name: bytes
    row: int

    def apply(self, paths: StoragePaths) -> None:
        column = "path" if self.table == "origin" else "name"
        SetCells(self.table, column, self.name, self.row).apply(paths)


@dataclass(frozen=True)
class Circle(Edit):
    """Directories are in each other, or the root in one of them."""

    kind: int

    def apply(self, paths: StoragePaths) -> None:
        directories = "SELECT ino FROM inode WHERE mode & 61440 = 16384 ORDER BY ino DESC"
        with _tables(paths) as con:
            one, two = (con.execute(f"{directories} LIMIT 1 OFFSET {n}").fetchone()[0] for n in (0, 1))
            if self.kind == 0:
                con.execute("UPDATE OR REPLACE created SET parent = ? WHERE ino = ?", (one, one))
            elif self.kind == 1:
                con.execute("UPDATE OR REPLACE created SET parent = ? WHERE ino = ?", (one, two))
            elif self.kind == 2:
                con.execute("INSERT OR REPLACE INTO created VALUES (?, x'72', 1)", (one,))
            else:
                con.execute("INSERT OR REPLACE INTO renamed VALUES (?, x'72', ?)", (one, two))
                con.execute("INSERT OR REPLACE INTO renamed VALUES (?, x'73', ?)", (two, one))


@dataclass(frozen=True)
class Extents(Edit):
    """A file gets many extents, or huge ones, or such as lie over each other."""

    kind: int

    def apply(self, paths: StoragePaths) -> None:
        with _tables(paths) as con:
            found = con.execute("SELECT ino FROM extent LIMIT 1").fetchone()
            if found is None:
                return
            ino, top = found[0], 2**63 - 4096
            if self.kind == 0:
                rows = [(ino, n * 2, n * 2 + 1, 0, n * 2) for n in range(20_000)]
            elif self.kind == 1:
                rows = [(ino, 0, top, 1, 0), (ino, 10, top, 2, 0)]
            elif self.kind == 2:
                rows = [(ino, 0, top, 0, 0)]
            elif self.kind == 3:
                rows = [(ino, 4096, 8192, 1, top), (ino, -5, 5, 1, -5)]
            else:
                rows = [(ino, n, n + 1, n, n) for n in range(2000)]
            con.executemany("INSERT OR REPLACE INTO extent VALUES (?, ?, ?, ?, ?)", rows)
            con.execute("UPDATE inode SET mapped = 1, size = ? WHERE ino = ?", (top, ino))


@dataclass(frozen=True)
class Past(Edit):
    """The history of rows tells of what cannot have been."""

    kind: int

    def apply(self, paths: StoragePaths) -> None:
        with _tables(paths) as con:
            if self.kind == 0:  # directories were in each other
                both = con.execute(
                    "SELECT ino FROM inode WHERE mode & 61440 = 16384 ORDER BY ino DESC LIMIT 2"
                ).fetchall()
                for (one,), (two,) in (both, both[::-1]):
                    con.execute("INSERT OR REPLACE INTO was_created VALUES (?, x'63', 1, 1, ?)", (one, two))
            elif self.kind == 1:  # many rows, of many checkpoints
                con.executemany("INSERT INTO was_orphan VALUES (?, ?, 0)", ((n, n % 500) for n in range(100_000)))
            elif self.kind == 2:  # many checkpoints
                con.executemany(
                    "INSERT INTO checkpoint VALUES (?, ?, 0, '', 0, NULL, NULL, 1, 1)",
                    ((n, f"c{n}") for n in range(1000, 1100)),
                )
            elif self.kind == 3:  # objects that are not there, and one that another file has
                con.execute("UPDATE was_inode SET held = 1, object = 4611686018427387904 WHERE checkpoint = 1")
                con.execute("UPDATE was_inode SET object = 1 WHERE checkpoint = 2 AND held")
            elif self.kind == 4:  # the newest can have none after it
                con.execute("UPDATE checkpoint SET id = 9223372036854775807 WHERE id = 2")
            elif self.kind == 5:  # two objects with the root's place
                con.execute("INSERT OR REPLACE INTO was_origin VALUES (999999, 1, 1, x'2f', NULL, NULL, NULL)")
            else:
                con.execute("UPDATE checkpoint SET returns = id, cause = 'undo', next_object = -1, next_ino = 0")


@dataclass(frozen=True)
class Blob(Edit):
    """Every value of a column is larger than any of ours."""

    table: str
    column: str

    def apply(self, paths: StoragePaths) -> None:
        with _tables(paths) as con:
            con.execute(f'UPDATE {self.table} SET "{self.column}" = zeroblob(4000000)')


@dataclass(frozen=True)
class Schema(Edit):
    """The schema, or the header, is another one."""

    index: int

    def apply(self, paths: StoragePaths) -> None:
        with _tables(paths) as con:
            con.execute(SCHEMAS[self.index].replace("{top}", paths.top)).fetchall()


@dataclass(frozen=True)
class Put(Edit):
    """Something else stands in place of a file or directory of a storage."""

    name: str
    kind: str

    def apply(self, paths: StoragePaths) -> None:
        path = os.path.join(paths.storage, self.name)
        outside = os.path.join(paths.top, "outside")
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            old = None
            with contextlib.suppress(OSError):
                if _is_plain(path):
                    with open(path, "rb") as file:
                        old = file.read()
            if self.kind not in ("locked", "set-id"):
                _remove(path)
            if self.kind == "to-secret":
                os.symlink(os.path.join(outside, "secret"), path)
            elif self.kind == "to-directory":
                os.symlink(os.path.join(outside, "copy"), path)
            elif self.kind == "dangling":
                os.symlink(os.path.join(outside, "planted"), path)
            elif self.kind == "relative":
                os.symlink("../" * self.name.count("/") + "../outside/secret", path)
            elif self.kind == "loop":
                os.symlink(os.path.basename(path), path)
            elif self.kind == "hard":
                os.link(os.path.join(outside, "secret"), path)
            elif self.kind == "fifo":
                os.mkfifo(path)
            elif self.kind == "device":
                os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
            elif self.kind == "socket":
                os.mknod(path, stat.S_IFSOCK | 0o666)
            elif self.kind == "directory":
                os.mkdir(path)
            elif self.kind == "empty":
                _write(path, b"")
            elif self.kind == "bytes":
                _write(path, b"\xff\0{[" * 3000)
            elif self.kind == "huge":
                _write(path, old or b"x")
                os.truncate(path, 1 << 40)
            elif self.kind == "foreign":
                _write(path, old or b"x")
                os.chown(path, 4242, 4242)
                os.chmod(path, 0o666)
            elif self.kind == "locked":
                os.chmod(path, 0)
            elif self.kind == "set-id":
                os.chmod(path, 0o6755)
            elif self.kind == "json":
                _write(path, _JOURNALS[len(self.name) % len(_JOURNALS)].replace("{top}", paths.top).encode())


_JOURNALS = (
    '{"base": "{top}/base", "times": [0, 0], "operations": [{"kind": "lift", "path": "/../outside/secret", "name":'
    ' "../x", "source": "", "attributes": [], "xattrs": null}]}',
    '{"base": "{top}/base", "times": [0, 0], "operations": [{"kind": "place", "path": "/../outside/planted", "name":'
    ' "../../outside/secret", "source": "", "attributes": [], "xattrs": null}, {"kind": "dress", "path":'
    ' "/../outside/secret", "name": "", "source": "", "attributes": [35309, 0, 0, 0, 0], "xattrs": {"user.x": "y"}}]}',
    '{"base": "/", "times": [1e400, "x"], "operations": 7}',
    "[" * 100_000,
    "lift",
    "dress",
)


@dataclass(frozen=True)
class Merging(Edit):
    """A merge was cut short, says a journal that somebody has written."""

    journal: int
    phase: str

    def apply(self, paths: StoragePaths) -> None:
        with contextlib.suppress(OSError):
            os.rename(paths.database, os.path.join(paths.storage, "merge.db"))
            text = _JOURNALS[self.journal].replace("{top}/base", paths.top + "/mergebase").replace("{top}", paths.top)
            _write(os.path.join(paths.storage, "merge-journal"), text.encode())
            _write(os.path.join(paths.storage, "merge-phase"), self.phase.encode())


@dataclass(frozen=True)
class Damage(Edit):
    """Bytes of a file are other bytes, or it ends before its end."""

    name: str
    offset: int
    data: bytes | None

    def apply(self, paths: StoragePaths) -> None:
        path = os.path.join(paths.storage, self.name)
        with contextlib.suppress(OSError):
            if not _is_plain(path):
                return
            size = os.path.getsize(path)
            at = self.offset % (size + 1)
            if self.data is None:
                os.truncate(path, at)
            else:
                with open(path, "r+b") as file:
                    file.seek(at)
                    file.write(self.data)


@dataclass(frozen=True)
class HotJournal(Edit):
    """A rollback journal that names a file outside, which SQLite deletes when it has done (sqlite.org/fileformat2)."""

    nrec: int

    def apply(self, paths: StoragePaths) -> None:
        magic = bytes.fromhex("d9d505f920a163d7")
        name = os.path.join(paths.top, "outside", "secret").encode()
        head = magic + struct.pack(">IIIII", self.nrec & 0xFFFF_FFFF, 0, 16, 512, 4096)
        tail = struct.pack(">I", (1 << 30) // 4096 + 1) + name + struct.pack(">II", len(name), sum(name)) + magic
        with contextlib.suppress(OSError):
            _write(paths.database + "-journal", head.ljust(512, b"\0") + tail)


def _is_plain(path: str) -> bool:
    """True for a file of some size with one name: others are what an earlier edit has put there."""
    st = os.lstat(path)
    return stat.S_ISREG(st.st_mode) and st.st_nlink == 1 and st.st_size < 1 << 30


def _write(path: str, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def apply(edits: tuple[Edit, ...], paths: StoragePaths) -> None:
    """Do all of it, in order."""
    for edit in edits:
        # an earlier edit may have left nothing to edit
        with contextlib.suppress(apsw.Error, UnicodeDecodeError, TypeError):
            edit.apply(paths)


_rows = st.integers(0, 40)
_tables_of = st.sampled_from(sorted(COLUMNS))
_values = st.sampled_from(VALUES) | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=20)
_cells = _tables_of.flatmap(
    lambda table: st.builds(SetCells, st.just(table), st.sampled_from(COLUMNS[table]), _values, _rows | st.none())
)
_numbers = st.builds(
    SetCells,
    st.just("inode"),
    st.sampled_from([c for c in COLUMNS["inode"] if c not in ("ino", "target")]),
    st.sampled_from(INTEGERS),
    _rows,
)
_named = st.builds(Rename, st.sampled_from(("created", "renamed", "deleted")), st.sampled_from(NAMES), _rows)
_placed = st.builds(Rename, st.just("origin"), st.sampled_from(PATHS), _rows)
_added = _tables_of.flatmap(
    lambda table: st.builds(AddRow, st.just(table), st.tuples(*[_values] * len(COLUMNS[table])))
)
_blobs = st.sampled_from(
    (
        *(("small", "data"), ("xattr", "value"), ("inode", "target"), ("origin", "path"), ("overlay", "value")),
        *(("was_small", "data"), ("was_xattr", "value")),
    )
)
_regular = (
    "minifo.db",
    "minifo.db",
    "minifo.db",
    "minifo.db-wal",
    "minifo.names",
    "content/0/1",
    "content/0/2",
    "reserve",
)

ROWS: st.SearchStrategy[Edit] = st.one_of(
    _cells, _numbers, _named, _placed, _added,
    st.builds(SetFact, st.sampled_from(FACTS), _values),
    st.builds(DropRows, st.sampled_from(sorted(set(COLUMNS) - {"overlay"})), st.integers(1, 3)),
    st.builds(Circle, st.integers(0, 3)),
    st.builds(Past, st.integers(0, 6)),
    st.builds(SetCells, st.just("checkpoint"), st.just("name"), st.sampled_from(LABELS), _rows),
    st.builds(Extents, st.integers(0, 4)),
    _blobs.map(lambda pair: Blob(*pair)),
)  # fmt: skip
SCHEMA: st.SearchStrategy[Edit] = st.builds(Schema, st.integers(0, len(SCHEMAS) - 1))
BYTES: st.SearchStrategy[Edit] = st.builds(
    Damage, st.sampled_from(_regular), st.integers(0, 1 << 20), st.binary(min_size=1, max_size=200) | st.none()
)
LINKS: st.SearchStrategy[Edit] = st.one_of(
    st.builds(Put, st.sampled_from(FILES), st.sampled_from(KINDS)),
    st.builds(
        Merging, st.integers(0, len(_JOURNALS) - 1), st.sampled_from(("lift", "place", "dress", "done", "x", ""))
    ),
    st.builds(HotJournal, st.sampled_from((0, 1, -1))),
)
EDITS = st.lists(ROWS | ROWS | SCHEMA | BYTES | LINKS, min_size=1, max_size=4).map(tuple)
