"""The plan of a rebase: for each object that the overlay has changed and the new base has changed, too, an action.

*Ours* is the overlay's version of an object, *theirs* the version in the new base.  A *policy* says which version to
keep, for all paths or for those that match a pattern:

    ours        keep our version
    theirs      discard our version and show the base's
    keep-both   keep our version, and copy the base's beside it as NAME.minifo-new
    merge       a three-way merge if both differ from the text in the old base; otherwise as ours

Only ``theirs`` loses anything.  If a policy cannot be followed, that is a conflict, and the object is not changed.
"""

from __future__ import annotations

import fnmatch
import os
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple

from ...engine import Overlay, UsageError
from ...engine.model import NAME_MAX, Ino
from ...engine.rebase.drift_report import Became, Entry, Held, drift
from ...engine.rebase.versions import Versions
from ...engine.store.base_view import join, split
from .text_merge import LONGEST, is_text, merge_text

BESIDE = b".minifo-new"
_BOTH_CREATED = "both created it; there is no common version to merge from"

Progress = Callable[[str, int, int], None]


class Policy(Enum):
    """Which version of an object to keep."""

    OURS = "ours"
    THEIRS = "theirs"
    BOTH = "keep-both"
    MERGE = "merge"


class Action(Enum):
    """What is done about an entry; the values are the words that the user sees."""

    NONE = "nothing"
    KEEP = "keep ours"  # from now on it counts as made over the base's new version
    TAKE = "take the base's"
    MERGE = "merge"
    BOTH = "keep both"
    CREATE = "make it ours"  # turn it into a created object
    DROP = "drop"
    COVER = "hide the base's"
    WAIT = "wait"  # keep it hidden until the old base is back, or the user gives the policy theirs
    CONFLICT = "conflict"


class Decision(NamedTuple):
    """The decision about one entry.

    Attributes:
        entry: the entry.
        policy: the policy that counts for its path.
        action: what is done.
        completes: True if missing bytes of the file are copied from the old base first.
        size: the bytes that this takes in storage, at most.
        why: the reason for a conflict; empty for any other action.
    """

    entry: Entry
    policy: Policy
    action: Action
    completes: bool = False
    size: int = 0
    why: str = ""


class Policies:
    """The policy for each path: the last rule that matches it counts.

    Args:
        rules: texts ``POLICY`` or ``POLICY:PATTERN``.  A pattern matches a path and all paths below it; ``*`` and ``?``
            also match slashes (fnmatch(3) without FNM_PATHNAME).

    Raises:
        UsageError: a text is not a rule.
    """

    def __init__(self, rules: Sequence[str]) -> None:
        self._rules: list[tuple[str, Policy]] = []
        for rule in rules:
            word, colon, pattern = rule.partition(":")
            if word not in {policy.value for policy in Policy} or (colon and not pattern.startswith("/")):
                hint = "give ours, theirs, keep-both or merge, alone or with a pattern: merge:/etc/*.conf"
                raise UsageError(f"{rule!r} is not a policy", hint)
            self._rules.append((pattern.rstrip("/") if colon else "", Policy(word)))

    def of(self, path: bytes) -> Policy:
        """Return the policy for a path of the merged view."""
        text = os.fsdecode(path)
        for pattern, policy in reversed(self._rules):
            if not pattern or fnmatch.fnmatchcase(text, pattern) or fnmatch.fnmatchcase(text, pattern + "/*"):
                return policy
        return Policy.OURS


