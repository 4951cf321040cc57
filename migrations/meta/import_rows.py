"""The execution of an import plan: each step is turned into rows and content objects of the new overlay.

The engine writes the rows (engine/bulk_import.py), each step as one operation.  The number of finished steps is stored
in the same transaction, so an interrupted import continues with the next step.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable

from ...engine import Attr, Overlay, StateError
from ...engine.bulk_import import BulkImport
from ...engine.model import ROOT, Ino
from ...engine.store.base_view import BaseView, split
from ..copying import xattrs_of
from .import_plan import ImportPlan, Step

_COMMIT_STEPS = 1000


def digest_of(plan: ImportPlan) -> str:
    """Return a digest of a plan and of the sizes and times of the files that it reads.

    Another source, base or option leads to another digest.
    """
    digest = hashlib.blake2b(digest_size=16)
    for step in plan.steps:
        digest.update(repr(step).encode())
        if step.stored:
            st = plan.tree.stat(step.place)
            if st is not None:
                digest.update(b"%d %d" % (st.st_size, st.st_mtime_ns))
    return digest.hexdigest()


class ImportRun:
    """Executes a plan on an overlay that is open for writing.

    Args:
        plan: the plan.
        overlay: a new overlay, or the one that an interrupted run of the same plan has left.
        progress: called from time to time with the number of finished steps.
    """

    def __init__(self, plan: ImportPlan, overlay: Overlay, progress: Callable[[int], None]) -> None:
        self._plan = plan
        self._ov = overlay
        self._bulk_import = BulkImport(overlay)
        self._progress = progress
        self._inos: dict[bytes, Ino] = {b"/": ROOT}

    def run(self) -> int:
        """Execute all steps that are not finished, and commit.

        Returns:
            The number of steps that an earlier run had finished.

        Raises:
            StateError: the earlier run had another plan, because the source or the options have changed.
        """
        resumed = self._bulk_import.begin(digest_of(self._plan))
        if resumed is None:
            return len(self._plan.steps)
        done = resumed
        for step in self._plan.steps[resumed:]:
            with self._bulk_import.step():
                self._execute(step)
            done += 1
            if not done % _COMMIT_STEPS:
                self._bulk_import.commit()
                self._progress(done)
        self._bulk_import.commit()
        self._progress(done)
        return resumed

    def finish(self) -> None:
        """Mark the import as finished: replace the number of finished steps by the plan's digest, and commit."""
        self._bulk_import.finish(digest_of(self._plan))

    # -- steps

    def _execute(self, step: Step) -> None:
        """Execute one step, inside a step of the bulk import."""
        if step.kind == "unlink":
            self._bulk_import.set_links(Ino(self._adopt(step.place, ROOT).ino), step.links)
            return
        directory, name = split(step.place)
        parent = self._ino(directory) if name else ROOT
        if step.over or step.kind == "hide":
            self._bulk_import.hide(parent, name)
        if step.kind == "modify":
            self._modify(step, parent)
        elif step.kind == "move":
            self._move(step, parent, name)
        elif step.kind == "make":
            self._make(step, parent, name)
        elif step.kind == "link":
            assert step.origin is not None
            self._bulk_import.link(self._ino(step.origin), parent, name)

    def _ino(self, place: bytes) -> Ino:
        """Return the inode number of the object that an earlier step has put at a place."""
        unknown = []
        while place not in self._inos:
            directory, name = split(place)
            unknown.append((place, name))
            place = directory
        ino = self._inos[place]
        for below, name in reversed(unknown):
            attr = self._ov.lookup(ino, name)
            if attr is None:
                raise StateError(
                    f"the unfinished import in {self._ov.storage_path} lacks {os.fsdecode(below)!r}",
                    f"delete it (rm -r {self._ov.storage_path}), then import again",
                )
            ino = self._inos[below] = Ino(attr.ino)
        return ino

    def _adopt(self, path: bytes, parent: Ino) -> Attr:
        """Give a base object a row of its own, and return its attributes.

        The directories above it are marked, except those that do not show in the overlay.
        """
        home = self._plan.home
        return self._bulk_import.adopt(path, parent, lambda above: home(above) is not None)

    def _modify(self, step: Step, parent: Ino) -> None:
        """Give a base object the content and attributes of the storage object at the same place."""
        assert step.origin is not None
        attr = self._adopt(step.origin, parent)
        ino = Ino(attr.ino)
        if stat.S_ISDIR(attr.mode):
            self._inos[step.place] = ino
            self._directory(step, attr)
            return
        st = self._plan.tree.storage.stat(step.place)
        regular = stat.S_ISREG(st.st_mode)
        self._bulk_import.modify(ino, content=regular)
        if regular:
            self._bulk_import.fill(ino, self._plan.tree.storage.file(step.place), st.st_size)
        self._set_attributes(ino, self._plan.tree.storage, step.place, st)

    def _move(self, step: Step, parent: Ino, name: bytes) -> None:
        assert step.origin is not None
        attr = self._adopt(step.origin, parent)
        self._inos[step.place] = Ino(attr.ino)
        self._bulk_import.rename(Ino(attr.ino), parent, name)
        self._directory(step, attr)

    def _directory(self, step: Step, attr: Attr) -> None:
        """Give a base directory the link count of the step and the attributes of its directory in storage.

        If only times differ, the directory does not count as modified, because a change of its entries also changes
        its times.
        """
        ino = Ino(attr.ino)
        if not step.stored:
            self._bulk_import.set_links(ino, step.links)
            return
        tree = self._plan.tree
        assert step.origin is not None
        st = tree.storage.stat(step.place)
        same = (st.st_mode, st.st_uid, st.st_gid) == (attr.mode, attr.uid, attr.gid)
        if same and xattrs_of(tree.storage, step.place) == xattrs_of(self._ov.base, step.origin):
            self._bulk_import.set_times(ino, st.st_mtime_ns, st.st_ctime_ns)
        else:
            self._bulk_import.modify(ino)
            self._set_attributes(ino, tree.storage, step.place, st)
        self._bulk_import.set_links(ino, step.links)

    def _make(self, step: Step, parent: Ino, name: bytes) -> None:
        """Create an object with content and attributes of one in storage or in the base."""
        view: BaseView = self._plan.tree.storage if step.stored else self._ov.base
        path = step.place if step.stored else step.origin
        assert path is not None
        st = view.stat(path)
        is_dir = stat.S_ISDIR(st.st_mode)
        target = view.readlink(path) if stat.S_ISLNK(st.st_mode) else None
        ino = self._bulk_import.create(parent, name, st, step.links if is_dir else 1, target)
        if is_dir:
            self._inos[step.place] = ino
        elif stat.S_ISREG(st.st_mode):
            self._bulk_import.fill(ino, view.file(path), st.st_size)
        self._set_attributes(ino, view, path, st)

    def _set_attributes(self, ino: Ino, view: BaseView, path: bytes, st: os.stat_result) -> None:
        """Give an inode owner, mode, times and extended attributes of the object at *path*."""
        self._bulk_import.dress(ino, st, xattrs_of(view, path))
