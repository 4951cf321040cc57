"""Decides when to commit: every ``commit=`` seconds, soon after the last change, and when a request must be durable.

engine/commit.py has the steps of a group commit, in their order; this module runs the slow ones in worker threads while
requests are served.  A timed commit first makes the kernel write back its dirty pages (syncfs(2) on the mount), for
otherwise they could stay in memory for half a minute.  All requests that wait at one time share one commit.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial

import trio

from ...engine import Overlay, StateError
from ...engine.errors import SHORT, CommitPostponed
from ...engine.store.memory_directory import LOG_MAX
from ..mount.helper_process import HelperProcess
from ..process.descriptor_limits import acquired, waiting_requests_limit
from .counters import Times

log = logging.getLogger(__name__)

_RETRY = 1.0  # seconds until the next attempt of a timed commit for which storage had no room
_SHORTAGE_MAX = 5.0  # seconds that a request waits for a commit which lacks descriptors or memory
_SHORTAGE_RETRY = 0.05  # seconds between two attempts of such a commit
_PRESYNC_ROUNDS = 4  # at most, of syncing content objects before the gate is closed
_PRESYNC_ENOUGH = 32  # objects: after a round of so few, few more will have been written meanwhile
_INLINE_OBJECTS = 2  # content objects that may be synced in the event loop
_SLICE = 0.02  # seconds of freeing blocks before other requests are served
_INLINE_STEP = 0.002  # seconds that a step may block the event loop
_QUIET = 0.5  # seconds without a change after which a commit is made before its time
_REMEMBERED = 1000  # commits whose duration is kept


class Committer:
    """Commits one overlay.

    Args:
        overlay: the open overlay.
        helper: makes the kernel write back dirty pages of the mount.
        mountpoint: path of the mount, for messages.
        interval: longest time, in seconds, until an acknowledged change is durable.
    """

    def __init__(self, overlay: Overlay, helper: HelperProcess, mountpoint: str, interval: float) -> None:
        self._overlay = overlay
        self._durability = overlay.durability
        self._helper = helper
        self._mountpoint = mountpoint
        self._interval = interval
        self._lock = trio.Lock()
        self._write_backs = trio.Semaphore(waiting_requests_limit())  # each holds a pipe while it waits
        self._changed = trio.Event()
        self._sealed = 0
        self._hardened = 0
        self.holds = Times()  # how long requests waited for each commit
        self.failed = 0  # commits that failed
        self.postponed = 0  # attempts of timed commits that storage had no room for
        self.held: deque[int] = deque(maxlen=_REMEMBERED)  # ns that requests waited for each of the last commits
        self.last_commit: int | None = None  # time.monotonic_ns() when the last one was durable
        self._storage_is_fast = True  # the last step that waited for storage took less than _INLINE_STEP
        overlay.when_dirty(self._note)

    def _note(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        """Make the timed commits, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            await self._wait_for_time()
            await self._delete_unlinked()
            try:
                await self.commit_all()
                await trio.to_thread.run_sync(self._durability.relieve)
                while not self._durability.punch_holes(_SLICE):
                    await trio.lowlevel.checkpoint()
            except CommitPostponed as error:
                self.postponed += 1
                log.warning("%s", error)
                await trio.sleep(_RETRY)
                self._changed.set()
            except StateError as error:
                log.error("%s", error, extra={"event": "commit-failed"})

    async def _delete_unlinked(self) -> None:
        """Delete the content of unlinked files in slices, and serve other requests between them."""
        try:
            while not self._overlay.reap_more():
                await trio.lowlevel.checkpoint()
        except (OSError, StateError) as error:
            log.error("unlinked files cannot be deleted now, the next mount deletes them: %s", error)

    async def _wait_for_time(self) -> None:
        """Return when the next timed commit is due: after the interval, a quiet half second or much redo log."""
        deadline = trio.current_time() + self._interval
        while (left := deadline - trio.current_time()) > 0:
            seen = self._overlay.operations
            await trio.sleep(min(left, _QUIET))
            if self._overlay.operations == seen or self._durability.redo_size > LOG_MAX:
                return

    async def commit_all(self) -> None:
        """Make all changes durable, including dirty pages of the kernel.

        Raises:
            StateError: the commit failed; the overlay is read-only from now on.
        """
        try:
            await trio.to_thread.run_sync(self._helper.write_back_all)
        except OSError as error:
            # the program that wrote gets the error at close(2) or fsync(2)
            log.warning("%s: some dirty pages cannot be written back: %s", self._mountpoint, error)
        await self.make_durable()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Make all changes durable, dirty pages of the kernel included, and make no commit in the block.

        Raises:
            StateError: the commit failed; the overlay is read-only from now on.
        """
        await self.commit_all()
        async with self._lock:
            yield

    async def write_back(self, ino: int) -> None:
        """Return when the kernel has written back its dirty pages of one file.

        Requests are served meanwhile, the WRITEs of these pages among them.

        Raises:
            OSError: a page could not be written.
        """
        async with acquired(self._write_backs):
            answer = self._helper.start_write_back(ino)
            await trio.lowlevel.wait_readable(answer)
            if not self._helper.finish_write_back(answer):
                await trio.to_thread.run_sync(self._helper.write_back, ino)

    async def make_durable(self) -> None:
        """Return when all changes that the daemon has acknowledged so far are durable.

        Raises:
            CommitPostponed: storage has no room for the commit, or descriptors or memory are short; nothing is lost.
            StateError: the commit failed; the overlay is read-only from now on.
        """
        deadline = trio.current_time() + _SHORTAGE_MAX
        while True:
            try:
                return await self._commit_up_to_now()
            except CommitPostponed as error:
                if error.code not in SHORT or trio.current_time() > deadline:
                    raise
                await trio.sleep(_SHORTAGE_RETRY)

    async def _commit_up_to_now(self) -> None:
        durability = self._durability
        if durability.failure is not None:
            raise StateError(
                f"{self._mountpoint} is read-only since a commit failed ({durability.failure})",
                "unmount it, and repair the storage",
            )
        target = self._sealed + 1 if durability.is_needed else self._sealed
        while self._hardened < target:
            async with self._lock:
                if self._hardened < target:
                    try:
                        await self._commit()
                    except CommitPostponed:
                        raise
                    except StateError:
                        self.failed += 1
                        raise

    async def _commit(self) -> None:
        durability = self._durability
        for _ in range(_PRESYNC_ROUNDS):
            # requests write other objects during a long sync: repeat it, or the gate would be closed for those
            pending = durability.pending()
            if pending:
                await self._slow_step(partial(durability.presync, pending), few=len(pending) <= _INLINE_OBJECTS)
            if len(pending) <= _PRESYNC_ENOUGH:
                break
        began = time.monotonic_ns()
        sealed = durability.seal()
        held = time.monotonic_ns() - began
        self._sealed += 1
        number = self._sealed
        held += await self._slow_step(durability.harden, few=True)
        began = time.monotonic_ns()
        durability.finish(sealed, _SLICE)
        self._hardened = number
        self.last_commit = time.monotonic_ns()
        self.held.append(held + self.last_commit - began)
        self.holds.add(self.held[-1])

    async def _slow_step(self, step: Callable[[], None], *, few: bool) -> int:
        """Run a step that waits for storage, in a worker thread unless it is expected to be fast.

        A switch to a thread and back takes longer than a fast disk needs to sync a file.

        Args:
            step: the step.
            few: it syncs few files, so it may run in the event loop if the last step was fast.

        Returns:
            How long requests waited for it, in ns.
        """
        if few and self._storage_is_fast:
            seconds = _seconds(step)
            held = int(seconds * 1e9)
        else:
            seconds = await trio.to_thread.run_sync(_seconds, step)
            held = 0
        self._storage_is_fast = seconds < _INLINE_STEP
        return held


def _seconds(step: Callable[[], None]) -> float:
    """Run *step*; return how long it took."""
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin
