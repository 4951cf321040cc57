"""Bringing a mini_fo storage over: the life of an import, from the plan to a storage that can be mounted.

The new storage is built in a directory of its own inside the target and moved up when it is complete and verified:

    NEW/.minifo-import/    minifo.db and content while they are built; a mount refuses NEW as long as it is there
    NEW/content, NEW/minifo.db    moved up in this order; with the database the storage is whole

In place, the target is the mini_fo storage itself.  Before the move its own files go to ``mini_fo-backup``, from
where ``restore`` brings them back.  A crash at any step leaves the source as it was, or a state the same command goes
on from.  The source is never written; in place, it is moved.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ...engine import Corrupt, NotMinifo, StateError, StorageBusy, UsageError
from ...engine.bulk_import import IMPORTED
from ...engine.store.base_view import BaseView
from ...engine.store.confined_dir import ConfinedDir, check_layout
from ...engine.store.database import DB_NAME
from ...engine.store.database_file import check_header
from ...engine.store.storage import IMPORTING, RESTORING
from ..effects import DOORS, Doors, Effects, read_json
from .codec import META_NAME
from .import_plan import DOverR, ImportPlan, Step
from .import_rows import ImportRun, digest_of
from .storage_tree import LegacyTree, Note
from .view import Comparison, LegacyView, compare

WORK = IMPORTING
BACKUP = "mini_fo-backup"
_RESTORE = RESTORING
_CONTENT = "content"
_LOST_FOUND = "lost+found"
_FACTS = ".minifo-import.json"  # in the backup: what must be so for the way back
_COMPLETE = "complete"

Progress = Callable[[str, int, int], None]  # what is being done, how much is done, of how much


def _silent(what: str, done: int, total: int) -> None:
    """No progress shown."""


@dataclass
class ImportReport:
    """What an import did, or would do.

    Attributes:
        steps: the plan.
        notes: what a person may want to know.
        counts: how many places there are of each of mini_fo's states.
        resumed: steps an earlier run had done already.
        compared: how mini_fo's view and the new one agree; None for a dry run.
        backup: where the mini_fo storage is now, if it was imported in place.
        already: an earlier run had come to its end, and nothing was left to do.
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
    """What an import would do; nothing is changed.

    Args:
        source: the mini_fo storage.
        base: the base it was mounted with.
        target: the new storage, the source itself for an import in place; None if it does not matter yet.
        meta_name: the name of its META files.
        d_over_r: what counts where one name has a D and an R line (see ``ImportPlan``).

    Raises:
        StateError: source or base cannot be read.
        UsageError: one of the places cannot be right.
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
    doors: Doors = DOORS,
) -> ImportReport:
    """Import a mini_fo storage.

    Args:
        source, base, meta_name, d_over_r: as for ``plan_import``.
        target: the new storage, a directory that is empty or does not exist yet; None to import in place.
        progress: called now and then.
        doors: the ways to the disk.

    Raises:
        UsageError: one of the places cannot be right; nothing was changed.
        StateError: something cannot be read or written, or the result does not show what mini_fo showed.

    Given again after its end it changes nothing, and says so (``already``).
    """
    source = os.path.realpath(source)
    target = None if target is None else os.path.realpath(target)
    place = source if target is None else target
    with _view(source, "the mini_fo storage"), _view(base, "base"):
        _check_places(source, base, place)
    if target is not None:
        _make_target(doors.effects, target)
    with _locked(place), _view(source, "the mini_fo storage") as storage:
        work = os.path.join(place, WORK)
        options = _Options(meta_name, d_over_r, target is None)
        if _is_imported(doors, base, storage, place, options):
            # a run that was killed at its very end may be given again
            doors.effects.sync_all(place)
            return ImportReport([], [], already=True, backup=os.path.join(place, BACKUP) if target is None else None)
        _check_target(place, in_place=target is None)
        if os.path.isdir(work):
            doors.effects.sync_all(place)  # what a killed run has left may be in memory only
        if _is_complete(place):
            # an earlier run was cut short while it moved things
            report = ImportReport([], [])
        else:
            _make_work(doors.effects, place, work)
            report = _build(doors, base, storage, work, options, progress)
        if target is None:
            _set_aside(doors, place, work)
            _take_over(doors.effects, place)
            report.backup = os.path.join(place, BACKUP)
        _move_up(doors.effects, place, work)
    return report


def restore(storage: str, *, discard: bool = False, doors: Doors = DOORS) -> None:
    """Undo an import in place: the mini_fo storage comes back, the new one is deleted.

    Args:
        storage: a storage that was imported in place and is not mounted.
        discard: True to give up what was changed since the import.
        doors: the ways to the disk.

    Raises:
        StateError: there is no backup, or changes would be lost.
    """
    effects = doors.effects
    storage = os.path.realpath(storage)
    backup, aside = os.path.join(storage, BACKUP), os.path.join(storage, _RESTORE)
    with _locked(storage):
        if not os.path.isdir(backup):
            if os.path.isdir(aside):
                effects.sync_all(storage)  # what a killed run has left may be in memory only
                _clear_away(effects, storage, aside)  # an earlier run was cut short at its very end
                return
            raise StateError(f"{storage} holds no {BACKUP}", "only an import in place can be undone")
        doors.storage(storage).close()  # it is ours, and nothing in it leads elsewhere
        if os.path.isdir(aside):
            effects.sync_all(storage)  # as above
        else:
            _check_unchanged(doors, storage, backup, discard)
            effects.mkdir(aside)
            effects.sync(storage)  # else what is moved into it could be lost with it
        # the database first: without it nothing can be mounted here
        if os.path.exists(os.path.join(storage, DB_NAME)) and not os.path.exists(os.path.join(aside, DB_NAME)):
            effects.rename(os.path.join(storage, DB_NAME), os.path.join(aside, DB_NAME))
            effects.sync(storage)
        if not os.path.exists(os.path.join(aside, _COMPLETE)):
            for name in os.listdir(storage):
                if name not in (BACKUP, _RESTORE, _LOST_FOUND):
                    effects.rename(os.path.join(storage, name), os.path.join(aside, name))
            effects.sync(storage)
            effects.write_durably(os.path.join(aside, _COMPLETE), "")
        for name in os.listdir(backup):
            if name != _FACTS:
                effects.rename(os.path.join(backup, name), os.path.join(storage, name))
        effects.sync(storage)
        if os.path.exists(os.path.join(backup, _FACTS)):
            effects.rename(os.path.join(backup, _FACTS), os.path.join(aside, _FACTS))
            effects.sync(aside)
        effects.rmdir(backup)
        effects.sync(storage)  # while there is a backup, what lies beside it is taken for the new storage
        _clear_away(effects, storage, aside)


def _clear_away(effects: Effects, storage: str, aside: str) -> None:
    """Delete what was minifo's, and give the storage back its own times."""
    facts: dict[str, int] = {}
    for name in sorted(os.listdir(aside), key=lambda name: name == _FACTS):
        path = os.path.join(aside, name)
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
    effects.rmdir(aside)
    if facts:
        effects.utime(storage, facts["atime"], facts["mtime"])
    effects.sync(storage)


