"""Every name below a directory, of the merged tree and of the base; damage cannot make it endless."""

from __future__ import annotations

import stat
from collections.abc import Container, Iterator

from ..model import Attr, Ino
from ..overlay import Overlay
from ..store.base_view import join


def shown_below(overlay: Overlay, top: bytes, skipped: Container[bytes] = ()) -> Iterator[tuple[bytes, Attr]]:
    """Yield every path below a directory of the merged tree, and what is there.

    Args:
        overlay: nothing of it may change meanwhile.
        top: the directory; one that does not show has nothing below it.
        skipped: paths that are left out with all that is below them.

    Raises:
        OSError: base or storage cannot be read.
    """
    attr = overlay.find(top)
    if attr is None:
        return
    waiting, seen = [(top, Ino(attr.ino))], {attr.ino}  # in damaged rows, directories may be in each other
    while waiting:
        directory, number = waiting.pop()
        for entry in overlay.readdir(number):
            path = join(directory, entry.name)
            if entry.name in (b".", b"..") or path in skipped:
                continue
            yield path, entry.attr
            if stat.S_ISDIR(entry.attr.mode) and entry.attr.ino not in seen:
                seen.add(entry.attr.ino)
                waiting.append((path, Ino(entry.attr.ino)))


def base_below(overlay: Overlay, top: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yield every path below a directory of the base, each with whether it is a directory.

    Args:
        overlay: whose base it is.
        top: the directory; one that a replaced base lacks has nothing below it.

    Raises:
        OSError: the base cannot be read.
    """
    waiting = [top]
    while waiting:
        directory = waiting.pop()
        try:
            names = overlay.base.listing(directory)
        except OSError:
            if overlay.base.find(directory) is not None:
                raise
            continue
        for name, is_dir in names.items():
            path = join(directory, name)
            yield path, is_dir
            if is_dir:
                waiting.append(path)
