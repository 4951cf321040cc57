"""When to commit: every ``commit=`` seconds, soon after activity stops, and whenever somebody waits for durability.

The engine's group commit (engine/commit.py) says in which order; here its slow steps go to worker threads while
requests are served.  A timed commit first makes the kernel write back what it holds of our files (syncfs on our own
mount), for else it could stay in memory for half a minute.  Many waiters share one commit.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

import trio

from ...engine import Overlay, StateError
from ...engine.errors import SHORT, CommitPostponed
from ..mount.helper_process import MountHelper
from ..process.descriptor_limits import acquired, waiting_requests_limit

log = logging.getLogger(__name__)

_REDO_MAX = 4 << 20  # bytes of redo log that call for a commit before its time
_RETRY = 1.0  # seconds until a commit that found no room is tried again
_SHORTAGE = 5.0  # seconds somebody who waits for a commit waits for descriptors or memory
_AGAIN = 0.05  # seconds between two tries meanwhile
_ROUNDS = 4  # of syncing objects while requests go on, before the gate
_FEW = 32  # objects after whose syncing not many more will have been written
_FEW_AT_ONCE = 2  # objects that may be synced while nobody else is served
_TURN = 0.02  # seconds that blocks are given back before others get a turn
_QUICK = 0.002  # seconds others may have to wait
_QUIET = 0.5  # seconds without a change after which a commit need not wait for its time


class Committer:
    """Commits one overlay.

    Args:
        overlay: the open overlay.
        mount_helper: reaches the mount.
        mountpoint: where it is mounted.
        interval: seconds an acknowledged change may stay volatile at most.
    """

    def __init__(self, overlay: Overlay, mount_helper: MountHelper, mountpoint: str, interval: float) -> None:
        self._overlay = overlay
        self._durability = overlay.durability
        self._mount_helper = mount_helper
        self._mountpoint = mountpoint
        self._interval = interval
        self._lock = trio.Lock()
        self._write_backs = trio.Semaphore(waiting_requests_limit())  # each holds a pipe while it waits
        self._changed = trio.Event()
        self._sealed = 0
        self._hardened = 0
        self._quick = True  # the last step that waited for the medium did so for a moment only
        overlay.when_dirty(self._note)

    def _note(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        """Commit in time, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            await self._wait()
            await self._reap()
            try:
                await self.flush()
                await trio.to_thread.run_sync(self._durability.relieve)
                while not self._durability.give_back(_TURN):
                    await trio.lowlevel.checkpoint()
            except CommitPostponed as error:
                log.warning("%s", error)
                await trio.sleep(_RETRY)
                self._changed.set()
            except StateError as error:
                log.error("%s", error)

    async def _reap(self) -> None:
        try:
            while not self._overlay.reap_more():
                await trio.lowlevel.checkpoint()
        except (OSError, StateError) as error:
            log.error("deleting: %s", error)  # what is left is swept at the next mount

    async def _wait(self) -> None:
        deadline = trio.current_time() + self._interval
        while (left := deadline - trio.current_time()) > 0:
            seen = self._overlay.operations
            await trio.sleep(min(left, _QUIET))
            if self._overlay.operations == seen or self._durability.redo_size > _REDO_MAX:
                return

    async def flush(self) -> None:
        """Commit everything, what the kernel holds included.

        Raises:
            StateError: the commit failed; the overlay is read-only from now on.
        """
        try:
            await trio.to_thread.run_sync(self._mount_helper.write_back)
        except OSError as error:
            # bytes of some file could not be stored: its owner hears of it at close or fsync
            log.warning("%s: write-back: %s", self._mountpoint, error)
        await self.durable()

    async def write_back(self, ino: int) -> None:
        """Make the kernel write back what it holds of one file; it does so while a request is being answered.

        Raises:
            OSError: something could not be written.
        """
        async with acquired(self._write_backs):
            answer = self._mount_helper.post_flush(ino)
            await trio.lowlevel.wait_readable(answer)
            if not self._mount_helper.flushed(answer):
                await trio.to_thread.run_sync(self._mount_helper.flush, ino)

    async def durable(self) -> None:
        """Return when everything done so far is durable.

        Raises:
            StateError: the commit failed; the overlay is read-only from now on.
        """
        deadline = trio.current_time() + _SHORTAGE
        while True:
            try:
                return await self._durable()
            except CommitPostponed as error:
                if error.code not in SHORT or trio.current_time() > deadline:
                    raise
                await trio.sleep(_AGAIN)

    async def _durable(self) -> None:
        durability = self._durability
        if durability.failure is not None:
            raise StateError(f"{self._mountpoint} is read-only since a commit failed ({durability.failure})")
        target = self._sealed + 1 if durability.is_needed else self._sealed
        while self._hardened < target:
            async with self._lock:
                if self._hardened < target:
                    await self._commit()

    async def _commit(self) -> None:
        durability = self._durability
        for _ in range(_ROUNDS):
            # while many are synced others are written: again, or the rest would be synced behind the gate
            pending = durability.pending()
            if pending:
                await self._slow_step(partial(durability.presync, pending), few=len(pending) <= _FEW_AT_ONCE)
            if len(pending) <= _FEW:
                break
        sealed = durability.seal()
        self._sealed += 1
        number = self._sealed
        await self._slow_step(durability.harden, few=True)
        durability.finish(sealed, _TURN)
        self._hardened = number

    async def _slow_step(self, step: Callable[[], None], *, few: bool) -> None:
        """Take a step that waits for the medium: in a worker thread, unless there is *few* to sync and that was quick.

        To hand a step to a thread and back takes longer than a good disk needs to sync a file.
        """
        if few and self._quick:
            self._quick = _seconds(step) < _QUICK
        else:
            self._quick = await trio.to_thread.run_sync(_seconds, step) < _QUICK


def _seconds(step: Callable[[], None]) -> float:
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin
