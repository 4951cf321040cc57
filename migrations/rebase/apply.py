"""Rebasing: an overlay is settled over a base that took the place of the one it was made over.

One transaction of the engine's: the rows are committed when all content they name is durable, and what they do not name
any more is deleted after that.  So a rebase that was cut short has not happened, and what it left of content is swept
when the overlay is next opened.  ``prepare`` only moves bytes into storage, file by file, and shows the same before,
in between and after; it may commit as often as it likes.
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
from ..effects import DOORS, Doors
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

_PER_ENTRY = 1024  # bytes of rows and of log, at most, that settling one takes
_COMMIT_FILES = 64  # files completed, or bytes of them, after which ``prepare`` commits
_COMMIT_BYTES = 64 << 20


@dataclass
class RebaseReport:
    """What a rebase did or would do.

    Attributes:
        decisions: about everything that the base's change concerns.
        counts: how many entries became what, unchanged ones among them.
        applied: whether it was done.
    """

    decisions: list[Decision]
    counts: Counter[str]
    applied: bool

    @property
    def conflicts(self) -> list[Decision]:
        """What needs a decision, and stays as it is until there is one."""
        return [decision for decision in self.decisions if decision.action is Action.CONFLICT]

    @property
    def size(self) -> int:
        """Bytes it takes in storage, at most."""
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
    doors: Doors = DOORS,
) -> RebaseReport:
    """Settle an overlay over a new base.

    Args:
        storage: the overlay's storage, not mounted.
        base: the new base.
        old_base: the base it was made over, where that is still at hand.
        policies: whose version counts (``Policies``).
        apply: False to make the plan only, which changes nothing.
        any_base: apply it over a base that lacks most of what the overlay refers to, as well.
        progress: called now and then.
        doors: the ways to the disk.

    Raises:
        StateError: something cannot be read or written, is in use, or does not fit; nothing was changed.
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
            _finish_killed(doors, base, storage, check, "name that one, or give --any-base if this one is meant")
        overlay = doors.overlay(base, storage, read_only=not apply, base_check=check)
        stack.callback(overlay.close)
        versions = Versions(overlay, old)
        planner = Planner(overlay, versions, rules)
        decisions, counts = planner.plan(progress)
        report = RebaseReport(decisions, counts, apply)
        if apply:
            _make_room(overlay, report)
            with overlay.transaction():
                _Application(overlay, versions, planner, report, progress).run()
            overlay.commit()
        return report


def _check_storage(storage: str) -> None:
    # to open an empty directory would make an overlay of it
    if not os.path.exists(os.path.join(storage, "minifo.db")):
        raise NotMinifo(f"storage {storage} holds no overlay", "check the path")


def _finish_killed(doors: Doors, base: str, storage: str, check: BaseCheck, hint: str) -> None:
    """Let what a killed daemon had acknowledged become durable; a rebase itself keeps no log that is replayed.

    Raises:
        WrongBase: this is likely the wrong base.
    """
    try:
        doors.finish_killed(base, storage, check)
    except WrongBase as error:
        raise WrongBase(error.message, hint) from error


def _make_room(overlay: Overlay, report: RebaseReport) -> None:
    """See that everything fits, and that there are enough ids of content objects for one transaction.

    Raises:
        StateError: it does not fit.
    """
    needed = report.size + _PER_ENTRY * len(report.decisions)
    free = overlay.free()
    if needed > free:
        hint = "make room, or choose policies that copy less"
        raise StateError(f"{needed} bytes are needed in {overlay.storage_path}, {free} are free", hint)
    copies = sum(decision.size > 0 or decision.action is Action.MERGE for decision in report.decisions)
    overlay.reserve(2 * copies)


