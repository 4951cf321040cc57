"""The door for imports: objects and names go into a new overlay as rows, many in one transaction, without look-ups.

An import takes steps.  Each one is an operation, and how many were taken is a row of ``overlay`` that changes in the
same transaction: an import that was cut short goes on where it was.  What an import does to rows it does here, through
the engine's own parts; which steps to take is decided by whoever imports.
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
from .store.list_statements import ADD, HIDE
from .store.statements import SET_FACT, statement
from .store.syscalls import data_ranges
from .tree.inode_rows import SMALL, Row

_COMMIT_BYTES = 64 << 20
_LEAST_ROOM = 16  # content object ids left before a commit must reserve more
_STEP = 1 << 20  # bytes copied at once
_DONE, _PLAN = "import_steps", "import_plan"  # rows of ``overlay`` while an import is under way
IMPORTED = "imported"  # and one when it has come to its end: the digest of its plan

_ADD_FACT = statement("INSERT INTO overlay VALUES (?, ?)")
_KEEP_FACT = statement("INSERT OR REPLACE INTO overlay VALUES (?, ?)")
_DROP_FACTS = statement("DELETE FROM overlay WHERE key IN (?, ?)")
_DROP_ORIGIN = statement("DELETE FROM origin WHERE path = ?")


class BulkImport:
    """Fills one overlay.  All methods but the first four are called within a ``step``.

    Args:
        overlay: open for writing; a new one, or one that an earlier run of the same import has left.
    """

    def __init__(self, overlay: Overlay) -> None:
        self._ov = overlay
        self._db = overlay.db
        self._inodes = overlay.inodes
        self._done = 0
        self._pending = 0  # bytes copied since the last commit
        self._can_clone = True

    # -- the course of an import

    def begin(self, plan: str) -> int | None:
        """Begin the import of a plan, or go on with it.

        Args:
            plan: a digest of the plan and of what it reads.

        Returns:
            How many steps an earlier run has taken; None if the import has come to its end already.

        Raises:
            StateError: the earlier run had another plan.
        """
        sql = "SELECT key, value FROM overlay WHERE key IN (?, ?)"
        facts: dict[str, Any] = dict(self._db.rows(sql, (_DONE, _PLAN)))
        if facts and facts[_PLAN] != plan:
            raise StateError(
                "the source or the options have changed since the import was cut short",
                f"to start anew: rm -r {self._ov.storage_path}",
            )
        if not facts and self._db.value("SELECT 1 FROM inode") is not None:
            return None  # cut short after ``finish``
        self._done = int(facts.get(_DONE, 0))
        if not facts:
            with self._db.operation():
                for key, value in ((_DONE, 0), (_PLAN, plan)):
                    self._db.change(_ADD_FACT, (key, value))
        return self._done

    @contextmanager
    def step(self) -> Iterator[None]:
        """Take one step: all that is done within happens wholly, and is counted, or not at all.

        Raises:
            OSError: there is no room.
            StateError: a commit failed.
        """
        if self._ov.objects.room() < _LEAST_ROOM:
            self._ov.commits.run()  # reserves more ids, also where nothing else waits for a commit
        elif self._pending > _COMMIT_BYTES:
            self.commit()
        self._ov.space.need(0)
        with self._db.operation():
            yield
            self._db.change(SET_FACT, (_DONE, self._done + 1))
        self._done += 1

    def commit(self) -> None:
        """Make durable what was done so far.

        Raises:
            StateError: the commit failed.
        """
        self._ov.commit()
        self._pending = 0

    def finish(self, plan: str) -> None:
        """Keep nothing of the import but which one it was, and commit."""
        with self._db.operation():
            self._db.change(_DROP_FACTS, (_DONE, _PLAN))
            self._db.change(_KEEP_FACT, (IMPORTED, plan))
        self._ov.commit()

    # -- objects

    def adopt(self, path: bytes, parent: Ino, is_shown: Callable[[bytes], bool]) -> Attr:
        """Give a base object a row, copied from the base.

        Args:
            path: the object (base terms).
            parent: the directory in which it shows.
            is_shown: tells of a directory above it in the base whether that shows; one that does not gets no mark.

        Returns:
            Its attributes; the blocks are not looked up.
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
        """Make a new object, with the attributes of another, at a name; ``fill`` and ``dress`` give it the rest.

        Args:
            parent, name: where.
            st: attributes of an object elsewhere.
            links: its link count.
            target: of a symlink.

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
        """Put a base object that was just adopted on the list of modified ones; *content* where its bytes change."""
        self._inodes.modify(self._row(ino), content=content)

    def set_links(self, ino: Ino, links: int) -> None:
        """Set the link count of an object."""
        self._inodes.save(self._row(ino)._replace(nlink=links))

    def set_times(self, ino: Ino, st: os.stat_result) -> None:
        """Set mtime and ctime of an object to those of another."""
        self._inodes.save(self._row(ino)._replace(mtime=st.st_mtime_ns, ctime=st.st_ctime_ns))

    def dress(self, ino: Ino, st: os.stat_result, xattrs: Mapping[bytes, bytes]) -> None:
        """Give an object owner, mode and times of another, and extended attributes."""
        row = self._row(ino)._replace(mode=st.st_mode, uid=st.st_uid, gid=st.st_gid, xattrs=1)
        self._inodes.save(row._replace(atime=st.st_atime_ns, mtime=st.st_mtime_ns, ctime=st.st_ctime_ns))
        self._ov.attributes.add(ino, xattrs.items())

    def fill(self, ino: Ino, source: int, size: int) -> None:
        """Give a file the bytes of another; its base file, if it has one, does not show through any more.

        Args:
            ino: the file.
            source: a descriptor of the other file, valid until the next look at a base.
            size: how many bytes that has.

        Raises:
            OSError: EIO where it is shorter by now; ENOSPC and its kin.
        """
        row = self._row(ino)
        # a base file without an object would still back it
        bound = 0 if row.bound is not None and not size else None
        number: int | None = None
        if size > self._ov.content.small_max:
            number = self._copy(source, size)
        elif size:
            number = SMALL
            self._ov.stored.put_small(ino, b"".join(_pieces(source, 0, size)))
        self._inodes.save(row._replace(size=size, object=number, bound=bound))

    def _copy(self, source: int, size: int) -> int:
        """Copy a file's bytes to a content object."""
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
        """Hide a base name of a directory."""
        directory = self._inodes.directory(parent)
        assert directory.path is not None
        self._inodes.mark(directory.path, directory.ino)
        self._db.change(HIDE, (parent, name))

    def rename(self, ino: Ino, parent: Ino, name: bytes) -> None:
        """Let a base object that was adopted show at another name."""
        self._db.change(ADD["renamed"], (parent, name, ino))

    def link(self, ino: Ino, parent: Ino, name: bytes) -> None:
        """Give a file that was created one more name."""
        row = self._row(ino)
        self._inodes.save(row._replace(nlink=row.nlink + 1))
        self._db.change(ADD["created"], (parent, name, ino))


def _pieces(fd: int, start: int, end: int) -> Iterator[bytes]:
    """The bytes of a range, in order.

    Raises:
        OSError: EIO where the file is shorter than it was.
    """
    while start < end:
        data = os.pread(fd, min(_STEP, end - start), start)
        if not data:
            raise OSError(errno.EIO, "the file became shorter while it was read")
        yield data
        start += len(data)
