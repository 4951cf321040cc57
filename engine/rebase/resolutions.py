"""The row changes of a rebase: each method settles one entry of the drift report in one way.

Call every method inside an operation; each leaves the tables sound.  Some give objects other inode numbers, which the
caches in memory do not follow: after a rebase, close the overlay.  Settle the objects that the base still has first,
then the gone ones, the deepest paths first.
"""

from __future__ import annotations

import errno
import os
import stat

from ..errors import FsError
from ..model import Ino, Process, SetAttr
from ..overlay import Overlay
from ..store.base_view import join, split
from ..store.four_lists_statements import ADD, DROP, DROP_IN, HAS_NAMES_IN, HIDE, NAMES
from ..store.statements import statement
from ..store.syscalls import data_ranges
from ..tree.base_values import restore_base_values
from ..tree.inode_rows import SMALL, Row
from .drift_report import Entry, Name, bytes_missing

_NOTE = statement("UPDATE modified SET base_size = ?, base_mtime = ?, digest = NULL WHERE ino = ?")
_EMPTY = statement("INSERT INTO small VALUES (?, x'')")
_RENUMBER_OWNED = [statement(f"UPDATE {table} SET ino = ? WHERE ino = ?") for table in ("extent", "small", "xattr")]
_RENUMBER_PARENT = [statement(f"UPDATE {table} SET parent = ? WHERE parent = ?") for table in NAMES]
_SUBDIRECTORIES = (
    "SELECT count(*) FROM (SELECT ino FROM created WHERE parent = ?1 UNION ALL SELECT ino FROM renamed"
    " WHERE parent = ?1) JOIN inode USING (ino) WHERE mode & 61440 = 16384"
)
_BELOW = "SELECT 1 FROM origin WHERE path > ? AND path < ? LIMIT 1"
_STEP = 1 << 20  # bytes


