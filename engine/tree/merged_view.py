"""The merged view: how overlay rows and the base combine into what a directory shows.

For one name the order is: ``created``, ``renamed``, ``deleted`` (nothing shows), the base.  A directory without overlay
state (``Node.state`` False) is read from the base alone, without SQL.

Listings carry a stable cookie for each name, a keyed hash of it, so that reading a directory while it changes neither
skips nor repeats a name that stays, without any state for each open directory.  A few listings are kept sorted by
cookie and follow the changes made to them.

Where the base is another one than the overlay was made over (tree/drift.py), a base object that is gone still shows
if the overlay holds enough of it: bytes of its own, or a directory with something in it that shows.  What does not show
keeps its rows.  A listing never fails for one entry.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

from ..errors import FsError
from ..model import NAME_MAX, Attr, DirEntry, Ino
from ..store.base_view import BaseView, join
from ..store.database import Database
from ..store.list_statements import IS_HIDDEN
from .content import Content
from .inode_rows import Row
from .inodes import Inodes
from .nodes import Node
from .readahead import ReadAhead
from .row_checks import is_name, named, number_of

log = logging.getLogger(__name__)

_FIRST_COOKIE = 3  # 1 and 2 are "." and ".."
_COOKIES = (1 << 62) - 1
_PIECE = 64  # names
_KEPT_NAMES = 20_000  # names in kept listings, all together, but for the one read last

_PLACE = (
    "SELECT ino, 1 FROM created WHERE parent = ?1 AND name = ?2"
    " UNION ALL SELECT ino, 2 FROM renamed WHERE parent = ?1 AND name = ?2"
    " UNION ALL SELECT 0, 0 FROM deleted WHERE parent = ?1 AND name = ?2"
    " UNION ALL SELECT ino, 3 FROM origin WHERE path = ?3"
)
_NAMES, _PATHS = (", ".join(f"?{n}" for n in range(first, first + _PIECE)) for first in (3, 3 + _PIECE))
# the same for many names, whose directory's path has ?2 bytes with the slash; of two that are found the last one counts
_PLACES = (
    f"SELECT substr(path, ?2 + 1), ino, 3 FROM origin WHERE path IN ({_PATHS})"
    f" UNION ALL SELECT name, 0, 0 FROM deleted WHERE parent = ?1 AND name IN ({_NAMES})"
    f" UNION ALL SELECT name, ino, 2 FROM renamed WHERE parent = ?1 AND name IN ({_NAMES})"
    f" UNION ALL SELECT name, ino, 1 FROM created WHERE parent = ?1 AND name IN ({_NAMES})"
)


_MADE = "SELECT name, ino FROM created WHERE parent = ?1 UNION ALL SELECT name, ino FROM renamed WHERE parent = ?1"


def _hash_cookie(name: bytes) -> int:
    return (hash(name) & _COOKIES) + _FIRST_COOKIE


def _digest_cookie(name: bytes) -> int:
    return (int.from_bytes(blake2b(name, digest_size=8).digest(), "big") & _COOKIES) + _FIRST_COOKIE


# Python's own hash of bytes is keyed and fast, but has only 32 bits on small machines
cookie_of = _hash_cookie if sys.hash_info.width == 64 else _digest_cookie


Kind = Literal["created", "renamed", "base"]

# What ``Ref`` says, and what the base says where it was asked; a plain tuple, for it is made for each name looked at.
_Found = tuple[Kind, Node, Row | os.stat_result, os.stat_result | None]


class Ref(NamedTuple):
    """What stands at a name: which list (or the base) put it there, its node and its attributes."""

    kind: Kind
    node: Node
    held: Row | os.stat_result


class MergedView:
    """Look-ups and listings of the merged tree.

    Args:
        db: the overlay's database.
        base: the base view.
        inodes: rows and nodes.
        content: file bytes (for st_blocks).
    """

    def __init__(self, db: Database, base: BaseView, inodes: Inodes, content: Content) -> None:
        self._db = db
        self._base = base
        self._inodes = inodes
        self._content = content
        self.ahead = ReadAhead(base, cookie_of)
        self._listings: OrderedDict[Ino, list[tuple[int, bytes]]] = OrderedDict()
        self._kept = 0
        self._free: tuple[Ino, bytes] | None = None  # a name that was looked for and not found, last
        self._standing: set[Ino] = set()  # gone from the base, and shown all the same, as long as this mount lasts

    # -- one name

    def check_name(self, name: bytes) -> None:
        """Refuse what cannot be a name.

        Raises:
            FsError: ENAMETOOLONG above 255 bytes; EINVAL for an empty one, or one with a slash or a NUL.
        """
        if len(name) > NAME_MAX:
            raise FsError(errno.ENAMETOOLONG)
        if not name or b"/" in name or b"\0" in name:
            raise FsError(errno.EINVAL)

    def resolve(self, directory: Node, name: bytes) -> Ref | None:
        """What stands at *name*, or None; cheap right after a look-up that found nothing.

        So begins what makes a name: the kernel looks first whether it is free.
        """
        if (directory.ino, name) == self._free:
            return None
        found = self._find(directory, name)
        return Ref._make(found[:3]) if found is not None else None

    def lookup(self, directory: Node, name: bytes) -> Attr | None:
        """The attributes of what stands at *name*, or None."""
        found = self._find(directory, name)
        if found is None:
            self._free = (directory.ino, name)
            return None
        _, node, held, st = found
        return self.attr(held, node, st)

    def attr(self, held: Row | os.stat_result, node: Node, st: os.stat_result | None = None) -> Attr:
        """The attributes users see, from a row or a base object's own.

        Args:
            held: row or attributes.
            node: the object.
            st: what the base says of an object with a row, where that has just been looked up.
        """
        if not isinstance(held, Row):
            return self._inodes.attr_of_base(held, node.ino, dead=node.dead)
        if stat.S_ISREG(held.mode):
            blocks = self._content.blocks(held, node.path, st)
        else:
            blocks = held.size + 511 >> 9 if node.is_dir else 0
        return held.attr(blocks)

    def _find(self, directory: Node, name: bytes) -> _Found | None:
        if directory.dead:
            return None
        place = None
        if directory.state:
            path = directory.path
            place = self._db.row(_PLACE, (directory.ino, name, None if path is None else join(path, name)))
        return self._at(directory, name, place)

    def _at(self, directory: Node, name: bytes, place: tuple[Any, ...] | None) -> _Found | None:
        """What stands at *name*, by the answer of ``_PLACE``."""
        if place is not None:
            ino, kind = place
            if kind == 0:
                return None
            if kind == 3:
                return self._at_own_place(directory, name, Ino(ino))
            node = self._inodes.node_in(number_of(ino), directory)
            held = self._inodes.attributes(node)
            if node.ino not in self._inodes.drift.gone or self._stands(node):
                return ("created" if kind == 1 else "renamed"), node, held, None
            return self._beneath(directory, name)
        child = self._inodes.base_child(directory, name)
        if child is None:
            return None
        st, number = child
        assert directory.path is not None
        return self._base_node(directory, directory.path, name, st, number)

    def _beneath(self, directory: Node, name: bytes) -> _Found | None:
        """What stands at a name that was given to an object which does not show."""
        if directory.path is None or self._db.value(IS_HIDDEN, (directory.ino, name)) is not None:
            return None
        ino = self._db.value("SELECT ino FROM origin WHERE path = ?", (join(directory.path, name),))
        return self._at(directory, name, (ino, 3) if ino is not None else None)

    def _at_own_place(self, directory: Node, name: bytes, ino: Ino) -> _Found | None:
        """What stands where the base has, or had, an object with overlay state.

        It is found by its place, so that it is found again in a base whose inode numbers have changed.
        """
        assert directory.path is not None
        inodes, drift = self._inodes, self._inodes.drift
        place = directory.path, name
        st = self._base.find(join(directory.path, name))
        row = inodes.row(ino, st)
        if row is None and (st is None or not stat.S_ISDIR(st.st_mode)):
            drift.gone.add(ino)  # a directory that leads to changes
        if ino in drift.gone:
            node = inodes.found(ino, place, directory.ino, row is None or stat.S_ISDIR(row.mode), True)
            if self._stands(node):
                return "base", node, inodes.attributes(node), None
            inodes.drop_node(ino)
            if st is None:
                return None
            drift.superseded[join(directory.path, name)] = ino
            return self._base_node(directory, *place, st, drift.number(st, *place))
        if st is None:
            return None
        node = inodes.found(ino, place, directory.ino, stat.S_ISDIR(st.st_mode), True)
        return "base", node, row if row is not None else st, st

    def _stands(self, node: Node) -> bool:
        """True where what the overlay holds of an object that is gone from the base is enough to show it."""
        if node.ino not in self._standing:
            if not self._inodes.drift.stands(self._inodes.row(node.ino)) and not (node.is_dir and self._listing(node)):
                return False
            self._standing.add(node.ino)
        return True

    def _base_node(self, directory: Node, place: bytes, name: bytes, st: os.stat_result, ino: Ino) -> _Found:
        is_dir = stat.S_ISDIR(st.st_mode)
        state = False
        row: Row | None = None
        if not is_dir and st.st_nlink > 1:
            # another link of this inode may have been changed, in any directory
            state = self._db.value("SELECT 1 FROM origin WHERE ino = ?", (ino,)) is not None
            row = self._inodes.row(ino, st) if state else None
        node = self._inodes.found(ino, (place, name), directory.ino, is_dir, state)
        return "base", node, row if row is not None else st, st

    # -- listings

    def names(self, directory: Node) -> list[bytes]:
        """All names a directory shows, in no particular order."""
        if directory.dead:
            return []
        base = self._base_path(directory)
        names = self._base.names(base) if base is not None else []
        if not directory.state:
            return names
        hidden = {name for (name,) in self._db.rows("SELECT name FROM deleted WHERE parent = ?", (directory.ino,))}
        kept = self._kept_names(directory, names, hidden)
        if hidden:
            names = [name for name in names if name not in hidden]
        made = named(self._db.rows(_MADE, (directory.ino,)))
        if made or kept:
            self._inodes.fetch([ino for _, ino in made if not self._inodes.numbers.is_created(ino)])
            # a base that was changed underneath may show a name of ours as well: ours wins
            shown = dict.fromkeys(name for name, ino in made if self._shows(ino, directory))
            names = list(dict.fromkeys(names) | dict.fromkeys(kept) | shown)
        return names

    def _base_path(self, directory: Node) -> bytes | None:
        """A directory's base side (base terms), or None where there is none, or this base does not have it."""
        if directory.path is not None and directory.state:
            self._inodes.attributes(directory)  # tells whether it is gone
        return None if directory.ino in self._inodes.drift.gone else directory.path

    def _kept_names(self, directory: Node, names: list[bytes], hidden: set[bytes]) -> list[bytes]:
        """The names of objects that this base lacks at their own places there, and that show all the same."""
        if directory.path is None:
            return []
        origins = self._inodes.drift.origins_in(directory.path)
        if origins:
            for name in names:
                origins.pop(name, None)
        return [
            name
            for name, ino in origins.items()
            if name not in hidden and is_name(name) and self._is_at_own_place(directory, name, ino)
        ]

    def _is_at_own_place(self, directory: Node, name: bytes, ino: Ino) -> bool:
        try:
            return self._at_own_place(directory, name, ino) is not None
        except FsError:
            return True  # its row is damaged: it is listed, and to use it gives the error

    def _shows(self, ino: Ino, directory: Node) -> bool:
        """True for an object that has a name in a directory, unless it is gone from the base with all that showed."""
        if self._inodes.numbers.is_created(ino):
            return True
        try:
            self._inodes.row(ino)  # tells whether it is gone
            return ino not in self._inodes.drift.gone or self._stands(self._inodes.node_in(ino, directory))
        except FsError:
            return True  # its row is damaged: it is listed, and to use it gives the error

    def few_names(self, directory: Node, most: int) -> list[bytes] | None:
        """All names a directory shows, or None if there may be more than *most*."""
        base = self._base_path(directory) if not directory.dead else None
        if base is not None and self._base.may_have_more(base, most):
            return None
        count = "SELECT count(*) FROM (SELECT 1 FROM created WHERE parent = ?1 LIMIT ?2)"
        if directory.state and self._db.value(count, (directory.ino, most + 1)) > most:
            return None
        names = self.names(directory)
        return names if len(names) <= most else None

    def is_empty(self, directory: Node) -> bool:
        """True if a directory shows no name."""
        return not self._listing(directory)

    def readdir(self, directory: Node, after: int) -> Iterator[DirEntry]:
        """The entries after a cookie; 0 starts at ``.``."""
        if after < 1:
            yield DirEntry(b".", self.attr(self._inodes.attributes(directory), directory), 1)
        if after < 2:
            parent = self._inodes.node(directory.parent)
            yield DirEntry(b"..", self.attr(self._inodes.attributes(parent), parent), 2)
        listing = self._listing(directory)
        start = bisect_left(listing, (after + 1, b""))
        if start == 0 and not directory.state and directory.path is not None:
            self.ahead.listed(directory.path, listing)
        while start < len(listing):
            # what one reply has room for: a directory of any size is read in pieces
            piece = listing[start : start + _PIECE]
            start += _PIECE
            if directory.dead:
                return
            if not directory.state and directory.path is not None:
                yield from self._base_entries(directory, directory.path, piece)
            else:
                yield from self._merged_entries(directory, piece)

    def _merged_entries(self, directory: Node, entries: list[tuple[int, bytes]]) -> Iterator[DirEntry]:
        """The entries of a directory that may have overlay state, with few queries for all of them."""
        places: dict[bytes, tuple[Ino, int]] = {}
        seen = -1
        for cookie, name in entries:
            if self._db.operations != seen:  # also when something was changed since the last one was taken
                seen = self._db.operations
                places = self._places(directory, [name for _, name in entries])
            try:
                found = self._at(directory, name, places.get(name))
                attr = self.attr(found[2], found[1], found[3]) if found is not None else None
            except OSError as error:
                attr = self._stand_in(directory, name, error)
            if attr is not None:
                yield DirEntry(name, attr, cookie)

    def _places(self, directory: Node, names: list[bytes]) -> dict[bytes, tuple[Ino, int]]:
        """The answers of ``_PLACE`` for up to ``_PIECE`` names; the rows of what stands there are at hand, too."""
        prefix = join(directory.path, b"") if directory.path is not None else None
        paths = [prefix + name for name in names] if prefix is not None else []
        missing = [None] * (_PIECE - len(names))
        values = (directory.ino, len(prefix or b""), *names, *missing, *paths, *[None] * (_PIECE - len(paths)))
        places = {name: (Ino(ino), kind) for name, ino, kind in self._db.rows(_PLACES, values)}
        self._inodes.fetch([ino for ino, kind in places.values() if kind])
        return places

    def _base_entries(self, directory: Node, path: bytes, entries: list[tuple[int, bytes]]) -> Iterator[DirEntry]:
        """The same for a directory without overlay state."""
        cookies = {name: cookie for cookie, name in entries}
        for name, st in self._base.children(path, cookies):
            if isinstance(st, OSError):
                yield DirEntry(name, self._stand_in(directory, name, st), cookies[name])
                continue
            _, node, held, _ = self._base_node(directory, path, name, st, self._inodes.drift.number(st, path, name))
            yield DirEntry(name, self.attr(held, node), cookies[name])

    def _stand_in(self, directory: Node, name: bytes, error: OSError) -> Attr:
        """Attributes to list a name with whose own cannot be read; to use it gives the error.

        A link count of 0 tells them from all others that are listed: nobody is to keep them.
        """
        place = join(directory.path, name) if directory.path is not None else b"%d/%b" % (directory.ino, name)
        log.warning("%s cannot be read: %s", os.fsdecode(place), error.strerror)
        ino = self._inodes.numbers.unused(int.from_bytes(blake2b(place, digest_size=8).digest(), "big"))
        own = (directory.path, name) if directory.path is not None else None
        self._inodes.found(ino, own, directory.ino, False, False)
        return Attr(ino, stat.S_IFREG, 0, 0, 0, 0, 0, 0, 0, 0, 0)

    def _listing(self, directory: Node) -> list[tuple[int, bytes]]:
        ino = directory.ino
        listing = self._listings.get(ino)
        if listing is None:
            listing = sorted((cookie_of(name), name) for name in self.names(directory))
            self._listings[ino] = listing
            self._kept += len(listing)
            while self._kept > _KEPT_NAMES and len(self._listings) > 1:
                self._kept -= len(self._listings.popitem(last=False)[1])
        else:
            self._listings.move_to_end(ino)
        return listing

    def appeared(self, directory: Node, name: bytes) -> None:
        """Note that the running operation puts *name* into a directory."""
        self._free = None
        self._db.on_success(partial(self._add, directory.ino, name))

    def vanished(self, directory: Node, name: bytes) -> None:
        """Note that the running operation takes *name* out of a directory."""
        self._db.on_success(partial(self._remove, directory.ino, name))

    def _add(self, ino: Ino, name: bytes) -> None:
        self._inodes.watcher.appeared(ino, name)
        listing = self._listings.get(ino)
        if listing is not None:
            entry = (cookie_of(name), name)
            at = bisect_left(listing, entry)
            if at == len(listing) or listing[at] != entry:
                insort(listing, entry)
                self._kept += 1

    def _remove(self, ino: Ino, name: bytes) -> None:
        self._inodes.watcher.vanished(ino, name)
        listing = self._listings.get(ino)
        if listing is not None:
            entry = (cookie_of(name), name)
            at = bisect_left(listing, entry)
            if at < len(listing) and listing[at] == entry:
                del listing[at]
                self._kept -= 1

    def drop_listing(self, ino: Ino) -> None:
        """Forget a kept listing."""
        listing = self._listings.pop(ino, None)
        if listing is not None:
            self._kept -= len(listing)
