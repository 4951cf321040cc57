"""Nodes: the objects in memory, by inode number; and the rule that gives base objects their inode numbers.

A node says which base object an inode number stands for, and whether the database may hold rows of it.  So objects
without overlay state are read from the base without SQL.

A base object on the same device as the base's root keeps its own inode number.  An object whose number could collide
with that of a created object, or that lies on another device (a layer of an overlay file system, or a btrfs subvolume
below the base), gets a number from a reserved range: the same number each time it is looked up.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from hashlib import blake2b

from ..errors import FsError
from ..model import ROOT, Ino
from ..store.base_view import join

# The path of a base object (base terms), in one of two forms: its directory and its name, or None and the whole path.
# A node keeps the first form: the nodes of a directory's entries share one string for the directory.
BaseLocation = tuple[bytes | None, bytes]

# Inode numbers of created objects: the first one, and the first one beyond.  The 32-bit window is for bases whose own
# numbers are below it: a 32-bit program gets EOVERFLOW from stat(2) for a larger number.
WINDOW_32 = (0x8000_0000, 0x1_0000_0000)
WINDOW_64 = (1 << 61, 1 << 62)
UNREACHED = 1 << 20  # numbers at the end of a window that no overlay will ever reach: one in use there is damage
RESERVED = 1 << 62  # the first number of those for base objects that cannot keep their own
_RESERVED_SIZE = 1 << 62  # up to 2^63: SQLite integers are signed


class Node:
    """One object in memory.  Kept small, as there is a node for each inode that the kernel knows, up to a million.

    Attributes:
        ino: its inode number.
        parent: the inode number of the directory in which it was last found, for ``..`` and for checks whether one
            directory lies below another.  Kept up to date for directories only; ``ROOT`` for any other object.
        is_dir: True for a directory.
        state: False when the database surely holds no row of it; True when it may hold some.
        dead: True for a removed directory, and for a base file without a row that has lost its only name.
        stale: True for a file that a return to a checkpoint has changed, as long as the kernel has not looked it up
            again: what it still asks of it is about the file as it was.
        nlookup: the kernel's count of lookups, less those it has forgotten (FUSE_FORGET).
    """

    __slots__ = ("_directory", "_name", "dead", "ino", "is_dir", "nlookup", "parent", "stale", "state")

    def __init__(self, ino: Ino, location: BaseLocation | None, parent: Ino, is_dir: bool, state: bool) -> None:
        self.ino = ino
        self._directory: bytes | None = location[0] if location is not None else None
        self._name: bytes | None = location[1] if location is not None else None
        self.parent = parent
        self.is_dir = is_dir
        self.state = state
        self.dead = False
        self.stale = False
        self.nlookup = 0

    @property
    def path(self) -> bytes | None:
        """The path of its base object (base terms), or None for a created object."""
        if self._directory is None or self._name is None:
            return self._name
        path = join(self._directory, self._name)
        if self.is_dir:
            # kept, so that the nodes of its entries share this one string
            self._directory, self._name = None, path
        return path

    @property
    def base_path(self) -> bytes:
        """The path of its base object (base terms), where the caller knows that it has one.

        Raises:
            FsError: EIO if it has none: rows contradict each other.
        """
        path = self.path
        if path is None:
            raise FsError(errno.EIO, f"inode {self.ino}: its rows contradict each other")
        return path


def choose_window(root: os.stat_result, inodes: int) -> tuple[int, int]:
    """Return the window for the inode numbers of created objects: one that the base's own numbers do not reach.

    Args:
        root: attributes of the base's root.
        inodes: how many inodes the base's file system can have (f_files of statvfs(3)); 0 if it does not say.
    """
    small = root.st_ino < WINDOW_32[0] and inodes < WINDOW_32[0]
    return WINDOW_32 if small else WINDOW_64


class Numbers:
    """Gives base objects their inode numbers.

    Args:
        root: attributes of the base's root; its number is always 1.
        window: the numbers of created objects: the first one, and the first one beyond.
    """

    def __init__(self, root: os.stat_result, window: tuple[int, int]) -> None:
        self._dev = root.st_dev
        self._root_ino = root.st_ino
        self._window = window
        self._reserved: dict[tuple[int, int], Ino] = {}
        self._taken: dict[int, tuple[int, int]] = {}
        self._displaced: dict[tuple[int, int], Ino] = {}

    def is_created(self, ino: int) -> bool:
        """Return True if *ino* is the number of a created object."""
        return self._window[0] <= ino < self._window[1]

    def of(self, st: os.stat_result) -> Ino:
        """Return the inode number of the base object with these attributes."""
        number = st.st_ino
        if st.st_dev == self._dev:
            if number == self._root_ino:
                return ROOT
            if 1 < number < RESERVED and not self._window[0] <= number < self._window[1]:
                if self._displaced:
                    return self._displaced.get((st.st_dev, number), Ino(number))
                return Ino(number)
        return self._reserve((st.st_dev, number))

    def displace(self, st: os.stat_result, is_free: Callable[[int], bool]) -> Ino:
        """Give a base object a reserved number, because its own number stands for another object; return the number.

        From now on ``of`` returns this number for it.

        Args:
            st: its attributes.
            is_free: returns whether a number is not in use.
        """
        identity = (st.st_dev, st.st_ino)
        digest = blake2b(b"%d:%d displaced" % identity, digest_size=8).digest()
        number = RESERVED + int.from_bytes(digest, "big") % _RESERVED_SIZE
        while number in self._taken or not is_free(number):
            number = RESERVED + (number + 1) % _RESERVED_SIZE
        self.assign(identity, Ino(number))
        return Ino(number)

    def _reserve(self, identity: tuple[int, int]) -> Ino:
        known = self._reserved.get(identity)
        if known is not None:
            return known
        digest = blake2b(b"%d:%d" % identity, digest_size=8).digest()
        number = RESERVED + int.from_bytes(digest, "big") % _RESERVED_SIZE
        while number in self._taken:
            number = RESERVED + (number + 1) % _RESERVED_SIZE
        self.assign(identity, Ino(number))
        return Ino(number)

    def unused(self, ino: int) -> Ino:
        """Return a number that no base object has, for an object that is gone from the base.

        Args:
            ino: the object's present number: the same one always leads to the same result.
        """
        return self._reserve((-1, ino))

    def assign(self, identity: tuple[int, int], ino: Ino) -> None:
        """Give the base object with this *identity*, (st_dev, st_ino), the number *ino* from now on."""
        self._reserved[identity] = self._displaced[identity] = ino
        self._taken[ino] = identity
