"""A directory in which one disk after another is laid out, mounted by the engine, and looked at.

What is checked here needs no knowledge of the disk's past: that it opens, that no invariant is broken, that nothing is
left over, that a second mount shows the same, and that life goes on.  Laying out thousands of disks a minute means to
write only what differs from the disk before.
"""

from __future__ import annotations

import os
import shutil

from minifo.engine import ROOT, Ino, Overlay, StateError
from minifo.engine.store.history import TABLES
from minifo.engine.store.object_paths import object_name
from minifo.engine.store.storage import Storage
from minifo.engine.trial import TXN
from tests.crash.contents import fill
from tests.crash.disk_model import State
from tests.crash.recorded_overlay import CALLER, Seen, Tree, seen
from tests.shared.digests import wrong_digests

_KNOWN = {
    "minifo.db",
    "minifo.db-wal",
    "minifo.db-shm",
    "content",
    "lock",
    "reserve",
    "minifo.names",
    "minifo.names.new",
}


_NAMING = ("inode", "extent", "was_inode", "was_extent")  # the tables that name objects


class Wrong(Exception):
    """A disk that breaks a promise; the text says which and how."""


class _Tracking(Storage):
    """Notes which names are changed, so that only those must be written anew for the next disk."""

    touched: set[str]

    def create(self, name: str) -> int:
        self.touched.add(name)
        return super().create(name)

    def open(self, name: str, *, write: bool) -> int:
        fd = super().open(name, write=write)
        self._names[fd] = name
        return fd

    def open_object(self, name: str, *, write: bool) -> int:
        fd = super().open_object(name, write=write)
        self._names[fd] = name
        return fd

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        self.touched.add(self._names.get(fd, ""))
        super().write(fd, data, offset)

    def truncate(self, fd: int, size: int) -> None:
        self.touched.add(self._names.get(fd, ""))
        super().truncate(fd, size)

    def unlink(self, name: str) -> None:
        self.touched.add(name)
        super().unlink(name)

    def rename(self, name: str, new_name: str) -> None:
        self.touched |= {name, new_name}
        super().rename(name, new_name)

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._names: dict[int, str] = {}


