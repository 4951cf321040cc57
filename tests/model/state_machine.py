"""Hypothesis rules for the engine and a plain directory: names, content, attributes, and the life of a mount.

Each group of rules is a class of its own, so that test modules can put machines together.  Objects are picked by index
from what the plain tree holds at that moment, so every drawn step can be done and shrinking keeps working.
"""

from __future__ import annotations

import atexit
import functools
import os
import stat
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from minifo.engine import Ino
from tests.model.compared_trees import ComparedTrees, DenseStorage, Handle, caller
from tests.shared import file_trees

COUNTS: Counter[str] = Counter()  # examples and steps that ran, by machine

PICK = st.integers(0, 60)
SPOT = st.tuples(PICK, PICK)
MODES = st.sampled_from([0o644, 0o600, 0o777, 0o000, 0o2755, 0o4711, 0o6755, 0o1777, 0o2644])
UMASKS = st.sampled_from([0, 0o022, 0o077])
TIMES = st.sampled_from([None, 0, 1, 999_999_999, 1_600_000_000_000_000_001, 4_000_000_000_123_456_789])
SIZES = st.sampled_from([0, 1, 100, 2047, 2048, 2049, 4095, 4096, 4097, 8192, 70_000, 131_072, 131_073, 200_000])
OFFSETS = st.one_of(SIZES, st.integers(0, 280_000))
LENGTHS = st.sampled_from([0, 1, 7, 512, 4096, 5000, 20_000, 140_000])
_PLAIN_XATTRS = ["user.a", "user.b", "user.empty", "user.colour", "trusted.link"]
_PLAIN_XATTRS += ["user." + "x" * 250, "user." + "x" * 251]  # the longest, and one that is too long
_ACL_VALUES = {
    "minimal": file_trees.MINIMAL_ACL,
    "named": file_trees.NAMED_ACL,
    "masked": file_trees.MASKED_ACL,
    "empty": file_trees.EMPTY_ACL,
    "unmasked": file_trees.UNMASKED_ACL,
    "old": file_trees.OLD_ACL,
    "garbage": b"\2\0\0\0abc",
}
_XATTR_CREATE, _XATTR_REPLACE = 1, 2


@functools.cache
def trees(build: Callable[[Path], Path]) -> tuple[Path, Path, dict[bytes, tuple[object, ...]]]:
    """A base, a tree like it to copy from, and the base's fingerprint; made once for all examples."""
    top = file_trees.scratch()
    atexit.register(file_trees.remove_tree, top)
    base, origin = build(top / "base"), build(top / "origin")
    return base, origin, file_trees.fingerprint(base)


