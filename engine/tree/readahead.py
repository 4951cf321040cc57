"""Read-ahead across the files of a base directory, for programs that read them one after another (tar, cp -r, grep -r).

The kernel reads ahead only within one file, so a tree of small files costs one wait for the medium per file.  When a
program reads files in the order of the directory's listing, the engine tells the kernel to load the next files of the
listing (posix_fadvise(2), POSIX_FADV_WILLNEED) before it reads the current one.  A wrong guess costs a few system
calls; it never changes what a program reads, as only the base's page cache is concerned.
"""

from __future__ import annotations

import os
import stat
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Sequence

from ..store.base_view import BaseView, join, split

# The first read in listing order requests _FILES files; each further one requests _FILES - 1 more, so that the
# distance grows, up to _MAX_DISTANCE names ahead of the file being read.
_FILES = 4
# A file at most so many names behind the one read last is read in listing order: between the two may lie names without
# data to load, such as directories, symlinks and empty files.
_MAX_STEP = 8
_MAX_DISTANCE = _FILES * _MAX_STEP
_DIRECTORIES = 16  # directories remembered: those listed last
_BYTES = 128 << 10  # requested of each file; the kernel's own read-ahead loads the rest

_Names = Sequence[tuple[int, bytes]]  # with cookies, by which they are sorted


class _Progress:
    """How far a directory has been read.

    Attributes:
        listing: its names, each with its cookie, in the order of the listing.
        read: index of the file that was read last; -1 before the first one.
        requested: index of the last file that the kernel was told to load; -1 when the program left the order.
    """

    __slots__ = ("listing", "read", "requested")

    def __init__(self, listing: _Names) -> None:
        self.listing = listing
        self.read = -1
        self.requested = -1


class ReadAhead:
    """Guesses which base files a program will read next, and has the kernel load them.

    Args:
        base: the base view.
        cookie_of: returns the cookie of a name; listings are sorted by it.
    """

    def __init__(self, base: BaseView, cookie_of: Callable[[bytes], int]) -> None:
        self._base = base
        self._cookie_of = cookie_of
        self._directories: OrderedDict[bytes, _Progress] = OrderedDict()

    def note_listing(self, path: bytes, listing: _Names) -> None:
        """Note that a program lists a base directory, and in which order it gets the names.

        Args:
            path: the directory (base terms).
            listing: its names, each with its cookie, in the order of the listing.
        """
        self._directories[path] = _Progress(listing)
        self._directories.move_to_end(path)
        if len(self._directories) > _DIRECTORIES:
            self._directories.popitem(last=False)

    def note_read(self, path: bytes) -> None:
        """Note that a program starts to read a base file, and load the files that it will probably read next.

        Args:
            path: the file (base terms).
        """
        directory, name = split(path)
        progress = self._directories.get(directory)
        if progress is None:
            return
        current = bisect_left(progress.listing, (self._cookie_of(name), name))
        is_in_order = progress.read < current <= progress.read + _MAX_STEP
        progress.read = current
        if not is_in_order:
            progress.requested = -1
            return
        last = max(current, progress.requested)
        requests = _FILES if last == current else _FILES - 1
        for index in range(last + 1, min(current + _MAX_DISTANCE, len(progress.listing))):
            if requests == 0:
                break
            if self._load(join(directory, progress.listing[index][1])):
                requests -= 1
                progress.requested = index

    def _load(self, path: bytes) -> bool:
        """Tell the kernel to load a file; return False if it is not a regular file, is empty or cannot be opened."""
        try:
            st = self._base.stat(path)
            if not stat.S_ISREG(st.st_mode) or st.st_size == 0:
                return False
            os.posix_fadvise(self._base.file(path, st), 0, min(st.st_size, _BYTES), os.POSIX_FADV_WILLNEED)
        except OSError:
            return False  # the program that reads the file gets the error
        return True
