"""Nodes: what an inode number stands for, for every object somebody has looked up.

A node says which base object backs a number and whether the tables can know anything about it, so that objects without
overlay state are read from the base without asking SQL.  Numbers follow the design: a base object on the base root's
own device keeps its number; what could collide with the window of created objects, or lies on another device (layers of
an overlay or a btrfs subvolume below the base), gets one from a reserved range, the same one each time it is seen.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import blake2b

from ..model import ROOT, Ino
from ..store.base_view import join

# A place in the base: a directory (base terms) and a name in it; or None and a whole path.
Place = tuple[bytes | None, bytes]

WINDOW_32 = (
    0x8000_0000,
    0x1_0000_0000,
)  # created objects where the base's numbers are small: 32-bit programs stay happy
WINDOW_64 = (1 << 61, 1 << 62)
UNREACHED = 1 << 20  # numbers at the end of a window that no overlay lives to hand out; one in use there is damage
RESERVED = 1 << 62  # from here on numbers are for base objects that cannot keep theirs
_RESERVED_SIZE = 1 << 62  # up to 2^63: SQLite integers are signed


class Node:
    """One known object.  Small, for the kernel may know a million of them.

    Attributes:
        ino: its inode number.
        parent: number of the directory it was last found in; kept for directories only (``..``, ancestor checks).
        is_dir: True for a directory.
        state: False when the tables surely hold nothing about it; True when they may.
        dead: True for a directory that was removed, or a base file without any name left.
        holds: how often the kernel was told of it and has not yet forgotten.
    """

    __slots__ = ("_directory", "_name", "dead", "holds", "ino", "is_dir", "parent", "state")

    def __init__(self, ino: Ino, place: Place | None, parent: Ino, is_dir: bool, state: bool) -> None:
        self.ino = ino
        self._directory: bytes | None = place[0] if place is not None else None
        self._name: bytes | None = place[1] if place is not None else None
        self.parent = parent
        self.is_dir = is_dir
        self.state = state
        self.dead = False
        self.holds = 0

    @property
    def path(self) -> bytes | None:
        """Its place in the base (base terms), or None for a created object."""
        if self._directory is None or self._name is None:
            return self._name
        path = join(self._directory, self._name)
        if self.is_dir:
            # kept, for what is in it shares this very string
            self._directory, self._name = None, path
        return path


def choose_window(root: os.stat_result, inodes: int) -> tuple[int, int]:
    """Where created objects get their numbers, so that the base's own cannot collide.

    Args:
        root: attributes of the base's root.
        inodes: how many inodes the base's file system can have (f_files), 0 if it does not say.
    """
    small = root.st_ino < WINDOW_32[0] and inodes < WINDOW_32[0]
    return WINDOW_32 if small else WINDOW_64


class Numbers:
    """Inode numbers of base objects.

    Args:
        root: attributes of the base's root, which is always number 1.
        window: first number, and the first one beyond, of created objects.
    """

    def __init__(self, root: os.stat_result, window: tuple[int, int]) -> None:
        self._dev = root.st_dev
        self._root_ino = root.st_ino
        self._window = window
        self._reserved: dict[tuple[int, int], Ino] = {}
        self._taken: dict[int, tuple[int, int]] = {}
        self._displaced: dict[tuple[int, int], Ino] = {}

    def is_created(self, ino: int) -> bool:
        """True for the number of a created object."""
        return self._window[0] <= ino < self._window[1]

    def of(self, st: os.stat_result) -> Ino:
        """The inode number of the base object with these attributes."""
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
        """A number for a base object whose own one stands for another object: the same one each time.

        Args:
            st: its attributes.
            is_free: tells whether a number stands for nothing yet.
        """
        identity = (st.st_dev, st.st_ino)
        digest = blake2b(b"%d:%d displaced" % identity, digest_size=8).digest()
        number = RESERVED + int.from_bytes(digest, "big") % _RESERVED_SIZE
        while number in self._taken or not is_free(number):
            number = RESERVED + (number + 1) % _RESERVED_SIZE
        self.keep(identity, Ino(number))
        return Ino(number)

    def _reserve(self, identity: tuple[int, int]) -> Ino:
        known = self._reserved.get(identity)
        if known is not None:
            return known
        digest = blake2b(b"%d:%d" % identity, digest_size=8).digest()
        number = RESERVED + int.from_bytes(digest, "big") % _RESERVED_SIZE
        while number in self._taken:
            number = RESERVED + (number + 1) % _RESERVED_SIZE
        self.keep(identity, Ino(number))
        return Ino(number)

    def unused(self, ino: int) -> Ino:
        """A number no base object has, for one that is gone; *ino* is what it was."""
        return self._reserve((-1, ino))

    def keep(self, identity: tuple[int, int], ino: Ino) -> None:
        """Remember that the base object of that (st_dev, st_ino) goes by *ino*."""
        self._reserved[identity] = self._displaced[identity] = ino
        self._taken[ino] = identity
