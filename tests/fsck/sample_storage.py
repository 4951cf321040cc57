"""A storage to be damaged: a base and an overlay with something of everything, and what they show."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from minifo.engine import ROOT, Ino, Overlay, Process, RenameFlags
from minifo.engine.fsck.problems import NEEDS_REBUILD, Problem
from minifo.engine.fsck.rebuild import Rebuilt, rebuild
from minifo.engine.fsck.session import FsckSession
from minifo.engine.store.object_paths import object_name
from minifo.engine.store.syscalls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE
from tests.shared.file_trees import change_rows

Tree = dict[str, tuple[str, bytes]]
CALLER = Process()
_ROOMY = "/dev/shm" if os.path.isdir("/dev/shm") else None
_READ = 1 << 20  # bytes of a file that are looked at: a damaged row may say any size
_NOBODY = 65534
LARGE = 300_000  # bytes: a base file of this size is not copied whole


def text(seed: str, size: int) -> bytes:
    """*size* bytes that say whose they are."""
    return (f"<{seed}>".encode() * (size // len(seed) + 1))[:size]


class SampleStorage:
    """A base, a storage and the tree they show.

    Attributes:
        top: the directory both are in.
        base, storage: their paths.
        inos: inode number of each path.
        healthy: the tree before any damage.
        healthy_states: what its checkpoints show before any damage.
    """

    def __init__(self) -> None:
        self.top = tempfile.mkdtemp(prefix="minifo-fsck-test-", dir=_ROOMY)
        self.base = os.path.join(self.top, "base")
        self.storage = os.path.join(self.top, "sto")
        os.mkdir(self.storage)
        _make_base(self.base)
        overlay = self.open()
        try:
            _change(overlay)
        finally:
            overlay.close()
        self.inos: dict[str, int] = {}
        self.healthy = self.look(self.inos)
        self.healthy_states = self.states()

    @property
    def database(self) -> str:
        """Path of the database."""
        return os.path.join(self.storage, "minifo.db")

    def open(self) -> Overlay:
        """The overlay, open for writing."""
        return Overlay.open(self.base, self.storage, clone=False)

    def look(self, inos: dict[str, int] | None = None) -> Tree:
        """What the overlay shows; its invariants hold."""
        overlay = self.open()
        try:
            assert overlay.check() == []
            return tree_of(overlay, inos)
        finally:
            overlay.close()

    def sql(self, *statements: str) -> None:
        """Damage rows; ``{path}`` stands for the inode number of a path."""
        change_rows(self.database, self.inos, statements)

    def states(self) -> dict[str, Tree]:
        """What each checkpoint shows."""
        con = apsw.Connection(self.database)
        names = [name for (name,) in con.execute("SELECT name FROM checkpoint ORDER BY id")]
        con.close()
        found = {}
        for name in names:
            overlay = Overlay.open(self.base, self.storage, clone=False, at=name)
            try:
                assert overlay.check() == []
                found[name] = tree_of(overlay)
            finally:
                overlay.close()
        return found

    def object_of(self, path: str) -> str:
        """The file of the content object of a file."""
        con = apsw.Connection(self.database)
        try:
            sql = (
                "SELECT object FROM inode WHERE ino = ?1 AND object > 0"
                " UNION SELECT object FROM extent WHERE ino = ?1 AND object > 0"
            )
            return os.path.join(self.storage, object_name(next(iter(con.execute(sql, (self.inos[path],))))[0]))
        finally:
            con.close()

    def examine(self, *, base: bool = False, full: bool = True, verify: bool = False) -> list[Problem]:
        """What fsck finds, changing nothing."""
        before = fingerprint(self.storage)
        with FsckSession(self.storage, self.base if base else None, write=False) as examination:
            found = examination.check(full=full, verify=verify)
        assert fingerprint(self.storage) == before
        return found

    def repair(self, *, base: bool = False, safe: bool = False) -> tuple[list[Problem], Rebuilt | None]:
        """Repair everything (or what is safe), as ``minifo-fsck -y`` does; what is left, and the salvage's account."""
        with FsckSession(self.storage, self.base if base else None, write=True) as examination:
            found = examination.check(full=True)
            if any(finding.code in NEEDS_REBUILD for finding in found):
                if safe:
                    return found, None
                result = rebuild(examination)
                return result.left, result
            return examination.repair(found, lambda finding: finding.is_safe or not safe)[1], None


@contextmanager
def unprivileged(top: str) -> Iterator[None]:
    """Be a user whom permissions bind, and who owns everything below *top*."""
    if os.geteuid() != 0:
        yield
        return
    for holder, _, names in os.walk(top):
        for path in (holder, *(os.path.join(holder, name) for name in names)):
            os.chown(path, _NOBODY, _NOBODY, follow_symlinks=False)
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def without_lost_found(tree: Tree) -> Tree:
    """A tree without what a repair has found: content of checkpoints that are lost."""
    return {path: what for path, what in tree.items() if path.split("/")[1] != "lost+found"}


def wrong(found: list[Problem]) -> list[str]:
    """The codes of what is more than a note."""
    return [finding.code for finding in found if not finding.is_note]


