"""Makes the clone of an overlay, mounted or not (engine/clone.py); of a mounted one from a state that is held."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..engine.errors import StateError, UsageError
from ..fusefront.control.client import ControlClient, listens
from ..fusefront.mount import mount_table
from ._held import held
from ._progress import Progress
from ._target import place_of

if TYPE_CHECKING:
    from ..engine.clone import Cloned


def cloned(target: str, new: str, name: str | None, base: str | None = None) -> Cloned:
    """Make a storage that is a clone of the overlay that TARGET means, or of a checkpoint of it.

    Args:
        target: a storage directory, or a path in a mounted overlay, also in a mount that shows a checkpoint.
        new: the directory of the clone; an empty one, or it is made.
        name: of the checkpoint; None for what TARGET shows.
        base: the base directory of an overlay that is not mounted; None for that of its last mount.

    Raises:
        NotMinifo: there is no overlay.
        StateError: there is no such checkpoint, or the clone cannot be made; nothing is left of it.
        NotDurable: it is made, but a power cut may take it away.
    """
    place = place_of(target)
    name = place.at if name is None else name
    _check_place(new)
    progress = Progress(None, new, quiet=False)
    try:
        return _cloned(place.storage, new, name, base, progress)
    finally:
        progress.clear()


def _cloned(storage: str, new: str, name: str | None, base: str | None, progress: Progress) -> Cloned:
    def tick(done: int, total: int) -> None:
        progress("cloning", done, total)

    from ..engine.clone import clone_beside, clone_overlay
    from ..engine.queries.at_rest import open_writable

    if name is not None:
        return clone_beside(storage, name, new, tick)
    if not listens(storage):
        overlay = open_writable(storage, base)
        try:
            return clone_overlay(overlay, None, new, tick)
        finally:
            overlay.close()
    with ControlClient(storage, timeout=None) as client, held(client) as checkpoint:
        return clone_beside(storage, checkpoint, new, tick)


def _check_place(new: str) -> None:
    """Refuse a place for a storage in a mounted overlay, which would have to serve its own storage."""
    there = new if os.path.isdir(new) else os.path.dirname(os.path.abspath(new))
    try:
        _, entry = mount_table.locate(there)
    except OSError as error:
        raise StateError(f"{there} cannot be reached ({error.strerror})", "choose another directory") from error
    if entry is not None and mount_table.overlay_of(entry) is not None:
        raise UsageError(f"{new} is in a mounted overlay ({entry.mountpoint})", "choose a directory outside of it")
