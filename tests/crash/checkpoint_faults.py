"""Seeded faults of checkpoints: what is frozen is written, history is lost, a return is made in two steps."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from minifo.engine import Overlay, checkpoints, recovery, revert_to
from minifo.engine.store import clearing, content_objects, history, storage
from minifo.engine.tree import content, copy_up, freed_blocks
from minifo.fusefront.control.patterns import Choice
from tests.crash import recorded_checkpoints
from tests.crash.fault import Fault, Patch

_STORE = content_objects.ObjectStore


def _thawed(true: Callable[..., Any]) -> Callable[..., Any]:
    """Do it as if nothing was frozen."""

    def method(self: Any, *args: Any, **keywords: Any) -> Any:
        with patch.object(_STORE, "is_frozen", lambda store, number: False):
            return true(self, *args, **keywords)

    return method


def _unguarded(true: Callable[..., Any]) -> Callable[..., Any]:
    """Without the last line of defence, which would refuse the write."""

    def writable(self: content_objects.ObjectStore, number: int) -> int:
        self.dirty.add(number)
        return self.fd(number)

    return writable


def _writable_ever(true: Callable[..., Any]) -> Callable[..., Any]:
    """Open for writing what has several names."""

    def open_object(self: storage.Storage, name: str, *, write: bool) -> int:
        fd = true(self, name, write=write)
        found = os.open(f"/proc/self/fd/{fd}", os.O_RDWR if write else os.O_RDONLY)
        os.dup2(found, fd)
        os.close(found)
        return int(fd)

    return open_object


_UNGUARDED: Patch = (_STORE, "_writable", _unguarded)


def _forget_frozen(true: Callable[..., Any]) -> Callable[..., Any]:
    def clean_up(self: recovery.Recovery, *args: Any, **keywords: Any) -> None:
        true(self, *args, **keywords)
        self._objects.frozen_below = 0

    return clean_up


def _no_garbage(true: str) -> str:
    return "SELECT object FROM garbage WHERE 0"


def _without(table: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """No row of this table is kept."""

    def wrong(true: Callable[..., Any]) -> Callable[..., Any]:
        return lambda checkpoint: [made for made in true(checkpoint) if f"main.{table} " not in made[0]]

    return wrong


def _acknowledge_early(true: Callable[..., Any]) -> Callable[..., Any]:
    def create(self: checkpoints.Checkpoints, *args: Any, **keywords: Any) -> Any:
        with patch.object(self._commits, "run", lambda: None):
            return true(self, *args, **keywords)

    return create


def _reset_twice(true: Callable[..., Any]) -> Callable[..., Any]:
    """Keep more at first."""

    def reset(overlay: Overlay, choice: Choice) -> Any:
        true(overlay, Choice(["keep", "large"]))
        return true(overlay, choice)

    return reset


def _one_link_more(true: Callable[..., Any]) -> Callable[..., Any]:
    """Count one more name."""

    def resurrect(self: revert_to._RevertTo, *args: Any, **keywords: Any) -> None:
        true(self, *args, **keywords)
        row = self._inodes.row(args[3])
        assert row is not None
        self._inodes.save(row._replace(nlink=row.nlink + 1))

    return resurrect


def _path_after_path(true: Callable[..., Any]) -> Callable[..., Any]:
    """Revert one path in one commit, and the others in the next."""

    def revert_paths(overlay: Overlay, paths: list[bytes], *, to: str | None) -> Any:
        if len(paths) > 1:
            true(overlay, paths[:1], to=to)
        return true(overlay, paths, to=to)

    return revert_paths


def _in_two(true: Callable[..., Any]) -> Callable[..., Any]:
    """Bring whiteouts back in one commit, and the rest in the next."""

    def return_to(self: checkpoints.Checkpoints, target: checkpoints.Checkpoint, cause: str) -> Any:
        whole = self._operation

        @contextmanager
        def half(*, freezing: bool = False) -> Iterator[None]:
            if not freezing:  # pruning
                with whole():
                    yield
                return
            only = {"deleted": history._RESTORE["deleted"]}
            with whole(freezing=True), patch.object(history, "_RESTORE", only):
                yield
            self._commits.run()
            with whole():
                self._history.restore(target.id, target.next_ino, self._window_end)

        with patch.object(self, "_operation", half):
            return true(self, target, cause)

    return return_to


def _no_hand_over(true: Callable[..., Any]) -> Callable[..., Any]:
    def forget(self: history.History, checkpoint: int) -> list[int]:
        value = self._db.value

        def lonely(sql: str, params: Any = ()) -> Any:
            return None if sql.startswith("SELECT max(id)") else value(sql, params)

        with patch.object(self._db, "value", lonely):
            found: list[int] = true(self, checkpoint)
        return found

    return forget


def _dropping_nothing(true: Callable[..., Any]) -> Callable[..., Any]:
    return lambda db: None


def _needs_nothing(true: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, number: False


_FAULTS = {
    "frozen-written": Fault(
        "a write goes into a frozen object",
        "points_brief",
        ((copy_up.CopyUp, "writable", _thawed), (content.Content, "_write_backing", _thawed), _UNGUARDED),
    ),
    "shared-written": Fault(
        "a clone writes into what it shares",
        "points_cloned",
        (
            (_STORE, "_is_shared", lambda true: lambda self, number: False),
            (storage.Storage, "open_object", _writable_ever),
            (_STORE, "sync", lambda true: lambda self, numbers: self._storage.sync_all()),
            _UNGUARDED,
        ),
    ),
    "frozen-trimmed": Fault(
        "a frozen object is cut after the commit with the shrink",
        "points_brief",
        ((content.Content, "resize", _thawed), (content.Content, "trim", _thawed), _UNGUARDED),
    ),
    "frozen-punched": Fault(
        "holes are punched into a frozen object after the commit with the hole",
        "points_brief",
        ((freed_blocks.FreedBlocks, "add", _thawed), (freed_blocks.FreedBlocks, "hand_back", _thawed), _UNGUARDED),
    ),
    "frozen-forgotten": Fault(
        "a mount does not know what is frozen", "points_killed", ((recovery.Recovery, "clean_up", _forget_frozen),)
    ),
    "needed-collected": Fault(
        "garbage that a checkpoint needs is deleted",
        "points_brief",
        ((content_objects, "_NEEDED_GARBAGE", _no_garbage),),
    ),
    "not-handed-over": Fault(
        "what a deleted checkpoint kept is not kept for the one before",
        "points_deleted",
        ((history.History, "forget", _no_hand_over),),
    ),
    "needs-ignored": Fault(
        "a deleted checkpoint takes objects along that others need",
        "points_deleted",
        ((history.History, "needs", _needs_nothing), (content_objects, "_NEEDED_GARBAGE", _no_garbage)),
    ),
    "extents-not-kept": Fault(
        "history lacks extents", "points_brief", ((history, "_all_triggers", _without("extent")),)
    ),
    "whiteouts-not-kept": Fault(
        "history lacks deleted names", "points_brief", ((history, "_all_triggers", _without("deleted")),)
    ),
    "digests-kept": Fault(
        "a digest stays though its object is written again",
        "points_digests",
        ((checkpoints, "drop_stale", _dropping_nothing), (content_objects, "drop_stale", _dropping_nothing)),
    ),
    "acknowledged-early": Fault(
        "a checkpoint is acknowledged before it is durable",
        "points_deleted",
        ((checkpoints.Checkpoints, "create", _acknowledge_early),),
    ),
    "reset-keeps-no-history": Fault(
        "the whiteouts that a reset takes away are not kept for undo",
        "points_reset",
        ((clearing, "_KEEP", lambda true: {**true, "deleted": true["created"]}),),
    ),
    "reset-in-two": Fault(
        "a reset takes two commits", "points_reset", ((recorded_checkpoints, "reset", _reset_twice),)
    ),
    "reverted-in-two": Fault(
        "a revert of several paths takes two commits",
        "points_reverted",
        ((recorded_checkpoints, "revert_paths", _path_after_path),),
    ),
    "reverted-links": Fault(
        "a file that is brought back has one name too many",
        "points_reverted",
        ((revert_to._RevertTo, "_resurrect", _one_link_more),),
    ),
    "returned-in-two": Fault(
        "a return to a checkpoint takes two commits",
        "points_brief",
        ((checkpoints.Checkpoints, "return_to", _in_two),),
    ),
}

# what is wrong shows at all points after it
CHECKPOINT_FAULTS = {name: replace(fault, every=8) for name, fault in _FAULTS.items()}
