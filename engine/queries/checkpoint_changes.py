"""What changed between two states of an overlay: two checkpoints, or one and today, name by name.

The history of rows says which objects and names may differ (store/history.py); only these are looked at in both states,
and no tree is walked but directories that are new or gone as a whole.  Objects are told by their numbers: a name that
leads to another object is another one, however alike they are, and an object at another name is renamed.

The letters mean what they mean in changes.py, with the first state in the place of the base.
"""

from __future__ import annotations

import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..checkpoint_values import Checkpoint
from ..model import ROOT, Attr, Ino
from ..overlay import Overlay
from ..store.base_view import join, split
from ..store.four_lists_statements import ALL_NAMES
from ..store.history import Touched, touched
from ..store.typed_rows import each, rows
from ..tree.base_links import BaseLinks
from ..tree.directories import Directories
from .changes import Change, Kind
from .walk import shown_below

_STEP = 1 << 20  # bytes compared at a time
_ORIGIN = "SELECT path FROM origin WHERE ino = ?"
_EXTENTS = 'SELECT start, "end", object, at FROM extent WHERE ino = ? ORDER BY start'
_END = 1 << 62  # greater than the id of any checkpoint


def changes_between(
    before: Overlay,
    after: Overlay,
    first: Checkpoint | None,
    second: Checkpoint | None,
    *,
    recursive: bool = False,
    identical: bool = True,
) -> Iterator[Change]:
    """Yield what changed from one state to another, in no particular order.

    Args:
        before, after: the two states; nothing of them may change meanwhile.
        first, second: the checkpoints that they are; None for today's state.
        recursive: list every name below directories that are new or gone, too.
        identical: list files that were written, but have the same bytes, too.

    Raises:
        OSError: base or storage cannot be read.
    """
    ends = sorted(checkpoint.id if checkpoint is not None else _END for checkpoint in (first, second))
    # the state that is the newer one has the history up to then; a copy for a checkpoint has all of it
    db = before.db if first is None else after.db
    between = Between(before, after, touched(db, ends[0], ends[1]), recursive=recursive, identical=identical)
    return between.all()


class _Entry(NamedTuple):
    """A name in one state: the number of its directory, its path, and what it leads to."""

    key: tuple[int, bytes]
    path: bytes
    attr: Attr


class _State:
    """One of the two states, and where its directories are.

    Args:
        overlay: it.
    """

    def __init__(self, overlay: Overlay) -> None:
        self.overlay = overlay
        self.directories = Directories(overlay.db)
        self._found: dict[int, tuple[bytes, Ino] | None] = {}

    def base_path(self, ino: int) -> bytes | None:
        """The base path of an object, if this state knows it."""
        found = rows(self.overlay.db, _ORIGIN, (ino,), "b")
        return found[0][0] if found else None

    def directory(self, ino: int, base: bytes | None) -> tuple[bytes, Ino] | None:
        """The path of a directory, and its number; None if it does not show.

        Args:
            ino: its number.
            base: its base path, for a state that has no rows of it; None of a created one.
        """
        if ino not in self._found:
            path = b"/" if ino == ROOT else self.directories.path(ino)
            if not path.startswith(b"/") and base is not None:
                path = self.directories.shown(base) if base != b"/" else base
            attr = self.overlay.find(path) if path.startswith(b"/") else None
            is_it = attr is not None and stat.S_ISDIR(attr.mode) and attr.ino == (ROOT if path == b"/" else ino)
            self._found[ino] = (path, Ino(attr.ino)) if attr is not None and is_it else None
        return self._found[ino]

    def entries(self, path: bytes) -> dict[bytes, Attr]:
        """What is in the directory at a path."""
        attr = self.overlay.find(path)
        assert attr is not None
        found = self.overlay.readdir(Ino(attr.ino))
        return {entry.name: entry.attr for entry in found if entry.name not in (b".", b"..")}


