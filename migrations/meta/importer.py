"""The import of a mini_fo storage, from the plan to a storage that can be mounted, and the restore that undoes it.

The new storage is built in a working directory inside the target, and moved up when it is complete and verified:

    NEW/.minifo-import/           minifo.db and content while they are built; a mount refuses NEW while this exists
    NEW/content, NEW/minifo.db    moved up in this order; with the database the storage is complete

In an import in place the target is the mini_fo storage itself.  Before the move its own files are moved to
``mini_fo-backup``, from where ``restore`` moves them back.  A crash at any step leaves the source unchanged, or a state
from which the same command continues.  The files of the source are never written; an import in place only renames them.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ...engine import Corrupt, NotMinifo, StateError, UsageError
from ...engine.bulk_import import IMPORTED
from ...engine.store.base_view import BaseView
from ...engine.store.confined_dir import ConfinedDir, check_layout
from ...engine.store.database import DB_NAME
from ...engine.store.database_file import check_header
from ...engine.store.storage import IMPORTING, RESTORING
from ..directory_lock import locked
from ..effects import DISK_ACCESS, DiskAccess, Effects, read_json
from ..new_storage import LOST_FOUND, check_empty, lies_in, make_target, move_up
from .codec import META_NAME
from .import_plan import DOverR, ImportPlan, Step
from .import_rows import ImportRun, digest_of
from .storage_tree import LegacyTree, Note
from .view import Comparison, LegacyView, compare

WORK = IMPORTING
BACKUP = "mini_fo-backup"
_RESTORE = RESTORING
_FACTS = ".minifo-import.json"  # in the backup: commit token of the new storage, attributes of the old directory
_COMPLETE = "complete"

Progress = Callable[[str, int, int], None]  # name of the step, number of units done, their total


def _silent(what: str, done: int, total: int) -> None:
    """Show no progress."""


@dataclass
class ImportReport:
    """The result of an import, or of its plan.

    Attributes:
        steps: the plan; empty if this run only finished the move of a complete import.
        notes: messages for the user about places in the storage.
        resumed: number of steps that an earlier, interrupted run had finished.
        compared: the result of the comparison of mini_fo's view with the new overlay; None for a dry run.
        backup: the directory with the mini_fo storage after an import in place.
        already: True if an earlier run had finished this import; nothing was changed.
        counts: the number of places with each of mini_fo's states.
    """

    steps: list[Step]
    notes: list[Note]
    resumed: int = 0
    compared: Comparison | None = None
    backup: str | None = None
    already: bool = False
    counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for step in self.steps:
            if step.kind == "unlink":
                continue
            self.counts[step.state.value] = self.counts.get(step.state.value, 0) + 1


def plan_import(
    source: str,
    base: str,
    target: str | None = None,
    *,
    meta_name: bytes = META_NAME,
    d_over_r: DOverR = "kernel",
) -> ImportReport:
    """Return what an import would do; change nothing.

    Args:
        source: the mini_fo storage.
        base: the base that mini_fo was mounted with.
        target: the new storage; the source itself for an import in place; None if it is not known yet.
        meta_name: the name of META files in the source.
        d_over_r: which line counts if a name has both a D and an R line (see ``ImportPlan``).

    Raises:
        StateError: source or base cannot be read.
        UsageError: source, base or target cannot be the right directory.
    """
    with _view(source, "the mini_fo storage") as storage, _view(base, "base") as view:
        _check_places(source, base, target)
        if target is not None and os.path.isdir(target):
            _check_target(target, in_place=target == source)
        plan = ImportPlan(LegacyTree(view, storage, meta_name=meta_name), d_over_r)
        return ImportReport(plan.steps, plan.tree.notes)


class _Options(NamedTuple):
    meta_name: bytes
    d_over_r: DOverR
    in_place: bool


def import_storage(
    source: str,
    base: str,
    target: str | None,
    *,
    meta_name: bytes = META_NAME,
    d_over_r: DOverR = "kernel",
    progress: Progress = _silent,
    disk: DiskAccess = DISK_ACCESS,
) -> ImportReport:
    """Import a mini_fo storage.

    A call that repeats a finished import changes nothing and returns a report with ``already``.

    Args:
        source: the mini_fo storage.
        base: the base that mini_fo was mounted with.
        target: the new storage, a directory that is empty or does not exist; None to import in place.
        meta_name: the name of META files in the source.
        d_over_r: which line counts if a name has both a D and an R line (see ``ImportPlan``).
        progress: called from time to time with the name of the step, the number of units done, and their total.
        disk: reads and writes the disk (see ``DiskAccess``).

    Raises:
        UsageError: source, base or target cannot be the right directory; nothing was changed.
        StateError: a directory cannot be read or written, or the new overlay does not show what mini_fo showed.
    """
    source = os.path.realpath(source)
    target = None if target is None else os.path.realpath(target)
    new_storage = source if target is None else target
    with _view(source, "the mini_fo storage"), _view(base, "base"):
        _check_places(source, base, new_storage)
    if target is not None:
        make_target(disk.effects, target)
    with _locked(new_storage), _view(source, "the mini_fo storage") as storage:
        work = os.path.join(new_storage, WORK)
        options = _Options(meta_name, d_over_r, target is None)
        if _is_imported(disk, base, storage, new_storage, options):
            # the changes of an earlier run that was killed right at its end may not be durable yet
            disk.effects.sync_all(new_storage)
            return ImportReport(
                [], [], already=True, backup=os.path.join(new_storage, BACKUP) if target is None else None
            )
        _check_target(new_storage, in_place=target is None)
        if os.path.isdir(work):
            disk.effects.sync_all(new_storage)  # the changes of a killed run may not be durable yet
        if _is_complete(new_storage):
            # an earlier run was interrupted while it moved files
            report = ImportReport([], [])
        else:
            _make_work(disk.effects, new_storage, work)
            report = _build(disk, base, storage, work, options, progress)
        if target is None:
            _move_to_backup(disk, new_storage, work)
            _make_private(disk.effects, new_storage)
            report.backup = os.path.join(new_storage, BACKUP)
        move_up(disk.effects, new_storage, work)
    return report


def restore(storage: str, *, discard: bool = False, disk: DiskAccess = DISK_ACCESS) -> None:
    """Undo an import in place: restore the mini_fo storage from its backup and delete the new storage.

    Args:
        storage: a storage that was imported in place; it must not be mounted.
        discard: True to restore even if changes made since the import are lost.
        disk: reads and writes the disk (see ``DiskAccess``).

    Raises:
        StateError: the storage has no backup, or changes would be lost.
    """
    effects = disk.effects
    storage = os.path.realpath(storage)
    backup, discarded = os.path.join(storage, BACKUP), os.path.join(storage, _RESTORE)
    with _locked(storage):
        if not os.path.isdir(backup):
            if os.path.isdir(discarded):
                effects.sync_all(storage)  # the changes of a killed run may not be durable yet
                _delete_discarded(effects, storage, discarded)  # an earlier run was interrupted before this step
                return
            raise StateError(f"{storage} has no {BACKUP}", "only an import in place can be undone")
        disk.storage(storage).close()  # checks that the storage is the user's and has no symlinks
        if os.path.isdir(discarded):
            effects.sync_all(storage)  # the changes of a killed run may not be durable yet
        else:
            _check_unchanged(disk, storage, backup, discard)
            effects.mkdir(discarded)
            effects.sync(storage)  # a crash must not lose this directory after files were moved into it
        # the database first: without it the storage cannot be mounted
        if os.path.exists(os.path.join(storage, DB_NAME)) and not os.path.exists(os.path.join(discarded, DB_NAME)):
            effects.rename(os.path.join(storage, DB_NAME), os.path.join(discarded, DB_NAME))
            effects.sync(storage)
        if not os.path.exists(os.path.join(discarded, _COMPLETE)):
            for name in os.listdir(storage):
                if name not in (BACKUP, _RESTORE, LOST_FOUND):
                    effects.rename(os.path.join(storage, name), os.path.join(discarded, name))
            effects.sync(storage)
            effects.write_durably(os.path.join(discarded, _COMPLETE), "")
        for name in os.listdir(backup):
            if name != _FACTS:
                effects.rename(os.path.join(backup, name), os.path.join(storage, name))
        effects.sync(storage)
        if os.path.exists(os.path.join(backup, _FACTS)):
            effects.rename(os.path.join(backup, _FACTS), os.path.join(discarded, _FACTS))
            effects.sync(discarded)
        effects.rmdir(backup)
        effects.sync(storage)  # while a backup exists, the next run takes the files beside it for the new storage
        _delete_discarded(effects, storage, discarded)


def _delete_discarded(effects: Effects, storage: str, discarded: str) -> None:
    """Delete the files of the new storage, and restore the attributes of the mini_fo storage's directory."""
    facts: dict[str, int] = {}
    for name in sorted(os.listdir(discarded), key=lambda name: name == _FACTS):
        path = os.path.join(discarded, name)
        if name == _FACTS:
            facts = _facts(path)
            if "uid" in facts:
                effects.chown(storage, facts["uid"], facts["gid"])
                effects.chmod(storage, facts["mode"])
                effects.sync(storage)
        if os.path.isdir(path):
            effects.remove_tree(path)
        else:
            effects.unlink(path)
    effects.rmdir(discarded)
    if facts:
        effects.utime(storage, facts["atime"], facts["mtime"])
    effects.sync(storage)


