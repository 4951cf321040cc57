"""Migrations that are cut short: each case is a directory to work in, a command, and what must come of it in the end.

Nothing in here is about crashes; ``power_cut_explorer.py`` cuts the power for them, everywhere.
"""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import apsw

from minifo.engine import ROOT, Overlay, Process, SetAttr, StateError, UsageError
from minifo.engine.model import Ino
from minifo.engine.store.database import DB_NAME
from minifo.engine.store.database_file import SCHEMA_VERSION
from minifo.migrations.effects import DISK_ACCESS, DiskAccess
from minifo.migrations.fleet import Fleet, read_plan
from minifo.migrations.merge.apply import STAGE, merge
from minifo.migrations.meta import import_rows
from minifo.migrations.meta.codec import META_NAME
from minifo.migrations.meta.exporter import export_storage
from minifo.migrations.meta.importer import BACKUP, WORK, import_storage, restore
from minifo.migrations.rebase.apply import rebase
from minifo.migrations.schema.upgrade import upgrade
from tests.crash.disk_checker import DiskChecker, Wrong
from tests.migrations import legacy_trees, overlay_contents
from tests.migrations.merge.test_apply import note_something, prepare, trees_copy
from tests.shared.file_trees import fingerprint, walk

Shown = dict[bytes, tuple[object, ...]]


class MigrationCase(ABC):
    """One command and the directory it works in.

    Args:
        place: an empty directory; what no command may change is in it, and ``work``, the rest.
    """

    plain: tuple[str, ...] = ()  # directories in ``work`` whose files have no attributes worth looking at
    reads: bool = False  # True where storage is only read

    def __init__(self, place: Path) -> None:
        self.place = place
        self.workdir = place / "work"
        self.workdir.mkdir()
        self.prepare()

    @abstractmethod
    def prepare(self) -> None:
        """Make what is there before, and know what must come of it."""

    @abstractmethod
    def run(self, disk: DiskAccess = DISK_ACCESS) -> None:
        """The command; given again, it goes on."""

    @abstractmethod
    def old(self) -> None:
        """Look at what is there before the command is given again.

        Raises:
            Wrong: it is neither as before nor to be gone on from.
        """

    @abstractmethod
    def new(self, thorough: bool) -> None:
        """Look at the outcome.

        Raises:
            Wrong: it is not what it should be.
        """


def same(found: object, expected: object, what: str) -> None:
    """See that two are equal."""
    if found == expected:
        return
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = [key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)]
        detail = "; ".join(f"{key!r}: {found.get(key)!r} for {expected.get(key)!r}" for key in sorted(keys)[:3])
        raise Wrong(f"{what}: {len(keys)} differ: {detail}")
    raise Wrong(f"{what}: {found!r} for {expected!r}")


def sound(base: Path, storage: Path, expected: Shown, *, thorough: bool, also: tuple[str, ...] = ()) -> None:
    """See that an overlay shows what it should, breaks no rule, and that nothing else is in storage."""
    same(overlay_contents.shown(base, storage, links=True), expected, "the overlay")
    if thorough:
        DiskChecker(str(storage), str(base), also).look()


def small_trees(place: Path, seed: int) -> None:
    """A base and a mini_fo storage with a bit of everything."""
    legacy_trees.build(place, seed, 5, 3)


def legacy_tree(top: Path) -> Shown:
    """A legacy storage: what moving it there and back must not change."""
    found: Shown = {}
    for path in [os.fsencode(top), *walk(os.fsencode(top))]:
        st = os.lstat(path)
        data: object = None
        if os.path.islink(path):
            data = os.readlink(path)
        elif os.path.isfile(path):
            data = Path(os.fsdecode(path)).read_bytes()
        size = 0 if os.path.isdir(path) else st.st_size
        found[path[len(os.fsencode(top)) :]] = (
            st.st_mode,
            st.st_uid,
            st.st_gid,
            st.st_rdev,
            size,
            st.st_mtime_ns,
            data,
        )
    return found


def few_steps(run: Callable[[], object]) -> None:
    """Let an import commit often."""
    with patch.object(import_rows, "_COMMIT_STEPS", 12):
        run()