class Planner:
    """Decides about the entries of one overlay.

    Args:
        overlay: the overlay, open over the new base; it is only read.
        versions: gives the versions of its files.
        policies: the policy for each path.
    """

    def __init__(self, overlay: Overlay, versions: Versions, policies: Policies) -> None:
        self._ov = overlay
        self._versions = versions
        self._policies = policies
        self._placed: set[bytes] = set()  # paths of the copies that keep-both will make

    def plan(self, progress: Progress) -> tuple[list[Decision], Counter[str]]:
        """Compare the overlay with the new base.

        Returns:
            A decision about each entry that the new base concerns, and how many entries there are of each kind
            (``Became``), including unchanged ones.
        """
        decisions: list[Decision] = []
        counts: Counter[str] = Counter()
        total = self._versions.count()
        for number, entry in enumerate(drift(self._ov, self._versions.old)):
            progress("comparing", number, total)
            counts[entry.became.value] += 1
            if entry.became is not Became.UNCHANGED:
                decisions.append(self._decide(entry))
        self._directories(decisions)
        return decisions, counts

    def _directories(self, decisions: list[Decision]) -> None:
        """Correct the decisions about directories that the new base lacks, according to the objects in them.

        Such a directory waits while an object in it waits or is a conflict.  Otherwise, if an object in it is kept, it
        becomes a created directory.
        """
        waiting: set[bytes] = set()
        holding: set[bytes] = set()
        for index in deepest_first(decisions):
            decision = decisions[index]
            entry = decision.entry
            if entry.held is Held.DIRECTORY and decision.action in (Action.CREATE, Action.DROP):
                is_held = entry.base in holding or self._versions.has_names_in(entry)
                if entry.base in waiting:
                    decision = decision._replace(action=Action.WAIT)
                elif entry.shows and is_held:
                    decision = decision._replace(action=Action.CREATE)
                decisions[index] = decision
            if decision.action in (Action.WAIT, Action.CONFLICT):
                path = entry.base
                while path != b"/" and path not in waiting:
                    path = split(path)[0]
                    waiting.add(path)
            elif decision.action is Action.CREATE and entry.at_origin:
                holding.add(split(entry.base)[0])

    def _decide(self, entry: Entry) -> Decision:
        """Return the decision about one entry."""
        policy = self._policies.of(entry.path)
        if entry.became is Became.UNHIDING:
            return Decision(entry, policy, Action.DROP)
        if entry.held is Held.REPLACED:
            return self._replaced(entry, policy)
        if entry.held in (Held.CREATED, Held.NAME) and entry.became in (Became.SHADOW, Became.IDENTICAL):
            return self._shadow(entry, policy)
        if entry.became in (Became.KEPT, Became.HIDDEN, Became.KIND) or self._is_gone(entry):
            return self._gone(entry, policy)
        if entry.became is Became.PARTIAL:
            return self._partial(entry, policy)
        return self._changed(entry, policy)

    def _replaced(self, entry: Entry, policy: Policy) -> Decision:
        """Decide about an object that the user has put in the place of a base file, which the new base has changed."""
        if policy is Policy.THEIRS:
            if self._versions.is_directory(entry):
                return Decision(entry, policy, Action.CONFLICT, why="ours is a directory; remove it, or choose ours")
            return Decision(entry, policy, Action.DROP)
        if entry.became is Became.CHANGED and policy is Policy.BOTH:
            return self._beside(Decision(entry, policy, Action.BOTH))
        if entry.became is Became.CHANGED and policy is Policy.MERGE:
            return self._merge(Decision(entry, policy, Action.MERGE))
        return Decision(entry, policy, Action.KEEP)

    def _is_gone(self, entry: Entry) -> bool:
        """Return whether a partly written file has lost its file in the base."""
        if entry.became is not Became.PARTIAL:
            return False
        st = self._ov.base.find(entry.base)
        return st is None or not stat.S_ISREG(st.st_mode)

    # -- objects that the new base has

    def _changed(self, entry: Entry, policy: Policy) -> Decision:
        """Decide about an object of which the new base has another version, or one with the same bytes as ours."""
        if policy is Policy.THEIRS and entry.held is not Held.NAME:
            return Decision(entry, policy, Action.TAKE)
        if entry.held is Held.CONTENT and entry.became is Became.CHANGED:
            if policy is Policy.BOTH:
                return self._beside(Decision(entry, policy, Action.BOTH))
            if policy is Policy.MERGE:
                return self._merge(Decision(entry, policy, Action.MERGE))
        return Decision(entry, policy, Action.KEEP)

    def _partial(self, entry: Entry, policy: Policy) -> Decision:
        """Decide about a partly written file whose other blocks have changed in the base."""
        if policy is Policy.THEIRS:
            return Decision(entry, policy, Action.TAKE)
        if self._versions.below(entry) is None:
            return Decision(entry, policy, Action.CONFLICT, why=self._why_incomplete())
        decision = Decision(entry, policy, Action.KEEP, True, self._versions.missing(entry))
        if policy is Policy.BOTH:
            return self._beside(decision._replace(action=Action.BOTH))
        if policy is Policy.MERGE:
            return self._merge(decision._replace(action=Action.MERGE))
        return decision

    def _why_incomplete(self) -> str:
        """Return the reason why a partly written file cannot be completed."""
        if self._versions.old is not None:
            return "the base given with --old-base does not have the version that some blocks were written over"
        return "some blocks are only in the old version; give --old-base, or the policy theirs"

    def _beside(self, decision: Decision) -> Decision:
        """Plan a copy of the base's file beside ours; return a conflict if that is not possible."""
        entry = decision.entry
        st = self._ov.base.find(entry.base)
        directory, name = split(entry.path)
        beside = name + BESIDE
        if st is None or not stat.S_ISREG(st.st_mode):
            why = "the base's version is not a file, so it cannot be put beside ours"
            return decision._replace(action=Action.CONFLICT, why=why)
        if len(beside) > NAME_MAX:
            why = f"the name is too long for the suffix {os.fsdecode(BESIDE)}"
            return decision._replace(action=Action.CONFLICT, why=why)
        place = join(directory, beside)
        known = self._ov.find(place)
        if known is not None and self._versions.is_copy(Ino(known.ino), entry.base, st):
            return decision  # an earlier rebase has made this copy
        if place in self._placed or known is not None:
            why = f"{os.fsdecode(beside)} exists already; compare it with ours, then delete it"
            return decision._replace(action=Action.CONFLICT, why=why)
        self._placed.add(place)
        return decision._replace(size=decision.size + st.st_size)

    def _merge(self, decision: Decision) -> Decision:
        """Plan a three-way merge; return a conflict if that is not possible."""
        found = self.merged(decision.entry)
        if isinstance(found, str):
            return decision._replace(action=Action.CONFLICT, why=found)
        if not decision.completes and self._versions.read(decision.entry) == found:
            return decision._replace(action=Action.KEEP)  # ours is the merged text already
        # the whole file is written again
        return decision._replace(completes=False, size=decision.size + len(found))

    def merged(self, entry: Entry) -> bytes | str:
        """Return the bytes of a merged file, or the reason why it cannot be merged."""
        st = self._ov.base.stat(entry.base)
        if not (self._versions.is_file(entry) and stat.S_ISREG(st.st_mode)):
            return "it is not a file"
        if max(self._versions.size(entry), st.st_size) > LONGEST:
            return "it is too large to be merged"
        ancestor = self._versions.ancestor(entry, LONGEST + 1)
        if ancestor is None:
            return "the old version is not known" + ("" if self._versions.old is not None else "; give --old-base")
        ours = self._versions.ours(entry)
        if ours is None:
            return self._why_incomplete()
        theirs = os.pread(self._ov.base.file(entry.base, st), st.st_size, 0)
        if not (is_text(ours) and is_text(ancestor) and is_text(theirs)):
            return "it is not a text"
        merged = merge_text(ours, ancestor, theirs)
        return merged if merged is not None else "both changed the same lines"

    # -- objects that the new base lacks, or has as another type

    def _gone(self, entry: Entry, policy: Policy) -> Decision:
        """Decide about an object that the new base lacks, or has as another type."""
        if not entry.shows:
            return Decision(entry, policy, Action.DROP if policy is Policy.THEIRS else Action.WAIT)
        if policy is Policy.THEIRS:
            return Decision(entry, policy, Action.DROP)
        decision = Decision(entry, policy, Action.CREATE)
        if entry.held is Held.PART:
            if self._versions.below(entry) is None:
                return decision._replace(action=Action.CONFLICT, why=self._why_incomplete())
            decision = decision._replace(completes=True, size=self._versions.missing(entry))
        if policy is Policy.BOTH and entry.became is Became.KIND:
            return self._beside(decision)
        return decision

    def _shadow(self, entry: Entry, policy: Policy) -> Decision:
        """Decide about a created or renamed object at a path at which the new base has an object, too."""
        if entry.became is Became.IDENTICAL and policy is not Policy.THEIRS:
            return Decision(entry, policy, Action.COVER)
        if policy is Policy.THEIRS:
            if entry.held is Held.NAME or self._versions.is_directory(entry):
                why = "ours is a directory, or was moved here; move it away, or choose ours"
                return Decision(entry, policy, Action.CONFLICT, why=why)
            return Decision(entry, policy, Action.DROP)
        if policy is Policy.BOTH:
            return self._beside(Decision(entry, policy, Action.BOTH))
        if policy is Policy.MERGE:
            return Decision(entry, policy, Action.CONFLICT, why=_BOTH_CREATED)
        return Decision(entry, policy, Action.COVER)


def deepest_first(decisions: Sequence[Decision]) -> list[int]:
    """Return the indices of the decisions, those with the deepest base paths first."""
    return sorted(range(len(decisions)), key=lambda index: -decisions[index].entry.base.count(b"/"))
