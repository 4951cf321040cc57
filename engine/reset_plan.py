"""What a reset keeps: which names and objects of an overlay some patterns choose, and the directories that these need.

Only rows are read: names that were made, moved or hidden, and objects with other bytes or attributes.  A name is chosen
by its path in the overlay.  An object stays with all its rows if one of its names is chosen, or the place where it
stands in the base.  What was moved away from its place in the base and is kept does not show there again: it is one
object.
"""

from __future__ import annotations

import stat
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from .model import ROOT, Ino
from .store.base_view import join, split
from .store.clearing import Kept
from .store.four_lists_statements import IS_HIDDEN
from .store.typed_rows import each, rows
from .tree.base_links import BaseLinks
from .tree.directories import Directories

if TYPE_CHECKING:
    from .overlay import Overlay

_HOLDERS = "SELECT parent FROM created UNION SELECT parent FROM renamed UNION SELECT parent FROM deleted"
_IN = {table: f"SELECT name, ino FROM {table} WHERE parent = ?" for table in ("created", "renamed")}
_HIDDEN_IN = "SELECT name FROM deleted WHERE parent = ?"
_MODIFIED = "SELECT m.ino, o.path FROM modified m JOIN origin o USING (ino)"
_LINKED = (
    "SELECT m.ino, o.path FROM modified m JOIN origin o USING (ino) JOIN inode i USING (ino)"
    f" WHERE i.seen_links & 0xffffffff > 1 AND i.mode >> 12 <> {stat.S_IFDIR >> 12}"
)
_ORIGIN = "SELECT path FROM origin WHERE ino = ?"
_ORPHANS = "SELECT ino FROM orphan"
_HAS_ANCESTORS = "SELECT 1 FROM ancestor LIMIT 1"

Key = tuple[int, bytes]  # a directory's number, and a name in it


class Scope(Protocol):
    """What is chosen in one directory."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is chosen of the directory's own names."""
        ...

    def match(self, name: bytes) -> bool:
        """Return whether a name in the directory is chosen."""
        ...


class Choice(Protocol):
    """Chooses paths in the overlay, for instance by patterns (fusefront/control/patterns.py)."""

    @property
    def is_any(self) -> bool:
        """Whether there may be a path that is chosen."""
        ...

    def match(self, path: bytes) -> bool:
        """Return whether a path is chosen, but the root."""
        ...

    def scope(self, directory: bytes) -> Scope:
        """Return what is chosen in a directory, by its path."""
        ...