def fingerprint(directory: str) -> dict[str, tuple[int, int, bytes]]:
    """Every file below a directory: size, mtime and bytes."""
    found = {}
    for holder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(holder, name)
            st = os.stat(path)
            with open(path, "rb") as file:
                found[path] = (st.st_size, st.st_mtime_ns, file.read())
    return found


def kept(storage: str) -> dict[str, tuple[int, int, bytes]]:
    """The same, but for the lock, which whoever may write takes, and leaves its number in."""
    return {path: seen for path, seen in fingerprint(storage).items() if os.path.basename(path) != "lock"}


def tree_of(overlay: Overlay, inos: dict[str, int] | None = None) -> Tree:
    """Everything an overlay shows: kind, and bytes or target, by path.  What cannot be read says so."""
    tree: Tree = {}
    directories = {ROOT: "/"}
    waiting = [("", ROOT)]
    while waiting:
        path, ino = waiting.pop()
        for entry in overlay.readdir(ino):
            if entry.name in (b".", b".."):
                continue
            here = f"{path}/{os.fsdecode(entry.name)}"
            child = Ino(entry.attr.ino)
            if inos is not None:
                inos[here] = child
            mode = entry.attr.mode
            try:
                if stat.S_ISDIR(mode):
                    assert child not in directories, f"{here} is also {directories[child]}"
                    directories[child] = here
                    tree[here] = ("directory", b"")
                    waiting.append((here, child))
                elif stat.S_ISLNK(mode):
                    tree[here] = ("symlink", overlay.readlink(child))
                elif stat.S_ISREG(mode):
                    data = overlay.read(child, 0, min(entry.attr.size, _READ))
                    assert len(data) == min(entry.attr.size, _READ)
                    tree[here] = ("file", data)
                else:
                    tree[here] = ("other", b"")
            except OSError as error:
                tree[here] = ("unreadable", str(error.errno).encode())
    return tree


def _make_base(top: str) -> None:
    for name in ("", "a", "a/b", "x", "x/y", "x/y/z", "olddir", "olddir/in"):
        os.mkdir(os.path.join(top, name))
    files = {"plain": 100, "big": LARGE, "a/b/mid": 9000, "x/y/z/deep": 50, "olddir/in/f": 40, "oldfile": 60, "gone": 5}
    for name, size in {**files, "copied": 5000, "holed": LARGE}.items():
        with open(os.path.join(top, name), "wb") as file:
            file.write(text("base " + name, size))
    os.symlink("plain", os.path.join(top, "link"))


def _change(overlay: Overlay) -> None:
    def ino(path: str) -> Ino:
        at = ROOT
        for name in path.split("/"):
            attr = overlay.lookup(at, name.encode())
            assert attr is not None
            at = Ino(attr.ino)
        return at

    def make(path: str, size: int) -> None:
        holder, _, name = path.rpartition("/")
        attr = overlay.mknod(ino(holder) if holder else ROOT, name.encode(), stat.S_IFREG | 0o644, 0, CALLER)
        if size:
            overlay.write(Ino(attr.ino), 0, text(path, size))

    overlay.mkdir(ROOT, b"made", 0o755, CALLER)
    overlay.mkdir(ino("made"), b"sub", 0o755, CALLER)
    for path, size in {"empty": 0, "small": 300, "large": 50_000, "made/one": 700, "made/sub/two": 9_000}.items():
        make(path, size)
    make("spare", 40_000)
    overlay.symlink(ROOT, b"made-link", b"small", CALLER)
    overlay.link(ino("small"), ino("made"), b"hard")
    overlay.setxattr(ino("made/one"), b"user.colour", b"blue")
    overlay.write(ino("big"), 10_000, text("patch", 4096))
    make("made/late-gone", 30_000)
    make("made/held", 100)
    overlay.checkpoints.create("first", "of a few changes")
    late_gone = ino("made/late-gone")
    overlay.unlink(ino("made"), b"late-gone")
    overlay.forget([late_gone])
    overlay.unlink(ino("made"), b"held")  # an orphan of the second checkpoint
    overlay.write(ino("spare"), 20_000, text("spare again", 500))
    overlay.setxattr(ino("made/one"), b"user.colour", b"green")
    overlay.checkpoints.create("second")
    overlay.setxattr(ino("made/one"), b"user.colour", b"blue")
    overlay.write(ino("made/sub/two"), 0, text("again", 100))
    overlay.write(ino("big"), 200_000, text("patch two", 100))
    overlay.write(ino("copied"), 10, b"changed")
    overlay.write(ino("x/y/z/deep"), 0, b"changed")
    overlay.rename(ROOT, b"olddir", ino("made"), b"newdir", RenameFlags.NONE)
    overlay.rename(ROOT, b"oldfile", ROOT, b"newfile", RenameFlags.NONE)
    overlay.unlink(ROOT, b"gone")
    overlay.ranges.fallocate(ino("holed"), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8192, 40_000)
    overlay.write(ino("holed"), 100_000, bytes(5000))