# -- building


def _build(
    doors: Doors, base: str, storage: BaseView, work: str, options: _Options, progress: Progress
) -> ImportReport:
    overlay = doors.overlay(base, work, finished=False)
    try:
        plan = ImportPlan(_tree(overlay.base, storage, options), options.d_over_r)
        report = ImportReport(plan.steps, plan.tree.notes)
        total = len(plan.steps)
        run = ImportRun(plan, overlay, lambda done: progress("importing", done, total))
        report.resumed = run.run()
    finally:
        overlay.close()
    overlay = doors.overlay(base, work)
    try:
        view = LegacyView(_tree(overlay.base, storage, options), intent=options.d_over_r == "intent")
        report.compared = compare(view, overlay, lambda done: progress("comparing", done, 0))
        broken = overlay.check()
        if broken:
            raise StateError(f"the import breaks rule {broken[0].number}: {broken[0].rule}", "please report this")
        if report.compared.differences:
            first = report.compared.differences[0]
            raise StateError(
                f"the import shows {len(report.compared.differences)} things otherwise than mini_fo, first:"
                f" {first.what} of {os.fsdecode(first.place)!r} is {first.overlay!r} instead of {first.legacy!r}",
                f"nothing was replaced, what was built is in {work}; was mini_fo mounted with this base?",
            )
        ImportRun(plan, overlay, lambda done: None).finish()
    finally:
        overlay.close()
    doors.fold_log(os.path.join(work, DB_NAME))
    doors.effects.write_durably(os.path.join(work, _COMPLETE), "")
    doors.effects.sync(work)
    return report


