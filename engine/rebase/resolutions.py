"""Settling what an overlay holds of a base that was replaced: the row changes of a rebase, one method for each.

Every method runs inside one operation, and by itself leaves the tables sound.  Numbers of objects change here, under
what memory knows: whoever settles uses the overlay for nothing else afterwards, and closes it.  Objects that are gone
are settled the deepest first, after those that the base still has.
"""

from __future__ import annotations

import os
import stat

from ..errors import FsError
from ..model import ROOT, Ino, Process, SetAttr
from ..overlay import Overlay
from ..store.base_view import join, split
from ..store.list_statements import ADD, DROP, DROP_IN, DROP_MODIFIED, DROP_XATTRS, HIDE, NAMES
from ..store.statements import statement
from ..store.syscalls import data_ranges
from ..tree.inode_rows import SMALL, Row
from .drift_report import Entry, Name, bytes_missing

_NOTE = statement("UPDATE modified SET base_size = ?, base_mtime = ?, digest = NULL WHERE ino = ?")
_EMPTY = statement("INSERT INTO small VALUES (?, x'')")
_OWNED = [statement(f"UPDATE {table} SET ino = ? WHERE ino = ?") for table in ("extent", "small", "xattr")]
_NAMES_IN = [statement(f"UPDATE {table} SET parent = ? WHERE parent = ?") for table in NAMES]
_HOLDS = "SELECT 1 FROM created WHERE parent = ?1 UNION ALL SELECT 1 FROM renamed WHERE parent = ?1 LIMIT 1"
_SUBDIRECTORIES = (
    "SELECT count(*) FROM (SELECT ino FROM created WHERE parent = ?1 UNION ALL SELECT ino FROM renamed"
    " WHERE parent = ?1) JOIN inode USING (ino) WHERE mode & 61440 = 16384"
)
_BELOW = "SELECT 1 FROM origin WHERE path > ? AND path < ? LIMIT 1"
_STEP = 1 << 20  # bytes


