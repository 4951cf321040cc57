"""A transaction of one connection at the control socket: when the connection ends, it is taken back.

So it ends with the process that has begun it, however that ends.  If the daemon ends first, the next mount takes it
back (engine/trial.py).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ...engine import Overlay, StateError
from .checkpoints import refused, told
from .varlink import SERVICE, Answer, Method, VarlinkError

if TYPE_CHECKING:
    from ..serve.live_checkpoints import LiveCheckpoints

log = logging.getLogger(__name__)


class Transaction:
    """What one connection may begin and end.

    Args:
        interface: the interface's name.
        overlay: the overlay that is mounted.
        live: makes checkpoints of it, and goes back to them.
    """

    def __init__(self, interface: str, overlay: Overlay, live: LiveCheckpoints) -> None:
        self._interface = interface
        self._overlay = overlay
        self._live = live
        self._is_open = False

    @property
    def methods(self) -> dict[str, Method]:
        """The methods by their full names."""
        found = {"BeginTransaction": self._begin, "Commit": self._commit, "TakeBack": self._take_back}
        return {f"{self._interface}.{name}": method for name, method in found.items()}

    async def _begin(self, parameters: Mapping[str, Any]) -> Answer:
        made = await refused(self._interface, self._live.change(self._overlay.trial.begin))
        self._is_open = True
        return {"checkpoint": told(made)}

    async def _commit(self, parameters: Mapping[str, Any]) -> Answer:
        mounts = parameters.get("mounts")
        if mounts is not None and type(mounts) is not int:
            raise VarlinkError(SERVICE + ".InvalidParameter", parameter="mounts")
        before = await refused(self._interface, self._live.change(partial(self._overlay.trial.commit, mounts)))
        self._is_open = False
        return {"before": None if before is None else told(before)}

    async def _take_back(self, parameters: Mapping[str, Any]) -> Answer:
        restored = await refused(self._interface, self._live.take_back())
        self._is_open = False
        return {"left": None if restored is None else told(restored.left)}

    async def end(self) -> None:
        """Take back what was begun and not ended."""
        if self._is_open:
            self._is_open = False
            try:
                await self._live.take_back()
            except StateError as error:
                log.error("a transaction cannot be taken back now, the next mount does: %s", error)