class Resolutions:
    """Settles entries of a drift report: afterwards they count as made over the new base.

    Args:
        overlay: open over the new base.
    """

    def __init__(self, overlay: Overlay) -> None:
        self._ov = overlay
        self._db = overlay.db
        self._inodes = overlay.inodes
        self._renumbered: dict[int, int] = {}  # new numbers of base objects that became created ones, by the old ones

    def _row(self, entry: Entry) -> Row:
        row = self._inodes.row(Ino(entry.ino))
        assert row is not None, entry
        return row

    # -- objects that the base has

    def accept(self, entry: Entry) -> None:
        """Keep what the overlay holds, and note that it was made over the version that the base has now."""
        row = self._row(entry)
        st = self._ov.base.stat(entry.base)
        if row.is_own:
            row = row._replace(seen_size=st.st_size, seen_mtime=st.st_mtime_ns)
            if row.object is None and bytes_missing(self._db, row) == 0:
                row = self._stand_alone(row)
        self._db.change(_NOTE, (st.st_size, st.st_mtime_ns, row.ino))
        self._inodes.save(row)

    def _stand_alone(self, row: Row) -> Row:
        """Return the row of a file without bytes from the base, changed so that the base file's size is irrelevant."""
        if row.mapped:
            return row._replace(bound=0)
        self._db.change(_EMPTY, (row.ino,))
        return row._replace(object=SMALL, bound=None)

    def restore(self, entry: Entry) -> None:
        """Discard the bytes and attributes that the overlay holds of an object, but keep its names."""
        row = self._row(entry)
        st = self._ov.base.stat(entry.base)
        is_needed = bool(entry.names) or not entry.at_origin or row.nlink != st.st_nlink
        restore_base_values(self._db, self._inodes, self._ov.stored, row, st, ctime=st.st_ctime_ns, is_needed=is_needed)

    def complete(self, entry: Entry, source: int | None = None) -> None:
        """Copy the bytes that a partly written file still has from the base.

        Args:
            entry: the file.
            source: a descriptor of the version of the base file over which it was written; None if the base has it.
        """
        self._inodes.save(self._ov.content.copy_up.complete(self._row(entry), entry.base, source))

    def renew_ancestor(self, entry: Entry) -> None:
        """Replace the ancestor of a file, if there is one, by the version that the base has now."""
        self._inodes.ancestors.renew(entry.base)

    def replace(self, entry: Entry, data: bytes) -> None:
        """Replace the bytes of a file by *data*, made over the version that the base has now."""
        self._ov.content.resize(self._row(entry), entry.base, 0)
        self._ov.content.write(self._row(entry), entry.base, 0, data)
        self.accept(entry)

    def beside(self, entry: Entry, name: bytes) -> None:
        """Create a copy of the base's file in the directory of the overlay's file, without set-id bits.

        Args:
            entry: the file.
            name: the name of the copy.  If it exists, nothing is done: an earlier rebase has made the same copy.
        """
        ov, st = self._ov, self._ov.base.stat(entry.base)
        parent = self._inodes.directory(self._directory(split(entry.path)[0]))
        if ov.merge.lookup(parent, name) is not None:
            return
        node = ov.namespace.make(parent, name, st.st_mode, Process(st.st_uid, st.st_gid))
        for start, end in data_ranges(ov.base.file(entry.base, st), 0, st.st_size):
            for at in range(start, end, _STEP):
                data = os.pread(ov.base.file(entry.base), min(_STEP, end - at), at)
                ov.content.write(self._inodes.adopt(node), None, at, data)
        ov.content.resize(self._inodes.adopt(node), None, st.st_size)
        for key in ov.base.listxattr(entry.base):
            ov.attributes.setxattr(node, key, ov.base.getxattr(entry.base, key))
        mode = stat.S_IMODE(st.st_mode) & ~(stat.S_ISUID | stat.S_ISGID)
        change = SetAttr(mode, st.st_uid, st.st_gid, None, st.st_atime_ns, st.st_mtime_ns)
        ov.attributes.setattr(node, change, self._inodes.attributes(node))

    def _directory(self, path: bytes) -> Ino:
        attr = self._ov.find(path)
        if attr is None:
            raise FsError(errno.ENOENT, os.fsdecode(path))
        return Ino(attr.ino)

    # -- objects that are gone from the base

    def keep(self, entry: Entry) -> bool:
        """Make a gone object that shows a created object, with a new inode number and all its names.

        Returns:
            False, without any change, for a directory below which other objects are still in ``origin``.
        """
        old = entry.ino
        row = self._inodes.row(Ino(old))
        is_dir = row is None or stat.S_ISDIR(row.mode)
        if is_dir and self._has_origins_below(entry.base):
            return False
        nlink = len(entry.names) + entry.at_origin
        if is_dir:
            nlink = 2 + self._db.value(_SUBDIRECTORIES, (old,))
        if row is None:
            st = self._inodes.drift.gone_directory(old)
            assert st is not None
            row = self._inodes.create(st.st_mode, st.st_uid, st.st_gid, 0, nlink, st.st_size)
        else:
            created = self._inodes.create(row.mode, row.uid, row.gid, 0, nlink, row.size)
            bound = row.bound if row.object is not None else None
            row = row._replace(ino=created.ino, nlink=nlink, bound=bound, xattrs=1)
            self._inodes.save(row._replace(seen_links=None, seen_size=None, seen_mtime=None))
        for sql in _RENUMBER_OWNED + _RENUMBER_PARENT:
            self._db.change(sql, (row.ino, old))
        self._renumbered[old] = row.ino
        for name in entry.names:
            self._drop_name(name)
            self._db.change(ADD["created"], (self._number(name.parent), name.name, row.ino))
        if entry.at_origin:
            self._create_base_name(entry, row.ino, is_dir)
        self._drop_whiteout(entry)
        self._db.change(DROP_IN["deleted"], (old,))
        self._inodes.discard(Ino(old))
        return True

    def _drop_whiteout(self, entry: Entry) -> None:
        """Delete the whiteout at an entry's base path if it hides nothing, as the base has nothing there."""
        if not entry.at_origin and self._ov.base.find(entry.base) is None:
            directory, name = split(entry.base)
            parent = self._db.value("SELECT ino FROM origin WHERE path = ?", (directory,))
            self._db.change(DROP["deleted"], (parent, name))

    def _create_base_name(self, entry: Entry, ino: int, is_dir: bool) -> None:
        """Add an entry's base name to ``created``, with a whiteout if the base has another object there."""
        directory, name = split(entry.base)
        parent = self._db.value("SELECT ino FROM origin WHERE path = ?", (directory,))
        self._db.change(ADD["created"], (parent, name, ino))
        if self._ov.base.find(entry.base) is not None:
            self._db.change(HIDE, (parent, name))
        if is_dir:
            self._count_subdirectory(parent, +1)

    def drop(self, entry: Entry) -> bool:
        """Delete the rows, names and content of a gone object.

        Returns:
            False, without any change, for a directory that still has names in it or objects in ``origin`` below it.
        """
        row = self._inodes.row(Ino(entry.ino))
        is_dir = row is None or stat.S_ISDIR(row.mode)
        if is_dir and (self._has_origins_below(entry.base) or self._db.value(HAS_NAMES_IN, (entry.ino,)) is not None):
            return False
        for name in entry.names:
            self._drop_name(name)
            if is_dir:
                self._count_subdirectory(self._number(name.parent), -1)
        self._drop_whiteout(entry)
        if row is not None:
            self._ov.stored.discard(row)
        self._db.change(DROP_IN["deleted"], (entry.ino,))
        self._inodes.discard(Ino(entry.ino))
        return True

    def _has_origins_below(self, path: bytes) -> bool:
        return self._db.value(_BELOW, (join(path, b""), path + b"0")) is not None

    def _count_subdirectory(self, parent: int, change: int) -> None:
        """Add *change* to the link count of a directory, for a subdirectory that was added or removed."""
        row = self._inodes.row(Ino(parent))
        # not of a gone directory: its subdirectories are counted when it becomes a created one
        if row is not None and row.nlink > 1 and parent not in self._inodes.drift.gone:
            self._inodes.save(row._replace(nlink=max(2, row.nlink + change)))

    # -- names

    def cover(self, entry: Entry) -> None:
        """Hide the object that the base now has at an overlay name by a whiteout, so that the overlay's stays."""
        (name,) = entry.names
        self._db.change(HIDE, (self._number(name.parent), name.name))

    def rewrite(self, entry: Entry, data: bytes) -> None:
        """Replace the bytes of a created file by *data*."""
        row = self._row(entry)
        self._ov.content.resize(row, None, 0)
        self._ov.content.write(self._row(entry), None, 0, data)

    def uncover(self, entry: Entry) -> None:
        """Delete an overlay name that is not a directory's, and its whiteout, so that the base's object shows there."""
        (name,) = entry.names
        ino = Ino(self._number(entry.ino))
        self._drop_name(name._replace(table="deleted"))
        if not self._drop_name(name):
            return  # the object was gone, and its entry has deleted all its names
        row = self._inodes.row(ino)
        assert row is not None
        self._inodes.set_links(row, row.nlink - 1)
        self._ov.namespace.reap(ino)

    def unhide(self, entry: Entry) -> None:
        """Delete a whiteout that hides nothing."""
        (name,) = entry.names
        self._drop_name(name)

    def _number(self, ino: int) -> int:
        """Return the present inode number of an object that was number *ino* when the rebase began."""
        return self._renumbered.get(ino, ino)

    def _drop_name(self, name: Name) -> bool:
        """Delete the row of a name; return whether there was one."""
        return self._db.change(DROP[name.table], (self._number(name.parent), name.name)) > 0
