"""What the session hook may answer by itself, kept in step with the engine's rows.

Three things the kernel asks again and again, each a trip into Python: a directory's attributes after every change of
its entries, a new file's extended attributes before its first write, and to note the last ctime of a file that has
just lost its name.  The hook answers them from a table; the engine stays the only truth, and tells of every row it
changes.
"""

from __future__ import annotations

import stat
from types import ModuleType

from minifo.engine import Attr, Ino, Overlay
from minifo.engine.inodes import Row

_ATTR = 1
_NO_XATTRS = 2
_DEAD = 4


class Published:
    """Keeps the hook's table.

    Args:
        overlay: the open overlay; it is watched from now on.
        hook: the extension.
    """

    def __init__(self, overlay: Overlay, hook: ModuleType) -> None:
        self._publish = hook.publish
        self._withdraw = hook.withdraw
        overlay.inodes.watch(self)

    def bare(self, attr: Attr) -> None:
        """A regular file was created, without extended attributes."""
        self._publish(attr.ino, _NO_XATTRS, *attr[1:])

    def saved(self, row: Row) -> None:
        """A row is new or was changed."""
        if stat.S_ISDIR(row.mode):
            what = _ATTR
        elif row.nlink == 0:
            what = _DEAD
        else:
            return  # its size and times are the kernel's while it holds the file
        # the first seven columns are st_ino to st_size, and three times follow
        self._publish(row[0], what, *row[1:7], row.size + 511 >> 9, *row[7:10])

    def dropped(self, ino: Ino) -> None:
        """A row was deleted, or an object's extended attributes changed."""
        self._withdraw(ino)

    def lost(self) -> None:
        """An operation was undone."""
        self._withdraw(0)
