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
    dead: list[Node] = []
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
            dead.append(node)
    if not moved and not dead:
        return
    named = after.named({node.ino for node in (*moved, *dead)})
    for node in dead:
        node.dead = not (node.ino in named or _is_shown(after, node))
    for node in moved:
        node.parent = named.get(node.ino) or _parent(after, base, node)


def _is_shown(inodes: Inodes, node: Node) -> bool:
    """Return whether an object without a name in the overlay, which had none before, shows in its place in the base."""
    return node.path is not None and inodes.drift.is_shown(node.path)


def _parent(inodes: Inodes, base: BaseView, node: Node) -> Ino:
    """Return the number of the directory that holds a directory which has no name in the overlay."""
    if node.path is None:
        return ROOT
    above = split(node.path)[0]
    found = inodes.number_at(above)
    if found is not None:
        return found
    st = base.find(above) if above != b"/" else None
    return inodes.drift.ino_of(st, *split(above)) if st is not None else ROOT