def _tree(base: BaseView, storage: BaseView, options: _Options) -> LegacyTree:
    ours = frozenset({os.fsencode(WORK), os.fsencode(BACKUP)}) if options.in_place else frozenset()
    return LegacyTree(base, storage, meta_name=options.meta_name, ignore=ours)


# -- moving


def _is_complete(place: str) -> bool:
    work = os.path.join(place, WORK)
    if not os.path.isdir(work):
        return False
    # the database moves up last; what is left in the working directory then may be any part of it
    return any(map(os.path.exists, (os.path.join(work, _COMPLETE), os.path.join(place, DB_NAME))))


def _is_imported(doors: Doors, base: str, storage: BaseView, place: str, options: _Options) -> bool:
    """True where this very import has come to its end: from this source, over this base, with these options."""
    database = os.path.join(place, DB_NAME)
    if os.path.exists(os.path.join(place, WORK)) or not os.path.exists(database):
        return False
    doors.storage(place).close()  # it is ours, and nothing in it leads elsewhere
    if options.in_place:
        return os.path.exists(os.path.join(place, BACKUP, _FACTS))
    check_header(database)
    known = doors.fact(database, IMPORTED)
    if known is None:
        return False
    with _view(base, "base") as view:
        return known == digest_of(ImportPlan(_tree(view, storage, options), options.d_over_r))


def _make_target(effects: Effects, target: str) -> None:
    if os.path.isdir(target):
        effects.sync_all(target)  # a killed run may have made it, in memory only
    else:
        effects.mkdir(target)
        effects.sync(os.path.dirname(os.path.abspath(target)))


def _make_work(effects: Effects, place: str, work: str) -> None:
    st = os.stat(place)
    with contextlib.suppress(FileExistsError):
        effects.mkdir(work)
        # in place, the source's own time is part of what is imported
        effects.utime(place, st.st_atime_ns, st.st_mtime_ns)
        effects.sync(place)


def _set_aside(doors: Doors, place: str, work: str) -> None:
    """Move the mini_fo storage's files to the backup; the last file written there says that all are."""
    effects = doors.effects
    backup = os.path.join(place, BACKUP)
    facts = os.path.join(backup, _FACTS)
    if os.path.exists(facts):
        return
    before = os.path.join(work, _FACTS)
    if not os.path.exists(before):
        st = os.stat(place)
        known = {"token": _token(doors, os.path.join(work, DB_NAME)), "atime": st.st_atime_ns, "mtime": st.st_mtime_ns}
        known |= {"uid": st.st_uid, "gid": st.st_gid, "mode": stat.S_IMODE(st.st_mode)}
        effects.write_durably(before, json.dumps(known))
    with contextlib.suppress(FileExistsError):
        effects.mkdir(backup)
    effects.sync(place)  # else what is moved into it could be lost with it
    for name in os.listdir(place):
        if name not in (WORK, BACKUP, _LOST_FOUND):
            effects.rename(os.path.join(place, name), os.path.join(backup, name))
    effects.sync(place)
    effects.sync(backup)
    effects.rename(before, facts)
    effects.sync(backup)


def _take_over(effects: Effects, place: str) -> None:
    """Make a directory that had the owner and mode of an overlay's root the caller's, as a storage must be."""
    st = os.stat(place)
    if st.st_uid != os.geteuid() or stat.S_IMODE(st.st_mode) != 0o700:
        effects.chown(place, os.geteuid(), os.getegid())
        effects.chmod(place, 0o700)
        effects.utime(place, st.st_atime_ns, st.st_mtime_ns)
        effects.sync(place)