class Resolutions:
    """Settles entries of a drift report.

    Args:
        overlay: open over the new base.
    """

    def __init__(self, overlay: Overlay) -> None:
        self._ov = overlay
        self._db = overlay.db
        self._inodes = overlay.inodes
        self._moved: dict[int, int] = {}  # numbers of what became a created object, by the old ones

    def _row(self, entry: Entry) -> Row:
        row = self._inodes.row(Ino(entry.ino))
        assert row is not None, entry
        return row

    # -- what the base has

    def accept(self, entry: Entry) -> None:
        """What the overlay holds stays, and counts as made over the base's version."""
        row = self._row(entry)
        st = self._ov.base.stat(entry.base)
        if row.is_own:
            row = row._replace(seen_size=st.st_size, seen_mtime=st.st_mtime_ns)
            if row.object is None and bytes_missing(self._db, row) == 0:
                row = self._stand_alone(row)
        self._db.change(_NOTE, (st.st_size, st.st_mtime_ns, row.ino))
        self._inodes.save(row)

    def _stand_alone(self, row: Row) -> Row:
        """A file that shows nothing of its base file, made such that this does not depend on the base's size."""
        if row.mapped:
            return row._replace(bound=0)
        self._db.change(_EMPTY, (row.ino,))
        return row._replace(object=SMALL, bound=None)

    def restore(self, entry: Entry) -> None:
        """What the overlay holds of the bytes and attributes of an object goes, and the base's show; names stay."""
        row = self._row(entry)
        st = self._ov.base.stat(entry.base)
        is_file = stat.S_ISREG(row.mode)
        if is_file:
            self._ov.stored.release(row)
        if not entry.names and entry.in_place and row.nlink == st.st_nlink:
            self._inodes.discard(row.ino)
            return
        self._db.change(DROP_XATTRS, (row.ino,))
        self._db.change(DROP_MODIFIED, (row.ino,))
        plain = (st.st_mode, row.nlink, st.st_uid, st.st_gid, st.st_rdev, st.st_size)
        times = (st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns)
        seen = (st.st_nlink, st.st_size, st.st_mtime_ns)
        self._inodes.save(Row(row.ino, *plain, *times, None, st.st_size if is_file else None, 0, 0, *seen))

    def complete(self, entry: Entry, source: int | None = None) -> None:
        """Copy what a file lacks from the version it was written over.

        Args:
            entry: the file.
            source: a descriptor of that version; None where the base has it.
        """
        self._inodes.save(self._ov.content.complete(self._row(entry), entry.base, source))

    def renew_ancestor(self, entry: Entry) -> None:
        """Let the base's version take the place of the older one that was kept for merges, if one was."""
        self._inodes.ancestors.renew(entry.base)

    def replace(self, entry: Entry, data: bytes) -> None:
        """Give a file other bytes, which count as made over the base's version."""
        self._ov.content.resize(self._row(entry), entry.base, 0)
        self._ov.content.write(self._row(entry), entry.base, 0, data)
        self.accept(entry)

    def beside(self, entry: Entry, name: bytes) -> None:
        """Put a copy of the base's file beside ours, without set-id bits; one that is there already is the same."""
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
        ino = ROOT
        for name in path.split(b"/")[1:] if path != b"/" else ():
            attr = self._ov.lookup(ino, name)
            if attr is None:
                raise FsError(2, os.fsdecode(path))
            ino = Ino(attr.ino)
        return ino

    # -- what is gone from the base

    def keep(self, entry: Entry) -> bool:
        """What shows without the base becomes a created object.

        Returns:
            False for a directory in which something waits for the old base: it stays as it is.
        """
        old = entry.ino
        row = self._inodes.row(Ino(old))
        is_dir = row is None or stat.S_ISDIR(row.mode)
        if is_dir and self._leads_on(entry.base):
            return False
        nlink = len(entry.names) + entry.in_place
        if is_dir:
            nlink = 2 + self._db.value(_SUBDIRECTORIES, (old,))
        if row is None:
            ghost = self._inodes.drift.ghost(old)
            assert ghost is not None
            row = self._inodes.create(ghost.st_mode, ghost.st_uid, ghost.st_gid, 0, nlink, ghost.st_size)
        else:
            made = self._inodes.create(row.mode, row.uid, row.gid, 0, nlink, row.size)
            bound = row.bound if row.object is not None else None
            row = row._replace(ino=made.ino, nlink=nlink, bound=bound, xattrs=1)
            self._inodes.save(row._replace(seen_links=None, seen_size=None, seen_mtime=None))
        for sql in _OWNED + _NAMES_IN:
            self._db.change(sql, (row.ino, old))
        self._moved[old] = row.ino
        for name in entry.names:
            self._drop_name(name)
            self._db.change(ADD["created"], (self._number(name.parent), name.name, row.ino))
        if entry.in_place:
            self._keep_place(entry, row.ino, is_dir)
        self._show_place(entry)
        self._db.change(DROP_IN["deleted"], (old,))
        self._inodes.discard(Ino(old))
        return True

    def _show_place(self, entry: Entry) -> None:
        """The whiteout of an object that was moved away hides nothing any more, if the base has nothing there."""
        if not entry.in_place and self._ov.base.find(entry.base) is None:
            directory, name = split(entry.base)
            parent = self._db.value("SELECT ino FROM origin WHERE path = ?", (directory,))
            self._db.change(DROP["deleted"], (parent, name))

    def _keep_place(self, entry: Entry, ino: int, is_dir: bool) -> None:
        directory, name = split(entry.base)
        parent = self._db.value("SELECT ino FROM origin WHERE path = ?", (directory,))
        self._db.change(ADD["created"], (parent, name, ino))
        if self._ov.base.find(entry.base) is not None:
            self._db.change(HIDE, (parent, name))
        if is_dir:
            self._count(parent, +1)

    def drop(self, entry: Entry) -> bool:
        """What the overlay holds of an object that is gone goes, its names too.

        Returns:
            False for a directory that holds other things: it stays as it is.
        """
        row = self._inodes.row(Ino(entry.ino))
        is_dir = row is None or stat.S_ISDIR(row.mode)
        if is_dir and (self._leads_on(entry.base) or self._db.value(_HOLDS, (entry.ino,)) is not None):
            return False
        for name in entry.names:
            self._drop_name(name)
            if is_dir:
                self._count(self._number(name.parent), -1)
        self._show_place(entry)
        if row is not None:
            self._ov.stored.discard(row)
        self._db.change(DROP_IN["deleted"], (entry.ino,))
        self._inodes.discard(Ino(entry.ino))
        return True

    def _leads_on(self, path: bytes) -> bool:
        return self._db.value(_BELOW, (join(path, b""), path + b"0")) is not None

    def _count(self, parent: int, more: int) -> None:
        """A directory has more subdirectories, or fewer."""
        row = self._inodes.row(Ino(parent))
        # one that is gone has its count from before; it is counted anew when it becomes a created one
        if row is not None and row.nlink > 1 and parent not in self._inodes.drift.gone:
            self._inodes.save(row._replace(nlink=max(2, row.nlink + more)))

    # -- names

    def cover(self, entry: Entry) -> None:
        """A name made here goes on hiding the one that the base has now."""
        (name,) = entry.names
        self._db.change(HIDE, (self._number(name.parent), name.name))

    def rewrite(self, entry: Entry, data: bytes) -> None:
        """Give a created file other bytes."""
        row = self._row(entry)
        self._ov.content.resize(row, None, 0)
        self._ov.content.write(self._row(entry), None, 0, data)

    def uncover(self, entry: Entry) -> None:
        """A created name, of no directory, makes way for the one that the base has now."""
        (name,) = entry.names
        ino = Ino(self._number(entry.ino))
        self._drop_name(name._replace(table="deleted"))
        if not self._drop_name(name):
            return  # with an object that is gone went all of its names
        row = self._inodes.row(ino)
        assert row is not None
        self._inodes.set_links(row, row.nlink - 1)
        self._ov.namespace.reap(ino)

    def unhide(self, entry: Entry) -> None:
        """A whiteout that hides nothing goes."""
        (name,) = entry.names
        self._drop_name(name)

    def _number(self, ino: int) -> int:
        return self._moved.get(ino, ino)

    def _drop_name(self, name: Name) -> bool:
        return self._db.change(DROP[name.table], (self._number(name.parent), name.name)) > 0
