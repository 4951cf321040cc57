"""A state of a mounted overlay that stays as it is, while programs go on writing.

The daemon makes a checkpoint, so that all that was done before is durable, and stays as it is.  This process holds that
checkpoint as long as it needs it, and lets the daemon delete it then.  If this process is killed, the daemon deletes it
when it makes the next one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..fusefront.control.client import ControlClient, listens
from ._checkpoints import refused
from ._target import base_of, opened, place_of

if TYPE_CHECKING:
    from ..engine import Overlay


@contextlib.contextmanager
def held(client: ControlClient) -> Iterator[str]:
    """Yield the name of a checkpoint of the present state, which is deleted when the block ends.

    Args:
        client: of the daemon, without a bound of time: the kernel writes back first, which may take any time.
    """
    made = refused(client, "BeginClone")["checkpoint"]
    try:
        yield made["name"]
    finally:
        refused(client, "PruneCheckpoints", ids=[made["id"]])


@contextlib.contextmanager
def opened_held(target: str, base: str | None = None, *, at: str | None = None) -> Iterator[Overlay]:
    """Open the overlay that TARGET means, read-only, in a state that nothing changes: neither names nor bytes.

    Args:
        target, base, at: as for ``opened``, which see for what is raised.  Of an overlay that is not mounted it logs a
            warning where a killed daemon has left operations.
    """
    place = place_of(target)
    if at is not None or place.at is not None or not listens(place.storage):
        with opened(target, base, at=at, warns=True) as overlay:
            yield overlay
        return
    with ControlClient(place.storage, timeout=None) as client:
        known = client.call("Identity")
        if known["read_only"]:
            with opened(target, base) as overlay:
                yield overlay
            return
        with held(client) as checkpoint:
            from ..engine.queries.at_rest import open_checkpoint

            with contextlib.closing(open_checkpoint(place.storage, checkpoint, base_of(known))) as overlay:
                yield overlay
