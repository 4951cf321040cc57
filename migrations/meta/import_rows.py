"""Carrying out an import plan: each step becomes the rows and the content object that say it.

Rows are written by the engine's door for imports (engine/bulk_import.py), and one step is one operation there.  How
many steps are done is noted in the same transaction, so an import that was cut short goes on where it was.
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
        self._door = BulkImport(overlay)
        self._progress = progress
        self._inos: dict[bytes, Ino] = {b"/": ROOT}

    def run(self) -> int:
        """Do all steps that are not done yet, and commit.

        Returns:
            The number of steps an earlier run had done.

        Raises:
            StateError: the earlier run had another plan: the source has changed.
        """
        resumed = self._door.begin(digest_of(self._plan))
        if resumed is None:
            return len(self._plan.steps)
        done = resumed
        for step in self._plan.steps[resumed:]:
            with self._door.step():
                self._take(step)
            done += 1
            if not done % _COMMIT_STEPS:
                self._door.commit()
                self._progress(done)
        self._door.commit()
        self._progress(done)
        return resumed

    def finish(self) -> None:
        """Keep nothing of the import but which one it was, and commit."""
        self._door.finish(digest_of(self._plan))

    # -- steps

    def _take(self, step: Step) -> None:
        if step.kind == "unlink":
            self._door.set_links(Ino(self._adopt(step.place, ROOT).ino), step.links)
            return
        directory, name = split(step.place)
        parent = self._ino(directory) if name else ROOT
        if step.over or step.kind == "hide":
            self._door.hide(parent, name)
        if step.kind == "modify":
            self._modify(step, parent)
        elif step.kind == "move":
            self._move(step, parent, name)
        elif step.kind == "make":
            self._make(step, parent, name)
        elif step.kind == "link":
            assert step.origin is not None
            self._door.link(self._ino(step.origin), parent, name)

    def _ino(self, place: bytes) -> Ino:
        """The number of what an earlier step has put at a place."""
        ino = self._inos.get(place)
        if ino is None:
            directory, name = split(place)
            attr = self._ov.lookup(self._ino(directory), name)
            if attr is None:
                raise StateError(
                    f"the import has lost {os.fsdecode(place)!r}", f"to start anew: rm -r {self._ov.storage_path}"
                )
            ino = self._inos[place] = Ino(attr.ino)
        return ino

    def _adopt(self, path: bytes, parent: Ino) -> Attr:
        """Give a base object its row.  Directories above it that do not show are not marked."""
        home = self._plan.home
        return self._door.adopt(path, parent, lambda above: home(above) is not None)

    def _modify(self, step: Step, parent: Ino) -> None:
        assert step.origin is not None
        attr = self._adopt(step.origin, parent)
        ino = Ino(attr.ino)
        if stat.S_ISDIR(attr.mode):
            self._inos[step.place] = ino
            self._directory(step, attr)
            return
        st = self._plan.tree.storage.stat(step.place)
        regular = stat.S_ISREG(st.st_mode)
        self._door.modify(ino, content=regular)
        if regular:
            self._door.fill(ino, self._plan.tree.storage.file(step.place), st.st_size)
        self._dress(ino, self._plan.tree.storage, step.place, st)

    def _move(self, step: Step, parent: Ino, name: bytes) -> None:
        assert step.origin is not None
        attr = self._adopt(step.origin, parent)
        self._inos[step.place] = Ino(attr.ino)
        self._door.rename(Ino(attr.ino), parent, name)
        self._directory(step, attr)

    def _directory(self, step: Step, attr: Attr) -> None:
        """Give a base directory the attributes of the storage directory that stands for it.

        Where only times differ it is not a modified one: a change of its entries moves those.
        """
        ino = Ino(attr.ino)
        if not step.stored:
            self._door.set_links(ino, step.links)
            return
        tree = self._plan.tree
        assert step.origin is not None
        st = tree.storage.stat(step.place)
        same = (st.st_mode, st.st_uid, st.st_gid) == (attr.mode, attr.uid, attr.gid)
        if same and xattrs_of(tree.storage, step.place) == xattrs_of(self._ov.base, step.origin):
            self._door.set_times(ino, st)
        else:
            self._door.modify(ino)
            self._dress(ino, tree.storage, step.place, st)
        self._door.set_links(ino, step.links)

    def _make(self, step: Step, parent: Ino, name: bytes) -> None:
        view: BaseView = self._plan.tree.storage if step.stored else self._ov.base
        path = step.place if step.stored else step.origin
        assert path is not None
        st = view.stat(path)
        is_dir = stat.S_ISDIR(st.st_mode)
        target = view.readlink(path) if stat.S_ISLNK(st.st_mode) else None
        ino = self._door.create(parent, name, st, step.links if is_dir else 1, target)
        if is_dir:
            self._inos[step.place] = ino
        elif stat.S_ISREG(st.st_mode):
            self._door.fill(ino, view.file(path), st.st_size)
        self._dress(ino, view, path, st)

    def _dress(self, ino: Ino, view: BaseView, path: bytes, st: os.stat_result) -> None:
        """Owner, mode, times and extended attributes."""
        self._door.dress(ino, st, xattrs_of(view, path))
