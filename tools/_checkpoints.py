"""Checkpoints of an overlay, changed from a tool: by its daemon if it is mounted, else by the engine.

Both sides answer with what org.minifo.Overlay says of a checkpoint and of a return to one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from ..engine.errors import StateError
from ..fusefront.control.client import ControlClient, Refused, listens
from ._target import storage_of

if TYPE_CHECKING:
    from ..engine import Overlay

Told = dict[str, Any]


class Checkpoints(Protocol):
    """What can be asked for; each call raises StateError where it is refused."""

    @property
    def is_live(self) -> bool:
        """Whether the overlay is mounted."""
        ...

    def create(self, name: str | None, note: str, *, pinned: bool) -> Told:
        """Make a checkpoint, and return it."""
        ...

    def delete(self, names: list[str]) -> None:
        """Delete checkpoints, all or none."""
        ...

    def prune(self, ids: list[int]) -> list[Told]:
        """Delete those that a policy may delete, and return them."""
        ...

    def rename(self, name: str, new_name: str) -> None:
        """Give one another name."""
        ...

    def pin(self, name: str, *, pinned: bool) -> None:
        """Let no policy delete one, or let them again."""
        ...

    def rollback(self, name: str) -> Told:
        """Return to one; the answer is that of org.minifo.Overlay.Rollback."""
        ...

    def undo(self) -> Told:
        """Take back the last command that made a checkpoint by itself."""
        ...

    def redo(self) -> Told:
        """Take back the last undo."""
        ...

    def revert(self, paths: list[bytes], *, to: str | None, dry_run: bool) -> Told:
        """Let paths show again what a checkpoint, or the base, has; the answer is that of org.minifo.Overlay.Revert."""
        ...

    def reset(self, keep: list[str], lists: list[str], *, default: bool) -> Told:
        """Take away all but what is kept; the answer is that of org.minifo.Overlay.Reset."""
        ...

    def vacuum(self, kinds: list[str]) -> Told:
        """Give back storage; the answer is that of org.minifo.Overlay.Vacuum."""
        ...

    def set_keep_list(self, name: str, patterns: list[str]) -> None:
        """Make a keep-list, or give it other patterns."""
        ...

    def delete_keep_lists(self, names: list[str]) -> None:
        """Delete keep-lists, all or none."""
        ...

    def trial(self) -> Told:
        """Return how a trial stands; this and what the next three return is as in org.minifo.Overlay.Trial."""
        ...

    def start_trial(self, mounts: int) -> Told:
        """Begin a trial."""
        ...

    def confirm(self) -> Told:
        """Make the present state the good one."""
        ...

    def abandon_trial(self) -> Told:
        """Fall back now; the answer is that of org.minifo.Overlay.Rollback."""
        ...


@contextlib.contextmanager
def changeable(target: str, base: str | None = None) -> Iterator[Checkpoints]:
    """Open the overlay that TARGET means, to change its checkpoints or to return to one.

    Args:
        target: a storage directory, or a path in a mounted overlay.
        base: the base directory of one that is not mounted; None for that of its last mount.

    Raises:
        NotMinifo: there is no overlay.
        StateError: it cannot be opened, or its daemon does not answer.
    """
    storage = storage_of(target)
    if listens(storage):
        with ControlClient(storage, timeout=None) as client:  # the kernel writes back first, which may take any time
            yield _Mounted(client)
        return
    from ..engine.queries.at_rest import open_writable

    overlay = open_writable(storage, base)
    try:
        yield _AtRest(overlay)
    finally:
        overlay.close()


def refused(client: ControlClient, method: str, **parameters: Any) -> Told:
    """Return a daemon's answer; raise StateError with its own words where it refuses."""
    try:
        return client.call(method, **parameters)
    except Refused as error:
        if error.name not in ("Refused", "NotDurable"):
            raise
        raise StateError(str(error.parameters.get("reason")), str(error.parameters.get("hint"))) from error


