"""What TARGET means to the verbs that ask an overlay: a storage directory, or any path in a mounted overlay.

A mounted overlay is asked at its control socket.  Where a verb needs rows, it asks the daemon to make everything
durable, and then reads the database in a transaction of its own: it sees all that was done before it asked, and holds
up nobody.  Only then the engine is imported, which takes longer than to ask a daemon.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..engine.errors import StateError, StorageBusy
from ..fusefront.control.client import ControlClient, listens
from ..fusefront.mount import mount_table

if TYPE_CHECKING:
    from ..engine import Overlay

_PATIENCE = 30.0  # seconds that one answer may take
_QUICK = 1.0  # the same where a user waits for a key


def storage_of(target: str) -> str:
    """Return the storage directory that TARGET means.

    Raises:
        StateError: the path does not exist, or a mount whose daemon is gone lies on the way to it.
    """
    try:
        real, entry = mount_table.locate(target)
    except OSError as error:
        raise StateError(
            f"{target} cannot be reached ({error.strerror})", "name a storage directory, or a path in a mounted overlay"
        ) from error
    overlay = mount_table.overlay_of(entry) if entry is not None else None
    return overlay[1] if overlay is not None else real


def at_rest(storage: str, base: str | None) -> Overlay | None:
    """Open an overlay that no daemon holds for writing, or return None for the daemon to be asked.

    The daemon of a read-only mount has no socket, for it changes nothing in storage; its lock lets others read.
    """
    if listens(storage):
        return None
    from ..engine.queries.at_rest import open_at_rest

    try:
        return open_at_rest(storage, base)
    except StorageBusy:
        return None  # its daemon has no socket: the client says what to do


@contextlib.contextmanager
def opened(target: str, base: str | None = None, *, quick: bool = False) -> Iterator[Overlay]:
    """Open the overlay that TARGET means, read-only.

    Args:
        target: a storage directory, or a path in a mounted overlay.
        base: the base directory of one that is not mounted; None for that of its last mount.
        quick: wait for its daemon for a second at most, and do without what is not committed yet.

    Raises:
        NotMinifo: there is no overlay.
        StateError: it cannot be opened, or its daemon does not answer.
    """
    storage = storage_of(target)
    overlay = at_rest(storage, base)
    with contextlib.ExitStack() as stack:
        if overlay is None:
            client = stack.enter_context(ControlClient(storage, _QUICK if quick else _PATIENCE))
            known = client.call("Identity")
            if not (known["read_only"] or quick):
                client.call("Sync")
            from ..engine.queries.at_rest import open_beside

            overlay = open_beside(storage, _base(known))
        stack.callback(overlay.close)
        yield overlay


def _base(known: dict[str, Any]) -> str:
    """The base of a mounted overlay: by the daemon's descriptor, for a mount may cover its path."""
    through = str(known["base_directory"])
    return through if os.path.isdir(through) else str(known["base"])


def status(target: str, base: str | None = None) -> tuple[dict[str, Any], bool]:
    """Return what is known of the overlay that TARGET means, and whether it is mounted.

    Raises:
        NotMinifo, StateError: as for ``opened``.
    """
    storage = storage_of(target)
    overlay = at_rest(storage, base)
    if overlay is None:
        with ControlClient(storage) as client:
            return client.call("Status"), True
    from ..engine.queries.figures import content, figures

    try:
        found = figures(overlay, content(overlay))
    finally:
        overlay.close()
    for name in ("pid", "base_directory", "pending", "names"):  # they say something of a daemon only
        del found[name]
    return found, False