class Plan:
    """What some patterns keep of an overlay.

    Args:
        overlay: it may be changed by ``Moves`` only, while there is a plan.
        choice: the patterns.

    Attributes:
        chosen: the chosen names in the lists ``created``, ``renamed`` and ``deleted``.
        standing: the chosen names of base objects that stand where the base has them.
        inos: the objects of all these names.
        counted: base files of which rows are kept only because they say how many links are left; see HiddenLinks.
        names: all names in the lists that stay, with those of needed directories; see ``close``.
        needed: the directories that hold what is kept, and those above, up to the root; see ``close``.
    """

    def __init__(self, overlay: Overlay, choice: Choice) -> None:
        self._ov = overlay
        self._db = overlay.db
        self._choice = choice
        self._scopes: dict[bytes, Scope] = {}
        self.chosen: dict[str, set[Key]] = {"created": set(), "renamed": set(), "deleted": set()}
        self.standing: set[Key] = set()
        self.inos: set[Ino] = set()
        self.counted: set[Ino] = set()
        self.names: dict[str, set[Key]] = {}
        self.needed: set[Ino] = set()
        self.directories = Directories(overlay.db)
        self._hidden: dict[bytes, bytes | None] = {}  # by directory (base terms), what hides what is in it from above

    # -- what is chosen

    def read(self) -> None:
        """Find what the patterns choose.

        Raises:
            Corrupt: a row has an impossible value.
        """
        if not self._choice.is_any:
            return  # of an overlay that is damaged, too, all can be taken away
        for (parent,) in list(each(self._db, _HOLDERS, "i")):
            scope = self._scope(self.directories.path(parent))
            if not scope.is_empty:
                self._choose_in(Ino(parent), scope)
        for ino, base in each(self._db, _MODIFIED, "ib"):
            if base != b"/":
                directory, name = split(base)
                home = self.directories.number(directory)
                if self._scope(self.directories.path(home)).match(name):
                    self._choose_standing(base, ino)
        linked: dict[int, bytes] = dict(each(self._db, _LINKED, "ib"))
        for ino, base in BaseLinks(self._ov.base, linked).find() if linked else ():
            if self._choice.match(self.directories.shown(base)):
                directory, name = split(base)
                if self.directories.shown(directory) != directory:  # it may have to be moved
                    self._ov.inodes.mark(directory)
                    self.directories = Directories(self._db)
                self._choose_standing(base, ino)

    def _choose_standing(self, base: bytes, ino: int) -> None:
        if self._hidden_at(base) is None:
            parent, name = self._key(base)
            if parent:
                self.standing.add((parent, name))
            self.inos.add(Ino(ino))

    def _scope(self, path: bytes) -> Scope:
        found = self._scopes.get(path)
        if found is None:
            found = self._scopes[path] = self._choice.scope(path)
        return found

    def _choose_in(self, parent: Ino, scope: Scope) -> None:
        hidden = {name for (name,) in rows(self._db, _HIDDEN_IN, (parent,), "b")}
        pure = set(hidden)
        for table, sql in _IN.items():
            for name, ino in rows(self._db, sql, (parent,), "bi"):
                pure.discard(name)
                if scope.match(name):
                    self.chosen[table].add((parent, name))
                    self.inos.add(Ino(ino))
                    if name in hidden:
                        self.chosen["deleted"].add((parent, name))
        self.chosen["deleted"].update((parent, name) for name in pure if scope.match(name))

    def _is_hidden(self, parent: int, name: bytes) -> bool:
        return self._db.row(IS_HIDDEN, (parent, name)) is not None

    def _key(self, base: bytes) -> Key:
        directory, name = split(base)
        return self.directories.number(directory), name

    def _hidden_at(self, base: bytes) -> bytes | None:
        """Return what ``Drift.hidden_at`` does; what it says of a directory is kept until the next ``close``."""
        if self._is_hidden(*self._key(base)):
            return base
        directory = split(base)[0]
        if directory not in self._hidden:
            self._hidden[directory] = self._ov.inodes.drift.hidden_at(base)
        return self._hidden[directory]

    @property
    def is_any(self) -> bool:
        """Whether anything is kept."""
        return bool(self.inos or self.standing or any(self.chosen.values()))

    # -- what these need

    def close(self) -> None:
        """Find the directories that are needed, by the rows as they are now."""
        self.directories = Directories(self._db)
        self._hidden.clear()
        self.needed = {ROOT}
        self.names = {table: set(keys) for table, keys in self.chosen.items()}
        for keys in (*self.chosen.values(), self.standing):
            self._need(parent for parent, _ in keys)
        for ino in self.inos:
            found = rows(self._db, _ORIGIN, (ino,), "b")
            if found and found[0][0] != b"/":
                self._need_place(found[0][0])

    def _need(self, inos: Iterable[int]) -> None:
        for ino in inos:
            at: int = ino
            while at not in self.needed:
                self.needed.add(Ino(at))
                above = self.directories.above(at)
                if above is None:
                    break  # nothing leads there: what it holds is damaged, and stays so
                if self.directories.is_named(at):
                    for table in self.names:
                        self.names[table].add((above[0], above[1]))
                    found = rows(self._db, _ORIGIN, (at,), "b")
                    if found:
                        self._need_place(found[0][0])
                at = above[0]

    def _need_place(self, base: bytes) -> None:
        """Keep the place in the base of an object that is kept: what hides it there, and the directories above."""
        home, name = self._key(base)
        hidden = self._hidden_at(base)
        if hidden not in (None, base):
            return  # a directory above was removed; see ``covered``
        if hidden is not None:
            self.names["deleted"].add((home, name))
        if home:
            self._need([home])

    def covered(self) -> list[tuple[bytes, Ino]]:
        """Return the places of kept objects with other names that must be hidden: nothing else will hide them.

        A directory above was removed, with the whiteouts in it, and that it was removed is not kept.
        """
        found = []
        for ino in self.inos:
            for (base,) in rows(self._db, _ORIGIN, (ino,), "b"):
                hidden = self._hidden_at(base)
                if hidden is not None and hidden != base and self._key(hidden) not in self.chosen["deleted"]:
                    found.append((base, ino))
        return sorted(found)

    # -- what must be changed first

    def displaced(self) -> list[Ino]:
        """Return the needed directories in whose place another one belongs, but not those in others of them.

        It is so with a directory that was renamed, and with one that stands where the base has another, unless it is
        chosen itself.
        """
        found: set[Ino] = set()
        for ino in self.needed:
            if ino != ROOT and ino not in self.inos and self.directories.is_named(ino) and self._is_displaced(ino):
                found.add(ino)
        return sorted((ino for ino in found if not self._is_within(ino, found)), key=self.directories.path)

    def _is_displaced(self, ino: Ino) -> bool:
        if not self._ov.inodes.numbers.is_created(ino):
            return True
        above = self.directories.above(ino)
        return above is not None and self.has_base_directory(Ino(above[0]), above[1])

    def has_base_directory(self, parent: Ino, name: bytes) -> bool:
        """Return whether the base has a directory at a name in the base side of a directory."""
        child = self._ov.inodes.base_child(self._ov.inodes.directory(parent), name)
        return child is not None and stat.S_ISDIR(child[0].st_mode)

    def _is_within(self, ino: Ino, others: set[Ino]) -> bool:
        above = self.directories.above(ino)
        seen: set[int] = set()  # in damaged rows, directories may be in each other
        while above is not None and above[0] not in seen:
            if above[0] in others:
                return True
            seen.add(above[0])
            above = self.directories.above(above[0])
        return False

    def children(self) -> dict[int, set[bytes]]:
        """Return the names that are kept, by the number of their directory."""
        found: dict[int, set[bytes]] = defaultdict(set)
        for parent, name in (*self.names["created"], *self.names["renamed"], *self.standing):
            found[parent].add(name)
        for ino in self.needed:
            above = self.directories.above(ino) if ino != ROOT else None
            if above is not None:
                found[above[0]].add(above[1])
        return found

    # -- the rows

    def kept(self) -> Kept:
        """Return the rows that stay."""
        kept = Kept()
        kept.names = self.names
        kept.inos = {*self.inos, *self.counted, *self._open_orphans()}
        kept.places = {ROOT}
        if self.is_any:
            kept.inos |= self.needed
        if self._db.row(_HAS_ANCESTORS) is not None:
            kept.paths = self._ancestors()
        return kept

    def _open_orphans(self) -> set[Ino]:
        """Return the created files without a name that programs may have open."""
        return {Ino(ino) for (ino,) in each(self._db, _ORPHANS, "i") if self._ov.inodes.numbers.is_created(ino)}

    def _ancestors(self) -> set[bytes]:
        found = {base for ino in self.inos for (base,) in rows(self._db, _ORIGIN, (ino,), "b")}
        for keys in self.names.values():
            for parent, name in keys:
                found.update(join(base, name) for (base,) in rows(self._db, _ORIGIN, (parent,), "b"))
        return found
