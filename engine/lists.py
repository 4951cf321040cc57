"""The four lists, read: what a plan that carries an overlay elsewhere asks of it (merge, export, comparison).

Everything here only reads, and tells what the tables say of one directory or one object; what shows, with attributes
and bytes, is asked of ``Overlay`` itself.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from .model import Ino
from .overlay import Overlay


class ModifiedFile(NamedTuple):
    """A base object, other than a directory, on the list of modified ones.

    Attributes:
        ino: its inode number.
        path: its place in the base (base terms).
        content: True where its bytes are overridden, False where only attributes are.
        nlink: its link count in the overlay; 0 for one that is only open still.
    """

    ino: Ino
    path: bytes
    content: bool
    nlink: int


class Lists:
    """Questions about what an overlay holds.

    Args:
        overlay: open; nothing is changed.
    """

    def __init__(self, overlay: Overlay) -> None:
        self._db = overlay.db
        self._inodes = overlay.inodes

    def is_empty(self) -> bool:
        """True where no object has attributes of its own: nothing was created or modified, nor renamed."""
        return self._db.value("SELECT 1 FROM inode") is None

    # -- names of one directory

    def created(self, directory: int) -> set[bytes]:
        """The names in a directory that were created."""
        return {name for (name,) in self._db.rows("SELECT name FROM created WHERE parent = ?", (directory,))}

    def renamed(self, directory: int) -> set[bytes]:
        """The names in a directory that base objects were renamed to."""
        return {name for (name,) in self._db.rows("SELECT name FROM renamed WHERE parent = ?", (directory,))}

    def deleted(self, directory: int) -> list[bytes]:
        """The base names in a directory that are hidden, in order."""
        sql = "SELECT name FROM deleted WHERE parent = ? ORDER BY name"
        return [name for (name,) in self._db.rows(sql, (directory,))]

    def is_renamed(self, path: bytes) -> bool:
        """True where the base object at *path* (base terms) has another name in the overlay."""
        ino = self._db.value("SELECT ino FROM origin WHERE path = ?", (path,))
        return ino is not None and self._db.value("SELECT 1 FROM renamed WHERE ino = ?", (ino,)) is not None

    # -- one object

    def origin(self, ino: int) -> bytes | None:
        """The place (base terms) of the base object that a number stands for; None for a created object."""
        return self._inodes.node(Ino(ino)).path

    def may_differ(self, ino: int) -> bool:
        """True where the tables may say something about an object; False for one that is surely as the base has it."""
        return self._inodes.node(Ino(ino)).state

    def owns_xattrs(self, ino: int) -> bool:
        """True where the extended attributes of an object are the overlay's own, and not those of its base object."""
        row = self._inodes.row(Ino(ino))
        return row is not None and bool(row.xattrs)

    def modified(self, ino: int) -> bool | None:
        """What was modified of a base object: True for its bytes, False for attributes only, None for neither."""
        content = self._db.value("SELECT content FROM modified WHERE ino = ?", (ino,))
        return None if content is None else bool(content)

    def modified_files(self) -> list[ModifiedFile]:
        """All base objects on the list of modified ones, but for directories."""
        sql = (
            "SELECT ino, path, content, nlink FROM modified JOIN origin USING (ino) JOIN inode USING (ino)"
            " WHERE mode & 61440 <> 16384"
        )
        return [ModifiedFile(Ino(ino), path, bool(content), nlink) for ino, path, content, nlink in self._db.rows(sql)]

    def number_of(self, st: os.stat_result) -> Ino:
        """The inode number of the base object with these attributes."""
        return self._inodes.numbers.of(st)
