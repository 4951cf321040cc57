"""Rows of ``inode`` as values, and who must hear of their changes."""

from __future__ import annotations

import stat
from typing import NamedTuple

from ..model import Attr, Ino

SMALL = 0  # in the column object: the bytes are a row of small


class Row(NamedTuple):
    """One row of ``inode``, but for the symlink target."""

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
        """True for a base file with bytes of its own: written, cut or grown here, wholly or in part."""
        if not stat.S_ISREG(self.mode):
            return False
        return self.object is not None or bool(self.mapped) or not self.bound == self.size == self.seen_size

    def attr(self, blocks: int) -> Attr:
        """The attributes users see; *blocks* are units of 512 bytes."""
        # the first seven columns are st_ino to st_size, and three times follow
        return Attr._make((*self[:7], blocks, *self[7:10]))


class Backing(NamedTuple):
    """What a file's bytes rest on: the columns object, bound and mapped of its row."""

    object: int | None
    bound: int | None
    mapped: int


class Watcher:
    """Hears of every change of rows, and does nothing; whoever keeps what rows say does more.

    A failed operation is followed by ``lost``.
    """

    def saved(self, row: Row) -> None:
        """A row is new or was changed."""

    def bare(self, ino: Ino) -> None:
        """An object was made without extended attributes."""

    def died(self, attr: Attr) -> None:
        """A base file without a row has lost its only name."""

    def changed(self, ino: Ino) -> None:
        """An object has other attributes than its row, or the base, last said."""

    def dropped(self, ino: Ino) -> None:
        """A row was deleted, or an object's extended attributes changed."""

    def appeared(self, directory: Ino, name: bytes) -> None:
        """A directory has a name that it may not have had."""

    def vanished(self, directory: Ino, name: bytes) -> None:
        """A directory has lost a name."""

    def lost(self) -> None:
        """Rows are as they were before; which ones, nobody says."""
