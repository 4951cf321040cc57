"""What one path of an overlay is: what happened to it, what backs its bytes, and which storage it uses."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..model import Ino, State
from ..overlay import Overlay
from ..store.base_view import join, split
from ..store.four_lists_statements import ALL_NAMES, IS_HIDDEN
from ..store.object_paths import object_name
from ..store.typed_rows import each, rows
from ..tree.directories import Directories

_BYTES = (
    "SELECT ino, length(data) FROM small UNION ALL"
    " SELECT ino, min(size, coalesce(bound, size)) FROM inode WHERE object > 0 UNION ALL"
    ' SELECT ino, "end" - start FROM extent WHERE object > 0 UNION ALL'
    " SELECT ino, length(value) + length(name) FROM xattr"
)


def state(overlay: Overlay, path: bytes) -> State:
    """Return what happened to a path, in mini_fo's words.

    A name that was renamed away, or a directory above it, is DELETED at its old path and CREATED at its new one, as
    mini_fo's META files said it; what is in a renamed directory is what it was.
    """
    attr = overlay.find(path)
    directory, name = split(path)
    above = overlay.find(directory) if path != b"/" else None
    hidden = above is not None and bool(overlay.db.row(IS_HIDDEN, (above.ino, name)))
    if attr is None:
        under = _base_path(overlay, directory) if path != b"/" else None
        if hidden or (under is not None and overlay.base.find(join(under, name)) is not None):
            return State.DELETED
        return State.DELETED if overlay.base.find(path) is not None else State.NON_EXISTANT
    named = above is not None and _is_named(overlay, above.ino, name)
    if named:
        return State.DEL_REWRITTEN if hidden else State.CREATED
    if overlay.db.row("SELECT 1 FROM modified WHERE ino = ?", (attr.ino,)):
        return State.MODIFIED
    return State.UNMODIFIED


def _is_named(overlay: Overlay, parent: int, name: bytes) -> bool:
    sql = "SELECT 1 FROM {} WHERE parent = ? AND name = ?"
    return any(overlay.db.row(sql.format(table), (parent, name)) for table in ("created", "renamed"))


def _base_path(overlay: Overlay, path: bytes) -> bytes | None:
    """The base path of the directory at a path, or None for a created one."""
    attr = overlay.find(path)
    return overlay.inodes.node(Ino(attr.ino)).path if attr is not None else None


def base_path(overlay: Overlay, path: bytes) -> bytes | None:
    """Return the path in the base of what a path shows, or of what it showed before it was changed; else None."""
    attr = overlay.find(path)
    if attr is not None and (under := overlay.inodes.node(Ino(attr.ino)).path) is not None:
        return under
    directory, name = split(path)
    if path == b"/" or (above := _base_path(overlay, directory)) is None:
        return path if overlay.base.find(path) is not None else None
    return join(above, name) if overlay.base.find(join(above, name)) is not None else None


def gone_names(overlay: Overlay, directory: bytes) -> list[bytes]:
    """Return the names that the base has in a directory, which may be deleted itself, and the overlay does not show."""
    under = base_path(overlay, directory)
    st = overlay.base.find(under) if under is not None else None
    if under is None or st is None or not stat.S_ISDIR(st.st_mode):
        return []
    return [name for name in overlay.base.names(under) if overlay.find(join(directory, name)) is None]


def names(overlay: Overlay, directory: bytes) -> list[bytes]:
    """Return the names that the overlay shows in a directory; none where it shows no directory."""
    attr = overlay.find(directory)
    if attr is None or not stat.S_ISDIR(attr.mode):
        return []
    return [entry.name for entry in overlay.readdir(Ino(attr.ino)) if entry.name not in (b".", b"..")]


def backing(overlay: Overlay, path: bytes) -> dict[str, Any] | None:
    """Return what backs a path, or None where the merged tree has nothing there.

    Returns:
        * ``ino``, ``state``;
        * ``base``: the base path, None for a created object;
        * ``backing``: the source of bytes that no extent covers: ``base``, ``row``, ``object``; ``none`` for no bytes;
        * ``object``: the path of that content object in storage;
        * ``visible``: how many bytes of the backing show;
        * ``extents``: start, end and object (None for a hole) of each range that lies elsewhere, at most 1000.
    """
    attr = overlay.find(path)
    if attr is None:
        return None
    ino = Ino(attr.ino)
    node = overlay.inodes.node(ino)
    row = overlay.inodes.row(ino)
    found: dict[str, Any] = {"ino": ino, "state": state(overlay, path).value, "base": node.path}
    found |= {"backing": "none", "object": None, "visible": None, "extents": []}
    if not stat.S_ISREG(attr.mode):
        found["backing"] = "base" if row is None else "none"
    elif row is None or row.object is None:
        found["backing"] = "base" if node.path is not None else "none"
        found["visible"] = row.bound if row is not None else attr.size
    elif row.object == 0:
        found |= {"backing": "row", "visible": row.bound}
    else:
        found |= {"backing": "object", "object": object_name(row.object), "visible": row.bound}
    if row is not None and row.mapped:
        sql = 'SELECT start, "end", object FROM extent WHERE ino = ? ORDER BY start LIMIT 1000'
        found["extents"] = [
            (start, end, object_name(number) if number else None)
            for start, end, number in rows(overlay.db, sql, (ino,), "iii")
        ]
    return found


class Usage(NamedTuple):
    """Bytes that an object takes in storage: of its content and extended attributes, as far as they show.

    Attributes:
        path: where it is.
        size: bytes.
    """

    path: bytes
    size: int


def sizes(overlay: Overlay) -> dict[int, int]:
    """Return the bytes that each object with bytes of its own takes in storage, by inode number."""
    found: dict[int, int] = defaultdict(int)
    for ino, size in each(overlay.db, _BYTES, "iI"):
        found[ino] += size or 0
    return found


def usage(overlay: Overlay) -> Iterator[Usage]:
    """Yield what each object with bytes of its own takes in storage, in no particular order."""
    db, directories = overlay.db, Directories(overlay.db)
    taken = sizes(overlay)
    for ino, parent, name in each(db, ALL_NAMES, "iib"):
        if ino in taken:
            yield Usage(join(directories.path(parent), name), taken.pop(ino))
    for ino, base in each(db, "SELECT ino, path FROM origin", "ib"):
        if ino in taken:
            yield Usage(directories.shown(base) if base != b"/" else base, taken.pop(ino))
    for ino, size in taken.items():
        yield Usage(b"<deleted, open: inode %d>" % ino, size)


def overlay_path(mountpoint: str, path: str) -> bytes:
    """Return the path in an overlay of a path in its mount.

    Args:
        mountpoint: true path of the mount point.
        path: true path of something in it.
    """
    relative = os.path.relpath(path, mountpoint)
    return b"/" if relative == "." else b"/" + os.fsencode(relative)