class _Application:
    """Carries decisions out; inside an operation."""

    def __init__(
        self, overlay: Overlay, versions: Versions, planner: Planner, report: RebaseReport, progress: Progress
    ) -> None:
        self._versions = versions
        self._planner = planner
        self._settler = Resolutions(overlay)
        self._decisions = report.decisions
        self._progress = progress
        self._done = 0

    def run(self) -> None:
        """In the order that ``Resolutions`` needs: what copies, what the base has, what is gone, names, whiteouts."""
        decisions = self._decisions
        later: list[int] = []
        gone: set[int] = set()
        for index, decision in enumerate(decisions):
            self._copy(decision)
            if self._is_name(decision.entry):
                later.append(index)
            elif decision.action in (Action.CREATE, Action.DROP):
                gone.add(index)
            else:
                self._present(decision)
                self._step()
        for index in self._settle_gone([index for index in deepest_first(decisions) if index in gone]):
            decisions[index] = decisions[index]._replace(action=Action.WAIT)
        for index in later:
            self._name(decisions[index])
            self._step()
        for decision in decisions:
            if decision.action not in (Action.WAIT, Action.CONFLICT):
                self._settler.renew_ancestor(decision.entry)  # what is settled was made from this version

    def _settle_gone(self, gone: list[int]) -> list[int]:
        """Settle what is gone: what is no directory, then directories, as what is in them lets go of them.

        Returns:
            Directories in which something stays that waits.
        """
        gone.sort(key=lambda index: self._decisions[index].entry.held is Held.DIRECTORY)  # and the deepest first
        while True:
            left = [index for index in gone if not self._gone(self._decisions[index])]
            if len(left) == len(gone):
                return left
            gone = left

    def _step(self) -> None:
        self._done += 1
        self._progress("settling", self._done, len(self._decisions))

    @staticmethod
    def _is_name(entry: Entry) -> bool:
        return entry.held in (Held.WHITEOUT, Held.CREATED, Held.REPLACED) or entry.became is Became.SHADOW

    def _copy(self, decision: Decision) -> None:
        """What a decision copies: the rest of our file from the old base, the new base's file beside ours."""
        entry = decision.entry
        if decision.action is Action.CONFLICT:
            return
        if decision.completes:
            source = self._versions.below(entry)
            if source is None:
                raise StateError(f"the old version of {os.fsdecode(entry.base)} is gone", "run it again")
            self._settler.complete(entry, source)
        if decision.action is Action.BOTH or (
            decision.policy is Policy.BOTH and decision.action is Action.CREATE and entry.became is Became.KIND
        ):
            self._settler.beside(entry, entry.path.rpartition(b"/")[2] + BESIDE)

    def _present(self, decision: Decision) -> None:
        entry, action = decision.entry, decision.action
        if action in (Action.KEEP, Action.BOTH):
            self._settler.accept(entry)
        elif action is Action.TAKE:
            self._settler.restore(entry)
        elif action is Action.MERGE:
            self._settler.replace(entry, self._merged(entry))

    def _merged(self, entry: Entry) -> bytes:
        merged = self._planner.merged(entry)
        if isinstance(merged, str):
            raise StateError(f"{os.fsdecode(entry.path)}: {merged}", "it changed meanwhile; run it again")
        return merged

    def _gone(self, decision: Decision) -> bool:
        settle = self._settler.keep if decision.action is Action.CREATE else self._settler.drop
        if not settle(decision.entry):
            return False
        self._step()
        return True

    def _name(self, decision: Decision) -> None:
        entry, action = decision.entry, decision.action
        if entry.held is Held.WHITEOUT:
            self._settler.unhide(entry)
        elif action is Action.DROP:
            self._settler.uncover(entry)
        elif action is Action.MERGE:
            self._settler.rewrite(entry, self._merged(entry))
        elif action in (Action.COVER, Action.BOTH) and entry.held is not Held.REPLACED:
            self._settler.cover(entry)


# -- before an update


class Lacking(NamedTuple):
    """A file that needs bytes of the base: how many, and whether this base has the version that it was written over."""

    entry: Entry
    size: int
    is_version: bool


@dataclass
class PrepareReport:
    """What ``prepare`` did.

    Attributes:
        files: what was completed.
        size: bytes that took.
        conflicts: files whose version the base given does not have.
    """

    files: list[Entry] = field(default_factory=list)
    size: int = 0
    conflicts: list[Entry] = field(default_factory=list)


class Preparation:
    """Completes partly written files from the base that they were written over; a context manager.

    Args:
        storage: the overlay's storage, not mounted.
        base: its base, which is to be replaced.
        doors: the ways to the disk.

    Attributes:
        size: bytes it will take, at most.
        free: bytes there are.
        count: files that are to be completed.

    Raises:
        StateError: something cannot be read or written, or is in use.
    """

    def __init__(self, storage: str, base: str, *, doors: Doors = DOORS) -> None:
        _check_storage(storage)
        _finish_killed(doors, base, storage, BaseCheck.WARN, "name that one: its bytes are what is wanted")
        self._ov = doors.overlay(base, storage)
        try:
            self._lacking = list(self._look())
        except BaseException:
            self._ov.close()
            raise
        self.size = sum(file.size for file in self._lacking if file.is_version)
        self.count = sum(file.is_version for file in self._lacking)
        self.free = self._ov.free()

    def __enter__(self) -> Preparation:
        return self

    def __exit__(self, *error: object) -> None:
        self._ov.close()

    def _look(self) -> list[Lacking]:
        found = []
        versions = Versions(self._ov, None)
        for entry in drift(self._ov):
            if entry.held is Held.PART:
                size = versions.missing(entry)
                st = self._ov.base.find(entry.base)
                if st is not None:
                    size = min(size, st.st_blocks * 512 or size)
                found.append(Lacking(entry, size, entry.became is Became.UNCHANGED))
        return found

    def run(self, progress: Progress = _quiet) -> PrepareReport:
        """Complete the files.  Cut short, it goes on when it is called again.

        Raises:
            StateError: they do not fit; nothing was changed.  Or storage failed.
        """
        if self.size > self.free:
            message = f"{self.size} bytes are needed in {self._ov.storage_path}, {self.free} are free"
            raise StateError(message, "make room; nothing was copied")
        report = PrepareReport()
        resolutions = Resolutions(self._ov)
        pending = files = 0
        for file in self._lacking:
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
