"""The plan of an export: an overlay as a mini_fo storage tree, and what that format cannot say.

What shows must be the same under mini_fo.  So a renamed file is a whole copy at its new place, a changed one a whole
copy at its own; only a renamed directory is an R line, beside an empty storage directory.  A D line would win over an R
line for the same name, so it is left out there: the R line hides the base name as well.

Whatever gets lost is a ``Loss``, one for each object and kind:

    metadata-only   a file whose attributes alone were changed becomes a whole copy
    xattr           extended attributes are written, but mini_fo drops them when it copies a file up
    hard-link       names of one file are separate files to mini_fo
    renamed         a directory whose old path mini_fo would misread becomes a whole copy
    name            a name with a line feed cannot be hidden: the base object shows again
    meta-name       an object with the name of mini_fo's own files cannot be shown
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from typing import NamedTuple

from ...engine import Overlay
from ...engine.lists import Lists
from ...engine.model import ROOT, Attr, Ino
from ...engine.store.base_view import join, split
from ..copying import stat_or_none
from .codec import Record, Redirect, Whiteout, misread
from .storage_tree import is_directory


class Loss(NamedTuple):
    """Something the old format cannot say: its kind (see above), where, and what becomes of it."""

    kind: str
    place: bytes
    detail: str


@dataclass(slots=True)
class Item:
    """One object of the storage tree.

    Attributes:
        place: its path, the same in the view and in storage.
        attr: its attributes.
        records: the META records of a directory.
        same: place of the first name of a file that was exported before.
    """

    place: bytes
    attr: Attr
    records: list[Record] = field(default_factory=list)
    same: bytes | None = None


class _Directory(NamedTuple):
    item: Item
    base: bytes | None  # the base directory that shows through, or None where everything is copied


class ExportPlan:
    """The items of a storage tree, directories before what is in them.

    Args:
        overlay: open, only read.
        meta_name: the name META files get.
    """

    def __init__(self, overlay: Overlay, meta_name: bytes) -> None:
        self._ov = overlay
        self._lists = Lists(overlay)
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
                    self._lose("renamed", place, f"{why or 'the base does not have it any more'}: it is copied whole")
                    through = None
            below.append(_Directory(child, through))
        item.records += self._hidden(item, base, redirects)
        item.records += redirects.values()
        return files, below

    def _hidden(self, item: Item, base: bytes | None, redirects: dict[bytes, Redirect]) -> list[Record]:
        """The D lines of a directory."""
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
                self._lose("name", join(item.place, name), f"{why}: what the base has there shows again")
        return records

    def _add_file(self, item: Item, files: list[Item], listed: bool) -> None:
        attr = item.attr
        first = self._first.setdefault(attr.ino, item.place)
        if attr.nlink > 1:
            self._lose("hard-link", item.place, "its names are separate files to mini_fo")
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
        """True if what shows at a base object's own place is not just the base's, or holds something that is not."""
        may_differ = self._lists.may_differ(attr.ino)
        if stat.S_ISDIR(attr.mode):
            return may_differ or path in self._aliases
        return may_differ and self._lists.modified(attr.ino) is not None

    def _changed_aliases(self) -> set[bytes]:
        """Base directories, up to the root, that hold another link of a changed base file."""
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
