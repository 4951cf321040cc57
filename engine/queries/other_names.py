"""All names of objects that have several: those that rows tell, and those that the base has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Set

from ..model import Ino
from ..overlay import Overlay
from ..store.base_view import join
from ..store.four_lists_statements import ALL_NAMES
from ..store.typed_rows import each
from ..tree.base_links import BaseLinks
from ..tree.directories import Directories


def names_of(overlay: Overlay, wanted: Set[int]) -> dict[int, list[bytes]]:
    """Return the paths at which some objects show, sorted, by the objects' numbers.

    Args:
        overlay: nothing of it may change meanwhile.
        wanted: numbers of objects that are no directories.

    Raises:
        OSError: base or storage cannot be read.
    """
    directories = Directories(overlay.db)
    paths: dict[int, set[bytes]] = defaultdict(set)
    for ino, parent, name in each(overlay.db, ALL_NAMES, "iib"):
        if ino in wanted:
            paths[ino].add(join(directories.path(parent), name))
    bases = {ino: base for ino in wanted if (base := overlay.inodes.node(Ino(ino)).path) is not None}
    for ino, base in (*bases.items(), *BaseLinks(overlay.base, bases).find()):
        paths[ino].add(directories.shown(base))
    return {ino: sorted(path for path in found if _leads_to(overlay, path, ino)) for ino, found in paths.items()}


def _leads_to(overlay: Overlay, path: bytes, ino: int) -> bool:
    attr = overlay.find(path) if path.startswith(b"/") else None  # damage cuts paths off
    return attr is not None and attr.ino == ino
