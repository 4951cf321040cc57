"""The execution of a merge: the changes of an overlay are applied to its base, and its storage is emptied.

A journal in storage makes it possible to continue after a crash at any step.  The files in storage tell the state:

    minifo.db                 the base is not changed yet (a staging directory in it may be left; it is made again)
    merge.db, merge-journal   the base is being changed; storage cannot be mounted; ``merge-phase`` names the next phase
    merge.db alone            the base is complete; storage is being emptied

Each phase (see ``MergePlan``) can be repeated, and is durable before ``merge-phase`` names the next one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from ...engine import ROOT, Overlay, StateError
from ...engine.errors import Corrupt, UsageError
from ...engine.model import Ino
from ...engine.queries.four_lists import FourLists
from ...engine.store.base_view import split
from ...engine.store.confined_dir import BENEATH, open_file
from ...engine.store.database import DB_NAME
from ...engine.store.layers import layers_of
from ...engine.store.storage import MERGING, MERGING_NEW
from ...engine.store.syscalls import openat2
from ..copying import copy_out, set_attributes, xattrs_in
from ..directory_lock import locked
from ..effects import DISK_ACCESS, DiskAccess, Effects, read_json
from .carry import carry_journal
from .hazards import Hazards, hazards, refuse
from .plan import Change, MergePlan, Operation, decode_journal

STAGE = b".minifo-merge"
_JOURNAL = "merge-journal"
_PHASE = "merge-phase"
_PHASES = ("lift", "place", "dress", "done")
_STEP = 1 << 20

Progress = Callable[[str, int, int], None]


@dataclass
class MergeReport:
    """The result of a merge.

    Attributes:
        changes: what was or would be changed; empty if this run has finished an interrupted merge.
        applied: True if the base was changed, False if only the plan was made.
        resumed: True if this run has finished an interrupted merge.
        found: what it would lose or overwrite, of a plan; else None.
    """

    changes: list[Change]
    applied: bool
    resumed: bool
    found: Hazards | None = None


def merge(
    storage: str,
    base: str,
    *,
    apply: bool = False,
    overwrite: bool = False,
    drop_checkpoints: bool = False,
    progress: Progress = lambda what, done, total: None,
    disk: DiskAccess = DISK_ACCESS,
) -> MergeReport:
    """Apply an overlay to its base, or finish a merge that was interrupted.

    Args:
        storage: the overlay's storage; it must not be mounted.
        base: the overlay's base, which must be writable; no other process may use it.
        apply: False to make the plan only.
        overwrite: apply the overlay's version also where the base was changed since.
        drop_checkpoints: lose checkpoints that users made.
        progress: called from time to time with the name of the step, the number of units done, and their total.
        disk: reads and writes the disk (see ``DiskAccess``).

    Raises:
        StateError: storage or base cannot be read or written, or is in use; or it would lose or overwrite something.
        UsageError: the base has several layers.
    """
    if len(layers_of(base)) > 1:
        raise UsageError("a base of several layers cannot be merged into", "copy what the mount shows: cp -a MNT/. DIR")
    storage, base = os.path.realpath(storage), os.path.realpath(base)
    disk.storage(storage).close()  # checks that the storage is the user's and has no symlinks
    with locked(storage, "being merged"):
        if os.path.exists(os.path.join(storage, MERGING)):
            if not apply:
                raise StateError(f"a merge of {storage} was interrupted", "finish it with --apply")
            for directory in (storage, base):
                disk.effects.sync_all(directory)  # the changes of a killed run may not be durable yet
            _Application(disk, storage, base, progress).run()
            return MergeReport([], True, True)
        if apply:
            disk.finish_killed(base, storage)
        overlay = disk.overlay(base, storage, read_only=not apply)
        try:
            plan = MergePlan(overlay)
            found = hazards(overlay)
            if not apply:
                return MergeReport(plan.changes, False, False, found)
            if not plan.changes and FourLists(overlay).is_empty():
                return MergeReport([], True, False)  # the storage is empty: there is nothing to do
            refuse(found, storage, base, overwrite=overwrite, drop_checkpoints=drop_checkpoints)
            _check(overlay, plan, base)
            facts = _stage(disk.effects, overlay, plan, os.fsencode(base), progress)
        finally:
            overlay.close()
        _begin(disk, storage, base, plan, facts)
        _Application(disk, storage, base, progress).run()
        return MergeReport(plan.changes, True, False)


def _check(overlay: Overlay, plan: MergePlan, base: str) -> None:
    if os.statvfs(base).f_flag & os.ST_RDONLY or not os.access(base, os.W_OK):
        raise StateError(f"base {base} cannot be written", f"make it writable: mount -o remount,rw {base}")
    for path in {*plan.directories, *(split(s.link)[0] for s in plan.staged if s.link is not None)}:
        here, there = os.lstat(os.fsencode(base) + path), overlay.base.stat(path)
        if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino) and path != b"/":
            name = os.path.join(base, os.fsdecode(path)[1:])
            raise StateError(f"another file system is mounted at or above {name}", "unmount it first")


# -- staging


def _stage(effects: Effects, overlay: Overlay, plan: MergePlan, base: bytes, progress: Progress) -> list[int]:
    """Make all new files in the staging directory, durably.

    Returns:
        The atime and mtime (ns) that the base's root must have at the end of the merge.
    """
    root = overlay.getattr(ROOT)
    stage = base + b"/" + STAGE
    if os.path.isdir(stage):
        effects.remove_tree(stage)
    effects.mkdir(stage)
    effects.utime(base, root.atime, root.mtime)  # an interrupted run leaves the times of the base as they were
    effects.sync(base)
    for count, staged in enumerate(plan.staged):
        path = stage + b"/" + staged.name.encode()
        if staged.link is not None:
            effects.link(base + staged.link, path)
        elif staged.same is not None:
            effects.link(stage + b"/" + staged.same.encode(), path)
        else:
            attr = overlay.getattr(Ino(staged.ino))
            copy_out(effects, overlay, attr, path)
            values = (attr.mode, attr.uid, attr.gid, attr.atime, attr.mtime)
            set_attributes(effects, path, values, xattrs_in(overlay, Ino(staged.ino)))
        if not count % 64:
            progress("staging", count, len(plan.staged))
    effects.sync_all(base)
    return [root.atime, root.mtime]


def _begin(disk: DiskAccess, storage: str, base: str, plan: MergePlan, times: list[int]) -> None:
    """Write the journal and rename the database: from here on an interrupted merge is finished, not undone."""
    database = os.path.join(storage, DB_NAME)
    effects = disk.effects
    disk.fold_log(database)
    effects.write_durably(os.path.join(storage, _PHASE), _PHASES[0])
    operations = plan.journal()
    effects.write_durably(
        os.path.join(storage, _JOURNAL), json.dumps({"base": base, "times": times, "operations": operations})
    )
    effects.rename(database, os.path.join(storage, MERGING))
    effects.sync(storage)


# -- applying


class _Application:
    """Executes the journal of one storage, starting with the phase that ``merge-phase`` names."""

    def __init__(self, disk: DiskAccess, storage: str, base: str, progress: Progress) -> None:
        self._disk = disk
        self._effects = disk.effects
        self._storage = storage
        self._base = os.fsencode(base)
        self._stage = self._base + b"/" + STAGE
        self._progress = progress
        self._emptied: set[bytes] = set()  # directories from which an object was lifted since the last sync
        self._made: set[bytes] = set()  # directories made since the last sync

    def run(self) -> None:
        """Execute the rest of the journal, then empty the storage."""
        journal = self._at(_JOURNAL)
        if os.path.exists(journal):
            base, times, operations = decode_journal(read_json(journal), journal)
            if os.fsencode(base) != self._base:
                raise StateError(
                    f"the interrupted merge of {self._storage} is one into {base}", f"finish it with --base {base}"
                )
            for operation in operations:
                self._check_inside(operation.path)
            self._apply(operations)
            if os.path.isdir(self._stage):
                self._effects.remove_tree(self._stage)
            self._effects.utime(self._base, *times)
            self._effects.sync_all(self._base)
            self._effects.unlink(journal)
            self._effects.sync(self._storage)
        self._empty()

    def _at(self, name: str) -> str:
        return os.path.join(self._storage, name)

    def _apply(self, operations: list[Operation]) -> None:
        """Execute the phases from the one that ``merge-phase`` names, and make each durable before the next."""
        phase = self._phase()
        steps = {"lift": 0, "mkdir": 1, "place": 1, "overwrite": 1, "dress": 2}
        for current in range(phase, len(_PHASES) - 1):
            for count, operation in enumerate(operations):
                if steps[operation.kind] == current:
                    self._do(operation)
                if not count % 64:
                    self._progress("merging", count + current * len(operations), 3 * len(operations))
            self._sync()
            self._effects.write_durably(self._at(_PHASE), _PHASES[current + 1])

    def _phase(self) -> int:
        path = self._at(_PHASE)
        fd = open_file(path)
        try:
            text = os.pread(fd, 64, 0)
        finally:
            os.close(fd)
        if text.decode("ascii", "replace") not in _PHASES:
            raise Corrupt(f"{path} is damaged", "inspect it by hand; nothing was changed")
        return _PHASES.index(text.decode("ascii"))

    def _check_inside(self, path: bytes) -> None:
        """Refuse a path of the base that leads into another file system; a symlink on it is refused when it is used.

        Raises:
            StateError: another file system is mounted on the path; nothing was changed.
        """
        directory = split(path)[0]
        top = os.open(self._base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.close(openat2(top, directory[1:] or b".", os.O_PATH | os.O_DIRECTORY, BENEATH))
        except OSError as error:
            if error.errno == errno.EXDEV:  # other errors are expected: the merge may make these directories later
                where = os.fsdecode(self._base + path)
                raise StateError(f"{where} leads out of the base", "unmount what is mounted there") from error
        finally:
            os.close(top)

    def _sync(self) -> None:
        self._effects.sync_all(self._base)
        self._emptied.clear()
        self._made.clear()

    def _keep_order(self, operation: Operation) -> None:
        """Sync the base if *operation* must not become durable before an earlier one.

        Lifting a directory is such an operation if an object was lifted out of it: a crash could leave the object in
        the lifted directory.  Placing an object in a new directory is one, too: a crash could lose the directory with
        the object.  Operations are sorted by depth, so this syncs at most once for each level of the tree.
        """
        above = split(operation.path)[0]
        if operation.kind == "lift":
            if operation.path in self._emptied:
                self._sync()
            while above not in self._emptied and above != b"/":
                self._emptied.add(above)
                above = split(above)[0]
        elif operation.kind in ("mkdir", "place"):
            if above in self._made:
                self._sync()
            if operation.kind == "mkdir":
                self._made.add(operation.path)

    def _do(self, operation: Operation) -> None:
        """Execute one operation of the journal; a repeated one changes nothing."""
        self._keep_order(operation)
        path = self._base + operation.path
        staged = self._stage + b"/" + operation.name.encode()
        if operation.kind == "lift":
            if not os.path.lexists(staged):
                self._effects.rename(path, staged)
        elif operation.kind == "mkdir":
            with contextlib.suppress(FileExistsError):
                self._effects.mkdir(path)
        elif operation.kind == "place":
            if os.path.lexists(staged):
                self._place(staged, path)
        elif operation.kind == "overwrite":
            self._overwrite(staged, self._stage + b"/" + operation.source.encode())
        elif operation.kind == "dress":
            set_attributes(self._effects, staged if operation.name else path, operation.attributes, operation.xattrs)

    def _place(self, staged: bytes, path: bytes) -> None:
        self._effects.rename(staged, path)
        if os.path.lexists(staged):
            self._effects.unlink(staged)  # rename(2) does nothing if both names are hard links of the same file

    def _empty(self) -> None:
        """Turn storage into that of an empty overlay with the same journal; the old database is deleted last."""
        for name in ("content", "checkpoints"):
            if os.path.isdir(self._at(name)):
                self._effects.remove_tree(self._at(name))
        is_carried = carry_journal(self._disk, self._storage, os.fsdecode(self._base))
        left = (_PHASE, "reserve", "control", "minifo.names", DB_NAME + "-wal", DB_NAME + "-shm", MERGING_NEW)
        for name in left:
            with contextlib.suppress(FileNotFoundError):
                self._effects.unlink(self._at(name))
        self._effects.sync(self._storage)
        if is_carried:
            self._effects.rename(self._at(MERGING), self._at(DB_NAME))
        else:
            with contextlib.suppress(FileNotFoundError):
                self._effects.unlink(self._at(MERGING))
        self._effects.sync(self._storage)
        self._disk.overlay(os.fsdecode(self._base), self._storage).close()

    def _overwrite(self, target: bytes, source: bytes) -> None:
        """Copy the content of the file *source* into the file *target*, so that all its hard links show it.

        Does nothing if *target* is not a regular file.
        """
        if not stat.S_ISREG(os.lstat(target).st_mode):
            return
        with open(open_file(os.fsdecode(source)), "rb", buffering=0) as old:
            fd = self._effects.open(target)
            try:
                at = 0
                while data := old.read(_STEP):
                    self._effects.write(fd, data, at)
                    at += len(data)
                self._effects.truncate(fd, at)
            finally:
                os.close(fd)
