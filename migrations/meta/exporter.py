"""Taking an overlay back to mini_fo: a storage tree that shows the same, and a list of what gets lost on the way.

The tree is built beside its destination and renamed into place when it is complete, compared and on disk; a crash
leaves no destination, and the next run starts anew.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from ...engine import Overlay, StateError, UsageError
from ...engine.model import Attr, Ino
from ...engine.store.base_view import BaseView
from ..copying import dress, own_xattrs, write_out
from ..effects import DOORS, Doors, Effects
from . import codec
from .codec import META_NAME
from .export_plan import ExportPlan, Item, Loss
from .storage_tree import LegacyTree
from .view import LegacyView, compare

_SUFFIX = ".minifo-export"

Progress = Callable[[str, int, int], None]


@dataclass
class ExportReport:
    """What an export wrote: the number of objects, of META files, and the losses; ``written`` is False if refused."""

    objects: int
    metas: int
    losses: list[Loss]
    written: bool


def export_storage(
    storage: str,
    base: str,
    destination: str,
    *,
    lossy: bool = False,
    meta_name: bytes = META_NAME,
    progress: Progress = lambda what, done, total: None,
    doors: Doors = DOORS,
) -> ExportReport:
    """Write an overlay as a mini_fo storage tree.

    Args:
        storage: the overlay's storage; not mounted.
        base: its base.
        destination: a directory that is empty or does not exist.
        lossy: write even if something cannot be said in the old format.
        meta_name: the name META files get.
        progress: called now and then.
        doors: the ways to the disk.

    Returns:
        The report; with losses and without *lossy* nothing was written.

    Raises:
        StateError: something cannot be read or written.
    """
    destination = os.path.realpath(destination)
    _check_destination(destination)
    effects = doors.effects
    overlay = doors.overlay(base, storage, read_only=True)
    try:
        plan = ExportPlan(overlay, meta_name)
        metas = sum(bool(item.records) for item in plan.items)
        if plan.losses and not lossy:
            return ExportReport(len(plan.items), metas, plan.losses, False)
        work = destination.rstrip("/") + _SUFFIX
        if os.path.isdir(work):
            effects.remove_tree(work)  # of a run that was cut short
        _Writer(effects, overlay, os.fsencode(work), meta_name).write(plan.items, progress)
        _verify(overlay, work, meta_name, plan.losses)
    finally:
        overlay.close()
    effects.sync_all(work)
    effects.rename(work, destination)
    effects.sync(os.path.dirname(os.path.abspath(destination)))
    return ExportReport(len(plan.items), metas, plan.losses, True)


class _Writer:
    """Writes items below a directory that does not exist yet."""

    def __init__(self, effects: Effects, overlay: Overlay, top: bytes, meta_name: bytes) -> None:
        self._effects = effects
        self._ov = overlay
        self._top = top
        self._meta_name = meta_name

    def write(self, items: list[Item], progress: Progress) -> None:
        directories = []
        for count, item in enumerate(items):
            path = self._top + item.place if item.place != b"/" else self._top
            if item.same is not None:
                self._effects.link(self._top + item.same, path)
            elif stat.S_ISDIR(item.attr.mode):
                self._effects.mkdir(path)
                if item.records:
                    self._meta(path, item)
                directories.append((path, item.attr))
            else:
                write_out(self._effects, self._ov, item.attr, path)
                self._dress(path, item.attr)
            if not count % 64:
                progress("exporting", count, len(items))
        for path, attr in reversed(directories):
            self._dress(path, attr)
        progress("exporting", len(items), len(items))

    def _meta(self, directory: bytes, item: Item) -> None:
        path = directory + b"/" + self._meta_name
        fd = self._effects.create(path)
        try:
            self._effects.write(fd, codec.emit(item.records), 0)
        finally:
            os.close(fd)
        self._effects.chmod(path, codec.META_MODE)

    def _dress(self, path: bytes, attr: Attr) -> None:
        values = (attr.mode, attr.uid, attr.gid, attr.atime, attr.mtime)
        xattrs = own_xattrs(self._ov, Ino(attr.ino))
        try:
            dress(self._effects, path, values, xattrs)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            dress(self._effects, path, values, None)  # they are on the list of losses


def _verify(overlay: Overlay, work: str, meta_name: bytes, losses: list[Loss]) -> None:
    """See that mini_fo would show what the overlay shows, losses aside."""
    view = BaseView(work)
    try:
        tree = LegacyTree(overlay.base, view, meta_name=meta_name)
        found = compare(LegacyView(tree), overlay).differences
    finally:
        view.close()
    lost = {loss.place for loss in losses if loss.kind in ("name", "meta-name", "xattr")}
    left = [difference for difference in found if difference.place not in lost]
    if left:
        first = left[0]
        raise StateError(
            f"the export shows {len(left)} things otherwise, first: {first.what} of {os.fsdecode(first.place)!r}",
            f"nothing was replaced, what was built is in {work}; please report this",
        )


def _check_destination(destination: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if os.path.ismount(destination):
            raise UsageError(f"{destination} is a mount point", "export to a directory in it")
        if os.listdir(destination):
            raise UsageError(f"{destination} is not empty", "give an empty directory, or one that does not exist")
