"""What the session hook may answer by itself, kept in step with the engine's rows.

Some things the kernel asks again and again, each a trip into Python: a directory's attributes after every change of
its entries; names that are not there; a file's attributes after every read, for its atime; extended attributes, whose
absence it never remembers; and to note the last times of a file that has just lost its name.  The hook answers them
from tables, and reads of large base files from their descriptors; the engine stays the only truth, and tells of every
row it changes.
"""

from __future__ import annotations

import logging
import os
import stat
from types import ModuleType

from ...engine import Attr, Ino, Overlay
from ...engine.tree.inode_rows import Row, Watcher

log = logging.getLogger(__name__)

_ATTR = 1
_DEAD = 2

_MISSES = 3  # look-ups in vain in a directory; then its names are worth reading
_MISSED_MAX = 1024  # directories that are counted
_NAMES_MAX = 16_384  # of a directory; to read more takes too long


class ReplyCache(Watcher):
    """Keeps the hook's tables.

    Args:
        overlay: the open overlay; it is watched from now on.
        hook: the extension.
    """

    def __init__(self, overlay: Overlay, hook: ModuleType) -> None:
        self._publish = hook.publish
        self._withdraw = hook.withdraw
        self._withdraw_bare = hook.withdraw_bare
        self._withdraw_all = hook.withdraw_all
        self._publish_bare = hook.publish_bare
        self._publish_file = hook.publish_file
        self._publish_names = hook.publish_names
        self._name_appeared = hook.name_appeared
        self._name_vanished = hook.name_vanished
        self._missed: dict[Ino, int] = {}
        self._overlay = overlay
        self._linkable = overlay.linkable
        overlay.watch(self)

    def told(self, attr: Attr) -> None:
        """The kernel was told these attributes: the answer until something changes."""
        self._publish(_ATTR, *attr)

    def missed(self, directory: Ino) -> None:
        """A name was looked for in vain: where that happens again and again, the hook is told all there are."""
        count = self._missed.pop(directory, 0) + 1
        if count == _MISSES:
            try:
                names = self._overlay.all_names(directory, _NAMES_MAX)
            except OSError as error:
                log.debug("names of %d: %s", directory, error)
                names = None  # one may search a directory without reading it: that there is no such name still holds
            if names is None:
                count = -_NAMES_MAX  # for it was long in vain
            else:
                self._publish_names(directory, names)
                return
        self._missed[directory] = count
        if len(self._missed) > _MISSED_MAX:
            del self._missed[next(iter(self._missed))]

    def base_file(self, ino: Ino) -> None:
        """A file is read piece by piece: what it holds are the bytes of a quick base, if it has no row."""
        fd = self._overlay.base_file(ino)
        if fd is not None:
            self._publish_file(ino, fd, os.fstat(fd).st_size)

    def saved(self, row: Row) -> None:
        """A row is new or was changed."""
        if stat.S_ISDIR(row.mode):
            what = _ATTR
        else:
            self._withdraw(row.ino)  # how many blocks it takes is not known yet
            if row.nlink > 0 or row.ino in self._linkable:
                return
            what = _DEAD
        self._publish(what, *row.attr(row.size + 511 >> 9))

    def bare(self, ino: Ino) -> None:
        """An object has no extended attributes."""
        self._publish_bare(ino)

    def died(self, attr: Attr) -> None:
        """A base file without a row has lost its only name."""
        self._publish(_DEAD, *attr)

    def changed(self, ino: Ino) -> None:
        """An object has other attributes than its row, or the base, last said."""
        self._withdraw(ino)

    def dropped(self, ino: Ino) -> None:
        """A row was deleted, or an object's extended attributes changed."""
        self._withdraw(ino)
        self._withdraw_bare(ino)

    def appeared(self, directory: Ino, name: bytes) -> None:
        """A directory has a name that it may not have had."""
        self._name_appeared(directory, name)

    def vanished(self, directory: Ino, name: bytes) -> None:
        """A directory has lost a name."""
        self._name_vanished(directory, name)

    def lost(self) -> None:
        """An operation was undone."""
        self._withdraw_all()
