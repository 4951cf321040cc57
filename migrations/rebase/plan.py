"""The plan of a rebase: what is to become of each thing that an overlay holds of a base that was replaced.

A *policy* says whose version counts, for all paths or for those that match a pattern:

    ours        what shows stays
    theirs      the base's version shows, and ours is given up
    keep-both   ours stays, and the base's is put beside it, as NAME.minifo-new
    merge       a three-way merge, where both have another text than the old base; elsewhere as ours

Nothing is lost but by ``theirs``: what a policy cannot do is a conflict, and stays as it is.
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
from ...engine.rebase.drift_report import Became, Entry, Held, bytes_missing, drift, same_bytes
from ...engine.store.base_view import BaseView, join, split
from ...engine.tree.drift import sample
from ...engine.tree.inode_rows import Row
from .text_merge import LONGEST, is_text, merge_text

BESIDE = b".minifo-new"
_HOLDS = "SELECT 1 FROM created WHERE parent = ?1 UNION ALL SELECT 1 FROM renamed WHERE parent = ?1 LIMIT 1"

Progress = Callable[[str, int, int], None]


class Policy(Enum):
    """Whose version counts."""

    OURS = "ours"
    THEIRS = "theirs"
    BOTH = "keep-both"
    MERGE = "merge"


class Action(Enum):
    """What is done about an entry."""

    NONE = "nothing"
    KEEP = "keep ours"  # it counts as made over the new version
    TAKE = "take the base's"
    MERGE = "merge"
    BOTH = "keep both"
    CREATE = "make it ours"  # a created object
    DROP = "drop"
    COVER = "hide the base's"
    WAIT = "wait"  # for the old base, or for somebody to say theirs
    CONFLICT = "conflict"


class Decision(NamedTuple):
    """What becomes of one entry.

    Attributes:
        entry: the entry.
        policy: the one that counts for its path.
        action: what is done.
        completes: whether what the file lacks is copied from the old base first.
        size: bytes this takes in storage, at most.
        why: of a conflict, what is missing or in the way.
    """

    entry: Entry
    policy: Policy
    action: Action
    completes: bool = False
    size: int = 0
    why: str = ""


class Policies:
    """Policies by path: of those that match the last one counts.

    Args:
        rules: ``POLICY`` or ``POLICY:PATTERN``.  A pattern stands for a path, and all below it; in it ``*`` and ``?``
            also match slashes (fnmatch(3) without FNM_PATHNAME).

    Raises:
        UsageError: a rule is none.
    """

    def __init__(self, rules: Sequence[str]) -> None:
        self._rules: list[tuple[str, Policy]] = []
        for rule in rules:
            word, colon, pattern = rule.partition(":")
            if word not in {policy.value for policy in Policy} or (colon and not pattern.startswith("/")):
                hint = "give ours, theirs, keep-both or merge, alone or with a pattern: merge:/etc/*.conf"
                raise UsageError(f"{rule!r} is no policy", hint)
            self._rules.append((pattern.rstrip("/") if colon else "", Policy(word)))

    def of(self, path: bytes) -> Policy:
        """The policy of a path."""
        text = os.fsdecode(path)
        for pattern, policy in reversed(self._rules):
            if not pattern or fnmatch.fnmatchcase(text, pattern) or fnmatch.fnmatchcase(text, pattern + "/*"):
                return policy
        return Policy.OURS


class OldBase:
    """The base that the overlay was written over, if it is at hand.

    Args:
        overlay: open over the new base.
        view: the old base; None where it is not known.
    """

    def __init__(self, overlay: Overlay, view: BaseView | None) -> None:
        self._ov = overlay
        self.view = view

    @property
    def is_known(self) -> bool:
        """True where there is one."""
        return self.view is not None

    def file(self, path: bytes, size: int | None, mtime: int | None, digest: bytes | None = None) -> int | None:
        """A descriptor of a file that has that size and mtime (and samples) there, valid until the next call."""
        if self.view is None:
            return None
        st = self.view.find(path)
        if st is None or not stat.S_ISREG(st.st_mode) or (st.st_size, st.st_mtime_ns) != (size, mtime):
            return None
        fd = self.view.file(path, st)
        return fd if digest is None or sample(fd, st.st_size) == digest else None

    def below(self, entry: Entry, row: Row) -> int | None:
        """The version that a file was written over in part."""
        digest = self._ov.db.value("SELECT digest FROM modified WHERE ino = ?", (entry.ino,))
        return self.file(entry.base, row.seen_size, row.seen_mtime, digest)

    def ancestor(self, entry: Entry) -> bytes | None:
        """The bytes of the version that a file was made from."""
        kept = self._ov.inodes.ancestors.of(entry.base)
        if entry.held is Held.REPLACED:
            found = self._replaced(entry.base)
            return found if found is not None or kept is None else kept.data
        known = self._ov.db.row("SELECT base_size, base_mtime, digest FROM modified WHERE ino = ?", (entry.ino,))
        fd = self.file(entry.base, *known) if known is not None else None
        if fd is not None:
            return os.pread(fd, LONGEST + 1, 0)
        return kept.data if kept is not None and known is not None and known[:2] == kept[:2] else None

    def _replaced(self, path: bytes) -> bytes | None:
        """The bytes of a file that was replaced: whatever the old base has there."""
        st = self.view.find(path) if self.view is not None else None
        if self.view is None or st is None or not stat.S_ISREG(st.st_mode):
            return None
        return os.pread(self.view.file(path, st), LONGEST + 1, 0)

    def ours(self, entry: Entry, row: Row) -> bytes | None:
        """All bytes of a file of ours, or None where some were those of an old base that is not at hand."""
        content = self._ov.content
        if not bytes_missing(self._ov.db, row):
            return content.read(row, entry.base, 0, row.size)
        fd = self.below(entry, row)
        if fd is None:
            return None
        found = bytearray(os.pread(fd, min(row.bound or 0, row.size), 0).ljust(row.size, b"\0"))
        for extent in content.extents.of(row.ino, 0, row.size):
            # of bytes that an extent covers nothing comes from the base
            found[extent.start : extent.end] = content.read(row, None, extent.start, extent.end - extent.start)
        return bytes(found)


class Planner:
    """Decides about entries.

    Args:
        overlay: open over the new base; only read.
        old: the old base.
        policies: whose version counts.
    """

    def __init__(self, overlay: Overlay, old: OldBase, policies: Policies) -> None:
        self._ov = overlay
        self._old = old
        self._policies = policies
        self._placed: set[bytes] = set()  # copies of the base's files beside ours

    def plan(self, progress: Progress) -> tuple[list[Decision], Counter[str]]:
        """Decisions about all that the base's change concerns, and how many entries became what."""
        decisions: list[Decision] = []
        counts: Counter[str] = Counter()
        total = self._ov.db.value("SELECT (SELECT count(*) FROM origin) + (SELECT count(*) FROM deleted)")
        for number, entry in enumerate(drift(self._ov, self._old.view)):
            progress("comparing", number, total)
            counts[entry.became.value] += 1
            if entry.became is not Became.UNCHANGED:
                decisions.append(self._decide(entry))
        self._directories(decisions)
        return decisions, counts

    def _directories(self, decisions: list[Decision]) -> None:
        """A directory that is gone stays as it is while something in it waits, and is ours if something in it is."""
        waiting: set[bytes] = set()
        holding: set[bytes] = set()
        for index in deepest_first(decisions):
            decision = decisions[index]
            entry = decision.entry
            if entry.held is Held.DIRECTORY and decision.action in (Action.CREATE, Action.DROP):
                is_held = entry.base in holding or self._ov.db.value(_HOLDS, (entry.ino,)) is not None
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
            elif decision.action is Action.CREATE and entry.in_place:
                holding.add(split(entry.base)[0])

    def _decide(self, entry: Entry) -> Decision:
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
        """About a file that was put in the place of the base's, which is another one now."""
        mode = self._row(entry).mode
        if policy is Policy.THEIRS:
            if stat.S_ISDIR(mode):
                return Decision(entry, policy, Action.CONFLICT, why="ours is a directory; remove it, or choose ours")
            return Decision(entry, policy, Action.DROP)
        if entry.became is Became.CHANGED and policy is Policy.BOTH:
            return self._beside(Decision(entry, policy, Action.BOTH))
        if entry.became is Became.CHANGED and policy is Policy.MERGE:
            return self._merge(Decision(entry, policy, Action.MERGE))
        return Decision(entry, policy, Action.KEEP)

    def _is_gone(self, entry: Entry) -> bool:
        if entry.became is not Became.PARTIAL:
            return False
        st = self._ov.base.find(entry.base)
        return st is None or not stat.S_ISREG(st.st_mode)

    def _row(self, entry: Entry) -> Row:
        row = self._ov.inodes.row(Ino(entry.ino))
        assert row is not None
        return row

    # -- what the base has

    def _changed(self, entry: Entry, policy: Policy) -> Decision:
        if policy is Policy.THEIRS and entry.held is not Held.NAME:
            return Decision(entry, policy, Action.TAKE)
        if entry.held is Held.CONTENT and entry.became is Became.CHANGED:
            if policy is Policy.BOTH:
                return self._beside(Decision(entry, policy, Action.BOTH))
            if policy is Policy.MERGE:
                return self._merge(Decision(entry, policy, Action.MERGE))
        return Decision(entry, policy, Action.KEEP)

    def _partial(self, entry: Entry, policy: Policy) -> Decision:
        if policy is Policy.THEIRS:
            return Decision(entry, policy, Action.TAKE)
        row = self._row(entry)
        if self._old.below(entry, row) is None:
            return Decision(entry, policy, Action.CONFLICT, why=self._lacking())
        decision = Decision(entry, policy, Action.KEEP, True, bytes_missing(self._ov.db, row))
        if policy is Policy.BOTH:
            return self._beside(decision._replace(action=Action.BOTH))
        if policy is Policy.MERGE:
            return self._merge(decision._replace(action=Action.MERGE))
        return decision

    def _lacking(self) -> str:
        if self._old.is_known:
            return "the old base given has not the version that some blocks were written over"
        return "some blocks are those of the old version; give --old-base, or the policy theirs"

    def _beside(self, decision: Decision) -> Decision:
        entry = decision.entry
        st = self._ov.base.find(entry.base)
        directory, name = split(entry.path)
        beside = name + BESIDE
        if st is None or not stat.S_ISREG(st.st_mode):
            return decision._replace(action=Action.CONFLICT, why="what the base has is no file to put beside ours")
        if len(beside) > NAME_MAX:
            return decision._replace(action=Action.CONFLICT, why="the name is too long to put another beside it")
        place = join(directory, beside)
        known = self._find(place)
        if known is not None and self._is_copy(known, entry.base, st):
            return decision  # put there the last time
        if place in self._placed or known is not None:
            why = f"{os.fsdecode(beside)} is there already; settle and remove that one"
            return decision._replace(action=Action.CONFLICT, why=why)
        self._placed.add(place)
        return decision._replace(size=decision.size + st.st_size)

    def _find(self, path: bytes) -> Ino | None:
        ino = Ino(1)
        for name in path.split(b"/")[1:]:
            attr = self._ov.lookup(ino, name)
            if attr is None:
                return None
            ino = Ino(attr.ino)
        return ino

    def _is_copy(self, ino: Ino, path: bytes, st: os.stat_result) -> bool:
        row = self._ov.inodes.row(ino)
        if row is None or not stat.S_ISREG(row.mode) or row.size != st.st_size:
            return False
        if not self._ov.inodes.numbers.is_created(ino):
            return False
        return same_bytes(self._ov.content, row, self._ov.base.file(path, st))

    def _merge(self, decision: Decision) -> Decision:
        found = self.merged(decision.entry)
        if isinstance(found, str):
            return decision._replace(action=Action.CONFLICT, why=found)
        row = self._row(decision.entry)
        if not decision.completes and self._ov.content.read(row, None, 0, row.size) == found:
            return decision._replace(action=Action.KEEP)  # ours has it all, as after a merge
        # all of it is written anew
        return decision._replace(completes=False, size=decision.size + len(found))

    def merged(self, entry: Entry) -> bytes | str:
        """The bytes of a merged file, or why it cannot be merged."""
        row, st = self._row(entry), self._ov.base.stat(entry.base)
        if not (stat.S_ISREG(row.mode) and stat.S_ISREG(st.st_mode)):
            return "it is no file"
        if max(row.size, st.st_size) > LONGEST:
            return "it is too large to be merged"
        ancestor = self._old.ancestor(entry)
        if ancestor is None:
            return "the old version is not known" + ("" if self._old.is_known else "; give --old-base")
        ours = self._old.ours(entry, row)
        if ours is None:
            return self._lacking()
        theirs = os.pread(self._ov.base.file(entry.base, st), st.st_size, 0)
        if not (is_text(ours) and is_text(ancestor) and is_text(theirs)):
            return "it is no text"
        merged = merge_text(ours, ancestor, theirs)
        return merged if merged is not None else "both changed the same lines"

    # -- what the base has not, or as another kind of object

    def _gone(self, entry: Entry, policy: Policy) -> Decision:
        if not entry.shows:
            return Decision(entry, policy, Action.DROP if policy is Policy.THEIRS else Action.WAIT)
        if policy is Policy.THEIRS:
            return Decision(entry, policy, Action.DROP)
        decision = Decision(entry, policy, Action.CREATE)
        if entry.held is Held.PART:
            row = self._row(entry)
            if self._old.below(entry, row) is None:
                return decision._replace(action=Action.CONFLICT, why=self._lacking())
            decision = decision._replace(completes=True, size=bytes_missing(self._ov.db, row))
        if policy is Policy.BOTH and entry.became is Became.KIND:
            return self._beside(decision)
        return decision

    def _shadow(self, entry: Entry, policy: Policy) -> Decision:
        if entry.became is Became.IDENTICAL and policy is not Policy.THEIRS:
            return Decision(entry, policy, Action.COVER)
        if policy is Policy.THEIRS:
            row = self._ov.inodes.row(Ino(entry.ino))
            if entry.held is Held.NAME or row is None or stat.S_ISDIR(row.mode):
                why = "ours is a directory, or was moved here; move it away, or choose ours"
                return Decision(entry, policy, Action.CONFLICT, why=why)
            return Decision(entry, policy, Action.DROP)
        if policy is Policy.BOTH:
            return self._beside(Decision(entry, policy, Action.BOTH))
        if policy is Policy.MERGE:
            return Decision(entry, policy, Action.CONFLICT, why="both made it; there is no version to merge from")
        return Decision(entry, policy, Action.COVER)


def deepest_first(decisions: Sequence[Decision]) -> list[int]:
    """The order in which what is gone can be settled, as indices."""
    return sorted(range(len(decisions)), key=lambda index: -decisions[index].entry.base.count(b"/"))