class DiskChecker:
    """A directory in which one disk after another is laid out and mounted.

    Args:
        path: an empty directory.
        base: the base.
        also: what may lie in it besides an overlay's own files.
    """

    def __init__(self, path: str, base: str, also: tuple[str, ...] = ()) -> None:
        self._path = path
        self._base = base
        self._known = _KNOWN | set(also)
        self._there: State = {}
        self._touched: set[str] = set()
        self.shown: dict[int, Tree] = {}  # what the checkpoints of the disk looked at last hold, by their times
        self._known_shown: dict[int, dict[int, Tree]] = {}

    def lay_out(self, state: State) -> None:
        """Make the directory hold exactly *state*; what it holds already is left alone."""
        there = self._there
        for name in self._touched:
            there.pop(name, None)
        # SQLite's files are not tracked; anything that is not known to be right goes
        todo = [""]
        while todo:
            directory = todo.pop()
            for entry in list(os.scandir(os.path.join(self._path, directory))):
                name = os.path.join(directory, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    if name in state:
                        todo.append(name)
                    else:
                        shutil.rmtree(entry.path)
                elif name != "lock" and (name not in state or name not in there or name.startswith("minifo.db")):
                    os.unlink(entry.path)
        for name, content in state.items():
            path = os.path.join(self._path, name)
            if content is None:
                if not os.path.isdir(path):
                    os.mkdir(path)
            elif name.startswith("minifo.db") or name not in there or there[name] != content:
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                os.write(fd, content)
                os.close(fd)
        self._there = dict(state)
        self._touched = set()

    def _storage(self, path: str) -> Storage:
        storage = _Tracking(path)
        storage.touched = self._touched
        return storage

    def mount(self) -> Overlay:
        """Open the overlay that is laid out.

        Raises:
            Wrong: it does not open.
        """
        try:
            return Overlay.open(
                self._base, self._path, storage_io=self._storage, clone=False
            )  # clones are slow to close
        except Exception as error:
            raise Wrong(f"does not open: {type(error).__name__}: {error}") from error

    def look(self) -> Seen:
        """Mount what is laid out and check all that can be said without knowing its past; ``shown`` is set, too.

        Raises:
            Wrong: a promise is broken.
        """
        overlay = self.mount()
        try:
            found = _sound(overlay)
            objects = {n for table in _NAMING for (n,) in overlay.db.rows(f"SELECT object FROM {table}") if n}
            kept = _kept_rows(overlay) if found.points else None
            frozen_below = overlay.objects.frozen_below
            if wrong := wrong_digests(overlay):
                raise Wrong(f"other bytes than their digests say: {wrong}")
        finally:
            overlay.close()
        self._nothing_left({object_name(number) for number in objects})
        if kept is None:
            self.shown = {}
            return found
        # what checkpoints hold depends on these rows and the bytes of frozen objects, so it is read once for each
        frozen = frozenset((number, self._bytes(object_name(number))) for number in objects if number < frozen_below)
        key = hash((found.points, kept, frozen))
        if key not in self._known_shown:
            self._known_shown[key] = {point.time: self._shown(point.name) for point in found.points}
        self.shown = self._known_shown[key]
        return found

    def _take_back(self, overlay: Overlay, before: Seen) -> Tree:
        """Let a transaction that was cut be taken back, as a mount that serves does, and return the tree then.

        Raises:
            Wrong: something of it stays, or one that was committed is taken back.
        """
        begun = [point for point in before.points if point.cause == TXN and point.pinned]
        if overlay.trial.state().txn != bool(begun):
            raise Wrong(f"a transaction is neither begun nor ended: {begun}")
        overlay.trial.mounting(None)
        tree = _sound(overlay, live=False).tree
        if tree != (self.shown[begun[0].time] if begun else before.tree):
            raise Wrong("a transaction left a part of its changes" if begun else "a mount took something back")
        if any(point.pinned and point.cause == TXN for point in overlay.checkpoints.all()):
            raise Wrong("the checkpoint of a transaction stays for ever")
        return tree

    def _bytes(self, name: str) -> bytes:
        content = self._there.get(name)
        if name not in self._touched and isinstance(content, bytes):
            return content
        with open(os.path.join(self._path, name), "rb") as file:
            return file.read()

    def _shown(self, name: str) -> Tree:
        """Mount a checkpoint, and return its tree."""
        try:
            overlay = Overlay.open(self._base, self._path, at=name, clone=False)
        except Exception as error:
            raise Wrong(f"checkpoint {name} does not open: {type(error).__name__}: {error}") from error
        try:
            return _sound(overlay, live=False).tree
        finally:
            overlay.close()

    def _nothing_left(self, expected: set[str]) -> None:
        if unknown := set(os.listdir(self._path)) - self._known:
            raise Wrong(f"left over in storage: {sorted(unknown)}")
        found = set()
        content = os.path.join(self._path, "content")
        if os.path.isdir(content):
            for entry in os.scandir(content):
                if entry.is_dir(follow_symlinks=False):
                    found |= {f"content/{entry.name}/{name}" for name in os.listdir(entry.path)}
                else:
                    found.add(f"content/{entry.name}")
        if found != expected:
            raise Wrong(f"objects without a name: {sorted(found - expected)}, missing: {sorted(expected - found)}")

    def look_again(self, before: Seen) -> None:
        """Mount a second time: the same tree and checkpoints; life goes on, and there is a way back to each of them.

        Raises:
            Wrong: a promise is broken.
        """
        overlay = self.mount()
        try:
            if _sound(overlay) != before:
                raise Wrong("the second mount shows another tree than the first")
            for table in ("orphan", "garbage"):
                if overlay.db.value(f"SELECT count(*) FROM {table}"):
                    raise Wrong(f"the second mount finds rows of {table}")
            if (answer := overlay.db.value("PRAGMA integrity_check")) != "ok":
                raise Wrong(f"the database is damaged: {answer}")
            tree = self._take_back(overlay, before)
            try:
                ino = Ino(overlay.mknod(ROOT, b"after the crash", 0o644, 0, CALLER).ino)
                overlay.write(ino, 0, fill(999, 3000))
                overlay.commit()
            except OSError as error:
                raise Wrong(f"no new file can be made: {error}") from error
            after = _sound(overlay).tree
            if after.pop(b"/after the crash").content != fill(999, 3000) or after != tree:
                raise Wrong("a new file changed others")
            for point in before.points:
                if point not in overlay.checkpoints.all():
                    continue  # made by itself, and pruned by these returns
                try:
                    overlay.checkpoints.rollback(point.name)
                except (StateError, OSError) as error:
                    raise Wrong(f"cannot go back to checkpoint {point.name}: {error}") from error
                if _sound(overlay, live=False).tree != self.shown[point.time]:
                    raise Wrong(f"going back to checkpoint {point.name} shows another tree")
        finally:
            overlay.close()


def _sound(overlay: Overlay, *, live: bool = True) -> Seen:
    """Look at an overlay.

    Args:
        overlay: it.
        live: it was mounted just now; else it shows a state in which files may have been unlinked, but open.
    """
    try:
        found = seen(overlay)
    except Exception as error:
        raise Wrong(f"cannot be read: {type(error).__name__}: {error}") from error
    if violations := overlay.check():
        raise Wrong(f"invariants broken: {violations}")
    if live and overlay.db.value("SELECT 1 FROM orphan") is not None:
        raise Wrong("orphans are left")
    return found


def _kept_rows(overlay: Overlay) -> int:
    """All rows that checkpoints may show, as one number.

    Raises:
        Wrong: some are of no checkpoint.
    """
    rows = []
    for name in TABLES:
        for table in (name, f"was_{name}"):
            rows += overlay.db.rows(f"SELECT * FROM {table}")
        strays = f"SELECT 1 FROM was_{name} WHERE checkpoint NOT IN (SELECT id FROM checkpoint)"
        if overlay.db.value(strays) is not None:
            raise Wrong(f"history of {name} of no checkpoint")
    return hash(tuple(rows))
