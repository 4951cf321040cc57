"""Reset: everything that the overlay holds is taken away at once, but for what some patterns keep.

All of it is one operation, and what was there is in a checkpoint:

1. what is kept and stands in a directory that does not stay is moved to where it belongs (reset_moves.py);
2. all tables are emptied but for the rows that are kept (store/clearing.py);
3. link counts of what is kept, and attributes of directories that are only needed for it, are as they must be now.

Step 2 takes a table at a time, for an overlay may hold very much.  Steps 1 and 3 are for few objects.
"""

from __future__ import annotations

import stat
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from .checkpoint_values import Checkpoint, Restored
from .model import ROOT, Ino
from .reset_links import HiddenLinks
from .reset_moves import Moves
from .reset_plan import Choice, Plan
from .revert import Reverter
from .store.base_view import split
from .store.clearing import cleared
from .store.four_lists_statements import ALL_NAMES
from .store.typed_rows import each, rows
from .tree.base_values import restore_base_values
from .tree.nodes import Node

if TYPE_CHECKING:
    from .overlay import Overlay


_CHANGES = "SELECT " + " + ".join(
    f"(SELECT count(*) FROM {table})" for table in ("created", "deleted", "renamed", "modified")
)
_IS_DIRECTORY = f"i.mode >> 12 = {stat.S_IFDIR >> 12}"
_SEVERAL = (  # files that may have several names
    "SELECT ino, path FROM inode i LEFT JOIN origin USING (ino)"
    f" WHERE (nlink > 1 OR seen_links & 0xffffffff > 1) AND NOT {_IS_DIRECTORY}"
)
_DIRECTORIES_IN = (
    f"SELECT count(*) FROM created c JOIN inode i USING (ino) WHERE c.parent = ?1 AND {_IS_DIRECTORY} UNION ALL"
    f" SELECT count(*) FROM renamed c JOIN inode i USING (ino) WHERE c.parent = ?1 AND {_IS_DIRECTORY}"
)
_HIDDEN_IN = "SELECT name FROM deleted WHERE parent = ?"


class Reset(NamedTuple):
    """The result of a reset.

    Attributes:
        taken: how many changes were taken back: rows of the four lists.
        kept: how many are left.
        restored: what was changed; None if there was nothing to take back.
    """

    taken: int
    kept: int
    restored: Restored | None


class _Nothing(Exception):
    """Ends an operation that has nothing to take back, so that it is undone."""


def reset(overlay: Overlay, choice: Choice) -> Reset:
    """Take away all that an overlay holds, but for some paths.

    Args:
        overlay: an open overlay that takes changes.
        choice: the paths that are kept.

    Raises:
        StateError: a row is damaged, or storage failed, or has no space; nothing was changed.
        NotDurable: it is done, but the commit was postponed or failed; ``result`` is Restored.
    """
    work = _Reset(overlay, choice)
    try:
        restored = overlay.checkpoints.change("reset", work.run)
    except _Nothing:
        return Reset(0, work.kept, None)
    return Reset(work.taken, work.kept, restored)


class _Reset:
    """One reset of an overlay.

    Args:
        overlay: the overlay.
        choice: what is kept.
    """

    def __init__(self, overlay: Overlay, choice: Choice) -> None:
        self._ov = overlay
        self._db = overlay.db
        self._inodes = overlay.inodes
        self._choice = choice
        self._reverter: Reverter
        self.taken = 0
        self.kept = 0

    def run(self, left: Checkpoint) -> None:
        """Do it.  Call this inside an operation.

        Args:
            left: the checkpoint that holds what was there; it was made in this operation.
        """
        before = self._count()
        self._reverter = Reverter(self._ov)  # here, where a failure of the database is told as one of the reset
        plan = Plan(self._ov, self._choice)
        plan.read()
        plan.close()
        displaced = plan.displaced()
        if displaced:
            Moves(self._ov, plan).run(displaced)
            plan.close()
        covered = plan.covered()
        if covered:
            for place, ino in covered:
                self._reverter.hide(place, ino)
            plan.close()
        links = HiddenLinks(self._ov, plan.names["deleted"], plan.inos)
        plan.counted = links.left - plan.inos
        for ino in sorted(plan.counted):
            self._adopt(ino, links.places[ino][0])
        with cleared(self._db, self._ov.history, left.id, plan.kept()):
            self._settle(plan, links)
        self.kept = self._count()
        self.taken = before + len(covered) - self.kept
        if not (self.taken or displaced or covered):
            raise _Nothing

    def _count(self) -> int:
        return int(self._db.value(_CHANGES))

    def _adopt(self, ino: Ino, place: bytes) -> None:
        """Let a base file have a row, and links: other names of it show than those that were removed."""
        node = self._inodes.add_node(ino, split(place), ROOT, False, True)
        self._reverter.revive(node)
        self._inodes.adopt(node)

    # -- what is left

    def _settle(self, plan: Plan, links: HiddenLinks) -> None:
        self._count_links(links)
        for ino in sorted(plan.counted):
            self._drop_values(ino)
        for ino in sorted(plan.needed) if plan.is_any else ():
            node = self._inodes.directory(ino)
            self._count_subdirectories(node)
            if ino not in plan.inos and not plan.directories.is_named(ino):
                self._reverter.drop_attributes(node)

    def _count_links(self, hidden: HiddenLinks) -> None:
        """Let each file that has several names, or had, have as many links as there are names now."""
        found = [(Ino(ino), path) for ino, path in rows(self._db, _SEVERAL, (), "iB")]
        if not found:
            return
        named = Counter(ino for ino, _, _ in each(self._db, ALL_NAMES, "iib"))
        for ino, path in found:
            links = named[ino]
            if path is not None:
                st = self._ov.base.find(path)
                if st is None or stat.S_ISDIR(st.st_mode):
                    continue  # of another base
                links += st.st_nlink - len(hidden.places.get(ino, ()))
            row = self._inodes.row(ino)
            if row is not None and row.nlink not in (0, links) and links > 0:
                self._inodes.stamp(row, links, row.atime, row.mtime, self._inodes.now())

    def _drop_values(self, ino: Ino) -> None:
        """Let a base file of which a row is kept for its link count only have the base's bytes and attributes."""
        row = self._inodes.row(ino)
        path = self._inodes.path(ino)
        st = self._ov.base.find(path) if path is not None else None
        if row is not None and st is not None and stat.S_IFMT(st.st_mode) == stat.S_IFMT(row.mode):
            restore_base_values(
                self._db, self._inodes, self._ov.stored, row, st, ctime=self._inodes.now(), is_needed=True
            )

    def _count_subdirectories(self, node: Node) -> None:
        row = self._inodes.row(node.ino)
        if row is None or row.nlink < 2:
            return
        links = 2 + sum(count for (count,) in rows(self._db, _DIRECTORIES_IN, (node.ino,), "i"))
        st = self._ov.base.find(node.path) if node.path is not None else None
        if st is not None and stat.S_ISDIR(st.st_mode):
            links += st.st_nlink - 2
            links -= sum(
                self._is_base_directory(node, name) for (name,) in rows(self._db, _HIDDEN_IN, (node.ino,), "b")
            )
        if links != row.nlink:
            self._inodes.stamp(row, links, row.atime, row.mtime, row.ctime)

    def _is_base_directory(self, parent: Node, name: bytes) -> bool:
        child = self._inodes.base_child(parent, name)
        return child is not None and stat.S_ISDIR(child[0].st_mode)
