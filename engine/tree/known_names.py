"""Paths of the objects that the kernel refers to, for the journal: found without a search through the tables of names.

The kernel names an object by its number when it changes it.  The tables of names are sorted by directory, so the path
of a number would cost a search through all of them.  But the kernel has looked the object up by a name before, and
this class keeps that name until the kernel forgets the object.  A kept name may be outdated; it is checked before use.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import FsError
from ..model import ROOT, Ino
from ..store.base_view import split
from ..store.database import Database
from .inodes import Inodes
from .merged_view import MergedView
from .row_checks import is_name, is_origin_path

PATH_MAX = 4095  # bytes in a path (path_resolution(7): PATH_MAX less the NUL); of a longer one the end is kept

_NAME_OF = (
    "SELECT parent, name FROM created WHERE ino = ?1 UNION ALL SELECT parent, name FROM renamed WHERE ino = ?1 LIMIT 1"
)
_DEEPEST = 2048  # directories above each other: a path of PATH_MAX has no more


class KnownNames:
    """Keeps a name of each object that was looked up.

    Args:
        db: the overlay's database; only read.
        inodes: nodes.
        view: lookups.
    """

    def __init__(self, db: Database, inodes: Inodes, view: MergedView) -> None:
        self._db = db
        self._inodes = inodes
        self._view = view
        self._names: dict[int, tuple[Ino, bytes]] = {}
        self._directories: dict[int, bytes] = {ROOT: b"/"}  # paths that were asked for, each with a slash at its end

    def saw(self, ino: int, parent: Ino, name: bytes) -> None:
        """Note that an object has a name in a directory."""
        self._names[ino] = (parent, name)

    def forget(self, ino: int) -> None:
        """Drop what is known of an object."""
        self._names.pop(ino, None)
        if ino != ROOT:
            self._directories.pop(ino, None)

    def moved(self) -> None:
        """Drop the paths of all directories, because one of them was renamed."""
        self._directories = {ROOT: b"/"}

    def learn(self, inos: Iterable[Ino]) -> list[Ino]:
        """Find and keep names of objects of which none is kept, in one search for all of them.

        Returns:
            The directories of the names that were found; of these, too, no name may be kept.
        """
        unknown = [ino for ino in inos if ino not in self._names and ino not in self._directories]
        marks = ", ".join("?" * len(unknown))
        sql = (
            f"SELECT ino, parent, name FROM created WHERE ino IN ({marks})"
            f" UNION ALL SELECT ino, parent, name FROM renamed WHERE ino IN ({marks})"
        )
        found = {ino: (parent, name) for ino, parent, name in self._db.rows(sql, unknown * 2)} if unknown else {}
        above: list[Ino] = []
        for ino in unknown:
            known: tuple[Ino, bytes] | None = found.get(ino) or self._base_name(ino)
            if known is not None and type(known[0]) is int and is_name(known[1]):
                self._names[ino] = known
                above.append(known[0])
        return above

    def clear(self) -> None:
        """Drop everything, because what happens from now on is not told."""
        self._names.clear()
        self.moved()

    def of_name(self, parent: Ino, name: bytes) -> bytes:
        """Return the path of a name in a directory, or its end if it is too long."""
        path = (self._directories.get(parent) or self._find_directory(parent)) + name
        return path if len(path) <= PATH_MAX else shortened(path)

    def of(self, ino: Ino, *, is_dir: bool) -> bytes:
        """Return a path of an object, or its end if it is too long."""
        if is_dir:
            return shortened(self._find_directory(ino)[:-1] or b"/")
        known = self._names.get(ino)
        if known is None or not self._stands_at(ino, *known):
            known = self._search(ino)
        return self.of_name(*known) if known is not None else _unknown(ino)

    def _find_directory(self, ino: Ino) -> bytes:
        """Return the path of a directory with a slash at its end, and keep it."""
        path = self._directories.get(ino)
        if path is not None:
            return path
        at = ino
        parts: list[bytes] = []
        while (above := self._directories.get(at)) is None:
            known = self._names.get(at) or self._search(at)
            if known is None or len(parts) == _DEEPEST:
                above = _unknown(at) + b"/"
                break
            at, name = known
            parts.append(name)
        path = above + b"".join(name + b"/" for name in reversed(parts))
        self._directories[ino] = path
        return path

    def _stands_at(self, ino: Ino, parent: Ino, name: bytes) -> bool:
        try:
            found = self._view.resolve(self._inodes.directory(parent), name)
        except OSError:
            return False
        return found is not None and found.node.ino == ino

    def _search(self, ino: Ino) -> tuple[Ino, bytes] | None:
        """Find a name of an object by rows, and keep it; slow, as it goes through the tables of names."""
        try:
            known = self._db.row(_NAME_OF, (ino,)) or self._base_name(ino)
        except FsError:
            return None  # the rows are damaged
        if known is None or type(known[0]) is not int or not is_name(known[1]):
            return None
        self._names[ino] = known
        return known

    def _base_name(self, ino: Ino) -> tuple[Ino, bytes] | None:
        """Return directory and name of a base object that was changed: it is in ``origin``, and so is its directory."""
        path = self._db.value("SELECT path FROM origin WHERE ino = ?", (ino,))
        if not is_origin_path(path) or path == b"/":
            return None
        directory, name = split(path)
        parent = self._db.value("SELECT ino FROM origin WHERE path = ?", (directory,))
        return None if parent is None else (parent, name)


def shortened(path: bytes) -> bytes:
    """Return a path of at most ``PATH_MAX`` bytes: of a longer one its last names, which begin without a slash."""
    return path if len(path) <= PATH_MAX else path[-PATH_MAX:].partition(b"/")[2]


def _unknown(ino: int) -> bytes:
    return b"<inode %d>" % ino
