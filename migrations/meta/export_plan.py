"""The plan of an export: the objects of a mini_fo storage tree for an overlay, and what that format cannot express.

mini_fo must show the same tree as the overlay.  So a renamed file becomes a complete copy at its new path, and a
changed file one at its own path; only a renamed directory becomes an R line and an empty storage directory.  mini_fo
would let a D line win over an R line for the same name, so that D line is left out; the R line hides the base name,
too.

Everything that is lost is a ``Loss``, one for each object and kind:

    metadata-only   a file of which only attributes were changed becomes a complete copy
    xattr           extended attributes are written, but mini_fo drops them when it copies a file up
    hard-link       mini_fo treats the names of one file as separate files
    renamed         a directory whose old path mini_fo would misread becomes a complete copy
    name            a name with a line feed cannot be hidden: the base object shows again
    meta-name       an object with the name of META files cannot be shown
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from typing import NamedTuple

from ...engine import Overlay
from ...engine.model import ROOT, Attr, Ino
from ...engine.queries.four_lists import FourLists
from ...engine.store.base_view import join, split
from ..copying import stat_or_none
from .codec import Record, Redirect, Whiteout, misread
from .storage_tree import is_directory


class Loss(NamedTuple):
    """Something that the old format cannot express: its kind (see above), its path, and what becomes of it."""

    kind: str
    place: bytes
    detail: str


@dataclass(slots=True)
class Item:
    """One object of the storage tree.

    Attributes:
        place: its path, which is the same in the merged view and in storage.
        attr: its attributes.
        records: the META records of a directory.
        same: for a further name of a file: the place of its first name; else None.
    """

    place: bytes
    attr: Attr
    records: list[Record] = field(default_factory=list)
    same: bytes | None = None


class _Directory(NamedTuple):
    item: Item
    base: bytes | None  # the base directory whose entries it shows; None if everything in it is copied


class ExportPlan:
    """The items of a storage tree, each directory before its entries.

    Args:
        overlay: the open overlay; it is only read.
        meta_name: the name for META files.

    Attributes:
        items: the objects of the storage tree.
        losses: what the old format cannot express.
    """

    def __init__(self, overlay: Overlay, meta_name: bytes) -> None:
        self._ov = overlay
        self._lists = FourLists(overlay)
        self._meta_name = meta_name
        self._first: dict[int, bytes] = {}
        self._aliases = self._changed_aliases()
        self.losses: list[Loss] = []
        self.items = list(self._walk())

    def _walk(self) -> list[Item]:
        root = _Directory(Item(b"/", self._ov.getattr(ROOT)), b"/")
        items = []
        pending = [root]
        while pending:
            directory = pending.pop()
            items.append(directory.item)
            self._check_xattrs(directory.item)
            files, below = self._children(directory)
            items += files
            pending += reversed(below)
        return items

    def _children(self, directory: _Directory) -> tuple[list[Item], list[_Directory]]:
        """Return the items for the files in a directory, and its subdirectories that differ from the base."""
        item, base = directory.item, directory.base
        ov, ino = self._ov, item.attr.ino
        created, renamed = self._lists.created(ino), self._lists.renamed(ino)
        files: list[Item] = []
        below: list[_Directory] = []
        redirects: dict[bytes, Redirect] = {}
        entries = [(e.name, e.attr) for e in ov.readdir(Ino(ino)) if e.name not in (b".", b"..")]
        for name, attr in sorted(entries):
            place = join(item.place, name)
            if name == self._meta_name:
                self._lose("meta-name", place, "mini_fo shows nothing of this name")
                continue
            listed = name in created or name in renamed
            if not listed and base is not None and not self._is_changed(join(base, name), attr):
                continue
            child = Item(place, attr)
            if not stat.S_ISDIR(attr.mode):
                self._add_file(child, files, listed)
                continue
            through = None if name in created or (base is None and not listed) else self._lists.origin(attr.ino)
            if name in renamed and through is not None:
                redirect = Redirect(through, name)
                why = misread(redirect)
                if why is None and is_directory(stat_or_none(ov.base, through)):
                    redirects[name] = redirect
                else:
                    self._lose("renamed", place, f"{why or 'the base no longer has it'}: it becomes a complete copy")
                    through = None
            below.append(_Directory(child, through))
        item.records += self._hidden(item, base, redirects)
        item.records += redirects.values()
        return files, below

    def _hidden(self, item: Item, base: bytes | None, redirects: dict[bytes, Redirect]) -> list[Record]:
        """Return the D records of a directory."""
        if base is None:
            return []
        records: list[Record] = []
        for name in self._lists.deleted(item.attr.ino):
            under = stat_or_none(self._ov.base, join(base, name))
            if name in redirects or name == self._meta_name or under is None:
                continue
            why = misread(Whiteout(name))
            if why is None:
                records.append(Whiteout(name))
            else:
                self._lose("name", join(item.place, name), f"{why}: the base object with this name shows again")
        return records

    def _add_file(self, item: Item, files: list[Item], listed: bool) -> None:
        """Add an item for a file, and the losses that it causes."""
        attr = item.attr
        first = self._first.setdefault(attr.ino, item.place)
        if attr.nlink > 1:
            self._lose("hard-link", item.place, "mini_fo treats its names as separate files")
        if first != item.place:
            item.same = first
        elif stat.S_ISREG(attr.mode) and not listed and self._lists.modified(attr.ino) is False:
            self._lose("metadata-only", item.place, "only attributes were changed; its content is copied as well")
        self._check_xattrs(item)
        files.append(item)

    def _check_xattrs(self, item: Item) -> None:
        names = self._ov.listxattr(Ino(item.attr.ino))
        if names:
            self._lose("xattr", item.place, b", ".join(sorted(names)).decode("utf-8", "backslashreplace"))

    def _lose(self, kind: str, place: bytes, detail: str) -> None:
        self.losses.append(Loss(kind, place, detail))

    # -- what has changed

    def _is_changed(self, path: bytes, attr: Attr) -> bool:
        """Return whether the object at a base path differs from the base's, or is a directory with such an object."""
        may_differ = self._lists.may_differ(attr.ino)
        if stat.S_ISDIR(attr.mode):
            return may_differ or path in self._aliases
        return may_differ and self._lists.modified(attr.ino) is not None

    def _changed_aliases(self) -> set[bytes]:
        """Return the base directories that have a further hard link of a changed base file, and those above them."""
        ov = self._ov
        changed = set()
        for file in self._lists.modified_files():
            st = stat_or_none(ov.base, file.path)
            if st is not None and st.st_nlink > 1:
                changed.add(file.ino)
        found: set[bytes] = set()
        pending = [b"/"] if changed else []
        while pending:
            directory = pending.pop()
            for name in ov.base.names(directory):
                path = join(directory, name)
                st = ov.base.stat(path)
                if is_directory(st):
                    pending.append(path)
                elif st.st_nlink > 1 and self._lists.number_of(st) in changed:
                    while directory not in found:
                        found.add(directory)
                        directory = split(directory)[0]
                    directory = split(path)[0]
        return found