# -- building


def _build(
    disk: DiskAccess, base: str, storage: BaseView, work: str, options: _Options, progress: Progress
) -> ImportReport:
    """Build the new storage in the working directory, compare it with mini_fo's view, and mark it complete."""
    overlay = disk.overlay(base, work, finished=False)
    try:
        plan = ImportPlan(_tree(overlay.base, storage, options), options.d_over_r)
        report = ImportReport(plan.steps, plan.tree.notes)
        total = len(plan.steps)
        run = ImportRun(plan, overlay, lambda done: progress("importing", done, total))
        report.resumed = run.run()
    finally:
        overlay.close()
    overlay = disk.overlay(base, work)
    try:
        view = LegacyView(_tree(overlay.base, storage, options), intent=options.d_over_r == "intent")
        report.compared = compare(view, overlay, lambda done: progress("comparing", done, 0))
        broken = overlay.check()
        if broken:
            raise StateError(
                f"the import breaks rule {broken[0].number}: {broken[0].rule}",
                "this is an error in minifo, please report it",
            )
        if report.compared.differences:
            first = report.compared.differences[0]
            raise StateError(
                f"the imported overlay differs from mini_fo's view in {len(report.compared.differences)} points, first:"
                f" {first.what} of {os.fsdecode(first.place)!r} is {first.overlay!r} instead of {first.legacy!r}",
                f"check that mini_fo was mounted with this base; nothing was replaced, the result is in {work}",
            )
        ImportRun(plan, overlay, lambda done: None).finish()
    finally:
        overlay.close()
    disk.fold_log(os.path.join(work, DB_NAME))
    disk.effects.write_durably(os.path.join(work, _COMPLETE), "")
    disk.effects.sync(work)
    return report


