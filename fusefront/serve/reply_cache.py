"""Keeps the session hook's tables of replies up to date with the engine's rows.

The kernel sends some requests again and again, and each would call Python: GETATTR of a directory after every change of
its entries; LOOKUP of names that do not exist; GETATTR of a file after every read, for its atime; GETXATTR of
attributes that do not exist, for the kernel does not cache their absence; and SETATTR of the times of a file that has
just been unlinked.  The C extension replies to these from its tables (reply_cache.c, names.c), and to reads of large
base files from open descriptors.  Only the engine decides what is true: it reports every row that it changes, and this
module updates or empties the tables before the change is acknowledged.
"""

from __future__ import annotations

import logging
import os
import stat
from types import ModuleType

from ...engine import Attr, Ino, Overlay
from ...engine.errors import SHORT
from ...engine.store.fd_cache import share
from ...engine.tree.inode_rows import Row, Watcher

log = logging.getLogger(__name__)

_MISSES = 3  # look-ups of missing names in a directory, after which all its names are read and published
_COUNTED_MAX = 1024  # directories whose misses are counted
_FILES = 64  # base files that the hook holds open; no more are possible (reply_cache.c)
_NAMES_MAX = 16_384  # names in a directory; to read more would take too long


class ReplyCache(Watcher):
    """Publishes replies to the session hook, and withdraws them when the engine changes a row.

    Args:
        overlay: the open overlay; it reports its changes to this object from now on.
        hook: the C extension.
    """

    def __init__(self, overlay: Overlay, hook: ModuleType) -> None:
        self._publish_attr = hook.publish_attr
        self._publish_unlinked = hook.publish_unlinked
        self._withdraw = hook.withdraw
        self._withdraw_no_xattrs = hook.withdraw_no_xattrs
        self._withdraw_all = hook.withdraw_all
        self._publish_no_xattrs = hook.publish_no_xattrs
        self._publish_file = hook.publish_file
        hook.limit_files(share(_FILES, 12, least=1))
        self._publish_names = hook.publish_names
        self._name_appeared = hook.name_appeared
        self._name_vanished = hook.name_vanished
        self._misses: dict[Ino, int] = {}
        self._overlay = overlay
        self._linkable = overlay.linkable
        overlay.watch(self)

    def publish(self, attr: Attr) -> None:
        """Let the hook answer GETATTR with these attributes, until one of them changes."""
        self._publish_attr(*attr)

    def count_miss(self, directory: Ino) -> None:
        """Count a LOOKUP of a missing name; publish all names of the directory after a number of them.

        From then on the hook answers look-ups of other names by itself.
        """
        count = self._misses.pop(directory, 0) + 1
        if count == _MISSES:
            try:
                names = self._overlay.all_names(directory, _NAMES_MAX)
            except OSError as error:
                log.debug("the names of directory %d cannot be read: %s", directory, error)
                names = None  # a directory may be searchable and not readable; the LOOKUP itself was right
            if names is None:
                count = -_NAMES_MAX  # many misses until the next attempt, for this one took long
            else:
                self._publish_names(directory, names)
                return
        self._misses[directory] = count
        if len(self._misses) > _COUNTED_MAX:
            del self._misses[next(iter(self._misses))]

    def publish_base_file(self, ino: Ino) -> None:
        """Let the hook answer reads of a file, if all of its content is the base's; do nothing for another file.

        To be called for a file that a program reads piece by piece, while the base is fast.
        """
        try:
            fd = self._overlay.base_file(ino)
        except OSError as error:
            if error.errno not in SHORT:
                raise
            return  # the read itself was right, and the next one tries again
        if fd is not None:
            self._publish_file(ino, fd, os.fstat(fd).st_size)

    def saved(self, row: Row) -> None:
        """Publish the attributes of an inode whose row is new or was changed, if the row alone gives all of them."""
        if stat.S_ISDIR(row.mode):
            self._publish_attr(*row.attr_by_size())
            return
        self._withdraw(row.ino)  # the number of its blocks is not known yet
        if row.nlink == 0 and row.ino not in self._linkable:
            self._publish_unlinked(*row.attr_by_size())

    def bare(self, ino: Ino) -> None:
        """Let the hook answer that an inode has no extended attributes."""
        self._publish_no_xattrs(ino)

    def died(self, attr: Attr) -> None:
        """Let the hook answer SETATTR of times for a base file without a row that has lost its only name."""
        self._publish_unlinked(*attr)

    def changed(self, ino: Ino) -> None:
        """Withdraw the attributes of an inode: they changed without a change of its row."""
        self._withdraw(ino)

    def dropped(self, ino: Ino) -> None:
        """Withdraw all about an inode: its row was deleted, or its extended attributes changed."""
        self._withdraw(ino)
        self._withdraw_no_xattrs(ino)

    def appeared(self, directory: Ino, name: bytes) -> None:
        """Add a name to a directory whose names are published; it may be there already."""
        self._name_appeared(directory, name)

    def vanished(self, directory: Ino, name: bytes) -> None:
        """Remove a name from a directory whose names are published."""
        self._name_vanished(directory, name)

    def lost(self) -> None:
        """Withdraw the attributes of all inodes: an operation was rolled back, and which rows it changed is unknown."""
        self._withdraw_all()