class Between:
    """The changes between two states.

    Args:
        before, after: the two states.
        may_differ: what may differ.
        recursive, identical: as for ``changes_between``.
    """

    def __init__(
        self, before: Overlay, after: Overlay, may_differ: Touched, *, recursive: bool, identical: bool
    ) -> None:
        self._before = _State(before)
        self._after = _State(after)
        self._inos = may_differ.inos
        self._keys = set(may_differ.names)
        self._recursive = recursive
        self._identical = identical
        self._gone: set[bytes] = set()  # paths of the first state whose objects have another path now
        self._came: set[bytes] = set()  # these other paths
        self._bases: dict[int, bytes] = {}  # base paths of directories of which no state has rows

    def all(self) -> Iterator[Change]:
        """Yield the changes."""
        self._add_keys()
        left: dict[tuple[int, bytes], _Entry] = {}
        right: dict[tuple[int, bytes], _Entry] = {}
        listed: set[bytes] = set()
        stay: list[tuple[_Entry, _Entry]] = []
        for key in sorted(self._keys):
            old, new = self._entry(self._before, key), self._entry(self._after, key)
            if old is not None and new is not None and old.attr.ino == new.attr.ino:
                stay.append((old, new))
                continue
            if old is not None:
                left[key] = old
            if new is not None:
                right[key] = new
        for old, new in [*self._moves(left, right)]:
            also = self._differs(old.attr, new.attr) if old.attr.ino in self._inos else None
            yield Change(Kind.RENAMED, new.path, old.path, new.attr.ino, _is_dir(new.attr), also)
        for old, new in stay:
            listed.add(new.path)
            if old.attr.ino in self._inos and (kind := self._differs(old.attr, new.attr)) is not None:
                yield _change(kind, old.path, new.path, new.attr)
        for key in left.keys() | right.keys():
            if self._shows(self._before, key[0]) and self._shows(self._after, key[0]):
                there, here = left.get(key), right.get(key)
                there = None if there is None or there.path in self._gone else there
                here = None if here is None or here.path in self._came else here
                yield from self._pair(there, here)
        yield from self._other_names(listed)

    # -- what to look at

    def _add_keys(self) -> None:
        """Add the names of objects whose rows may differ."""
        for state in (self._before, self._after):
            for ino, parent, name in each(state.overlay.db, ALL_NAMES, "iib"):
                if ino in self._inos:
                    self._keys.add((parent, name))
            for ino in self._inos:
                base = state.base_path(ino)
                if base is not None and base != b"/":
                    directory, name = split(base)
                    self._keys.add((self._number(directory), name))
        if ROOT in self._inos:
            self._keys.add((0, b""))  # it is in no directory

    def _number(self, base: bytes) -> int:
        """The number of a base directory; 0 if it shows in none of the states.

        One that had no rows, and is gone with all that was in it, is found where it showed.
        """
        for state in (self._before, self._after):
            if number := state.directories.number(base):
                return number
        for state in (self._before, self._after):
            overlay = state.overlay
            attr = overlay.find(state.directories.shown(base))
            if attr is not None and _is_dir(attr) and overlay.inodes.node(Ino(attr.ino)).path == base:
                self._bases[attr.ino] = base
                return attr.ino
        return 0

    def _base_path(self, ino: int) -> bytes | None:
        return self._before.base_path(ino) or self._after.base_path(ino) or self._bases.get(ino)

    def _directory(self, state: _State, ino: int) -> tuple[bytes, Ino] | None:
        return state.directory(ino, self._base_path(ino))

    def _shows(self, state: _State, ino: int) -> bool:
        return self._directory(state, ino) is not None

    def _entry(self, state: _State, key: tuple[int, bytes]) -> _Entry | None:
        parent, name = key
        if not name:
            return _Entry(key, b"/", state.overlay.getattr(ROOT))
        found = self._directory(state, parent)
        if found is None:
            return None
        path, ino = found
        attr = state.overlay.lookup(ino, name)
        return _Entry(key, join(path, name), attr) if attr is not None else None

    # -- names

    def _moves(
        self, left: dict[tuple[int, bytes], _Entry], right: dict[tuple[int, bytes], _Entry]
    ) -> Iterator[tuple[_Entry, _Entry]]:
        """Names that are gone, each with a new one of the same object."""
        gone: dict[int, list[_Entry]] = defaultdict(list)
        for entry in left.values():
            gone[entry.attr.ino].append(entry)
        for entry in sorted(right.values(), key=lambda entry: entry.path):
            if others := gone.get(entry.attr.ino):
                old = min(others, key=lambda other: other.path)
                others.remove(old)
                self._gone.add(old.path)
                self._came.add(entry.path)
                yield old, entry

    def _pair(self, old: _Entry | None, new: _Entry | None) -> Iterator[Change]:
        """What became of a name: what it led to, and what it leads to, without what is at another one."""
        waiting: list[tuple[bytes, Attr | None, bytes, Attr | None]] = []
        if old is not None or new is not None:
            first, second = old or new, new or old
            assert first is not None
            assert second is not None
            waiting.append((first.path, old.attr if old else None, second.path, new.attr if new else None))
        while waiting:
            was, old_attr, now, new_attr = waiting.pop()
            if old_attr is not None and new_attr is not None:
                yield from self._replaced(was, old_attr, now, new_attr)
                if _is_dir(old_attr) and _is_dir(new_attr):
                    waiting += self._inside(was, now)
                    continue
            elif old_attr is not None:
                yield Change(Kind.DELETED, was, None, 0, _is_dir(old_attr))
            elif new_attr is not None:
                yield Change(Kind.ADDED, now, None, new_attr.ino, _is_dir(new_attr))
            if self._recursive:
                if old_attr is not None and _is_dir(old_attr):
                    for path, attr in shown_below(self._before.overlay, was, self._gone):
                        yield Change(Kind.DELETED, path, None, 0, _is_dir(attr))
                if new_attr is not None and _is_dir(new_attr):
                    for path, attr in shown_below(self._after.overlay, now, self._came):
                        yield Change(Kind.ADDED, path, None, attr.ino, _is_dir(attr))

    def _replaced(self, was: bytes, old: Attr, now: bytes, new: Attr) -> Iterable[Change]:
        """A name that leads to another object."""
        if stat.S_IFMT(old.mode) != stat.S_IFMT(new.mode):
            return (_change(Kind.TYPE, was, now, new),)
        kind: Kind | None = Kind.MODIFIED
        if _is_dir(new) or not self._identical:
            kind = self._differs(old, new)
        return (_change(kind, was, now, new),) if kind is not None else ()

    def _inside(self, was: bytes, now: bytes) -> Iterator[tuple[bytes, Attr | None, bytes, Attr | None]]:
        """The names in a directory and in the one that replaced it, without what is at another path."""
        old, new = self._before.entries(was), self._after.entries(now)
        for name in old.keys() | new.keys():
            there, here = join(was, name), join(now, name)
            old_attr = None if there in self._gone else old.get(name)
            new_attr = None if here in self._came else new.get(name)
            yield there, old_attr, here, new_attr

    def _other_names(self, listed: set[bytes]) -> Iterator[Change]:
        """Other names in the base of files that were changed, where they show them in both states."""
        known = {ino: base for ino in self._inos if (base := self._base_path(ino)) is not None}
        for ino, base in BaseLinks(self._after.overlay.base, known).find():
            was, now = self._before.directories.shown(base), self._after.directories.shown(base)
            old, new = self._before.overlay.find(was), self._after.overlay.find(now)
            if old is None or new is None or not old.ino == new.ino == ino or now in listed:
                continue
            kind = self._differs(old, new)
            if kind is not None:
                yield _change(kind, was, now, new)

    # -- objects

    def _differs(self, old: Attr, new: Attr) -> Kind | None:
        """How two objects of one type differ: in their bytes, else in metadata; None if not at all."""
        if not _is_dir(new) and not self._same_bytes(old, new):
            return Kind.MODIFIED
        same = (old.mode, old.uid, old.gid) == (new.mode, new.uid, new.gid)
        same = same and (_is_dir(new) or old.mtime == new.mtime)
        return None if same and _xattrs(self._before, old) == _xattrs(self._after, new) else Kind.METADATA

    def _same_bytes(self, old: Attr, new: Attr) -> bool:
        before, after = self._before.overlay, self._after.overlay
        if stat.S_ISLNK(new.mode):
            return before.readlink(Ino(old.ino)) == after.readlink(Ino(new.ino))
        if not stat.S_ISREG(new.mode):
            return old.rdev == new.rdev
        if old.size != new.size:
            return False
        if old.ino == new.ino:
            if _content(before, Ino(old.ino), old.size) == _content(after, Ino(new.ino), new.size):
                return True
            if self._identical and old.mtime != new.mtime:
                return False  # written
        return all(
            before.read(Ino(old.ino), at, _STEP) == after.read(Ino(new.ino), at, _STEP)
            for at in range(0, new.size, _STEP)
        )


def _content(overlay: Overlay, ino: Ino, size: int) -> object:
    """Where the bytes of a file are; where two states say the same, they are the same."""
    row = overlay.inodes.row(ino)
    if row is None or (row.object is None and not row.mapped and (row.bound is None or row.bound >= size)):
        return None  # the base's
    small = overlay.db.rows("SELECT data FROM small WHERE ino = ?", (ino,)) if row.object == 0 else ()
    extents = rows(overlay.db, _EXTENTS, (ino,), "iiii") if row.mapped else ()
    return row.object, row.bound, list(small), list(extents)


def _xattrs(state: _State, attr: Attr) -> dict[bytes, bytes]:
    ov, ino = state.overlay, Ino(attr.ino)
    return {name: ov.getxattr(ino, name) for name in ov.listxattr(ino)}


def _is_dir(attr: Attr) -> bool:
    return stat.S_ISDIR(attr.mode)


def _change(kind: Kind, was: bytes, now: bytes, attr: Attr) -> Change:
    return Change(kind, now, was if was != now else None, attr.ino, _is_dir(attr))
