"""The names of base files that stay hidden after a reset: they say how many links each file has then.

A row that says so is kept, or made, for a file of which some names are hidden and others show.
"""

from __future__ import annotations

import stat
from collections import defaultdict
from collections.abc import Collection, Container
from typing import TYPE_CHECKING

from .model import Ino
from .reset_plan import Key
from .store.base_view import join
from .tree.base_links import files_below

if TYPE_CHECKING:
    import os

    from .overlay import Overlay

_IS_FILE = f"mode >> 12 <> {stat.S_IFDIR >> 12}"
_HAS_ROWS = (
    f"SELECT 1 FROM inode WHERE seen_links & 0xffffffff > 1 AND {_IS_FILE} UNION ALL SELECT 1 FROM renamed LIMIT 1"
)
_HIDDEN = "SELECT count(*) FROM deleted"


class HiddenLinks:
    """The hidden names of base files that have several, or are kept.

    Args:
        overlay: it is only read.
        hidden: the whiteouts that stay.
        kept: numbers of objects that have other names; what is in a directory shows there.

    Directories that are hidden are searched only if something in them may have a name that shows.

    Attributes:
        places: the hidden names (base terms) of each file, by its number.
        left: the numbers of the files of which other names show.
    """

    def __init__(self, overlay: Overlay, hidden: Collection[Key], kept: Container[int]) -> None:
        self._base = overlay.base
        self._inodes = overlay.inodes
        self._kept = kept
        self.places: dict[Ino, list[bytes]] = defaultdict(list)
        self.left: set[Ino] = set()
        # a file loses a link without a row only if all its names are hidden, or it is in a directory that was renamed
        may_hide = overlay.db.value(_HAS_ROWS) is not None or overlay.db.value(_HIDDEN) > len(hidden)
        for parent, name in hidden:
            directory = self._inodes.path(Ino(parent))
            st = self._base.find(join(directory, name)) if directory is not None else None
            if directory is None or st is None:
                continue  # another base
            if not stat.S_ISDIR(st.st_mode):
                self._note(directory, name, st)
            elif may_hide and not self._is_elsewhere(directory, name, st):
                for found in files_below(self._base, join(directory, name), self._is_elsewhere):
                    self._note(*found)

    def _is_elsewhere(self, directory: bytes, name: bytes, st: os.stat_result) -> bool:
        return stat.S_ISDIR(st.st_mode) and self._inodes.drift.ino_of(st, directory, name) in self._kept

    def _note(self, directory: bytes, name: bytes, st: os.stat_result) -> None:
        ino = self._inodes.drift.ino_of(st, directory, name)
        if st.st_nlink > 1 or ino in self._kept:
            places = self.places[ino]
            places.append(join(directory, name))
            (self.left.add if len(places) < st.st_nlink else self.left.discard)(ino)
