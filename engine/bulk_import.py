"""Bulk import: write objects and names into a new overlay as rows, many in one transaction, without look-ups.

An import consists of steps.  Each step is one operation, which also counts the steps in a row of ``overlay``, so that
an interrupted import continues with the next step.  This module writes the rows, through the engine's own parts; the
importers (migrations/meta, migrations/exchange) decide on the steps.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .errors import StateError
from .model import Attr, Ino
from .overlay import Overlay
from .store.base_view import split
from .store.four_lists_statements import ADD, HIDE
from .store.statements import SET_FACT, statement
from .store.syscalls import data_ranges
from .tree.inode_rows import SMALL, Row

_COMMIT_BYTES = 64 << 20  # copied bytes after which a step commits first
_IDS_MIN = 16  # when fewer content object ids are left, a commit must reserve more
_COPY_SIZE = 1 << 20  # bytes that are copied at once
_DONE, _PLAN = "import_steps", "import_plan"  # keys in ``overlay`` while an import is running
IMPORTED = "imported"  # key in ``overlay`` after the import: the digest of its plan

_ADD_FACT = statement("INSERT INTO overlay VALUES (?, ?)")
_KEEP_FACT = statement("INSERT OR REPLACE INTO overlay VALUES (?, ?)")
_DROP_FACTS = statement("DELETE FROM overlay WHERE key IN (?, ?)")
_DROP_ORIGIN = statement("DELETE FROM origin WHERE path = ?")


class BulkImport:
    """Fills one overlay.  Call all methods but ``begin``, ``step``, ``commit`` and ``finish`` within a ``step``.

    Args:
        overlay: an overlay that is open for writing: a new one, or one from an interrupted run of the same import.
    """

    def __init__(self, overlay: Overlay) -> None:
        self._ov = overlay
        self._db = overlay.db
        self._inodes = overlay.inodes
        self._done = 0
        self._pending = 0  # bytes copied since the last commit
        self._can_clone = True
        overlay.commits.holds_up = False

    # -- the steps of an import

    def begin(self, plan: str) -> int | None:
        """Begin the import of a plan, or continue an interrupted one.

        Args:
            plan: a digest of the plan and of the source that it reads.

        Returns:
            How many steps an earlier run has done; None if it has done all, up to ``finish``.

        Raises:
            StateError: the earlier run had another plan.
        """
        sql = "SELECT key, value FROM overlay WHERE key IN (?, ?)"
        facts: dict[str, Any] = dict(self._db.rows(sql, (_DONE, _PLAN)))
        if facts and facts[_PLAN] != plan:
            raise StateError(
                "the source or the options have changed since the import was cut short",
                f"to start from the beginning: rm -r {self._ov.storage_path}",
            )
        if not facts and self._db.value("SELECT 1 FROM inode") is not None:
            return None  # the earlier run was interrupted after ``finish``
        self._done = int(facts.get(_DONE, 0))
        if not facts:
            with self._db.operation():
                for key, value in ((_DONE, 0), (_PLAN, plan)):
                    self._db.change(_ADD_FACT, (key, value))
        return self._done

    @contextmanager
    def step(self) -> Iterator[None]:
        """Do one step: the changes of the block are all made and counted, or, if it raises, all undone.

        Raises:
            OSError: ENOSPC.
            StateError: a commit failed.
        """
        if self._ov.objects.free_ids() < _IDS_MIN:
            self._ov.commits.run()  # reserves more ids, even if no change needs a commit
        elif self._pending > _COMMIT_BYTES:
            self.commit()
        self._ov.space.need(0)
        with self._db.operation():
            yield
            self._db.change(SET_FACT, (_DONE, self._done + 1))
        self._done += 1

    def commit(self) -> None:
        """Make all changes so far durable.

        Raises:
            StateError: the commit failed.
        """
        self._ov.commit()
        self._pending = 0

    def finish(self, plan: str) -> None:
        """Replace the import's rows in ``overlay`` by the digest of its plan, and commit."""
        with self._db.operation():
            self._db.change(_DROP_FACTS, (_DONE, _PLAN))
            self._db.change(_KEEP_FACT, (IMPORTED, plan))
        self._ov.commit()

    # -- objects

    def adopt(self, path: bytes, parent: Ino, is_shown: Callable[[bytes], bool]) -> Attr:
        """Give a base object a row with its attributes in the base.

        Args:
            path: the object (base terms).
            parent: the directory in which it shows.
            is_shown: is_shown(path) returns whether a directory above it in the base shows; only such a directory gets
                a row in ``origin``.

        Returns:
            Its attributes, with 0 for ``blocks``.
        """
        st = self._ov.base.stat(path)
        is_dir = stat.S_ISDIR(st.st_mode)
        node = self._inodes.add_node(self._inodes.numbers.of(st), (None, path), parent, is_dir, False)
        row = self._inodes.adopt(node)
        above = split(path)[0]
        while above != b"/":
            if not is_shown(above):
                self._db.change(_DROP_ORIGIN, (above,))
            above = split(above)[0]
        return row.attr(0)

    def create(self, parent: Ino, name: bytes, st: os.stat_result, links: int, target: bytes | None = None) -> Ino:
        """Create an object, with attributes from elsewhere; ``fill`` and ``dress`` add bytes and extended attributes.

        Args:
            parent, name: its directory and name.
            st: the attributes to copy.
            links: its link count.
            target: the target, for a symlink.

        Returns:
            Its inode number.
        """
        has_bytes = stat.S_ISDIR(st.st_mode) or stat.S_ISREG(st.st_mode)
        rdev = st.st_rdev if stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode) else 0
        size = len(target) if target is not None else st.st_size if has_bytes else 0
        row = self._inodes.create(st.st_mode, st.st_uid, st.st_gid, rdev, links, size, target)
        self._db.change(ADD["created"], (parent, name, row.ino))
        return row.ino

    def modify(self, ino: Ino, *, content: bool = False) -> None:
        """Add an adopted base object to ``modified``; *content* is True if its bytes are to be changed."""
        self._inodes.modify(self._row(ino), content=content)

    def set_links(self, ino: Ino, links: int) -> None:
        """Set the link count of an object."""
        self._inodes.save(self._row(ino)._replace(nlink=links))

    def set_times(self, ino: Ino, mtime: int, ctime: int) -> None:
        """Set mtime and ctime of an object, in ns; that of a base object does not make it a modified one."""
        self._inodes.save(self._row(ino)._replace(mtime=mtime, ctime=ctime))

    def dress(self, ino: Ino, st: os.stat_result, xattrs: Mapping[bytes, bytes]) -> None:
        """Set owner, mode and times of an object to those in *st*, and its extended attributes to *xattrs*."""
        row = self._row(ino)._replace(mode=st.st_mode, uid=st.st_uid, gid=st.st_gid, xattrs=1)
        self._inodes.save(row._replace(atime=st.st_atime_ns, mtime=st.st_mtime_ns, ctime=st.st_ctime_ns))
        self._ov.attributes.add(ino, xattrs.items())

    def fill(self, ino: Ino, source: int, size: int) -> None:
        """Copy the bytes of another file into a file; none of its base file, if it has one, show any more.

        Args:
            ino: the file to fill.
            source: a descriptor of the other file; it may belong to a base view, so no base is read meanwhile.
            size: the other file's size in bytes.

        Raises:
            OSError: EIO if the other file has become shorter; ENOSPC, EDQUOT.
        """
        row = self._row(ino)
        # bound 0: without an object, the base file would back it
        bound = 0 if row.bound is not None and not size else None
        number: int | None = None
        if size > self._ov.content.copy_up.small_max:
            number = self._copy(source, size)
        elif size:
            number = SMALL
            self._ov.stored.put_small(ino, b"".join(_pieces(source, 0, size)))
        self._inodes.save(row._replace(size=size, object=number, bound=bound))

    def _copy(self, source: int, size: int) -> int:
        """Copy a file's bytes to a new content object, and return its id."""
        objects = self._ov.objects
        number = objects.create()
        if self._can_clone:
            try:
                objects.clone(number, source)
            except OSError:
                self._can_clone = False  # another file system, or one without reflinks
            else:
                return number
        self._ov.space.need(sum(end - start for start, end in data_ranges(source, 0, size)))
        objects.truncate(number, size)
        for start, end in data_ranges(source, 0, size):
            at = start
            for data in _pieces(source, start, end):
                objects.write(number, data, at)
                at += len(data)
        self._pending += size
        return number

    def _row(self, ino: Ino) -> Row:
        row = self._inodes.row(ino)
        assert row is not None, ino
        return row

    # -- names

    def hide(self, parent: Ino, name: bytes) -> None:
        """Hide a base name in a directory."""
        directory = self._inodes.directory(parent)
        assert directory.path is not None
        self._inodes.mark(directory.path, directory.ino)
        self._db.change(HIDE, (parent, name))

    def rename(self, ino: Ino, parent: Ino, name: bytes) -> None:
        """Rename an adopted base object."""
        self._db.change(ADD["renamed"], (parent, name, ino))

    def link(self, ino: Ino, parent: Ino, name: bytes) -> None:
        """Make a hard link to a created file."""
        row = self._row(ino)
        self._inodes.save(row._replace(nlink=row.nlink + 1))
        self._db.change(ADD["created"], (parent, name, ino))


def _pieces(fd: int, start: int, end: int) -> Iterator[bytes]:
    """Yield the bytes of a range of a file, in pieces, in order.

    Raises:
        OSError: EIO if the file has become shorter.
    """
    while start < end:
        data = os.pread(fd, min(_COPY_SIZE, end - start), start)
        if not data:
            raise OSError(errno.EIO, "the file became shorter while it was read")
        yield data
        start += len(data)