def _move_up(effects: Effects, place: str, work: str) -> None:
    for name in (_CONTENT, DB_NAME):
        if os.path.exists(os.path.join(work, name)):
            effects.rename(os.path.join(work, name), os.path.join(place, name))
            effects.sync(place)
    for name in os.listdir(work):
        effects.unlink(os.path.join(work, name))
    effects.rmdir(work)
    effects.sync(place)


def _token(doors: Doors, database: str) -> int:
    token = doors.fact(database, "commit_token")
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
def _locked(place: str) -> Iterator[None]:
    """Keep another import out; a mount is kept out by what lies in the directory."""
    try:
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StateError(f"storage {place} cannot be opened ({error.strerror})", "check the path") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise StorageBusy(f"storage {place} is in use by another import", "wait for it") from error
    try:
        with contextlib.closing(ConfinedDir(os.dup(fd))) as door:
            check_layout(door, place, (), (WORK, BACKUP, _RESTORE), trusted=False)
        yield
    finally:
        os.close(fd)


def _check_places(source: str, base: str, target: str | None) -> None:
    if _lies_in(base, source):
        raise UsageError(f"base {base} is, or lies in, the storage {source}", "name the base mini_fo was mounted with")
    if target is None or target == source:
        return
    if _lies_in(target, source) or _lies_in(source, target):
        raise UsageError(f"{target} and {source} lie within each other", "give a directory beside it, or --in-place")
    if os.path.lexists(target) and not os.path.isdir(target):
        raise UsageError(f"{target} is not a directory", "give an empty directory, or one that does not exist")
    if not os.path.isdir(os.path.dirname(os.path.abspath(target))):
        raise UsageError(f"the directory above {target} does not exist", "make it first")
    if os.path.exists(os.path.join(source, DB_NAME)):
        with contextlib.suppress(NotMinifo):
            check_header(os.path.join(source, DB_NAME))
            raise UsageError(f"{source} is a minifo storage already", "there is nothing to import")


def _lies_in(path: str, directory: str) -> bool:
    inner, outer = os.path.realpath(path), os.path.realpath(directory)
    return os.path.commonpath([inner, outer]) == outer


def _check_target(place: str, *, in_place: bool) -> None:
    names = set(os.listdir(place))
    if WORK in names:
        return
    if DB_NAME in names:
        hint = "there is nothing to import" if in_place else "give an empty directory"
        raise UsageError(f"{place} is a minifo storage already", hint)
    if in_place:
        if BACKUP in names:
            raise UsageError(f"{place} holds a {BACKUP} already", "move it away")
        return
    foreign = sorted(names - {_LOST_FOUND})
    if foreign:
        raise UsageError(f"{place} is not empty ({foreign[0]!r})", "give an empty directory, nothing was changed")


def _check_unchanged(doors: Doors, storage: str, backup: str, discard: bool) -> None:
    store = doors.storage(storage)
    try:
        if not store.is_formatted:
            raise StateError(f"{storage} holds no overlay", "look at it by hand, its backup is in " + backup)
        store.lock(exclusive=True)
    finally:
        store.close()
    token = _facts(os.path.join(backup, _FACTS))["token"]
    if not discard and _token(doors, os.path.join(storage, DB_NAME)) != token:
        raise StateError(
            f"{storage} was changed since the import",
            "take the changes along with 'minifo meta export', or give them up with --discard",
        )


def _facts(path: str) -> dict[str, int]:
    """What must be so for the way back.

    Raises:
        Corrupt: it is not what an import wrote.
    """
    found = read_json(path)
    times = {"token", "atime", "mtime"}
    limits = {"uid": 0xFFFF_FFFF, "gid": 0xFFFF_FFFF, "mode": 0o10000}
    is_whole = isinstance(found, dict) and set(found) in (times, times | set(limits))  # the others came later
    if not is_whole or not all(
        type(value) is int and (0 <= value < limits[key] if key in limits else abs(value) < 1 << 63)
        for key, value in found.items()
    ):
        raise Corrupt(f"{path} is damaged", "look at it by hand")
    return dict(found)
