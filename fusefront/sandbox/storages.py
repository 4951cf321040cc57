"""Where the storages of a sandbox lie."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ...engine.errors import StateError
from .layout import How, Part
from .place import Place


def storages(parts: Sequence[Part], place: Place, keep: str | None, first: str | None = None) -> dict[str, str]:
    """Make the storage directories of a sandbox's overlays.

    Args:
        parts: the mounts of the sandbox.
        place: the directory of the sandbox.
        keep: the storage that outlives the sandbox; those of further overlays get its name with a suffix.  None: all
            lie in the directory of the sandbox.
        first: the path that gets the name as it is; None for the outermost one.

    Returns:
        The true path of the storage directory of each overlay, by the path that is overlaid.

    Raises:
        StateError: one cannot be made.
    """
    paths = sorted((part.path for part in parts if part.how is How.OVERLAY), key=lambda path: path != (first or path))
    if keep is None:
        return {path: place.directory(f"storage-{number}") for number, path in enumerate(paths)}
    found = {}
    for number, path in enumerate(paths):
        storage = keep + suffix(path) if number else keep
        try:
            os.makedirs(storage, 0o700, exist_ok=True)
        except OSError as error:
            raise StateError(f"storage {storage} cannot be made ({error.strerror})", "name another one") from error
        found[path] = os.path.realpath(storage)
    return found


def suffix(path: str) -> str:
    """Return what tells the storages of several overlays apart: ``.home-me`` for /home/me."""
    return "." + (path.strip("/").replace("/", "-") or "root")
