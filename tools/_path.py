"""PATH arguments: a path in a mounted overlay, or with --sto a path in terms of an overlay at rest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ..engine import Overlay
from ..engine.errors import StateError
from ..engine.queries.objects import overlay_path
from ..fusefront.mount import mount_table
from ._target import opened


@contextmanager
def located(
    path: str, storage: str | None, base: str | None, *, at: str | None = None, quick: bool = False
) -> Iterator[tuple[Overlay, bytes]]:
    """Open the overlay that a path is in.

    Args:
        path: in a mount, where what is deleted need not exist; with *storage*, from the root of the overlay.
        storage: a storage directory, or None.
        base: the base, where it is not that of the last mount.
        at, quick: as for ``opened``.

    Yields:
        The overlay, and the path in its terms: absolute, ``/`` for its root.

    Raises:
        StateError: the path is in no overlay.
    """
    if storage is not None:
        with opened(storage, base, at=at, quick=quick) as overlay:
            yield overlay, os.path.normpath(b"/" + os.fsencode(path)).replace(b"//", b"/")
        return
    mountpoint, place = place_of(path)
    with opened(mountpoint, at=at, quick=quick) as overlay:
        yield overlay, place


def place_of(path: str) -> tuple[str, bytes]:
    """Return the mount point of the overlay that a path is in, and the path in the overlay's terms.

    Args:
        path: in a mount; what is deleted need not exist.

    Raises:
        StateError: the path is in no overlay.
    """
    directory, name = os.path.split(os.path.abspath(path))
    while True:  # what stands above may be deleted, too
        try:
            real, entry = mount_table.locate(directory)
            break
        except FileNotFoundError:
            directory, above = os.path.split(directory)
            name = os.path.join(above, name)
        except OSError as error:
            raise StateError(f"{path} cannot be reached ({error.strerror})") from error
    full = os.path.join(real, name)
    if os.path.ismount(full):
        real, entry = mount_table.locate(full)
        full = real
    if entry is None or mount_table.overlay_of(entry) is None:
        raise StateError(f"{path} is in no mounted overlay", "name a path in one, or give --sto STORAGE")
    return entry.mountpoint, overlay_path(entry.mountpoint, full)
