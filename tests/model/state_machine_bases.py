"""Hypothesis rules for an overlay whose base is replaced, again and again, and the oracle that says what shows.

``Side`` is what the rules act on: the engine here, a real mount in tests/mount.  Every operation is done on both, the
outcome is compared, and after each step everything that shows.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol
from unittest import mock

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from minifo.engine import ROOT, Attr, Ino, Overlay, Process, SetAttr
from minifo.engine.fsck.session import FsckSession
from minifo.engine.recovery import BaseCheck
from minifo.engine.store.syscalls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE
from tests.model.base_change_oracle import NOW, Held, Oracle, Shown
from tests.model.base_versions import HOWS, WORDS, Changes, Tree, first_tree, put
from tests.model.state_machine import COUNTS
from tests.shared import file_trees

NAMES = (b"a", b"b", b"c", b"d")
PICK = st.integers(0, 60)
# of files: bytes, and -1 for one that is not copied whole
SIZES = st.sampled_from([0, 1, 100, 3000, -1, 12_000])
OFFSETS = st.sampled_from([0, 1, 50, 2999, 4096, -2, 10_000])
LENGTHS = st.sampled_from([1, 100, 4096, 9000])
CHANGE = st.tuples(st.sampled_from(WORDS), PICK, PICK)
BASES = st.lists(CHANGE, min_size=0, max_size=4)
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link", stat.S_IFIFO: "fifo"}
_SECOND = 10**9


class Fact(NamedTuple):
    """What one path shows."""

    mode: int
    uid: int
    gid: int
    links: int
    size: int
    mtime: int
    ino: int
    target: bytes
    xattrs: dict[bytes, bytes]


class Side(Protocol):
    """An overlay to act on, by path: ``b""`` is the root, others begin with a slash.

    Attributes:
        storage: its storage directory.
    """

    storage: Path

    def open(self, base: Path, *, whole: bool) -> None:
        """Mount."""

    def close(self, *, kill: bool) -> None:
        """Unmount, or end as a killed daemon does."""

    def facts(self) -> dict[bytes, Fact]:
        """Everything that shows, bytes aside."""

    def read(self, path: bytes, offset: int, size: int) -> bytes:
        """Bytes of a file."""

    def act(self, what: str, *arguments: Any) -> None:
        """Do one operation; OSError as the call of that name."""

    def origins(self) -> set[tuple[bytes, int]]:
        """Path (base terms) and number of what something is held of; empty will do where bases have no links."""

    def check(self) -> None:
        """Assert what must hold by itself."""


class Engine:
    """The engine as a side.

    Args:
        top: where storage and redo log go.
    """

    def __init__(self, top: Path) -> None:
        self.storage = top / "sto"
        self._redo = top / "redo"
        self.storage.mkdir()
        self._redo.mkdir()
        self._ov: Overlay | None = None
        self._me = Process(0, 0, 0)

    @property
    def ov(self) -> Overlay:
        """The open overlay."""
        assert self._ov is not None
        return self._ov

    def open(self, base: Path, *, whole: bool) -> None:
        self._ov = Overlay.open(
            str(base), str(self.storage), redo_directory=str(self._redo), base_check=BaseCheck.IGNORE
        )
        self._ov.content.copy_up.whole = whole

    def close(self, *, kill: bool) -> None:
        if self._ov is None:
            return
        ov, self._ov = self._ov, None
        if kill:
            ov.commits.failure = RuntimeError("killed")
            ov.db.read_only = True
        ov.close()

    def attr(self, path: bytes) -> Attr:
        """The attributes of a path, found by look-ups from the root."""
        attr: Attr | None = self.ov.getattr(ROOT)
        for name in path.split(b"/")[1:]:
            attr = self.ov.lookup(Ino(attr.ino), name) if attr is not None else None
        if attr is None:
            raise OSError(errno.ENOENT, "lookup")
        return attr

    def ino(self, path: bytes) -> Ino:
        """The number of a path."""
        return Ino(self.attr(path).ino)

    def place(self, path: bytes) -> tuple[Ino, bytes]:
        """The number of the directory of a path, and the name in it."""
        directory, _, name = path.rpartition(b"/")
        return self.ino(directory), name

    def facts(self) -> dict[bytes, Fact]:
        found = {b"": self._fact(self.ov.getattr(ROOT))}
        waiting = [(b"", ROOT)]
        while waiting:
            path, ino = waiting.pop()
            entries = list(self.ov.readdir(ino))
            assert [entry.name for entry in entries[:2]] == [b".", b".."]
            names = [entry.name for entry in entries[2:]]
            assert sorted(names) == sorted(set(names)), f"{path!r} lists a name twice"
            for entry in entries[2:]:
                here = path + b"/" + entry.name
                assert self.ov.lookup(ino, entry.name) == entry.attr, f"{here!r} is listed in another way"
                assert self.ov.getattr(Ino(entry.attr.ino)) == entry.attr, f"{here!r}"
                found[here] = self._fact(entry.attr)
                if stat.S_ISDIR(entry.attr.mode):
                    waiting.append((here, Ino(entry.attr.ino)))
            assert self.ov.merge.is_empty(self.ov.inodes.node(ino)) == (not names)
            free = next(name for name in (b"x", b"y", b"z", b"free") if name not in names)
            assert self.ov.lookup(ino, free) is None
        return found

    def _fact(self, attr: Attr) -> Fact:
        ino = Ino(attr.ino)
        target = self.ov.readlink(ino) if stat.S_ISLNK(attr.mode) else b""
        xattrs = {name: self.ov.getxattr(ino, name) for name in self.ov.listxattr(ino)}
        return Fact(attr.mode, attr.uid, attr.gid, attr.nlink, attr.size, attr.mtime, attr.ino, target, xattrs)

    def read(self, path: bytes, offset: int, size: int) -> bytes:
        return self.ov.read(self.ino(path), offset, size)

    def act(self, what: str, *arguments: Any) -> None:
        getattr(self, what)(*arguments)

    def create(self, path: bytes) -> None:
        self.ov.mknod(*self.place(path), stat.S_IFREG | 0o644, 0, self._me)

    def mkfifo(self, path: bytes) -> None:
        self.ov.mknod(*self.place(path), stat.S_IFIFO | 0o644, 0, self._me)

    def mkdir(self, path: bytes) -> None:
        self.ov.mkdir(*self.place(path), 0o755, self._me)

    def symlink(self, path: bytes) -> None:
        self.ov.symlink(*self.place(path), b"a", self._me)

    def link(self, path: bytes, new: bytes) -> None:
        self.ov.link(self.ino(path), *self.place(new))

    def unlink(self, path: bytes, keep: bool = False) -> None:
        ino = self.ino(path)
        self.ov.unlink(*self.place(path))
        if not keep and self.ov.getattr(ino).nlink == 0:
            self.ov.forget([ino])

    def rmdir(self, path: bytes, keep: bool = False) -> None:
        ino = self.ino(path)
        self.ov.rmdir(*self.place(path))
        if not keep:
            self.ov.forget([ino])

    def rename(self, path: bytes, new: bytes, exchange: bool) -> None:
        attr = self.ov.lookup(*self.place(new))
        self.ov.rename(*self.place(path), *self.place(new), 2 if exchange else 0)
        if attr is not None and self.ov.getattr(Ino(attr.ino)).nlink == 0:
            self.ov.forget([Ino(attr.ino)])

    def write(self, path: bytes, offset: int, data: bytes) -> None:
        self.ov.write(self.ino(path), offset, data)

    def truncate(self, path: bytes, size: int) -> None:
        self.ov.setattr(self.ino(path), SetAttr(size=size))

    def punch(self, path: bytes, offset: int, size: int) -> None:
        self.ov.ranges.fallocate(self.ino(path), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, size)

    def chmod(self, path: bytes, mode: int) -> None:
        self.ov.setattr(self.ino(path), SetAttr(mode=mode))

    def chown(self, path: bytes, uid: int) -> None:
        self.ov.setattr(self.ino(path), SetAttr(uid=uid))

    def utimens(self, path: bytes, mtime: int) -> None:
        self.ov.setattr(self.ino(path), SetAttr(mtime=mtime, atime=mtime))

    def setxattr(self, path: bytes, name: bytes, value: bytes) -> None:
        self.ov.setxattr(self.ino(path), name, value)

    def forget_all(self) -> None:
        """What memory pressure does."""
        found = sorted(((path, fact.ino) for path, fact in self.facts().items() if path), reverse=True)
        self.ov.forget(Ino(ino) for _, ino in found)

    def commit(self) -> None:
        """Make all durable."""
        self.ov.commit()

    def origins(self) -> set[tuple[bytes, int]]:
        return set(self.ov.db.rows("SELECT path, ino FROM origin"))

    def check(self) -> None:
        assert not (found := self.ov.check()), found


class Bases(RuleBasedStateMachine):
    """Operations over a base that is replaced between any two of them."""

    side: ClassVar[Callable[[Path], Side]] = staticmethod(Engine)
    second_device: ClassVar[Path | None] = None  # a file system of its own, for bases on another device
    copied: ClassVar[int] = 8192  # bytes up to which the engine copies files whole: few, to be quick
    page: ClassVar[int] = 1  # bytes that are read at once
    links: ClassVar[bool] = True  # whether bases have hard links

    def __init__(self) -> None:
        super().__init__()
        self.top = file_trees.scratch()
        self.log: list[str] = []
        self.steps = 0
        self.writes = 0
        self.large = self.copied + 1000
        self.changes = Changes(NAMES, self.large, links=self.links)
        self._patch = mock.patch("minifo.engine.tree.copy_up._COPY_WHOLE", self.copied)

    @initialize(whole=st.booleans())
    def start(self, whole: bool) -> None:
        COUNTS[type(self).__name__ + " examples"] += 1
        self._patch.start()
        self.whole = whole
        self.born = time.time_ns() - _SECOND
        self.tree = first_tree(self.large, links=self.links)
        self.earlier: list[Tree] = [self.tree]
        self.base = self.top / "base"
        put(self.tree, self.base)
        self.fingerprint = file_trees.fingerprint(self.base, atimes=False)
        self.oracle = Oracle(self.tree, whole=whole, copied=self.copied, choose=self.known_by)
        self.overlay = type(self).side(self.top)
        self.overlay.open(self.base, whole=whole)
        self.compare()

    def teardown(self) -> None:
        try:
            if hasattr(self, "overlay"):
                self.overlay.close(kill=False)
                self.examine()
        finally:
            self._patch.stop()
            file_trees.remove_tree(self.top)
            if self.second_device is not None:
                shutil.rmtree(self.second_device / "base", ignore_errors=True)

    # -- comparing

    def told(self, message: str) -> str:
        """A message with everything that led to it."""
        return "\n".join(["", *self.log, message])

    def compare(self) -> None:
        """Compare everything that shows."""
        self.steps += 1
        COUNTS[type(self).__name__ + " steps"] += 1
        try:
            self.overlay.check()
            facts = self.overlay.facts()
            self._compare(facts)
        except (AssertionError, OSError) as error:
            raise AssertionError(self.told(f"{type(error).__name__}: {error}")) from error

    def _compare(self, facts: dict[bytes, Fact]) -> None:
        view = self.oracle.view()
        assert sorted(facts) == sorted(view), f"shows {sorted(facts)}, should show {sorted(view)}"
        inos: dict[int, int] = {}
        for path, shown in sorted(view.items()):
            fact = facts[path]
            self._compare_one(path, shown, fact)
            assert inos.setdefault(shown.identity, fact.ino) == fact.ino, f"{path!r} is another object"
        assert len(set(inos.values())) == len(inos), f"objects are taken for one: {inos}"

    def _compare_one(self, path: bytes, shown: Shown, fact: Fact) -> None:
        kind = _KINDS[stat.S_IFMT(fact.mode)]
        assert kind == shown.kind, f"{path!r} is a {kind}, should be a {shown.kind}"
        if shown.owner is not None:
            owner = (fact.mode, fact.uid, fact.gid)
            assert owner == shown.owner, f"{path!r}: {owner}, should be {shown.owner}"
        if shown.mtime is not None:
            is_now = shown.mtime == NOW and fact.mtime >= self.born
            assert is_now or fact.mtime == shown.mtime, f"{path!r}: mtime {fact.mtime}, should be {shown.mtime}"
        assert fact.xattrs == shown.xattrs, f"{path!r}: {fact.xattrs}, should be {shown.xattrs}"
        assert fact.links >= shown.least_links, f"{path!r}: {fact.links} links, not {shown.least_links}"
        if shown.links is not None:
            assert fact.links == shown.links, f"{path!r}: {fact.links} links, should be {shown.links}"
        if kind == "link":
            assert fact.target == shown.data, f"{path!r} -> {fact.target!r}, should be {shown.data!r}"
        elif kind == "file":
            assert fact.size == len(shown.data), f"{path!r}: {fact.size} bytes, should be {len(shown.data)}"
            self._compare_bytes(path, shown)

    def _compare_bytes(self, path: bytes, shown: Shown) -> None:
        """Each byte is ours or of the one version, or cannot be read where that is not here."""
        for start, end, must in shown.runs:
            if must and self.page > 1:
                first, last = start // self.page * self.page, -(-end // self.page) * self.page
                must = all(ours for begin, stop, ours in shown.runs if begin < last and stop > first)
            at = start
            try:
                while at < end:  # the kernel answers with what it has before bytes that cannot be read
                    data = self.overlay.read(path, at, end - at)
                    assert data, f"{path!r}: ends at {at}"
                    assert data == shown.data[at : at + len(data)], f"{path!r}: {at}-{end} differ: {data[:30]!r}"
                    at += len(data)
            except OSError as error:
                if error.errno != errno.EIO or must or self.whole:
                    raise

    def examine(self) -> None:
        """What minifo-fsck says of the unmounted overlay: notes at most."""
        with FsckSession(str(self.overlay.storage), str(self.base), write=False) as examination:
            found = [finding for finding in examination.check(full=True) if not finding.is_note]
        assert not found, self.told(f"fsck: {found}")

    # -- operations

    def objects(self) -> dict[bytes, Held]:
        return self.oracle.objects()

    def pick(self, pick: int, kinds: str = "file dir link fifo") -> bytes | None:
        """A path that shows, by index."""
        found = sorted(path for path, h in self.objects().items() if path and h.kind in kinds.split())
        return found[pick % len(found)] if found else None

    def spot(self, pick: int, pick2: int) -> bytes:
        """A path that may be free or not."""
        directories = sorted(path for path, h in self.objects().items() if h.kind == "dir")
        return directories[pick % len(directories)] + b"/" + NAMES[pick2 % len(NAMES)]

    def both(self, model: Callable[[], None], what: str, *arguments: Any) -> None:
        """Do one operation on both, and compare the outcome and all that shows."""
        shown = ", ".join(repr(a) if len(repr(a)) < 50 else f"{len(a)} bytes" for a in arguments)
        self.log.append(f"{what}({shown})")
        self.origins = self.overlay.origins()
        found = self._code(lambda: self.overlay.act(what, *arguments))
        self.log[-1] += f" -> {found or 'ok'}"
        expected = self._code(model)
        assert found == expected, self.told(f"{what}: {found}, should be {expected}")
        self.compare()

    def known_by(self, paths: set[bytes]) -> bytes:
        """Of the names of a base file, the one that the overlay knows it by."""
        new = {path for path, _ in self.overlay.origins() - self.origins}
        return min(paths & new or paths)

    def _code(self, act: Callable[[], None]) -> str | None:
        try:
            act()
        except OSError as error:
            return file_trees.code_of(error)
        return None

    def may_write(self, path: bytes) -> bool:
        """True where any bytes of a file can be written: kernels read the rest of a page first."""
        h = self.oracle.find(path)
        return self.page == 1 or h.bytes is None or self.oracle.is_readable(h)

    def parts(self, path: bytes) -> tuple[Held, bytes]:
        """The oracle's directory of a path, and the name."""
        directory, _, name = path.rpartition(b"/")
        return self.oracle.find(directory), name

    @rule(pick=PICK, pick2=PICK, kind=st.sampled_from(["create", "create", "mkdir", "mkdir", "symlink", "mkfifo"]))
    def make(self, pick: int, pick2: int, kind: str) -> None:
        path = self.spot(pick, pick2)
        words = {"create": "file", "mkdir": "dir", "symlink": "link", "mkfifo": "fifo"}
        mode = {"create": 0o100644, "mkdir": 0o40755, "symlink": 0o120777, "mkfifo": 0o10644}[kind]
        new = Held(words[kind], None, (mode, 0, 0), NOW, {}, target=b"a" if kind == "symlink" else b"")
        if kind == "create":
            new.bytes = self.oracle.no_bytes()
        self.both(lambda: self.oracle.make(*self.parts(path), new), kind, path)

    @rule(pick=PICK, offset=OFFSETS, size=LENGTHS)
    def write(self, pick: int, offset: int, size: int) -> None:
        path = self.pick(pick, "file")
        if path is not None and self.may_write(path):
            offset = self.large + 1 + offset if offset < 0 else offset
            self.writes += 1
            data = (b"[write %d]" % self.writes * (size // 9 + 1))[:size]
            self.both(lambda: self.oracle.write(self.oracle.find(path), offset, data), "write", path, offset, data)

    @rule(pick=PICK)
    def rewrite(self, pick: int) -> None:
        """What shells do for ``>``."""
        path = self.pick(pick, "file")
        if path is not None:
            self.writes += 1
            data = b"[rewrite %d]" % self.writes
            self.both(lambda: self.oracle.truncate(self.oracle.find(path), 0), "truncate", path, 0)
            self.both(lambda: self.oracle.write(self.oracle.find(path), 0, data), "write", path, 0, data)

    @rule(pick=PICK, size=SIZES)
    def truncate(self, pick: int, size: int) -> None:
        path = self.pick(pick, "file")
        if path is not None:
            size = self.large if size < 0 else size
            self.both(lambda: self.oracle.truncate(self.oracle.find(path), size), "truncate", path, size)

    @rule(pick=PICK, offset=OFFSETS, size=LENGTHS)
    def punch(self, pick: int, offset: int, size: int) -> None:
        path = self.pick(pick, "file")
        if path is not None:
            offset = self.large + 1 + offset if offset < 0 else offset
            self.both(lambda: self.oracle.punch(self.oracle.find(path), offset, size), "punch", path, offset, size)

    @rule(pick=PICK, what=st.sampled_from(["chmod", "chown", "utimens", "setxattr"]), value=st.integers(1, 7))
    def attributes(self, pick: int, what: str, value: int) -> None:
        path = self.pick(pick, "file file dir" if what in ("chmod", "setxattr") else "file dir link fifo")
        if path is None or self.oracle.owner(self.oracle.find(path)) is None:
            return  # a directory that is gone has a mode, but the rules do not say which
        values = {
            "chmod": (0o600 + value,),
            "chown": (value,),
            "utimens": (value * 10**15,),
            "setxattr": (b"user.m", b"%d" % value),
        }[what]
        self.both(lambda: getattr(self.oracle, what)(self.oracle.find(path), *values), what, path, *values)

    @rule(pick=PICK, to=PICK, to2=PICK, exchange=st.booleans())
    def rename(self, pick: int, to: int, to2: int, exchange: bool) -> None:
        path = self.pick(pick)
        if path is None:
            return
        new = self.spot(to, to2)
        self.both(
            lambda: self.oracle.rename(*self.parts(path), *self.parts(new), exchange=exchange),
            "rename",
            path,
            new,
            exchange,
        )

    @rule(pick=PICK, to=PICK, to2=PICK)
    def link(self, pick: int, to: int, to2: int) -> None:
        path = self.pick(pick, "file link fifo")
        if path is not None:
            new = self.spot(to, to2)
            self.both(lambda: self.oracle.link(self.oracle.find(path), *self.parts(new)), "link", path, new)

    @rule(pick=PICK, keep=st.booleans())
    def unlink(self, pick: int, keep: bool) -> None:
        path = self.pick(pick, "file link fifo")
        if path is not None:
            self.both(lambda: self.oracle.unlink(*self.parts(path)), "unlink", path, keep)

    @rule(pick=PICK, keep=st.booleans())
    def rmdir(self, pick: int, keep: bool) -> None:
        path = self.pick(pick, "dir")
        if path is not None:
            self.both(lambda: self.oracle.rmdir(*self.parts(path)), "rmdir", path, keep)

    @rule(pick=PICK, keep=st.booleans())
    def remove_all(self, pick: int, keep: bool) -> None:
        """``rm -r``."""
        top = self.pick(pick, "dir")
        if top is None:
            return
        for path, h in sorted(self.objects().items(), reverse=True):
            if path == top or path.startswith(top + b"/"):
                what = "rmdir" if h.kind == "dir" else "unlink"
                act = {"rmdir": self.oracle.rmdir, "unlink": self.oracle.unlink}[what]
                self.both(lambda act=act, path=path: act(*self.parts(path)), what, path, keep)  # type: ignore[misc]

    # -- mounts and bases

    def derived(self, changes: list[tuple[str, int, int]], earlier: int | None) -> Tree:
        """A new version: of the present one, or of an earlier one."""
        tree = self.tree if earlier is None else self.earlier[earlier % len(self.earlier)]
        for change in changes:
            tree = self.changes.apply(tree, *change, self.oracle.places())
        return tree

    def swap(self, tree: Tree, how: str, seed: int, *, kill: bool = False) -> None:
        """Unmount, put another base in the place of the present one, and mount."""
        self.log.append(f"{'kill' if kill else 'close'}; base ({how}): {_told(self.tree, tree)}")
        self.overlay.close(kill=kill)
        assert file_trees.fingerprint(self.base, atimes=False) == self.fingerprint, self.told("the base was changed")
        if not kill:
            self.examine()
        self.tree = tree
        if tree not in self.earlier:
            self.earlier.append(tree)
        if how in ("new", "device"):
            home = self.second_device or self.top
            home = home if how == "device" and home not in self.base.parents else self.top
            shutil.rmtree(self.base)
            self.base = home / "base"
        put(tree, self.base, shuffle=random.Random(seed) if how == "shuffled" else None)
        self.fingerprint = file_trees.fingerprint(self.base, atimes=False)
        if not kill:
            self.examine()
        self.overlay.open(self.base, whole=self.whole)
        self.oracle.replace(tree)
        self.compare()

    @rule(
        changes=BASES,
        earlier=st.one_of(st.none(), st.none(), st.integers(0, 9)),
        how=st.sampled_from(HOWS),
        seed=st.integers(0, 9),
        kill=st.sampled_from([False, False, True]),
    )
    def replace_base(
        self, changes: list[tuple[str, int, int]], earlier: int | None, how: str, seed: int, kill: bool
    ) -> None:
        self.swap(self.derived(changes, earlier), how, seed, kill=kill)

    @rule(
        changes=BASES,
        how=st.sampled_from(HOWS),
        back=st.sampled_from(HOWS),
        seed=st.integers(0, 9),
    )
    def there_and_back(self, changes: list[tuple[str, int, int]], how: str, back: str, seed: int) -> None:
        """Another base, and this one again: exactly the same tree shows."""
        tree, before = self.tree, self.overlay.facts()
        self.swap(self.derived(changes, None), how, seed)
        self.swap(tree, back, seed)
        after = self.overlay.facts()
        for path, fact in before.items():
            # a new directory has times of its own
            assert after[path]._replace(ino=0) == fact._replace(ino=0), self.told(f"{path!r} is not as it was")

    @rule(kill=st.booleans())
    def restart(self, kill: bool) -> None:
        """The same base again: numbers stay, but for what this base lacks, whose number another object may need."""
        before = self.overlay.facts()
        self.log.append("kill" if kill else "reopen")
        self.overlay.close(kill=kill)
        if not kill:
            self.examine()
        self.overlay.open(self.base, whole=self.whole)
        after = self.overlay.facts()
        for path, fact in before.items():
            now = after.get(path)
            if now is not None and self.oracle.is_gone(self.oracle.find(path)):
                now = now._replace(ino=fact.ino)
            assert now == fact, self.told(f"{path!r} is not as it was: {fact} {now}")
        self.compare()

    @rule(what=st.sampled_from(["commit", "forget_all"]))
    def pause(self, what: str) -> None:
        self.log.append(what)
        self.overlay.act(what)
        self.compare()


def _told(old: Tree, new: Tree) -> str:
    """How two trees differ, for a message."""
    lines = []
    for path in sorted(old.keys() | new.keys()):
        a, b = old.get(path), new.get(path)
        if a is not b:
            links = [os.fsdecode(p) for p, thing in new.items() if thing is b and p != path]
            now = f"{b.kind} {len(b.data)} bytes mtime {b.mtime % 10**6} {links or ''}" if b is not None else "gone"
            lines.append(f"{os.fsdecode(path)}: {now}")
    return "; ".join(lines) or "the same"
