"""The engine and a plain directory side by side: the same operations on both, and everything compared.

The plain directory is a copy of the base, changed by real system calls; the kernel is the judge of every errno and
every attribute.  What is allowed to differ is said in ``Seen`` and nowhere else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from minifo.engine import ROOT, Ino, Overlay, Process, SetAttr
from minifo.engine.commit import Sealed
from minifo.engine.store.storage import Storage
from minifo.engine.tree.clock import COARSE
from tests.shared import file_trees
from tests.shared.digests import wrong_digests


class DenseStorage(Storage):
    """Storage on a file system whose files cannot have holes."""

    has_holes = False  # type: ignore[assignment]  # stands in for the probe


class NarrowStorage(Storage):
    """Storage whose files cannot grow beyond a size, as vfat's cannot beyond 4 GiB: the rest of a write is refused."""

    largest = 150_000

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        """As write(2) does it: what fits is written before anything is said."""
        fits = max(self.largest, os.fstat(fd).st_size) - offset
        super().write(fd, data[: max(0, fits)], offset)
        if len(data) > fits:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))


class NarrowDenseStorage(NarrowStorage):
    """The same without holes."""

    has_holes = False  # type: ignore[assignment]


class Seen(NamedTuple):
    """What users see of one object.

    Times are as they are, or ``now`` if they were taken while the test ran.  The size of directories is left out:
    every file system has its own idea of it.  ``changed`` (ctime) is whether it moved since the start; a base object
    whose row is gone after a rename back has its old one again, and then it is None on both sides.  Symlinks have no
    access time here: reading them on the plain side moves it.
    """

    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int | None
    atime: int | str | None
    mtime: int | str
    changed: bool | None
    target: bytes | None
    xattrs: dict[bytes, bytes]


class Handle:
    """An open object: a descriptor on the plain side, a number that is not forgotten on the engine's."""

    def __init__(self, path: bytes, ino: Ino, fd: int, mode: int) -> None:
        self.path = path
        self.ino = ino
        self.fd = fd
        self.is_file = stat.S_ISREG(mode)
        self.is_dir = stat.S_ISDIR(mode)

    @property
    def magic(self) -> bytes:
        """A path that leads to the very object."""
        return b"/proc/self/fd/%d" % self.fd


class Snapshot(NamedTuple):
    """The plain tree as a commit had it, and the numbers of its objects."""

    tree: Path
    numbers: dict[bytes, tuple[int, Ino]]  # by path: the plain inode number and the engine's


