"""Where ``minifo run --from`` starts: at the clone of an overlay, in a throw-away storage (engine/clone.py)."""

from __future__ import annotations

import os
from typing import NamedTuple

from ..engine.errors import StateError, UsageError
from ..engine.queries.at_rest import last_base, open_writable
from ..engine.store.layers import layers_of
from ..fusefront.control.client import ControlClient, listens
from ..fusefront.mount import mount_table
from ._clone import cloned
from ._target import place_of

START = "start"  # the checkpoint of what the command began with


class Start(NamedTuple):
    """An overlay to start from.

    Attributes:
        storage: its storage directory.
        checkpoint: the name of one; None for the overlay as it is.
        base: its base, and where the command sees the clone.
    """

    storage: str
    checkpoint: str | None
    base: str


def start_of(text: str) -> Start:
    """Return what TARGET or TARGET@NAME means.

    Raises:
        NotMinifo, StateError: there is no such overlay, or its base is not there.
        UsageError: its base cannot be seen.
    """
    target, at, name = (text, "", "") if os.path.exists(text) else text.rpartition("@")
    place = place_of(target if at else text)
    if listens(place.storage):
        with ControlClient(place.storage) as client:
            base = str(client.call("Identity")["base"])
    else:
        base = last_base(place.storage)
    if len(layers_of(base)) > 1:
        raise UsageError(
            f"the base of {place.storage} has several layers, so it has no place in the machine",
            "mount a clone of the overlay, and run the command there",
        )
    try:
        entry = mount_table.locate(base)[1]
    except OSError as error:
        raise StateError(f"the base of {place.storage}, {base}, cannot be used ({error.strerror})", "") from error
    if entry is not None and mount_table.overlay_of(entry) is not None:
        raise UsageError(f"the base {base} is covered by an overlay ({entry.mountpoint})", "unmount that first")
    return Start(place.storage, name if at else place.at, os.path.realpath(base))


def place_beside(start: Start, usual: str) -> str:
    """Return a directory for throw-away storages that is on the file system of an overlay's storage.

    There its content can be shared.

    Args:
        start: the overlay.
        usual: the directory to use if it is on that file system, or none is.
    """
    for directory in (usual, os.path.dirname(start.storage)):
        try:
            if os.stat(directory).st_dev == os.stat(start.storage).st_dev and os.access(directory, os.W_OK):
                return directory
        except OSError:
            continue  # Place says what is wrong with the usual one
    return usual


def begin(start: Start, storage: str) -> None:
    """Make the clone in an empty storage, with a checkpoint, for it is to be seen what the command changes.

    Raises:
        StateError: it cannot be made.
    """
    cloned(start.storage, storage, start.checkpoint, start.base)
    overlay = open_writable(storage, start.base)
    try:
        overlay.checkpoints.create(START, "what minifo run began with")
    finally:
        overlay.close()
