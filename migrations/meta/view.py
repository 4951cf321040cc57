"""The view that mini_fo would show: its lookup and its directory listing, over a storage tree that is only read.

This is a model of the kernel module's rules, which an import or export is compared with.  It is independent of the
importer: it decides about one name at a time from base, storage and META files, and knows no steps and no rows.  It
differs from the module in one point: a name that the module listed and could not open, or opened and did not list,
counts as shown.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ...engine import Overlay
from ...engine.model import ROOT, Attr, Ino, State
from ...engine.queries.four_lists import FourLists
from ...engine.store.base_view import BaseView, join
from ...engine.store.syscalls import data_ranges
from ...engine.tree.row_checks import is_name
from ..copying import pieces, pieces_in, xattrs_of
from .codec import Redirect, Whiteout, kernel_lists
from .storage_tree import LegacyTree, is_directory


class Shown(NamedTuple):
    """One object of the merged view.

    Attributes:
        state: mini_fo's word for the object.
        base: the path of its base side (base terms), or None.
        stored: the path of its storage side, or None.  If the object has a storage side, that has its attributes and
            bytes.
    """

    state: State
    base: bytes | None
    stored: bytes | None


class LegacyView:
    """The merged view of a mini_fo mount.

    Args:
        tree: the mini_fo storage over its base.
        intent: True to let the R line count if a name has both a D and an R line; False to let the D line count.
    """

    root = Shown(State.MODIFIED, b"/", b"/")

    def __init__(self, tree: LegacyTree, *, intent: bool = False) -> None:
        self._tree = tree
        self._intent = intent

    def lookup(self, directory: Shown, name: bytes) -> Shown | None:
        """Return the object that mini_fo showed for a name in a directory, or None if it showed none."""
        if name == self._tree.meta_name:
            return None
        stored: bytes | None = None
        whiteout = False
        redirect: bytes | None = None
        if directory.stored is not None:
            hidden, moved = kernel_lists(self._tree.meta(directory.stored).records)
            whiteout = Whiteout(name) in hidden
            redirect = next((record.old for record in moved if record.new == name), None)
            place = join(directory.stored, name)
            stored = place if self._tree.stat(place) is not None else None
        if redirect is not None and not is_directory(self._tree.base_stat(redirect)):
            if stored is not None:
                return Shown(State.CREATED, None, stored)
            redirect = None
        if redirect is not None and whiteout and self._intent:
            whiteout = False
        base = redirect
        if base is None and directory.base is not None:
            base = join(directory.base, name)
            base = base if self._tree.base_stat(base) is not None else None
        return self._decide(base, stored, whiteout)

    def _decide(self, base: bytes | None, stored: bytes | None, whiteout: bool) -> Shown | None:
        if stored is None:
            return None if whiteout or base is None else Shown(State.UNMODIFIED, base, None)
        if base is None:
            return Shown(State.CREATED, None, stored)
        if whiteout:
            return Shown(State.DEL_REWRITTEN, None, stored)
        # only a directory in storage over a directory in the base shows the base side, too
        both = is_directory(self._tree.base_stat(base)) and is_directory(self._tree.stat(stored))
        return Shown(State.MODIFIED, base if both else None, stored)

    def entries(self, directory: Shown) -> Iterator[tuple[bytes, Shown]]:
        """Yield each name that mini_fo showed in a directory, with its object."""
        names: dict[bytes, None] = {}
        if directory.stored is not None:
            names.update(dict.fromkeys(self._tree.names(directory.stored)))
            records = self._tree.meta(directory.stored).records
            names.update(dict.fromkeys(record.new for record in records if isinstance(record, Redirect)))
        if directory.base is not None:
            names.update(dict.fromkeys(self._tree.base.names(directory.base)))
        for name in names:
            shown = self.lookup(directory, name) if is_name(name) else None
            if shown is not None:
                yield name, shown

    def side(self, shown: Shown) -> tuple[BaseView, bytes]:
        """Return the tree and the path of the object whose attributes and bytes mini_fo showed."""
        if shown.stored is not None:
            return self._tree.storage, shown.stored
        assert shown.base is not None
        return self._tree.base, shown.base


class Difference(NamedTuple):
    """One difference between mini_fo's view and an overlay.

    Attributes:
        place: the object.
        what: the property that differs: ``presence``, ``mode``, ``content``, ...
        legacy: its value in mini_fo's view.
        overlay: its value in the overlay.
    """

    place: bytes
    what: str
    legacy: object
    overlay: object


class Comparison(NamedTuple):
    """The result of a comparison: the number of entries compared, how many are unmodified in both, the differences."""

    entries: int
    untouched: int
    differences: list[Difference]


def compare(view: LegacyView, overlay: Overlay, progress: Callable[[int], None] = lambda count: None) -> Comparison:
    """Compare mini_fo's view with an overlay, entry by entry: names, types, attributes, xattrs and every byte.

    An object that is unmodified in both, and has the same base object, is not read: it cannot differ.

    Args:
        view: the view of mini_fo.
        overlay: the overlay; it must be newly opened.
        progress: called from time to time with the number of entries compared.
    """
    lists = FourLists(overlay)
    differences: list[Difference] = []
    entries = untouched = 0
    differences += _object(view, view.root, overlay, overlay.getattr(ROOT), b"/")
    pending = [(view.root, ROOT, b"/")]
    while pending:
        directory, ino, place = pending.pop()
        expected = dict(view.entries(directory))
        found = {entry.name: entry.attr for entry in overlay.readdir(ino) if entry.name not in (b".", b"..")}
        for name in sorted(expected.keys() | found.keys()):
            entries += 1
            if not entries % 256:
                progress(entries)
            path = join(place, name)
            if name not in found or name not in expected:
                shown = expected.get(name)
                differences.append(
                    Difference(path, "presence", shown.state.value if shown else None, name in found or None)
                )
                continue
            shown, attr = expected[name], found[name]
            if shown.stored is None and not lists.may_differ(attr.ino) and lists.origin(attr.ino) == shown.base:
                untouched += 1
                continue
            differences += _object(view, shown, overlay, attr, path)
            if stat.S_ISDIR(attr.mode) and is_directory(_stat(view, shown)):
                pending.append((shown, Ino(attr.ino), path))
    progress(entries)
    return Comparison(entries, untouched, differences)


def _stat(view: LegacyView, shown: Shown) -> os.stat_result:
    tree, path = view.side(shown)
    return tree.stat(path)


def _object(view: LegacyView, shown: Shown, overlay: Overlay, attr: Attr, place: bytes) -> list[Difference]:
    """Return the differences between one object of mini_fo's view and the same object of the overlay."""
    tree, path = view.side(shown)
    st = tree.stat(path)
    pairs: list[tuple[str, object, object]] = [
        ("mode", oct(st.st_mode), oct(attr.mode)),
        ("uid", st.st_uid, attr.uid),
        ("gid", st.st_gid, attr.gid),
        ("mtime", st.st_mtime_ns, attr.mtime),
    ]
    ino = Ino(attr.ino)
    if stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode):
        pairs.append(("rdev", st.st_rdev, attr.rdev))
    if st.st_mode == attr.mode:
        if stat.S_ISLNK(st.st_mode):
            pairs.append(("target", tree.readlink(path), overlay.readlink(ino)))
        elif stat.S_ISREG(st.st_mode):
            pairs.append(("size", st.st_size, attr.size))
            if st.st_size == attr.size:
                pairs.append(("content", _digest_of_file(tree, path), _digest_in_overlay(overlay, ino, attr.size)))
    own = {name: overlay.getxattr(ino, name) for name in overlay.listxattr(ino)}
    pairs.append(("xattrs", xattrs_of(tree, path), own))
    return [Difference(place, what, legacy, ours) for what, legacy, ours in pairs if legacy != ours]


def _digest_of_file(tree: BaseView, path: bytes) -> str:
    fd = tree.file(path)
    size = os.fstat(fd).st_size
    return _digest(pieces(data_ranges(fd, 0, size), lambda at, count: os.pread(fd, count, at)))


def _digest_in_overlay(overlay: Overlay, ino: Ino, size: int) -> str:
    return _digest(pieces_in(overlay, ino, size))


def _digest(found: Iterator[tuple[int, bytes]]) -> str:
    digest = hashlib.blake2b()
    for at, data in found:
        digest.update(b"%d:%d:" % (at, len(data)))
        digest.update(data)
    return digest.hexdigest()