class ComparedTrees:
    """One engine and one plain directory.

    Args:
        base: the base; read only, it may be shared.
        origin: a tree like it, to copy the plain directory from.
        options: further arguments of ``Overlay.open``.
    """

    def __init__(self, base: Path, origin: Path, **options: Any) -> None:
        self.work = file_trees.scratch()
        self.base = base
        self.storage = self.work / "sto"
        self.plain = self.work / "plain"
        self.redo = self.work / "redo"
        self.storage.mkdir()
        self.redo.mkdir()
        file_trees.copy_tree(origin, self.plain)
        self.born = time.time_ns()
        self.root = os.fsencode(self.plain)
        self.handles: list[Handle] = []
        self.log: list[str] = []
        self.snapshot: Snapshot | None = None
        self.sealed: Sealed | None = None
        self.on_down: Callable[[], object] = lambda: None  # called while nobody holds storage
        self._count = 0
        self._versions: dict[int, list[bytes]] = {}
        self._numbers: dict[int, Ino] = {}
        self._stable = file_trees.scratch_root() is not None  # tmpfs gives no inode number twice
        self._since = 0
        self.open(**options)
        self._settle_clock()

    def _settle_clock(self) -> None:
        # time stamps may come from a clock that moves in ticks: wait for the next one
        self._since = time.time_ns()
        while time.clock_gettime_ns(COARSE) <= self._since:
            time.sleep(0.0005)

    # -- life cycle

    def open(self, **options: Any) -> None:
        """Open the engine; with a journal, which no operation may fail by."""
        options = {"redo_directory": str(self.redo), "journal": 50, **options}
        self.ov = Overlay.open(str(self.base), str(self.storage), **options)
        self.sealed = None

    def close(self) -> None:
        """Close what is open, and the engine."""
        self.finish_commit()
        self.release_all()
        self.ov.close()

    def release_all(self) -> None:
        """Close every handle."""
        for handle in list(self.handles):
            self.release(handle)

    def reopen(self, **options: Any) -> None:
        """Unmount and mount again."""
        before = self.numbers()
        self.close()
        self.on_down()
        self.open(**options)
        assert self.numbers() == before, "inode numbers moved"
        assert self.ov.db.value("SELECT count(*) FROM orphan") == 0
        self.check_storage()

    def kill(self, **options: Any) -> None:
        """What ``kill -9`` of the daemon leaves: nothing acknowledged is lost."""
        before = self.numbers()
        self._abandon()
        self.on_down()
        self.open(**options)
        assert self.numbers() == before, "inode numbers moved"
        assert self.ov.db.value("SELECT count(*) FROM orphan") == 0
        self.check_storage()

    def _abandon(self) -> None:
        for handle in self.handles:
            os.close(handle.fd)
        self.handles.clear()
        self.ov.commits.failure = RuntimeError("killed")
        self.ov.db.read_only = True
        self.ov.close()

    def crash(self, **options: Any) -> None:
        """Lose everything since the last commit: go on with what storage holds, and the plain tree of that commit."""
        snapshot = self.snapshot
        assert snapshot is not None
        cut = self.work / f"sto{self._count}"
        shutil.copytree(self.storage, cut, ignore=shutil.ignore_patterns("*-shm", "lock"))
        versions, self._versions = self._versions, {}
        self._abandon()
        shutil.rmtree(self.storage)
        shutil.rmtree(self.plain)
        shutil.rmtree(self.redo)
        self.redo.mkdir()
        cut.rename(self.storage)
        snapshot.tree.rename(self.plain)
        self.snapshot = None
        self._numbers.clear()
        self.on_down()
        self.open(**options)
        self._adopt_versions(snapshot, versions)
        found = {path: engine for path, (_, engine) in self.numbers().items()}
        assert found == {path: engine for path, (_, engine) in snapshot.numbers.items()}, "inode numbers moved"
        self._settle_clock()
        self.check_storage()
        self.snap()

    def _adopt_versions(self, snapshot: Snapshot, versions: dict[int, list[bytes]]) -> None:
        """Files overwritten in place since the commit may hold old or new bytes; the plain side takes what is there."""
        for path, (plain_ino, _) in snapshot.numbers.items():
            news = versions.get(plain_ino)
            full = self.root + path
            if not news or not stat.S_ISREG(os.lstat(full).st_mode):
                continue
            old = file_trees.content(full)
            got = self.ov.read(self.ino(path), 0, len(old))
            assert len(got) == len(old), (path, "size")
            for at, byte in enumerate(got) if got != old else ():
                if byte != old[at]:
                    assert any(at < len(new) and new[at] == byte for new in news), (path, "byte from nowhere", at)
            st = os.lstat(full)
            with open(full, "r+b") as file:
                file.write(got)
            os.utime(full, ns=(st.st_atime_ns, st.st_mtime_ns))

    def adopt_plain(self, numbers: dict[bytes, tuple[int, Ino]]) -> None:
        """Go on with another plain tree, which the engine has gone back to.

        Args:
            numbers: those that the engine had given the paths then.
        """
        self._numbers.clear()
        found = {path: engine for path, (_, engine) in self.numbers().items()}
        assert found == {path: engine for path, (_, engine) in numbers.items()}, self.told("inode numbers moved")
        self._settle_clock()
        self.snap()

    def compare_with(self, overlay: Overlay, state: Snapshot) -> None:
        """Compare another overlay with a copy of the plain tree."""
        mine, self.ov = self.ov, overlay
        root, self.root = self.root, os.fsencode(state.tree)
        handles, self.handles = self.handles, []
        numbers, self._numbers = self._numbers, {}
        since, self._since = self._since, time.time_ns()
        try:
            assert {path: ino for path, (_, ino) in self.numbers().items()} == {
                path: ino for path, (_, ino) in state.numbers.items()
            }, self.told("inode numbers moved")
            self.compare_all()
        finally:
            self.ov, self.root, self.handles = mine, root, handles
            self._numbers, self._since = numbers, since

    def remove(self) -> None:
        """Delete all files of the test."""
        with contextlib.suppress(OSError):
            self._abandon()
        file_trees.remove_tree(self.work)

    # -- commits

    def commit(self) -> None:
        """Make all durable, and remember the tree."""
        self.finish_commit()
        self.ov.commit()
        self.snap()

    def begin_commit(self) -> None:
        """A commit up to its durable log; what comes after the commit is still to be done."""
        self.finish_commit()
        commits = self.ov.commits
        if commits.is_needed:
            commits.presync(commits.pending())
            self.sealed = commits.seal()
            commits.harden()
            self.snap()

    def finish_commit(self) -> None:
        """The rest of a commit that was begun."""
        if self.sealed is not None:
            sealed, self.sealed = self.sealed, None
            self.ov.commits.finish(sealed)

    def snap(self) -> None:
        """Remember the plain tree as the one a crash would lead to."""
        if self.snapshot is not None:
            shutil.rmtree(self.snapshot.tree)
        self._count += 1
        tree = self.work / f"snap{self._count}"
        file_trees.copy_tree(self.plain, tree)
        self.snapshot = Snapshot(tree, self.numbers())
        self._versions.clear()

    def make_room(self) -> None:
        """Commit now if the engine would before its next write, so that the tree is remembered."""
        if self.ov.objects.free_ids() < 16:
            self.commit()

    def wrote(self, fd: int) -> None:
        """Note the content a file has now, in case of a crash."""
        if self.snapshot is not None:
            st = os.fstat(fd)
            self._versions.setdefault(st.st_ino, []).append(os.pread(fd, st.st_size, 0))

    # -- finding objects

    def ino(self, path: bytes) -> Ino:
        """The engine's number of a path, found by look-ups from the root."""
        ino = ROOT
        for name in path.split(b"/")[1:] if path else ():
            attr = self.ov.lookup(ino, name)
            if attr is None:
                raise OSError(errno.ENOENT, "lookup")
            ino = Ino(attr.ino)
        return ino

    def paths(self) -> list[bytes]:
        """Every path of the plain tree but the root, which is the empty one."""
        top = len(self.root)
        return sorted(path[top:] for path in file_trees.walk(self.root))

    def numbers(self) -> dict[bytes, tuple[int, Ino]]:
        """By path: the plain inode number and the engine's."""
        return {path: (os.lstat(self.root + path).st_ino, self.ino(path)) for path in self.paths()}

    def hold(self, path: bytes) -> Handle:
        """Open an object and keep it, whatever happens to its names."""
        full = self.root + path
        mode = os.lstat(full).st_mode
        flags = os.O_RDWR | os.O_NOATIME if stat.S_ISREG(mode) else os.O_PATH | os.O_NOFOLLOW
        handle = Handle(path, self.ino(path), os.open(full, flags), mode)
        self.handles.append(handle)
        return handle

    def release(self, handle: Handle) -> None:
        """Close a handle; the kernel would then forget an object without names."""
        self.handles.remove(handle)
        nlink = os.fstat(handle.fd).st_nlink
        os.close(handle.fd)
        if nlink == 0 and all(other.ino != handle.ino for other in self.handles):
            self.ov.forget([handle.ino])

    def forget_all(self) -> None:
        """What memory pressure does: every number that is not held, or above a directory held, is forgotten."""
        kept = {handle.ino for handle in self.handles}
        for handle in self.handles:
            ino = handle.ino
            while handle.is_dir and ino != ROOT:
                ino = self.ov.inodes.node(ino).parent
                kept.add(ino)
        found = [ino for path, (_, ino) in sorted(self.numbers().items(), reverse=True)]
        self.ov.forget(ino for ino in found if ino not in kept)

    # -- doing the same on both sides

    def both(self, what: str, engine: Callable[[], Any], plain: Callable[[], Any]) -> tuple[Any, Any] | None:
        """Do one operation on both sides, and compare the outcome.

        Returns:
            Both results, or None where both failed alike.
        """
        expected = plain_code = None
        try:
            expected = plain()
        except OSError as error:
            plain_code = file_trees.code_of(error)
        self.log.append(f"{what} -> {plain_code or 'ok'}")
        result = engine_code = None
        try:
            result = engine()
        except OSError as error:
            engine_code = file_trees.code_of(error)
        assert engine_code == plain_code, self.told(f"{what}: engine {engine_code}, kernel {plain_code}")
        return None if plain_code else (result, expected)

    def told(self, message: str) -> str:
        """A message with everything that led to it."""
        return "\n".join(["", *self.log, message])

    # -- seeing

    def _time(self, value: int) -> int | str:
        return "now" if self.born - 10**9 <= value <= time.time_ns() else value

    def seen_on_disk(self, path: bytes | int) -> Seen:
        """The plain side of an object, by full path or descriptor."""
        by_fd = isinstance(path, int)
        st = os.fstat(path) if by_fd else os.lstat(path)
        link = stat.S_ISLNK(st.st_mode)
        name = b"/proc/self/fd/%d" % path if isinstance(path, int) else path
        names = os.listxattr(name, follow_symlinks=by_fd)
        xattrs = {os.fsencode(key): os.getxattr(name, key, follow_symlinks=by_fd) for key in names}
        return Seen(
            st.st_mode,
            st.st_nlink,
            st.st_uid,
            st.st_gid,
            st.st_rdev,
            None if stat.S_ISDIR(st.st_mode) else st.st_size,
            None if link else self._time(st.st_atime_ns),
            self._time(st.st_mtime_ns),
            st.st_ctime_ns > self._since,
            os.readlink(path) if link and not isinstance(path, int) else None,
            xattrs,
        )

    def seen_by_engine(self, ino: Ino, *, with_target: bool = True) -> Seen:
        """The engine's side of an object."""
        attr = self.ov.getattr(ino)
        link = stat.S_ISLNK(attr.mode)
        return Seen(
            attr.mode,
            attr.nlink,
            attr.uid,
            attr.gid,
            attr.rdev,
            None if stat.S_ISDIR(attr.mode) else attr.size,
            None if link else self._time(attr.atime),
            self._time(attr.mtime),
            attr.ctime > self._since,
            self.ov.readlink(ino) if link and with_target else None,
            {name: self.ov.getxattr(ino, name) for name in self.ov.listxattr(ino)},
        )

    def compare(self, path: bytes, *, content: bool = False) -> None:
        """Compare one object by its path."""
        full = self.root + path
        ino = self.ino(path)
        self._compare(repr(path), ino, self.seen_by_engine(ino), self.seen_on_disk(full))
        st = os.lstat(full)
        if self._stable:
            known = self._numbers.setdefault(st.st_ino, ino)
            assert known == ino, self.told(f"{path!r}: number {ino}, was {known}")
        if content and stat.S_ISREG(st.st_mode):
            self._compare_bytes(repr(path), ino, file_trees.content(full))

    def compare_handle(self, handle: Handle) -> None:
        """Compare one open object, which may have no name any more."""
        fd: int = handle.fd
        what = f"handle of {handle.path!r}"
        self._compare(what, handle.ino, self.seen_by_engine(handle.ino, with_target=False), self.seen_on_disk(fd))
        if handle.is_file:
            self._compare_bytes(what, handle.ino, os.pread(fd, os.fstat(fd).st_size, 0))

    def _compare(self, what: str, ino: Ino, mine: Seen, theirs: Seen) -> None:
        if self.ov.inodes.row(ino) is None:
            mine, theirs = mine._replace(changed=None), theirs._replace(changed=None)
        if mine != theirs:
            pairs = zip(Seen._fields, mine, theirs, strict=True)
            different = ", ".join(f"{name}: engine {a!r}, kernel {b!r}" for name, a, b in pairs if a != b)
            raise AssertionError(self.told(f"{what}: {different}"))

    def _compare_bytes(self, what: str, ino: Ino, expected: bytes) -> None:
        data = self.ov.read(ino, 0, len(expected) + 10)
        if data != expected:
            at = next((i for i, (a, b) in enumerate(zip(data, expected, strict=False)) if a != b), -1)
            raise AssertionError(
                self.told(f"{what}: content differs from byte {at}, sizes {len(data)} and {len(expected)}")
            )

    def compare_listing(self, path: bytes) -> None:
        """Compare the names in a directory, and the attributes that come with them."""
        ino = self.ino(path)
        entries = list(self.ov.readdir(ino))
        names = [entry.name for entry in entries]
        assert names[:2] == [b".", b".."], names
        assert entries[0].attr.ino == ino
        assert entries[1].attr.ino == self.ino(path.rpartition(b"/")[0])
        expected = file_trees.list_names(self.root + path)
        assert sorted(names[2:]) == sorted(expected), self.told(f"names in {path!r}: {names[2:]} and {expected}")
        for entry in entries[2:]:
            assert entry.attr == self.ov.lookup(ino, entry.name)

    def compare_all(self, *, content: bool = True) -> None:
        """Compare everything, and check every invariant."""
        self.compare(b"")
        self.compare_listing(b"")
        for path in self.paths():
            self.compare(path, content=content)
            if stat.S_ISDIR(os.lstat(self.root + path).st_mode):
                self.compare_listing(path)
        for handle in self.handles:
            self.compare_handle(handle)
        inos = list(self._numbers.values())
        assert len(set(inos)) == len(inos), self.told("two objects share a number")
        self.check()

    def check(self) -> None:
        """Check every invariant of the tables."""
        violations = self.ov.check()
        assert violations == [], self.told(f"{violations}")

    def check_storage(self) -> None:
        """Every content object is there, and nothing else is."""
        named = {
            number
            for (number,) in self.ov.db.rows(
                "SELECT object FROM inode WHERE object > 0 UNION SELECT object FROM extent WHERE object > 0"
                " UNION SELECT object FROM was_inode WHERE object > 0"
                " UNION SELECT object FROM was_extent WHERE object > 0"
            )
        }
        there = set(object_files(self.storage))
        garbage = {number for (number,) in self.ov.db.rows("SELECT object FROM garbage")}
        assert named <= there, self.told(f"missing objects {named - there}")
        assert there - garbage <= named, self.told(f"left-over objects {there - named}")
        assert wrong_digests(self.ov) == [], self.told("digests are wrong")

    def lists(self) -> dict[str, list[tuple[Any, ...]]]:
        """The rows of the four lists.

        Which of several links of one file is the renamed one and which the created one is not compared, only how many
        are: once one of them has been back at the place in the base, nothing tells them apart.
        """
        names = "SELECT parent, name, ino FROM created UNION SELECT parent, name, ino FROM renamed ORDER BY 1, 2"
        kinds = "SELECT ino, count(*) FROM {} GROUP BY ino"
        return {
            "names": self.ov.db.rows(names),
            "created": self.ov.db.rows(kinds.format("created")),
            "renamed": self.ov.db.rows(kinds.format("renamed")),
            "deleted": self.ov.db.rows("SELECT * FROM deleted"),
            "modified": self.ov.db.rows("SELECT * FROM modified"),
        }

    # -- operations; a place is a directory (path or handle) and a name in it

    def place(self, where: bytes | Handle) -> contextlib.AbstractContextManager[tuple[Callable[[], Ino], int]]:
        """Both sides of a directory: how to find the number, and a descriptor."""
        return _place(self, where)

    def setattr(self, ino: Ino, **change: int) -> None:
        """Shorthand of the engine's setattr."""
        self.ov.setattr(ino, SetAttr(**change))


@contextlib.contextmanager
def _place(compared: ComparedTrees, where: bytes | Handle) -> Iterator[tuple[Callable[[], Ino], int]]:
    if isinstance(where, Handle):
        yield (lambda: where.ino), where.fd
        return
    fd = os.open(compared.root + where, os.O_PATH | os.O_NOFOLLOW)
    try:
        yield (lambda: compared.ino(where)), fd
    finally:
        os.close(fd)


def object_files(storage: Path) -> dict[int, Path]:
    """The content objects in a storage directory, by id."""
    return {
        int(block.name, 16) << 10 | int(file.name, 16): file
        for block in (storage / "content").glob("*")
        for file in block.iterdir()
    }


def caller(umask: int = 0) -> Process:
    """Root with an umask."""
    return Process(0, 0, umask)
