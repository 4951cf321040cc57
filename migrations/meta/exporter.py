"""The export of an overlay to a mini_fo storage that shows the same tree, with a list of what that cannot express.

The export builds the storage beside its destination, compares it with the overlay, makes it durable, and then renames
it into place.  A crash leaves no destination, and the next run starts from the beginning.
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
from ..copying import copy_out, set_attributes, xattrs_in
from ..effects import DISK_ACCESS, DiskAccess, Effects
from . import codec
from .codec import META_NAME
from .export_plan import ExportPlan, Item, Loss
from .storage_tree import LegacyTree
from .view import LegacyView, compare

_SUFFIX = ".minifo-export"

Progress = Callable[[str, int, int], None]


@dataclass
class ExportReport:
    """The result of an export.

    Attributes:
        objects: the number of objects in the storage tree.
        metas: the number of META files.
        losses: what the old format cannot express.
        written: False if nothing was written because of losses.
    """

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
    disk: DiskAccess = DISK_ACCESS,
) -> ExportReport:
    """Write an overlay as a mini_fo storage tree.

    Args:
        storage: the overlay's storage; it must not be mounted.
        base: the overlay's base.
        destination: the directory to write; it must be empty or not exist.
        lossy: True to write even if the old format cannot express everything.
        meta_name: the name for META files.
        progress: called from time to time with the name of the step, the number of units done, and their total.
        disk: reads and writes the disk (see ``DiskAccess``).

    Returns:
        The report.  If there are losses and *lossy* is False, nothing was written.

    Raises:
        StateError: the overlay cannot be read, the destination cannot be written, or the result shows another tree.
        UsageError: the destination is not an empty directory.
    """
    destination = os.path.realpath(destination)
    _check_destination(destination)
    effects = disk.effects
    overlay = disk.overlay(base, storage, read_only=True)
    try:
        plan = ExportPlan(overlay, meta_name)
        metas = sum(bool(item.records) for item in plan.items)
        if plan.losses and not lossy:
            return ExportReport(len(plan.items), metas, plan.losses, False)
        work = destination.rstrip("/") + _SUFFIX
        if os.path.isdir(work):
            effects.remove_tree(work)  # left by an interrupted run
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
        """Write all items; attributes of directories come last, because entries change their times."""
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
                copy_out(self._effects, self._ov, item.attr, path)
                self._set_attributes(path, item.attr)
            if not count % 64:
                progress("exporting", count, len(items))
        for path, attr in reversed(directories):
            self._set_attributes(path, attr)
        progress("exporting", len(items), len(items))

    def _meta(self, directory: bytes, item: Item) -> None:
        path = directory + b"/" + self._meta_name
        fd = self._effects.create(path)
        try:
            self._effects.write(fd, codec.emit(item.records), 0)
        finally:
            os.close(fd)
        self._effects.chmod(path, codec.META_MODE)

    def _set_attributes(self, path: bytes, attr: Attr) -> None:
        values = (attr.mode, attr.uid, attr.gid, attr.atime, attr.mtime)
        xattrs = xattrs_in(self._ov, Ino(attr.ino))
        try:
            set_attributes(self._effects, path, values, xattrs)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            set_attributes(self._effects, path, values, None)  # without xattrs, which are on the list of losses


def _verify(overlay: Overlay, work: str, meta_name: bytes, losses: list[Loss]) -> None:
    """Check that mini_fo would show the overlay's tree from the new storage, except for the losses.

    Raises:
        StateError: it would show another tree.
    """
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
            f"the exported storage differs from the overlay in {len(left)} points,"
            f" first: {first.what} of {os.fsdecode(first.place)!r}",
            f"the destination was not written, the result is in {work}; please report this",
        )


def _check_destination(destination: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if os.path.ismount(destination):
            raise UsageError(f"{destination} is a mount point", "give a directory below it")
        if os.listdir(destination):
            raise UsageError(f"{destination} is not empty", "give an empty directory, or one that does not exist")
