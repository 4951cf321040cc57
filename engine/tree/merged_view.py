"""The merged view: lookups and listings of the tree that overlay rows and the base make together.

A name is looked up in ``created``, ``renamed``, ``deleted`` (then there is no such name) and the base, in this order.
A directory without overlay state (``Node.state`` is False) is read from the base alone, without SQL.

tree/listings.py has the order of a listing, and the cache of listings.

If the base was replaced (tree/drift.py), an object that is gone from it still shows if the overlay holds enough of it:
a file with bytes of its own, or a directory with entries that show.  An object that does not show keeps its rows.  A
listing never fails because of one entry.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from bisect import bisect_left
from collections.abc import Iterator
from functools import partial
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

from ..errors import FsError
from ..model import NAME_MAX, Attr, DirEntry, Ino
from ..store.base_view import BaseView, join
from ..store.database import Database
from ..store.four_lists_statements import IS_HIDDEN
from .content import Content
from .gone_objects import MADE, GoneObjects, deleted_names
from .inode_rows import AnyAttr, BaseAttr, Row, base_attr
from .inodes import Inodes
from .listings import Listing, Listings, cookie_of
from .nodes import Node
from .readahead import ReadAhead
from .row_checks import is_name, named, number_of

log = logging.getLogger(__name__)

_PIECE = 64  # names looked up by one query

# Where a name (?2) of a directory (?1) comes from: an inode number and one of the numbers below.  ?3 is its base path.
_DELETED, _CREATED, _RENAMED, _ORIGIN = 0, 1, 2, 3
_LOOKUP = (
    "SELECT ino, 1 FROM created WHERE parent = ?1 AND name = ?2"
    " UNION ALL SELECT ino, 2 FROM renamed WHERE parent = ?1 AND name = ?2"
    " UNION ALL SELECT 0, 0 FROM deleted WHERE parent = ?1 AND name = ?2"
    " UNION ALL SELECT ino, 3 FROM origin WHERE path = ?3"
)
_NAMES, _PATHS = (", ".join(f"?{n}" for n in range(first, first + _PIECE)) for first in (3, 3 + _PIECE))
# The rows of _LOOKUP for up to _PIECE names, with the names.  ?2 is the length of the directory's base path with a
# slash.  If a name has several rows, the last one counts.
_LOOKUP_MANY = (
    f"SELECT substr(path, ?2 + 1), ino, 3 FROM origin WHERE path IN ({_PATHS})"
    f" UNION ALL SELECT name, 0, 0 FROM deleted WHERE parent = ?1 AND name IN ({_NAMES})"
    f" UNION ALL SELECT name, ino, 2 FROM renamed WHERE parent = ?1 AND name IN ({_NAMES})"
    f" UNION ALL SELECT name, ino, 1 FROM created WHERE parent = ?1 AND name IN ({_NAMES})"
)


Kind = Literal["created", "renamed", "base"]

# The fields of ``Ref``; and if the attributes are a row, size and blocks of the base object, where those were read.  A
# plain tuple, as each lookup makes one.
_Found = tuple[Kind, Node, AnyAttr, tuple[int, int] | None]


class Ref(NamedTuple):
    """The object at a name.

    Attributes:
        kind: the list that holds the name, or ``base`` if the name is the base's.
        node: the object's node.
        attr: its attributes, from its row or from the base.
    """

    kind: Kind
    node: Node
    attr: AnyAttr


class MergedView:
    """Looks up names and lists directories in the merged tree.

    Args:
        db: the overlay's database.
        base: the base view.
        inodes: rows and nodes.
        content: file bytes (for st_blocks).

    Attributes:
        listings: the listings of directories, sorted.
        read_ahead: told of each listing that starts, to guess which base files are read next.
    """

    def __init__(self, db: Database, base: BaseView, inodes: Inodes, content: Content) -> None:
        self._db = db
        self._base = base
        self._inodes = inodes
        self._content = content
        self.listings = Listings(inodes, self.names)
        self.read_ahead = ReadAhead(base, cookie_of)
        self._missing: tuple[Ino, bytes] | None = None  # the directory and the name of the last lookup without result
        self._gone = GoneObjects(db, base, inodes)

    # -- one name

    def check_name(self, name: bytes) -> None:
        """Raise an error if *name* cannot be a name.

        Raises:
            FsError: ENAMETOOLONG if it is longer than 255 bytes; EINVAL if it is empty or has a slash or a NUL.
        """
        if len(name) > NAME_MAX:
            raise FsError(errno.ENAMETOOLONG)
        if not name or b"/" in name or b"\0" in name:
            raise FsError(errno.EINVAL)

    def resolve(self, directory: Node, name: bytes) -> Ref | None:
        """Return the object at *name*, or None.

        If the last ``lookup`` was for this name and found nothing, no query is needed: the kernel looks up a name
        before it asks to create it.
        """
        if (directory.ino, name) == self._missing:
            return None
        found = self._find(directory, name)
        return Ref._make(found[:3]) if found is not None else None

    def lookup(self, directory: Node, name: bytes) -> Attr | None:
        """Return the attributes of the object at *name*, or None."""
        found = self._find(directory, name)
        if found is None:
            self._missing = (directory.ino, name)
            return None
        _, node, attr, base_blocks = found
        return self.attr(attr, node, base_blocks)

    def attr(self, attributes: AnyAttr, node: Node, base_blocks: tuple[int, int] | None = None) -> Attr:
        """Return the attributes of an object as stat(2) reports them.

        Args:
            attributes: its row, or the attributes of its base object.
            node: the object.
            base_blocks: size and blocks of its base object if *attributes* is a row and the caller has just read them.
        """
        if isinstance(attributes, BaseAttr):
            return attributes.unlinked() if node.dead else attributes
        if stat.S_ISREG(attributes.mode):
            return attributes.attr(self._content.blocks(attributes, node.path, base_blocks))
        return attributes.attr_by_size() if node.is_dir else attributes.attr(0)

    def _find(self, directory: Node, name: bytes) -> _Found | None:
        if directory.dead:
            return None
        listed = None
        if directory.state:
            path = directory.path
            listed = self._db.row(_LOOKUP, (directory.ino, name, None if path is None else join(path, name)))
        return self._resolve(directory, name, listed)

    def _resolve(self, directory: Node, name: bytes, listed: tuple[Any, ...] | None) -> _Found | None:
        """Return the object at *name*, or None.

        Args:
            directory, name: the name.
            listed: the row of ``_LOOKUP``, or None if it found none: then the name is the base's, if it has one.
        """
        if listed is not None:
            ino, table = listed
            if table == _DELETED:
                return None
            if table == _ORIGIN:
                return self._at_origin(directory, name, Ino(ino))
            node = self._inodes.node_in(number_of(ino), directory)
            attr = self._inodes.attributes(node)
            if node.ino not in self._inodes.drift.gone or self._gone.shows(node.ino, node.path):
                return ("created" if table == _CREATED else "renamed"), node, attr, None
            return self._covered(directory, name)
        child = self._inodes.base_child(directory, name)
        if child is None:
            return None
        st, number = child
        assert directory.path is not None
        return self._at_base(directory, directory.path, name, st, number)

    def _covered(self, directory: Node, name: bytes) -> _Found | None:
        """Return the base object at a name that the overlay has given to an object which does not show, or None."""
        if directory.path is None or self._db.value(IS_HIDDEN, (directory.ino, name)) is not None:
            return None
        ino = self._db.value("SELECT ino FROM origin WHERE path = ?", (join(directory.path, name),))
        return self._resolve(directory, name, (ino, _ORIGIN) if ino is not None else None)

    def _at_origin(self, directory: Node, name: bytes, ino: Ino) -> _Found | None:
        """Return the object at a name whose base path is in ``origin``, or None if nothing shows there.

        The row in ``origin`` is found by path, not by inode number: a replaced base has other numbers.

        Args:
            directory, name: the name.
            ino: the inode number that ``origin`` has for the path.
        """
        assert directory.path is not None
        inodes, drift = self._inodes, self._inodes.drift
        location = directory.path, name
        path = join(directory.path, name)
        try:
            st = self._base.find(path)
        except OSError as error:
            row = inodes.row(ino)
            if row is None:
                raise
            drift.warn_of_unreadable(ino, path, error)
            return "base", inodes.add_node(ino, location, directory.ino, stat.S_ISDIR(row.mode), True), row, None
        row = self._gone.row_at_origin(ino, st)
        if ino in drift.gone:
            node = inodes.add_node(ino, location, directory.ino, row is None or stat.S_ISDIR(row.mode), True)
            if self._gone.shows(ino, node.path):
                return "base", node, inodes.attributes(node), None
            inodes.drop_node(ino)
            if st is None:
                return None
            drift.superseded[path] = ino
            return self._at_base(directory, *location, st, drift.ino_of(st, *location))
        if st is None:
            return None
        node = inodes.add_node(ino, location, directory.ino, stat.S_ISDIR(st.st_mode), True)
        if row is None:
            return "base", node, base_attr(st, ino), None
        return "base", node, row, (st.st_size, st.st_blocks)

    def _at_base(self, directory: Node, path: bytes, name: bytes, st: os.stat_result, ino: Ino) -> _Found:
        """Return a base object whose path is not in ``origin``.

        Args:
            directory, path, name: the directory, its path (base terms), and the name in it.
            st, ino: the base object's attributes and inode number.
        """
        is_dir = stat.S_ISDIR(st.st_mode)
        state = False
        row: Row | None = None
        if not is_dir and st.st_nlink > 1:
            # the path of another link of this file may be in origin
            state = self._db.value("SELECT 1 FROM origin WHERE ino = ?", (ino,)) is not None
            row = self._inodes.row(ino, st) if state else None
        node = self._inodes.add_node(ino, (path, name), directory.ino, is_dir, state)
        if row is None:
            return "base", node, base_attr(st, ino), None
        return "base", node, row, (st.st_size, st.st_blocks)

    def rolled_back(self) -> None:
        """Forget what is known of the running operation, which was undone."""
        self._inodes.rolled_back()
        self.listings.rolled_back()

    # -- listings

    def names(self, directory: Node) -> list[bytes]:
        """Return all names that a directory shows, in no particular order."""
        if directory.dead:
            return []
        base = self._base_path(directory)
        names = self._base.names(base) if base is not None else []
        if not directory.state:
            return names
        hidden = deleted_names(self._db, directory.ino)
        gone = self._gone_names(directory, names, hidden)
        if hidden:
            names = [name for name in names if name not in hidden]
        made = named(self._db.rows(MADE, (directory.ino,)))
        if made or gone:
            self._inodes.prefetch([ino for _, ino in made if not self._inodes.numbers.is_created(ino)])
            # a replaced base may have brought a name that is also in created or renamed: list it once
            shown = dict.fromkeys(name for name, ino in made if self._overlay_name_shows(ino))
            names = list(dict.fromkeys(names) | dict.fromkeys(gone) | shown)
        return names

    def _base_path(self, directory: Node) -> bytes | None:
        """Return the path of a directory's base side (base terms), or None if this base does not have one."""
        if directory.path is not None and directory.state:
            self._inodes.attributes(directory)  # fills drift.gone
        return None if directory.ino in self._inodes.drift.gone else directory.path

    def _gone_names(self, directory: Node, names: list[bytes], hidden: set[bytes]) -> list[bytes]:
        """Return the base names of gone objects that show in a directory.

        Args:
            directory: the directory.
            names: the names that this base has in it.
            hidden: the names in it that whiteouts hide.
        """
        if directory.path is None:
            return []
        origins = self._inodes.drift.origins_in(directory.path)
        if origins:
            for name in names:
                origins.pop(name, None)
        return [
            name
            for name, ino in origins.items()
            if name not in hidden and is_name(name) and self._origin_shows(directory, name, ino)
        ]

    def _origin_shows(self, directory: Node, name: bytes, ino: Ino) -> bool:
        try:
            return self._at_origin(directory, name, ino) is not None
        except OSError:
            return True  # its row or base object cannot be read: list it, so that using it reports the error

    def _overlay_name_shows(self, ino: Ino) -> bool:
        """Return False if the object of an overlay name is gone from the base and the overlay holds too little of it.

        Args:
            ino: the object.
        """
        if self._inodes.numbers.is_created(ino):
            return True
        try:
            self._inodes.row(ino)  # fills drift.gone
            return ino not in self._inodes.drift.gone or self._gone.shows(ino, self._inodes.path(ino))
        except OSError:
            return True  # its row or base object cannot be read: list it, so that using it reports the error

    def few_names(self, directory: Node, limit: int) -> list[bytes] | None:
        """Return all names that a directory shows, or None if there may be more than *limit*."""
        base = self._base_path(directory) if not directory.dead else None
        if base is not None and self._base.may_have_more(base, limit):
            return None
        count = "SELECT count(*) FROM (SELECT 1 FROM created WHERE parent = ?1 LIMIT ?2)"
        if directory.state and self._db.value(count, (directory.ino, limit + 1)) > limit:
            return None
        names = self.names(directory)
        return names if len(names) <= limit else None

    def is_empty(self, directory: Node) -> bool:
        """Return True if a directory shows no name."""
        return not self.listings.of(directory)

    def readdir(self, directory: Node, after: int) -> Iterator[DirEntry]:
        """Yield the entries of a directory that follow the cookie *after*; 0 starts with ``.``."""
        if after < 1:
            yield DirEntry(b".", self.attr(self._inodes.attributes(directory), directory), 1)
        if after < 2:
            parent = self._inodes.node(directory.parent)
            yield DirEntry(b"..", self.attr(self._inodes.attributes(parent), parent), 2)
        listing = self.listings.of(directory)
        start = bisect_left(listing, (after + 1, b""))
        if start == 0 and not directory.state and directory.path is not None:
            self.read_ahead.note_listing(directory.path, listing)
        while start < len(listing):
            # in pieces of about one reply, so that a reply from a large directory reads no more entries than it needs
            piece = listing[start : start + _PIECE]
            start += _PIECE
            if directory.dead:
                return
            if not directory.state and directory.path is not None:
                yield from self._base_entries(directory, directory.path, piece)
            else:
                yield from self._merged_entries(directory, piece)

    def _merged_entries(self, directory: Node, entries: Listing) -> Iterator[DirEntry]:
        """Yield the entries of a directory that may have overlay state; one query looks up all names of a piece.

        Args:
            directory: the directory.
            entries: cookies and names, at most ``_PIECE``.
        """
        listed: dict[bytes, tuple[Ino, int]] = {}
        operations = -1
        for cookie, name in entries:
            if self._db.operations != operations:  # an operation may run between two entries, and change the rows
                operations = self._db.operations
                listed = self._look_up_many(directory, [name for _, name in entries])
            try:
                found = self._resolve(directory, name, listed.get(name))
                attr = self.attr(found[2], found[1], found[3]) if found is not None else None
            except OSError as error:
                attr = self._stand_in(directory, name, error)
            if attr is not None:
                yield DirEntry(name, attr, cookie)

    def _look_up_many(self, directory: Node, names: list[bytes]) -> dict[bytes, tuple[Ino, int]]:
        """Return the rows of ``_LOOKUP`` for up to ``_PIECE`` names, and prefetch the rows of the objects."""
        prefix = join(directory.path, b"") if directory.path is not None else None
        paths = [prefix + name for name in names] if prefix is not None else []
        padding = [None] * (_PIECE - len(names))
        values = (directory.ino, len(prefix or b""), *names, *padding, *paths, *[None] * (_PIECE - len(paths)))
        listed = {name: (Ino(ino), table) for name, ino, table in self._db.rows(_LOOKUP_MANY, values)}
        self._inodes.prefetch([ino for ino, table in listed.values() if table != _DELETED])
        return listed

    def _base_entries(self, directory: Node, path: bytes, entries: Listing) -> Iterator[DirEntry]:
        """Yield the entries of a directory without overlay state.

        Args:
            directory, path: the directory and its path (base terms).
            entries: cookies and names.
        """
        cookies = {name: cookie for cookie, name in entries}
        for name, st in self._base.children(path, cookies):
            if isinstance(st, OSError):
                yield DirEntry(name, self._stand_in(directory, name, st), cookies[name])
                continue
            _, node, attr, _ = self._at_base(directory, path, name, st, self._inodes.drift.ino_of(st, path, name))
            yield DirEntry(name, self.attr(attr, node), cookies[name])

    def _stand_in(self, directory: Node, name: bytes, error: OSError) -> Attr:
        """Return attributes for a listed name whose own cannot be read; a program that uses the name gets the error.

        Their link count is 0, which no other listed name has: the front end must not cache these attributes.
        """
        path = join(directory.path, name) if directory.path is not None else b"%d/%b" % (directory.ino, name)
        shown = os.fsdecode(path)
        log.warning("%s cannot be read: %s", shown, error.strerror, extra={"path": shown, "error": error})
        ino = self._inodes.numbers.unused(int.from_bytes(blake2b(path, digest_size=8).digest(), "big"))
        location = (directory.path, name) if directory.path is not None else None
        self._inodes.add_node(ino, location, directory.ino, False, False)
        return Attr(ino, stat.S_IFREG, 0, 0, 0, 0, 0, 0, 0, 0, 0)

    def appeared(self, directory: Node, name: bytes) -> None:
        """Note that the running operation adds *name* to a directory."""
        self._missing = None
        self.listings.changing(directory.ino)
        self._db.on_success(partial(self.listings.add, directory.ino, name))

    def vanished(self, directory: Node, name: bytes) -> None:
        """Note that the running operation removes *name* from a directory."""
        self.listings.changing(directory.ino)
        self._db.on_success(partial(self.listings.remove, directory.ino, name))
