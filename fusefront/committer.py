"""When to commit: every ``commit=`` seconds, soon after activity stops, and whenever somebody waits for durability.

The engine's group commit (engine/commit.py) says in which order; here its slow steps go to worker threads while
requests are served.  A timed commit first makes the kernel write back what it holds of our files (syncfs on our own
mount), for else it could stay in memory for half a minute.  Many waiters share one commit.
"""

from __future__ import annotations

import logging
import os

import trio

from minifo.engine import Overlay, StateError
from minifo.engine.errors import CommitPostponed
from minifo.engine.syscalls import syncfs

log = logging.getLogger(__name__)

_REDO_MAX = 4 << 20  # bytes of redo log that call for a commit before its time
_RETRY = 1.0  # seconds until a commit that found no room is tried again
_QUIET = 0.5  # seconds without a change after which a commit need not wait for its time


class Committer:
    """Commits one overlay.

    Args:
        overlay: the open overlay.
        mountpoint: where it is mounted.
        interval: seconds an acknowledged change may stay volatile at most.
    """

    def __init__(self, overlay: Overlay, mountpoint: str, interval: float) -> None:
        self._overlay = overlay
        self._mountpoint = mountpoint
        self._interval = interval
        self._device: int | None = None
        self._lock = trio.Lock()
        self._changed = trio.Event()
        self._sealed = 0
        self._hardened = 0
        overlay.db.on_dirty = self._note

    def _note(self) -> None:
        self._changed.set()

    def mounted(self, device: int) -> None:
        """Note that the mount answers, and its st_dev."""
        self._device = device

    async def run(self) -> None:
        """Commit in time, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            await self._wait()
            try:
                await self.flush()
            except CommitPostponed as error:
                log.warning("%s", error)
                await trio.sleep(_RETRY)
                self._changed.set()
            except StateError as error:
                log.error("%s", error)

    async def _wait(self) -> None:
        deadline = trio.current_time() + self._interval
        while (left := deadline - trio.current_time()) > 0:
            seen = self._overlay.db.operations
            await trio.sleep(min(left, _QUIET))
            if self._overlay.db.operations == seen or self._overlay.commits.redo_size > _REDO_MAX:
                return

    async def flush(self) -> None:
        """Commit everything, what the kernel holds included.

        Raises:
            StateError: the commit failed; the overlay is read-only from now on.
        """
        if self._device is not None:
            await trio.to_thread.run_sync(self._write_back, self._device)
        await self.durable()

    def _write_back(self, device: int) -> None:
        # opened for the call only: a descriptor that stays would keep the mount busy
        try:
            fd = os.open(self._mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            log.debug("%s cannot be reached for a write-back: %s", self._mountpoint, error)
            return
        try:
            if os.fstat(fd).st_dev == device:
                syncfs(fd)
        except OSError as error:
            # a file whose bytes could not be stored: its owner hears of it at close or fsync
            log.warning("%s: write-back: %s", self._mountpoint, error)
        finally:
            os.close(fd)

    async def durable(self) -> None:
        """Return when everything done so far is durable.

        Raises:
            StateError: the commit failed; the overlay is read-only from now on.
        """
        commits = self._overlay.commits
        if commits.failure is not None:
            raise StateError(f"{self._mountpoint} is read-only since a commit failed ({commits.failure})")
        target = self._sealed + 1 if commits.is_needed else self._sealed
        while self._hardened < target:
            async with self._lock:
                if self._hardened < target:
                    await self._commit()

    async def _commit(self) -> None:
        commits = self._overlay.commits
        pending = commits.pending()
        if pending:
            await trio.to_thread.run_sync(commits.presync, pending)
        sealed = commits.seal()
        self._sealed += 1
        number = self._sealed
        await trio.to_thread.run_sync(commits.harden)
        commits.finish(sealed)
        self._hardened = number