def _tree(base: BaseView, storage: BaseView, options: _Options) -> LegacyTree:
    ours = frozenset({os.fsencode(WORK), os.fsencode(BACKUP)}) if options.in_place else frozenset()
    return LegacyTree(base, storage, meta_name=options.meta_name, ignore=ours)


# -- moving


def _is_complete(new_storage: str) -> bool:
    work = os.path.join(new_storage, WORK)
    if not os.path.isdir(work):
        return False
    # the database moves up last: once it has, any files may be left in the working directory
    return any(map(os.path.exists, (os.path.join(work, _COMPLETE), os.path.join(new_storage, DB_NAME))))


def _is_imported(disk: DiskAccess, base: str, storage: BaseView, new_storage: str, options: _Options) -> bool:
    """Return whether an earlier run has finished an import from this source, over this base, with these options."""
    database = os.path.join(new_storage, DB_NAME)
    if os.path.exists(os.path.join(new_storage, WORK)) or not os.path.exists(database):
        return False
    disk.storage(new_storage).close()  # checks that the storage is the user's and has no symlinks
    if options.in_place:
        return os.path.exists(os.path.join(new_storage, BACKUP, _FACTS))
    check_header(database)
    known = disk.fact(database, IMPORTED)
    if known is None:
        return False
    with _view(base, "base") as view:
        return known == digest_of(ImportPlan(_tree(view, storage, options), options.d_over_r))


def _make_work(effects: Effects, new_storage: str, work: str) -> None:
    st = os.stat(new_storage)
    with contextlib.suppress(FileExistsError):
        effects.mkdir(work)
        # for an import in place: the times of this directory are imported, too
        effects.utime(new_storage, st.st_atime_ns, st.st_mtime_ns)
        effects.sync(new_storage)


def _move_to_backup(disk: DiskAccess, new_storage: str, work: str) -> None:
    """Move the files of the mini_fo storage to the backup; the file ``_FACTS`` there shows that all are moved."""
    effects = disk.effects
    backup = os.path.join(new_storage, BACKUP)
    facts = os.path.join(backup, _FACTS)
    if os.path.exists(facts):
        return
    before = os.path.join(work, _FACTS)
    if not os.path.exists(before):
        st = os.stat(new_storage)
        known = {"token": _token(disk, os.path.join(work, DB_NAME)), "atime": st.st_atime_ns, "mtime": st.st_mtime_ns}
        known |= {"uid": st.st_uid, "gid": st.st_gid, "mode": stat.S_IMODE(st.st_mode)}
        effects.write_durably(before, json.dumps(known))
    with contextlib.suppress(FileExistsError):
        effects.mkdir(backup)
    effects.sync(new_storage)  # a crash must not lose this directory after files were moved into it
    for name in os.listdir(new_storage):
        if name not in (WORK, BACKUP, LOST_FOUND):
            effects.rename(os.path.join(new_storage, name), os.path.join(backup, name))
    effects.sync(new_storage)
    effects.sync(backup)
    effects.rename(before, facts)
    effects.sync(backup)


