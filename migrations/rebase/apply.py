"""The execution of a rebase: the decisions about a replaced base are carried out in storage.

A rebase is one transaction of the engine: the rows are committed when all content they refer to is durable, and content
that is no longer referred to is deleted after that.  So an interrupted rebase has changed nothing, and the next open of
the overlay deletes the content that it left.  The preparation before an update only copies bytes into storage, file by
file; the overlay shows the same at any time, so it commits several times.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import NamedTuple

from ...engine import Overlay, StateError
from ...engine.errors import NotMinifo, WrongBase
from ...engine.mount_checks import open_base
from ...engine.rebase.drift_report import Became, Entry, Held, drift
from ...engine.rebase.resolutions import Resolutions
from ...engine.rebase.versions import Versions
from ...engine.recovery import BaseCheck
from ..effects import DISK_ACCESS, DiskAccess
from .plan import (
    BESIDE,
    Action,
    Decision,
    Planner,
    Policies,
    Policy,
    Progress,
    deepest_first,
)

_PER_ENTRY = 1024  # bytes of rows and write-ahead log that settling one entry takes, at most
_COMMIT_FILES = 64  # a preparation commits after this many files, or after _COMMIT_BYTES
_COMMIT_BYTES = 64 << 20


@dataclass
class RebaseReport:
    """The result of a rebase.

    Attributes:
        decisions: the decision about each entry that the new base concerns.
        counts: how many entries there are of each kind (``Became``), including unchanged ones.
        applied: True if the decisions were carried out, False if only the plan was made.
    """

    decisions: list[Decision]
    counts: Counter[str]
    applied: bool

    @property
    def conflicts(self) -> list[Decision]:
        """The decisions that the user has to make; their entries are not changed."""
        return [decision for decision in self.decisions if decision.action is Action.CONFLICT]

    @property
    def size(self) -> int:
        """The bytes that the rebase takes in storage, at most."""
        return sum(decision.size for decision in self.decisions if decision.action is not Action.CONFLICT)


def _quiet(what: str, done: int, total: int) -> None:
    pass


def rebase(
    storage: str,
    base: str,
    *,
    old_base: str | None = None,
    policies: Sequence[str] = (),
    apply: bool = False,
    any_base: bool = False,
    progress: Progress = _quiet,
    disk: DiskAccess = DISK_ACCESS,
) -> RebaseReport:
    """Adapt an overlay to a new base.

    Args:
        storage: the overlay's storage; it must not be mounted.
        base: the new base.
        old_base: the base before the update, if it still exists.
        policies: rules for which version to keep (``Policies``).
        apply: False to make the plan only, which changes nothing.
        any_base: True to accept a base that lacks most of the objects that the overlay refers to.
        progress: called from time to time with the name of the step, the number of units done, and their total.
        disk: reads and writes the disk (see ``DiskAccess``).

    Raises:
        StateError: storage or a base cannot be read or written, or is in use, or storage has too little space;
            nothing was changed.
        UsageError: a policy is wrong.
    """
    rules = Policies(policies)
    _check_storage(storage)
    with ExitStack() as stack:
        old = None
        if old_base is not None:
            old = open_base(old_base, True)
            stack.callback(old.close)
        check = BaseCheck.IGNORE if any_base or not apply else BaseCheck.WARN
        if apply:
            _finish_killed(disk, base, storage, check, "give the right base, or --any-base if this one is right")
        overlay = disk.overlay(base, storage, read_only=not apply, base_check=check)
        stack.callback(overlay.close)
        versions = Versions(overlay, old)
        planner = Planner(overlay, versions, rules)
        decisions, counts = planner.plan(progress)
        report = RebaseReport(decisions, counts, apply)
        if apply:
            _check_space(overlay, report)
            with overlay.transaction():
                _Application(overlay, versions, planner, report, progress).run()
                if any(decision.action not in (Action.WAIT, Action.CONFLICT) for decision in decisions):
                    overlay.journal.did("rebase")
            overlay.commit()
        return report


def _check_storage(storage: str) -> None:
    # without this check, opening an empty directory would make a new overlay in it
    if not os.path.exists(os.path.join(storage, "minifo.db")):
        raise NotMinifo(f"storage {storage} holds no overlay", "check the path")


def _finish_killed(disk: DiskAccess, base: str, storage: str, check: BaseCheck, hint: str) -> None:
    """Replay the redo log of a killed daemon and commit it, because a rebase opens the overlay without that log.

    Args:
        disk: reads and writes the disk (see ``DiskAccess``).
        base: the base of the overlay.
        storage: its storage.
        check: what to do if this is not the base of the last mount.
        hint: the advice for the user if the base is refused.

    Raises:
        WrongBase: this is probably not the right base.
    """
    try:
        disk.finish_killed(base, storage, check)
    except WrongBase as error:
        raise WrongBase(error.message, hint) from error


def _check_space(overlay: Overlay, report: RebaseReport) -> None:
    """Check the free space, and reserve the ids of all content objects that one transaction needs.

    Raises:
        StateError: storage has too little free space.
    """
    needed = report.size + _PER_ENTRY * len(report.decisions)
    free = overlay.free()
    if needed > free:
        hint = "free some space, or choose policies that copy less"
        raise StateError(f"{needed} bytes are needed in {overlay.storage_path}, {free} are free", hint)
    copies = sum(decision.size > 0 or decision.action is Action.MERGE for decision in report.decisions)
    overlay.reserve(2 * copies)


class _Application:
    """Carries out the decisions of a plan, inside one transaction of the overlay."""

    def __init__(
        self, overlay: Overlay, versions: Versions, planner: Planner, report: RebaseReport, progress: Progress
    ) -> None:
        self._versions = versions
        self._planner = planner
        self._resolutions = Resolutions(overlay)
        self._decisions = report.decisions
        self._progress = progress
        self._done = 0

    def run(self) -> None:
        """Carry out all decisions in the order that ``Resolutions`` needs.

        The order is: objects that the new base has, each after its copies; objects that it lacks; names and whiteouts.
        """
        decisions = self._decisions
        names: list[int] = []
        gone: set[int] = set()
        for index, decision in enumerate(decisions):
            self._copy(decision)
            if self._is_name(decision.entry):
                names.append(index)
            elif decision.action in (Action.CREATE, Action.DROP):
                gone.add(index)
            else:
                self._settle_present(decision)
                self._step()
        for index in self._settle_gone([index for index in deepest_first(decisions) if index in gone]):
            decisions[index] = decisions[index]._replace(action=Action.WAIT)
        for index in names:
            self._settle_name(decisions[index])
            self._step()
        for decision in decisions:
            if decision.action not in (Action.WAIT, Action.CONFLICT):
                # from now on the entry counts as made over this version
                self._resolutions.renew_ancestor(decision.entry)

    def _settle_gone(self, gone: list[int]) -> list[int]:
        """Carry out the decisions about objects that the new base lacks: first files, then directories.

        A directory can be settled only after all objects in it, so this repeats until no further one can be.

        Args:
            gone: indices of the decisions, the deepest paths first.

        Returns:
            The indices of directories that cannot be settled because an object in them waits.
        """
        gone.sort(key=lambda index: self._decisions[index].entry.held is Held.DIRECTORY)  # stable: still deepest first
        while True:
            left = [index for index in gone if not self._settle_one_gone(self._decisions[index])]
            if len(left) == len(gone):
                return left
            gone = left

    def _step(self) -> None:
        self._done += 1
        self._progress("settling", self._done, len(self._decisions))

    @staticmethod
    def _is_name(entry: Entry) -> bool:
        """Return whether an entry is a whiteout, or an object of the overlay at a path that the base has, too."""
        return entry.held in (Held.WHITEOUT, Held.CREATED, Held.REPLACED) or entry.became is Became.SHADOW

    def _copy(self, decision: Decision) -> None:
        """Copy what a decision needs: our file's missing bytes from the old base; the new base's file beside ours."""
        entry = decision.entry
        if decision.action is Action.CONFLICT:
            return
        if decision.completes:
            source = self._versions.below(entry)
            if source is None:
                raise StateError(f"the old version of {os.fsdecode(entry.base)} is gone", "run the command again")
            self._resolutions.complete(entry, source)
        if decision.action is Action.BOTH or (
            decision.policy is Policy.BOTH and decision.action is Action.CREATE and entry.became is Became.KIND
        ):
            self._resolutions.beside(entry, entry.path.rpartition(b"/")[2] + BESIDE)

    def _settle_present(self, decision: Decision) -> None:
        """Settle an object that the new base has."""
        entry, action = decision.entry, decision.action
        if action in (Action.KEEP, Action.BOTH):
            self._resolutions.accept(entry)
        elif action is Action.TAKE:
            self._resolutions.restore(entry)
        elif action is Action.MERGE:
            self._resolutions.replace(entry, self._merged(entry))

    def _merged(self, entry: Entry) -> bytes:
        """Return the merged bytes of a file.

        Raises:
            StateError: the file cannot be merged, although the plan has merged it.
        """
        merged = self._planner.merged(entry)
        if isinstance(merged, str):
            raise StateError(
                f"{os.fsdecode(entry.path)} changed during the rebase and cannot be merged now ({merged})",
                "run the command again",
            )
        return merged

    def _settle_one_gone(self, decision: Decision) -> bool:
        """Settle an object that the new base lacks; return False if a directory still has entries that wait."""
        settle = self._resolutions.keep if decision.action is Action.CREATE else self._resolutions.drop
        if not settle(decision.entry):
            return False
        self._step()
        return True

    def _settle_name(self, decision: Decision) -> None:
        """Settle a whiteout, or a name that the overlay and the new base both have."""
        entry, action = decision.entry, decision.action
        if entry.held is Held.WHITEOUT:
            self._resolutions.unhide(entry)
        elif action is Action.DROP:
            self._resolutions.uncover(entry)
        elif action is Action.MERGE:
            self._resolutions.rewrite(entry, self._merged(entry))
        elif action in (Action.COVER, Action.BOTH) and entry.held is not Held.REPLACED:
            self._resolutions.cover(entry)


# -- before an update


class PartialFile(NamedTuple):
    """A partly written file, which needs bytes of the base.

    Attributes:
        entry: the file.
        size: the number of bytes that it needs, at most.
        is_version: True if this base has the version that the file was written over.
    """

    entry: Entry
    size: int
    is_version: bool


@dataclass
class PrepareReport:
    """The result of a preparation.

    Attributes:
        files: the files that were completed.
        size: the number of bytes copied.
        conflicts: the files that were written over a version that this base does not have.
    """

    files: list[Entry] = field(default_factory=list)
    size: int = 0
    conflicts: list[Entry] = field(default_factory=list)


class Preparation:
    """Completes partly written files from the base that they were written over; a context manager.

    Args:
        storage: the overlay's storage; it must not be mounted.
        base: the overlay's base, which the user is going to replace.
        disk: reads and writes the disk (see ``DiskAccess``).

    Attributes:
        size: the bytes that the copies take in storage, at most.
        free: the bytes that are free in storage.
        count: the number of files that will be completed.

    Raises:
        StateError: storage or base cannot be read or written, or is in use.
    """

    def __init__(self, storage: str, base: str, *, disk: DiskAccess = DISK_ACCESS) -> None:
        _check_storage(storage)
        _finish_killed(disk, base, storage, BaseCheck.WARN, "give the base that the overlay was last mounted with")
        self._ov = disk.overlay(base, storage)
        try:
            self._partial_files = self._find_partial_files()
        except BaseException:
            self._ov.close()
            raise
        self.size = sum(file.size for file in self._partial_files if file.is_version)
        self.count = sum(file.is_version for file in self._partial_files)
        self.free = self._ov.free()

    def __enter__(self) -> Preparation:
        return self

    def __exit__(self, *error: object) -> None:
        self._ov.close()

    def _find_partial_files(self) -> list[PartialFile]:
        """Return the partly written files of the overlay."""
        found = []
        versions = Versions(self._ov, None)
        for entry in drift(self._ov):
            if entry.held is Held.PART:
                size = versions.missing(entry)
                st = self._ov.base.find(entry.base)
                if st is not None:
                    size = min(size, st.st_blocks * 512 or size)
                found.append(PartialFile(entry, size, entry.became is Became.UNCHANGED))
        return found

    def run(self, progress: Progress = _quiet) -> PrepareReport:
        """Copy the missing bytes of all files.  After an interruption, another run continues.

        Raises:
            StateError: storage has too little free space, and nothing was changed; or storage failed.
        """
        if self.size > self.free:
            message = f"{self.size} bytes are needed in {self._ov.storage_path}, {self.free} are free"
            raise StateError(message, "free some space; nothing was copied")
        report = PrepareReport()
        resolutions = Resolutions(self._ov)
        pending = files = 0
        for file in self._partial_files:
            if not file.is_version:
                report.conflicts.append(file.entry)
                continue
            self._ov.reserve(2)
            with self._ov.transaction():
                resolutions.complete(file.entry)
            report.files.append(file.entry)
            report.size += file.size
            pending, files = pending + file.size, files + 1
            if pending >= _COMMIT_BYTES or files >= _COMMIT_FILES:
                self._ov.commit()
                pending = files = 0
            progress("copying", report.size, self.size)
        self._ov.commit()
        return report
