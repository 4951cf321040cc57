"""What TARGET means to the verbs that ask an overlay: a storage directory, or any path in a mounted overlay.

A mounted overlay is asked at its control socket.  Where a verb needs rows, it asks the daemon to make everything
durable, and then reads the database in a transaction of its own: it sees all that was done before it asked, and holds
up nobody.  Only then the engine is imported, which takes longer than to ask a daemon.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from ..engine.errors import StateError, StorageBusy
from ..engine.store.layers import missing_layer
from ..fusefront.control.client import ControlClient, listens
from ..fusefront.mount import mount_table
from ..fusefront.mount.source import is_cut

if TYPE_CHECKING:
    from ..engine import Overlay

_PATIENCE = 30.0  # seconds that one answer may take
_QUICK = 1.0  # the same where a user waits for a key


class Place(NamedTuple):
    """What TARGET means.

    Attributes:
        storage: the storage directory.
        at: the checkpoint that the mount shows; None elsewhere.
        base: the base of such a mount.
    """

    storage: str
    at: str | None = None
    base: str | None = None


def place_of(target: str) -> Place:
    """Return which overlay TARGET means.

    Raises:
        StateError: the path does not exist, or a mount whose daemon is gone lies on the way to it.
    """
    try:
        real, entry = mount_table.locate(target)
    except OSError as error:
        raise StateError(
            f"{target} cannot be reached ({error.strerror})", "name a storage directory, or a path in a mounted overlay"
        ) from error
    source = mount_table.overlay_of(entry) if entry is not None else None
    if source is None:
        return Place(real)
    if source.at is None:
        return Place(source.storage)
    return Place(source.storage, source.at, None if is_cut(source.base) else source.base)


def storage_of(target: str) -> str:
    """Return the storage directory that TARGET means, of an overlay that the caller changes or asks its daemon about.

    Raises:
        StateError: as for ``place_of``; or TARGET is in a mount that shows a checkpoint.
    """
    place = place_of(target)
    if place.at is not None:
        raise StateError(
            f"{target} shows checkpoint {place.at}, which nothing changes", f"name the overlay itself: {place.storage}"
        )
    return place.storage


def at_rest(storage: str, base: str | None, *, warns: bool = False) -> Overlay | None:
    """Open an overlay that no daemon holds for writing, or return None for the daemon to be asked.

    The daemon of a read-only mount has no socket, for it changes nothing in storage; its lock lets others read.

    Args:
        storage, base: as for ``opened``.
        warns: log a warning if the last operations of a killed daemon are not committed, and so do not show.
    """
    if listens(storage):
        return None
    from ..engine.queries.at_rest import open_at_rest

    try:
        return open_at_rest(storage, base, warns=warns)
    except StorageBusy:
        return None  # its daemon has no socket: the client says what to do


@contextlib.contextmanager
def opened(
    target: str, base: str | None = None, *, at: str | None = None, quick: bool = False, warns: bool = False
) -> Iterator[Overlay]:
    """Open the overlay that TARGET means, read-only.

    Args:
        target: a storage directory, or a path in a mounted overlay.
        base: the base directory of one that is not mounted; None for that of its last mount.
        at: the name of a checkpoint: the overlay as it was then.  None for what TARGET shows: where that is in a mount
            of a checkpoint, that one.
        quick: wait for its daemon for a second at most, and do without what is not committed yet.
        warns: as for ``at_rest``.

    Raises:
        NotMinifo: there is no overlay.
        StateError: it cannot be opened, or its daemon does not answer.
    """
    storage, shown, shown_base = place_of(target)
    if at is not None or shown is not None:
        with contextlib.closing(_at(storage, at or str(shown), base or shown_base)) as found:
            yield found
        return
    overlay = at_rest(storage, base, warns=warns)
    with contextlib.ExitStack() as stack:
        if overlay is None:
            client = stack.enter_context(ControlClient(storage, _QUICK if quick else _PATIENCE))
            known = client.call("Identity")
            if not (known["read_only"] or quick):
                client.call("Sync")
            from ..engine.queries.at_rest import open_beside

            overlay = open_beside(storage, base_of(known))
        stack.callback(overlay.close)
        yield overlay


@contextlib.contextmanager
def opened_pair(
    target: str, first: str | None, second: str | None, base: str | None = None
) -> Iterator[tuple[Overlay, Overlay]]:
    """Open two states of the overlay that TARGET means, read-only.

    Args:
        target, base: as for ``opened``.
        first, second: names of checkpoints; one of them may be None, for the overlay as it is.
    """
    storage = storage_of(target)  # of a mount of a checkpoint it is not clear what it is to be compared with
    with contextlib.ExitStack() as stack:
        # the checkpoint first: so all that has changed since is in what is opened then
        shown = {
            name: stack.enter_context(opened(storage, base, at=name)) for name in (first, second) if name is not None
        }
        today = stack.enter_context(opened(storage, base)) if None in (first, second) else None
        states = [shown[name] if name is not None else today for name in (first, second)]
        assert states[0] is not None
        assert states[1] is not None
        yield states[0], states[1]


def _at(storage: str, name: str, base: str | None) -> Overlay:
    """Open an overlay as it was at a checkpoint."""
    if base is None and listens(storage):
        with ControlClient(storage, _PATIENCE) as client:
            base = base_of(client.call("Identity"))
            return _checkpoint(storage, name, base)
    return _checkpoint(storage, name, base)


def _checkpoint(storage: str, name: str, base: str | None) -> Overlay:
    from ..engine.queries.at_rest import open_checkpoint

    return open_checkpoint(storage, name, base)


def base_of(known: dict[str, Any]) -> str:
    """Return the base of a mounted overlay: by the daemon's descriptor, for a mount may cover its path."""
    through = str(known["base_directory"])
    return through if missing_layer(through) is None else str(known["base"])


def status(target: str, base: str | None = None) -> tuple[dict[str, Any], bool]:
    """Return what is known of the overlay that TARGET means, and whether it is mounted.

    Raises:
        NotMinifo, StateError: as for ``opened``.
    """
    storage, shown, shown_base = place_of(target)
    overlay = at_rest(storage, base) if shown is None else _at(storage, shown, base or shown_base)
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
