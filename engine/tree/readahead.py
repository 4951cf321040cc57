"""Reading ahead of who reads the files of a directory one after the other, as tar, cp -r and grep -r do.

The kernel reads ahead within a file only, and a tree of small files then costs the time of a first read for each of
them.  So where files are read in the order of the listing, the next ones are opened and asked for before the one at
hand is waited for.  A wrong guess costs a few system calls, never a wrong byte: only the base is touched.
"""

from __future__ import annotations

import os
import stat
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Sequence

from ..store.base_view import BaseView, join, split

_FILES = 4  # asked for at once; who goes on gets one fewer at each read, until _FILES * _NEAR names ahead
_NEAR = 8  # names between two files that still are one after the other: directories, links, empty files
_DIRECTORIES = 16  # whose order is remembered, the last ones listed
_BYTES = 128 << 10  # of each file; the kernel's own reading ahead does the rest

Listing = Sequence[tuple[int, bytes]]


class _Order:
    """How far somebody is in a directory: indices in its listing."""

    __slots__ = ("asked", "listing", "read")

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.read = -1
        self.asked = -1


class ReadAhead:
    """Guesses which base file is read next.

    Args:
        base: the base view.
        cookie_of: what listings are sorted by.
    """

    def __init__(self, base: BaseView, cookie_of: Callable[[bytes], int]) -> None:
        self._base = base
        self._cookie_of = cookie_of
        self._orders: OrderedDict[bytes, _Order] = OrderedDict()

    def listed(self, path: bytes, listing: Listing) -> None:
        """Note that a base directory is being listed, in this order of (cookie, name)."""
        self._orders[path] = _Order(listing)
        self._orders.move_to_end(path)
        if len(self._orders) > _DIRECTORIES:
            self._orders.popitem(last=False)

    def reads(self, path: bytes) -> None:
        """Note that a base file is about to be read from its start, and ask for those that are likely to follow."""
        directory, name = split(path)
        order = self._orders.get(directory)
        if order is None:
            return
        at = bisect_left(order.listing, (self._cookie_of(name), name))
        is_next = order.read < at <= order.read + _NEAR
        order.read = at
        if not is_next:
            order.asked = -1
            return
        last = max(at, order.asked)
        files = 0 if last == at else 1
        for index in range(last + 1, min(at + _FILES * _NEAR, len(order.listing))):
            if files == _FILES:
                break
            if self._ask(join(directory, order.listing[index][1])):
                files += 1
                order.asked = index

    def _ask(self, path: bytes) -> bool:
        """Ask for a file's bytes; False if it has none, or is none."""
        try:
            st = self._base.stat(path)
            if not stat.S_ISREG(st.st_mode) or st.st_size == 0:
                return False
            os.posix_fadvise(self._base.file(path, st), 0, min(st.st_size, _BYTES), os.POSIX_FADV_WILLNEED)
        except OSError:
            return False  # whoever reads it hears why
        return True
