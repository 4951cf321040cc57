"""Everything an overlay shows, as plain values that can be compared."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minifo.engine import ROOT, Overlay
from minifo.engine.model import Ino
from minifo.engine.store.base_view import BaseView, join
from minifo.migrations.meta.storage_tree import LegacyTree
from minifo.migrations.meta.view import Comparison, LegacyView, compare


@contextmanager
def opened(base: Path | str, storage: Path | str) -> Iterator[Overlay]:
    """An overlay, open for as long as the block runs."""
    overlay = Overlay.open(str(base), str(storage), clone=False)  # clones are slow to close
    try:
        yield overlay
    finally:
        overlay.close()


def noted(base: Path | str, storage: Path | str) -> list[str]:
    """The journal of an overlay: operations and paths."""
    with opened(base, storage) as overlay:
        found = overlay.journal.read(*overlay.journal.bounds())
        assert found.impossible == 0
        return [f"{entry.op} {entry.path.decode()}" for entry in found.entries]


def shown(base: Path | str, storage: Path | str, *, links: bool = False) -> dict[bytes, tuple[object, ...]]:
    """Every object of an overlay by its path: attributes, content or target, extended attributes.

    Args:
        base, storage: the overlay.
        links: True to tell which files are links of one another, and how many they are.
    """
    with opened(base, storage) as overlay:
        assert overlay.check() == []
        return {path: value for path, value in _walk(overlay, links)}


def seen(overlay: Overlay) -> dict[bytes, tuple[object, ...]]:
    """The same of an open overlay, with links."""
    return dict(_walk(overlay, True))


def _walk(overlay: Overlay, links: bool) -> Iterator[tuple[bytes, tuple[object, ...]]]:
    pending = [(b"/", overlay.getattr(ROOT))]
    first: dict[int, bytes] = {}
    while pending:
        path, attr = pending.pop()
        ino = Ino(attr.ino)
        content: object = None
        if stat.S_ISREG(attr.mode):
            try:
                content = hashlib.blake2b(overlay.read(ino, 0, attr.size)).hexdigest()
            except OSError as error:
                content = error.errno
        elif stat.S_ISLNK(attr.mode):
            content = overlay.readlink(ino)
        elif stat.S_ISDIR(attr.mode):
            entries = [entry for entry in overlay.readdir(ino) if entry.name not in (b".", b"..")]
            pending += [(join(path, entry.name), entry.attr) for entry in entries]
        own = {name: overlay.getxattr(ino, name) for name in overlay.listxattr(ino)}
        size = 0 if stat.S_ISDIR(attr.mode) else attr.size
        rest: tuple[object, ...] = ()
        if links:
            rest = (attr.nlink, first.setdefault(attr.ino, path)) if not stat.S_ISDIR(attr.mode) else (attr.nlink,)
        yield path, (attr.mode, attr.uid, attr.gid, attr.rdev, size, attr.mtime, content, own, *rest)


def compare_with_legacy(base: Path | str, legacy: Path | str, storage: Path | str, **options: bool) -> Comparison:
    """Compare what mini_fo would show of a legacy storage with what an overlay shows."""
    with opened(base, storage) as overlay:
        view = BaseView(str(legacy))
        try:
            return compare(LegacyView(LegacyTree(overlay.base, view), **options), overlay)
        finally:
            view.close()
