"""What a layer of another system must hold so that it shows, over the same base, what an overlay shows.

A *layer* is a tree of objects that lies over a lower tree: a directory merges with the lower directory of the same
path, unless it is *opaque*; any other object hides what lies below; a *whiteout* is a name that does not show.  Not all
of these systems can say that an object of the base shows elsewhere, so what was renamed is in the layer as a whole.

A base file with several names shows at each of them.  If it was changed, all names that still show are in the layer, as
names of one file.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ...engine import Overlay
from ...engine.model import ROOT, Attr, Ino
from ...engine.queries.four_lists import FourLists
from ...engine.store.base_view import join, split
from ...engine.tree.base_links import BaseLinks
from ..copying import stat_or_none


class Item(NamedTuple):
    """One object or one whiteout of a layer.

    Attributes:
        place: its path in the merged tree.
        attr: its attributes; None for a whiteout.
        opaque: of a directory: the base has an object with this path, of which nothing shows.
        same: of a further name of a file: the place of its first name; else None.
    """

    place: bytes
    attr: Attr | None
    opaque: bool = False
    same: bytes | None = None


@dataclass(slots=True)
class _Names:
    """The names of a file with several: the first one, how many there were so far, and how many there are."""

    first: bytes
    seen: int
    links: int


class LayerTree:
    """The items of one layer.

    Args:
        overlay: nothing of it may change meanwhile.
        whole: True for the merged tree: all that shows, and no whiteouts.
    """

    def __init__(self, overlay: Overlay, *, whole: bool = False) -> None:
        self._ov = overlay
        self._lists = FourLists(overlay)
        self._whole = whole
        self._names: dict[int, _Names] = {}
        self._searched = set() if whole else self._with_other_names()

    def items(self) -> Iterator[Item]:
        """Yield all items: a directory before what is in it, the names of one directory sorted.

        Raises:
            OSError: base or storage cannot be read.
        """
        self._names.clear()
        pending = [(b"/", self._ov.getattr(ROOT), not self._whole)]
        while pending:
            place, attr, reaches = pending.pop()
            under = stat_or_none(self._ov.base, place) if reaches else None
            merges = under is not None and stat.S_ISDIR(under.st_mode) and self._lists.origin(attr.ino) == place
            yield Item(place, attr, under is not None and not merges)
            below: list[tuple[bytes, Attr, bool]] = []
            shown = set()
            for name, found in self._entries(attr.ino):
                shown.add(name)
                path = join(place, name)
                if stat.S_ISDIR(found.mode):
                    if not merges or self._may_differ(found, path):
                        below.append((path, found, merges))
                elif not merges or not self._ov.is_unchanged(Ino(found.ino)):
                    yield Item(path, found, same=self._first(path, found))
            if merges:
                for name in self._lists.deleted(attr.ino):
                    path = join(place, name)
                    if name not in shown and stat_or_none(self._ov.base, path) is not None:
                        yield Item(path, None)
            pending += reversed(below)

    def separated(self) -> Iterator[bytes]:
        """Yield the first name of each file that has names outside of the layer: there they are another file.

        Call this after all items are there.
        """
        for names in self._names.values():
            if names.seen < names.links:
                yield names.first

    def _entries(self, directory: int) -> list[tuple[bytes, Attr]]:
        entries = self._ov.readdir(Ino(directory))
        return sorted((entry.name, entry.attr) for entry in entries if entry.name not in (b".", b".."))

    def _may_differ(self, attr: Attr, path: bytes) -> bool:
        return self._lists.may_differ(attr.ino) or path in self._searched

    def _first(self, path: bytes, attr: Attr) -> bytes | None:
        """Return the place of the first name of a file, or None if this is it."""
        if attr.nlink < 2:
            return None
        names = self._names.get(attr.ino)
        if names is None:
            self._names[attr.ino] = _Names(path, 1, attr.nlink)
            return None
        names.seen += 1
        return names.first

    def _with_other_names(self) -> set[bytes]:
        """Return the base directories that have another name of a base file with a row, and those above them."""
        found: set[bytes] = set()
        for _, path in BaseLinks(self._ov.base, self._lists.with_several_names()).find():
            above = split(path)[0]
            while above not in found:
                found.add(above)
                above = split(above)[0]
        return found