def _make_private(effects: Effects, new_storage: str) -> None:
    """Give the storage directory to the user with the mode 0700; mini_fo's had owner and mode of the overlay's root."""
    st = os.stat(new_storage)
    if st.st_uid != os.geteuid() or stat.S_IMODE(st.st_mode) != 0o700:
        effects.chown(new_storage, os.geteuid(), os.getegid())
        effects.chmod(new_storage, 0o700)
        effects.utime(new_storage, st.st_atime_ns, st.st_mtime_ns)
        effects.sync(new_storage)


def _token(disk: DiskAccess, database: str) -> int:
    token = disk.fact(database, "commit_token")
    return token if isinstance(token, int) else 0


# -- checks


@contextlib.contextmanager
def _view(path: str, what: str) -> Iterator[BaseView]:
    try:
        view = BaseView(path)
    except OSError as error:
        raise StateError(f"{what} {path} cannot be opened ({error.strerror})", "check the path") from error
    try:
        yield view
    finally:
        view.close()


@contextlib.contextmanager
def _locked(new_storage: str) -> Iterator[None]:
    """Lock a directory against another import, and check its layout (store/confined_dir.py)."""
    with locked(new_storage, "in use by another import") as fd:
        with contextlib.closing(ConfinedDir(os.dup(fd))) as directory:
            check_layout(directory, new_storage, (), (WORK, BACKUP, _RESTORE), trusted=False)
        yield


def _check_places(source: str, base: str, target: str | None) -> None:
    """Raise UsageError for directories that cannot be source, base and target of one import."""
    if lies_in(base, source):
        raise UsageError(
            f"base {base} is, or is below, the storage {source}", "give the base that mini_fo was mounted with"
        )
    if target is None or target == source:
        return
    if lies_in(target, source) or lies_in(source, target):
        raise UsageError(
            f"one of {target} and {source} is below the other",
            "give a directory beside the source, or --in-new_storage",
        )
    if os.path.lexists(target) and not os.path.isdir(target):
        raise UsageError(f"{target} is not a directory", "give an empty directory, or one that does not exist")
    if not os.path.isdir(os.path.dirname(os.path.abspath(target))):
        raise UsageError(f"the directory above {target} does not exist", "make it first")
    if os.path.exists(os.path.join(source, DB_NAME)):
        with contextlib.suppress(NotMinifo):
            check_header(os.path.join(source, DB_NAME))
            raise UsageError(f"{source} is a minifo storage already", "there is nothing to import")


def _check_target(new_storage: str, *, in_place: bool) -> None:
    """Raise UsageError for a directory that cannot become the new storage."""
    names = set(os.listdir(new_storage))
    if WORK in names:
        return
    if DB_NAME in names:
        hint = "there is nothing to import" if in_place else "give an empty directory"
        raise UsageError(f"{new_storage} is a minifo storage already", hint)
    if in_place:
        if BACKUP in names:
            raise UsageError(f"{new_storage} already has a {BACKUP}", "move it away")
        return
    check_empty(new_storage)


def _check_unchanged(disk: DiskAccess, storage: str, backup: str, discard: bool) -> None:
    """Refuse a restore that would lose changes made since the import, unless *discard* is set.

    Raises:
        StateError: changes would be lost, or the storage is in use.
    """
    store = disk.storage(storage)
    try:
        if not store.is_formatted:
            raise StateError(f"{storage} holds no overlay", f"inspect it by hand; the mini_fo storage is in {backup}")
        store.lock(exclusive=True)
    finally:
        store.close()
    token = _facts(os.path.join(backup, _FACTS))["token"]
    if not discard and _token(disk, os.path.join(storage, DB_NAME)) != token:
        raise StateError(
            f"{storage} was changed since the import",
            "export the changes with 'minifo meta export', or discard them with --discard",
        )


def _facts(path: str) -> dict[str, int]:
    """Read what an import in place has recorded for ``restore``.

    Returns:
        The commit token of the new storage, and the attributes of the mini_fo storage's directory.

    Raises:
        Corrupt: no import can have written this file.
    """
    found = read_json(path)
    times = {"token", "atime", "mtime"}
    limits = {"uid": 0xFFFF_FFFF, "gid": 0xFFFF_FFFF, "mode": 0o10000}
    # early versions have recorded token and times only
    is_whole = isinstance(found, dict) and set(found) in (times, times | set(limits))
    if not is_whole or not all(
        type(value) is int and (0 <= value < limits[key] if key in limits else abs(value) < 1 << 63)
        for key, value in found.items()
    ):
        raise Corrupt(f"{path} is damaged", "inspect it by hand; nothing was changed")
    return dict(found)
