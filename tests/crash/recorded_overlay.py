"""A recorded overlay that is driven by paths, and what the explorer must know about it: its tree at every commit.

The tree at a commit is the overlay's own, read just before the rows are committed.  (That the live tree is right is the
model tests' business.)  For files that are overwritten in place, every content they had is kept with its place in the
record, as promise P1 allows old or new bytes, block by block, for what was not committed yet.

Time and identity are made reproducible, so that a workload makes the same record each time it runs.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple
from unittest.mock import patch

from minifo.engine import ROOT, Ino, Overlay, Process, SetAttr
from minifo.engine.checkpoint_values import Checkpoint
from minifo.engine.store.storage import Storage
from minifo.engine.tree.clock import Clock
from tests.crash.disk_model import State
from tests.crash.recorder import Op, Recorder

CALLER = Process(uid=1000, gid=1000, umask=0o022)


class Entry(NamedTuple):
    """One object of a tree: what stat, readlink and getxattr say, times of access aside, and its bytes."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    mtime: int
    ctime: int
    xattrs: tuple[tuple[bytes, bytes], ...]
    content: bytes  # of a regular file; the target of a symlink


Tree = dict[bytes, Entry]


def tree_of(overlay: Overlay) -> Tree:
    """Everything an overlay shows, by path."""
    tree: Tree = {}
    todo = [(b"", ROOT)]
    while todo:
        path, directory = todo.pop()
        for name, attr, _ in overlay.readdir(directory):
            if name in (b".", b".."):
                continue
            child = path + b"/" + name
            ino = Ino(attr.ino)
            content = b""
            if stat.S_ISREG(attr.mode):
                content = overlay.read(ino, 0, attr.size)
            elif stat.S_ISLNK(attr.mode):
                content = overlay.readlink(ino)
            elif stat.S_ISDIR(attr.mode):
                todo.append((child, ino))
            xattrs = tuple(sorted((key, overlay.getxattr(ino, key)) for key in overlay.listxattr(ino)))
            tree[child] = Entry(
                attr.ino,
                attr.mode,
                attr.nlink,
                attr.uid,
                attr.gid,
                attr.rdev,
                attr.size,
                attr.mtime,
                attr.ctime,
                xattrs,
                content,
            )
    return tree


class Seen(NamedTuple):
    """What an overlay shows of itself."""

    tree: Tree
    points: tuple[Checkpoint, ...] = ()


def seen(overlay: Overlay) -> Seen:
    """Look at an overlay."""
    return Seen(tree_of(overlay), tuple(overlay.checkpoints.all()))


@dataclass
class Recording:
    """A record, and what the states built from it are judged by."""

    base: str
    packed: bool
    image: State = field(default_factory=dict)  # what the disk holds at the start
    ops: list[Op] = field(default_factory=list)
    commits: list[Seen] = field(default_factory=list)  # by number; 0 is there at the start
    shown: dict[int, Tree] = field(default_factory=dict)  # what a checkpoint holds, by its time
    halves: set[int] = field(default_factory=set)  # commits in the middle of what is to be done at once
    versions: dict[int, list[tuple[int, bytes]]] = field(default_factory=dict)  # by inode: place in ops, content


class _InPlace(NamedTuple):
    """The content of a file as if the ranges zeroed before that commit were not: what may show until it is durable."""

    commit: int
    content: bytearray


@contextmanager
def reproducible() -> Iterator[None]:
    """Let clocks and identities be the same in each run."""
    ticks = iter(range(1_700_000_000_000_000_000, 1 << 62, 1_000_003))
    with (
        patch.object(time, "time_ns", lambda: next(ticks)),
        patch.object(Clock, "now", lambda _: next(ticks)),
        patch.object(uuid, "uuid4", lambda: uuid.UUID(int=7)),
    ):
        yield


def make_base(path: str) -> str:
    """A small base: a few small files and directories, a hard link, a file above the limit of whole copies."""
    os.makedirs(os.path.join(path, "dir/sub"))
    os.mkdir(os.path.join(path, "old"))
    contents = {
        "a": b"base a\n" * 300,
        "b": b"base b\n",
        "dir/c": b"base c\n" * 1000,
        "dir/sub/d": b"base d\n",
        "old/e": b"base e\n" * 10,
        "old/f": b"",
        "large": bytes(range(256)) * 600,
    }
    for name, content in contents.items():
        with open(os.path.join(path, name), "wb") as file:
            file.write(content)
    os.link(os.path.join(path, "b"), os.path.join(path, "dir/link"))
    os.symlink("../a", os.path.join(path, "dir/symlink"))
    for directory, _, files in os.walk(path):
        for name in files:
            os.utime(os.path.join(directory, name), ns=(10**18, 10**18), follow_symlinks=False)
    return path