class Machine(RuleBasedStateMachine):
    """What all machines share: making both trees, picking objects, and comparing."""

    build: ClassVar[Callable[[Path], Path]] = staticmethod(file_trees.build_base)
    pool: ClassVar[tuple[bytes, ...]] = (b"a", b"b", b"f", b"x", *file_trees.HOSTILE[:4], b"z" * 256)
    full_every: ClassVar[int] = 10  # steps between two comparisons of everything

    def __init__(self) -> None:
        super().__init__()
        self.t: ComparedTrees
        self.steps = 0
        self.writes = 0
        self.last: bytes | Handle | None = None
        self._paths: list[bytes] | None = None

    @initialize(clone=st.booleans(), dense=st.booleans())
    def start(self, clone: bool, dense: bool) -> None:
        base, origin, self.before = trees(type(self).build)
        self.t = ComparedTrees(base, origin, **self.options(clone, dense))
        COUNTS[type(self).__name__ + " examples"] += 1

    @staticmethod
    def options(clone: bool, dense: bool) -> dict[str, Any]:
        return {"clone": clone, **({"storage_io": DenseStorage} if dense else {})}

    @invariant()
    def alike(self) -> None:
        self.steps += 1
        self._paths = None
        COUNTS[type(self).__name__ + " steps"] += 1
        if self.steps % self.full_every == 0:
            self.t.compare_all()
        else:
            self.t.check()

    def teardown(self) -> None:
        if not hasattr(self, "t"):
            return
        try:
            if sys.exc_info()[0] is None:
                self.t.compare_all()
                self.t.reopen()
                self.t.compare_all()
                assert file_trees.fingerprint(self.t.base) == self.before, "the base was changed"
        finally:
            self.t.remove()

    # -- picking

    def paths(self) -> list[bytes]:
        """Every path but the root."""
        if self._paths is None:
            self._paths = self.t.paths()
        return self._paths

    def mode(self, path: bytes) -> int:
        return os.lstat(self.t.root + path).st_mode

    def directory(self, pick: int) -> bytes | Handle:
        """A directory by path, a handle of one, or (seldom) what is none."""
        found: list[bytes | Handle] = [b"", *(path for path in self.paths() if stat.S_ISDIR(self.mode(path)))]
        found += [handle for handle in self.t.handles if handle.is_dir]
        found += [path for path in self.paths() if stat.S_ISREG(self.mode(path))][:1]
        return found[pick % len(found)]

    def spot(self, spot: tuple[int, int]) -> tuple[bytes | Handle, bytes]:
        """A directory and a name in it, which may exist or not."""
        where = self.directory(spot[0])
        names: list[bytes] = list(self.pool)
        path = where.magic if isinstance(where, Handle) else self.t.root + where
        if stat.S_ISDIR(os.stat(path).st_mode):
            names += sorted(file_trees.list_names(path))
        return where, names[spot[1] % len(names)]

    def object(self, pick: int) -> bytes:
        """Any object by path, the root included."""
        found = [b"", *self.paths()]
        return found[pick % len(found)]

    def file(self, pick: int) -> bytes | Handle | None:
        """A regular file, by path or handle: half the time the one of last time, if its name still leads to a file."""
        last = self.last
        if pick % 2 and isinstance(last, bytes) and last in self.paths() and stat.S_ISREG(self.mode(last)):
            return last
        found: list[bytes | Handle] = [handle for handle in self.t.handles if handle.is_file]
        found += [path for path in self.paths() if stat.S_ISREG(self.mode(path))]
        self.last = found[pick // 2 % len(found)] if found else None
        return self.last

    def ino(self, target: bytes | Handle) -> Ino:
        return target.ino if isinstance(target, Handle) else self.t.ino(target)

    def full(self, target: bytes | Handle) -> bytes:
        return target.magic if isinstance(target, Handle) else self.t.root + target

    def see(self, target: bytes | Handle, *, content: bool = False) -> None:
        """Compare one object."""
        if isinstance(target, Handle):
            self.t.compare_handle(target)
        else:
            self.t.compare(target, content=content)

    def see_directory(self, where: bytes | Handle) -> None:
        """Compare a directory that an operation was tried in."""
        if isinstance(where, Handle):
            self.t.compare_handle(where)
        elif stat.S_ISDIR(self.mode(where)):
            self.t.compare(where)
            self.t.compare_listing(where)

    def __str__(self) -> str:
        return f"{type(self).__name__} after {self.steps} steps"


def _show(where: bytes | Handle, name: bytes) -> str:
    name = name if len(name) < 100 else name[:1] + b"*%d" % len(name)
    return f"handle({where.path!r})/{name!r}" if isinstance(where, Handle) else repr(where + b"/" + name)


class NameRules(Machine):
    """mknod, mkdir, symlink, link, unlink, rmdir, rename, there and back again."""

    @rule(
        spot=SPOT,
        kind=st.sampled_from([stat.S_IFREG] * 4 + [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK]),
        mode=MODES,
        umask=UMASKS,
    )
    def mknod(self, spot: tuple[int, int], kind: int, mode: int, umask: int) -> None:
        where, name = self.spot(spot)
        rdev = os.makedev(5, 300) if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
        with self.t.place(where) as (ino, fd):
            self.made(
                f"mknod {_show(where, name)} {kind | mode:o} umask {umask:o}",
                where,
                name,
                lambda: self.t.ov.mknod(ino(), name, kind | mode, rdev, caller(umask)),
                lambda: self.masked(umask, lambda: os.mknod(name, kind | mode, rdev, dir_fd=fd)),
            )

    @rule(spot=SPOT, mode=MODES, umask=UMASKS)
    def mkdir(self, spot: tuple[int, int], mode: int, umask: int) -> None:
        where, name = self.spot(spot)
        mode &= 0o1777  # mkdir(2) passes no set-id bits on
        with self.t.place(where) as (ino, fd):
            self.made(
                f"mkdir {_show(where, name)} {mode:o} umask {umask:o}",
                where,
                name,
                lambda: self.t.ov.mkdir(ino(), name, mode, caller(umask)),
                lambda: self.masked(umask, lambda: os.mkdir(name, mode, dir_fd=fd)),
            )

    @rule(spot=SPOT, to=st.sampled_from([b"a", b"../x\xff\n", b"t" * 4095, b"t" * 4096, b""]))
    def symlink(self, spot: tuple[int, int], to: bytes) -> None:
        where, name = self.spot(spot)
        if not stat.S_ISDIR(os.stat(self.full(where)).st_mode):
            to = b"a"  # the kernel judges targets before it looks at the directory
        with self.t.place(where) as (ino, fd):
            self.made(
                f"symlink {_show(where, name)} -> {to[:20]!r}",
                where,
                name,
                lambda: self.t.ov.symlink(ino(), name, to, caller()),
                lambda: os.symlink(to, name, dir_fd=fd),
            )

    @staticmethod
    def masked(umask: int, action: Callable[[], None]) -> None:
        old = os.umask(umask)
        try:
            action()
        finally:
            os.umask(old)

    def made(
        self,
        what: str,
        where: bytes | Handle,
        name: bytes,
        engine: Callable[[], Any],
        plain: Callable[[], Any],
    ) -> None:
        outcome = self.t.both(what, engine, plain)
        if outcome is not None and isinstance(where, bytes):
            ino = self.t.ino(where + b"/" + name)
            assert outcome[0] == self.t.ov.getattr(ino)
            self.t.compare(where + b"/" + name)
        self.see_directory(where)

    @rule(pick=PICK, spot=SPOT)
    def link(self, pick: int, spot: tuple[int, int]) -> None:
        source = self.object(pick)
        where, name = self.spot(spot)
        with self.t.place(where) as (ino, fd):
            self.made(
                f"link {source!r} {_show(where, name)}",
                where,
                name,
                lambda: self.t.ov.link(self.t.ino(source), ino(), name),
                lambda: os.link(self.t.root + source, name, dst_dir_fd=fd, follow_symlinks=False),
            )
        self.see(source)

    @rule(pick=PICK, spot=SPOT)
    def link_handle(self, pick: int, spot: tuple[int, int]) -> None:
        handles = [handle for handle in self.t.handles if handle.is_file]
        if not handles:
            self.link(pick, spot)
            return
        handle = handles[pick % len(handles)]
        where, name = self.spot(spot)
        with self.t.place(where) as (ino, fd):
            self.made(
                f"link handle({handle.path!r}) {_show(where, name)}",
                where,
                name,
                lambda: self.t.ov.link(handle.ino, ino(), name),
                lambda: os.link(handle.magic, name, dst_dir_fd=fd, follow_symlinks=True),
            )
        self.see(handle)

    @rule(spot=SPOT)
    def unlink(self, spot: tuple[int, int]) -> None:
        where, name = self.spot(spot)
        with self.t.place(where) as (ino, fd):
            self.t.both(
                f"unlink {_show(where, name)}",
                lambda: self.t.ov.unlink(ino(), name),
                lambda: os.unlink(name, dir_fd=fd),
            )
        self.see_directory(where)

    @rule(spot=SPOT)
    def rmdir(self, spot: tuple[int, int]) -> None:
        where, name = self.spot(spot)
        with self.t.place(where) as (ino, fd):
            self.t.both(
                f"rmdir {_show(where, name)}",
                lambda: self.t.ov.rmdir(ino(), name),
                lambda: os.rmdir(name, dir_fd=fd),
            )
        self.see_directory(where)

    @rule(pick=PICK)
    def remove_all(self, pick: int) -> None:
        """``rm -r``, so that empty directories, and opaque ones later, come about."""
        top = self.object(pick)
        if not top or not stat.S_ISDIR(self.mode(top)):
            return
        for path in [top[:0] + path for path in reversed(self.paths()) if path.startswith(top + b"/")] + [top]:
            parent, _, name = path.rpartition(b"/")
            is_dir = stat.S_ISDIR(self.mode(path))
            with self.t.place(parent) as (ino, fd):
                remove = (self.t.ov.rmdir, os.rmdir) if is_dir else (self.t.ov.unlink, os.unlink)
                done = self.t.both(
                    f"remove {path!r}",
                    functools.partial(lambda act, ino, name: act(ino(), name), remove[0], ino, name),
                    functools.partial(remove[1], name, dir_fd=fd),
                )
                assert done is not None
        self.see_directory(top.rpartition(b"/")[0])

    @rule(source=SPOT, to=SPOT, flags=st.sampled_from([0, 0, 0, 1, 2, 2]))
    def rename(self, source: tuple[int, int], to: tuple[int, int], flags: int) -> None:
        where, name = self.spot(source)
        new_where, new_name = self.spot(to)
        self.do_rename(where, name, new_where, new_name, flags)

    def do_rename(self, where: bytes | Handle, name: bytes, to: bytes | Handle, new: bytes, flags: int = 0) -> None:
        with self.t.place(where) as (ino, fd), self.t.place(to) as (new_ino, new_fd):
            self.t.both(
                f"rename {_show(where, name)} {_show(to, new)} flags {flags}",
                lambda: self.t.ov.rename(ino(), name, new_ino(), new, flags),
                lambda: file_trees.renameat2(fd, name, new_fd, new, flags),
            )
        for place in {where, to}:
            if isinstance(place, Handle) or os.path.lexists(self.t.root + place):
                self.see_directory(place)
        if isinstance(to, bytes) and os.path.lexists(self.t.root + to + b"/" + new):
            self.t.compare(to + b"/" + new)

    @rule(pick=PICK, where=PICK)
    def there_and_back(self, pick: int, where: int) -> None:
        """A rename and its reverse leave the four lists as they were."""
        path = self.object(pick)
        other = self.directory(where)
        if not path or not isinstance(other, bytes) or not stat.S_ISDIR(self.mode(other)):
            return
        if other == path or other.startswith(path + b"/") or os.path.lexists(self.t.root + other + b"/tmp"):
            return
        parent, _, name = path.rpartition(b"/")
        before = self.t.lists()
        self.do_rename(parent, name, other, b"tmp")
        self.do_rename(other, b"tmp", parent, name)
        assert self.t.lists() == before, self.t.told("a rename back left rows")

    @rule(pick=PICK, pick2=PICK)
    def swap_twice(self, pick: int, pick2: int) -> None:
        """Two swaps by way of a third name leave the four lists as they were."""
        first, second = self.object(pick), self.object(pick2)
        if not first or not second or first == second or os.path.lexists(self.t.root + b"/tmp"):
            return
        if first.startswith(second + b"/") or second.startswith(first + b"/"):
            return
        (dir1, _, name1), (dir2, _, name2) = first.rpartition(b"/"), second.rpartition(b"/")
        before = self.t.lists()
        for _ in range(2):
            self.do_rename(dir1, name1, b"", b"tmp")
            self.do_rename(dir2, name2, dir1, name1)
            self.do_rename(b"", b"tmp", dir2, name2)
        assert self.t.lists() == before, self.t.told("two swaps left rows")


class ContentRules(Machine):
    """write, truncate and read, by path and through handles."""

    @rule(pick=PICK, offset=OFFSETS, size=LENGTHS, at_end=st.booleans())
    def write(self, pick: int, offset: int, size: int, at_end: bool) -> None:
        target = self.file(pick)
        if target is None:
            return
        self.t.make_room()
        if at_end:
            offset = os.stat(self.full(target)).st_size + offset % 5000
        self.writes += 1
        data = file_trees.noise(self.writes, size)
        fd = os.open(self.full(target), os.O_WRONLY)
        try:
            self.t.both(
                f"write {self.told_target(target)} {size} at {offset}",
                lambda: self.t.ov.write(self.ino(target), offset, data),
                lambda: os.pwrite(fd, data, offset),
            )
        finally:
            os.close(fd)
        self.written(target)

    @rule(pick=PICK, size=st.one_of(SIZES, st.integers(0, 280_000)), relative=st.sampled_from([None, -1, 0, 1, -4000]))
    def truncate(self, pick: int, size: int, relative: int | None) -> None:
        target = self.file(pick)
        if target is None:
            return
        self.t.make_room()
        if relative is not None:
            size = max(0, os.stat(self.full(target)).st_size + relative)
        self.do_truncate(target, size)
        self.written(target)

    def do_truncate(self, target: bytes | Handle, size: int) -> None:
        times: dict[str, int] = {}
        plain: Callable[[], None] = functools.partial(os.truncate, self.full(target), size)
        if size == os.stat(self.full(target)).st_size:
            # file systems disagree on truncate(2) to the same size; ftruncate(2) moves the times everywhere
            times = {"mtime": time.time_ns(), "ctime": time.time_ns()}
            plain = functools.partial(self.ftruncate, self.full(target), size)
        self.t.both(
            f"truncate {self.told_target(target)} {size}",
            lambda: self.t.setattr(self.ino(target), size=size, **times),
            plain,
        )

    @staticmethod
    def ftruncate(path: bytes, size: int) -> None:
        fd = os.open(path, os.O_WRONLY)
        try:
            os.ftruncate(fd, size)
        finally:
            os.close(fd)

    @rule(pick=PICK, size=SIZES)
    def truncate_any(self, pick: int, size: int) -> None:
        path = self.object(pick)
        if stat.S_ISLNK(self.mode(path)):
            return
        if stat.S_ISREG(self.mode(path)):
            self.do_truncate(path, size)
            self.written(path)
        else:
            self.t.both(
                f"truncate {path!r} {size}",
                lambda: self.t.setattr(self.t.ino(path), size=size),
                lambda: os.truncate(self.t.root + path, size),
            )

    @rule(pick=PICK, offset=OFFSETS, size=LENGTHS)
    def read(self, pick: int, offset: int, size: int) -> None:
        target = self.file(pick)
        if target is None:
            return
        fd = os.open(self.full(target), os.O_RDONLY | os.O_NOATIME)
        try:
            outcome = self.t.both(
                f"read {self.told_target(target)} {size} at {offset}",
                lambda: self.t.ov.read(self.ino(target), offset, size),
                lambda: os.pread(fd, size, offset),
            )
        finally:
            os.close(fd)
        assert outcome is not None
        assert outcome[0] == outcome[1], self.t.told("read differs")

    @staticmethod
    def told_target(target: bytes | Handle) -> str:
        return f"handle({target.path!r})" if isinstance(target, Handle) else repr(target)

    def written(self, target: bytes | Handle) -> None:
        fd = os.open(self.full(target), os.O_RDONLY | os.O_NOATIME)
        try:
            self.t.wrote(fd)
        finally:
            os.close(fd)
        self.see(target, content=True)


class AttributeRules(Machine):
    """chmod, chown, utimens and extended attributes, by path and through handles."""

    def anything(self, pick: int) -> bytes | Handle:
        found: list[bytes | Handle] = [*self.t.handles, b"", *self.paths()]
        return found[pick % len(found)]

    def is_link(self, target: bytes | Handle) -> bool:
        return stat.S_ISLNK(os.fstat(target.fd).st_mode if isinstance(target, Handle) else self.mode(target))

    @rule(pick=PICK, mode=MODES)
    def chmod(self, pick: int, mode: int) -> None:
        target = self.anything(pick)
        if self.is_link(target):
            return
        self.t.both(
            f"chmod {target!r} {mode:o}",
            lambda: self.t.setattr(self.ino(target), mode=mode),
            lambda: os.chmod(self.full(target), mode),
        )
        self.see(target)

    @rule(pick=PICK, uid=st.sampled_from([None, 0, 1000]), gid=st.sampled_from([None, 0, 100]))
    def chown(self, pick: int, uid: int | None, gid: int | None) -> None:
        target = self.anything(pick)
        if uid is gid is None or (isinstance(target, Handle) and self.is_link(target)):
            return
        change = {key: value for key, value in (("uid", uid), ("gid", gid)) if value is not None}
        ids = [-1 if value is None else value for value in (uid, gid)]
        self.t.both(
            f"chown {target!r} {uid} {gid}",
            lambda: self.t.setattr(self.ino(target), **change),
            lambda: os.chown(self.full(target), *ids, follow_symlinks=isinstance(target, Handle)),
        )
        self.see(target)

    @rule(pick=PICK, atime=TIMES, mtime=TIMES)
    def utimens(self, pick: int, atime: int | None, mtime: int | None) -> None:
        target = self.anything(pick)
        if atime is mtime is None or (isinstance(target, Handle) and self.is_link(target)):
            return
        change = {key: value for key, value in (("atime", atime), ("mtime", mtime)) if value is not None}
        self.t.both(
            f"utimens {target!r} {atime} {mtime}",
            lambda: self.t.setattr(self.ino(target), **change),
            lambda: file_trees.utimens(self.full(target), atime, mtime),
        )
        self.see(target)

    @rule(
        pick=PICK,
        name=st.sampled_from(_PLAIN_XATTRS),
        value=st.sampled_from([b"", b"v", b"\0\xff", b"w" * 3000]),
        flags=st.sampled_from([0, 0, _XATTR_CREATE, _XATTR_REPLACE]),
    )
    def setxattr(self, pick: int, name: str, value: bytes, flags: int) -> None:
        self.do_setxattr(self.anything(pick), name, value, flags, f"{value[:10]!r}")

    @rule(
        pick=PICK,
        name=st.sampled_from([file_trees.ACCESS, file_trees.DEFAULT]),
        which=st.sampled_from(sorted(_ACL_VALUES)),
    )
    def setacl(self, pick: int, name: str, which: str) -> None:
        target = self.anything(pick)
        if not self.may_carry(target, name):
            return
        if name == file_trees.DEFAULT and not stat.S_ISDIR(os.stat(self.full(target)).st_mode):
            which = "named" if which != "empty" else "empty"  # the kernel judges others before it asks the file system
        self.do_setxattr(target, name, _ACL_VALUES[which], 0, which)

    def do_setxattr(self, target: bytes | Handle, name: str, value: bytes, flags: int, shown: str) -> None:
        if not self.may_carry(target, name):
            return
        self.t.both(
            f"setxattr {target!r} {name[:30]} {shown} flags {flags}",
            lambda: self.t.ov.setxattr(self.ino(target), name.encode(), value, flags),
            lambda: os.setxattr(self.full(target), name, value, flags, follow_symlinks=isinstance(target, Handle)),
        )
        self.see(target)

    @rule(pick=PICK, name=st.sampled_from([*_PLAIN_XATTRS[:-1], file_trees.ACCESS, file_trees.DEFAULT]))
    def removexattr(self, pick: int, name: str) -> None:
        target = self.anything(pick)
        if not self.may_carry(target, name):
            return
        absent_acl = name.startswith("system.") and name not in os.listxattr(self.full(target))
        self.t.both(
            f"removexattr {target!r} {name[:30]}",
            lambda: self.t.ov.removexattr(self.ino(target), name.encode()),
            lambda: os.removexattr(self.full(target), name, follow_symlinks=isinstance(target, Handle)),
        )
        if absent_acl and (name == file_trees.ACCESS or stat.S_ISDIR(os.stat(self.full(target)).st_mode)):
            # file systems disagree on whether this moves ctime; tmpfs does
            self.t.setattr(self.ino(target), ctime=time.time_ns())
        self.see(target)

    def may_carry(self, target: bytes | Handle, name: str) -> bool:
        """False where the kernel refuses by itself: no file system ever sees it (xattr(7), acl(5))."""
        mode = os.stat(self.full(target)).st_mode if isinstance(target, Handle) else self.mode(target)
        if name.startswith("user."):
            return stat.S_ISREG(mode) or stat.S_ISDIR(mode)
        if isinstance(target, Handle) and self.is_link(target):
            return False
        return not (stat.S_ISLNK(mode) and name.startswith("system."))


class LifeRules(Machine):
    """Handles, forgetting, commits, remounts, kills and power cuts."""

    @rule(pick=PICK, what=st.sampled_from(["hold", "unlink", "release", "forget"]))
    def holding(self, pick: int, what: str) -> None:
        if what == "forget":
            self.t.log.append("forget all")
            self.t.forget_all()
        elif what == "release" and self.t.handles:
            handle = self.t.handles[pick % len(self.t.handles)]
            self.t.log.append(f"release {handle.path!r}")
            self.t.release(handle)
        elif what == "unlink":
            self.hold_and_unlink(pick)
        elif path := self.object(pick):
            self.t.hold(path)
            self.t.log.append(f"hold {path!r}")

    def hold_and_unlink(self, pick: int) -> None:
        """Open, unlink, and go on with what is open."""
        found = [path for path in self.paths() if not stat.S_ISDIR(self.mode(path))]
        if not found:
            return
        path = found[pick % len(found)]
        handle = self.t.hold(path)
        parent, _, name = path.rpartition(b"/")
        self.t.both(
            f"hold and unlink {path!r}",
            lambda: self.t.ov.unlink(self.t.ino(parent), name),
            lambda: os.unlink(self.t.root + path),
        )
        self.t.compare_handle(handle)

    @rule(how=st.sampled_from(["at once", "begin", "finish"]))
    def commit(self, how: str) -> None:
        self.t.log.append(f"commit {how}")
        {"at once": self.t.commit, "begin": self.t.begin_commit, "finish": self.t.finish_commit}[how]()

    @rule(how=st.sampled_from(["reopen", "kill", "crash", "crash"]), clone=st.booleans(), dense=st.booleans())
    def restart(self, how: str, clone: bool, dense: bool) -> None:
        if how == "crash" and self.t.snapshot is None:
            how = "reopen"
        self.t.log.append(f"{how}, then clone {clone} dense {dense}")
        {"reopen": self.t.reopen, "kill": self.t.kill, "crash": self.t.crash}[how](**self.options(clone, dense))
        self.t.compare_all()
        if how != "crash":
            self.t.snap()