class Import(MigrationCase):
    """To a new storage, in a directory that does not exist yet."""

    def prepare(self) -> None:
        small_trees(self.place, 3)
        self.base, self.source, self.target = self.place / "base", self.place / "sto", self.workdir / "new"
        import_storage(str(self.source), str(self.base), str(self.target))
        self.expected = overlay_contents.shown(self.base, self.target, links=True)
        shutil.rmtree(self.target)
        self.before = fingerprint(self.source, atimes=False)

    def run(self, disk: DiskAccess = DISK_ACCESS) -> None:
        few_steps(lambda: import_storage(str(self.source), str(self.base), str(self.target), disk=disk))

    def old(self) -> None:
        if (self.target / DB_NAME).exists():
            sound(self.base, self.target, self.expected, thorough=False)
        self.run()

    def new(self, thorough: bool) -> None:
        sound(self.base, self.target, self.expected, thorough=thorough)
        same((self.target / WORK).exists(), False, "the working directory")
        if thorough:
            same(fingerprint(self.source, atimes=False), self.before, "the source")


class InPlace(MigrationCase):
    """The storage itself becomes the new one."""

    def prepare(self) -> None:
        small_trees(self.place, 4)
        self.base, self.storage = self.place / "base", self.workdir / "sto"
        os.rename(self.place / "sto", self.storage)
        (self.storage / "content").mkdir()
        (self.storage / "lock").write_text("named like one of ours")
        self.before = legacy_tree(self.storage)
        import_storage(str(self.storage), str(self.base), None)
        self.expected = self.shown()
        restore(str(self.storage))
        same(legacy_tree(self.storage), self.before, "the way back")

    def shown(self) -> Shown:
        """What the new storage shows; the root's mtime aside, which the work itself moves."""
        found = overlay_contents.shown(self.base, self.storage, links=True)
        found[b"/"] = (*found[b"/"][:5], *found[b"/"][6:])
        return found

    def legacy(self) -> Shown:
        """What the old storage holds; the root's mtime aside."""
        found = legacy_tree(self.storage)
        del found[b""]
        return found

    def run(self, disk: DiskAccess = DISK_ACCESS) -> None:
        few_steps(lambda: import_storage(str(self.storage), str(self.base), None, disk=disk))

    def old(self) -> None:
        if (self.storage / DB_NAME).exists():
            same(self.shown(), self.expected, "the overlay")
        self.run()

    def new(self, thorough: bool) -> None:
        same(self.shown(), self.expected, "the overlay")
        same((self.storage / WORK).exists(), False, "the working directory")
        if thorough:
            DiskChecker(str(self.storage), str(self.base), (BACKUP,)).look()
            restore(str(self.storage))
            same(self.legacy(), {path: seen for path, seen in self.before.items() if path}, "the way back")


class Restore(InPlace):
    """The way back from an import in place."""

    def prepare(self) -> None:
        super().prepare()
        import_storage(str(self.storage), str(self.base), None)

    def run(self, disk: DiskAccess = DISK_ACCESS) -> None:
        restore(str(self.storage), disk=disk)

    def old(self) -> None:
        if (self.storage / DB_NAME).exists():
            same(self.shown(), self.expected, "the overlay")
        if not (self.storage / BACKUP).exists() and not (self.storage / ".minifo-restore").exists():
            return  # it had just come to its end
        self.run()

    def new(self, thorough: bool) -> None:
        same(self.legacy(), {path: seen for path, seen in self.before.items() if path}, "the old storage")


class Merge(MigrationCase):
    """An overlay is applied to its base: two trees are changed."""

    plain = ("new",)

    def prepare(self) -> None:
        self.base, self.storage = self.workdir / "base", self.workdir / "new"
        self.expected = prepare(self.workdir, 2, 40, dirs=4, files=2)
        shutil.rmtree(self.workdir / "sto")
        self.noted = [*note_something(self.base, self.storage), "merge /"]
        self.expected = overlay_contents.shown(self.base, self.storage, links=True)
        self.before = self.held()

    def held(self) -> Shown:
        """What the base itself holds."""
        (self.place / "empty").mkdir()
        seen = overlay_contents.shown(self.base, self.place / "empty", links=True)
        shutil.rmtree(self.place / "empty")
        return {path: value for path, value in seen.items() if not path.startswith(b"/" + STAGE)}

    def plainly(self, seen: Shown) -> Shown:
        """Without what staging moves: itself, link counts, the root's times."""
        found = {path: value[:8] for path, value in seen.items() if not path.startswith(b"/" + STAGE)}
        found[b"/"] = (*found[b"/"][:5], *found[b"/"][6:])
        return found

    def run(self, disk: DiskAccess = DISK_ACCESS) -> None:
        merge(str(self.storage), str(self.base), apply=True, disk=disk)

    def old(self) -> None:
        if (self.storage / DB_NAME).exists():
            found = overlay_contents.shown(self.base, self.storage)
            if (held := self.plainly(self.held())) != self.plainly(self.expected):
                same(held, self.plainly(self.before), "the base before the merge")
            same(self.plainly(found), self.plainly(self.expected), "the overlay")
        self.run()

    def new(self, thorough: bool) -> None:
        same(self.held(), self.expected, "the base")
        sound(self.base, self.storage, self.expected, thorough=thorough)
        same(overlay_contents.noted(self.base, self.storage), self.noted, "the journal")


