"""The merged view: how overlay rows and the base combine into what a directory shows.

For one name the order is: ``created``, ``renamed``, ``deleted`` (nothing shows), the base.  A directory without overlay
state (``Node.state`` False) is read from the base alone, without SQL.

Listings carry a stable cookie for each name, a keyed hash of it, so that reading a directory while it changes neither
skips nor repeats a name that stays, without any state for each open directory.  A few listings are kept sorted by
cookie and follow the changes made to them.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from hashlib import blake2b
from typing import Literal, NamedTuple

from minifo.engine.ahead import Ahead
from minifo.engine.base import BaseView, join
from minifo.engine.content import Content
from minifo.engine.db import Database
from minifo.engine.errors import FsError
from minifo.engine.inodes import Inodes, Row
from minifo.engine.model import NAME_MAX, Attr, DirEntry, Ino
from minifo.engine.nodes import Node

_FIRST_COOKIE = 3  # 1 and 2 are "." and ".."
_COOKIES = (1 << 62) - 1
_PIECE = 256  # names
_KEPT_NAMES = 20_000  # names in kept listings, all together, but for the one read last

_PLACE = (
    "SELECT ino, 1 FROM created WHERE parent = ?1 AND name = ?2"
    " UNION ALL SELECT ino, 2 FROM renamed WHERE parent = ?1 AND name = ?2"
    " UNION ALL SELECT 0, 0 FROM deleted WHERE parent = ?1 AND name = ?2"
)


def _hash_cookie(name: bytes) -> int:
    return (hash(name) & _COOKIES) + _FIRST_COOKIE


def _digest_cookie(name: bytes) -> int:
    return (int.from_bytes(blake2b(name, digest_size=8).digest(), "big") & _COOKIES) + _FIRST_COOKIE


# Python's own hash of bytes is keyed and fast, but has only 32 bits on small machines
cookie_of = _hash_cookie if sys.hash_info.width == 64 else _digest_cookie


class Ref(NamedTuple):
    """What stands at a name: which list (or the base) put it there, its node and its st_mode."""

    kind: Literal["created", "renamed", "base"]
    node: Node
    mode: int


class Merge:
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
        self.ahead = Ahead(base, cookie_of)
        self._listings: OrderedDict[Ino, list[tuple[int, bytes]]] = OrderedDict()
        self._kept = 0
        self._free: tuple[Ino, bytes] | None = None  # a name that was looked for and not found, last

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
        """What stands at *name*, or None."""
        found = self._find(directory, name)
        if found is None:
            return None
        kind, node, held = found
        return Ref(kind, node, held.mode if isinstance(held, Row) else held.st_mode)

    def lookup(self, directory: Node, name: bytes) -> Attr | None:
        """The attributes of what stands at *name*, or None."""
        found = self._find(directory, name)
        if found is None:
            self._free = (directory.ino, name)
            return None
        _, node, held = found
        return self.attr(held, node)

    def is_free(self, directory: Node, name: bytes) -> bool:
        """True if nothing stands at *name*; cheap right after a look-up, as which creating a file always begins."""
        return (directory.ino, name) == self._free or self._find(directory, name) is None

    def attr(self, held: Row | os.stat_result, node: Node) -> Attr:
        """The attributes users see, from a row or a base object's own."""
        if not isinstance(held, Row):
            return self._inodes.attr_of_base(held, node.ino, dead=node.dead)
        if stat.S_ISREG(held.mode):
            blocks = self._content.blocks(held, node.path)
        else:
            blocks = held.size + 511 >> 9 if node.is_dir else 0
        return Attr(
            held.ino,
            held.mode,
            held.nlink,
            held.uid,
            held.gid,
            held.rdev,
            held.size,
            blocks,
            held.atime,
            held.mtime,
            held.ctime,
        )

    def _find(
        self, directory: Node, name: bytes
    ) -> tuple[Literal["created", "renamed", "base"], Node, Row | os.stat_result] | None:
        if directory.dead:
            return None
        if directory.state:
            place = self._db.row(_PLACE, (directory.ino, name))
            if place is not None:
                if place[1] == 0:
                    return None
                node = self._overlay_node(Ino(place[0]), directory)
                return ("created" if place[1] == 1 else "renamed"), node, self._inodes.attributes(node)
        child = self._inodes.base_child(directory, name)
        if child is None:
            return None
        st, ino = child
        assert directory.path is not None
        return self._base_node(directory, directory.path, name, st, ino)

    def _overlay_node(self, ino: Ino, directory: Node) -> Node:
        node = self._inodes.node(ino)
        if node.is_dir:
            node.parent = directory.ino
        return node

    def _base_node(
        self, directory: Node, place: bytes, name: bytes, st: os.stat_result, ino: Ino
    ) -> tuple[Literal["base"], Node, Row | os.stat_result]:
        is_dir = stat.S_ISDIR(st.st_mode)
        state = False
        row: Row | None = None
        if directory.state:
            # by path first: that finds it again in a base whose inode numbers have changed
            known = self._db.value("SELECT ino FROM origin WHERE path = ?", (join(place, name),))
            if known is not None:
                ino, state = Ino(known), True
        if not state and not is_dir and st.st_nlink > 1:
            # another link of this inode may have been changed, in any directory
            state = self._db.value("SELECT 1 FROM origin WHERE ino = ?", (ino,)) is not None
        if state:
            row = self._inodes.row(ino)
        node = self._inodes.found(ino, (place, name), directory.ino, is_dir, state)
        return "base", node, row if row is not None else st

    # -- listings

    def names(self, directory: Node) -> list[bytes]:
        """All names a directory shows, in no particular order."""
        if directory.dead:
            return []
        names = self._base.names(directory.path) if directory.path is not None else []
        if not directory.state:
            return names
        ino = (directory.ino,)
        hidden = {found[0] for found in self._db.rows("SELECT name FROM deleted WHERE parent = ?", ino)}
        if hidden:
            names = [name for name in names if name not in hidden]
        made = self._db.rows(
            "SELECT name FROM created WHERE parent = ?1 UNION ALL SELECT name FROM renamed WHERE parent = ?1", ino
        )
        if made:
            # a base that was changed underneath may show a name of ours as well: ours wins
            names = list(dict.fromkeys(names) | dict.fromkeys(found[0] for found in made))
        return names

    def few_names(self, directory: Node, most: int) -> list[bytes] | None:
        """All names a directory shows, or None if there may be more than *most*."""
        if directory.path is not None and not directory.dead and self._base.may_have_more(directory.path, most):
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
            if not directory.state and not directory.dead and directory.path is not None:
                yield from self._base_entries(directory, directory.path, piece)
                continue
            for cookie, name in piece:
                attr = self.lookup(directory, name)
                if attr is not None:
                    yield DirEntry(name, attr, cookie)

    def _base_entries(self, directory: Node, path: bytes, entries: list[tuple[int, bytes]]) -> Iterator[DirEntry]:
        """The same for a directory without overlay state: what ``lookup`` would say, without its detours."""
        cookies = {name: cookie for cookie, name in entries}
        for name, st in self._base.children(path, cookies):
            _, node, held = self._base_node(directory, path, name, st, self._inodes.numbers.of(st))
            yield DirEntry(name, self.attr(held, node), cookies[name])

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
        self._inodes.appeared(ino, name)
        listing = self._listings.get(ino)
        if listing is not None:
            entry = (cookie_of(name), name)
            at = bisect_left(listing, entry)
            if at == len(listing) or listing[at] != entry:
                insort(listing, entry)
                self._kept += 1

    def _remove(self, ino: Ino, name: bytes) -> None:
        self._inodes.vanished(ino, name)
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
