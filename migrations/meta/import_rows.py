"""Carrying out an import plan: each step becomes the rows and the content object that say it.

Rows are written as the engine writes them, through its own parts, and one step is one operation.  How many steps are
done is noted in the same transaction, so an import that was cut short goes on where it was.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from typing import Any

from ...engine import Overlay, StateError
from ...engine.model import ROOT, Ino
from ...engine.store.base_view import BaseView, split
from ...engine.store.list_statements import ADD, HIDE
from ...engine.store.statements import SET_FACT, statement
from ...engine.store.syscalls import data_ranges
from ...engine.tree.inode_rows import Row
from ...engine.tree.nodes import Node
from ..copying import data_of, xattrs_of
from .import_plan import ImportPlan, Step

_COMMIT_STEPS = 1000
_COMMIT_BYTES = 64 << 20
_LEAST_ROOM = 16  # content object ids left before a commit must reserve more
_DONE, _PLAN = "import_steps", "import_plan"  # rows of ``overlay`` while an import is under way
IMPORTED = "imported"  # and one when it has come to its end: the digest of its plan

_ADD_FACT = statement("INSERT INTO overlay VALUES (?, ?)")
_KEEP_FACT = statement("INSERT OR REPLACE INTO overlay VALUES (?, ?)")
_DROP_FACTS = statement("DELETE FROM overlay WHERE key IN (?, ?)")
_SET_LINKS = statement("UPDATE inode SET nlink = ? WHERE ino = ?")
_ADD_LINK = statement("UPDATE inode SET nlink = nlink + 1 WHERE ino = ?")
_SET_TIMES = statement("UPDATE inode SET mtime = ?, ctime = ? WHERE ino = ?")
_SET_ALL = statement(
    "UPDATE inode SET mode = ?, uid = ?, gid = ?, atime = ?, mtime = ?, ctime = ?, xattrs = 1 WHERE ino = ?"
)
_SET_CONTENT = statement("UPDATE inode SET size = ?, object = ?, bound = ? WHERE ino = ?")
_DROP_ORIGIN = statement("DELETE FROM origin WHERE path = ?")
_ADD_XATTR = statement("INSERT INTO xattr VALUES (?, ?, ?)")


def digest_of(plan: ImportPlan) -> str:
    """What tells one plan, and the source it was made from, from another."""
    digest = hashlib.blake2b(digest_size=16)
    for step in plan.steps:
        digest.update(repr(step).encode())
        if step.stored:
            st = plan.tree.stat(step.place)
            if st is not None:
                digest.update(b"%d %d" % (st.st_size, st.st_mtime_ns))
    return digest.hexdigest()


class ImportRun:
    """Carries out a plan on an overlay that is open for writing.

    Args:
        plan: what to do.
        overlay: a new one, or one an earlier run of the same plan has left.
        progress: called with the number of steps done.
    """

    def __init__(self, plan: ImportPlan, overlay: Overlay, progress: Callable[[int], None]) -> None:
        self._plan = plan
        self._ov = overlay
        self._progress = progress
        self._inos: dict[bytes, Ino] = {b"/": ROOT}
        self._can_clone = True
        self._pending = 0  # bytes written since the last commit

    def run(self) -> int:
        """Do all steps that are not done yet, and commit.

        Returns:
            The number of steps an earlier run had done.

        Raises:
            StateError: the earlier run had another plan: the source has changed.
        """
        ov = self._ov
        digest = digest_of(self._plan)
        facts: dict[str, Any] = dict(ov.db.rows("SELECT key, value FROM overlay WHERE key IN (?, ?)", (_DONE, _PLAN)))
        if facts and facts[_PLAN] != digest:
            raise StateError(
                "the source or the options have changed since the import was cut short",
                f"to start anew: rm -r {ov.storage.path}",
            )
        if not facts and ov.db.value("SELECT 1 FROM inode") is not None:
            return len(self._plan.steps)  # cut short after ``finish``
        done = resumed = int(facts.get(_DONE, 0))
        if not facts:
            with ov.db.operation():
                for key, value in ((_DONE, 0), (_PLAN, digest)):
                    ov.db.change(_ADD_FACT, (key, value))
        for step in self._plan.steps[done:]:
            if ov.objects.room() < _LEAST_ROOM:
                ov.commits.run()  # reserves more ids, also where nothing else waits for a commit
            elif self._pending > _COMMIT_BYTES:
                self._commit()
            ov.space.need(0)
            with ov.db.operation():
                self._take(step)
                done += 1
                ov.db.change(SET_FACT, (_DONE, done))
            if not done % _COMMIT_STEPS:
                self._commit()
                self._progress(done)
        self._commit()
        self._progress(done)
        return resumed

    def finish(self) -> None:
        """Keep nothing of the import but which one it was, and commit."""
        with self._ov.db.operation():
            self._ov.db.change(_DROP_FACTS, (_DONE, _PLAN))
            self._ov.db.change(_KEEP_FACT, (IMPORTED, digest_of(self._plan)))
        self._ov.commit()

    def _commit(self) -> None:
        self._ov.commit()
        self._pending = 0

    # -- steps

    def _take(self, step: Step) -> None:
        if step.kind == "unlink":
            row = self._adopt(step.place, ROOT)
            self._ov.db.change(_SET_LINKS, (step.links, row.ino))
            return
        directory, name = split(step.place)
        parent = self._node(directory) if name else None
        if step.over or step.kind == "hide":
            assert parent is not None
            assert parent.path is not None
            self._ov.inodes.mark(parent.path, parent.ino)
            self._ov.db.change(HIDE, (parent.ino, name))
        if step.kind == "modify":
            self._modify(step, parent)
        elif step.kind == "move":
            assert parent is not None
            self._move(step, parent, name)
        elif step.kind == "make":
            assert parent is not None
            self._make(step, parent, name)
        elif step.kind == "link":
            assert parent is not None
            assert step.origin is not None
            ino = self._ino(step.origin)
            self._ov.db.change(_ADD_LINK, (ino,))
            self._ov.db.change(ADD["created"], (parent.ino, name, ino))

    def _node(self, place: bytes) -> Node:
        return self._ov.inodes.directory(self._ino(place))

    def _ino(self, place: bytes) -> Ino:
        """The number of what an earlier step has put at a place."""
        ino = self._inos.get(place)
        if ino is None:
            directory, name = split(place)
            attr = self._ov.lookup(self._ino(directory), name)
            if attr is None:
                raise StateError(
                    f"the import has lost {os.fsdecode(place)!r}", f"to start anew: rm -r {self._ov.storage.path}"
                )
            ino = self._inos[place] = Ino(attr.ino)
        return ino

    def _adopt(self, path: bytes, parent: Ino) -> Row:
        """Give a base object its row.  Directories above it that do not show are not marked."""
        ov, home = self._ov, self._plan.home
        st = ov.base.stat(path)
        is_dir = stat.S_ISDIR(st.st_mode)
        node = ov.inodes.found(ov.inodes.numbers.of(st), (None, path), parent, is_dir, False)
        row = ov.inodes.adopt(node)
        above = split(path)[0]
        while above != b"/":
            if home(above) is None:
                ov.db.change(_DROP_ORIGIN, (above,))
            above = split(above)[0]
        return row

    def _modify(self, step: Step, parent: Node | None) -> None:
        assert step.origin is not None
        row = self._adopt(step.origin, parent.ino if parent is not None else ROOT)
        if stat.S_ISDIR(row.mode):
            self._inos[step.place] = row.ino
            self._directory(step, row)
            return
        st = self._plan.tree.storage.stat(step.place)
        regular = stat.S_ISREG(st.st_mode)
        self._ov.inodes.modify(row, content=regular)
        if regular:
            self._fill(row, self._plan.tree.storage, step.place, st.st_size)
        self._give(row.ino, self._plan.tree.storage, step.place, st)

    def _move(self, step: Step, parent: Node, name: bytes) -> None:
        assert step.origin is not None
        row = self._adopt(step.origin, parent.ino)
        self._inos[step.place] = row.ino
        self._ov.db.change(ADD["renamed"], (parent.ino, name, row.ino))
        self._directory(step, row)

    def _directory(self, step: Step, row: Row) -> None:
        """Give a base directory the attributes of the storage directory that stands for it.

        Where only times differ it is not a modified one: a change of its entries moves those.
        """
        self._ov.db.change(_SET_LINKS, (step.links, row.ino))
        if not step.stored:
            return
        tree = self._plan.tree
        assert step.origin is not None
        st = tree.storage.stat(step.place)
        same = (st.st_mode, st.st_uid, st.st_gid) == (row.mode, row.uid, row.gid)
        if same and xattrs_of(tree.storage, step.place) == xattrs_of(self._ov.base, step.origin):
            self._ov.db.change(_SET_TIMES, (st.st_mtime_ns, st.st_ctime_ns, row.ino))
            return
        self._ov.inodes.modify(row)
        self._give(row.ino, tree.storage, step.place, st)

    def _make(self, step: Step, parent: Node, name: bytes) -> None:
        ov = self._ov
        view: BaseView = self._plan.tree.storage if step.stored else ov.base
        path = step.place if step.stored else step.origin
        assert path is not None
        st = view.stat(path)
        is_dir = stat.S_ISDIR(st.st_mode)
        target = view.readlink(path) if stat.S_ISLNK(st.st_mode) else None
        rdev = st.st_rdev if stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode) else 0
        size = len(target) if target is not None else st.st_size if is_dir or stat.S_ISREG(st.st_mode) else 0
        links = step.links if is_dir else 1
        row = ov.inodes.create(st.st_mode, st.st_uid, st.st_gid, rdev, links, size, target)
        ov.db.change(ADD["created"], (parent.ino, name, row.ino))
        if is_dir:
            self._inos[step.place] = row.ino
        elif stat.S_ISREG(st.st_mode):
            self._fill(row, view, path, st.st_size)
        self._give(row.ino, view, path, st)

    # -- what every object gets

    def _give(self, ino: Ino, view: BaseView, path: bytes, st: os.stat_result) -> None:
        """Owner, mode, times and extended attributes."""
        change = self._ov.db.change
        times = st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns
        change(_SET_ALL, (st.st_mode, st.st_uid, st.st_gid, *times, ino))
        for name, value in xattrs_of(view, path).items():
            change(_ADD_XATTR, (ino, name, value))

    def _fill(self, row: Row, view: BaseView, path: bytes, size: int) -> None:
        """Give a file the bytes of another; the base file, if it has one, does not show through any more."""
        number: int | None = None
        # a base file without an object would still back it
        bound = 0 if row.bound is not None and not size else None
        if size > self._ov.content.small_max:
            number = self._copy(view, path, size)
        self._ov.db.change(_SET_CONTENT, (size, number, bound, row.ino))
        if 0 < size <= self._ov.content.small_max:
            empty = row._replace(size=size, object=None, bound=None)
            self._ov.content.write(empty, None, 0, b"".join(data_of(view.file(path), 0, size)))

    def _copy(self, view: BaseView, path: bytes, size: int) -> int:
        """Copy a file's bytes to a content object."""
        objects = self._ov.objects
        source = view.file(path)
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
            for data in data_of(source, start, end):
                objects.write(number, data, at)
                at += len(data)
        self._pending += size
        return number