class Killed(BaseException):
    """The daemon is killed here."""


class RecordedOverlay:
    """An overlay under a recorder.

    Args:
        scratch: an empty directory for storage.
        base: the base.
        image: what storage holds at the start, durably; nothing by default.
        start: what that image shows; the base's own tree by default.
        shown: what its checkpoints hold, by their times.
        packed: let storage be one whose files cannot have holes.
        wal_limit: pages of the write-ahead log above which it is checkpointed.
        small_max: bytes of a file that are kept in a row.
        redo: keep a redo log in memory: it outlives the daemon, but not the power.
    """

    def __init__(
        self,
        scratch: str,
        base: str,
        *,
        image: State | None = None,
        start: Seen | None = None,
        shown: dict[int, Tree] | None = None,
        packed: bool = False,
        wal_limit: int = 1000,
        small_max: int = 200,
        redo: bool = False,
    ) -> None:
        self._scratch = scratch
        self._redo = os.path.join(scratch, "redo") if redo else None
        if redo:
            os.mkdir(os.path.join(scratch, "redo"))
        self._packed = packed
        self._wal_limit = wal_limit
        self._small_max = small_max
        self.recorder = Recorder()
        self.recording = Recording(base, packed, dict(image or {}), self.recorder.ops)
        if start is None:
            bare = os.path.join(scratch, "bare")
            os.mkdir(bare)
            overlay = Overlay.open(base, bare)
            start = seen(overlay)
            overlay.close()
            shutil.rmtree(bare)
        self.recording.commits.append(start)
        self.recording.shown.update(shown or {})
        self._in_place: dict[Ino, _InPlace] = {}
        self.seals_left: int | None = None  # commits until the daemon is killed
        self.in_verb = False  # whether a verb is being done (recorded_checkpoints.py)
        self.storage = os.path.join(scratch, "storage")
        os.mkdir(self.storage)
        materialise(self.storage, image or {})
        self.overlay: Overlay

    # -- life cycle

    def open(self) -> None:
        """Mount."""
        self.overlay = Overlay.open(
            self.recording.base,
            self.storage,
            storage_io=self.recorder.storage,
            vfs=self.recorder.vfs,
            redo_directory=self._redo,
        )
        if self._packed:
            self.overlay.storage.has_holes = False
        commits = self.overlay.commits
        commits.wal_limit = self._wal_limit
        self.set_limits()
        seal, harden = commits.seal, commits.harden

        def recorded_seal() -> object:
            if self.seals_left is not None:
                self.seals_left -= 1
                if self.seals_left < 0:
                    raise Killed
            self._note_state()
            return seal()

        def recorded_harden() -> None:
            newest = len(self.recording.commits) - 1
            harden()
            self.recorder.note("acked", newest)
            self._in_place = {ino: image for ino, image in self._in_place.items() if image.commit > newest}

        commits.seal = recorded_seal  # type: ignore[assignment,method-assign]
        commits.harden = recorded_harden  # type: ignore[method-assign]
        # an fsync now would find nothing to do and answer at once
        self.recorder.note("acked", len(self.recording.commits) - 1)

    def set_limits(self) -> None:
        """Let small files be as small as they are here; parts that a rollback made anew do not know it."""
        self.overlay.content.copy_up.small_max = self._small_max

    def _note_state(self) -> None:
        """Note what a commit that comes now has."""
        self.recorder.note("seal", len(self.recording.commits))
        try:
            state = seen(self.overlay)
        except OSError:
            if not self.in_verb:
                raise
            state = Seen({})  # in the middle of a verb: half of it
        self.recording.commits.append(state)

    def note_acknowledged(self) -> None:
        """Note that what the overlay shows was acknowledged as durable, whether a commit was made or not."""
        if self.recording.commits[-1] != seen(self.overlay):
            self._note_state()
        self.recorder.note("acked", len(self.recording.commits) - 1)

    def open_and_kill(self) -> None:
        """Mount for the first time, and kill the daemon between the new database's rename and its sync."""

        with patch.object(Storage, "sync_dir", side_effect=Killed), suppress(Killed):
            Overlay.open(self.recording.base, self.storage, storage_io=self.recorder.storage, vfs=self.recorder.vfs)

    def close(self) -> None:
        """Unmount."""
        self.overlay.close()

    def kill(self) -> None:
        """Kill the daemon: what the page cache holds stays, what its memory held is gone.  Then mount again.

        With a redo log the next mount shows everything that was acknowledged, and that counts as one more commit.
        """
        if self._redo is not None:
            self._note_state()
        else:
            self._in_place.clear()
        left = os.path.join(self._scratch, "left")
        shutil.copytree(self.storage, left, ignore=shutil.ignore_patterns("*-shm", "lock"))
        with self.recorder.pause():
            self._let_go()  # what that writes is undone
        _restore(left, self.storage)
        shutil.rmtree(left)
        self.open()

    def _let_go(self) -> None:
        """End like a killed process; SQLite's locks are this very process's own, so the connection must be closed."""
        self.overlay.db.close()
        self.overlay.objects.close()
        self.overlay.storage.close()
        self.overlay.base.close()

    def end(self) -> Recording:
        """The power goes for good: give the record."""
        with self.recorder.pause():
            self.overlay.commits.close()
            self._let_go()
        self.recorder.close()
        return self.recording

    # -- by path

    def ino(self, path: str) -> Ino:
        """The inode number at a path."""
        ino = ROOT
        for name in filter(None, path.split("/")):
            attr = self.overlay.lookup(ino, os.fsencode(name))
            if attr is None:
                raise FileNotFoundError(errno.ENOENT, path)
            ino = Ino(attr.ino)
        return ino

    def _at(self, path: str) -> tuple[Ino, bytes]:
        directory, name = os.path.split(path)
        return self.ino(directory), os.fsencode(name)

    def exists(self, path: str) -> bool:
        """True if there is such a path."""
        try:
            self.ino(path)
        except FileNotFoundError:
            return False
        return True

    # -- operations

    def _op(self, text: str) -> int:
        self.recorder.note("op", text)
        return len(self.recorder.ops)

    def _content(self, ino: Ino) -> bytes:
        return self.overlay.read(ino, 0, self.overlay.getattr(ino).size)

    def _note_content(self, ino: Ino, at: int) -> None:
        content = self._content(ino)
        if ino in self._in_place:
            content = bytes(self._in_place[ino].content)
        self.recording.versions.setdefault(ino, []).append((at, content))

    def create(self, path: str, content: bytes = b"", mode: int = 0o644) -> Ino:
        """Make a file and write it."""
        self._op(f"create {path}")
        ino = Ino(self.overlay.mknod(*self._at(path), stat.S_IFREG | mode, 0, CALLER).ino)
        if content:
            self.write(ino, 0, content)
        return ino

    def unnamed(self, content: bytes) -> Ino:
        """Make a file without a name, and write it."""
        self._op("create a file without a name")
        ino = Ino(self.overlay.tmpfile(ROOT, 0o600, CALLER).ino)
        self.write(ino, 0, content)
        return ino

    def write(self, ino: Ino, offset: int, data: bytes) -> None:
        """Write to an open file."""
        at = self._op(f"write {ino} {offset}+{len(data)}")
        self.overlay.write(ino, offset, data)
        self._put(ino, offset, data)
        self._note_content(ino, at)

    def truncate(self, ino: Ino, size: int) -> None:
        """Set a file's size."""
        at = self._op(f"truncate {ino} {size}")
        self.overlay.setattr(ino, SetAttr(size=size))
        if ino in self._in_place:
            content = self._in_place[ino].content
            content[:] = content[:size].ljust(size, b"\0")
        self._note_content(ino, at)

    def _put(self, ino: Ino, offset: int, data: bytes) -> None:
        if ino in self._in_place:
            content = self._in_place[ino].content
            content.extend(bytes(max(0, offset - len(content))))
            content[offset : offset + len(data)] = data

    def fallocate(self, ino: Ino, mode: int, offset: int, size: int) -> None:
        """Punch, zero or reserve a range: bytes that were there must stay until that is durable."""
        at = self._op(f"fallocate {ino} {mode:#x} {offset}+{size}")
        before = bytearray(self._in_place[ino].content if ino in self._in_place else self._content(ino))
        self.overlay.ranges.fallocate(ino, mode, offset, size)
        before.extend(bytes(self.overlay.getattr(ino).size - len(before)))
        self._in_place[ino] = _InPlace(len(self.recording.commits), before)
        self._note_content(ino, at)

    def copy(self, source: Ino, offset: int, target: Ino, at: int, size: int) -> None:
        """Copy a range that has no holes."""
        op = self._op(f"copy {source} {offset}+{size} to {target} {at}")
        data = self.overlay.read(source, offset, size)
        assert self.overlay.ranges.copy(source, offset, target, at, size) == len(data)
        self._put(target, at, data)
        self._note_content(target, op)

    def setattr(self, ino: Ino, change: SetAttr) -> None:
        """Change attributes."""
        self._op(f"setattr {ino}")
        self.overlay.setattr(ino, change)

    def mkdir(self, path: str) -> None:
        """Make a directory."""
        self._op(f"mkdir {path}")
        self.overlay.mkdir(*self._at(path), 0o755, CALLER)

    def symlink(self, path: str, target: str) -> None:
        """Make a symlink."""
        self._op(f"symlink {path}")
        self.overlay.symlink(*self._at(path), os.fsencode(target), CALLER)

    def link(self, path: str, new: str) -> None:
        """Make a hard link."""
        self._op(f"link {path} {new}")
        self.overlay.link(self.ino(path), *self._at(new))

    def name(self, ino: Ino, new: str) -> None:
        """Give a file its first name."""
        self._op(f"link {ino} {new}")
        self.overlay.link(ino, *self._at(new))

    def unlink(self, path: str, *, keep: bool = False) -> Ino:
        """Remove a name; the kernel forgets the file at once, unless it is kept open."""
        self._op(f"unlink {path}")
        ino = self.ino(path)
        if keep:
            self.overlay.add_lookup(ino)
        self.overlay.unlink(*self._at(path))
        if not keep:
            self.forget(ino)
        return ino

    def forget(self, ino: Ino) -> None:
        """The kernel forgets an object."""
        self._op(f"forget {ino}")
        self.overlay.forget([ino])

    def rmdir(self, path: str) -> None:
        """Remove a directory."""
        self._op(f"rmdir {path}")
        ino = self.ino(path)
        self.overlay.rmdir(*self._at(path))
        self.overlay.forget([ino])

    def rename(self, path: str, new: str, flags: int = 0) -> None:
        """Rename; what stood at the new name is forgotten, as if nobody had it open."""
        self._op(f"rename {path} {new}")
        replaced = self.ino(new) if self.exists(new) and not flags else None
        self.overlay.rename(*self._at(path), *self._at(new), flags)
        if replaced is not None:
            self.overlay.forget([replaced])

    def replace(self, path: str, content: bytes) -> None:
        """Write a temporary file and rename it over *path*."""
        self.create(path + ".new", content)
        self.rename(path + ".new", path)

    def remove_tree(self, path: str) -> None:
        """Remove a directory and all in it."""
        directory = self.ino(path)
        for entry in list(self.overlay.readdir(directory)):
            name = os.fsdecode(entry.name)
            if name in (".", ".."):
                continue
            child = f"{path}/{name}"
            if stat.S_ISDIR(entry.attr.mode):
                self.remove_tree(child)
            else:
                self.unlink(child)
        self.rmdir(path)

    # -- commits

    def commit(self) -> None:
        """An fsync by somebody: durable when it returns."""
        self._op("commit")
        self.overlay.commits.run()

    def step_commit(
        self,
        *,
        before_seal: Callable[[], object] = lambda: None,
        before_harden: Callable[[], object] = lambda: None,
        before_finish: Callable[[], object] = lambda: None,
    ) -> None:
        """A commit as the front end makes it, with requests served between its steps."""
        commits = self.overlay.commits
        self._op("step commit")
        pending = commits.pending()
        commits.presync(pending)
        before_seal()
        sealed = commits.seal()
        newest = len(self.recording.commits) - 1
        before_harden()
        assert newest == len(self.recording.commits) - 1, "the front end makes one commit at a time"
        commits.harden()
        before_finish()
        commits.finish(sealed)


def _restore(source: str, target: str) -> None:
    """Make a directory hold what another does; files that are in both stay the same files."""
    for name in set(os.listdir(target)) - set(os.listdir(source)):
        os.unlink(os.path.join(target, name))
    for name in os.listdir(source):
        path = os.path.join(target, name)
        if os.path.isdir(os.path.join(source, name)):
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(os.path.join(source, name), path)
        else:
            shutil.copyfile(os.path.join(source, name), path)


def materialise(path: str, state: State) -> None:
    """Write a state into an empty directory."""
    for name, content in sorted(state.items()):
        if content is None:
            os.mkdir(os.path.join(path, name))
        else:
            with open(os.path.join(path, name), "wb") as file:
                file.write(content)
