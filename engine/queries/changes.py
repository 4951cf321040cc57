"""What an overlay changed, from rows: the difference between its base and the merged tree, name by name.

No tree is walked, but for a base directory in whose place a new one stands, for directories that are gone, where every
name below them is asked for, and for other names of a changed base file.  A base directory with changes in it is listed
once, for all of them, which are asked for together: to list it takes longer than what else is done there.

* A name is *added* where the base has none, *modified* where the base has an object of the same kind whose bytes
  (of a symlink: target; of a device: number) are others, of another *type*, or *deleted*.
* A base object at a new name is *renamed*, with what else changed of it.  A directory takes along what is in it: those
  names are not listed.
* A base file with several names in the base is changed at each of them, so the base is searched for them.
* *Metadata*: the same bytes with another owner, mode, time or extended attribute.  Sizes and times of directories say
  nothing, so a directory is never listed for them.

Rows say what was done, not whether it made a difference: a file that was overwritten with the same bytes is modified.
``identical=False`` compares, and leaves such changes out.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from functools import cached_property, lru_cache
from itertools import chain
from typing import NamedTuple

from ..errors import FsError
from ..model import Ino
from ..overlay import Overlay
from ..rebase.drift_report import same_bytes
from ..store.base_view import join, split
from ..store.four_lists_statements import IS_HIDDEN
from ..store.typed_rows import each, rows
from ..tree.base_links import BaseLinks
from ..tree.directories import Directories
from ..tree.inode_rows import Row

log = logging.getLogger(__name__)

_PIECE = 1024  # rows in one query
_LISTINGS = 16  # base directories whose names are kept

_TOUCHED = (  # base directories in which names were made or hidden
    "SELECT path, ino FROM origin WHERE ino IN (SELECT parent FROM created UNION SELECT parent FROM deleted)"
)
_ADDED = (
    "SELECT c.name, c.ino, i.mode & 65535 FROM created c LEFT JOIN inode i USING (ino)"
    " WHERE c.parent = ? AND c.name > ? ORDER BY c.name LIMIT ?"
)
_IN = "SELECT c.name, c.ino, i.mode & 65535 FROM created c LEFT JOIN inode i USING (ino) WHERE c.parent = ?"
_RENAMED = (
    "SELECT r.parent, r.name, r.ino, o.path, i.mode & 65535, i.seen_links & 0xffffffff, m.content"
    " FROM renamed r JOIN origin o USING (ino) LEFT JOIN inode i USING (ino) LEFT JOIN modified m USING (ino)"
    " WHERE (r.parent, r.name) > (?, ?) ORDER BY r.parent, r.name LIMIT ?"
)
_DELETED = (
    "SELECT d.name, c.ino FROM deleted d LEFT JOIN created c ON c.parent = d.parent AND c.name = d.name"
    " WHERE d.parent = ? AND d.name > ? ORDER BY d.name LIMIT ?"
)
_MODIFIED = (
    "SELECT o.path, m.ino, m.content, i.mode & 65535, i.seen_links & 0xffffffff"
    " FROM origin o JOIN modified m USING (ino) JOIN inode i USING (ino)"
    " WHERE o.path > ? AND i.nlink > 0 ORDER BY o.path LIMIT ?"
)


class Kind(StrEnum):
    """What happened to a name."""

    ADDED = "A"
    MODIFIED = "M"
    DELETED = "D"
    RENAMED = "R"
    TYPE = "T"
    METADATA = "m"


class Change(NamedTuple):
    """One difference between base and merged tree.

    Attributes:
        kind: what happened.
        path: where it shows; of what is deleted: where the base has it.
        old: the base path of what shows elsewhere than in the base, else None.
        ino: the number of what shows; 0 of what is deleted.
        is_dir: whether it is a directory (of what is deleted: was).
        also: what else happened to what is renamed: MODIFIED or METADATA.
    """

    kind: Kind
    path: bytes
    old: bytes | None
    ino: int
    is_dir: bool
    also: Kind | None = None

    @property
    def letters(self) -> str:
        """One letter, or two of what is renamed and changed."""
        return self.kind + self.also if self.also is not None else self.kind


def changes(overlay: Overlay, *, recursive: bool = False, identical: bool = True) -> Iterator[Change]:
    """Yield what an overlay changed, in no particular order.

    Args:
        overlay: nothing of it may change meanwhile.
        recursive: list every name below directories that are new or gone, too.
        identical: list changes that made no difference, too.

    Raises:
        OSError: base or storage cannot be read.
    """
    found = _Changes(overlay, recursive).all()
    return found if identical else filter(None, map(_Comparison(overlay).real, found))


class _Changes:
    def __init__(self, overlay: Overlay, recursive: bool) -> None:
        self._ov = overlay
        self._db = overlay.db
        self._base = overlay.base
        self._recursive = recursive
        self._directories = Directories(overlay.db)
        self._listed = lru_cache(_LISTINGS)(self._list)
        self._moved: set[bytes] = set()  # the base paths of what has a new name
        self._several: dict[int, tuple[bytes, Kind]] = {}  # base files with several names, and what happened to them

    def all(self) -> Iterator[Change]:
        """What has a new name, then one base directory after the other."""
        yield from self._renamed()
        touched: dict[bytes, int] = dict(each(self._db, _TOUCHED, "bi"))
        yield from self._modified(touched)
        for base, ino in touched.items():
            yield from self._in(ino, base)
        yield from self._other_names()

    def _list(self, base: bytes) -> Mapping[bytes, bool]:
        """The names in a base directory, each with whether it is one; none of a directory that is not there."""
        try:
            return self._base.listing(base)
        except OSError:
            if self._base.find(base) is None:
                return {}
            raise

    @cached_property
    def _linked(self) -> set[int]:
        """Base objects with a new link."""
        return {ino for (ino,) in each(self._db, "SELECT c.ino FROM created c JOIN origin o ON o.ino = c.ino", "i")}

    def _shows(self, base: bytes, ino: int) -> bool:
        """Return whether a base name still leads to its object: neither it nor a directory above is gone."""
        directory, name = split(base)
        if self._db.row(IS_HIDDEN, (self._directories.number(directory), name)):
            return False
        attr = self._ov.find(self._directories.shown(base))
        return attr is not None and attr.ino == ino

    # -- names that lead somewhere

    def _renamed(self) -> Iterator[Change]:
        after: tuple[int, bytes] = (0, b"")
        here, above = 0, b""
        while found := rows(self._db, _RENAMED, (*after, _PIECE), "ibibIII"):
            after = found[-1][:2]
            for parent, name, ino, base, mode, links, content in found:
                if parent != here:
                    here, above = parent, self._directories.path(parent)
                path = join(above, name)
                is_dir = mode is not None and stat.S_ISDIR(mode)
                if links is not None and links > 1 and not is_dir and self._shows(base, ino):
                    yield Change(Kind.ADDED, path, None, ino, False)  # the base has it by another link as well
                    continue
                self._moved.add(base)
                also = None
                if content is not None and not is_dir:
                    also = Kind.MODIFIED if content else Kind.METADATA
                yield Change(Kind.RENAMED, path, base, ino, is_dir, also)

    def _in(self, ino: int, base: bytes) -> Iterator[Change]:
        """The names that were made or hidden in a base directory."""
        names = self._listed(base)
        above = self._directories.path(ino)
        after = b""
        while found := rows(self._db, _ADDED, (ino, after, _PIECE), "biI"):
            after = found[-1][0]
            for name, number, mode in found:
                under = join(base, name)
                if name not in names or under in self._moved:
                    yield from self._made(join(above, name), number, mode)
                else:
                    yield from self._replaced(join(above, name), under, number, mode)
        after = b""
        while found := rows(self._db, _DELETED, (ino, after, _PIECE), "bI"):
            after = found[-1][0]
            for name, replaced in found:
                if replaced is None and name in names:
                    yield from self._gone(join(base, name), names[name])

    def _made(self, path: bytes, ino: int, mode: int | None) -> Iterable[Change]:
        """A name in whose place the base has nothing."""
        is_dir = mode is not None and stat.S_ISDIR(mode)
        change = Change(Kind.ADDED, path, None, ino, is_dir)
        return chain((change,), self._below(path, ino)) if is_dir and self._recursive else (change,)

    def _below(self, path: bytes, ino: int) -> Iterator[Change]:
        """All names in a created directory."""
        waiting = [(path, ino)]
        seen = set()  # in damaged rows, directories may be in each other
        while waiting:
            path, ino = waiting.pop()
            if ino in seen:
                continue
            seen.add(ino)
            for name, number, mode in rows(self._db, _IN, (ino,), "biI"):
                is_dir = mode is not None and stat.S_ISDIR(mode)
                yield Change(Kind.ADDED, join(path, name), None, number, is_dir)
                if is_dir:
                    waiting.append((join(path, name), number))

    def _replaced(self, path: bytes, under: bytes, ino: int, mode: int | None) -> Iterator[Change]:
        """What stands in the place of a base object."""
        if ino in self._linked:  # another base object, with a new link here
            yield Change(Kind.ADDED, path, None, ino, False)
            directory, name = split(under)
            yield from self._gone(under, self._listed(directory).get(name, False))
            return
        is_dir = mode is not None and stat.S_ISDIR(mode)
        old = under if under != path else None
        try:
            st = self._base.find(under)
        except OSError as error:
            log.warning("%s cannot be read in the base: %s", os.fsdecode(under), error.strerror)
            yield Change(Kind.MODIFIED, path, old, ino, is_dir)
            return
        if st is None:
            yield Change(Kind.ADDED, path, None, ino, is_dir)
        elif mode is None or stat.S_IFMT(mode) != stat.S_IFMT(st.st_mode):
            yield Change(Kind.TYPE, path, old, ino, is_dir)
            if self._recursive:
                yield from self._below(path, ino)
                for name, was_dir in self._listed(under).items() if stat.S_ISDIR(st.st_mode) else ():
                    yield from self._gone(join(under, name), was_dir)
        elif not is_dir:
            yield Change(Kind.MODIFIED, path, old, ino, False)
        else:
            yield from self._merged(path, under, ino, st)

    def _merged(self, path: bytes, under: bytes, ino: int, st: os.stat_result) -> Iterator[Change]:
        """A created directory in the place of a base one, name by name."""
        row = self._ov.inodes.row(Ino(ino))
        if row is not None and (
            (row.mode, row.uid, row.gid) != (st.st_mode, st.st_uid, st.st_gid)
            or _xattrs(self._ov, row.ino) != _xattrs_of_base(self._ov, under)
        ):
            yield Change(Kind.METADATA, path, under if under != path else None, ino, True)
        here = {name: (number, mode) for name, number, mode in rows(self._db, _IN, (ino,), "biI")}
        names = self._listed(under)
        for name, (number, mode) in here.items():
            below = join(under, name)
            if name in names and below not in self._moved:
                yield from self._replaced(join(path, name), below, number, mode)
            else:
                yield from self._made(join(path, name), number, mode)
        for name, was_dir in names.items():
            if name not in here:
                yield from self._gone(join(under, name), was_dir)

    def _gone(self, base: bytes, is_dir: bool) -> Iterable[Change]:
        """A base name that does not show, and what is in it, unless its object shows elsewhere."""
        if base in self._moved:
            return ()
        change = Change(Kind.DELETED, base, None, 0, is_dir)
        return chain((change,), self._gone_below(base)) if is_dir and self._recursive else (change,)

    def _gone_below(self, base: bytes) -> Iterator[Change]:
        """All names in a base directory that does not show, unless their objects show elsewhere."""
        waiting = [base]
        while waiting:
            directory = waiting.pop()
            for name, is_dir in self._listed(directory).items():
                base = join(directory, name)
                if base not in self._moved:
                    yield Change(Kind.DELETED, base, None, 0, is_dir)
                    if is_dir:
                        waiting.append(base)

    # -- objects in their place

    def _modified(self, touched: dict[bytes, int]) -> Iterator[Change]:
        """Base objects with other bytes or attributes; before the first one in a directory, what else happened there.

        Args:
            touched: base directories in which names were made or hidden, and their numbers; those that were dealt with
                are taken out.
        """
        after = here = above = b""
        names: Mapping[bytes, bool] = {}
        while found := rows(self._db, _MODIFIED, (after, _PIECE), "biiiI"):
            after = found[-1][0]
            for base, ino, content, mode, links in found:
                has_several = links is not None and links > 1 and not stat.S_ISDIR(mode)
                if has_several:
                    self._several[ino] = base, Kind.MODIFIED if content else Kind.METADATA
                if base == b"/":
                    yield Change(Kind.METADATA, base, None, ino, True)
                    continue
                directory, name = split(base)
                if directory != here:
                    here, names = directory, self._listed(directory)
                    above = self._directories.path(self._directories.number(directory))
                    if (number := touched.pop(directory, None)) is not None:
                        yield from self._in(number, directory)
                if base in self._moved or ((has_several or ino in self._linked) and not self._shows(base, ino)):
                    continue
                path = join(above, name)
                is_dir = stat.S_ISDIR(mode)
                old = base if base != path else None
                if name not in names:
                    yield Change(Kind.ADDED, path, None, ino, is_dir)  # the base has lost it, and it stands by itself
                elif content and not is_dir:
                    yield Change(Kind.MODIFIED, path, old, ino, is_dir)
                else:
                    yield Change(Kind.METADATA, path, old, ino, is_dir)

    def _other_names(self) -> Iterator[Change]:
        """Other names in the base of what was changed, where they still show it."""
        links = BaseLinks(self._base, {ino: base for ino, (base, _) in self._several.items()})
        for ino, base in links.find():
            if self._shows(base, ino):
                path = self._directories.shown(base)
                yield Change(self._several[ino][1], path, base if base != path else None, ino, False)


class _Comparison:
    """Tells changes that made a difference from those that did not."""

    def __init__(self, overlay: Overlay) -> None:
        self._ov = overlay

    def real(self, change: Change) -> Change | None:
        """Return a change as it is by comparison with the base, or None where nothing differs."""
        if change.kind is Kind.RENAMED and change.also is not None:
            return change._replace(also=self._differs(change, change.old or change.path))
        if change.kind in (Kind.MODIFIED, Kind.METADATA):
            kind = self._differs(change, change.old or change.path)
            return None if kind is None else change._replace(kind=kind)
        return change

    def _differs(self, change: Change, base: bytes) -> Kind | None:
        row = self._ov.inodes.row(Ino(change.ino))  # logs a base object that cannot be read
        st = self._ov.base.find_readable(base)
        if st is None or row is None:
            return change.also or change.kind
        if stat.S_IFMT(st.st_mode) != stat.S_IFMT(row.mode):
            return Kind.TYPE
        if not change.is_dir and not self._same_bytes(row, st, base):
            return Kind.MODIFIED
        same = (row.mode, row.uid, row.gid) == (st.st_mode, st.st_uid, st.st_gid)
        same = (
            same
            and (change.is_dir or row.mtime == st.st_mtime_ns)
            and _xattrs(self._ov, row.ino) == _xattrs_of_base(self._ov, base)
        )
        return None if same else Kind.METADATA

    def _same_bytes(self, row: Row, st: os.stat_result, base: bytes) -> bool:
        if stat.S_ISLNK(row.mode):
            return self._ov.readlink(row.ino) == self._ov.base.readlink(base)
        if not stat.S_ISREG(row.mode):
            return row.rdev == st.st_rdev
        if row.size != st.st_size:
            return False
        path = self._ov.inodes.node(row.ino).path
        if path is None or row.is_own:
            return same_bytes(self._ov.content, row, self._ov.base.file(base, st), path)
        return True


def _xattrs(overlay: Overlay, ino: Ino) -> dict[bytes, bytes]:
    return {name: overlay.getxattr(ino, name) for name in overlay.listxattr(ino)}


def _xattrs_of_base(overlay: Overlay, path: bytes) -> dict[bytes, bytes]:
    """The extended attributes of a base object; none where its file system has none."""
    try:
        return {name: overlay.base.getxattr(path, name) for name in overlay.base.listxattr(path)}
    except FsError:
        return {}