class Rebase(MigrationCase):
    """An overlay is settled over another base: either it has happened, or it has not."""

    plain = ("new",)

    def prepare(self) -> None:
        self.old_base, self.base, self.storage = self.place / "old", self.place / "base", self.workdir / "new"
        for path in (self.base / "d", self.storage):
            path.mkdir(parents=True)
        names = ["merge", "both", "theirs", "ours", "part", "gone", "d/gone", "hidden", "lost"]
        for name in names:
            (self.base / name).write_bytes(name.encode() * 30_000 if name == "part" else b"old\n" * 1000)
        with overlay_contents.opened(self.base, self.storage) as overlay:
            self.change(overlay, names)
        trees_copy(self.base, self.old_base)
        for name in names:
            if name in ("gone", "d/gone", "hidden", "lost"):
                (self.base / name).unlink()
            else:
                (self.base / name).write_bytes(b"old\n" * 1000 + b"new\n")
        (self.base / "made").write_bytes(b"by the base")
        (self.base / "d").rmdir()
        self.before = self.look()
        trees_copy(self.storage, self.place / "saved")
        self.run()
        self.expected = self.look()
        shutil.rmtree(self.storage)
        (self.place / "saved").rename(self.storage)

    @staticmethod
    def change(overlay: Overlay, names: list[str]) -> None:
        """Something for every policy, in rows and in content."""
        inos = {}
        for name in names:
            parent = ROOT
            for part in name.encode().split(b"/"):
                attr = overlay.lookup(parent, part)
                assert attr is not None
                parent = Ino(attr.ino)
            inos[name] = parent
        for name in ("merge", "both", "theirs", "ours", "part", "gone", "d/gone"):
            overlay.write(inos[name], 8192 if name == "part" else 0, b"ours")
        overlay.setattr(inos["hidden"], SetAttr(mode=0o600))
        overlay.unlink(ROOT, b"lost")
        overlay.write(Ino(overlay.mknod(ROOT, b"made", 0o644, 0, Process()).ino), 0, b"by us")

    def look(self) -> Shown:
        """What shows, but for mtimes: those of directories are of the time of the rebase."""
        found = overlay_contents.shown(self.base, self.storage, links=True)
        return {path: value[:5] + value[6:] for path, value in found.items()}

    def run(self, disk: DiskAccess = DISK_ACCESS) -> None:
        rebase(
            str(self.storage),
            str(self.base),
            old_base=str(self.old_base),
            policies=["ours", "merge:/merge", "keep-both:/both", "keep-both:/made", "theirs:/theirs", "theirs:/hidden"],
            apply=True,
            any_base=True,
            disk=disk,
        )

    def old(self) -> None:
        if (found := self.look()) != self.expected:
            same(found, self.before, "the overlay")
        self.run()

    def new(self, thorough: bool) -> None:
        same(self.look(), self.expected, "the overlay")
        if thorough:
            DiskChecker(str(self.storage), str(self.base)).look()


NEXT, LAST = SCHEMA_VERSION + 1, SCHEMA_VERSION + 2
STEPS = {
    NEXT: "CREATE TABLE extra (ino INTEGER PRIMARY KEY) STRICT; INSERT INTO extra SELECT ino FROM inode;",
    LAST: "ALTER TABLE extra ADD COLUMN what TEXT",
}


