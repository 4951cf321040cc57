"""Checkpoints of a mounted overlay, and returns to them while programs use it.

A checkpoint holds all that was written before the call, so the kernel's dirty pages are written back first.  A return
brings rows back in one step between two requests.  Then the kernel is told what it cannot know: names that may lead
elsewhere, directories with other entries, and files that are others now.  Such a file has a new generation: a program
that has it open gets ESTALE, and may open it again; pages that it has mapped stay as they were, until they are needed
from storage again (SIGBUS).  Files whose rows did not change stay open as if nothing had happened.

Import this module after ``extension.loader.load()``: it imports pyfuse3.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import TypeVar

import pyfuse3
import trio

from ...engine import Ino, Overlay
from ...engine.checkpoint_values import Restored
from ...engine.errors import NotDurable, StateError
from ...engine.reset import Reset, reset
from ...engine.reset_plan import Choice
from ...engine.revert import Reverted
from ...engine.revert_to import revert_paths
from ...engine.vacuum import Vacuum
from ..mount.helper_process import HelperProcess
from .committer import Committer

log = logging.getLogger(__name__)

T = TypeVar("T")
_SLICE = 0.005  # seconds of work between two looks for requests


class LiveCheckpoints:
    """Makes checkpoints of a mounted overlay, and returns to them.

    Args:
        overlay: the open overlay.
        committer: makes changes durable.
        helper: makes the kernel forget names.
        extension: the session hook, or None in plain mode.
    """

    def __init__(
        self, overlay: Overlay, committer: Committer, helper: HelperProcess, extension: ModuleType | None
    ) -> None:
        self._overlay = overlay
        self._committer = committer
        self._helper = helper
        self._extension = extension
        self._one = trio.Lock()
        self._changed = trio.Event()

    def changed(self) -> trio.Event:
        """Return an event that is set when the next one is made, or deleted."""
        return self._changed

    def _note(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def change(self, call: Callable[[], T]) -> T:
        """Make, rename, pin or delete checkpoints by *call*, with everything durable before it; return its result.

        Raises:
            StateError: *call* refuses it, or storage failed.
        """
        try:
            async with self._one, self._committer.alone():
                return call()
        finally:
            self._note()

    async def go_back(self, call: Callable[[], Restored]) -> Restored:
        """Return to a checkpoint by *call*, and return when the kernel knows of it.

        Raises:
            StateError: *call* refuses it, or storage failed.
            NotDurable: it is done, but a power cut may undo it.
        """
        return await self._bring_back(call, lambda restored: restored)

    async def take_back(self) -> Restored | None:
        """Take back the transaction that runs, and return when the kernel knows of it; None if nothing was changed.

        Raises:
            StateError: there is none, or storage failed.
            NotDurable: it is done, but a power cut may undo it.
        """
        return await self._bring_back(self._overlay.trial.take_back, lambda restored: restored)

    async def revert(self, paths: list[bytes], *, to: str | None, dry_run: bool) -> Reverted:
        """Let paths show again what they showed at a checkpoint, and return when the kernel knows of it.

        Args:
            paths: in overlay terms.
            to: the checkpoint's name; None for what the base has there.
            dry_run: True to change nothing.

        Raises:
            StateError: a path cannot be reverted, or storage failed.
            NotDurable: it is done, but a power cut may undo it.
        """
        call = partial(revert_paths, self._overlay, paths, to=to, dry_run=dry_run)
        return await self._bring_back(call, lambda reverted: reverted.restored)

    async def reset(self, choice: Choice) -> Reset:
        """Take away all that the overlay holds but for some paths, and return when the kernel knows of it.

        Args:
            choice: what is kept.

        Raises:
            StateError: storage failed.
            NotDurable: it is done, but a power cut may undo it.
        """
        return await self._bring_back(partial(reset, self._overlay, choice), lambda done: done.restored)

    async def vacuum(self, kinds: tuple[str, ...]) -> Vacuum:
        """Give back storage of which nothing that shows depends, and serve requests between its steps.

        Args:
            kinds: what to look for.

        Returns:
            The work, which says what was given back.

        Raises:
            StateError: storage failed; what is done stays done.
        """
        work = Vacuum(self._overlay, kinds, apply=True)
        try:
            async with self._one:
                began = time.monotonic()
                for _ in work.steps():
                    if time.monotonic() - began > _SLICE:
                        await trio.lowlevel.checkpoint()
                        began = time.monotonic()
        except OSError as error:
            raise StateError(f"storage failed ({error.strerror})", "see minifo status, and run minifo-fsck") from error
        await self._committer.commit_all()
        return work

    async def _bring_back(self, call: Callable[[], T], restored_of: Callable[[T], Restored | None]) -> T:
        """Bring rows back by *call*, and return its result when the kernel knows of it.

        Args:
            call: brings them back.
            restored_of: takes what was brought back out of the result of *call*; None if nothing was.
        """
        failure: NotDurable | None = None
        async with self._one:
            async with self._committer.alone():
                try:
                    result = call()
                    restored = restored_of(result)
                except NotDurable as error:
                    if not isinstance(error.result, Restored):
                        raise
                    restored, failure = error.result, error
                if restored is not None:
                    self._publish_generations(restored)
            if restored is not None:
                self._note()
                await self._tell_kernel(restored)
        if failure is not None:
            raise failure
        return result

    def _publish_generations(self, restored: Restored) -> None:
        if self._extension is not None:
            for ino, generation in self._overlay.generations.items():
                if ino in restored.inos:
                    self._extension.set_generation(ino, generation)

    async def _tell_kernel(self, restored: Restored) -> None:
        known = [Ino(ino) for ino in restored.inos if self._overlay.is_referenced(Ino(ino))]
        # of a file the attributes only: its pages are those of the file as it was
        inodes = [(ino, ino in self._overlay.generations) for ino in known]
        # in a thread: the kernel may hold a lock that only an answer to another request releases
        await trio.to_thread.run_sync(_tell_kernel, inodes, restored.names)
        try:
            await trio.to_thread.run_sync(self._helper.forget_names)
        except OSError as error:
            log.debug("the kernel cannot be made to forget names: %s", error)


def _tell_kernel(inodes: list[tuple[Ino, bool]], names: set[tuple[int, bytes]]) -> None:
    """Invalidate what the kernel caches.

    Args:
        inodes: numbers, each with True if only the attributes are invalid; else listings are, too.
        names: names, each with its directory's number.
    """
    for directory, name in names:
        try:
            pyfuse3.invalidate_entry(directory, name)
        except OSError as error:
            log.debug("%r in %d: %s", name, directory, error)  # it knows neither name nor directory
    for ino, attr_only in inodes:
        try:
            pyfuse3.invalidate_inode(ino, attr_only)
        except OSError as error:
            log.debug("inode %d: %s", ino, error)
