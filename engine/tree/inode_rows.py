"""Rows of ``inode`` as values, and the interface through which a front end learns of changes."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple, TypeAlias

from ..model import Attr, Ino

SMALL = 0  # in the column object: the bytes are a row of small


class Row(NamedTuple):
    """One row of ``inode``, without the symlink target; store/schema.sql explains the columns."""

    ino: Ino
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    atime: int
    mtime: int
    ctime: int
    object: int | None
    bound: int | None
    mapped: int
    xattrs: int
    seen_links: int | None
    seen_size: int | None
    seen_mtime: int | None

    @property
    def is_own(self) -> bool:
        """True for a file whose content is not simply its base file's: it was written, cut or grown in the overlay."""
        if not stat.S_ISREG(self.mode):
            return False
        return self.object is not None or bool(self.mapped) or not self.bound == self.size == self.seen_size

    def attr(self, blocks: int) -> Attr:
        """Return the attributes as stat(2) reports them; *blocks* is the count for ``st_blocks``, in 512 bytes."""
        # the first seven columns are st_ino to st_size, and three times follow
        return Attr._make((*self[:7], blocks, *self[7:10]))

    def attr_by_size(self) -> Attr:
        """Return the attributes of a directory as stat(2) reports them: its size gives the number of blocks."""
        return Attr._make((*self[:7], self.size + 511 >> 9, *self[7:10]))

    @property
    def row(self) -> Row:
        """The row itself; ``BaseAttr`` has None here."""
        return self

    @property
    def base_blocks(self) -> None:
        """None: only ``BaseAttr`` knows what the base says."""


class BaseAttr(Attr):
    """The attributes of a base object that has no row: those that the base has.

    The link count is the base's, too, even if the object has lost its only name in the overlay.
    """

    __slots__ = ()

    row = None
    is_own = False

    @property
    def base_blocks(self) -> tuple[int, int]:
        """Size in bytes, and blocks of 512 bytes, of the base object."""
        return self.size, self.blocks

    def unlinked(self) -> Attr:
        """Return the attributes with a link count of 0: those of an object that has lost its only name."""
        return Attr._make((*self[:2], 0, *self[3:]))


#: The attributes of any object: its row, or the attributes of its base object if it has no row.
AnyAttr: TypeAlias = Row | BaseAttr


def base_attr(st: os.stat_result, ino: Ino) -> BaseAttr:
    """Return the attributes of a base object; *ino* is its inode number in the overlay."""
    # made at each lookup of a base object; _make is faster than a call of the class
    return BaseAttr._make(
        (
            *(ino, st.st_mode, st.st_nlink, st.st_uid, st.st_gid, st.st_rdev, st.st_size, st.st_blocks),
            *(st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns),
        )
    )


class Backing(NamedTuple):
    """Where a file's bytes come from if no extent covers them: three columns of its row (store/schema.sql)."""

    object: int | None
    bound: int | None
    mapped: int


class Watcher:
    """Is called at every change of the tree, and does nothing; a front end with caches of its own overrides it.

    The calls come while an operation runs.  If the operation fails, ``lost`` follows.
    """

    def saved(self, row: Row) -> None:
        """Called when a row of ``inode`` was added or changed."""

    def bare(self, ino: Ino) -> None:
        """Called when an object was created without extended attributes."""

    def died(self, attr: Attr) -> None:
        """Called when a base file without a row has lost its only name; *attr* has a link count of 0."""

    def changed(self, ino: Ino) -> None:
        """Called when attributes changed that are in no row, such as the number of blocks."""

    def dropped(self, ino: Ino) -> None:
        """Called when a row was deleted, or when extended attributes of an object changed."""

    def appeared(self, directory: Ino, name: bytes) -> None:
        """Called when an operation that may have added *name* to a directory has succeeded."""

    def vanished(self, directory: Ino, name: bytes) -> None:
        """Called when an operation that removed *name* from a directory has succeeded."""

    def lost(self) -> None:
        """Called when an operation failed: any row may have gone back to an earlier state."""