class Upgrade(MigrationCase):
    """A database is brought up two versions."""

    plain = ("sto",)

    def prepare(self) -> None:
        small_trees(self.place, 5)
        self.storage = self.workdir / "sto"
        import_storage(str(self.place / "sto"), str(self.place / "base"), str(self.storage))
        self.rows = self.look(SCHEMA_VERSION)

    def look(self, version: int, path: str = DB_NAME) -> dict[str, list[tuple[object, ...]]]:
        """The rows of all tables of a database, which must be whole and of this version."""
        con = apsw.Connection(str(self.storage / path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            same(con.execute("PRAGMA integrity_check").fetchall(), [("ok",)], path)
            same(con.execute("PRAGMA user_version").fetchall(), [(version,)], f"the version of {path}")
            names = [name for (name,) in con.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
            return {name: con.execute(f'SELECT * FROM "{name}"').fetchall() for name in names}
        finally:
            con.close()

    def run(self, disk: DiskAccess = DISK_ACCESS) -> None:
        upgrade(str(self.storage), steps=STEPS, target=LAST, disk=disk)

    def old(self) -> None:
        try:
            same(self.look(SCHEMA_VERSION), self.rows, "the rows")
        except Wrong:
            self.kept()  # it is not of the old version any more
        self.run()

    def kept(self) -> None:
        """See that the database of before was kept."""
        same(self.look(SCHEMA_VERSION, f"{DB_NAME}.bak-v{SCHEMA_VERSION}"), self.rows, "the copy")

    def new(self, thorough: bool) -> None:
        self.kept()
        rows = self.look(LAST)
        extra = rows.pop("extra")
        same(rows, self.rows, "the rows")
        same(extra, [(row[0], None) for row in self.rows["inode"]], "the new table")


class Plan(MigrationCase):
    """A plan for two storages, each with a report."""

    def prepare(self) -> None:
        legacy_trees.build(self.place, 6, 2, 2)
        self.boxes = [self.place / "boxes" / name for name in ("one", "two")]
        for box in self.boxes:
            box.mkdir(parents=True)
            trees_copy(self.place / "sto", box / "sto")
        self.plan = self.place / "plan.toml"
        self.plan.write_text(
            f'reports = "{self.workdir}/reports"\n[[storage]]\neach = "{self.place}/boxes/*/sto"\n'
            f'name = "{{name}}"\nbase = "{self.place}/base"\ntarget = "{self.workdir}/{{name}}"\n'
        )
        self.run()
        self.expected = overlay_contents.shown(self.place / "base", self.workdir / "one", links=True)
        for name in os.listdir(self.workdir):
            shutil.rmtree(self.workdir / name)

    def run(self, disk: DiskAccess = DISK_ACCESS) -> None:
        reports = Fleet(read_plan(str(self.plan)), disk=disk).run()
        bad = [report for report in reports if report["status"] not in ("done", "skipped")]
        if bad:
            raise StateError(str(bad[0]["error"]))

    def old(self) -> None:
        self.run()

    def new(self, thorough: bool) -> None:
        for box in self.boxes:
            sound(self.place / "base", self.workdir / box.name, self.expected, thorough=thorough)
        same(sorted(os.listdir(self.workdir / "reports")), ["one.json", "summary.json", "two.json"], "the reports")


class Export(MigrationCase):
    """An overlay as a mini_fo storage."""

    reads = True

    def prepare(self) -> None:
        small_trees(self.place, 7)
        import_storage(str(self.place / "sto"), str(self.place / "base"), str(self.place / "new"))
        self.target = self.workdir / "legacy"
        self.run()
        self.expected = self.legacy()
        shutil.rmtree(self.target)

    def legacy(self) -> Shown:
        """What was written; META files are of the moment."""
        found = legacy_tree(self.target)
        return {path: seen[:5] + seen[6:] if path.endswith(META_NAME) else seen for path, seen in found.items()}

    def run(self, disk: DiskAccess = DISK_ACCESS) -> None:
        export_storage(str(self.place / "new"), str(self.place / "base"), str(self.target), lossy=True, disk=disk)

    def old(self) -> None:
        with suppress(UsageError):  # it had just come to its end
            self.run()

    def new(self, thorough: bool) -> None:
        same(self.legacy(), self.expected, "the legacy storage")


CASES: dict[str, type[MigrationCase]] = {
    "import": Import,
    "in_place": InPlace,
    "restore": Restore,
    "merge": Merge,
    "rebase": Rebase,
    "upgrade": Upgrade,
    "plan": Plan,
    "export": Export,
}
