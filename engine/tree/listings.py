"""The order of listings: a cookie for each name, and a cache of sorted listings.

Each name in a listing has a cookie, a keyed hash of the name.  A listing is sorted by cookie, and each read of a
directory continues after the cookie of the last entry.  So a program that reads a directory while it changes neither
misses nor repeats a name that stays, and the engine needs no state per open directory.

The cache holds some listings and is updated with each change of their directories.  Which names a directory shows is
decided in tree/merged_view.py.
"""

from __future__ import annotations

import sys
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b

from ..model import FIRST_COOKIE, Ino
from .inodes import Inodes
from .nodes import Node

Listing = list[tuple[int, bytes]]  # cookies and names, sorted

_COOKIE_MASK = (1 << 62) - 1
_CACHED_NAMES = 20_000  # names in all cached listings; the listing used last is cached in any case


def _hash_cookie(name: bytes) -> int:
    return (hash(name) & _COOKIE_MASK) + FIRST_COOKIE


def _digest_cookie(name: bytes) -> int:
    return (int.from_bytes(blake2b(name, digest_size=8).digest(), "big") & _COOKIE_MASK) + FIRST_COOKIE


# Python's own hash of bytes is keyed and fast, but has only 32 bits on 32-bit machines
cookie_of = _hash_cookie if sys.hash_info.width == 64 else _digest_cookie


class Listings:
    """Sorts listings and caches them.

    Args:
        inodes: its watcher is told of each name that comes or goes.
        names_of: returns the names that a directory shows, in any order.
    """

    def __init__(self, inodes: Inodes, names_of: Callable[[Node], list[bytes]]) -> None:
        self._inodes = inodes
        self._names_of = names_of
        self._cached: OrderedDict[Ino, Listing] = OrderedDict()  # the listing used last is at the end
        self._count = 0  # names in all of _cached
        self._changing: set[Ino] = set()  # directories whose names the running operation has changed

    def of(self, directory: Node) -> Listing:
        """Return the listing of a directory; from the cache, or into it.

        What the running operation has changed is not cached: it may be undone.
        """
        ino = directory.ino
        if ino in self._changing:
            return self._sorted(directory)
        listing = self._cached.get(ino)
        if listing is None:
            listing = self._sorted(directory)
            self._cached[ino] = listing
            self._count += len(listing)
            while self._count > _CACHED_NAMES and len(self._cached) > 1:
                self._count -= len(self._cached.popitem(last=False)[1])
        else:
            self._cached.move_to_end(ino)
        return listing

    def _sorted(self, directory: Node) -> Listing:
        return sorted((cookie_of(name), name) for name in self._names_of(directory))

    def changing(self, ino: Ino) -> None:
        """Note that the running operation changes the names in a directory; ``add`` or ``remove`` follows its end."""
        self._changing.add(ino)

    def rolled_back(self) -> None:
        """Forget what the operation has changed, which was undone."""
        self._changing.clear()

    def add(self, ino: Ino, name: bytes) -> None:
        """Add a name to the listing of a directory, if that is cached, and tell the watcher."""
        self._changing.discard(ino)
        self._inodes.watcher.appeared(ino, name)
        listing = self._cached.get(ino)
        if listing is not None:
            entry = (cookie_of(name), name)
            at = bisect_left(listing, entry)
            if at == len(listing) or listing[at] != entry:
                insort(listing, entry)
                self._count += 1

    def remove(self, ino: Ino, name: bytes) -> None:
        """Remove a name from the listing of a directory, if that is cached, and tell the watcher."""
        self._changing.discard(ino)
        self._inodes.watcher.vanished(ino, name)
        listing = self._cached.get(ino)
        if listing is not None:
            entry = (cookie_of(name), name)
            at = bisect_left(listing, entry)
            if at < len(listing) and listing[at] == entry:
                del listing[at]
                self._count -= 1

    def drop(self, ino: Ino) -> None:
        """Remove the listing of a directory from the cache."""
        self._changing.discard(ino)
        listing = self._cached.pop(ino, None)
        if listing is not None:
            self._count -= len(listing)