class _Mounted:
    is_live = True

    def __init__(self, client: ControlClient) -> None:
        self._client = client

    def _call(self, method: str, **parameters: Any) -> Told:
        return refused(self._client, method, **parameters)

    def create(self, name: str | None, note: str, *, pinned: bool) -> Told:
        made: Told = self._call("CreateCheckpoint", name=name, note=note, pinned=pinned)["checkpoint"]
        return made

    def delete(self, names: list[str]) -> None:
        self._call("DeleteCheckpoints", names=names)

    def prune(self, ids: list[int]) -> list[Told]:
        deleted: list[Told] = self._call("PruneCheckpoints", ids=ids)["deleted"]
        return deleted

    def rename(self, name: str, new_name: str) -> None:
        self._call("RenameCheckpoint", name=name, new_name=new_name)

    def pin(self, name: str, *, pinned: bool) -> None:
        self._call("PinCheckpoint", name=name, pinned=pinned)

    def rollback(self, name: str) -> Told:
        return self._call("Rollback", name=name)

    def undo(self) -> Told:
        return self._call("Undo")

    def redo(self) -> Told:
        return self._call("Redo")

    def revert(self, paths: list[bytes], *, to: str | None, dry_run: bool) -> Told:
        return self._call("Revert", paths=[os.fsdecode(path) for path in paths], to=to, dry_run=dry_run)

    def reset(self, keep: list[str], lists: list[str], *, default: bool) -> Told:
        return self._call("Reset", keep=keep, lists=lists, default=default)

    def vacuum(self, kinds: list[str]) -> Told:
        return self._call("Vacuum", kinds=kinds)

    def set_keep_list(self, name: str, patterns: list[str]) -> None:
        self._call("SetKeepList", name=name, patterns=patterns)

    def delete_keep_lists(self, names: list[str]) -> None:
        self._call("DeleteKeepLists", names=names)

    def trial(self) -> Told:
        return self._trial("Trial")

    def start_trial(self, mounts: int) -> Told:
        return self._trial("StartTrial", mounts=mounts)

    def confirm(self) -> Told:
        return self._trial("Confirm")

    def abandon_trial(self) -> Told:
        return self._call("AbandonTrial")

    def _trial(self, method: str, **parameters: Any) -> Told:
        state: Told = self._call(method, **parameters)["trial"]
        return state


class _AtRest:
    is_live = False

    def __init__(self, overlay: Overlay) -> None:
        from ..fusefront.control.checkpoints import told, told_return

        self._overlay = overlay
        self._checkpoints = overlay.checkpoints
        self._told, self._told_return = told, told_return

    def create(self, name: str | None, note: str, *, pinned: bool) -> Told:
        return self._told(self._checkpoints.create(name, note, pinned=pinned))

    def delete(self, names: list[str]) -> None:
        self._checkpoints.delete(names)

    def prune(self, ids: list[int]) -> list[Told]:
        return [self._told(checkpoint) for checkpoint in self._checkpoints.prune(set(ids))]

    def rename(self, name: str, new_name: str) -> None:
        self._checkpoints.rename(name, new_name)

    def pin(self, name: str, *, pinned: bool) -> None:
        self._checkpoints.pin(name, pinned=pinned)

    def rollback(self, name: str) -> Told:
        return self._told_return(self._checkpoints.rollback(name))

    def undo(self) -> Told:
        return self._told_return(self._checkpoints.undo())

    def redo(self) -> Told:
        return self._told_return(self._checkpoints.redo())

    def revert(self, paths: list[bytes], *, to: str | None, dry_run: bool) -> Told:
        from ..engine.revert_to import revert_paths
        from ..fusefront.control.checkpoints import told_revert

        return told_revert(revert_paths(self._overlay, paths, to=to, dry_run=dry_run))

    def reset(self, keep: list[str], lists: list[str], *, default: bool) -> Told:
        from ..engine.reset import reset
        from ..fusefront.control.checkpoints import told_reset
        from ..fusefront.control.patterns import Choice

        patterns, used = self._overlay.keep_lists.chosen(keep, lists, default=default)
        return told_reset(reset(self._overlay, Choice(patterns)), used)

    def vacuum(self, kinds: list[str]) -> Told:
        from ..engine.vacuum import Vacuum
        from ..fusefront.control.checkpoints import told_vacuum

        work = Vacuum(self._overlay, tuple(kinds), apply=True)
        work.run()
        return told_vacuum(work)

    def set_keep_list(self, name: str, patterns: list[str]) -> None:
        from ..fusefront.control.patterns import Choice

        Choice(patterns)  # are they some?
        self._overlay.keep_lists.set(name, patterns)

    def delete_keep_lists(self, names: list[str]) -> None:
        self._overlay.keep_lists.delete(names)

    def trial(self) -> Told:
        return self._overlay.trial.state()._asdict()

    def start_trial(self, mounts: int) -> Told:
        self._overlay.trial.start(mounts)
        return self.trial()

    def confirm(self) -> Told:
        return self._overlay.trial.confirm()._asdict()

    def abandon_trial(self) -> Told:
        return self._told_return(self._overlay.trial.abandon())
