"""Operations, damage and repair in any order: after each repair the overlay is sound, and goes on working.

A repair may bring bytes to lost+found, or to another name; what it may not do is lose those of a file of which no row
that says where they are, and no object, was damaged.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import Any

import apsw
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from minifo.engine import ROOT, FsError, Ino, Overlay, SetAttr
from minifo.engine.errors import StateError
from minifo.engine.fsck.object_inventory import ObjectInventory
from minifo.engine.store.history import TABLES
from minifo.engine.store.storage import Storage
from minifo.engine.store.syscalls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE
from tests.fsck.sample_storage import CALLER, SampleStorage, text, tree_of, wrong

_NAMES = st.sampled_from((b"a", b"b", b"c", b"plain", b"big", b"olddir", b"made", b"lost+found"))
_PUNCH = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
_MODES = (0, FALLOC_FL_KEEP_SIZE, _PUNCH, FALLOC_FL_ZERO_RANGE, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE)
_NOBODY = "SELECT 0"
_WHERE = ("inode", "extent", "small", "origin")  # tables that say where the bytes of a file are
_HISTORY = ("checkpoint", *(f"was_{name}" for name in TABLES))
_HARMLESS = ("nlink", "xattrs", "uid")  # columns of inode that do not
_TABLES = ("created", "renamed", "deleted", "modified", "inode", "origin", "extent", "small", "xattr", "overlay")


class DamageAndRepair(RuleBasedStateMachine):
    """One storage that is used, damaged and repaired."""

    def __init__(self) -> None:
        super().__init__()
        self.sample = SampleStorage()
        self.overlay: Overlay | None = None
        self.damaged = False
        self.made = 0
        self.before: dict[int, bytes] = {}  # what each file with bytes of its own had before the damage
        self.touched: set[int] = set()  # inodes of which a row was damaged

    @initialize()
    def mount(self) -> None:
        """Begin sound."""
        self.overlay = self.sample.open()

    def teardown(self) -> None:
        """Repair, and see that it is sound at the end."""
        try:
            self._unmount()
            self.check_and_repair()
        finally:
            self._unmount()
            shutil.rmtree(self.sample.top)

    def _unmount(self) -> None:
        if self.overlay is not None:
            self.overlay.close()
            self.overlay = None

    def _fall_ill(self) -> None:
        """Remember what there is, the first time after it was whole."""
        if self.overlay is not None:
            own = {ino for (ino,) in self.overlay.db.rows("SELECT ino FROM inode WHERE object IS NOT NULL OR mapped")}
            inos: dict[str, int] = {}
            tree = tree_of(self.overlay, inos)
            self.before = {inos[path]: data for path, (_, data) in tree.items() if data and inos[path] in own}
            self.touched.clear()
            self._unmount()
        self.damaged = True

    def _spoil(self, statement: str, owners: str) -> None:
        """Damage rows by SQL; *owners* is a query for the files whose bytes that may cost."""
        try:
            self.touched.update(self._numbers(owners))
            self.sample.sql(statement)
        except apsw.Error:  # pages are damaged already
            self.before.clear()

    def _numbers(self, sql: str) -> list[int]:
        con = apsw.Connection(self.sample.database)
        try:
            return [ino for (ino,) in con.execute(sql)]
        finally:
            con.close()

    def _directories(self) -> list[Ino]:
        assert self.overlay is not None
        inos: dict[str, int] = {}
        tree = tree_of(self.overlay, inos)
        return [Ino(1), *(Ino(inos[path]) for path, (kind, _) in sorted(tree.items()) if kind == "directory")]

    def _try(self, act: Any, *arguments: Any) -> None:
        try:
            act(*arguments)
        except FsError:
            return

    # -- operations

    @precondition(lambda self: self.overlay is not None)
    @rule(where=st.integers(0, 20), name=_NAMES, size=st.sampled_from((0, 10, 3000, 150_000)))
    def create(self, where: int, name: bytes, size: int) -> None:
        """A new file, or more bytes for one that is there."""
        assert self.overlay is not None
        places = self._directories()
        holder = places[where % len(places)]
        self._try(self.overlay.mknod, holder, name, 0o100644, 0, CALLER)
        attr = self.overlay.lookup(holder, name)
        if attr is not None and size:
            self.made += 1
            self._try(self.overlay.write, Ino(attr.ino), size // 3, text(f"file {self.made}", size))

    @precondition(lambda self: self.overlay is not None)
    @rule(where=st.integers(0, 20), name=_NAMES)
    def mkdir(self, where: int, name: bytes) -> None:
        """A new directory."""
        assert self.overlay is not None
        places = self._directories()
        self._try(self.overlay.mkdir, places[where % len(places)], name, 0o755, CALLER)

    @precondition(lambda self: self.overlay is not None)
    @rule(where=st.integers(0, 20), name=_NAMES)
    def remove(self, where: int, name: bytes) -> None:
        """A name less."""
        assert self.overlay is not None
        places = self._directories()
        holder = places[where % len(places)]
        self._try(self.overlay.unlink, holder, name)
        self._try(self.overlay.rmdir, holder, name)

    @precondition(lambda self: self.overlay is not None)
    @rule(where=st.integers(0, 20), name=_NAMES, to=st.integers(0, 20), new=_NAMES)
    def rename(self, where: int, name: bytes, to: int, new: bytes) -> None:
        """A name moves."""
        assert self.overlay is not None
        places = self._directories()
        self._try(self.overlay.rename, places[where % len(places)], name, places[to % len(places)], new)

    @precondition(lambda self: self.overlay is not None)
    @rule(where=st.integers(0, 20), name=_NAMES, to=st.integers(0, 20), new=_NAMES)
    def link(self, where: int, name: bytes, to: int, new: bytes) -> None:
        """One more name."""
        assert self.overlay is not None
        places = self._directories()
        attr = self.overlay.lookup(places[where % len(places)], name)
        if attr is not None:
            self._try(self.overlay.link, Ino(attr.ino), places[to % len(places)], new)

    def _picked(self, where: int, kind: str) -> tuple[str, Ino] | None:
        """The path and number of some object of a kind."""
        assert self.overlay is not None
        inos: dict[str, int] = {}
        tree = tree_of(self.overlay, inos)
        paths = sorted(path for path, (found, _) in tree.items() if found == kind)
        return (paths[where % len(paths)], Ino(inos[paths[where % len(paths)]])) if paths else None

    @precondition(lambda self: self.overlay is not None)
    @rule(
        where=st.integers(0, 30),
        mode=st.sampled_from((None, *_MODES)),
        offset=st.sampled_from((0, 100, 4096, 10_000, 200_000)),
        size=st.sampled_from((1, 4096, 100_000)),
    )
    def change_range(self, where: int, mode: int | None, offset: int, size: int) -> None:
        """A file is cut or grown, or a range of it reserved, punched or zeroed."""
        assert self.overlay is not None
        found = self._picked(where, "file")
        if found is None:
            return
        if mode is None:
            self._try(self.overlay.setattr, found[1], SetAttr(size=offset))
        else:
            self._try(self.overlay.ranges.fallocate, found[1], mode, offset, size)

    @precondition(lambda self: self.overlay is not None)
    @rule(where=st.integers(0, 30), kind=st.sampled_from(("file", "directory")), name=st.sampled_from((b"a", b"b")))
    def change_attributes(self, where: int, kind: str, name: bytes) -> None:
        """Another mode, and an extended attribute that comes or goes."""
        assert self.overlay is not None
        found = self._picked(where, kind)
        if found is None:
            return
        self._try(self.overlay.setattr, found[1], SetAttr(mode=0o700))
        if b"user." + name in self.overlay.listxattr(found[1]):
            self._try(self.overlay.removexattr, found[1], b"user." + name)
        else:
            self._try(self.overlay.setxattr, found[1], b"user." + name, b"value")

    @precondition(lambda self: self.overlay is not None)
    @rule(where=st.integers(0, 30), rescued=st.integers(0, 30), again=st.booleans())
    def empty_directory(self, where: int, rescued: int, again: bool) -> None:
        """``rm -r`` of a directory, out of which something was moved, and perhaps a new one at its place."""
        assert self.overlay is not None
        found = self._picked(where, "directory")
        if found is None or found[0] == "/lost+found":
            return
        inos: dict[str, int] = {}
        below = [path for path in tree_of(self.overlay, inos) if path.startswith(found[0] + "/")]
        inos["/"] = 1
        if below:
            holder, _, name = below[rescued % len(below)].rpartition("/")
            self.made += 1
            self._try(self.overlay.rename, inos[holder], os.fsencode(name), ROOT, b"out%d" % self.made)
        holder, _, name = found[0].rpartition("/")
        for path in [*sorted(below, reverse=True), found[0]]:
            above, _, last = path.rpartition("/")
            self._try(self.overlay.unlink, inos[above or "/"], os.fsencode(last))
            self._try(self.overlay.rmdir, inos[above or "/"], os.fsencode(last))
        if again:
            self._try(self.overlay.mkdir, inos[holder or "/"], os.fsencode(name), 0o755, CALLER)

    @precondition(lambda self: self.overlay is not None)
    @rule(which=st.integers(0, 5), act=st.sampled_from(("create", "create", "rollback", "delete", "undo")))
    def change_checkpoints(self, which: int, act: str) -> None:
        """One more, one less, or back to one."""
        assert self.overlay is not None
        checkpoints = self.overlay.checkpoints
        there = [checkpoint.name for checkpoint in checkpoints.all()]
        self.made += 1
        if act == "create":
            checkpoints.create(f"c{self.made}")
        elif act == "rollback" and there:
            checkpoints.rollback(there[which % len(there)])
        elif act == "delete" and there:
            checkpoints.delete([there[which % len(there)]])
        elif act == "undo" and any(checkpoint.cause == "rollback" for checkpoint in checkpoints.all()):
            with contextlib.suppress(StateError):  # there is nothing to undo any more
                checkpoints.undo()

    # -- sickness and health

    @rule()
    def sound_storage_has_no_findings(self) -> None:
        """Whatever was done by the engine is right in fsck's eyes."""
        if not self.damaged:
            self._unmount()
            assert wrong(self.sample.examine(base=True)) == []
            self.mount()

    @rule(table=st.sampled_from(_TABLES), which=st.integers(0, 1000))
    def lose_row(self, table: str, which: int) -> None:
        """A row is gone."""
        self._fall_ill()
        key = "parent, name" if table in ("created", "renamed", "deleted") else "ino"
        key = {"extent": "ino, start", "xattr": "ino, name", "overlay": "key"}.get(table, key)
        sql = f"SELECT {key} FROM {table} LIMIT 1 OFFSET {which} % max(1, (SELECT count(*) FROM {table}))"
        owners = f"SELECT ino FROM {table} WHERE ({key}) IN ({sql})" if table in _WHERE else _NOBODY
        self._spoil(f"DELETE FROM {table} WHERE ({key}) IN ({sql})", owners)

    @rule(table=st.sampled_from(_HISTORY), which=st.integers(0, 1000))
    def lose_history(self, table: str, which: int) -> None:
        """A row of a checkpoint is gone, or it belongs to another one."""
        self._fall_ill()
        columns = "id" if table == "checkpoint" else ", ".join((*TABLES[table[4:]].key, "checkpoint"))
        some = f"SELECT {columns} FROM {table} LIMIT 1 OFFSET {which} % max(1, (SELECT count(*) FROM {table}))"
        if which % 3 or table == "checkpoint":
            self._spoil(f"DELETE FROM {table} WHERE ({columns}) IN ({some})", _NOBODY)
        else:
            change = f"UPDATE OR REPLACE {table} SET checkpoint = {which % 7} WHERE ({columns}) IN ({some})"
            self._spoil(change, _NOBODY)

    @rule(
        table=st.sampled_from(_HISTORY),
        column=st.integers(0, 30),
        value=st.sampled_from((None, -1, 0, 1, 5, 1 << 31, 1 << 62, (1 << 63) - 1)),
        which=st.integers(0, 1000),
    )
    def spoil_history(self, table: str, column: int, value: int | None, which: int) -> None:
        """A number of a checkpoint, or of a row that it holds, is another one, or none."""
        self._fall_ill()
        if table == "checkpoint":
            columns = ["id", "time", "pinned", "returns", "next_ino", "next_object"]
        else:
            columns = ["checkpoint", "held", *TABLES[table[4:]].key, *TABLES[table[4:]].others]
        some = f"SELECT {{}} FROM {table} LIMIT 1 OFFSET {which} % max(1, (SELECT count(*) FROM {table}))"
        keys = "id" if table == "checkpoint" else ", ".join((*TABLES[table[4:]].key, "checkpoint"))
        chosen = columns[column % len(columns)]
        number = "NULL" if value is None else value
        with contextlib.suppress(apsw.Error):  # not a value of this column, or pages are damaged already
            self.sample.sql(f"UPDATE OR IGNORE {table} SET {chosen} = {number} WHERE ({keys}) IN ({some.format(keys)})")

    @rule(
        column=st.sampled_from(("nlink", "size", "mode", "object", "bound", "mapped", "xattrs", "ino", "uid")),
        value=st.integers(-5, 1 << 33),
        which=st.integers(0, 1000),
    )
    def spoil_inode(self, column: str, value: int, which: int) -> None:
        """A number of an inode is another one."""
        self._fall_ill()
        some = f"SELECT ino FROM inode LIMIT 1 OFFSET {which} % max(1, (SELECT count(*) FROM inode))"
        self._spoil(
            f"UPDATE OR IGNORE inode SET {column} = {value} WHERE ino IN ({some})",
            _NOBODY if column in _HARMLESS else some,
        )

    @rule(
        table=st.sampled_from(("created", "renamed", "extent", "small", "xattr", "modified")),
        which=st.integers(0, 1000),
        value=st.integers(1, 300),
    )
    def misplace_row(self, table: str, which: int, value: int) -> None:
        """A row belongs to another inode, or to none."""
        self._fall_ill()
        column = "parent" if which % 2 and table in ("created", "renamed") else "ino"
        some = f"SELECT ino FROM {table} LIMIT 1 OFFSET {which} % max(1, (SELECT count(*) FROM {table}))"
        other = f"(SELECT ino FROM inode LIMIT 1 OFFSET {value} % (SELECT count(*) + 3 FROM inode))"
        value_sql = f"coalesce({other}, {value})"
        self._spoil(
            f"UPDATE OR IGNORE {table} SET {column} = {value_sql} WHERE ino IN ({some})",
            some if table in _WHERE else _NOBODY,
        )

    @rule(which=st.integers(0, 1000), size=st.sampled_from((None, 0, 5)))
    def spoil_object(self, which: int, size: int | None) -> None:
        """A content object is gone or cut."""
        self._fall_ill()
        storage = Storage(self.sample.storage)
        inventory = ObjectInventory(storage)
        storage.close()
        if inventory.sizes:
            number = sorted(inventory.sizes)[which % len(inventory.sizes)]
            path = os.path.join(self.sample.storage, f"content/{number >> 10:x}/{number & 1023:x}")
            owners = (
                f"SELECT ino FROM inode WHERE object = {number} UNION SELECT ino FROM extent WHERE object = {number}"
            )
            self._spoil("SELECT 1", owners)
            if size is None:
                os.unlink(path)
            else:
                os.truncate(path, size)

    @rule(page=st.integers(0, 40))
    def spoil_page(self, page: int) -> None:
        """A page of the database is nothing but zeros; whose rows it held is not known."""
        self._fall_ill()
        self.before.clear()
        if page * 4096 < os.path.getsize(self.sample.database):
            with open(self.sample.database, "r+b") as file:
                file.seek(page * 4096)
                file.write(bytes(4096))

    @rule()
    def check_and_repair(self) -> None:
        """After a repair nothing is found, and everything can be read."""
        self._unmount()
        left, _ = self.sample.repair(base=True)
        assert wrong(left) == [], [(f.code, f.path, f.detail, f.key) for f in left]
        again = self.sample.examine(base=True)
        assert wrong(again) == [], again
        self.sample.states()
        shown = self.sample.look().values()
        assert all(kind != "unreadable" for kind, _ in shown)
        if self.damaged:
            there = {data for _, data in shown}
            lost = {
                ino: data[:20] for ino, data in self.before.items() if ino not in self.touched and data not in there
            }
            assert not lost, lost
        self.damaged = False
        self.mount()


# a step opens and closes a storage: few, but each example does much
TestDamageAndRepair = pytest.mark.logs("", always=False)(DamageAndRepair.TestCase)  # whatever is said of the damage
TestDamageAndRepair.settings = settings(max_examples=max(1, settings().max_examples // 5), stateful_step_count=25)
