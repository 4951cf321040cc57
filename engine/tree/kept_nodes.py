"""The kernel's references after a rollback: the nodes stay, and what rows have told of them is found out anew.

The kernel owns the size and the times of a file that it holds, and may hold pages of it that it has not written yet
(writeback cache).  So a file whose rows are others gets another generation, which the next entry tells the kernel; all
requests about the file as it was fail with ESTALE.
"""

from __future__ import annotations

from collections.abc import Container

from ..model import ROOT, Ino
from ..store.base_view import BaseView, split
from .inodes import Inodes
from .nodes import Node


def keep_nodes(before: Inodes, after: Inodes, base: BaseView, changed: Container[int]) -> None:
    """Let new inodes take over the nodes to which the kernel refers.

    Args:
        before: the inodes that were used so far.
        after: new ones, which know no rows yet.
        base: the base view.
        changed: numbers of the objects whose rows or names may be others now.
    """
    after.follow_up(before)
    moved: list[Node] = []
    for node in before.nodes():
        if node.nlookup <= 0 and node.ino != ROOT:
            continue
        after.take_node(node)
        if node.ino in changed:
            node.state = True
            if not node.is_dir:
                node.stale = True
                after.generations[node.ino] = after.generations.get(node.ino, 0) + 1
            elif node.ino != ROOT:
                moved.append(node)
        if node.dead:
            node.dead = not _is_named(after, node)
    for node in moved:
        node.parent = _parent(after, base, node)


def _is_named(inodes: Inodes, node: Node) -> bool:
    """Return whether a name leads to an object, which had none before."""
    if node.path is not None:
        return inodes.drift.known_links(node.ino, node.path) > 0
    row = inodes.row(node.ino)
    return row is not None and row.nlink > 0


def _parent(inodes: Inodes, base: BaseView, node: Node) -> Ino:
    """Return the number of the directory that holds a directory, by rows, or else by the base."""
    found = inodes.parent(node.ino, node.path)
    if found != ROOT or node.path is None:
        return found
    above = split(node.path)[0]
    st = base.find(above) if above != b"/" else None
    return inodes.drift.ino_of(st, *split(above)) if st is not None else ROOT
