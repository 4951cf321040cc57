"""Base trees as values: how they change from one version to the next, and how one is put on disk.

A version is a dictionary of paths; two paths of one ``Thing`` are hard links.  So a machine can derive a version from
any earlier one, and put an earlier one back.  ``put`` decides which inode number each path has: new ones, the ones of
the version before, or the same ones shuffled.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

_PAST = 1_600_000_000_000_000_007  # ns
_KINDS = {"file": stat.S_IFREG, "dir": stat.S_IFDIR, "link": stat.S_IFLNK, "fifo": stat.S_IFIFO}
HOWS = ("new", "device", "same", "shuffled")  # how a version is put on disk


@dataclass(frozen=True, eq=False)
class Thing:
    """One object of a base, whatever names lead to it.

    Attributes:
        kind: file, dir, link or fifo.
        mode: permission bits; of a symlink they are not looked at.
        data: bytes of a file, target of a symlink.
    """

    kind: str
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = _PAST
    data: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def full_mode(self) -> int:
        """st_mode."""
        return _KINDS[self.kind] | (0o777 if self.kind == "link" else self.mode)


Tree = dict[bytes, Thing]  # by path in base terms; the root is b"/"


def join(directory: bytes, name: bytes) -> bytes:
    """The path of a name in a directory (base terms)."""
    return directory.rstrip(b"/") + b"/" + name


def parent_of(path: bytes) -> bytes:
    """The directory of a path (base terms)."""
    return path.rpartition(b"/")[0] or b"/"


def first_tree(large: int, *, links: bool = True) -> Tree:
    """A small tree with few names, so that random changes often meet.

    Args:
        large: size of a file that is not copied whole.
        links: whether there are hard links.
    """
    linked = Thing("file", data=b"linked" * 500, mtime=_PAST + 1)
    return {
        b"/": Thing("dir", 0o755),
        b"/a": Thing("file", data=b"a" * large, mtime=_PAST + 2, xattrs={b"user.k": b"base"}),
        b"/b": linked,
        b"/d": Thing("dir", 0o755),
        b"/d/a": Thing("file", data=b"da" * 1500, mtime=_PAST + 3),
        b"/d/b": linked if links else replace(linked),
        b"/d/d": Thing("dir", 0o750, 3, 3),
        b"/d/d/a": Thing("file", data=b"dda", mtime=_PAST + 4),
        b"/c": Thing("link", data=b"a"),
    }


# -- changes


class Changes:
    """Random changes of a tree; each makes a new one.

    Args:
        names: what objects may be called.
        large: size of a file that is not copied whole.
        links: whether there are hard links.
    """

    def __init__(self, names: tuple[bytes, ...], large: int, *, links: bool = True) -> None:
        self.names = names
        self.sizes = (0, 5, 3000, large)
        self.links = links
        self._count = 0

    def apply(self, tree: Tree, what: str, pick: int, pick2: int, places: Collection[bytes] = ()) -> Tree:
        """One change.

        Args:
            tree: what to change; left as it is.
            what: a word of ``WORDS``.
            pick: chooses the object.
            pick2: chooses what becomes of it.
            places: paths of which an overlay holds something: every other time one of them is taken.
        """
        if what == "add" and pick % 2:
            free = sorted(p for p in places if p not in tree and p != b"/" and _is_dir(tree, parent_of(p)))
            if free:
                return {**tree, free[pick // 2 % len(free)]: self._new(pick2)}
        paths = sorted(path for path in tree if path != b"/")
        paths = [path for path in paths if path in places] or paths if pick % 2 else paths
        if what == "add" or not paths:
            return self._add(tree, pick, pick2)
        path = paths[pick // 2 % len(paths)]
        return _CHANGES[what](self, dict(tree), path, pick2)

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _new(self, pick: int) -> Thing:
        kind = ("file", "file", "file", "dir", "link", "fifo")[pick % 6]
        mtime = _PAST + 1000 + self._next()
        data = {"file": self.bytes(self.sizes[pick // 6 % len(self.sizes)]), "link": b"a"}.get(kind, b"")
        xattrs = {b"user.k": b"%d" % self._count} if kind == "file" and pick % 2 else {}
        return Thing(kind, 0o700 if kind == "dir" else 0o640, 1, 2, mtime, data, xattrs)

    def bytes(self, size: int) -> bytes:
        """Bytes of a version of their own."""
        return (b"<base %d>" % self._next() * (size // 8 + 1))[:size]

    def _add(self, tree: Tree, pick: int, pick2: int) -> Tree:
        directories = sorted(path for path, thing in tree.items() if thing.kind == "dir")
        path = join(directories[pick % len(directories)], self.names[pick2 % len(self.names)])
        return tree if path in tree else {**tree, path: self._new(pick2 // len(self.names))}

    def _remove(self, tree: Tree, path: bytes, pick: int) -> Tree:
        return {other: thing for other, thing in tree.items() if not _is_in(other, path)}

    def _another_kind(self, tree: Tree, path: bytes, pick: int) -> Tree:
        old = tree[path]
        new = self._new(pick)
        if new.kind == old.kind:
            new = self._new(pick + (3 if new.kind == "file" else 1))
        tree = self._remove(tree, path, 0)
        tree[path] = new
        if new.kind == "dir" and pick % 2:
            tree[join(path, self.names[pick % len(self.names)])] = self._new(pick // 7)
        return tree

    def _rewrite(self, tree: Tree, path: bytes, pick: int) -> Tree:
        """Other bytes: of all links or of this one, of another size or the same, with another mtime or the same."""
        old = tree[path]
        if old.kind != "file":
            return self._touch(tree, path, pick)
        size = len(old.data) if pick % 3 else self.sizes[pick // 3 % len(self.sizes)]
        mtime = old.mtime if pick % 2 else _PAST + 1000 + self._next()
        if size != len(old.data):
            mtime = _PAST + 1000 + self._next()
        new = replace(old, data=self.bytes(size), mtime=mtime)
        return _swap(tree, path, new, all_links=pick % 5 < 3)

    def _touch(self, tree: Tree, path: bytes, pick: int) -> Tree:
        return _swap(tree, path, replace(tree[path], mtime=_PAST + 1000 + self._next()), all_links=True)

    def _attributes(self, tree: Tree, path: bytes, pick: int) -> Tree:
        new = replace(tree[path], mode=(0o600, 0o755, 0o777)[pick % 3], uid=pick % 2 * 7, xattrs={})
        if new.kind == "file":
            new = replace(new, xattrs={b"user.k": b"%d" % self._next()})
        return _swap(tree, path, new, all_links=True)

    def _rename(self, tree: Tree, path: bytes, pick: int) -> Tree:
        directories = sorted(p for p, thing in tree.items() if thing.kind == "dir" and not _is_in(p, path))
        target = join(directories[pick % len(directories)], self.names[pick // 5 % len(self.names)])
        if target == path or _is_in(path, target):
            return tree
        moved = {target + other[len(path) :]: thing for other, thing in tree.items() if _is_in(other, path)}
        return {**{p: t for p, t in tree.items() if not _is_in(p, path) and not _is_in(p, target)}, **moved}

    def _link(self, tree: Tree, path: bytes, pick: int) -> Tree:
        """One more name for a file: a new one, or in the place of another file."""
        directories = sorted(p for p, thing in tree.items() if thing.kind == "dir")
        target = join(directories[pick % len(directories)], self.names[pick // 5 % len(self.names)])
        if self.links and tree[path].kind != "dir" and (target not in tree or tree[target].kind != "dir"):
            tree[target] = tree[path]
        return tree

    def _unlink(self, tree: Tree, path: bytes, pick: int) -> Tree:
        """The names of a file become files of their own."""
        tree[path] = replace(tree[path])
        return tree


_CHANGES: dict[str, Callable[[Changes, Tree, bytes, int], Tree]] = {
    "remove": Changes._remove,
    "kind": Changes._another_kind,
    "rewrite": Changes._rewrite,
    "touch": Changes._touch,
    "attributes": Changes._attributes,
    "rename": Changes._rename,
    "link": Changes._link,
    "unlink": Changes._unlink,
}
WORDS = ("add", *_CHANGES)


def _is_dir(tree: Tree, path: bytes) -> bool:
    return path in tree and tree[path].kind == "dir"


def _is_in(path: bytes, top: bytes) -> bool:
    return path == top or path.startswith(top + b"/")


def _swap(tree: Tree, path: bytes, new: Thing, *, all_links: bool) -> Tree:
    old = tree[path]
    return {p: new if p == path or (all_links and thing is old) else thing for p, thing in tree.items()}


# -- on disk


def put(tree: Tree, top: Path, *, shuffle: random.Random | None = None) -> None:
    """Make a directory hold a tree; what objects it has lend their inode numbers to the new ones of their kind.

    Args:
        tree: what it shall hold.
        top: the directory; made where it is not there.
        shuffle: gives each path the number of any other; None: its own one wherever it has one.
    """
    attic = top.with_name(top.name + ".attic")
    attic.mkdir()
    spare: dict[str, dict[bytes, bytes]] = {"file": {}, "dir": {}}
    if top.exists():
        _store(os.fsencode(top), os.fsencode(attic), spare)
    else:
        top.mkdir()
    made: dict[Thing, bytes] = {}
    for path, thing in sorted(tree.items()):
        full = os.fsencode(top) + (path if path != b"/" else b"")
        if thing in made and thing.kind != "dir":
            os.link(made[thing], full, follow_symlinks=False)
            continue
        made[thing] = full
        if path != b"/":
            _make(thing, full, _lend(spare.get(thing.kind, {}), path, shuffle))
        os.chown(full, thing.uid, thing.gid, follow_symlinks=False)
        if thing.kind != "link":
            os.chmod(full, thing.mode)
        if thing.kind in ("file", "dir"):
            for name in os.listxattr(full):
                os.removexattr(full, name)
            for key, value in thing.xattrs.items():
                os.setxattr(full, key, value)
    for path, thing in sorted(tree.items(), reverse=True):
        full = os.fsencode(top) + path
        os.utime(full, ns=(thing.mtime, thing.mtime), follow_symlinks=False)
    shutil.rmtree(attic)


def _store(top: bytes, attic: bytes, spare: dict[str, dict[bytes, bytes]]) -> None:
    """Move all objects of a tree away, flat, and note under which path each one was."""
    seen: set[int] = set()
    for holder, directories, files in os.walk(top, topdown=False):
        for name in directories + files:
            full = os.path.join(holder, name)
            st = os.lstat(full)
            kind = "dir" if stat.S_ISDIR(st.st_mode) else "file" if stat.S_ISREG(st.st_mode) else None
            if kind is None or st.st_ino in seen:
                os.unlink(full)
                continue
            seen.add(st.st_ino)
            kept = attic + b"/%d" % len(seen)
            os.rename(full, kept)
            spare[kind][full[len(top) :]] = kept


def _lend(spare: dict[bytes, bytes], path: bytes, shuffle: random.Random | None) -> bytes | None:
    if shuffle is None or not spare:
        return spare.pop(path, None)
    return spare.pop(shuffle.choice(sorted(spare)))


def _make(thing: Thing, full: bytes, lent: bytes | None) -> None:
    if lent is not None:
        os.rename(lent, full)
    elif thing.kind == "dir":
        os.mkdir(full)
    elif thing.kind == "link":
        os.symlink(thing.data, full)
    elif thing.kind == "fifo":
        os.mkfifo(full)
    if thing.kind == "file":
        with open(full, "wb") as file:
            file.write(thing.data)
